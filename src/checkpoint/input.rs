//! The bytes of a file, read piece by piece and never beyond its end.

use super::pickle::Fault;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// A file, or bytes that are in memory already.
pub enum Input {
    File { file: File, len: u64 },
    Memory(Vec<u8>),
}

impl Input {
    pub fn len(&self) -> u64 {
        match self {
            Input::File { len, .. } => *len,
            Input::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// `len` bytes from `start` on. A range beyond the end is an error before anything is allocated.
    pub fn read(&self, start: u64, len: u64) -> Result<Vec<u8>, Fault> {
        let end = start.checked_add(len).filter(|end| *end <= self.len());
        let end = end.ok_or_else(|| format!("ends early ({} bytes); get it again", self.len()))?;
        match self {
            Input::Memory(bytes) => Ok(bytes[start as usize..end as usize].to_vec()),
            Input::File { file, .. } => {
                let mut bytes = vec![0; len as usize];
                let mut file = file;
                file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut bytes)).map_err(|e| format!("cannot be read ({e})"))?;
                Ok(bytes)
            }
        }
    }
}
