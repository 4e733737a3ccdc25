//! Settings for reading image files: EXIF orientation, largest size, treatment of bad ones.

use serde::{Deserialize, Serialize};

use super::OnBadImage;
use super::limits::PIXELS;

/// Treatment of the orientation in an image's EXIF data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exif {
    /// Ignored, as in torchvision and Pillow's `open`.
    #[default]
    Ignore,
    /// Turn and mirror the image so that it is upright, as Pillow's `exif_transpose` does.
    Turn,
}

/// Settings for reading the image files of a data set.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub on_bad: OnBadImage,
    pub exif: Exif,
    /// An image with more pixels is a bad one; at most [`PIXELS`].
    pub max_pixels: u64,
}

impl Reading {
    /// The defaults.
    pub const USUAL: Reading = Reading { on_bad: OnBadImage::Fail, exif: Exif::Ignore, max_pixels: PIXELS };
}
