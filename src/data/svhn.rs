//! SVHN, the cropped digits (Netzer et al., 2011): train_32x32.mat, test_32x32.mat and, if asked for, extra_32x32.mat.

use std::fs;
use std::path::Path;

use crate::error::Error;

use super::matlab::{self, Array};
use super::packed::{Packed, PackedPart, PixelLayout};

const SIDE: usize = 32;
const SAMPLE: usize = 3 * SIDE * SIDE;

/// MATLAB's order: rows vary fastest, then columns, then colours, then samples.
const LAYOUT: PixelLayout = PixelLayout { height: SIDE, width: SIDE, row_step: 1, column_step: SIDE, channel_step: SIDE * SIDE };

/// The whole set in memory: 305 MB, with the extra part 1.9 GB. `folder+extra` appends the extra part (531,131 easier digits) to the
/// training part.
///
/// # Errors
/// Missing files, files that are no such MATLAB files, labels other than 1 to 10.
pub fn open(rest: &str) -> Result<Packed, Error> {
    let (folder, extra) = match rest.strip_suffix("+extra") {
        Some(folder) => (Path::new(folder), true),
        None => (Path::new(rest), false),
    };
    fs::read_dir(folder).map_err(Error::io("open the folder", folder))?;
    let names = ["train", "extra", "test"];
    let parts = names.into_iter().filter(|name| extra || *name != "extra").map(|name| part(folder, name)).collect::<Result<_, Error>>()?;
    Ok(Packed::new("svhn", LAYOUT, parts, (0..10).map(|digit| digit.to_string()).collect()))
}

fn part(folder: &Path, name: &'static str) -> Result<PackedPart, Error> {
    let path = folder.join(format!("{name}_32x32.mat"));
    let [x, y] = matlab::read(&path, ["X", "y"])?;
    let fault = |what: String| Error::format(&path, what);
    let samples = match x.dims[..] {
        [SIDE, SIDE, 3, samples] => samples,
        [SIDE, SIDE, 3] => 1,
        _ => return Err(fault(format!("has images X of shape {:?} where 32 x 32 x 3 x samples belongs", x.dims))),
    };
    let labels = labels(&y).map_err(fault)?;
    if samples == 0 || labels.len() != samples {
        return Err(fault(format!("has {samples} images but {} labels", labels.len())));
    }
    let pixels = x.into_bytes().map_err(fault)?;
    assert_eq!(pixels.len(), samples * SAMPLE, "the reader checks sizes");
    Ok(PackedPart { name, pixels, labels })
}

/// Label 10 means the digit 0.
fn labels(y: &Array) -> Result<Vec<u8>, String> {
    let label = |(at, value): (usize, f64)| match value {
        10.0 => Ok(0),
        v if (1.0..10.0).contains(&v) && v.fract() == 0.0 => Ok(v as u8),
        v => Err(format!("has label {v} at sample {at}, but labels are 1 to 10")),
    };
    y.numbers()?.into_iter().enumerate().map(label).collect()
}
