//! Parquet files with encoded images, as on Hugging Face.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::Length;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::pages::{self, Pages, sentence};

use super::decode::{self, LIMIT};
use super::labels::{label, numbered};
use super::shards::{self, Shard};
use super::{Image, Source};

/// Where the encoded images are, in the order of preference: a struct of bytes and path, or a column of bytes.
const IMAGE: [&str; 4] = ["image.bytes", "img.bytes", "image", "img"];
const LABEL: [&str; 3] = ["label", "labels", "fine_label"];

/// Bytes of encoded images that stay in memory, and that one row group may have.
const CACHE: usize = 512 << 20;
const GROUP: usize = 2 << 30;

/// Even an image of one pixel, repeated for ever, takes more bytes a row than this.
const ROW: u64 = 8;

/// Images stay in their files; a row group is read when an image of it is asked for, and kept until others have taken its place.
///
/// That suits reading in order. Where samples are taken at random, as in training, every image costs a row group: pack the data first
/// (`sslmem pack`), or write row groups of about a hundred images, as Hugging Face's own programs do.
pub struct Parquet {
    files: Vec<Opened>,
    groups: Vec<Group>,
    labels: Vec<Option<u32>>,
    classes: Vec<String>,
    digest: String,
    largest: OnceLock<usize>,
    recent: Mutex<Vec<(usize, Encoded)>>, // the latest first: number of the group, its images
}

/// The encoded images of a row group; a null is none.
type Encoded = Arc<Vec<Option<ByteArray>>>;

struct Opened {
    shard: Shard,
    metadata: ParquetMetaData,
    image: usize,
    first: usize, // sample
}

struct Group {
    file: usize,
    number: usize, // within the file
    first: usize,  // sample
}

impl Parquet {
    /// Reads the footer and the labels of every file, in parallel. Ids are `FILE/ROW`; a label of -1 or null is none; class names are
    /// those that Hugging Face writes into the footer. The digest covers names, lengths, footers (with the place and size of every
    /// row group) and labels, not the images.
    ///
    /// # Errors
    /// No such file, files that are no Parquet or have no column of images, compressions that this program has no decoder for.
    pub fn open(pattern: &str) -> Result<Parquet> {
        let shards = shards::find(pattern, "parquet")?;
        let opened: Vec<Result<_>> = shards.into_par_iter().map(opened).collect();
        let (mut files, mut groups, mut labels): (Vec<Opened>, Vec<_>, Vec<_>) = Default::default();
        let mut digest = blake3::Hasher::new();
        digest.update(b"parquet");
        for file in opened {
            let (mut file, own, footer) = file?;
            file.first = labels.len();
            digest.update(&(file.shard.name.len() as u64).to_le_bytes()).update(file.shard.name.as_bytes());
            digest.update(&file.shard.length.to_le_bytes()).update(footer.as_bytes());
            let mut first = labels.len();
            for (number, group) in file.metadata.row_groups().iter().enumerate().filter(|(_, group)| group.num_rows() > 0) {
                groups.push(Group { file: files.len(), number, first });
                first += group.num_rows() as usize;
            }
            for label in &own {
                digest.update(&label.map_or(-1, i64::from).to_le_bytes());
            }
            labels.extend(own);
            files.push(file);
        }
        if labels.is_empty() || u32::try_from(labels.len()).is_err() {
            let what = format!("`{pattern}` has {} rows", labels.len());
            return Err(Error::config(what, "name files that hold between 1 and 4294967295"));
        }
        let named = files.iter().find_map(|file| class_names(&file.metadata));
        let classes = named.unwrap_or_else(|| numbered(labels.iter().copied()));
        let digest = digest.finalize().to_hex().to_string();
        Ok(Parquet { files, groups, labels, classes, digest, largest: OnceLock::new(), recent: Mutex::default() })
    }

    /// The number of the row group and the row in it.
    fn find(&self, index: usize) -> (usize, usize) {
        let group = self.groups.partition_point(|group| group.first <= index) - 1;
        (group, index - self.groups[group].first)
    }

    /// The images of a row group, from memory or read. One is read at a time, so memory stays bounded with any number of threads.
    fn group(&self, number: usize) -> Result<Encoded> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = recent.iter().position(|(group, _)| *group == number) {
            let found = recent.remove(at);
            recent.insert(0, found);
            return Ok(recent[0].1.clone());
        }
        let images = Arc::new(self.read(number)?);
        recent.insert(0, (number, images.clone()));
        let bytes = |images: &Encoded| images.iter().flatten().map(ByteArray::len).sum::<usize>();
        while recent.len() > 1 && recent.iter().map(|(_, images)| bytes(images)).sum::<usize>() > CACHE {
            recent.pop();
        }
        Ok(images)
    }

    fn read(&self, number: usize) -> Result<Vec<Option<ByteArray>>> {
        let Group { file, number, .. } = &self.groups[number];
        let Opened { shard, metadata, image, .. } = &self.files[*file];
        // A handle of its own: the clones that the decoder makes of one share a position.
        let pages = File::open(&shard.path).map_err(Error::io("read", &shard.path))?;
        let pages = Arc::new(Pages::new(pages, LIMIT));
        if pages.len() != shard.length {
            return Err(Error::format(&shard.path, "the file was exchanged while it was in use"));
        }
        guarded(|| images(&pages, metadata, *number, *image)).map_err(|what| Error::format(&shard.path, what))
    }

    fn encoded(&self, index: usize) -> Result<ByteArray> {
        let (group, row) = self.find(index);
        let images = self.group(group)?;
        images[row].clone().ok_or_else(|| self.wrong(index, "there is no image in this row".into()))
    }

    fn wrong(&self, index: usize, what: String) -> Error {
        let file = &self.files[self.groups[self.find(index).0].file];
        Error::format(&file.shard.path, format!("row {}: {what}", index - file.first))
    }
}

/// A file's metadata and labels, and the digest of its footer.
fn opened(shard: Shard) -> Result<(Opened, Vec<Option<u32>>, blake3::Hash)> {
    let read = || {
        let file = File::open(&shard.path).map_err(|error| error.to_string())?;
        let pages = Arc::new(Pages::new(file, LIMIT));
        let broken = |error| format!("this is not a whole Parquet file: {}", sentence(&error));
        let metadata = ParquetMetaDataReader::new().parse_and_finish(pages.file()).map_err(broken)?;
        let image = check(&metadata, shard.length)?;
        let mut labels = Vec::new();
        for number in 0..metadata.num_row_groups() {
            labels.extend(group_labels(&pages, &metadata, number)?);
        }
        let footer = footer(pages.file(), shard.length).map_err(|error| error.to_string())?;
        Ok((metadata, image, labels, footer))
    };
    let (metadata, image, labels, footer) = guarded(read).map_err(|what| Error::format(&shard.path, what))?;
    Ok((Opened { shard, metadata, image, first: 0 }, labels, footer))
}

/// The decoder asserts things that a broken file can violate.
fn guarded<T>(work: impl FnOnce() -> std::result::Result<T, String>) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("this Parquet file is broken".into()))
}

/// The digest of the metadata, whose length stands before the magic at the end.
fn footer(mut file: &File, length: u64) -> std::io::Result<blake3::Hash> {
    let mut end = [0; 8];
    file.seek(SeekFrom::Start(length.saturating_sub(8)))?;
    file.read_exact(&mut end)?;
    let size = u32::from_le_bytes([end[0], end[1], end[2], end[3]]) as u64;
    file.seek(SeekFrom::Start(length.saturating_sub(8 + size)))?;
    let mut digest = blake3::Hasher::new();
    digest.update_reader(file.take(size))?;
    Ok(digest.finalize())
}

fn column(metadata: &ParquetMetaData, names: &[&str]) -> Option<usize> {
    let columns = metadata.file_metadata().schema_descr().columns();
    names.iter().find_map(|name| columns.iter().position(|column| column.path().string() == *name))
}

/// Refuses sizes that the file cannot hold, before anything is reserved for them, and what cannot be decoded. The place of the images.
fn check(metadata: &ParquetMetaData, length: u64) -> std::result::Result<usize, String> {
    let image = column(metadata, &IMAGE);
    let image = image.ok_or("there is no column of images (`image`, or `img`, of bytes or of a struct with `bytes`)")?;
    let fits = |value: i64| value >= 0 && value as u64 <= length;
    let mut rows = 0u64;
    for group in metadata.row_groups() {
        rows = rows.saturating_add(u64::try_from(group.num_rows()).unwrap_or(u64::MAX));
        if rows > length / ROW {
            return Err("it claims more rows than it can hold".into());
        }
        for place in [Some(image), column(metadata, &LABEL)].into_iter().flatten() {
            let chunk = group.column(place);
            let name = chunk.column_path().string();
            let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
            if !fits(start) || !fits(chunk.compressed_size()) || !fits(start.saturating_add(chunk.compressed_size())) {
                return Err(format!("the column `{name}` lies outside the file"));
            }
            if chunk.uncompressed_size() > GROUP as i64 {
                return Err(format!("a row group of `{name}` has more than {} MiB; write smaller row groups", GROUP >> 20));
            }
            pages::decodable(chunk)?;
            if chunk.column_descr().max_rep_level() > 0 {
                return Err(format!("the column `{name}` holds lists"));
            }
        }
    }
    Ok(image)
}

fn images(
    pages: &Arc<Pages>,
    metadata: &ParquetMetaData,
    number: usize,
    place: usize,
) -> std::result::Result<Vec<Option<ByteArray>>, String> {
    let group = metadata.row_group(number);
    let chunk = group.column(place);
    let name = chunk.column_path().string();
    let broken = |error| format!("the column `{name}` is broken: {}", sentence(&error));
    let rows = group.num_rows() as usize; // checked to be no more than the file can hold
    let ColumnReader::ByteArrayColumnReader(reader) = pages::column(pages, chunk, rows).map_err(broken)? else {
        return Err(format!("the column `{name}` does not hold bytes"));
    };
    pages::values(reader, rows, chunk.column_descr().max_def_level()).map_err(broken)
}

fn group_labels(pages: &Arc<Pages>, metadata: &ParquetMetaData, number: usize) -> std::result::Result<Vec<Option<u32>>, String> {
    let group = metadata.row_group(number);
    let rows = group.num_rows() as usize;
    let Some(place) = column(metadata, &LABEL) else { return Ok(vec![None; rows]) };
    let chunk = group.column(place);
    let name = chunk.column_path().string();
    let broken = |error| format!("the column `{name}` is broken: {}", sentence(&error));
    let present = chunk.column_descr().max_def_level();
    let numbers: Vec<Option<i64>> = match pages::column(pages, chunk, rows).map_err(broken)? {
        ColumnReader::Int64ColumnReader(reader) => pages::values(reader, rows, present).map_err(broken)?,
        ColumnReader::Int32ColumnReader(reader) => {
            pages::values(reader, rows, present).map_err(broken)?.into_iter().map(|v| v.map(i64::from)).collect()
        }
        _ => return Err(format!("the column `{name}` does not hold whole numbers")),
    };
    numbers.into_iter().map(|number| label(number.unwrap_or(-1)).map_err(|what| format!("`{name}`: {what}"))).collect()
}

/// The names that Hugging Face's `datasets` writes for a column of class labels.
fn class_names(metadata: &ParquetMetaData) -> Option<Vec<String>> {
    let pairs = metadata.file_metadata().key_value_metadata()?;
    let text = pairs.iter().find(|pair| pair.key == "huggingface")?.value.as_deref()?;
    let features = serde_json::from_str::<serde_json::Value>(text).ok()?;
    let features = features.get("info")?.get("features")?;
    let names = LABEL.iter().find_map(|label| features.get(label)?.get("names")?.as_array())?;
    names.iter().map(|name| name.as_str().map(String::from)).collect()
}

impl Source for Parquet {
    fn name(&self) -> &str {
        "parquet"
    }
    fn len(&self) -> usize {
        self.labels.len()
    }
    fn train_len(&self) -> usize {
        self.labels.len()
    }
    fn id(&self, index: usize) -> String {
        let file = &self.files[self.groups[self.find(index).0].file];
        format!("{}/{:06}", file.shard.name, index - file.first)
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
    /// Asked for the first time, it reads all images.
    fn largest(&self) -> usize {
        *self.largest.get_or_init(|| {
            let in_group = |number| {
                let sizes =
                    self.read(number).unwrap_or_default().into_iter().flatten().filter_map(|bytes| decode::size(bytes.data(), "").ok());
                sizes.map(|(height, width)| height * width * 3).max().unwrap_or(0)
            };
            (0..self.groups.len()).into_par_iter().map(in_group).max().unwrap_or(0)
        })
    }
    fn image(&self, index: usize) -> Result<Image> {
        decode::decode(self.encoded(index)?.data(), "").map_err(|what| self.wrong(index, what))
    }
    fn image_and_content(&self, index: usize) -> Result<(Image, Option<blake3::Hash>)> {
        Ok((self.image(index)?, self.content(index)?))
    }
    fn content(&self, index: usize) -> Result<Option<blake3::Hash>> {
        Ok(Some(blake3::hash(self.encoded(index)?.data())))
    }
    fn file(&self, index: usize) -> Result<Option<Vec<u8>>> {
        Ok(Some(self.encoded(index)?.data().to_vec()))
    }
}
