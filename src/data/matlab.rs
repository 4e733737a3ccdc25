//! Numeric arrays from MATLAB's level 5 files (.mat of versions 5 to 7), plain or compressed.
//!
//! Layout (MathWorks, "MAT-File Format"): a header of 128 bytes, then elements, each a tag (type, bytes) and its data. A matrix is an
//! element of elements: flags, dimensions, name, values. Sizes in a file are only claims, so memory grows with the bytes actually read.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::read::ZlibDecoder;

use crate::error::Error;
use crate::files;

/// Element types.
const INT8: u32 = 1;
const UINT8: u32 = 2;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const DOUBLE: u32 = 9;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;

/// No deflate stream grows by more than this (zlib's documentation).
const MOST_GROWTH: u64 = 1032;

/// A numeric array. The first dimension varies fastest.
pub struct Array {
    pub dims: Vec<usize>,
    /// The stored type, which may be narrower than the array's class in MATLAB.
    stored: u32,
    bytes: Vec<u8>,
}

impl Array {
    /// The values of an array of bytes.
    pub fn into_bytes(self) -> Result<Vec<u8>, String> {
        if self.stored == UINT8 { Ok(self.bytes) } else { Err("has an array of other than 8-bit numbers where images belong".into()) }
    }

    /// The values of any array.
    pub fn numbers(&self) -> Result<Vec<f64>, String> {
        let number = match self.stored {
            INT8 => |b: &[u8]| b[0] as i8 as f64,
            UINT8 => |b: &[u8]| b[0] as f64,
            3 => |b: &[u8]| i16::from_le_bytes([b[0], b[1]]) as f64,
            4 => |b: &[u8]| u16::from_le_bytes([b[0], b[1]]) as f64,
            INT32 => |b: &[u8]| i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f64,
            UINT32 => |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f64,
            7 => |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f64,
            _ => |b: &[u8]| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
        };
        let width = width(self.stored).ok_or("has values of a type that is not known here")?;
        Ok(self.bytes.chunks_exact(width).map(number).collect())
    }
}

/// Bytes of one value of a numeric type that is read here.
fn width(stored: u32) -> Option<usize> {
    Some(match stored {
        INT8 | UINT8 => 1,
        3 | 4 => 2,
        INT32 | UINT32 | 7 => 4,
        DOUBLE => 8,
        _ => return None,
    })
}

/// The arrays of these names; other variables are skipped.
///
/// # Errors
/// The file cannot be read, is no such file, is damaged, or lacks a name.
pub fn read<const N: usize>(path: &Path, names: [&str; N]) -> Result<[Array; N], Error> {
    let file = files::open(path)?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    let mut found: [Option<Array>; N] = [const { None }; N];
    variables(BufReader::new(file), length, &names, &mut found).map_err(|fault| Error::format(path, fault.sentence()))?;
    if let Some(at) = found.iter().position(Option::is_none) {
        return Err(Error::format(path, format!("has no variable `{}`", names[at])));
    }
    Ok(found.map(|array| array.expect("every name was found")))
}

/// An error in a file.
enum Fault {
    Io(io::Error),
    Says(String),
}

impl Fault {
    fn sentence(self) -> String {
        match self {
            Fault::Says(what) => what,
            Fault::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => "is cut short; fetch it again".into(),
            Fault::Io(e) => format!("cannot be read ({e}); if it is damaged, fetch it again"),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Fault {
        Fault::Io(e)
    }
}

fn says<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Says(what.into()))
}

/// Reads the top-level elements of a file.
fn variables(mut file: BufReader<File>, length: u64, names: &[&str], found: &mut [Option<Array>]) -> Result<(), Fault> {
    let mut header = [0; 128];
    file.read_exact(&mut header)?;
    match &header[124..] {
        [0, 1, b'I', b'M'] => {}
        [1, 0, b'M', b'I'] => return says("is a big-endian MATLAB file; save it again on an ordinary machine"),
        [0, 2, b'I', b'M'] => return says("is a MATLAB file of version 7.3 (HDF5); save it again with the option -v7"),
        _ => return says("is no MATLAB file of version 5 to 7"),
    }
    let mut at = 128;
    while at < length && found.iter().any(Option::is_none) {
        let (kind, size) = (word(&mut file)?, word(&mut file)? as u64);
        at += 8 + size;
        if at > length {
            return says("is cut short; fetch it again");
        }
        let array = match kind {
            MATRIX => matrix(&mut (&mut file).take(size), size, names)?,
            COMPRESSED => compressed(&mut (&mut file).take(size), size, names)?,
            _ => None,
        };
        if let Some((name, array)) = array {
            found[name] = Some(array);
        }
        file.seek(SeekFrom::Start(at))?;
    }
    Ok(())
}

/// The matrix inside a compressed element of `size` bytes.
fn compressed(reader: &mut dyn Read, size: u64, names: &[&str]) -> Result<Option<(usize, Array)>, Fault> {
    let mut reader = ZlibDecoder::new(reader);
    let (kind, announced) = (word(&mut reader)?, word(&mut reader)? as u64);
    if kind != MATRIX {
        return Ok(None);
    }
    if announced > size.saturating_mul(MOST_GROWTH) {
        return says(format!("announces {announced} bytes in a compressed element of {size}, which cannot hold them"));
    }
    let array = matrix(&mut (&mut reader).take(announced), announced, names)?;
    // Reading to the end verifies the stream's checksum; a longer stream than announced is an error.
    if array.is_some() && reader.take(1).read(&mut [0])? != 0 {
        return says("has a compressed element with more in it than it announces");
    }
    Ok(array)
}

/// The array of a matrix element of `size` bytes, with the number of its name, if it is asked for.
fn matrix(reader: &mut dyn Read, size: u64, names: &[&str]) -> Result<Option<(usize, Array)>, Fault> {
    let (flags, dims, name) = (element(reader, 8)?, element(reader, 8 * 4)?, element(reader, 64)?);
    let Some(at) = names.iter().position(|n| n.as_bytes() == name.bytes) else { return Ok(None) };
    let name = names[at];
    let class = flags.bytes.first().copied().unwrap_or_default();
    let complex = flags.bytes.get(1).is_some_and(|bits| bits & 8 != 0);
    if flags.kind != UINT32 || dims.kind != INT32 || !(6..=13).contains(&class) || complex {
        return says(format!("has a variable `{name}` that is no array of real numbers"));
    }
    let dims: Vec<usize> = dims.bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize).collect();
    let values = element(reader, size)?;
    let want = width(values.kind).and_then(|width| dims.iter().try_fold(width, |product, &dim| product.checked_mul(dim)));
    if want != Some(values.bytes.len()) {
        return says(format!("has a variable `{name}` whose {} bytes do not fill its dimensions {dims:?}", values.bytes.len()));
    }
    Ok(Some((at, Array { dims, stored: values.kind, bytes: values.bytes })))
}

/// An element inside a matrix.
struct Element {
    kind: u32,
    bytes: Vec<u8>,
}

/// Reads an element of at most `most` bytes and its padding to a multiple of eight.
fn element(reader: &mut dyn Read, most: u64) -> Result<Element, Fault> {
    let kind = word(reader)?;
    // Up to four bytes may be stored in the tag itself; its upper half is then their number.
    if kind >> 16 != 0 {
        let mut bytes = word(reader)?.to_le_bytes().to_vec();
        bytes.truncate((kind >> 16) as usize);
        return Ok(Element { kind: kind & 0xFFFF, bytes });
    }
    let size = word(reader)? as u64;
    if size > most {
        return says(format!("has an element of {size} bytes where at most {most} can be"));
    }
    let mut bytes = vec![];
    if reader.take(size).read_to_end(&mut bytes)? as u64 != size {
        return Err(Fault::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    io::copy(&mut reader.take(size.next_multiple_of(8) - size), &mut io::sink())?;
    Ok(Element { kind, bytes })
}

fn word(reader: &mut (impl Read + ?Sized)) -> Result<u32, Fault> {
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}
