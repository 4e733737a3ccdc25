//! A piece of a file that holds one encoded image.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::PathBuf;

use rayon::prelude::*;

use crate::error::{Error, Result, plain};

use super::Image;
use super::budget::reserve;
use super::decode;
use super::limits::LIMIT;
use super::reading::Reading;
use super::tar;

/// Leading bytes of a file that contain nearly every image's header.
const HEAD: u64 = 64 << 10;

/// `length` bytes of a file from `offset` on.
#[derive(Clone, Debug)]
pub struct Section {
    pub path: PathBuf,
    pub offset: u64,
    pub length: u64,
    kind: SectionKind,
}

/// The check that is repeated at each read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum SectionKind {
    /// A part of a file.
    Part,
    /// All of the file: its length.
    Whole,
    /// A member of a tar file: the checksum of its header ([`tar::check`]).
    Member(u64),
}

impl Section {
    pub fn new(path: impl Into<PathBuf>, offset: u64, length: u64) -> Section {
        Section { path: path.into(), offset, length, kind: SectionKind::Part }
    }

    /// A whole file of `length` bytes.
    pub fn whole(path: impl Into<PathBuf>, length: u64) -> Section {
        Section { path: path.into(), offset: 0, length, kind: SectionKind::Whole }
    }

    /// A member of a tar file, from its first byte on.
    pub fn member(path: impl Into<PathBuf>, offset: u64, length: u64, check: u64) -> Section {
        Section { path: path.into(), offset, length, kind: SectionKind::Member(check) }
    }

    /// Checks that it can be read and has not changed, as far as length or header show.
    pub fn is_there(&self) -> bool {
        self.bytes(0).is_ok()
    }

    /// Its bytes, unless they are too many for an image.
    pub fn read(&self) -> Result<Vec<u8>> {
        self.beginning(self.length)
    }

    /// Its bytes without a limit. The length must have been compared with the file's.
    pub fn unlimited(&self) -> Result<Vec<u8>> {
        self.bytes(self.length)
    }

    /// The decoded image. The ending of `name` gives the format if the content does not.
    pub fn image(&self, name: &str) -> Result<Image> {
        self.decoded_from(&self.read()?, name)
    }

    fn decoded_from(&self, bytes: &[u8], name: &str) -> Result<Image> {
        decode::decode(bytes, name).map_err(|what| Error::format(&self.path, self.whose(name, what)))
    }

    /// The image and the BLAKE3 of its bytes, if `admit` says that there is memory to decode it.
    pub fn image_within(&self, name: &str, admit: &mut dyn FnMut(u64) -> bool) -> Result<Option<(Image, Option<blake3::Hash>)>> {
        let bytes = self.read()?;
        let image = decode::decode_within(&bytes, name, Reading::USUAL, admit);
        let image = image.map_err(|what| Error::format(&self.path, self.whose(name, what)))?;
        Ok(image.map(|image| (image, Some(blake3::hash(&bytes)))))
    }

    /// In a file of many images the error names the image as well.
    fn whose(&self, name: &str, what: String) -> String {
        if self.kind == SectionKind::Whole { what } else { format!("{name}: {what}") }
    }

    /// Bytes of the decoded image by its header; 0 if that cannot be read, which is an error when it is decoded.
    fn decoded(&self, name: &str) -> usize {
        for part in [HEAD.min(self.length), self.length] {
            if let Ok((height, width)) = self.beginning(part).map_err(drop).and_then(|bytes| decode::size(&bytes, name).map_err(drop)) {
                return height * width * 3;
            }
        }
        0
    }

    fn beginning(&self, part: u64) -> Result<Vec<u8>> {
        if self.length > LIMIT {
            let what = format!("has {} bytes, more than the {} MiB that an image may have", self.length, LIMIT >> 20);
            return Err(Error::format(&self.path, what));
        }
        self.bytes(part)
    }

    fn bytes(&self, part: u64) -> Result<Vec<u8>> {
        // Each read opens the file: threads share no position, and many shards need few handles. Positioned reads of a shared handle are
        // not in the standard library for every system, and mapped memory would need `unsafe`.
        let mut file = File::open(&self.path).map_err(|error| self.unreadable(error))?;
        let now = file.metadata().map_err(Error::io("read", &self.path))?.len();
        if self.kind == SectionKind::Whole && now != self.length {
            return Err(Error::format(&self.path, "the file was exchanged while it was in use"));
        }
        if now < self.offset.saturating_add(part) {
            return Err(self.changed());
        }
        let mut bytes = vec![];
        let Some(()) = reserve(&mut bytes, part as usize) else {
            return Err(Error::format(
                &self.path,
                format!("reading it needs {} MiB of memory, which cannot be had", part.div_ceil(1 << 20)),
            ));
        };
        bytes.resize(part as usize, 0);
        let mut read = || {
            if let SectionKind::Member(check) = self.kind {
                let mut header = [0; tar::BLOCK as usize];
                file.seek(SeekFrom::Start(self.offset - tar::BLOCK))?;
                file.read_exact(&mut header)?;
                if tar::check(&header) != check {
                    return Ok(false);
                }
            } else {
                file.seek(SeekFrom::Start(self.offset))?;
            }
            file.read_exact(&mut bytes).map(|()| true)
        };
        if read().map_err(Error::io("read", &self.path))? { Ok(bytes) } else { Err(self.changed()) }
    }

    /// A missing or unreadable file of one image is one bad image, like a damaged one. A file of many images is an error of the data set.
    fn unreadable(&self, error: std::io::Error) -> Error {
        let of_one = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::NotADirectory);
        match self.kind {
            SectionKind::Whole if of_one => Error::format(&self.path, format!("the file cannot be read: {}", plain(&error))),
            _ => Error::io("read", &self.path)(error),
        }
    }

    /// The file was exchanged, so none of its images can be trusted.
    fn changed(&self) -> Error {
        let what = "it was changed after it was looked through; start the same command again, with --force where it had begun to write";
        Error::io("read", &self.path)(std::io::Error::other(what))
    }
}

/// Bytes of the largest decoded image of `samples`; `at` gives the section and name of a sample.
pub fn largest(samples: usize, at: impl Fn(usize) -> (Section, String) + Sync) -> usize {
    let each = (0..samples).into_par_iter().map(|index| {
        let (section, name) = at(index);
        section.decoded(&name)
    });
    each.max().unwrap_or(0)
}

/// The digest of a source whose files are not read on opening. It covers each sample's id, length in bytes and label, the class names and
/// the start of the test part.
pub fn digest<'a>(kind: &str, train: usize, classes: &[String], samples: impl Iterator<Item = (&'a str, u64, Option<u32>)>) -> String {
    let mut digest = blake3::Hasher::new();
    let text = |digest: &mut blake3::Hasher, text: &str| {
        digest.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    };
    text(&mut digest, kind);
    for (id, length, label) in samples {
        text(&mut digest, id);
        digest.update(&length.to_le_bytes()).update(&label.map_or(-1, i64::from).to_le_bytes());
    }
    digest.update(&(train as u64).to_le_bytes());
    classes.iter().for_each(|class| text(&mut digest, class));
    digest.finalize().to_hex().to_string()
}
