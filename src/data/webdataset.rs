//! WebDataset: tar files in which consecutive members of one name are one sample.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;

use super::labels::{label, numbered};
use super::section::{self, Section};
use super::shards::{self, Shard};
use super::tar::{self, Member};
use super::{Image, Source, decode};

/// Bytes of a member that holds a label.
const LABEL: u64 = 1 << 20;

/// What an index file begins with; changes with its format.
const MAGIC: &[u8] = b"sslmem webdataset 1\n";

/// Images stay in their tar files and are read by place, in any order. Only names, places and labels are in memory.
pub struct WebDataset {
    shards: Vec<Shard>,
    samples: Vec<(u32, Sample)>, // shard, what it holds
    classes: Vec<String>,
    digest: String,
    largest: OnceLock<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sample {
    key: String,
    ending: String,
    offset: u64,
    size: u64,
    label: Option<u32>,
}

/// What one shard holds, as it is kept between two openings.
#[derive(Serialize, Deserialize)]
struct Index {
    path: String,
    length: u64,
    modified: (u64, u32), // s, ns since 1970
    digest: String,
    samples: Vec<Sample>,
}

impl WebDataset {
    /// Reads the headers of every shard, in parallel, or takes what an earlier opening has written into the folder `cache`.
    ///
    /// Members whose names are equal up to the first dot behind the last slash are one sample. Its image is the member with the
    /// ending of an image, its label the integer in `.cls`, or `label` or `cls` in `.json`; samples without an image are passed over,
    /// as are members called `__like_this__`. Ids are `SHARD/KEY`, the order is that of the shards and in them that of the tar file.
    /// The digest covers names, lengths and places of all members and the labels, not the images.
    ///
    /// # Errors
    /// No such file, broken or compressed tar files, two members of one name in a sample, labels that are no numbers, no image at all.
    pub fn open(pattern: &str, cache: Option<&Path>) -> Result<WebDataset> {
        let shards = shards::find(pattern, "tar")?;
        let indices: Vec<Result<Index>> = shards.par_iter().map(|shard| index(shard, cache)).collect();
        let mut source = WebDataset { shards, samples: Vec::new(), classes: Vec::new(), digest: String::new(), largest: OnceLock::new() };
        let mut digest = blake3::Hasher::new();
        digest.update(b"webdataset");
        for (number, index) in indices.into_iter().enumerate() {
            let index = index?;
            digest.update(index.digest.as_bytes());
            source.samples.extend(index.samples.into_iter().map(|sample| (number as u32, sample)));
        }
        if source.samples.is_empty() {
            return Err(Error::config(format!("there is no image in `{pattern}`"), "samples need a member that ends like .jpg or .png"));
        }
        source.digest = digest.finalize().to_hex().to_string();
        source.classes = numbered(source.samples.iter().map(|(_, sample)| sample.label));
        Ok(source)
    }

    fn section(&self, index: usize) -> (Section, String) {
        let (shard, sample) = &self.samples[index];
        let section = Section::new(&self.shards[*shard as usize].path, sample.offset, sample.size);
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
        self.samples[index].1.label
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
        section.image(&name)
    }
    fn image_and_content(&self, index: usize) -> Result<(Image, Option<blake3::Hash>)> {
        let (section, name) = self.section(index);
        section.image_and_content(&name)
    }
    fn file(&self, index: usize) -> Result<Option<Vec<u8>>> {
        self.section(index).0.read().map(Some)
    }
}

/// From the cache if it is there and of this file, else from the headers.
fn index(shard: &Shard, cache: Option<&Path>) -> Result<Index> {
    let path = fs::canonicalize(&shard.path).map_err(Error::io("read", &shard.path))?.display().to_string();
    let state = fs::metadata(&shard.path).map_err(Error::io("read", &shard.path))?;
    let modified = state.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let modified = (modified.as_secs(), modified.subsec_nanos());
    let place = cache.map(|cache| cache.join(format!("{}.webdataset", &blake3::hash(path.as_bytes()).to_hex()[..32])));
    let fits = |index: &Index| {
        let inside = |s: &Sample| s.offset.checked_add(s.size).is_some_and(|end| end <= state.len());
        index.path == path && index.length == state.len() && index.modified == modified && index.samples.iter().all(inside)
    };
    if let Some(index) = place.as_deref().and_then(kept).filter(fits) {
        return Ok(index);
    }
    let (digest, samples) = read(shard, state.len()).map_err(|what| Error::format(&shard.path, what))?;
    let index = Index { path, length: state.len(), modified, digest, samples };
    if let Some(place) = place {
        // A disk that cannot be written costs time at the next opening, not the result.
        let _ = keep(&place, &index);
    }
    Ok(index)
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

/// The digest and the samples of one shard.
fn read(shard: &Shard, length: u64) -> std::result::Result<(String, Vec<Sample>), String> {
    let file = File::open(&shard.path).map_err(|error| error.to_string())?;
    let mut grouping = Grouping::default();
    let digest = &mut grouping.digest;
    digest.update(&(shard.name.len() as u64).to_le_bytes()).update(shard.name.as_bytes()).update(&length.to_le_bytes());
    // Headers are far apart, so there is no use in reading far ahead.
    let mut reader = BufReader::with_capacity(4096, file);
    tar::scan(&mut reader, length, |reader, member| grouping.add(reader, member))?;
    grouping.close();
    Ok((grouping.digest.finalize().to_hex().to_string(), grouping.samples))
}

/// Members on their way to becoming samples.
#[derive(Default)]
struct Grouping {
    digest: blake3::Hasher,
    samples: Vec<Sample>,
    key: String,
    endings: Vec<String>,
    image: Option<Member>,
    label: Option<u32>,
    /// Whether the label is that of `.cls`, which wins.
    certain: bool,
}

impl Grouping {
    fn add(&mut self, reader: &mut impl Read, member: Member) -> std::result::Result<(), String> {
        self.digest.update(&(member.name.len() as u64).to_le_bytes()).update(member.name.as_bytes());
        self.digest.update(&member.size.to_le_bytes()).update(&member.offset.to_le_bytes());
        let base = member.name.rfind('/').map_or(0, |slash| slash + 1);
        let Some(dot) = member.name[base..].find('.').filter(|&dot| dot > 0).map(|dot| base + dot) else { return Ok(()) };
        if is_about_the_shard(&member.name) {
            return Ok(());
        }
        let (key, ending) = (&member.name[..dot], member.name[dot + 1..].to_lowercase());
        if key != self.key {
            self.close();
            self.key = key.to_string();
        }
        if self.endings.contains(&ending) {
            return Err(format!("the sample `{key}` has two members that end in .{ending} (the second lies at offset {})", member.offset));
        }
        match &ending[..] {
            "cls" | "json" => {
                let found = read_label(reader, &member, ending == "cls").map_err(|what| format!("{}: {what}", member.name))?;
                self.digest.update(&found.map_or(-1, i64::from).to_le_bytes());
                if ending == "cls" || !self.certain {
                    self.label = found;
                }
                self.certain |= ending == "cls";
            }
            ending if self.image.is_none() && !ending.contains('.') && decode::is_image(format!("x.{ending}").as_ref()) => {
                self.image = Some(member);
            }
            _ => {}
        }
        self.endings.push(ending);
        Ok(())
    }

    /// The sample is complete.
    fn close(&mut self) {
        let (key, label) = (std::mem::take(&mut self.key), self.label.take());
        if let Some(image) = self.image.take() {
            let ending = image.name[key.len() + 1..].to_lowercase();
            self.samples.push(Sample { key, ending, offset: image.offset, size: image.size, label });
        }
        self.endings.clear();
        self.certain = false;
    }
}

/// Whether the name begins with a part `__like_this__`.
fn is_about_the_shard(name: &str) -> bool {
    let first = name.split('/').next().unwrap_or_default();
    first.len() > 4 && first.starts_with("__") && first.ends_with("__")
}

fn read_label(reader: &mut impl Read, member: &Member, is_number: bool) -> std::result::Result<Option<u32>, String> {
    if member.size > LABEL {
        return if is_number { Err(format!("has {} bytes, too many for a label", member.size)) } else { Ok(None) };
    }
    let mut bytes = vec![0; member.size as usize];
    reader.read_exact(&mut bytes).map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes).map_err(|_| "this is not text")?;
    if is_number {
        let number = text.trim().parse().map_err(|_| format!("`{}` is not a number", text.trim().chars().take(40).collect::<String>()))?;
        return label(number);
    }
    // JSON is also used for what has nothing to do with labels.
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| format!("this is not JSON: {error}"))?;
    let number = ["label", "cls"].iter().find_map(|key| value.get(key)?.as_i64());
    number.map_or(Ok(None), label)
}
