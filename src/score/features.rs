//! Features of un-augmented samples beside their scores, in files as `sslmem embed` writes them. Until the job is done each block has a
//! file of features, written row by row, so that memory does not grow with the width.
//!
//! ```text
//! scores.parquet.parts/0000000.features   magic, job, first place, widths, rows [samples, sum of widths] f32, checksum
//! scores.f.safetensors scores.g.safetensors
//! ```

use crate::error::{Error, Result};
use crate::files::Writer;
use crate::manifest::FeatureFacts;
use crate::tensors;
use blake3::OUT_LEN as DIGEST;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"sslmemf\x01";
pub const ROLES: [&str; 2] = ["f", "g"];

/// The path of an encoder's features beside its table: `scores.f.safetensors`.
pub fn path(table: &Path, role: &str) -> PathBuf {
    table.with_extension(format!("{role}.safetensors"))
}

/// The safetensors header of features [samples, width] f32. `data` is the digest of the data.
pub fn head(samples: usize, width: usize, data: &str, arch: &str) -> Vec<u8> {
    let metadata = [("data".to_string(), data.to_string()), ("encoder".to_string(), arch.to_string())];
    tensors::header(&metadata.into(), &[tensors::Entry { name: "features", dtype: "F32", shape: vec![samples, width] }])
}

/// An atomic file that computes its digest while it is written.
struct HashedWriter {
    writer: Writer,
    sum: blake3::Hasher,
}

impl HashedWriter {
    fn create(path: &Path) -> Result<HashedWriter> {
        Ok(HashedWriter { writer: Writer::create(path)?, sum: blake3::Hasher::new() })
    }
    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.sum.update(bytes);
        self.writer.write_all(bytes).map_err(Error::io("write", self.writer.path()))
    }
}

/// A file of features that is being written.
pub struct Table {
    file: HashedWriter,
    role: String,
    width: usize,
}

impl Table {
    pub fn create(path: &Path, role: &str, head: &[u8], width: usize) -> Result<Table> {
        let mut file = HashedWriter::create(path)?;
        file.push(head)?;
        Ok(Table { file, role: role.into(), width })
    }
    /// The same rows below another header: bad images leave fewer rows than the header announced.
    pub fn below(mut self, head: &[u8], before: usize) -> Result<Table> {
        let path = self.file.writer.path().to_path_buf();
        let mut values = self.file.writer.written()?;
        values.seek(SeekFrom::Start(before as u64)).map_err(Error::io("read", &path))?;
        let mut table = Table::create(&path, &self.role, head, self.width)?;
        let mut some = vec![0; 1 << 20];
        loop {
            match values.read(&mut some).map_err(Error::io("read", &path))? {
                0 => return Ok(table),
                n => table.push(&some[..n])?,
            }
        }
    }
    /// Appends any number of rows, as little-endian f32.
    pub fn push(&mut self, rows: &[u8]) -> Result<()> {
        self.file.push(rows)
    }
    pub fn commit(self) -> Result<FeatureFacts> {
        let HashedWriter { writer, sum } = self.file;
        let file = writer.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        writer.commit()?;
        Ok(FeatureFacts { role: self.role, file, width: self.width, digest: sum.finalize().to_hex().to_string() })
    }
}

/// A block's file of features that is being written.
pub struct FeatureWriter(HashedWriter);

impl FeatureWriter {
    /// `widths`: f and g at the first layer, then at the next.
    pub fn create(path: &Path, job: &[u8; DIGEST], start: usize, widths: &[usize]) -> Result<FeatureWriter> {
        let mut file = HashedWriter::create(path)?;
        file.push(&[&MAGIC[..], job].concat())?;
        let numbers = [start, widths.len()].into_iter().chain(widths.iter().copied());
        file.push(&numbers.flat_map(|n| (n as u32).to_le_bytes()).collect::<Vec<u8>>())?;
        Ok(FeatureWriter(file))
    }
    /// Appends a sample: f and g at the first layer, then at the next.
    pub fn push(&mut self, row: &[f32]) -> Result<()> {
        row.chunks(1 << 12).try_for_each(|some| self.0.push(bytemuck::cast_slice(some)))
    }
    pub fn commit(mut self) -> Result<()> {
        let sum = self.0.sum.finalize();
        self.0.push(sum.as_bytes())?;
        self.0.writer.commit()
    }
}

/// A block's file of features. The checksum is verified by [`FeatureReader::each`].
pub struct FeatureReader {
    file: BufReader<File>,
    sum: blake3::Hasher,
    pub widths: Vec<usize>,
    rows: usize,
}

impl FeatureReader {
    /// `None` if the file is missing, or of another job, block or number of `rows` or `layers`.
    pub fn open(path: &Path, job: &[u8; DIGEST], start: usize, rows: usize, layers: usize) -> Option<FeatureReader> {
        let file = File::open(path).ok()?;
        let length = file.metadata().ok()?.len();
        let mut file = BufReader::new(file);
        let mut head = vec![0; MAGIC.len() + DIGEST + 4 * (2 + 2 * layers)];
        file.read_exact(&mut head).ok()?;
        let numbers = head.strip_prefix(MAGIC)?.strip_prefix(job)?.chunks_exact(4);
        let numbers: Vec<usize> = numbers.map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize).collect();
        let widths = numbers[2..].to_vec();
        let row = 4 * widths.iter().sum::<usize>() as u64;
        let fits = length == (head.len() + DIGEST) as u64 + row.checked_mul(rows as u64)?;
        let mut sum = blake3::Hasher::new();
        sum.update(&head);
        (fits && numbers[..2] == [start, 2 * layers]).then_some(FeatureReader { file, sum, widths, rows })
    }

    /// Passes the values of each row to `take`, with their position in `widths`. Returns false if the checksum at the end of the file
    /// fails; the values passed before are then damaged.
    pub fn each(mut self, mut take: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<bool> {
        let mut values = vec![];
        for _ in 0..self.rows {
            for (place, width) in self.widths.iter().enumerate() {
                values.resize(4 * width, 0);
                if self.file.read_exact(&mut values).is_err() {
                    return Ok(false);
                }
                self.sum.update(&values);
                take(place, &values)?;
            }
        }
        let mut sum = [0; DIGEST];
        Ok(self.file.read_exact(&mut sum).is_ok() && *self.sum.finalize().as_bytes() == sum)
    }
}
