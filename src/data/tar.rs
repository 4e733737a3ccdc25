//! The offsets of the members of a tar file. Only headers are read.

use std::io::{BufRead, Seek};

pub const BLOCK: u64 = 512;
/// Longest name in a header of its own, in bytes.
const NAME: u64 = 64 << 10;
/// Largest extended header of a member, in bytes.
const EXTENDED: u64 = 1 << 20;

/// One regular file, or a link to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    /// Offset of its first byte in the file.
    pub offset: u64,
    pub size: u64,
    /// Checksum of its header, the 512 bytes before it.
    pub check: u64,
    /// Whether it is a link, to another member or a file elsewhere, and has no data.
    pub link: bool,
}

/// Computes [`Member::check`] of a header.
pub fn check(header: &[u8]) -> u64 {
    u64::from_le_bytes(*blake3::hash(header).as_bytes().first_chunk().expect("a digest has 32 bytes"))
}

/// Reads the headers of a file of `length` bytes and passes its files and links to `each`, in order; `each` may read from the member's
/// first byte on. Supports the ustar prefix, GNU's long names and pax's paths and sizes. The first block of zeros is the end. All this is
/// as in Python's `tarfile`.
///
/// # Errors
/// The error and its offset.
pub fn scan<R: BufRead + Seek>(
    reader: &mut R,
    length: u64,
    mut each: impl FnMut(&mut R, Member) -> Result<(), String>,
) -> Result<(), String> {
    let mut at = 0; // where the next header begins
    let mut place = 0; // where the reader is
    let mut next = Next::default();
    loop {
        if length - at < BLOCK {
            return Err(format!("the tar file is cut short: it ends at offset {length}, where a header or its end mark should be"));
        }
        let header: [u8; BLOCK as usize] = read(reader, &mut place, at, BLOCK)?.try_into().map_err(|_| "a short read")?;
        if header.iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        if !sum_is_right(&header) {
            return Err(not_tar(&header, at));
        }
        let kind = header[156];
        let bad = |what: &str| format!("the tar header at offset {at} {what}");
        let stated = number(&header[124..136]).ok_or_else(|| bad("has no size that can be read"))?;
        let offset = at + BLOCK;
        let is_meta = matches!(kind, b'L' | b'K' | b'x' | b'g' | b'X');
        let size = if is_meta { stated } else { next.size.take().unwrap_or(stated) };
        // Links, devices and folders have no data, even if their size field is not 0.
        let held = if matches!(kind, b'1'..=b'6') { 0 } else { size };
        if held > length - offset {
            return Err(format!(
                "the tar file is cut short: the member at offset {at} has {held} bytes, but the file ends after {}",
                length - offset
            ));
        }
        match kind {
            b'L' if size > NAME => return Err(bad("has a name of unreasonable length")),
            b'L' => next.name = Some(text(&read(reader, &mut place, offset, size)?).ok_or_else(|| bad("has a name that is not UTF-8"))?),
            b'x' | b'X' if size > EXTENDED => return Err(bad("has an extended header of unreasonable length")),
            b'x' | b'X' => next.extend(&read(reader, &mut place, offset, size)?).map_err(bad)?,
            b'K' | b'g' => {}
            b'S' => return Err(bad("is of a sparse file, which cannot be read; pack it again without --sparse")),
            _ => {
                let name = match next.name.take() {
                    Some(name) => name,
                    None => name(&header).ok_or_else(|| bad("has a name that is not UTF-8"))?,
                };
                let link = matches!(kind, b'1' | b'2');
                if (link || matches!(kind, 0 | b'0' | b'7')) && !name.ends_with('/') {
                    seek(reader, &mut place, offset)?;
                    each(reader, Member { name, offset, size: held, check: check(&header), link })?;
                    place = reader.stream_position().map_err(|error| error.to_string())?;
                }
                next = Next::default();
            }
        }
        at = offset + held.next_multiple_of(BLOCK);
        if at > length {
            return Err(format!("the tar file is cut short: it ends at offset {length}, where a header or its end mark should be"));
        }
    }
}

/// Facts about a member from the headers before its own.
#[derive(Default)]
struct Next {
    name: Option<String>,
    size: Option<u64>,
}

impl Next {
    /// Records of `LENGTH KEY=VALUE\n`, where the length counts itself.
    fn extend(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        while !bytes.is_empty() && bytes[0] != 0 {
            let broken = "has an extended header that cannot be read";
            let blank = bytes.iter().take(21).position(|&b| b == b' ').ok_or(broken)?;
            let length: usize = std::str::from_utf8(&bytes[..blank]).ok().and_then(|text| text.parse().ok()).ok_or(broken)?;
            if length <= blank + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
                return Err(broken);
            }
            let (record, rest) = (&bytes[blank + 1..length - 1], &bytes[length..]);
            let equals = record.iter().position(|&b| b == b'=').ok_or(broken)?;
            let value = std::str::from_utf8(&record[equals + 1..]);
            match &record[..equals] {
                b"path" => self.name = Some(value.map_err(|_| "has a name that is not UTF-8")?.to_string()),
                b"size" => self.size = Some(value.ok().and_then(|text| text.parse().ok()).ok_or(broken)?),
                b"GNU.sparse.major" | b"GNU.sparse.size" => {
                    return Err("is of a sparse file, which cannot be read; pack it again without --sparse");
                }
                _ => {}
            }
            bytes = rest;
        }
        Ok(())
    }
}

fn seek<R: BufRead + Seek>(reader: &mut R, place: &mut u64, at: u64) -> Result<(), String> {
    // Offsets lie inside the file, so they fit.
    reader.seek_relative(at as i64 - *place as i64).map_err(|error| error.to_string())?;
    *place = at;
    Ok(())
}

fn read<R: BufRead + Seek>(reader: &mut R, place: &mut u64, at: u64, size: u64) -> Result<Vec<u8>, String> {
    seek(reader, place, at)?;
    let mut bytes = vec![0; size as usize];
    reader.read_exact(&mut bytes).map_err(|error| format!("reading at offset {at} failed: {error}"))?;
    *place += size;
    Ok(bytes)
}

/// Bytes up to a zero, as text.
fn text(field: &[u8]) -> Option<String> {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    String::from_utf8(field[..end].to_vec()).ok()
}

fn name(header: &[u8]) -> Option<String> {
    let name = text(&header[..100])?;
    // GNU's format stores times where POSIX stores the prefix of a long path.
    if &header[257..263] != b"ustar\0" || header[345] == 0 {
        return Some(name);
    }
    Some(format!("{}/{name}", text(&header[345..500])?))
}

/// An octal number among blanks and zeros, or eight bytes after a byte of 0x80.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (head, tail) = field.split_at(field.len() - 8);
        // A field of eight bytes has no room for the binary form.
        let fits = head.split_first().is_some_and(|(&first, rest)| first == 0x80 && rest.iter().all(|&b| b == 0));
        return fits.then(|| u64::from_be_bytes(tail.try_into().unwrap_or_default())).filter(|&n| n <= i64::MAX as u64);
    }
    let digits = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

/// The sum over the header with blanks in place of the checksum. Old programs added signed bytes.
fn sum_is_right(header: &[u8]) -> bool {
    let Some(stated) = number(&header[148..156]) else { return false };
    let counted = || header.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { b' ' } else { byte });
    let unsigned: u64 = counted().map(u64::from).sum();
    let signed: i64 = counted().map(|byte| i64::from(byte as i8)).sum();
    stated == unsigned || stated as i64 == signed
}

fn not_tar(header: &[u8], at: u64) -> String {
    let packed = [(&[0x1F, 0x8B][..], "gzip"), (b"BZh", "bzip2"), (&[0xFD, b'7', b'z'], "xz"), (&[0x28, 0xB5, 0x2F, 0xFD], "zstd")];
    match packed.iter().find(|(magic, _)| at == 0 && header.starts_with(magic)) {
        Some((_, by)) => format!("the tar file is compressed ({by}), so no image in it can be read by itself; unpack it to a plain .tar"),
        None => format!("there is no tar header at offset {at}; the file is damaged or no tar file"),
    }
}
