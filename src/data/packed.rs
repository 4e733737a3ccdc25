//! Samples of one size in memory, for SVHN and MNIST.

use crate::error::Result;

use super::{Image, Source};

/// Where a pixel lies inside a sample's bytes: element (row, column, channel) is at `row * row_step + ...`.
#[derive(Clone, Copy)]
pub struct PixelLayout {
    pub height: usize,
    pub width: usize,
    pub row_step: usize,
    pub column_step: usize,
    /// 0 for grey, which is repeated.
    pub channel_step: usize,
}

impl PixelLayout {
    /// The sample as an image.
    pub fn image(&self, sample: &[u8]) -> Image {
        let mut pixels = Vec::with_capacity(self.height * self.width * 3);
        for row in 0..self.height {
            for column in 0..self.width {
                let at = row * self.row_step + column * self.column_step;
                pixels.extend([0, 1, 2].map(|channel| sample[at + channel * self.channel_step]));
            }
        }
        Image { height: self.height, width: self.width, pixels }
    }
}

/// One file's or pair of files' samples.
pub struct PackedPart {
    /// Prefix of the ids.
    pub name: &'static str,
    pub pixels: Vec<u8>, // [samples, bytes of one]
    pub labels: Vec<u8>, // [samples], from 0
}

/// The parts of a data set; the last is the test part.
pub struct Packed {
    name: &'static str,
    layout: PixelLayout,
    parts: Vec<PackedPart>,
    classes: Vec<String>,
    digest: String,
}

impl Packed {
    pub fn new(name: &'static str, layout: PixelLayout, parts: Vec<PackedPart>, classes: Vec<String>) -> Packed {
        let mut digest = blake3::Hasher::new();
        digest.update(name.as_bytes());
        for part in &parts {
            digest.update(part.name.as_bytes()).update(&part.labels).update(&part.pixels);
        }
        Packed { name, layout, parts, classes, digest: digest.finalize().to_hex().to_string() }
    }

    /// The part of a sample, and its number there.
    fn find(&self, index: usize) -> (&PackedPart, usize) {
        let mut at = index;
        for part in &self.parts {
            if at < part.labels.len() {
                return (part, at);
            }
            at -= part.labels.len();
        }
        panic!("sample {index} of {}", self.len());
    }
}

impl Source for Packed {
    fn name(&self) -> &str {
        self.name
    }
    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.labels.len()).sum()
    }
    fn train_len(&self) -> usize {
        self.len() - self.parts.last().map_or(0, |test| test.labels.len())
    }
    fn id(&self, index: usize) -> String {
        let (part, at) = self.find(index);
        format!("{}/{at:05}", part.name)
    }
    fn label(&self, index: usize) -> Option<u32> {
        let (part, at) = self.find(index);
        Some(part.labels[at] as u32)
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn digest(&self) -> &str {
        &self.digest
    }
    fn largest(&self) -> usize {
        self.layout.height * self.layout.width * 3
    }
    fn image(&self, index: usize) -> Result<Image> {
        let (part, at) = self.find(index);
        let size = part.pixels.len() / part.labels.len();
        Ok(self.layout.image(&part.pixels[at * size..][..size]))
    }
}
