//! Un-augmented views: the image is resized, its centre cropped, and normalised. One rule for all encoders.

use serde::{Deserialize, Serialize};

use super::{Crop, Interpolation, View};

/// The resize before the centre crop of `size` pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// torchvision's evaluation for any encoder: the short side becomes 8/7 of the size (256 for 224). Below [`SMALL`] pixels it becomes
    /// the size, so that small images keep their borders.
    Auto,
    /// The short side becomes this many pixels.
    Short(usize),
    /// The whole image becomes a square of the size; nothing is cropped.
    Whole,
    /// The whole image becomes a square of this many pixels.
    Square(usize),
}

/// From this size on [`Resize::Auto`] crops the view out of a larger image.
pub const SMALL: usize = 128;

impl Resize {
    pub fn crop(self, size: usize) -> Crop {
        match self {
            Resize::Auto if size < SMALL => Crop::Center { resize: size },
            Resize::Auto => Crop::Center { resize: size * 8 / 7 },
            Resize::Short(resize) => Crop::Center { resize },
            Resize::Whole => Crop::Whole,
            Resize::Square(resize) => Crop::Square { resize },
        }
    }
}

impl View {
    /// An image without augmentation.
    pub fn plain(size: usize, resize: Resize, interpolation: Interpolation, [mean, std]: [[f32; 3]; 2]) -> View {
        let crop = resize.crop(size);
        View { size, interpolation, flip: 0.0, gray: 0.0, mean, std, crop, jitter: None, blur: None, solarize: None }
    }

    /// Whether this is an un-augmented view.
    pub fn is_plain(&self) -> bool {
        let nothing = self.jitter.is_none() && self.blur.is_none() && self.solarize.is_none();
        nothing && self.flip == 0.0 && self.gray == 0.0 && !matches!(self.crop, Crop::Random { .. })
    }

    /// An un-augmented view in one line.
    pub fn seen(&self) -> String {
        let &View { size, interpolation, mean, std, ref crop, .. } = self;
        let filter = if interpolation == Interpolation::Bicubic { "bicubic" } else { "bilinear" };
        let shape = match crop {
            Crop::Center { resize } => format!("short side {resize} ({filter}), middle {size} x {size}"),
            Crop::Whole => format!("whole image to {size} x {size} ({filter})"),
            Crop::Square { resize } => format!("whole image to {resize} x {resize} ({filter}), middle {size} x {size}"),
            Crop::Random { .. } => format!("random crop to {size} x {size} ({filter})"),
        };
        format!("{shape}, mean {mean:?}, std {std:?}")
    }
}

impl Serialize for Resize {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match *self {
            Resize::Auto => to.serialize_str("auto"),
            Resize::Whole => to.serialize_str("whole"),
            Resize::Square(pixels) => to.serialize_str(&format!("{WHOLE}{pixels}")),
            Resize::Short(pixels) => to.serialize_u64(pixels as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Resize {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Resize, D::Error> {
        from.deserialize_any(AnyResize)
    }
}

/// Prefix of [`Resize::Square`] in recipes.
const WHOLE: &str = "whole:";

struct AnyResize;

impl serde::de::Visitor<'_> for AnyResize {
    type Value = Resize;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("\"auto\", \"whole\", \"whole:256\" or pixels of the short side, a whole number")
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Resize, E> {
        match text {
            "auto" => Ok(Resize::Auto),
            "whole" => Ok(Resize::Whole),
            _ => {
                let square = text.strip_prefix(WHOLE).and_then(|pixels| pixels.parse().ok()).map(Resize::Square);
                square.ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
    }
    fn visit_u64<E: serde::de::Error>(self, pixels: u64) -> Result<Resize, E> {
        Ok(Resize::Short(pixels as usize))
    }
    fn visit_i64<E: serde::de::Error>(self, pixels: i64) -> Result<Resize, E> {
        let wrong = || E::invalid_value(serde::de::Unexpected::Signed(pixels), &self);
        usize::try_from(pixels).map(Resize::Short).map_err(|_| wrong())
    }
}
