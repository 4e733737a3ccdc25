//! Finds the columns of images and labels in a Parquet file.

use std::sync::Arc;

use parquet::basic::Type;
use parquet::column::reader::ColumnReader;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use serde_json::Value;

use crate::parquet_pages::{self, Pages, sentence};

use super::decode;
use super::labels::Label;
use super::left_out::LeftOut;

/// Usual names of the columns, for files that declare none, in the order of preference.
const IMAGE: [&str; 2] = ["image", "img"];
const LABEL: [&str; 3] = ["label", "labels", "fine_label"];

/// Most bytes of images in one row group.
const GROUP: usize = 2 << 30;

/// Rows searched for one that begins like an image.
const LOOKED_AT: usize = 8;

/// The columns of one file.
pub struct Columns {
    pub image: usize,
    label: Option<usize>,
    pub left_out: LeftOut,
}

impl Columns {
    /// # Errors
    /// There is no column of images, or it holds something else or cannot be read here.
    pub fn find(pages: &Arc<Pages>, metadata: &ParquetMetaData, length: u64) -> Result<Columns, String> {
        let mut left_out = LeftOut::default();
        let said = features(metadata, "Image");
        let called = |names: &[&str]| names.iter().filter_map(|name| column(metadata, name)).collect::<Vec<_>>();
        // If several are declared as images, the one with the usual name.
        let mut ordered: Vec<&str> = IMAGE.into_iter().filter(|name| said.iter().any(|s| s == name)).collect();
        ordered.extend(said.iter().map(|name| &name[..]).filter(|name| !IMAGE.contains(name)));
        let mut found = called(&ordered);
        if found.is_empty() {
            found = called(&IMAGE);
            found.truncate(1);
        }
        if found.is_empty() {
            found = (0..columns(metadata)).filter(|&place| begins_like_an_image(pages, metadata, place, length)).collect();
        }
        let [image, others @ ..] = &found[..] else {
            return Err("there is no column of images (bytes, or a struct with `bytes`)".into());
        };
        for &other in others {
            left_out.add(name(metadata, other), format!("this column holds images, too; those in `{}` are read", name(metadata, *image)));
        }
        readable(metadata, *image, length)?;
        let classes = features(metadata, "ClassLabel");
        // The values of a list are nested deeper; the error for that is below.
        let within = |wanted: &str| (0..columns(metadata)).find(|&place| name(metadata, place).split('.').next() == Some(wanted));
        let label = LABEL.into_iter().chain(classes.iter().map(|name| &name[..])).find_map(within);
        let mut columns = Columns { image: *image, label, left_out };
        if let Some(Err(what)) = label.map(|place| inside(metadata, place, length)) {
            columns.no_labels(metadata, what);
        }
        Ok(columns)
    }

    /// The labels of a row group. An unreadable label counts as none and is listed in `left_out`.
    ///
    /// # Errors
    /// The column of labels is damaged.
    pub fn labels(&mut self, pages: &Arc<Pages>, metadata: &ParquetMetaData, number: usize) -> Result<Vec<Option<Label>>, String> {
        let group = metadata.row_group(number);
        let rows = group.num_rows() as usize;
        let Some(place) = self.label else { return Ok(vec![None; rows]) };
        let chunk = group.column(place);
        let broken = |error| format!("the column `{}` is broken: {}", name(metadata, place), sentence(&error));
        let present = chunk.column_descr().max_def_level();
        let each: Vec<Option<Labelled>> = match parquet_pages::column(pages, chunk, rows).map_err(broken)? {
            ColumnReader::Int64ColumnReader(reader) => read(reader, rows, present, Label::whole).map_err(broken)?,
            ColumnReader::Int32ColumnReader(reader) => read(reader, rows, present, |v: i32| Label::whole(v.into())).map_err(broken)?,
            ColumnReader::DoubleColumnReader(reader) => read(reader, rows, present, Label::real).map_err(broken)?,
            ColumnReader::FloatColumnReader(reader) => read(reader, rows, present, |v: f32| Label::real(v.into())).map_err(broken)?,
            ColumnReader::BoolColumnReader(reader) => read(reader, rows, present, |v: bool| Ok(Some(Label::flag(v)))).map_err(broken)?,
            ColumnReader::ByteArrayColumnReader(reader) => {
                let text = |v: parquet::data_type::ByteArray| match std::str::from_utf8(v.data()) {
                    Ok(text) => Label::text(text),
                    Err(_) => Err("it is not text (UTF-8)".into()),
                };
                read(reader, rows, present, text).map_err(broken)?
            }
            _ => {
                self.no_labels(metadata, "it holds neither numbers nor text".into());
                return Ok(vec![None; rows]);
            }
        };
        let mut label = |(row, read): (usize, Option<Labelled>)| {
            read.transpose().map(Option::flatten).unwrap_or_else(|what| {
                self.left_out.add(format!("row {row} of row group {number}"), format!("the sample has no label: {what}"));
                None
            })
        };
        Ok(each.into_iter().enumerate().map(&mut label).collect())
    }

    fn no_labels(&mut self, metadata: &ParquetMetaData, what: String) {
        if let Some(place) = self.label.take() {
            self.left_out.add(name(metadata, place), format!("labels are not read from this column: {what}"));
        }
    }
}

/// The label in a value, or the reason why it is unreadable.
type Labelled = Result<Option<Label>, String>;

/// Every value of a column as a label.
fn read<T: parquet::data_type::DataType>(
    reader: parquet::column::reader::ColumnReaderImpl<T>,
    rows: usize,
    present: i16,
    label: impl Fn(T::T) -> Labelled,
) -> parquet_pages::Outcome<Vec<Option<Labelled>>> {
    Ok(parquet_pages::values(reader, rows, present)?.into_iter().map(|value| value.map(&label)).collect())
}

fn columns(metadata: &ParquetMetaData) -> usize {
    metadata.file_metadata().schema_descr().num_columns()
}

fn name(metadata: &ParquetMetaData, place: usize) -> String {
    metadata.file_metadata().schema_descr().column(place).path().string()
}

/// The column of this name, or its `bytes` if it is a struct.
fn column(metadata: &ParquetMetaData, wanted: &str) -> Option<usize> {
    let inner = format!("{wanted}.bytes");
    (0..columns(metadata))
        .find(|&place| name(metadata, place) == inner)
        .or_else(|| (0..columns(metadata)).find(|&place| name(metadata, place) == wanted))
}

/// Whether the file can hold a column of the declared size, and there is a decoder for it.
fn inside(metadata: &ParquetMetaData, place: usize, length: u64) -> Result<(), String> {
    let fits = |value: i64| value >= 0 && value as u64 <= length;
    for group in metadata.row_groups() {
        let chunk = group.column(place);
        let name = chunk.column_path().string();
        let start = start(chunk);
        if !fits(start) || !fits(chunk.compressed_size()) || !fits(start.saturating_add(chunk.compressed_size())) {
            return Err(format!("the column `{name}` lies outside the file"));
        }
        if chunk.uncompressed_size() > GROUP as i64 {
            return Err(format!("a row group of `{name}` has more than {} MiB; write smaller row groups", GROUP >> 20));
        }
        parquet_pages::decodable(chunk)?;
        if chunk.column_descr().max_rep_level() > 0 {
            return Err(format!("the column `{name}` holds lists"));
        }
    }
    Ok(())
}

fn start(chunk: &ColumnChunkMetaData) -> i64 {
    chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset())
}

/// Whether a column can hold images.
fn readable(metadata: &ParquetMetaData, place: usize, length: u64) -> Result<(), String> {
    let kind = metadata.file_metadata().schema_descr().column(place).physical_type();
    if kind != Type::BYTE_ARRAY {
        return Err(format!("the column `{}` does not hold bytes of image files ({kind})", name(metadata, place)));
    }
    inside(metadata, place, length)
}

/// Whether one of the first values of a column is an image file.
fn begins_like_an_image(pages: &Arc<Pages>, metadata: &ParquetMetaData, place: usize, length: u64) -> bool {
    if readable(metadata, place, length).is_err() {
        return false;
    }
    let Some(group) = metadata.row_groups().iter().find(|group| group.num_rows() > 0) else { return false };
    let chunk = group.column(place);
    let rows = LOOKED_AT.min(group.num_rows() as usize);
    let Ok(ColumnReader::ByteArrayColumnReader(reader)) = parquet_pages::column(pages, chunk, group.num_rows() as usize) else {
        return false;
    };
    let values = parquet_pages::values(reader, rows, chunk.column_descr().max_def_level()).unwrap_or_default();
    values.into_iter().flatten().any(|bytes| decode::size(bytes.data(), "").is_ok())
}

/// The features of this type that Hugging Face's `datasets` writes into the footer, by name.
fn features(metadata: &ParquetMetaData, kind: &str) -> Vec<String> {
    let of_kind = |(name, feature): (&String, &Value)| (feature.get("_type")?.as_str()? == kind).then(|| name.clone());
    said(metadata).as_ref().and_then(Value::as_object).into_iter().flatten().filter_map(of_kind).collect()
}

fn said(metadata: &ParquetMetaData) -> Option<Value> {
    let pairs = metadata.file_metadata().key_value_metadata()?;
    let text = pairs.iter().find(|pair| pair.key == "huggingface")?.value.as_deref()?;
    serde_json::from_str::<Value>(text).ok()?.get("info")?.get("features").cloned()
}

/// The class names that `datasets` writes for the column of labels.
pub fn class_names(metadata: &ParquetMetaData) -> Option<Vec<String>> {
    let features = said(metadata)?;
    let names = |feature: &Value| feature.get("names")?.as_array().cloned();
    let usual = LABEL.iter().find_map(|label| names(features.get(label)?));
    let names = usual.or_else(|| features.as_object()?.values().find_map(names))?;
    names.iter().map(|name| name.as_str().map(String::from)).collect()
}
