//! Views for inspection: a contact sheet, and a file with the views and their drawn parameters.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use image::{Rgb, RgbImage, imageops};
use rayon::prelude::*;

use super::{Drawn, Scratch, View, render};
use crate::data::{Image, Source};
use crate::error::{Error, Result};
use crate::files::Writer;
use crate::random::{Purpose, Stream};
use crate::tensors::{self, Entry};

/// A cell of the sheet is at least this wide: small views are magnified by a whole number.
const CELL: usize = 96;
const GAP: usize = 4;
const PAPER: Rgb<u8> = Rgb([255; 3]);
/// Samples rendered at once by `export`; bounds its memory.
const BATCH: usize = 32;

/// Draws and renders views `0..views` of a sample, the same that scoring with this seed compares.
///
/// Returns the drawn parameters and the values [views, size, size, 3].
///
/// # Errors
/// When the sample cannot be decoded.
pub fn views(
    source: &dyn Source,
    view: &View,
    sample: usize,
    views: usize,
    seed: u64,
    scratch: &mut Scratch,
) -> Result<(Vec<Drawn>, Vec<f32>)> {
    let Image { height, width, pixels } = source.image(sample)?;
    let mut values = vec![0.0; views * view.len()];
    let drawn = values.chunks_exact_mut(view.len()).zip(0..).map(|(out, v)| {
        let drawn = view.draw(&mut Stream::new(seed, Purpose::Score, 0, sample as u32, v), height, width);
        render(view, &drawn, &pixels, height, width, out, scratch);
        drawn
    });
    Ok((drawn.collect(), values))
}

/// A contact sheet: a row for each sample, the original first, then its views without the normalisation.
///
/// # Errors
/// `Config` for a policy, samples or a number of views that cannot be drawn; whatever decoding reports.
pub fn draw(source: &dyn Source, view: &View, samples: &[usize], views: usize, seed: u64) -> Result<RgbImage> {
    check(source, view, samples, views)?;
    let magnify = CELL.div_ceil(view.size);
    let cell = view.size * magnify;
    let at = |place: usize| GAP + place * (cell + GAP);
    let mut sheet = RgbImage::from_pixel(at(views + 1) as u32, at(samples.len()) as u32, PAPER);
    let mut scratch = Scratch::default();
    for (row, &sample) in samples.iter().enumerate() {
        let original = fit(source.image(sample)?, sample, cell)?;
        let (left, top) = ((cell as u32 - original.width()) / 2, (cell as u32 - original.height()) / 2);
        imageops::replace(&mut sheet, &original, at(0) as i64 + left as i64, at(row) as i64 + top as i64);
        let (_, values) = self::views(source, view, sample, views, seed, &mut scratch)?;
        for (column, values) in values.chunks_exact(view.len()).enumerate() {
            let (x0, y0) = (at(column + 1) as u32, at(row) as u32);
            for y in 0..cell {
                for x in 0..cell {
                    let from = (y / magnify * view.size + x / magnify) * 3;
                    let color = std::array::from_fn(|c| {
                        let value = values[from + c] * view.std[c] + view.mean[c];
                        (value * 255.0).round().clamp(0.0, 255.0) as u8
                    });
                    sheet.put_pixel(x0 + x as u32, y0 + y as u32, Rgb(color));
                }
            }
        }
    }
    Ok(sheet)
}

/// The image with its long side brought to `cell`.
fn fit(Image { height, width, pixels }: Image, sample: usize, cell: usize) -> Result<RgbImage> {
    let image = RgbImage::from_raw(width as u32, height as u32, pixels)
        .ok_or_else(|| Error::format(format!("sample {sample}"), "its pixels do not fill its height and width"))?;
    let long = height.max(width);
    let side = |from: usize| (from * cell / long).max(1) as u32;
    let filter = if long < cell { imageops::Nearest } else { imageops::Triangle };
    Ok(imageops::resize(&image, side(width), side(height), filter))
}

/// Writes the views of n samples and their drawn parameters, as safetensors.
///
/// Tensors, with K = `views`: `views` `[n, K, size, size, 3]` f32, normalised; `samples` `[n]` u32; `crop` [n, K, 4] u32 (top, left,
/// height, width); `factors` [n, K, 4] f32 (brightness, contrast, saturation, hue); `sigma` [n, K] f32; `order` [n, K, 4], `flip`,
/// `jitter`, `gray`, `solarize` [n, K] u8. Metadata: `policy` as JSON, and `seed`. Memory grows by only 46 bytes per view.
///
/// The file appears whole or not at all.
///
/// # Errors
/// As `draw`, and `Io` when the file cannot be written.
pub fn export(source: &dyn Source, view: &View, samples: &[usize], views: usize, seed: u64, path: &Path) -> Result<()> {
    check(source, view, samples, views)?;
    let mut file = Writer::create(path)?;
    let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io("write", path));
    let header = header(view, samples.len(), views, seed);
    put(&header)?;
    let mut drawn = Vec::with_capacity(samples.len() * views);
    for batch in samples.chunks(BATCH) {
        let rendered: Vec<_> = batch
            .par_iter()
            .map_init(Scratch::default, |scratch, &sample| self::views(source, view, sample, views, seed, scratch))
            .collect::<Result<_>>()?;
        for (parameters, values) in rendered {
            drawn.extend(parameters);
            put(bytemuck::cast_slice(&values))?;
        }
    }
    for sample in samples {
        put(&(*sample as u32).to_le_bytes())?;
    }
    for d in &drawn {
        put(bytemuck::cast_slice(&[d.top, d.left, d.height, d.width]))?;
    }
    for d in &drawn {
        put(bytemuck::cast_slice(&[d.brightness, d.contrast, d.saturation, d.hue]))?;
    }
    for d in &drawn {
        put(&d.sigma.to_le_bytes())?;
    }
    for d in &drawn {
        put(&d.order)?;
    }
    let flags: [fn(&Drawn) -> bool; 4] = [|d| d.flip, |d| d.jitter, |d| d.gray, |d| d.solarize];
    for flag in flags {
        put(&drawn.iter().map(|d| flag(d) as u8).collect::<Vec<_>>())?;
    }
    file.commit()
}

/// The header of the file. Views are written as they are rendered, never held all at once.
fn header(view: &View, n: usize, k: usize, seed: u64) -> Vec<u8> {
    let size = view.size;
    // Not through `Value`, which would write 0.4 in single precision as 0.4000000059604645.
    let policy = serde_json::to_string(view).unwrap_or_default();
    let metadata = BTreeMap::from([("policy".to_string(), policy), ("seed".to_string(), seed.to_string())]);
    let tensors: [(&str, &str, &[usize]); 10] = [
        ("views", "F32", &[n, k, size, size, 3]),
        ("samples", "U32", &[n]),
        ("crop", "U32", &[n, k, 4]),
        ("factors", "F32", &[n, k, 4]),
        ("sigma", "F32", &[n, k]),
        ("order", "U8", &[n, k, 4]),
        ("flip", "U8", &[n, k]),
        ("jitter", "U8", &[n, k]),
        ("gray", "U8", &[n, k]),
        ("solarize", "U8", &[n, k]),
    ];
    tensors::header(&metadata, &tensors.map(|(name, dtype, shape)| Entry { name, dtype, shape: shape.to_vec() }))
}

fn check(source: &dyn Source, view: &View, samples: &[usize], views: usize) -> Result<()> {
    view.validate()?;
    if views == 0 || views >= 1 << 24 {
        return Err(Error::config(format!("{views} views of each sample were asked for"), "ask for 1 to 16777215"));
    }
    if samples.is_empty() {
        return Err(Error::config("no samples were asked for", "name at least one"));
    }
    match samples.iter().find(|s| **s >= source.len()) {
        Some(sample) => Err(Error::config(
            format!("sample {sample} was asked for and the data set has {}", source.len()),
            format!("choose numbers below {}", source.len()),
        )),
        None => Ok(()),
    }
}
