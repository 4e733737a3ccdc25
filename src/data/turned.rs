//! A data set whose images are turned as their files say.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

use super::{Image, Kind, OnBadImage, Source, decode};

/// What to do with the orientation in an image's EXIF data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exif {
    /// Nothing, as torchvision and Pillow do when they open an image.
    #[default]
    Ignore,
    /// Turn and mirror the image so that it is upright, as Pillow's `exif_transpose` does.
    Turn,
}

impl Exif {
    /// [`open`](super::open) a data set with this done to its images; turned, it has another digest.
    ///
    /// # Errors
    /// As there.
    pub fn open(self, spec: &str, on_bad: OnBadImage) -> Result<Box<dyn Source>> {
        let inner = super::open(spec, on_bad)?;
        Ok(match self {
            Exif::Ignore => inner,
            Exif::Turn => Box::new(Turned::new(inner)),
        })
    }
}

/// A source that turns the images of another. Those that are no files stay as they are.
struct Turned {
    inner: Box<dyn Source>,
    digest: String,
}

impl Turned {
    fn new(inner: Box<dyn Source>) -> Turned {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"exif turn").update(inner.digest().as_bytes());
        Turned { digest: hasher.finalize().to_hex().to_string(), inner }
    }
}

impl Source for Turned {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn len(&self) -> usize {
        self.inner.len()
    }
    fn train_len(&self) -> usize {
        self.inner.train_len()
    }
    fn id(&self, index: usize) -> String {
        self.inner.id(index)
    }
    fn label(&self, index: usize) -> Option<u32> {
        self.inner.label(index)
    }
    fn classes(&self) -> &[String] {
        self.inner.classes()
    }
    fn digest(&self) -> &str {
        &self.digest
    }
    fn largest(&self) -> usize {
        self.inner.largest()
    }
    fn image(&self, index: usize) -> Result<Image> {
        Ok(self.image_and_content(index)?.0)
    }
    fn image_and_content(&self, index: usize) -> Result<(Image, Option<blake3::Hash>)> {
        match self.inner.file(index)? {
            Some(bytes) => {
                let id = self.id(index);
                let turned = decode::decode(&bytes, &id).and_then(|image| decode::turned(image, &bytes, &id));
                Ok((turned.map_err(|what| Error::format(id, what))?, Some(blake3::hash(&bytes))))
            }
            None => self.inner.image_and_content(index),
        }
    }
    fn content(&self, index: usize) -> Result<Option<blake3::Hash>> {
        self.inner.content(index)
    }
    fn file(&self, index: usize) -> Result<Option<Vec<u8>>> {
        self.inner.file(index)
    }
    fn skipped(&self) -> &[(String, String)] {
        self.inner.skipped()
    }
    fn truth(&self, index: usize) -> Option<Kind> {
        self.inner.truth(index)
    }
}
