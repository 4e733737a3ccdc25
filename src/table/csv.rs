//! Score tables as comma-separated values (RFC 4180): numbers are the shortest decimals that read back exactly.

use std::io::Write;
use std::path::Path;

use super::{COLUMNS, More, Row, columns, whole};
use crate::error::{Error, Result};
use crate::files::read_lines;
use crate::split::Subset;

pub fn head(out: &mut impl Write, more: &[More]) -> std::io::Result<()> {
    let names: Vec<&str> = columns(more).into_iter().map(|(name, _)| name).collect();
    writeln!(out, "{}", names.join(","))
}

pub fn write(out: &mut impl Write, rows: &[Row]) -> std::io::Result<()> {
    for row in rows {
        let label = row.label.map(|label| label.to_string()).unwrap_or_default();
        write!(out, "{},{},{label},{}", row.index, quoted(&row.id), row.subset.symbol())?;
        for value in row.numbers().into_iter().chain(row.more.iter().map(|(_, value)| *value)) {
            if value.is_nan() { write!(out, ",")? } else { write!(out, ",{value:?}")? }
        }
        writeln!(out)?;
    }
    Ok(())
}

pub fn read(path: &Path) -> Result<Vec<Row>> {
    let text = read_lines(path)?;
    let mut records = Records { rest: text.strip_prefix('\u{feff}').unwrap_or(&text), line: 1 };
    let mut fields = Vec::new();
    let fail = |line: usize, what: String| Error::format(path, format!("line {line}: {what}"));
    if !records.next(&mut fields).map_err(|what| fail(1, what))? {
        return Err(Error::format(path, "the file is empty"));
    }
    let mut places = [0; COLUMNS.len()];
    for (place, name) in places.iter_mut().zip(COLUMNS) {
        let found = fields.iter().position(|field| field == name);
        *place = found.ok_or_else(|| Error::format(path, format!("there is no column `{name}`")))?;
    }
    let place = |more: More| Some((more, fields.iter().position(|field| field == more.name())?));
    let more: Vec<(More, usize)> = More::ALL.into_iter().filter_map(place).collect();
    let width = fields.len();
    let mut rows = Vec::new();
    loop {
        let line = records.line;
        if !records.next(&mut fields).map_err(|what| fail(line, what))? {
            return Ok(rows);
        }
        if fields.len() != width {
            return Err(fail(line, format!("{} fields where the first line has {width}", fields.len())));
        }
        let mut row = row(|column| &fields[places[column]]).map_err(|what| fail(line, what))?;
        for (more, place) in &more {
            row.more.push((*more, number(more.name(), &fields[*place]).map_err(|what| fail(line, what))?));
        }
        rows.push(row);
    }
}

/// The values of a column; an empty field is NaN.
fn number(name: &str, field: &str) -> std::result::Result<f64, String> {
    match field.trim() {
        "" => Ok(f64::NAN),
        text => text.parse().map_err(|_| format!("{name} is `{text}`, not a number")),
    }
}

fn row<'a>(field: impl Fn(usize) -> &'a String) -> std::result::Result<Row, String> {
    let number = |column: usize| number(COLUMNS[column], field(column));
    let count = |column: usize| {
        let value = number(column)?;
        whole(value).ok_or_else(|| format!("{} is `{}`, not a whole number", COLUMNS[column], field(column)))
    };
    let symbol = field(3);
    Ok(Row {
        index: count(0)?,
        id: field(1).clone(),
        label: if field(2).is_empty() { None } else { Some(count(2)?) },
        subset: Subset::parse(symbol).ok_or_else(|| format!("subset is `{symbol}`, not S_S, S_C, S_I or S_E"))?,
        align_f: number(4)?,
        align_g: number(5)?,
        delta: number(6)?,
        score: number(7)?,
        relative: number(8)?,
        calibrated: number(9)?,
        stderr: number(10)?,
        more: vec![],
    })
}

fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() }
}

/// The records of a text, one after another; a quoted field may span lines.
struct Records<'a> {
    rest: &'a str,
    line: usize,
}

impl Records<'_> {
    /// Fills `fields` with the next record; false at the end.
    fn next(&mut self, fields: &mut Vec<String>) -> std::result::Result<bool, String> {
        fields.clear();
        if self.rest.is_empty() {
            return Ok(false);
        }
        loop {
            let mut field = String::new();
            if let Some(mut rest) = self.rest.strip_prefix('"') {
                loop {
                    let (part, after) = rest.split_once('"').ok_or("a quoted field has no end")?;
                    field.push_str(part);
                    self.line += part.matches('\n').count();
                    rest = after;
                    match rest.strip_prefix('"') {
                        Some(after) => rest = after,
                        None => break,
                    }
                    field.push('"');
                }
                self.rest = rest;
            } else {
                let end = self.rest.find([',', '\n', '\r']).unwrap_or(self.rest.len());
                field.push_str(&self.rest[..end]);
                self.rest = &self.rest[end..];
            }
            fields.push(field);
            if let Some(rest) = self.rest.strip_prefix(',') {
                self.rest = rest;
                continue;
            }
            let after = self.rest.strip_prefix('\r').unwrap_or(self.rest);
            self.rest = match after.strip_prefix('\n') {
                Some(rest) => rest,
                None if after.is_empty() => after,
                None => return Err("text follows the end of a field".into()),
            };
            self.line += 1;
            return Ok(true);
        }
    }
}
