//! Writes a score table row by row, so that it need not fit into memory.

use std::path::Path;

use super::parquet::{GROUP, Groups};
use super::{Format, More, Row, Totals, check, columns, csv, npy};
use crate::error::{Error, Result};
use crate::files::Writer;

/// A table that appears under its name when [`TableWriter::commit`] has returned.
pub struct TableWriter {
    file: File,
    /// Rows of the open group.
    open: Vec<Row>,
    more: Vec<More>,
}

enum File {
    Parquet(Box<Groups>),
    Csv(Writer),
    Npy(Writer, usize), // the longest id, bytes
}

impl TableWriter {
    /// `totals` cover the rows that will be pushed. Otherwise as [`write`](super::write).
    ///
    /// # Errors
    /// The place is not writable.
    pub fn create(path: impl AsRef<Path>, totals: &Totals, metadata: &[(String, String)]) -> Result<TableWriter> {
        let path = path.as_ref();
        let format = Format::of(path)?;
        let mut writer = Writer::create(path)?;
        let file = match format {
            Format::Parquet => File::Parquet(Box::new(Groups::create(writer, metadata, columns(&totals.more))?)),
            Format::Csv => {
                csv::head(&mut writer, &totals.more).map_err(Error::io("write", path))?;
                File::Csv(writer)
            }
            Format::Npy => {
                npy::head(&mut writer, totals).map_err(Error::io("write", path))?;
                File::Npy(writer, totals.longest)
            }
        };
        Ok(TableWriter { file, open: vec![], more: totals.more.clone() })
    }

    /// # Panics
    /// The row has other columns than the totals.
    ///
    /// # Errors
    /// The row holds a number that no score can have, or the disk is full or failed.
    pub fn push(&mut self, row: Row) -> Result<()> {
        check(&row)
            .map_err(|what| Error::diverged(format!("sample {} ({}): {what}", row.index, row.id), "check the weights of both encoders"))?;
        assert!(row.more.iter().map(|(more, _)| more).eq(&self.more), "sample {} has other columns than the rows before", row.index);
        self.open.push(row);
        if self.open.len() == GROUP { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.open);
        match &mut self.file {
            File::Parquet(groups) => groups.group(&rows),
            File::Csv(writer) => csv::write(writer, &rows).map_err(Error::io("write", writer.path())),
            File::Npy(writer, width) => npy::write(writer, &rows, *width).map_err(Error::io("write", writer.path())),
        }
    }

    /// # Errors
    /// The disk is full or failed; then the file under the name is what it was before.
    pub fn commit(mut self) -> Result<()> {
        if !self.open.is_empty() {
            self.write()?;
        }
        match self.file {
            File::Parquet(groups) => groups.finish()?.commit(),
            File::Csv(writer) | File::Npy(writer, _) => writer.commit(),
        }
    }
}
