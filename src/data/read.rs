//! Opens a data set whose image files are read with settings ([`Reading`]).

use crate::error::{Error, Result};

use super::decodable::Decodable;
use super::limits::PIXELS;
use super::{Exif, Image, OnBadImage, Reading, SampleKind, Source, decode};

impl Exif {
    /// Opens a data set with this treatment ([`open`](super::open)). `Turn` gives another digest.
    ///
    /// # Errors
    /// As there.
    pub fn open(self, spec: &str, on_bad: OnBadImage) -> Result<Box<dyn Source>> {
        Reading { on_bad, exif: self, max_pixels: PIXELS }.open(spec)
    }
}

impl Reading {
    /// Open a data set by its specification, `NAME:REST`. Only data sets whose images are files can have bad images.
    ///
    /// # Errors
    /// Unknown names (with the nearest known one), missing files, files of another format.
    pub fn open(self, spec: &str) -> Result<Box<dyn Source>> {
        let (dataset, rest) = super::find(spec)?;
        let mut source = (dataset.open)(rest)?;
        if dataset.of_files {
            if self.exif == Exif::Turn || self.max_pixels < PIXELS {
                source = Box::new(Read::new(source, self));
            }
            if self.on_bad == OnBadImage::Skip {
                source = Box::new(Decodable::new(source)?);
            }
        }
        Ok(source)
    }
}

/// A source that decodes the files of another with these settings. Samples that are no files stay unchanged.
struct Read {
    inner: Box<dyn Source>,
    reading: Reading,
    digest: String,
}

impl Read {
    fn new(inner: Box<dyn Source>, reading: Reading) -> Read {
        let mut digest = inner.digest().to_string();
        if reading.exif == Exif::Turn {
            let mut hasher = blake3::Hasher::new();
            hasher.update(b"exif turn").update(digest.as_bytes());
            digest = hasher.finalize().to_hex().to_string();
        }
        Read { inner, reading, digest }
    }
}

impl Source for Read {
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
        Ok(decode::lent(|admit| self.image_within(index, admit))?.0)
    }
    fn image_within(&self, index: usize, admit: &mut dyn FnMut(u64) -> bool) -> Result<Option<(Image, Option<blake3::Hash>)>> {
        let Some(bytes) = self.inner.file(index)? else { return self.inner.image_within(index, admit) };
        let id = self.id(index);
        let image = decode::decode_within(&bytes, &id, self.reading, admit);
        let image = image.map_err(|what| Error::format(&id, what))?;
        Ok(image.map(|image| (image, Some(blake3::hash(&bytes)))))
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
    fn left_out(&self) -> &[(String, String)] {
        self.inner.left_out()
    }
    fn truth(&self, index: usize) -> Option<SampleKind> {
        self.inner.truth(index)
    }
}
