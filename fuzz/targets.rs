//! What the fuzz targets do with any bytes, one function each. A target is only a name for its function, and `tests/fuzzed.rs` sends the
//! corpus and changes of it through the same functions.

use std::cell::LazyCell;
use std::path::{Path, PathBuf};

use sslmem::checkpoint::Checkpoint;
use sslmem::config::Layers;
use sslmem::data::{self, OnBadImage, Source};
use sslmem::split::Split;
use sslmem::table;
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
    source("webdataset", "x.tar", bytes);
    let mut mended = bytes.to_vec();
    for block in mended.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| byte as u32).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    if mended != bytes {
        source("webdataset", "x.tar", &mended);
    }
}

/// A Parquet file with images.
pub fn parquet(bytes: &[u8]) {
    source("parquet", "x.parquet", bytes);
}

/// A pack, also with the digest of its table corrected: the table lies before the last 64 bytes, which begin with its place.
pub fn pack(bytes: &[u8]) {
    source("packed", "x.pack", bytes);
    let mut mended = bytes.to_vec();
    let Some((rest, end)) = mended.split_last_chunk_mut::<64>() else { return };
    let at = u64::from_le_bytes(end[..8].try_into().unwrap_or_default());
    let Some(table) = usize::try_from(at).ok().and_then(|at| rest.get(at..)) else { return };
    end[8..16].copy_from_slice(&(table.len() as u64).to_le_bytes());
    end[16..48].copy_from_slice(blake3::hash(table).as_bytes());
    if mended != bytes {
        source("packed", "x.pack", &mended);
    }
}

/// A folder of up to eight images, each behind its length (two bytes, the low one first): the bad ones are left out, and the others are
/// decoded again.
pub fn images(bytes: &[u8]) {
    let folder = TempDir::new().expect("a folder for temporary files");
    let mut rest = bytes;
    for number in 0..8 {
        let Some((length, behind)) = rest.split_first_chunk::<2>() else { break };
        let (file, behind) = behind.split_at(behind.len().min(u16::from_le_bytes(*length).into()));
        std::fs::write(folder.path().join(format!("{number}.png")), file).expect("a place for temporary files");
        rest = behind;
    }
    match data::open(&format!("folder:{}", folder.path().display()), OnBadImage::Skip) {
        Ok(source) => {
            source.skipped().iter().for_each(|(_, what)| sentence(what));
            for index in 0..source.len() {
                let image = source.image(index).expect("it was decoded before");
                assert_eq!(image.pixels.len(), image.height * image.width * 3);
            }
        }
        Err(error) => sentence(&error.to_string()),
    }
}

/// A split.json.
pub fn split(bytes: &[u8]) {
    told(Split::read(written("split.json", bytes)));
}

/// A recipe.
pub fn recipe(bytes: &[u8]) {
    let layers = Layers::presets::<&str>(&[]).expect("there is a default");
    told(layers.file(&written("recipe.toml", bytes)).and_then(Layers::resolve));
}

/// A score table.
pub fn csv(bytes: &[u8]) {
    told(table::read(written("table.csv", bytes)));
}

/// MATLAB's files, as SVHN's are.
pub fn mat(bytes: &[u8]) {
    let train = written("train_32x32.mat", bytes);
    written("test_32x32.mat", bytes);
    let folder = train.parent().expect("a file lies in a folder");
    if let Some(source) = told(data::open(&format!("svhn:{}", folder.display()), OnBadImage::Fail)) {
        (0..source.len().min(8)).for_each(|index| drop(source.image(index)));
    }
}

/// An image file of a kind that its name says and the code of others decodes. That may panic, which is one bad image.
fn image(bytes: &[u8], name: &str) {
    match data::decode(bytes, name) {
        Ok(image) => assert_eq!(image.pixels.len(), image.height * image.width * 3),
        Err(what) => sentence(&what),
    }
}

pub fn gif(bytes: &[u8]) {
    image(bytes, "x.gif");
}

pub fn webp(bytes: &[u8]) {
    image(bytes, "x.webp");
}

pub fn tiff(bytes: &[u8]) {
    image(bytes, "x.tiff");
}

/// The value, if there is one; else a sentence.
fn told<T>(outcome: sslmem::Result<T>) -> Option<T> {
    outcome.map_err(|error| sentence(&error.to_string())).ok()
}

/// A file of these bytes.
fn written(name: &str, bytes: &[u8]) -> PathBuf {
    thread_local! {
        static FOLDER: LazyCell<TempDir> = LazyCell::new(|| TempDir::new().expect("a folder for temporary files"));
    }
    let path: PathBuf = FOLDER.with(|folder| folder.path().join(name));
    std::fs::write(&path, bytes).expect("a place for temporary files");
    path
}

/// What is done with a file of images: its length, its largest image, its first images.
fn source(kind: &str, name: &str, bytes: &[u8]) {
    let Some(source) = told(open(kind, &written(name, bytes))) else { return };
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
