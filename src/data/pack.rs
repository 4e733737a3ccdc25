//! One file with all images of a data set, to be read in any order: decoded and resized once, or as the original image files.
//!
//! ```text
//! MAGIC
//! records, one after the other: 8-bit RGB [height, width, 3], or the image file
//! table:   length of the description (u32), the description (JSON), then for each sample
//!          offset u64, length u64, height u32, width u32, label i64 (-1: none), BLAKE3 of the record (8 bytes), length of the id u32, id
//! end:     offset and length of the table (u64 each), BLAKE3 of the table, MAGIC
//! ```
//!
//! Numbers are little-endian. The table is at the end so that the file can be written in one pass.

use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::{self, Writer};
use crate::progress::Progress;

use super::decode;
use super::labels::Label;
use super::limits::LIMIT;
use super::reading::Reading;
use super::section::Section;
use super::{Image, Source};

/// Its last number is the version of the format.
const MAGIC: &[u8; 16] = b"sslmem pack v1\r\n";
const END: u64 = 8 + 8 + 32 + 16;
/// Bytes of a table entry without its id.
const ROW: usize = 44;
/// Bytes of a record's checksum.
const CHECK: usize = 8;
/// Samples decoded at once before they are written.
const CHUNK: usize = 128;

#[derive(Serialize, Deserialize)]
struct Description {
    /// Name and digest of the data set that was packed.
    source: String,
    digest: String,
    classes: Vec<String>,
    samples: usize,
    train: usize,
    /// Short side of the images in pixels; `None` if the records are image files.
    side: Option<usize>,
}

/// Each image is one `read` at the table's offset, compared with its checksum. Mapping the file would save a copy but needs `unsafe`:
/// truncating a mapped file ends the process.
pub struct Pack {
    path: PathBuf,
    rows: Vec<Row>,
    about: Description,
    digest: String,
    largest: usize,
}

struct Row {
    id: String,
    offset: u64,
    length: u64,
    size: (u32, u32), // height, width
    label: Option<u32>,
    check: [u8; CHECK],
}

impl Pack {
    /// Reads the table; the digest is the table's, which holds a checksum of every record.
    ///
    /// # Errors
    /// Files that are no pack, of another version, truncated or damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Pack> {
        let path = path.as_ref();
        let length = files::open(path)?.metadata().map_err(Error::io("read", path))?.len();
        let wrong = |what: &str| Error::format(path, what);
        let least = MAGIC.len() as u64 + END;
        if length < least {
            return Err(wrong("this is no pack, or it is cut short; make it again with `sslmem pack`"));
        }
        let part = |offset, length| Section::new(path, offset, length).unlimited();
        if part(0, MAGIC.len() as u64)? != MAGIC {
            return Err(wrong("this is no pack of this version; make it again with `sslmem pack`"));
        }
        let end = part(length - END, END)?;
        if &end[48..] != MAGIC {
            return Err(wrong("the pack is cut short; make it again with `sslmem pack`"));
        }
        let mut bytes = Bytes(&end);
        let (at, size) = (bytes.number().unwrap_or(0), bytes.number().unwrap_or(0));
        if at < MAGIC.len() as u64 || at.checked_add(size) != Some(length - END) {
            return Err(wrong("the pack is damaged: its table lies outside the file"));
        }
        let table = part(at, size)?;
        let digest = blake3::hash(&table);
        if digest.as_bytes() != &end[16..48] {
            return Err(wrong("the pack is damaged: its table does not have the checksum that was written"));
        }
        let (about, rows) = parse(&table, at).ok_or_else(|| wrong("the pack is damaged: its table cannot be read"))?;
        let largest = rows.iter().map(|row| row.size.0 as usize * row.size.1 as usize * 3).max().unwrap_or(0);
        Ok(Pack { path: path.to_path_buf(), rows, about, digest: digest.to_hex().to_string(), largest })
    }

    fn record(&self, index: usize) -> Result<Vec<u8>> {
        let Row { id, offset, length, check, .. } = &self.rows[index];
        let bytes = Section::new(&self.path, *offset, *length).read()?;
        if &blake3::hash(&bytes).as_bytes()[..CHECK] != check {
            return Err(Error::format(&self.path, format!("{id}: the record is damaged; make the pack again")));
        }
        Ok(bytes)
    }
}

/// Parses the table. Entries that do not fit into records ending at `end` are an error.
fn parse(table: &[u8], end: u64) -> Option<(Description, Vec<Row>)> {
    let mut bytes = Bytes(table);
    let length = bytes.short()? as usize;
    let about: Description = serde_json::from_slice(bytes.take(length)?).ok()?;
    if about.samples > table.len() / ROW || about.train > about.samples || about.samples == 0 {
        return None;
    }
    let mut rows = Vec::with_capacity(about.samples);
    for _ in 0..about.samples {
        let (offset, length) = (bytes.number()?, bytes.number()?);
        let size = (bytes.short()?, bytes.short()?);
        let label = match Label::whole(bytes.number()? as i64).ok()? {
            Some(Label::Number(number)) => Some(number),
            _ => None,
        };
        let check = bytes.take(CHECK)?.try_into().ok()?;
        let id = bytes.short()? as usize;
        let id = String::from_utf8(bytes.take(id)?.to_vec()).ok()?;
        let pixels = u64::from(size.0).checked_mul(u64::from(size.1))?.checked_mul(3).filter(|&n| (1..=LIMIT).contains(&n))?;
        let inside = offset >= MAGIC.len() as u64 && offset.checked_add(length)? <= end;
        if !inside || about.side.is_some() && pixels != length {
            return None;
        }
        rows.push(Row { id, offset, length, size, label, check });
    }
    bytes.0.is_empty().then_some((about, rows))
}

/// Takes little-endian numbers from the front of a slice.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(front)
    }
    fn short(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

impl Source for Pack {
    fn name(&self) -> &str {
        "packed"
    }
    fn len(&self) -> usize {
        self.rows.len()
    }
    fn train_len(&self) -> usize {
        self.about.train
    }
    fn id(&self, index: usize) -> String {
        self.rows[index].id.clone()
    }
    fn label(&self, index: usize) -> Option<u32> {
        self.rows[index].label
    }
    fn classes(&self) -> &[String] {
        &self.about.classes
    }
    fn digest(&self) -> &str {
        &self.digest
    }
    fn largest(&self) -> usize {
        self.largest
    }
    fn image(&self, index: usize) -> Result<Image> {
        Ok(decode::lent(|admit| self.image_within(index, admit))?.0)
    }
    fn image_within(&self, index: usize, admit: &mut dyn FnMut(u64) -> bool) -> Result<Option<(Image, Option<blake3::Hash>)>> {
        let Row { id, size: (height, width), .. } = &self.rows[index];
        let (height, width) = (*height as usize, *width as usize);
        if self.about.side.is_some() && !admit((height * width * 3) as u64) {
            return Ok(None);
        }
        let bytes = self.record(index)?;
        if self.about.side.is_some() {
            return Ok(Some((Image { height, width, pixels: bytes }, None)));
        }
        let image =
            decode::decode_within(&bytes, id, Reading::USUAL, admit).map_err(|what| Error::format(&self.path, format!("{id}: {what}")))?;
        if image.as_ref().is_some_and(|image| (image.height, image.width) != (height, width)) {
            return Err(Error::format(&self.path, format!("{id}: the image has another size than the table says")));
        }
        Ok(image.map(|image| (image, Some(blake3::hash(&bytes)))))
    }
    fn file(&self, index: usize) -> Result<Option<Vec<u8>>> {
        if self.about.side.is_some() { Ok(None) } else { self.record(index).map(Some) }
    }
}

/// Records of a pack: pixels with this short side, or the original image files.
pub enum Content<'a> {
    Pixels { side: usize, resize: &'a (dyn Fn(Image, usize) -> std::result::Result<Image, String> + Sync) },
    Files,
}

/// Packs a data set into the file `path`, which appears when it is complete. The same data set gives the same bytes. Returns the size in
/// bytes.
///
/// # Errors
/// An image cannot be read, original files are asked of a source without any, the disk is full, [`Error::Stopped`].
pub fn write(source: &dyn Source, path: &Path, content: Content, progress: &mut dyn Progress) -> Result<u64> {
    let side = match content {
        Content::Pixels { side, .. } => Some(side),
        Content::Files => None,
    };
    let about = Description {
        source: source.name().into(),
        digest: source.digest().into(),
        classes: source.classes().into(),
        samples: source.len(),
        train: source.train_len(),
        side,
    };
    let about = serde_json::to_vec(&about).unwrap_or_default();
    let mut table = [&(about.len() as u32).to_le_bytes()[..], &about].concat();
    let mut out = Writer::create(path)?;
    let mut at = MAGIC.len() as u64;
    out.write_all(MAGIC).map_err(Error::io("write", path))?;
    progress.start("pack", source.len() as u64, "image");
    let all: Vec<usize> = (0..source.len()).collect();
    for chunk in all.chunks(CHUNK) {
        let records: Vec<Result<_>> = chunk.par_iter().map(|&index| record(source, index, &content)).collect();
        for (&index, record) in chunk.iter().zip(records) {
            let (bytes, (height, width)) = record?;
            let id = source.id(index);
            table.extend(at.to_le_bytes());
            table.extend((bytes.len() as u64).to_le_bytes());
            table.extend([height, width].into_iter().flat_map(|n| (n as u32).to_le_bytes()));
            table.extend(source.label(index).map_or(-1, i64::from).to_le_bytes());
            table.extend(&blake3::hash(&bytes).as_bytes()[..CHECK]);
            table.extend((id.len() as u32).to_le_bytes());
            table.extend(id.as_bytes());
            out.write_all(&bytes).map_err(Error::io("write", path))?;
            at += bytes.len() as u64;
        }
        progress.advance(chunk.len() as u64, "");
        progress.go_on("the pack")?;
    }
    let size = table.len() as u64;
    for part in [&table[..], &at.to_le_bytes(), &size.to_le_bytes(), blake3::hash(&table).as_bytes(), MAGIC] {
        out.write_all(part).map_err(Error::io("write", path))?;
    }
    out.commit()?;
    progress.done();
    Ok(at + size + END)
}

/// The bytes of a record, and the image's height and width.
fn record(source: &dyn Source, index: usize, content: &Content) -> Result<(Vec<u8>, (usize, usize))> {
    let about = |what: String| Error::config(format!("{}: {what}", source.id(index)), "leave the image out, or skip bad ones");
    match content {
        Content::Pixels { side, resize } => {
            let image = resize(source.image(index)?, *side).map_err(about)?;
            Ok((image.pixels, (image.height, image.width)))
        }
        Content::Files => {
            let Some(bytes) = source.file(index)? else {
                let what = format!("the images of {} are not stored as image files", source.name());
                return Err(Error::config(what, "pack pixels (--size) instead of files (--original)"));
            };
            let size = decode::size(&bytes, &source.id(index)).map_err(about)?;
            Ok((bytes, size))
        }
    }
}
