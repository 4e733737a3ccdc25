//! What the fuzz targets do with any bytes, one function each. A target is only a name for its function, and `tests/fuzzed.rs` sends the
//! corpus and changes of it through the same functions.

use std::cell::LazyCell;
use std::path::{Path, PathBuf};

use sslmem::checkpoint::Checkpoint;
use sslmem::data::{self, OnBadImage, Source};
use tempfile::TempDir;

/// A file of torch.save. What has neither the zip's nor the old format's beginning is taken for the pickled object of one.
pub fn pickle(bytes: &[u8]) {
    let known = bytes.starts_with(b"PK") || bytes.starts_with(b"\x80");
    let begin: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.\x80\x02";
    weights(if known { bytes.to_vec() } else { [begin, bytes].concat() });
}

/// A safetensors file. What does not begin like one is taken for the JSON of its head.
pub fn safetensors(bytes: &[u8]) {
    let length = if bytes.starts_with(b"{") { &(bytes.len() as u64).to_le_bytes()[..] } else { &[] };
    weights([length, bytes].concat());
}

/// What is done with a file of weights: its encoder, and the numbers of its smaller tensors.
fn weights(bytes: Vec<u8>) {
    let file = match Checkpoint::from_bytes(Path::new("x.pt"), bytes) {
        Ok(file) => file,
        Err(error) => return sentence(&error.to_string()),
    };
    for (name, tensor) in file.tensors.iter().filter(|(_, tensor)| tensor.len() < 1 << 16) {
        if let Ok(bytes) = file.bytes(name) {
            assert_eq!(bytes.len(), tensor.len() * tensor.dtype.bytes());
        }
        let _ = file.values(name);
    }
    if let Err(error) = file.identify() {
        sentence(&error.to_string());
    }
}

/// A tar file as a WebDataset, also with the sums of its headers corrected, so that what stands behind them is met as well.
pub fn tar(bytes: &[u8]) {
    images("webdataset", "x.tar", bytes);
    let mut mended = bytes.to_vec();
    for block in mended.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| byte as u32).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    if mended != bytes {
        images("webdataset", "x.tar", &mended);
    }
}

/// A Parquet file with images.
pub fn parquet(bytes: &[u8]) {
    images("parquet", "x.parquet", bytes);
}

/// A pack, also with the digest of its table corrected: the table lies before the last 64 bytes, which begin with its place.
pub fn pack(bytes: &[u8]) {
    images("packed", "x.pack", bytes);
    let mut mended = bytes.to_vec();
    let Some((rest, end)) = mended.split_last_chunk_mut::<64>() else { return };
    let at = u64::from_le_bytes(end[..8].try_into().unwrap_or_default());
    let Some(table) = usize::try_from(at).ok().and_then(|at| rest.get(at..)) else { return };
    end[8..16].copy_from_slice(&(table.len() as u64).to_le_bytes());
    end[16..48].copy_from_slice(blake3::hash(table).as_bytes());
    if mended != bytes {
        images("packed", "x.pack", &mended);
    }
}

/// What is done with a file of images: its length, its largest image, its first images.
fn images(kind: &str, name: &str, bytes: &[u8]) {
    thread_local! {
        static FOLDER: LazyCell<TempDir> = LazyCell::new(|| TempDir::new().expect("a folder for temporary files"));
    }
    let path: PathBuf = FOLDER.with(|folder| folder.path().join(name));
    std::fs::write(&path, bytes).expect("a place for temporary files");
    let source = match open(kind, &path) {
        Ok(source) => source,
        Err(error) => return sentence(&error.to_string()),
    };
    source.largest();
    for index in 0..source.len().min(8) {
        source.id(index);
        source.label(index);
        match source.image(index) {
            Ok(image) => assert_eq!(image.pixels.len(), image.height * image.width * 3),
            Err(error) => sentence(&error.to_string()),
        }
    }
}

/// Without the folder for what can be made again, which would fill with one file for each input.
fn open(kind: &str, path: &Path) -> sslmem::Result<Box<dyn Source>> {
    match kind {
        "webdataset" => Ok(Box::new(data::WebDataset::open(&path.display().to_string(), None)?)),
        _ => data::open(&format!("{kind}:{}", path.display()), OnBadImage::Fail),
    }
}

/// An image file, of which only JPEGs are decoded by code that is young. Its pixels, if it has any.
pub fn jpeg(bytes: &[u8]) -> Option<Vec<u8>> {
    match data::decode(bytes, "x.jpg") {
        Ok(image) => {
            assert_eq!(image.pixels.len(), image.height * image.width * 3);
            Some(image.pixels)
        }
        Err(what) => {
            sentence(&what);
            assert!(!what.contains("cannot bear"), "the decoder panicked");
            None
        }
    }
}

/// An error is one line that says something, whatever the file holds.
fn sentence(text: &str) {
    assert!(!text.is_empty() && !text.contains(['\n', '\0']), "{text:?}");
}
