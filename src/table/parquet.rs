//! Score tables as Parquet: one row group per 65,536 rows, the same bytes for the same rows.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int32Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::Length;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{Type, TypePtr};

use super::{COLUMNS, More, Row, Sample, whole};
use crate::error::{Error, Result};
use crate::files;
use crate::files::Writer;
use crate::parquet_pages::{self, Outcome, Pages, sentence};
use crate::split::Subset;

/// Rows of a group.
pub const GROUP: usize = 65_536;
/// Most bytes of a page. Real pages have about 1 MB, so a header with more is broken.
const LARGEST_PAGE: u64 = 64 << 20;
/// The longest id: the longest path that Linux takes.
const LONGEST_ID: usize = 4096;

/// A table that is written one row group at a time.
pub struct Groups {
    file: SerializedFileWriter<Writer>,
    path: PathBuf,
}

impl Groups {
    /// A file with these `columns` (name, meaning): all of a table, or those that identify the row's sample.
    pub fn create(out: Writer, metadata: &[(String, String)], columns: Vec<(&'static str, &'static str)>) -> Result<Groups> {
        let path = out.path().to_path_buf();
        let about = columns.iter().map(|(name, meaning)| KeyValue::new(format!("sslmem.column.{name}"), meaning.to_string()));
        let pairs = metadata.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())).chain(about).collect();
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by("sslmem".into()) // without a version: the same rows give the same bytes
            .set_key_value_metadata(Some(pairs))
            .build();
        let file = schema(&columns).and_then(|schema| SerializedFileWriter::new(out, schema, Arc::new(properties)));
        Ok(Groups { file: file.map_err(|e| plain(&path, e))?, path })
    }

    /// Writes a row group: exactly [`GROUP`] rows, fewer only in the last group.
    pub fn group(&mut self, rows: &[Row]) -> Result<()> {
        encode(&mut self.file, rows).map_err(|e| plain(&self.path, e))
    }

    /// As `push` for a file that only identifies the samples of its rows.
    pub fn samples(&mut self, samples: &[Sample]) -> Result<()> {
        let mut write = || {
            let mut group = self.file.next_row_group()?;
            who(&mut group, samples.iter().map(|sample| (sample.index, &sample.id[..], sample.label)))?;
            group.close().map(drop)
        };
        write().map_err(|e| plain(&self.path, e))
    }

    pub fn finish(self) -> Result<Writer> {
        self.file.into_inner().map_err(|e| plain(&self.path, e))
    }
}

/// The disk's own error, if that was the cause.
fn plain(path: &Path, error: ParquetError) -> Error {
    match error {
        ParquetError::External(source) => match source.downcast::<std::io::Error>() {
            Ok(source) => Error::io("write", path)(*source),
            Err(other) => Error::format(path, other.to_string()),
        },
        other => Error::format(path, sentence(&other)),
    }
}

fn encode(file: &mut SerializedFileWriter<Writer>, rows: &[Row]) -> Outcome<()> {
    let mut group = file.next_row_group()?;
    who(&mut group, rows.iter().map(|r| (r.index, r.id.as_str(), r.label)))?;
    let subsets: Vec<ByteArray> = rows.iter().map(|r| ByteArray::from(r.subset.symbol())).collect();
    column::<ByteArrayType>(&mut group, &subsets, None)?;
    let (numbers, more) = (COLUMNS.len() - 4, rows.first().map_or(0, |row| row.more.len()));
    for number in 0..numbers + more {
        let value = |row: &Row| if number < numbers { row.numbers()[number] } else { row.more[number - numbers].1 };
        let all: Vec<f64> = rows.iter().map(value).collect();
        let levels: Vec<i16> = all.iter().map(|value| !value.is_nan() as i16).collect();
        let known: Vec<f64> = all.into_iter().filter(|value| !value.is_nan()).collect();
        column::<DoubleType>(&mut group, &known, Some(&levels))?;
    }
    group.close()?;
    Ok(())
}

/// The columns that identify the rows' samples.
fn who<'a>(
    group: &mut SerializedRowGroupWriter<'_, Writer>,
    rows: impl Iterator<Item = (u32, &'a str, Option<u32>)> + Clone,
) -> Outcome<()> {
    column::<Int32Type>(group, &rows.clone().map(|row| row.0 as i32).collect::<Vec<_>>(), None)?;
    column::<ByteArrayType>(group, &rows.clone().map(|row| ByteArray::from(row.1)).collect::<Vec<_>>(), None)?;
    let levels: Vec<i16> = rows.clone().map(|row| row.2.is_some() as i16).collect();
    column::<Int32Type>(group, &rows.filter_map(|row| row.2).map(|label| label as i32).collect::<Vec<_>>(), Some(&levels))
}

fn column<T: DataType>(group: &mut SerializedRowGroupWriter<'_, Writer>, values: &[T::T], levels: Option<&[i16]>) -> Outcome<()> {
    let mut column = group.next_column()?.ok_or_else(|| ParquetError::General("more values than columns".into()))?;
    column.typed::<T>().write_batch(values, levels, None)?;
    column.close()
}

/// Unknown values (a label, a calibrated score) are null.
fn schema(columns: &[(&'static str, &'static str)]) -> Outcome<TypePtr> {
    let mut fields = Vec::new();
    for &(name, _) in columns {
        let optional = !matches!(name, "index" | "id" | "subset");
        let (physical, logical) = match name {
            "index" | "label" => (Physical::INT32, Some(LogicalType::integer(32, false))),
            "id" | "subset" => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            _ => (Physical::DOUBLE, None),
        };
        let repetition = if optional { Repetition::OPTIONAL } else { Repetition::REQUIRED };
        let field = Type::primitive_type_builder(name, physical).with_repetition(repetition);
        fields.push(Arc::new(field.with_logical_type(logical).build()?));
    }
    Ok(Arc::new(Type::group_type_builder("scores").with_fields(fields).build()?))
}

pub fn read(path: &Path) -> Result<Vec<Row>> {
    let file = files::open(path)?;
    // Turns a panic into an error: the decoder asserts conditions that a broken file violates.
    match catch_unwind(AssertUnwindSafe(|| decode(file))) {
        Ok(rows) => rows.map_err(|what| Error::format(path, what)),
        Err(_) => Err(Error::format(path, "this Parquet file is broken")),
    }
}

fn decode(file: File) -> std::result::Result<Vec<Row>, String> {
    let broken = |error: ParquetError| format!("this is not a whole Parquet file: {}", sentence(&error));
    let pages = Arc::new(Pages::new(file, LARGEST_PAGE));
    let metadata = ParquetMetaDataReader::new().parse_and_finish(pages.file()).map_err(broken)?;
    check(&metadata, pages.len())?;
    let schema = metadata.file_metadata().schema_descr();
    let mut places = [0; COLUMNS.len()];
    for (place, name) in places.iter_mut().zip(COLUMNS) {
        let found = schema.columns().iter().position(|column| column.path().string() == name);
        *place = found.ok_or_else(|| format!("there is no column `{name}`"))?;
    }
    let find = |more: More| Some((more, schema.columns().iter().position(|column| column.path().string() == more.name())?));
    let more: Vec<(More, usize)> = More::ALL.into_iter().filter_map(find).collect();
    let mut rows = Vec::new();
    let mut ids = 0; // bytes
    for group in metadata.row_groups() {
        let column = |n: usize| Column { pages: &pages, group, place: places[n], name: COLUMNS[n] };
        let index = column(0).numbers()?;
        let id = column(1).words()?;
        let label = column(2).numbers()?;
        let subset = column(3).words()?;
        let mut numbers = Vec::new();
        for n in 4..COLUMNS.len() {
            numbers.push(column(n).numbers()?);
        }
        let also = more.iter().map(|&(more, place)| Column { pages: &pages, group, place, name: more.name() }.numbers());
        let also = also.collect::<std::result::Result<Vec<_>, _>>()?;
        // Ids differ, so they compress a little; a file that claims otherwise would fill the memory.
        ids += id.iter().map(|id| id.len()).sum::<usize>();
        if ids as u64 > 64 * pages.len() + (1 << 20) {
            return Err("the ids are longer than the file".into());
        }
        for (n, id) in id.into_iter().enumerate() {
            let count = |values: &[f64], name| {
                whole(values[n]).ok_or_else(|| format!("row {}: {name} is {}, not a whole number", rows.len() + 1, values[n]))
            };
            let number = |column: usize| numbers[column][n];
            rows.push(Row {
                index: count(&index, "index")?,
                id,
                label: if label[n].is_nan() { None } else { Some(count(&label, "label")?) },
                subset: Subset::parse(&subset[n])
                    .ok_or_else(|| format!("row {}: subset is `{}`, not S_S, S_C, S_I or S_E", rows.len() + 1, subset[n]))?,
                align_f: number(0),
                align_g: number(1),
                delta: number(2),
                score: number(3),
                relative: number(4),
                calibrated: number(5),
                stderr: number(6),
                more: more.iter().zip(&also).map(|(&(more, _), values)| (more, values[n])).collect(),
            });
        }
    }
    Ok(rows)
}

/// Refuses sizes that the file cannot hold, before anything is allocated for them.
fn check(metadata: &ParquetMetaData, length: u64) -> std::result::Result<(), String> {
    let fits = |value: i64| value >= 0 && value as u64 <= length;
    let mut total = 0i64;
    for group in metadata.row_groups() {
        // Two alignment losses per row hardly compress, so a row takes more than one byte.
        total = total
            .checked_add(group.num_rows())
            .filter(|&total| group.num_rows() >= 0 && fits(total))
            .ok_or("it claims more rows than it can hold")?;
        for chunk in group.columns() {
            let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
            if !fits(start) || !fits(chunk.compressed_size()) || !fits(start.saturating_add(chunk.compressed_size())) {
                return Err(format!("the column `{}` lies outside the file", chunk.column_path().string()));
            }
            parquet_pages::decodable(chunk)?;
        }
    }
    Ok(())
}

/// One column of one row group.
struct Column<'a> {
    pages: &'a Arc<Pages>,
    group: &'a RowGroupMetaData,
    place: usize,
    name: &'static str,
}

impl Column<'_> {
    fn reader(&self) -> std::result::Result<ColumnReader, String> {
        let chunk = self.group.column(self.place);
        if chunk.column_descr().max_rep_level() > 0 {
            return Err(format!("the column `{}` holds lists", self.name));
        }
        parquet_pages::column(self.pages, chunk, self.rows()).map_err(|error| self.broken(&error))
    }

    /// The values of a column of numbers of any width; null is NaN.
    fn numbers(&self) -> std::result::Result<Vec<f64>, String> {
        // Files by others have signed integers; ours are unsigned, which Parquet stores in the signed type.
        let unsigned = self.group.column(self.place).column_descr().converted_type() == ConvertedType::UINT_32;
        match self.reader()? {
            ColumnReader::Int32ColumnReader(reader) if unsigned => self.values(reader, |v| v as u32 as f64),
            ColumnReader::Int32ColumnReader(reader) => self.values(reader, |v| v as f64),
            ColumnReader::Int64ColumnReader(reader) => self.values(reader, |v| v as f64),
            ColumnReader::FloatColumnReader(reader) => self.values(reader, |v| v as f64),
            ColumnReader::DoubleColumnReader(reader) => self.values(reader, |v| v),
            _ => return Err(format!("the column `{}` does not hold numbers", self.name)),
        }
        .map(|values| values.into_iter().map(|value| value.unwrap_or(f64::NAN)).collect())
    }

    fn words(&self) -> std::result::Result<Vec<String>, String> {
        let ColumnReader::ByteArrayColumnReader(reader) = self.reader()? else {
            return Err(format!("the column `{}` does not hold text", self.name));
        };
        let values = self.values(reader, |value| value)?;
        let text = values.into_iter().map(|value| {
            let value = value.filter(|value| value.len() <= LONGEST_ID)?;
            String::from_utf8(value.data().to_vec()).ok()
        });
        text.collect::<Option<_>>().ok_or_else(|| format!("the column `{}` holds something that is not a short text", self.name))
    }

    fn values<T: DataType, V>(
        &self,
        mut reader: ColumnReaderImpl<T>,
        convert: impl Fn(T::T) -> V,
    ) -> std::result::Result<Vec<Option<V>>, String> {
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        let read = reader.read_records(self.rows(), Some(&mut levels), None, &mut values);
        let (records, ..) = read.map_err(|error| self.broken(&error))?;
        if records != self.rows() {
            return Err(format!("the column `{}` ends after {records} of {} rows", self.name, self.rows()));
        }
        let present = self.group.column(self.place).column_descr().max_def_level();
        let mut values = values.into_iter().map(convert);
        if present == 0 {
            return Ok(values.map(Some).collect());
        }
        Ok(levels.into_iter().map(|level| if level == present { values.next() } else { None }).collect())
    }

    fn rows(&self) -> usize {
        self.group.num_rows() as usize // checked to lie within the file's length
    }

    fn broken(&self, error: &ParquetError) -> String {
        format!("the column `{}` is broken: {}", self.name, sentence(error))
    }
}
