//! The directory of a zip file with uncompressed members, as PyTorch writes it; zip64 as well.

use super::input::Input;
use super::pickle::Fault;
use std::collections::HashMap;

/// Members by name: (start, length) in bytes.
pub type Members = HashMap<String, (u64, u64)>;

/// Largest directory in bytes; a checkpoint's has about 100 per tensor.
const LARGEST: u64 = 64 << 20;

const END: &[u8] = b"PK\x05\x06";
const END64: &[u8] = b"PK\x06\x06";
const ENTRY: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";

fn broken() -> Fault {
    "is a broken or unfinished zip file; get it again".into()
}

fn number(bytes: &[u8], at: usize, width: usize) -> Result<u64, Fault> {
    let bytes = bytes.get(at..at + width).ok_or_else(broken)?;
    Ok(bytes.iter().rev().fold(0, |n, b| n << 8 | *b as u64))
}

/// The members of a zip file.
pub fn members(input: &Input) -> Result<Members, Fault> {
    // The last record may be followed by a comment of up to 65,535 bytes.
    let tail = input.len().min(22 + 65_535 + 20);
    let start = input.len() - tail;
    let bytes = input.read(start, tail)?;
    let end = bytes.windows(4).rposition(|w| w == END).ok_or_else(broken)?;
    let (mut size, mut first) = (number(&bytes, end + 12, 4)?, number(&bytes, end + 16, 4)?);
    // If a number does not fit, the record before this one locates the zip64 record.
    if let Some(locator) = end.checked_sub(20).filter(|l| bytes[*l..].starts_with(b"PK\x06\x07")) {
        let record = input.read(number(&bytes, locator + 8, 8)?, 56)?;
        if !record.starts_with(END64) {
            return Err(broken());
        }
        (size, first) = (number(&record, 40, 8)?, number(&record, 48, 8)?);
    }
    if size > LARGEST {
        return Err(format!("is a zip file with a directory of {size} bytes; {LARGEST} at most are read here"));
    }
    let directory = input.read(first, size)?;
    let mut members = Members::new();
    let (mut at, mut compressed, mut script, mut arrays) = (0, None::<String>, false, false);
    while directory.get(at..).is_some_and(|d| d.starts_with(ENTRY)) {
        let field = |offset, width| number(&directory, at + offset, width);
        let (method, name_len, extra_len) = (field(10, 2)?, field(28, 2)? as usize, field(30, 2)? as usize);
        let comment_len = field(32, 2)? as usize;
        let (mut packed, mut plain, mut local) = (field(20, 4)?, field(24, 4)?, field(42, 4)?);
        let name = directory.get(at + 46..at + 46 + name_len).ok_or_else(broken)?;
        let extra = directory.get(at + 46 + name_len..at + 46 + name_len + extra_len).ok_or_else(broken)?;
        for value in longer(extra, [&mut plain, &mut packed, &mut local]) {
            value?;
        }
        let name = String::from_utf8_lossy(name).into_owned();
        if method != 0 || packed != plain {
            compressed.get_or_insert(name.escape_debug().take(80).collect::<String>());
        }
        script |= name.contains("/code/") || name.ends_with("constants.pkl");
        arrays |= name.ends_with(".npy");
        members.insert(name, (local, plain));
        at += 46 + name_len + extra_len + comment_len;
    }
    if script {
        return Err("is TorchScript (torch.jit.save); save model.state_dict() with torch.save".into());
    }
    if arrays {
        return Err("holds numpy's arrays (.npz); save the encoder's state_dict() with torch.save or as safetensors".into());
    }
    if let Some(name) = compressed {
        return Err(format!("has `{name}` compressed, which torch.save does not do; save it again"));
    }
    // The directory does not say how long the local header is, so it is read to find the data behind it.
    for (start, len) in members.values_mut() {
        let header = input.read(*start, 30)?;
        if !header.starts_with(LOCAL) {
            return Err(broken());
        }
        *start = start.checked_add(30 + number(&header, 26, 2)? + number(&header, 28, 2)?).ok_or_else(broken)?;
        if start.checked_add(*len).is_none_or(|end| end > input.len()) {
            return Err(broken());
        }
    }
    Ok(members)
}

/// Replaces numbers that are all ones by those of the zip64 field, which holds only these.
fn longer(extra: &[u8], values: [&mut u64; 3]) -> Vec<Result<(), Fault>> {
    let mut at = 0;
    while at + 4 <= extra.len() {
        let (Ok(kind), Ok(len)) = (number(extra, at, 2), number(extra, at + 2, 2)) else { break };
        if kind == 1 {
            let mut at = at + 4;
            let missing = values.into_iter().filter(|v| **v == 0xFFFF_FFFF);
            let fill = |value: &mut u64| {
                *value = number(extra, at, 8)?;
                at += 8;
                Ok(())
            };
            return missing.map(fill).collect();
        }
        at += 4 + len as usize;
    }
    vec![]
}
