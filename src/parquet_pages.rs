//! Pages of Parquet files that may be broken or hostile. Sizes that a file only claims allocate nothing, and input that would make the
//! decoder panic is refused before.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

use crate::error::Error;

/// Most decompressed bytes per byte of a file. Snappy cannot exceed 22; zstd can, but image data never compresses so well.
const DENSEST: u64 = 22;

pub type Outcome<T> = std::result::Result<T, ParquetError>;

/// A reader of the file that refuses page headers with too large a decoded size.
pub struct Pages {
    file: File,
    length: u64,
    largest: u64,
}

impl Pages {
    /// `largest` bounds a decoded page in bytes; the file's length may bound it further.
    pub fn new(file: File, largest: u64) -> Pages {
        let length = file.len();
        Pages { file, length, largest: largest.min(length.saturating_mul(DENSEST)) }
    }
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Length for Pages {
    fn len(&self) -> u64 {
        self.length
    }
}

/// The reason without the prefix of the kind of error.
pub fn sentence(error: &ParquetError) -> String {
    let text = error.to_string();
    text.split_once(": ").map(|(_, what)| what).unwrap_or(&text).trim().to_string()
}

/// The error that stopped a decoder: one of the system, or a damage of `part` of the file.
pub fn fault(path: &Path, part: &str, error: ParquetError) -> Error {
    match error {
        ParquetError::External(source) => match source.downcast::<std::io::Error>() {
            // An early end is a damage of the file, not an error of the system.
            Ok(source) if source.kind() != ErrorKind::UnexpectedEof => Error::io("read", path)(*source),
            Ok(source) => Error::format(path, format!("{part} is broken: {source}")),
            Err(source) => Error::format(path, format!("{part} is broken: {source}")),
        },
        other => Error::format(path, format!("{part} is broken: {}", sentence(&other))),
    }
}

impl ChunkReader for Pages {
    type T = BufReader<File>;

    /// Called with the offset of every page header, whose second field is the size of the decoded page.
    fn get_read(&self, start: u64) -> Outcome<Self::T> {
        let mut header = self.file.get_read(start)?;
        if !decoded_size(&mut header).is_some_and(|size| (0..=self.largest as i64).contains(&size)) {
            return Err(ParquetError::General("a page has no believable size".into()));
        }
        self.file.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Outcome<bytes::Bytes> {
        if start.saturating_add(length as u64) > self.length {
            return Err(ParquetError::EOF("a page ends after the file".into()));
        }
        self.file.get_bytes(start, length)
    }
}

/// Refuses compressions that cannot be decoded safely. The decoders of gzip, brotli and old LZ4 write past the size that a page claims, so
/// that a small file could fill the memory; the decoder of raw LZ4 leaves out checks for speed.
///
/// # Errors
/// The compression is refused; the error names it and the ones to use.
pub fn decodable(chunk: &ColumnChunkMetaData) -> std::result::Result<(), String> {
    match chunk.compression() {
        Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_) => Ok(()),
        other => Err(format!(
            "the column `{}` is compressed with {}, for which there is no decoder here; write it with snappy, zstd or none",
            chunk.column_path().string(),
            other.to_string().split('(').next().unwrap_or_default()
        )),
    }
}

/// Reads a column of a row group of `rows` rows, through the checks below.
pub fn column(pages: &Arc<Pages>, chunk: &ColumnChunkMetaData, rows: usize) -> Outcome<ColumnReader> {
    let optional = chunk.column_descr().max_def_level() > 0;
    let pages = SerializedPageReader::new(pages.clone(), chunk, rows, None)?;
    Ok(get_column_reader(chunk.column_descr_ptr(), Box::new(Checked { pages, rows: rows as u64, optional, dictionary: false })))
}

/// All `rows` values of a column. A value whose level is below `present`, the highest, is null.
pub fn values<T: DataType>(mut reader: ColumnReaderImpl<T>, rows: usize, present: i16) -> Outcome<Vec<Option<T::T>>> {
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    let (records, ..) = reader.read_records(rows, Some(&mut levels), None, &mut values)?;
    if records != rows {
        return Err(ParquetError::General(format!("it ends after {records} of {rows} rows")));
    }
    if present == 0 {
        return Ok(values.into_iter().map(Some).collect());
    }
    let mut values = values.into_iter();
    Ok(levels.into_iter().map(|level| if level == present { values.next() } else { None }).collect())
}

/// The pages of a column. Pages that would make the decoder panic are refused.
struct Checked {
    pages: SerializedPageReader<Pages>,
    /// Rows of the row group, checked against the file's length.
    rows: u64,
    /// Whether values can be null. A page then begins with the length of its definition levels.
    optional: bool,
    dictionary: bool,
}

impl PageReader for Checked {
    fn get_next_page(&mut self) -> Outcome<Option<Page>> {
        let page = self.pages.get_next_page()?;
        let reason = match &page {
            None => None,
            Some(Page::DictionaryPage { .. }) => {
                self.dictionary = true;
                None
            }
            Some(Page::DataPage { buf, .. }) if self.optional && buf.len() < 4 => Some("a page is too short"),
            Some(page) => match page.encoding() {
                Encoding::PLAIN | Encoding::RLE | Encoding::DELTA_BINARY_PACKED => None,
                Encoding::DELTA_LENGTH_BYTE_ARRAY if lengths(page, self.optional).is_some_and(|n| n <= self.rows) => None,
                Encoding::DELTA_LENGTH_BYTE_ARRAY => Some("a page has more lengths than there are rows"),
                Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY if self.dictionary => None,
                Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => Some("a dictionary is missing"),
                _ => Some("values are encoded in a way that is not read here; write it plain or with a dictionary"),
            },
        };
        reason.map_or(Ok(page), |reason| Err(ParquetError::General(reason.into())))
    }
    fn peek_next_page(&mut self) -> Outcome<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }
    fn skip_next_page(&mut self) -> Outcome<()> {
        self.pages.skip_next_page()
    }
}

impl Iterator for Checked {
    type Item = Outcome<Page>;
    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

/// The number of lengths that a page of DELTA_LENGTH_BYTE_ARRAY claims, for which the decoder allocates memory: the third number after the
/// levels.
fn lengths(page: &Page, optional: bool) -> Option<u64> {
    let (buffer, levels) = match page {
        Page::DataPage { buf, .. } if optional => (buf, 4 + u32::from_le_bytes(*buf.first_chunk()?) as usize),
        Page::DataPage { buf, .. } => (buf, 0),
        Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. } => {
            (buf, (def_levels_byte_len + rep_levels_byte_len) as usize)
        }
        Page::DictionaryPage { .. } => return None,
    };
    let mut values = buffer.get(levels..)?;
    let [_, _, count] = [number(&mut values)?, number(&mut values)?, number(&mut values)?];
    Some(count)
}

/// Deepest nesting of structs in a page header, with some margin.
const DEEPEST: usize = 8;

/// The second field of a page header, the size of the decoded page, after a walk through the whole header (Thrift's compact protocol).
/// Lists are refused: headers have none, and the decoder would count to 2^31 at one with so many empty elements.
fn decoded_size(header: &mut impl Read) -> Option<i64> {
    second_field(header, 0)?
}

/// Walks through a struct; the value of its field 2, if that is a number.
fn second_field(from: &mut impl Read, depth: usize) -> Option<Option<i64>> {
    let (mut field, mut second) = (0i16, None);
    loop {
        let head = byte(from)?;
        field = match head >> 4 {
            _ if head == 0 => return Some(second),
            0 => i16::try_from(zigzag(from)?).ok()?,
            further => field.checked_add(further.into())?,
        };
        match head & 15 {
            1 | 2 => {}
            3 => drop(byte(from)?),
            4..=6 => {
                let value = zigzag(from)?;
                second = if field == 2 { Some(value) } else { second };
            }
            7 => pass(from, 8)?,
            8 => {
                let length = number(from)?;
                pass(from, length)?;
            }
            12 if depth < DEEPEST => drop(second_field(from, depth + 1)?),
            _ => return None,
        }
    }
}

fn byte(from: &mut impl Read) -> Option<u8> {
    let mut byte = [0];
    from.read_exact(&mut byte).ok()?;
    Some(byte[0])
}

/// A varint: 7 bits per byte.
fn number(from: &mut impl Read) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = byte(from)?;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn zigzag(from: &mut impl Read) -> Option<i64> {
    let number = number(from)?;
    Some((number >> 1) as i64 ^ -((number & 1) as i64))
}

fn pass(from: &mut impl Read, length: u64) -> Option<()> {
    let passed = std::io::copy(&mut from.take(length), &mut std::io::sink()).ok()?;
    (passed == length).then_some(())
}
