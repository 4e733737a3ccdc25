//! Score tables for NumPy (format 1.0): a structured array with a field for each column, `numpy.load(path)["score"]`.

use std::io::Write;

use super::{Row, Totals, columns};

/// `index` is unsigned, `label` is -1 if there is none; text is UTF-8 bytes of fixed width.
pub fn head(out: &mut impl Write, totals: &Totals) -> std::io::Result<()> {
    let kind = |name: &str| match name {
        "index" => "<u4".to_string(),
        "label" => "<i8".to_string(),
        "id" => format!("|S{}", totals.longest.max(1)),
        "subset" => "|S3".to_string(),
        _ => "<f8".to_string(),
    };
    let fields: Vec<String> = columns(&totals.more).iter().map(|(name, _)| format!("('{name}', '{}')", kind(name))).collect();
    let fields = fields.join(", ");
    let text = format!("{{'descr': [{fields}], 'fortran_order': False, 'shape': ({},), }}", totals.rows);
    // The data begin at a multiple of 64; a line break ends the head.
    let width = (10 + text.len() + 1).next_multiple_of(64) - 10;
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&(width as u16).to_le_bytes())?;
    writeln!(out, "{text:<0$}", width - 1)
}

pub fn write(out: &mut impl Write, rows: &[Row], longest: usize) -> std::io::Result<()> {
    for row in rows {
        out.write_all(&row.index.to_le_bytes())?;
        let mut id = row.id.clone().into_bytes();
        id.resize(longest.max(1), 0);
        out.write_all(&id)?;
        out.write_all(&row.label.map_or(-1, i64::from).to_le_bytes())?;
        out.write_all(row.subset.symbol().as_bytes())?;
        let mut numbers = row.numbers().into_iter().chain(row.more.iter().map(|(_, value)| *value));
        numbers.try_for_each(|value| out.write_all(&value.to_le_bytes()))?;
    }
    Ok(())
}
