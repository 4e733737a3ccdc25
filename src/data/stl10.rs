//! STL-10 in its official binary files (Coates et al., 2011). Images stay on disk: with the unlabelled ones they are 3 GB.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;

use super::packed::PixelLayout;
use super::{Image, Source};

const SIDE: usize = 96;
const SAMPLE: usize = 3 * SIDE * SIDE;

/// One plane per colour, in column-major order.
const LAYOUT: PixelLayout = PixelLayout { height: SIDE, width: SIDE, row_step: 1, column_step: SIDE, channel_step: SIDE * SIDE };

const TRAIN: usize = 5_000;
const UNLABELLED: usize = 100_000;
const TEST: usize = 8_000;

/// The classes by the names of the authors' class_names.txt.
const CLASSES: [&str; 10] = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"];

/// Images of one file.
struct Stl10Part {
    name: &'static str,
    path: PathBuf,
    samples: usize,
    labels: Option<Vec<u8>>, // [samples], from 0
}

/// The training part is train_X.bin and, if it exists, unlabeled_X.bin, whose samples have no label.
pub struct Stl10 {
    parts: Vec<Stl10Part>, // the last is the test part
    classes: Vec<String>,
    digest: String,
}

impl Stl10 {
    /// # Errors
    /// Missing files, files of another length, labels other than 1 to 10.
    pub fn open(folder: impl AsRef<Path>) -> Result<Stl10> {
        let folder = folder.as_ref();
        fs::read_dir(folder).map_err(Error::io("open the folder", folder))?;
        let inner = folder.join("stl10_binary");
        let folder = if inner.is_dir() { &inner } else { folder };
        let mut parts = vec![part(folder, "train", TRAIN, true)?];
        if files::exists(folder.join("unlabeled_X.bin"))? {
            parts.push(part(folder, "unlabeled", UNLABELLED, false)?);
        }
        parts.push(part(folder, "test", TEST, true)?);
        let mut digest = blake3::Hasher::new();
        digest.update(b"stl10");
        for Stl10Part { path, labels, .. } in &parts {
            let file = files::open(path)?;
            digest.update(labels.as_deref().unwrap_or_default()).update_reader(file).map_err(Error::io("read", path))?;
        }
        let digest = digest.finalize().to_hex().to_string();
        Ok(Stl10 { parts, classes: CLASSES.map(String::from).into(), digest })
    }

    fn find(&self, index: usize) -> (&Stl10Part, usize) {
        let mut at = index;
        for part in &self.parts {
            if at < part.samples {
                return (part, at);
            }
            at -= part.samples;
        }
        panic!("sample {index} of {}", self.len());
    }
}

fn part(folder: &Path, name: &'static str, samples: usize, labelled: bool) -> Result<Stl10Part> {
    let path = folder.join(format!("{name}_X.bin"));
    check_length(&path, samples, SAMPLE)?;
    let labels = if labelled { Some(labels(&folder.join(format!("{name}_y.bin")), samples)?) } else { None };
    Ok(Stl10Part { name, path, samples, labels })
}

fn check_length(path: &Path, samples: usize, each: usize) -> Result<()> {
    let length = fs::metadata(path).map_err(Error::io("read", path))?.len();
    let want = (samples * each) as u64;
    if length != want {
        return Err(Error::format(
            path,
            format!("has {length} bytes where {want} belong ({samples} records of {each}); fetch the file again"),
        ));
    }
    Ok(())
}

fn labels(path: &Path, samples: usize) -> Result<Vec<u8>> {
    check_length(path, samples, 1)?;
    let bytes = files::read_whole(path)?;
    if let Some(at) = bytes.iter().position(|label| !(1..=10).contains(label)) {
        return Err(Error::format(path, format!("has label {} at sample {at}, but labels are 1 to 10", bytes[at])));
    }
    Ok(bytes.into_iter().map(|label| label - 1).collect())
}

impl Source for Stl10 {
    fn name(&self) -> &str {
        "stl10"
    }
    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.samples).sum()
    }
    fn train_len(&self) -> usize {
        self.len() - TEST
    }
    fn id(&self, index: usize) -> String {
        let (part, at) = self.find(index);
        format!("{}/{at:05}", part.name)
    }
    fn label(&self, index: usize) -> Option<u32> {
        let (part, at) = self.find(index);
        part.labels.as_ref().map(|labels| labels[at] as u32)
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn digest(&self) -> &str {
        &self.digest
    }
    fn largest(&self) -> usize {
        SAMPLE
    }
    fn image(&self, index: usize) -> Result<Image> {
        let (part, at) = self.find(index);
        let mut sample = vec![0; SAMPLE];
        let mut read = || {
            // Each read opens the file, because threads must share no position.
            let mut file = File::open(&part.path)?;
            file.seek(SeekFrom::Start((at * SAMPLE) as u64))?;
            file.read_exact(&mut sample)
        };
        read().map_err(Error::io("read", &part.path))?;
        Ok(LAYOUT.image(&sample))
    }
}
