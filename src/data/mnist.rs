//! MNIST in its IDX files (LeCun et al., 1998), plain or gzipped; Fashion-MNIST and KMNIST have the same files.

use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};
use crate::files;

use super::packed::{Packed, PackedPart, PixelLayout};

const SIDE: usize = 28;

const LAYOUT: PixelLayout = PixelLayout { height: SIDE, width: SIDE, row_step: SIDE, column_step: 1, channel_step: 0 };

/// The whole set in memory (55 MB); grey is repeated to three equal channels.
///
/// # Errors
/// Missing files, files that are no IDX files of 28 x 28 images and of labels, labels of 10 or more.
pub fn open(folder: &str) -> Result<Packed> {
    let folder = Path::new(folder);
    fs::read_dir(folder).map_err(Error::io("open the folder", folder))?;
    // The folder of torchvision below its root.
    let inner = folder.join("MNIST/raw");
    let folder = if inner.is_dir() { &inner } else { folder };
    let parts = vec![part(folder, "train", "train")?, part(folder, "t10k", "test")?];
    Ok(Packed::new("mnist", LAYOUT, parts, (0..10).map(|digit| digit.to_string()).collect()))
}

fn part(folder: &Path, file: &str, name: &'static str) -> Result<PackedPart> {
    let (images, pixels) = idx(find(folder, &format!("{file}-images"), 3)?, &[SIDE, SIDE])?;
    let (path, labels) = idx(find(folder, &format!("{file}-labels"), 1)?, &[])?;
    let samples = pixels.len() / (SIDE * SIDE);
    if labels.len() != samples {
        return Err(Error::format(path, format!("has {} labels, but {} has {samples} images", labels.len(), images.display())));
    }
    if let Some(at) = labels.iter().position(|&label| label > 9) {
        return Err(Error::format(path, format!("has label {} at sample {at}, but labels are 0 to 9", labels[at])));
    }
    Ok(PackedPart { name, pixels, labels })
}

/// The file under one of its usual names.
fn find(folder: &Path, stem: &str, rank: usize) -> Result<PathBuf> {
    let spellings = [format!("{stem}-idx{rank}-ubyte"), format!("{stem}.idx{rank}-ubyte")];
    let candidates = spellings.iter().flat_map(|name| [folder.join(name), folder.join(format!("{name}.gz"))]);
    let first = folder.join(&spellings[0]);
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        Error::config(
            format!("cannot read {} (or {}.gz): no such file", first.display(), spellings[0]),
            "download it with `sslmem fetch mnist`, or name its folder",
        )
    })
}

/// The bytes of a file whose items have shape `item`.
fn idx(path: PathBuf, item: &[usize]) -> Result<(PathBuf, Vec<u8>)> {
    let file = files::open(&path)?;
    let packed = path.extension().is_some_and(|ending| ending == "gz");
    let mut reader: Box<dyn Read> =
        if packed { Box::new(MultiGzDecoder::new(BufReader::new(file))) } else { Box::new(BufReader::new(file)) };
    let cut = |e: std::io::Error| Error::format(&path, format!("is cut short or damaged ({e}); fetch it again"));
    let mut word = || {
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes).map(|()| u32::from_be_bytes(bytes) as usize).map_err(cut)
    };
    let magic = 0x800 + 1 + item.len();
    let found = word()?;
    if found != magic {
        let what = format!("begins with {found:#010x}, where an IDX file of {}-dimensional bytes has {magic:#010x}", 1 + item.len());
        return Err(Error::format(&path, what));
    }
    let count = word()?;
    for &want in item {
        let have = word()?;
        if have != want {
            return Err(Error::format(&path, format!("has images with a side of {have} pixels; {want} belong")));
        }
    }
    let want = count as u64 * item.iter().product::<usize>() as u64;
    // Memory grows with the actual content, and reading stops one byte after the announced size.
    let mut bytes = vec![];
    reader.take(want + 1).read_to_end(&mut bytes).map_err(cut)?;
    if bytes.len() as u64 != want || count == 0 {
        let relation = if bytes.len() as u64 > want { "more" } else { "fewer" };
        return Err(Error::format(&path, format!("announces {count} items but holds {relation}; fetch it again")));
    }
    Ok((path, bytes))
}
