//! A digest of the content of image files. It is a sum over samples, so that the digests of blocks and shards add up to that of the whole.

use super::Source;
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::io::ErrorKind;

/// The sum of BLAKE3(index, BLAKE3 of the file) over samples, in four lanes of 64 bits. A sample that could not be decoded adds another
/// hash. The sum notices changes, but not deliberate collisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content([u64; 4]);

/// Images that stand for a whole data set when shards are compared.
const SAMPLED: usize = 64;

impl Content {
    pub const BYTES: usize = 32;

    /// The term of a decoded sample; zero if it is no file, because the data set's digest covers it.
    pub fn of(index: u32, file: Option<blake3::Hash>) -> Content {
        let Some(file) = file else { return Content::default() };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&index.to_le_bytes()).update(file.as_bytes());
        Content::from_bytes(hasher.finalize().as_bytes())
    }

    /// The term of a sample that could not be decoded. It differs from that of the same file decoded, so that both outcomes are told apart.
    pub fn left_out(index: u32, file: Option<blake3::Hash>) -> Content {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"left out").update(&index.to_le_bytes());
        if let Some(file) = file {
            hasher.update(file.as_bytes());
        }
        Content::from_bytes(hasher.finalize().as_bytes())
    }

    /// The current digest of these samples and of those left out; `None` if one of the former cannot be read.
    pub fn now(source: &dyn Source, indices: &[u32], left_out: &[u32]) -> Option<Content> {
        let one = |&index: &u32| Some(Content::of(index, source.content(index as usize).ok()?));
        let without: Content = left_out.iter().map(|&index| Content::left_out(index, source.content(index as usize).ok().flatten())).sum();
        indices.par_iter().map(one).try_reduce(Content::default, |a, b| Some(a + b)).map(|content| content + without)
    }

    /// The digest of a few files spread over `indices`; `None` if no sample is a file.
    ///
    /// # Errors
    /// The disk fails.
    pub fn sampled(source: &dyn Source, indices: &[u32]) -> Result<Option<Content>> {
        let few: Vec<u32> = indices.iter().step_by(indices.len().div_ceil(SAMPLED).max(1)).copied().collect();
        // A missing, unreadable or damaged file counts as such, since it looks the same to every shard. A failing disk tells nothing about
        // the data and is an error.
        let one = |&index: &u32| match source.content(index as usize) {
            Ok(content) => Ok(Content::of(index, content)),
            Err(Error::Io { source, .. }) if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                Ok(Content::of(index, None))
            }
            Err(Error::Format { .. }) => Ok(Content::of(index, None)),
            Err(error) => Err(error),
        };
        let sum = few.par_iter().map(one).try_reduce(Content::default, |a, b| Ok(a + b))?;
        Ok((sum != Content::default()).then_some(sum))
    }

    pub fn from_bytes(bytes: &[u8; Content::BYTES]) -> Content {
        Content(std::array::from_fn(|lane| u64::from_le_bytes(std::array::from_fn(|i| bytes[8 * lane + i]))))
    }

    pub fn to_bytes(self) -> [u8; Content::BYTES] {
        std::array::from_fn(|i| self.0[i / 8].to_le_bytes()[i % 8])
    }

    /// Hexadecimal; `None` if no sample is a file.
    pub fn hex(self) -> Option<String> {
        (self != Content::default()).then(|| blake3::Hash::from_bytes(self.to_bytes()).to_hex().to_string())
    }

    /// The inverse of [`Content::hex`]; `None` if the text is no digest.
    pub fn parse(text: Option<&str>) -> Option<Content> {
        let Some(text) = text else { return Some(Content::default()) };
        Some(Content::from_bytes(blake3::Hash::from_hex(text).ok()?.as_bytes()))
    }
}

impl std::ops::Add for Content {
    type Output = Content;
    fn add(self, other: Content) -> Content {
        Content(std::array::from_fn(|lane| self.0[lane].wrapping_add(other.0[lane])))
    }
}

impl std::ops::AddAssign for Content {
    fn add_assign(&mut self, other: Content) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Content {
    fn sum<I: Iterator<Item = Content>>(all: I) -> Content {
        all.fold(Content::default(), |a, b| a + b)
    }
}
