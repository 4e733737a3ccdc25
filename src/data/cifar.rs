//! CIFAR-10 and CIFAR-100 in the official binary version (Krizhevsky, 2009; cs.toronto.edu/~kriz/cifar.html).

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;

use super::{Image, Source};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// The differences between the two.
struct CifarLayout {
    name: &'static str,
    /// Folder in the official archive, so that its parent may be given as well.
    archive: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    names: &'static str,
    classes: usize,
    /// Bytes before the pixels; the last of them is the label (CIFAR-100: coarse, then fine).
    labels: usize,
    /// Records in each training file and in the test file.
    records: [usize; 2],
}

const CIFAR10: CifarLayout = CifarLayout {
    name: "cifar10",
    archive: "cifar-10-batches-bin",
    train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
    test: "test_batch.bin",
    names: "batches.meta.txt",
    classes: 10,
    labels: 1,
    records: [10_000, 10_000],
};

const CIFAR100: CifarLayout = CifarLayout {
    name: "cifar100",
    archive: "cifar-100-binary",
    train: &["train.bin"],
    test: "test.bin",
    names: "fine_label_names.txt",
    classes: 100,
    labels: 2,
    records: [50_000, 10_000],
};

/// All of CIFAR in memory (184 MB): the training files in their order, then the test file.
pub struct Cifar {
    layout: &'static CifarLayout,
    records: Vec<u8>, // [samples, labels + 3 * 32 * 32], planes R, G, B
    train: usize,
    classes: Vec<String>,
    digest: String,
}

impl Cifar {
    /// # Errors
    /// Missing files, files of another length, labels of 10 or more.
    pub fn cifar10(folder: impl AsRef<Path>) -> Result<Cifar> {
        Cifar::open(&CIFAR10, folder.as_ref())
    }

    /// Labels are the 100 fine ones.
    ///
    /// # Errors
    /// Missing files, files of another length, labels of 100 or more.
    pub fn cifar100(folder: impl AsRef<Path>) -> Result<Cifar> {
        Cifar::open(&CIFAR100, folder.as_ref())
    }

    fn open(layout: &'static CifarLayout, folder: &Path) -> Result<Cifar> {
        fs::read_dir(folder).map_err(Error::io("open the folder", folder))?;
        let folder = match folder.join(layout.archive) {
            unpacked if unpacked.is_dir() => unpacked,
            _ => folder.to_path_buf(),
        };
        let train = layout.train.len() * layout.records[0];
        let mut records = Vec::with_capacity((train + layout.records[1]) * layout.record());
        for file in layout.train {
            read_records(layout, &folder, file, layout.records[0], &mut records)?;
        }
        read_records(layout, &folder, layout.test, layout.records[1], &mut records)?;
        let mut digest = blake3::Hasher::new();
        digest.update(layout.name.as_bytes()).update(&records);
        let digest = digest.finalize().to_hex().to_string();
        Ok(Cifar { layout, records, train, classes: class_names(layout, &folder)?, digest })
    }

    fn record(&self, index: usize) -> &[u8] {
        let size = self.layout.record();
        &self.records[index * size..][..size]
    }
}

impl CifarLayout {
    fn record(&self) -> usize {
        self.labels + 3 * PLANE
    }
}

impl Source for Cifar {
    fn name(&self) -> &str {
        self.layout.name
    }
    fn len(&self) -> usize {
        self.records.len() / self.layout.record()
    }
    fn train_len(&self) -> usize {
        self.train
    }
    fn id(&self, index: usize) -> String {
        match index.checked_sub(self.train) {
            None => format!("train/{index:05}"),
            Some(test) => format!("test/{test:05}"),
        }
    }
    fn label(&self, index: usize) -> Option<u32> {
        Some(self.record(index)[self.layout.labels - 1] as u32)
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn digest(&self) -> &str {
        &self.digest
    }
    fn largest(&self) -> usize {
        3 * PLANE
    }
    fn image(&self, index: usize) -> Result<Image> {
        let (red, rest) = self.record(index)[self.layout.labels..].split_at(PLANE);
        let (green, blue) = rest.split_at(PLANE);
        let pixels = red.iter().zip(green).zip(blue).flat_map(|((r, g), b)| [*r, *g, *b]).collect();
        Ok(Image { height: SIDE, width: SIDE, pixels })
    }
}

/// Append one file's records after checking its length and every label.
fn read_records(layout: &CifarLayout, folder: &Path, file: &str, count: usize, to: &mut Vec<u8>) -> Result<()> {
    let path = folder.join(file);
    let length = fs::metadata(&path).map_err(|e| missing(&path, e))?.len();
    let want = (count * layout.record()) as u64;
    if length != want {
        let what = format!("has {length} bytes where {want} belong ({count} records of {}); fetch the file again", layout.record());
        return Err(Error::format(&path, what));
    }
    let bytes = files::read_whole(&path)?;
    for (at, record) in bytes.chunks(layout.record()).enumerate() {
        let label = record[layout.labels - 1];
        if label as usize >= layout.classes {
            let what = format!("record {at} has label {label}, but {} labels are 0 to {}", layout.name, layout.classes - 1);
            return Err(Error::format(&path, what));
        }
    }
    to.extend_from_slice(&bytes);
    Ok(())
}

/// If the same name without `.bin` exists, the Python version was unpacked, and the error says so.
fn missing(path: &Path, source: std::io::Error) -> Error {
    let python: PathBuf = path.with_extension("");
    if python.is_file() {
        return Error::format(python, "belongs to the Python version of CIFAR; fetch the binary version (*.bin) instead");
    }
    Error::io("read", path)(source)
}

/// The names beside the data, or the label numbers where there is no such file.
fn class_names(layout: &CifarLayout, folder: &Path) -> Result<Vec<String>> {
    let path = folder.join(layout.names);
    if !path.exists() {
        return Ok((0..layout.classes).map(|label| label.to_string()).collect());
    }
    let text = files::read_text(&path)?;
    let names: Vec<String> = text.lines().map(|line| line.trim().to_string()).filter(|line| !line.is_empty()).collect();
    if names.len() != layout.classes {
        return Err(Error::format(&path, format!("has {} class names where {} belong", names.len(), layout.classes)));
    }
    Ok(names)
}
