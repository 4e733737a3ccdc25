//! WebDataset: tar files in which consecutive members of one name are one sample.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;

use super::grouping::{Grouping, Sample};
use super::labels::numbered;
use super::left_out::LeftOut;
use super::section::{self, Section};
use super::shards::{self, Shard};
use super::{Image, Source, tar};

/// First bytes of an index file; they change with its format.
const MAGIC: &[u8] = b"sslmem webdataset 2\n";

/// Headers that are reread before a cached index is trusted.
const ASKED: usize = 8;

/// Images stay in their tar files and are read by offset, in any order. Only names, offsets and labels are in memory.
pub struct WebDataset {
    shards: Vec<Shard>,
    indices: Vec<Option<PathBuf>>, // for each shard
    samples: Vec<(u32, Sample)>,   // shard, what it holds
    labels: Vec<Option<u32>>,
    classes: Vec<String>,
    left_out: Vec<(String, String)>,
    digest: String,
    largest: OnceLock<usize>,
}

/// The index of one shard, cached between openings.
#[derive(Serialize, Deserialize)]
struct Index {
    path: String,
    length: u64,
    times: [(u64, u32); 2], // modified and created: s, ns since 1970
    digest: String,
    samples: Vec<Sample>,
    left_out: LeftOut,
}

impl WebDataset {
    /// Reads the headers of every shard, in parallel, or the index that an earlier opening wrote into the folder `cache`.
    ///
    /// Consecutive members whose names are equal up to the first dot after the last slash are one sample. Its image is the first member
    /// with an image's ending; its label is the content of `.cls`, or `label` or `cls` in `.json`. If no member has an image's ending right
    /// after that dot, as with `a.left.png` and `a.right.png`, each image is a sample of its own, with the label in `a.left.cls` or else in
    /// `a.cls`. Members called `__like_this__` are skipped. Ids are `SHARD/KEY`, in the order of shards and of members. The digest covers
    /// names, lengths and offsets of all members and the labels, not the images.
    ///
    /// Further images of a sample, links and unreadable labels are listed in [`Source::left_out`].
    ///
    /// # Errors
    /// No such file, broken or compressed tar files, two members of one name in a sample, no image at all.
    pub fn open(pattern: &str, cache: Option<&Path>) -> Result<WebDataset> {
        let shards = shards::find(pattern, "tar")?;
        let indices: Vec<Result<_>> = shards.par_iter().map(|shard| index(shard, cache)).collect();
        let (mut samples, mut labels, mut left_out, mut places) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut digest = blake3::Hasher::new();
        digest.update(b"webdataset");
        for (number, index) in indices.into_iter().enumerate() {
            let (index, place) = index?;
            digest.update(index.digest.as_bytes());
            for mut sample in index.samples {
                labels.push(sample.label.take());
                samples.push((number as u32, sample));
            }
            left_out.extend(index.left_out.list(&shards[number].name));
            places.push(place);
        }
        if samples.is_empty() {
            return Err(Error::config(format!("there is no image in `{pattern}`"), "samples need a member that ends like .jpg or .png"));
        }
        let (labels, classes) = numbered(labels);
        let digest = digest.finalize().to_hex().to_string();
        Ok(WebDataset { shards, indices: places, samples, labels, classes, left_out, digest, largest: OnceLock::new() })
    }

    /// After a failed read the index may be stale, so it is removed and the next opening makes another.
    fn believed<T>(&self, index: usize, outcome: Result<T>) -> Result<T> {
        if let (Err(Error::Io { .. }), Some(place)) = (&outcome, &self.indices[self.samples[index].0 as usize]) {
            let _ = fs::remove_file(place);
        }
        outcome
    }

    fn section(&self, index: usize) -> (Section, String) {
        let (shard, sample) = &self.samples[index];
        let section = Section::member(&self.shards[*shard as usize].path, sample.offset, sample.size, sample.check);
        (section, format!("{}.{}", sample.key, sample.ending))
    }
}

impl Source for WebDataset {
    fn name(&self) -> &str {
        "webdataset"
    }
    fn len(&self) -> usize {
        self.samples.len()
    }
    fn train_len(&self) -> usize {
        self.samples.len()
    }
    fn id(&self, index: usize) -> String {
        let (shard, sample) = &self.samples[index];
        format!("{}/{}", self.shards[*shard as usize].name, sample.key)
    }
    fn label(&self, index: usize) -> Option<u32> {
        self.labels[index]
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn digest(&self) -> &str {
        &self.digest
    }
    fn largest(&self) -> usize {
        *self.largest.get_or_init(|| section::largest(self.samples.len(), |index| self.section(index)))
    }
    fn image(&self, index: usize) -> Result<Image> {
        let (section, name) = self.section(index);
        self.believed(index, section.image(&name))
    }
    fn image_within(&self, index: usize, admit: &mut dyn FnMut(u64) -> bool) -> Result<Option<(Image, Option<blake3::Hash>)>> {
        let (section, name) = self.section(index);
        self.believed(index, section.image_within(&name, admit))
    }
    fn file(&self, index: usize) -> Result<Option<Vec<u8>>> {
        self.believed(index, self.section(index).0.read().map(Some))
    }
    fn left_out(&self) -> &[(String, String)] {
        &self.left_out
    }
}

/// The index of a shard, from the cache if that is of this file, else from the headers; and its path in the cache.
fn index(shard: &Shard, cache: Option<&Path>) -> Result<(Index, Option<PathBuf>)> {
    let path = fs::canonicalize(&shard.path).map_err(Error::io("read", &shard.path))?.display().to_string();
    let state = fs::metadata(&shard.path).map_err(Error::io("read", &shard.path))?;
    // Not every file system stores the time of creation.
    let times = [state.modified(), state.created()].map(|time| {
        let time = time.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        (time.as_secs(), time.subsec_nanos())
    });
    let place = cache.map(|cache| cache.join(format!("{}.webdataset", &blake3::hash(path.as_bytes()).to_hex()[..32])));
    let fits = |index: &Index| {
        let inside = |s: &Sample| s.offset >= tar::BLOCK && s.offset.checked_add(s.size).is_some_and(|end| end <= state.len());
        let same = index.path == path && index.length == state.len() && index.times == times && index.samples.iter().all(inside);
        same && believable(shard, &index.samples)
    };
    if let Some(index) = place.as_deref().and_then(kept).filter(fits) {
        return Ok((index, place));
    }
    let (digest, Grouping { samples, left_out, .. }) = read(shard, state.len()).map_err(|what| Error::format(&shard.path, what))?;
    let index = Index { path, length: state.len(), times, digest, samples, left_out };
    if let Some(place) = &place {
        // A cache that cannot be written only costs time at the next opening.
        let _ = keep(place, &index);
    }
    Ok((index, place))
}

/// Whether some members, spread from the first to the last, still have the same headers. The file's times alone do not prove it: `cp -p`
/// and `rsync -t` keep them. Each member is compared again when it is read.
fn believable(shard: &Shard, samples: &[Sample]) -> bool {
    let step = samples.len().div_ceil(ASKED).max(1);
    let mut some = samples.iter().step_by(step).chain(samples.last());
    some.all(|s| Section::member(&shard.path, s.offset, s.size, s.check).is_there())
}

/// An index file is the magic, BLAKE3 of the rest, and the rest as JSON.
fn kept(place: &Path) -> Option<Index> {
    let bytes = fs::read(place).ok()?;
    let (digest, text) = bytes.strip_prefix(MAGIC)?.split_at_checked(blake3::OUT_LEN)?;
    if blake3::hash(text).as_bytes() != digest {
        return None;
    }
    serde_json::from_slice(text).ok()
}

fn keep(place: &Path, index: &Index) -> Result<()> {
    files::create_dir(place.parent().unwrap_or(Path::new(".")))?;
    let text = serde_json::to_vec(index).unwrap_or_default();
    files::write_whole(place, &[MAGIC, blake3::hash(&text).as_bytes(), &text].concat())
}

/// The digest and the index of one shard.
fn read(shard: &Shard, length: u64) -> std::result::Result<(String, Grouping), String> {
    let file = File::open(&shard.path).map_err(|error| error.to_string())?;
    let mut grouping = Grouping::default();
    let digest = &mut grouping.digest;
    digest.update(&(shard.name.len() as u64).to_le_bytes()).update(shard.name.as_bytes()).update(&length.to_le_bytes());
    // A small buffer, because headers lie far apart.
    let mut reader = BufReader::with_capacity(4096, file);
    tar::scan(&mut reader, length, |reader, member| grouping.add(reader, member))?;
    grouping.close();
    Ok((grouping.digest.finalize().to_hex().to_string(), grouping))
}
