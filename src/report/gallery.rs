//! The galleries: thumbnails of the most and the least memorised candidates, as PNG for the page and as sheets.

use image::codecs::png::PngEncoder;
use image::imageops::{FilterType, overlay, resize};
use image::{ExtendedColorType, ImageEncoder, Rgb, RgbImage};

use crate::data::Source;
use crate::split::Subset;
use crate::table::Row;

/// Images per gallery.
pub const MOST: usize = 24;
/// Side of a thumbnail's box in pixels.
pub const SIDE: u32 = 96;
const COLUMNS: usize = 8;

/// One candidate of a gallery; without a picture, the reason.
pub struct Tile<'a> {
    pub row: &'a Row,
    pub class: Option<String>,
    pub picture: Result<RgbImage, String>,
}

/// The candidates with the highest and those with the lowest scores, at most half of them each, ties by index.
pub fn ends(rows: &[Row]) -> (Vec<&Row>, Vec<&Row>) {
    ends_of(rows, MOST, |row| row.score)
}

/// The same for any number and any value of a row.
pub fn ends_of(rows: &[Row], k: usize, value: impl Fn(&Row) -> f64) -> (Vec<&Row>, Vec<&Row>) {
    let mut order: Vec<&Row> = rows.iter().filter(|r| r.subset == Subset::Candidate && value(r).is_finite()).collect();
    order.sort_by(|a, b| value(b).total_cmp(&value(a)).then(a.index.cmp(&b.index)));
    let k = k.min(order.len().div_ceil(2));
    let least = order.iter().rev().take(k.min(order.len() - k)).copied().collect();
    order.truncate(k);
    (order, least)
}

/// Decodes and shrinks. An image that cannot be shown becomes a tile with the reason, so that a report is always written.
pub fn tiles<'a>(rows: &[&'a Row], source: &dyn Source) -> Vec<Tile<'a>> {
    let class = |r: &Row| r.label.and_then(|l| source.classes().get(l as usize)).cloned();
    rows.iter().map(|&row| Tile { row, class: class(row), picture: thumbnail(row, source) }).collect()
}

fn thumbnail(row: &Row, source: &dyn Source) -> Result<RgbImage, String> {
    let index = row.index as usize;
    if index >= source.len() {
        return Err(format!("index {index} is beyond the data set's {} images", source.len()));
    }
    let id = source.id(index);
    if id != row.id {
        return Err(format!("the data set has {id} at this index"));
    }
    let image = source.image(index).map_err(|e| e.to_string())?;
    let (width, height) = (image.width as u32, image.height as u32);
    let picture = RgbImage::from_raw(width, height, image.pixels).filter(|p| p.width() > 0 && p.height() > 0);
    let picture = picture.ok_or("the decoded image has no pixels")?;
    let longest = width.max(height);
    if longest <= SIDE {
        return Ok(picture);
    }
    let shrink = |side: u32| (side as u64 * SIDE as u64).div_ceil(longest as u64) as u32;
    Ok(resize(&picture, shrink(width), shrink(height), FilterType::Triangle))
}

/// A PNG file in memory; empty if encoding fails, for which no cause is known.
pub fn png(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = PngEncoder::new(&mut bytes);
    match encoder.write_image(picture, picture.width(), picture.height(), ExtendedColorType::Rgb8) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}

/// The tiles on white with their scores under them, eight in a row.
pub fn sheet(tiles: &[Tile]) -> RgbImage {
    const GAP: u32 = 14;
    const LINE: u32 = 24;
    let columns = COLUMNS.min(tiles.len()).max(1) as u32;
    let lines = tiles.len().div_ceil(COLUMNS).max(1) as u32;
    let (width, height) = (GAP + columns * (SIDE + GAP), GAP + lines * (SIDE + LINE + GAP));
    let mut sheet = RgbImage::from_pixel(width, height, Rgb([255; 3]));
    for (i, tile) in tiles.iter().enumerate() {
        let x = GAP + (i % COLUMNS) as u32 * (SIDE + GAP);
        let y = GAP + (i / COLUMNS) as u32 * (SIDE + LINE + GAP);
        match &tile.picture {
            Ok(picture) => {
                // Whole factors only: every pixel of a small image stays a square.
                let factor = (SIDE / picture.width().max(picture.height())).max(1);
                let big = resize(picture, picture.width() * factor, picture.height() * factor, FilterType::Nearest);
                let (dx, dy) = ((SIDE - big.width()) / 2, (SIDE - big.height()) / 2);
                overlay(&mut sheet, &big, (x + dx) as i64, (y + dy) as i64);
            }
            Err(_) => missing(&mut sheet, x, y),
        }
        let text = format!("{:+.2}", tile.row.score);
        let start = x + SIDE.saturating_sub(text.len() as u32 * 12 - 2) / 2;
        for (k, c) in text.chars().enumerate() {
            glyph(&mut sheet, c, start + k as u32 * 12, y + SIDE + 6);
        }
    }
    sheet
}

/// A grey box with a cross.
fn missing(sheet: &mut RgbImage, x: u32, y: u32) {
    for (i, j) in (0..SIDE * SIDE).map(|k| (k % SIDE, k / SIDE)) {
        let cross = i.abs_diff(j) < 2 || (SIDE - 1 - i).abs_diff(j) < 2;
        sheet.put_pixel(x + i, y + j, Rgb(if cross { [190; 3] } else { [232; 3] }));
    }
}

/// Digits of 5 by 7 pixels, a row per byte, drawn at twice their size: the only letters a sheet needs.
fn glyph(sheet: &mut RgbImage, c: char, x: u32, y: u32) {
    let rows: [u8; 7] = match c {
        '0' => [14, 17, 19, 21, 25, 17, 14],
        '1' => [4, 12, 4, 4, 4, 4, 14],
        '2' => [14, 17, 1, 2, 4, 8, 31],
        '3' => [31, 2, 4, 2, 1, 17, 14],
        '4' => [2, 6, 10, 18, 31, 2, 2],
        '5' => [31, 16, 30, 1, 1, 17, 14],
        '6' => [6, 8, 16, 30, 17, 17, 14],
        '7' => [31, 1, 2, 4, 8, 8, 8],
        '8' => [14, 17, 17, 14, 17, 17, 14],
        '9' => [14, 17, 17, 15, 1, 2, 12],
        '+' => [0, 4, 4, 31, 4, 4, 0],
        '-' => [0, 0, 0, 31, 0, 0, 0],
        '.' => [0, 0, 0, 0, 0, 12, 12],
        _ => [0; 7],
    };
    for (i, j) in (0..14 * 10).map(|k| (k % 10, k / 10)) {
        let set = rows[j as usize / 2] >> (4 - i / 2) & 1 == 1;
        if set && x + i < sheet.width() && y + j < sheet.height() {
            sheet.put_pixel(x + i, y + j, Rgb([29, 33, 38]));
        }
    }
}
