//! The trait of data sets.

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// One decoded image: 8-bit RGB, channels last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub height: usize,
    pub width: usize,
    pub pixels: Vec<u8>, // [height, width, 3]
}

/// How common a sample is, in data sets where that was planted and is therefore known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleKind {
    /// One of its class's many.
    Common,
    /// One of its class's small sub-population.
    Rare,
    /// One of a kind.
    Atypical,
}

impl SampleKind {
    pub fn name(self) -> &'static str {
        match self {
            SampleKind::Common => "common",
            SampleKind::Rare => "rare",
            SampleKind::Atypical => "atypical",
        }
    }
}

/// The number of classes: the number of class names, or one more than the largest label if that is more.
pub fn class_count(source: &dyn Source) -> usize {
    let largest = (0..source.len()).filter_map(|i| source.label(i)).max();
    source.classes().len().max(largest.map_or(0, |label| label as usize + 1))
}

/// A data set: the training part first, then the test part, in one index space.
pub trait Source: Send + Sync {
    /// Its kind without its path: a name of [`DATASETS`](super::DATASETS) such as `cifar10`.
    fn name(&self) -> &str {
        "data"
    }
    /// Number of samples, both parts together.
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Number of samples in the training part, which comes first; the rest is the test part.
    fn train_len(&self) -> usize;
    /// A name that does not depend on the data's location: `train/00042`, `test/00007`, a relative path.
    fn id(&self, index: usize) -> String;
    fn label(&self, index: usize) -> Option<u32>;
    fn classes(&self) -> &[String];
    /// BLAKE3, hexadecimal. Sources with the same digest have the same samples in the same order. If images are files of their own it
    /// covers ids, lengths in bytes and labels, so that opening reads no image; else the content.
    fn digest(&self) -> &str;
    /// Bytes of the largest decoded image (height * width * 3), at most [`LIMIT`](super::LIMIT). The first call may read the header of
    /// every file.
    fn largest(&self) -> usize;
    /// Decode one sample. Safe to call from many threads at once.
    ///
    /// # Errors
    /// The sample cannot be read or decoded.
    ///
    /// # Panics
    /// There is no sample `index`.
    fn image(&self, index: usize) -> Result<Image>;
    /// [`Source::image`] if `admit` grants the bytes of memory that it needs, and the BLAKE3 of its file (`None` if the sample is no file).
    fn image_within(&self, index: usize, _admit: &mut dyn FnMut(u64) -> bool) -> Result<Option<(Image, Option<blake3::Hash>)>> {
        self.image(index).map(|image| Some((image, None)))
    }
    /// The BLAKE3 of [`Source::image_within`], without decoding.
    fn content(&self, index: usize) -> Result<Option<blake3::Hash>> {
        Ok(self.file(index)?.map(|bytes| blake3::hash(&bytes)))
    }
    /// The sample's image file as stored; `None` if the sample is no file.
    fn file(&self, _index: usize) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
    /// Samples left out because they could not be decoded: (path, reason). Empty unless skipping was asked for.
    fn skipped(&self) -> &[(String, String)] {
        &[]
    }
    /// Entries that give no sample, and metadata that cannot be read: (name, reason). Complete when the data set is open, and the same for
    /// every process.
    fn left_out(&self) -> &[(String, String)] {
        &[]
    }
    /// The planted kind of a sample; `None` for real data, where it is unknown.
    fn truth(&self, _index: usize) -> Option<SampleKind> {
        None
    }
}
