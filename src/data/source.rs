//! What a data set is to everything else.

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// One decoded image: 8-bit RGB, channels last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub height: usize,
    pub width: usize,
    pub pixels: Vec<u8>, // [height, width, 3]
}

/// How usual a sample is, where that was planted and therefore known.
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

/// How many classes the labels range over: as many as have names, or one more than the largest label where that is more.
pub fn class_count(source: &dyn Source) -> usize {
    let largest = (0..source.len()).filter_map(|i| source.label(i)).max();
    source.classes().len().max(largest.map_or(0, |label| label as usize + 1))
}

/// A data set: the training part first, then the test part, in one index space.
pub trait Source: Send + Sync {
    /// What it is, without where it lies: a name of [`DATASETS`](super::DATASETS) such as `cifar10`.
    fn name(&self) -> &str {
        "data"
    }
    /// How many samples there are, both parts together.
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// How many of them, from the first on, are the training part; the rest is the test part.
    fn train_len(&self) -> usize;
    /// A name that stays the same wherever the data lies: `train/00042`, `test/00007`, a relative path.
    fn id(&self, index: usize) -> String;
    fn label(&self, index: usize) -> Option<u32>;
    fn classes(&self) -> &[String];
    /// BLAKE3, hexadecimal: two sources with the same digest have the same samples in the same order. Where images are files of their
    /// own it covers ids, lengths in bytes and labels, so that nothing has to be read for it; elsewhere the content.
    fn digest(&self) -> &str;
    /// Bytes of the largest decoded image (height * width * 3): what a batch buffer must have room for. The first call may have to
    /// read the beginning of every file; no image has more than [`LIMIT`](super::LIMIT).
    fn largest(&self) -> usize;
    /// Decode one sample. Safe to call from many threads at once.
    ///
    /// # Errors
    /// The sample cannot be read or decoded.
    ///
    /// # Panics
    /// There is no sample `index`.
    fn image(&self, index: usize) -> Result<Image>;
    /// [`Source::image`] if `admit` says that so many bytes of memory are to be had, and the BLAKE3 of the file that it was decoded from, where
    /// the sample is one.
    fn image_within(&self, index: usize, _admit: &mut dyn FnMut(u64) -> bool) -> Result<Option<(Image, Option<blake3::Hash>)>> {
        self.image(index).map(|image| Some((image, None)))
    }
    /// The BLAKE3 that [`Source::image_within`] would give, without decoding.
    fn content(&self, index: usize) -> Result<Option<blake3::Hash>> {
        Ok(self.file(index)?.map(|bytes| blake3::hash(&bytes)))
    }
    /// The sample's image file as it is stored, where it is one.
    fn file(&self, _index: usize) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
    /// Samples left out because they could not be decoded: (path, reason). Empty unless skipping was asked for.
    fn skipped(&self) -> &[(String, String)] {
        &[]
    }
    /// What lies with the samples and is none of them, and what of the metadata could not be understood: (name, reason). Known when the data
    /// set is opened, and the same for everyone who opens it.
    fn left_out(&self) -> &[(String, String)] {
        &[]
    }
    /// The planted truth about a sample; `None` for real data, about which nobody knows it.
    fn truth(&self, _index: usize) -> Option<SampleKind> {
        None
    }
}
