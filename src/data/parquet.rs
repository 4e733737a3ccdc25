//! Parquet files with encoded images, as on Hugging Face.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::reader::Length;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::parquet_pages::{self, Pages, sentence};

use super::columns::{Columns, class_names};
use super::decode;
use super::labels::{Label, numbered};
use super::limits::LIMIT;
use super::reading::Reading;
use super::shards::{self, Shard};
use super::{Image, Source};

/// Bytes of encoded images kept in memory.
const CACHE: usize = 512 << 20;

/// Fewest bytes of a row in a file, even if one tiny image is repeated. Bounds the rows that a file can claim.
const ROW: u64 = 8;

/// Images stay in their files. A row group is read when one of its images is asked for, and kept until later groups replace it.
///
/// That suits reading in order. In random order, as in training, every image costs the read of a row group: pack the data first (`sslmem
/// pack`), or write row groups of about a hundred images, as Hugging Face's own programs do.
pub struct Parquet {
    files: Vec<Opened>,
    groups: Vec<Group>,
    labels: Vec<Option<u32>>,
    classes: Vec<String>,
    left_out: Vec<(String, String)>,
    digest: String,
    largest: OnceLock<usize>,
    recent: Mutex<Vec<(usize, Encoded)>>, // the latest first: number of the group, its images
}

/// The encoded images of a row group; a null has no image.
type Encoded = Arc<Vec<Option<ByteArray>>>;

struct Opened {
    shard: Shard,
    metadata: ParquetMetaData,
    modified: Option<SystemTime>,
    image: usize,
    first: usize, // sample
}

/// Contents read when a file is opened.
struct First {
    file: Opened,
    labels: Vec<Option<Label>>,
    footer: blake3::Hash,
    left_out: Vec<(String, String)>,
}

struct Group {
    file: usize,
    number: usize, // within the file
    first: usize,  // sample
}

impl Parquet {
    /// Reads the footer and the labels of every file, in parallel. Images are in the column that Hugging Face's `datasets` declares in the
    /// footer, else in the one called `image` or `img`, else in the first whose bytes begin like an image. Ids are `FILE/ROW`. A negative
    /// label or a null means no label; text is a class name; class names come from the footer if it has any. The digest covers names,
    /// lengths, footers (with offset and size of every row group) and labels, not the images.
    ///
    /// # Errors
    /// No such file, files that are no Parquet or have no column of images, compressions without a decoder here.
    pub fn open(pattern: &str) -> Result<Parquet> {
        let shards = shards::find(pattern, "parquet")?;
        let opened: Vec<Result<_>> = shards.into_par_iter().map(opened).collect();
        let (mut files, mut groups, mut labels): (Vec<Opened>, Vec<_>, Vec<_>) = Default::default();
        let mut left_out = Vec::new();
        let mut digest = blake3::Hasher::new();
        digest.update(b"parquet");
        for first in opened {
            let First { mut file, labels: own, footer, left_out: of_file } = first?;
            file.first = labels.len();
            digest.update(&(file.shard.name.len() as u64).to_le_bytes()).update(file.shard.name.as_bytes());
            digest.update(&file.shard.length.to_le_bytes()).update(footer.as_bytes());
            let mut first = labels.len();
            for (number, group) in file.metadata.row_groups().iter().enumerate().filter(|(_, group)| group.num_rows() > 0) {
                groups.push(Group { file: files.len(), number, first });
                first += group.num_rows() as usize;
            }
            own.iter().for_each(|label| Label::digest(label, &mut digest));
            labels.extend(own);
            left_out.extend(of_file);
            files.push(file);
        }
        if labels.is_empty() || u32::try_from(labels.len()).is_err() {
            let what = format!("`{pattern}` has {} rows", labels.len());
            return Err(Error::config(what, "name files that hold between 1 and 4294967295"));
        }
        let (labels, numbered) = numbered(labels);
        let classes = files.iter().find_map(|file| class_names(&file.metadata)).unwrap_or(numbered);
        let digest = digest.finalize().to_hex().to_string();
        Ok(Parquet { files, groups, labels, classes, left_out, digest, largest: OnceLock::new(), recent: Mutex::default() })
    }

    /// The number of the row group and the row in it.
    fn find(&self, index: usize) -> (usize, usize) {
        let group = self.groups.partition_point(|group| group.first <= index) - 1;
        (group, index - self.groups[group].first)
    }

    /// The images of a row group, cached or read. One group is read at a time, so memory stays bounded with any number of threads.
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
        let Opened { shard, metadata, modified, image, .. } = &self.files[*file];
        // A new handle for each read, because clones of one, which the decoder makes, share a position.
        let pages = File::open(&shard.path).map_err(Error::io("read", &shard.path))?;
        let now = pages.metadata().and_then(|metadata| metadata.modified()).ok();
        let pages = Arc::new(Pages::new(pages, LIMIT));
        if pages.len() != shard.length || now != *modified {
            let what = "it was changed after its labels were read; start the same command again, with --force where it had begun to write";
            return Err(Error::io("read", &shard.path)(std::io::Error::other(what)));
        }
        // An error of the disk must not count as a bad image.
        guarded(|| Ok(images(&shard.path, &pages, metadata, *number, *image))).map_err(|what| Error::format(&shard.path, what))?
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

fn opened(shard: Shard) -> Result<First> {
    let file = File::open(&shard.path).map_err(Error::io("read", &shard.path))?;
    let modified = file.metadata().and_then(|metadata| metadata.modified()).ok();
    let read = || {
        let pages = Arc::new(Pages::new(file, LIMIT));
        let broken = |error| format!("this is not a whole Parquet file: {}", sentence(&error));
        let metadata = ParquetMetaDataReader::new().parse_and_finish(pages.file()).map_err(broken)?;
        plausible(&metadata, shard.length)?;
        let mut columns = Columns::find(&pages, &metadata, shard.length)?;
        let mut labels = Vec::new();
        for number in 0..metadata.num_row_groups() {
            labels.extend(columns.labels(&pages, &metadata, number)?);
        }
        let footer = footer(pages.file(), shard.length).map_err(|error| error.to_string())?;
        Ok((metadata, columns, labels, footer))
    };
    let (metadata, columns, labels, footer) = guarded(read).map_err(|what| Error::format(&shard.path, what))?;
    let (image, left_out) = (columns.image, columns.left_out.list(&shard.name));
    Ok(First { file: Opened { shard, metadata, modified, image, first: 0 }, labels, footer, left_out })
}

/// Refuses sizes that the file cannot hold, before anything is allocated for them.
fn plausible(metadata: &ParquetMetaData, length: u64) -> std::result::Result<(), String> {
    let rows = |group: &RowGroupMetaData| u64::try_from(group.num_rows()).unwrap_or(u64::MAX);
    let rows = metadata.row_groups().iter().fold(0u64, |sum, group| sum.saturating_add(rows(group)));
    if rows > length / ROW { Err("it claims more rows than it can hold".into()) } else { Ok(()) }
}

/// Turns a panic into an error: the decoder asserts conditions that a broken file violates.
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

fn images(path: &Path, pages: &Arc<Pages>, metadata: &ParquetMetaData, number: usize, place: usize) -> Result<Vec<Option<ByteArray>>> {
    let group = metadata.row_group(number);
    let chunk = group.column(place);
    let name = chunk.column_path().string();
    let broken = |error| parquet_pages::fault(path, &format!("the column `{name}`"), error);
    let rows = group.num_rows() as usize; // checked to be no more than the file can hold
    let ColumnReader::ByteArrayColumnReader(reader) = parquet_pages::column(pages, chunk, rows).map_err(broken)? else {
        return Err(Error::format(path, format!("the column `{name}` does not hold bytes")));
    };
    parquet_pages::values(reader, rows, chunk.column_descr().max_def_level()).map_err(broken)
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
    /// The first call reads all images.
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
    fn image_within(&self, index: usize, admit: &mut dyn FnMut(u64) -> bool) -> Result<Option<(Image, Option<blake3::Hash>)>> {
        let encoded = self.encoded(index)?;
        let image = decode::decode_within(encoded.data(), "", Reading::USUAL, admit).map_err(|what| self.wrong(index, what))?;
        Ok(image.map(|image| (image, Some(blake3::hash(encoded.data())))))
    }
    fn content(&self, index: usize) -> Result<Option<blake3::Hash>> {
        Ok(Some(blake3::hash(self.encoded(index)?.data())))
    }
    fn file(&self, index: usize) -> Result<Option<Vec<u8>>> {
        Ok(Some(self.encoded(index)?.data().to_vec()))
    }
    fn left_out(&self) -> &[(String, String)] {
        &self.left_out
    }
}
