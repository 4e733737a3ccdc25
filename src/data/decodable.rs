//! A data set without the images that cannot be decoded.

use rayon::prelude::*;

use crate::error::{Error, Result};

use super::{Image, SampleKind, Source};

/// Samples decoded at once in the search for bad ones.
const CHUNK: usize = 1024;

/// The digest of a data set without its bad images: it covers the digest of the whole and the samples kept.
pub fn decodable_digest(whole: &str, keep: &[u32]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(whole.as_bytes());
    for index in keep {
        hasher.update(&index.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// A source without its bad images.
pub struct Decodable {
    inner: Box<dyn Source>,
    keep: Vec<u32>,
    train: usize,
    digest: String,
    largest: usize,
    skipped: Vec<(String, String)>,
}

impl Decodable {
    /// Decodes every image, in parallel. If none is bad, the digest is the source's own.
    ///
    /// # Errors
    /// A file that holds many images cannot be read; no image of the training part can be decoded.
    pub fn new(inner: Box<dyn Source>) -> Result<Decodable> {
        let (mut keep, mut skipped, mut train, mut largest) = (Vec::new(), Vec::new(), 0, 0);
        let all: Vec<usize> = (0..inner.len()).collect();
        for chunk in all.chunks(CHUNK) {
            let sizes: Vec<Result<usize>> = chunk.par_iter().map(|&index| Ok(inner.image(index)?.pixels.len())).collect();
            for (&index, size) in chunk.iter().zip(sizes) {
                match size {
                    Ok(size) => {
                        largest = largest.max(size);
                        train += (index < inner.train_len()) as usize;
                        keep.push(index as u32);
                    }
                    Err(Error::Format { what, .. }) => skipped.push((inner.id(index), what)),
                    Err(error) => return Err(error),
                }
            }
        }
        if train == 0 {
            let what = format!("no image for training can be decoded ({} cannot)", skipped.len());
            return Err(Error::config(what, "look at one with --on-bad-image fail"));
        }
        let mut digest = inner.digest().to_string();
        if !skipped.is_empty() {
            digest = decodable_digest(&digest, &keep);
        }
        Ok(Decodable { inner, keep, train, digest, largest, skipped })
    }

    fn at(&self, index: usize) -> usize {
        self.keep[index] as usize
    }
}

impl Source for Decodable {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn len(&self) -> usize {
        self.keep.len()
    }
    fn train_len(&self) -> usize {
        self.train
    }
    fn id(&self, index: usize) -> String {
        self.inner.id(self.at(index))
    }
    fn label(&self, index: usize) -> Option<u32> {
        self.inner.label(self.at(index))
    }
    fn classes(&self) -> &[String] {
        self.inner.classes()
    }
    fn digest(&self) -> &str {
        &self.digest
    }
    fn largest(&self) -> usize {
        self.largest
    }
    fn image(&self, index: usize) -> Result<Image> {
        self.inner.image(self.at(index))
    }
    fn image_within(&self, index: usize, admit: &mut dyn FnMut(u64) -> bool) -> Result<Option<(Image, Option<blake3::Hash>)>> {
        self.inner.image_within(self.at(index), admit)
    }
    fn content(&self, index: usize) -> Result<Option<blake3::Hash>> {
        self.inner.content(self.at(index))
    }
    fn file(&self, index: usize) -> Result<Option<Vec<u8>>> {
        self.inner.file(self.at(index))
    }
    fn skipped(&self) -> &[(String, String)] {
        &self.skipped
    }
    fn left_out(&self) -> &[(String, String)] {
        self.inner.left_out()
    }
    fn truth(&self, index: usize) -> Option<SampleKind> {
        self.inner.truth(self.at(index))
    }
}
