//! Results of an unfinished job: small files with checksums, in a folder beside the table.

use super::BatchScores;
use super::features::{FeatureReader, FeatureWriter};
use super::parts::{Parts, start};
use crate::data::Content;
use crate::error::{Error, Result};
use crate::files;
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::PathBuf;

/// Most samples in a block. Scores do not depend on it.
pub const BLOCK: usize = 1024;
const MAGIC: &[u8; 8] = b"sslmem\0\x03";
const DIGEST: usize = blake3::OUT_LEN;
/// Longest reason why an image is bad, in bytes.
const LONGEST: usize = 500;

/// Results of consecutive samples, in their order.
#[derive(Clone, Debug, Default)]
pub struct Block {
    pub indices: Vec<u32>,
    /// [samples, numbers]: for each layer the alignment of f, that of g and the standard error; then further columns
    /// ([`super::Task::more`]).
    pub values: Vec<f64>,
    /// Samples that cannot be decoded, with the reason.
    pub skipped: Vec<(u32, String)>,
    /// Digest of the files of all samples, also of the skipped ones.
    pub content: Content,
}

/// A block that is being measured.
pub struct BlockWriter {
    block: Block,
    features: Option<FeatureWriter>,
}

impl BlockWriter {
    /// Adds the measured samples whose position in the list `samples` is in `which`.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub fn add(&mut self, measured: &BatchScores, which: std::ops::Range<usize>, samples: &[u32]) -> Result<()> {
        for (i, &place) in measured.places.iter().enumerate().filter(|(_, place)| which.contains(place)) {
            self.block.indices.push(samples[place]);
            self.block.content += Content::of(samples[place], measured.contents[i]);
            self.block.values.extend(measured.values[i].iter().flatten().chain(measured.more(i)));
            self.features.iter_mut().try_for_each(|features| features.push(measured.features(i)))?;
        }
        for bad in measured.bad.iter().filter(|bad| which.contains(&bad.place)) {
            self.block.content += Content::left_out(samples[bad.place], bad.content);
            self.block.skipped.push((samples[bad.place], bad.reason.chars().take(LONGEST / 4).collect()));
        }
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.block.len()
    }
}

impl Block {
    pub fn len(&self) -> usize {
        self.indices.len() + self.skipped.len()
    }

    /// Magic, job, counts, content, indices, values, skipped, checksum.
    fn to_bytes(&self, job: &[u8; DIGEST]) -> Vec<u8> {
        let mut bytes = [&MAGIC[..], job].concat();
        let counts = [self.indices.len(), self.values.len(), self.skipped.len()];
        counts.iter().for_each(|n| bytes.extend((*n as u32).to_le_bytes()));
        bytes.extend(self.content.to_bytes());
        self.indices.iter().for_each(|i| bytes.extend(i.to_le_bytes()));
        self.values.iter().for_each(|v| bytes.extend(v.to_bits().to_le_bytes()));
        for (index, reason) in &self.skipped {
            bytes.extend(index.to_le_bytes());
            bytes.extend((reason.len() as u32).to_le_bytes());
            bytes.extend(reason.bytes());
        }
        let sum = blake3::hash(&bytes);
        bytes.extend(sum.as_bytes());
        bytes
    }

    /// `None` if the block is damaged or of another job.
    fn from_bytes(bytes: &[u8], job: &[u8; DIGEST]) -> Option<Block> {
        let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST)?)?;
        if blake3::hash(body).as_bytes() != sum {
            return None;
        }
        let mut rest = body.strip_prefix(MAGIC)?.strip_prefix(job)?;
        let mut take = |n: usize| {
            let (taken, left) = rest.split_at_checked(n)?;
            rest = left;
            Some(taken)
        };
        let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let counts = take(12)?;
        let content = Content::from_bytes(take(Content::BYTES)?.try_into().ok()?);
        let [indices, values, skipped] = [0, 4, 8].map(|at| word(&counts[at..]) as usize);
        let indices = take(indices.checked_mul(4)?)?.chunks_exact(4).map(word).collect();
        let number = |b: &[u8]| f64::from_bits(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]));
        let values = take(values.checked_mul(8)?)?.chunks_exact(8).map(number).collect();
        let mut block = Block { indices, values, skipped: vec![], content };
        for _ in 0..skipped {
            let head = take(8)?;
            let (index, length) = (word(head), word(&head[4..]) as usize);
            block.skipped.push((index, String::from_utf8(take(length)?.to_vec()).ok()?));
        }
        Some(block)
    }
}

/// A job's folder of blocks. Each is named after the position of its first sample in the job.
pub struct Blocks<'a> {
    pub parts: &'a Parts,
    /// Digest of the job's identity.
    pub job: [u8; DIGEST],
    /// The samples of the job, in order.
    pub samples: &'a [u32],
    pub layers: usize,
    /// Values per sample beside those of the layers.
    pub more: usize,
    /// Whether each block has features beside it.
    pub features: bool,
}

impl Blocks<'_> {
    /// Values per sample.
    pub fn numbers(&self) -> usize {
        3 * self.layers + self.more
    }

    fn path(&self, start: usize) -> PathBuf {
        self.parts.folder().join(format!("{start:07}.block"))
    }

    fn features_path(&self, start: usize) -> PathBuf {
        self.parts.folder().join(format!("{start:07}.features"))
    }

    /// Begins the block whose first sample has position `start`. `widths` of features: f and g at the first layer, then at the next.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub fn open(&self, start: usize, widths: &[usize]) -> Result<BlockWriter> {
        let create = || FeatureWriter::create(&self.features_path(start), &self.job, start, widths);
        Ok(BlockWriter { block: Block::default(), features: self.features.then(create).transpose()? })
    }

    /// # Errors
    /// The disk is full or failed; the job can go on from here.
    pub fn write(&self, start: usize, open: BlockWriter) -> Result<()> {
        // The features first, so that a block never exists without its features.
        open.features.map_or(Ok(()), FeatureWriter::commit)?;
        files::write_whole(self.path(start), &open.block.to_bytes(&self.job))
    }

    /// Positions of all blocks, damaged or not.
    fn starts(&self) -> Result<Vec<usize>> {
        let names = if self.parts.folder().is_dir() { self.parts.names()? } else { vec![] };
        let mut starts: Vec<usize> = names.iter().filter_map(|name| start(name, "block")).collect();
        starts.sort_unstable();
        Ok(starts)
    }

    /// The ascending ranges of the intact blocks that `good` accepts, and the number of other blocks, which are removed.
    pub fn kept(&self, mut good: impl FnMut(&Block) -> Result<bool>) -> Result<(Vec<Range<usize>>, usize)> {
        let (mut kept, mut removed): (Vec<Range<usize>>, _) = (vec![], 0);
        for start in self.starts()? {
            let block = if start < kept.last().map_or(0, |range| range.end) { None } else { self.whole(start) };
            match block {
                Some(block) if good(&block)? => kept.push(start..start + block.len()),
                _ => {
                    fs::remove_file(self.path(start)).map_err(Error::io("remove", self.path(start)))?;
                    removed += 1;
                }
            }
        }
        Ok((kept, removed))
    }

    /// The block at this position. `None` if it is missing, damaged or of other samples.
    fn read(&self, start: usize) -> Option<Block> {
        let most = 1024 + BLOCK * (16 + 8 * self.numbers() + LONGEST);
        let mut bytes = vec![];
        File::open(self.path(start)).ok()?.take(most as u64 + 1).read_to_end(&mut bytes).ok()?;
        let block = Block::from_bytes(&bytes, &self.job)?;
        let samples = self.samples.get(start..start.checked_add(block.len())?)?;
        let (mut good, mut bad) = (block.indices.iter().peekable(), block.skipped.iter().map(|(i, _)| i).peekable());
        let all = samples.iter().all(|i| good.next_if_eq(&i).is_some() || bad.next_if_eq(&i).is_some());
        let whole = all && !samples.is_empty() && good.next().is_none() && bad.next().is_none();
        (whole && block.values.len() == block.indices.len() * self.numbers()).then_some(block)
    }

    /// The features of a block's decoded samples. `None` if the file is missing or not of this block.
    pub fn features(&self, start: usize, block: &Block) -> Option<FeatureReader> {
        FeatureReader::open(&self.features_path(start), &self.job, start, block.indices.len(), self.layers)
    }

    /// As [`Blocks::read`], with the checksum of the features verified as well, if the job has features.
    fn whole(&self, start: usize) -> Option<Block> {
        let block = self.read(start)?;
        let whole = !self.features || self.features(start, &block)?.each(|_, _| Ok(())).is_ok_and(|whole| whole);
        whole.then_some(block)
    }

    /// As [`Blocks::read`]; an error if a block that was kept is now missing or damaged.
    pub fn demand(&self, start: usize) -> Result<Block> {
        self.read(start).ok_or_else(|| self.damaged(start))
    }

    pub fn damaged(&self, start: usize) -> Error {
        Error::format(self.path(start), "was damaged while the table was written; run the same command again")
    }
}
