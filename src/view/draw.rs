//! The parameters of one view, drawn from a stream of random numbers.

use serde::{Deserialize, Serialize};

use super::{Crop, View};
use crate::random::Stream;

/// Tries of RandomResizedCrop before it falls back to a centre crop.
const TRIES: usize = 10;

/// Words that a draw takes from its stream, for any policy.
pub const WORDS: usize = 4 * TRIES + 13;

/// The drawn parameters of one view of one image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drawn {
    /// The box of the image that is resized, in pixels.
    pub top: u32,
    pub left: u32,
    pub height: u32,
    pub width: u32,
    pub flip: bool,
    pub jitter: bool,
    /// The order of brightness (0), contrast (1), saturation (2) and hue (3).
    pub order: [u8; 4],
    /// Factors; 1 leaves the image as it is.
    pub brightness: f32,
    pub contrast: f32,
    pub saturation: f32,
    /// Shift in turns; 0 leaves the image as it is.
    pub hue: f32,
    pub gray: bool,
    /// Standard deviation of the blur in pixels; 0 means none.
    pub sigma: f32,
    pub solarize: bool,
}

impl View {
    /// Draws the parameters of a view of an image with this height and width (at least 1 pixel each).
    ///
    /// Every word of the stream has a fixed meaning, used or not, so that a GPU thread can compute a word without those before it:
    ///
    /// | word | meaning |
    /// |---|---|
    /// | 4t, 4t + 1 | area and aspect ratio of try t of the crop, t in 0..10 |
    /// | 4t + 2, 4t + 3 | its top and left |
    /// | 40 | flip |
    /// | 41 | jitter |
    /// | 42, 43, 44 | order of the jitter: partner of place 3, 2 and 1 (Fisher and Yates) |
    /// | 45, 46, 47, 48 | brightness, contrast, saturation, hue |
    /// | 49 | gray |
    /// | 50, 51 | blur, its sigma |
    /// | 52 | solarize |
    pub fn draw(&self, stream: &mut Stream, height: usize, width: usize) -> Drawn {
        let (top, left, box_height, box_width) = self.draw_crop(stream, height, width);
        let flip = stream.uniform() < self.flip;

        let strength = self.jitter.as_ref();
        let jitter = stream.uniform() < strength.map_or(0.0, |j| j.p);
        let mut order = [0, 1, 2, 3];
        for place in (1..4).rev() {
            order.swap(place, stream.below(place as u32 + 1) as usize);
        }
        let mut factor = |strength: f32| stream.range((1.0 - strength).max(0.0), 1.0 + strength);
        let brightness = factor(strength.map_or(0.0, |j| j.brightness));
        let contrast = factor(strength.map_or(0.0, |j| j.contrast));
        let saturation = factor(strength.map_or(0.0, |j| j.saturation));
        let bound = strength.map_or(0.0, |j| j.hue);
        let hue = stream.range(-bound, bound);

        let gray = stream.uniform() < self.gray;
        let blur = stream.uniform() < self.blur.as_ref().map_or(0.0, |b| b.p);
        let [low, high] = self.blur.as_ref().map_or([0.0; 2], |b| b.sigma);
        let sigma = stream.range(low, high);
        let solarize = stream.uniform() < self.solarize.as_ref().map_or(0.0, |s| s.p);
        Drawn {
            top: top as u32,
            left: left as u32,
            height: box_height as u32,
            width: box_width as u32,
            flip,
            jitter,
            order,
            brightness,
            contrast,
            saturation,
            hue,
            gray,
            sigma: if blur { sigma } else { 0.0 },
            solarize,
        }
    }

    /// Top, left, height and width of the box, in double precision so that all machines round alike.
    fn draw_crop(&self, stream: &mut Stream, height: usize, width: usize) -> (usize, usize, usize, usize) {
        let (scale, ratio) = match self.crop {
            Crop::Random { scale, ratio } => (scale.map(f64::from), ratio.map(f64::from)),
            Crop::Center { .. } | Crop::Square { .. } | Crop::Whole => ([1.0; 2], [1.0; 2]),
        };
        let log = ratio.map(f64::ln);
        let mut found = None;
        for _ in 0..TRIES {
            let area = (height * width) as f64 * between(scale, stream.uniform());
            let aspect = between(log, stream.uniform()).exp();
            let w = (area * aspect).sqrt().round_ties_even() as usize;
            let h = (area / aspect).sqrt().round_ties_even() as usize;
            let fits = 0 < w && w <= width && 0 < h && h <= height;
            let mut offset = |room: usize| stream.below(if fits { room as u32 + 1 } else { 1 }) as usize;
            let top = offset(height.saturating_sub(h));
            let left = offset(width.saturating_sub(w));
            if fits && found.is_none() {
                found = Some((top, left, h, w));
            }
        }
        match self.crop {
            Crop::Random { .. } => found.unwrap_or_else(|| middle(ratio, height, width)),
            Crop::Center { .. } | Crop::Square { .. } | Crop::Whole => (0, 0, height, width),
        }
    }
}

/// The largest centred box with width / height within `ratio`.
fn middle([narrow, wide]: [f64; 2], height: usize, width: usize) -> (usize, usize, usize, usize) {
    let ratio = width as f64 / height as f64;
    let (mut h, mut w) = (height, width);
    if ratio < narrow {
        h = ((width as f64 / narrow).round_ties_even() as usize).max(1);
    } else if ratio > wide {
        w = ((height as f64 * wide).round_ties_even() as usize).max(1);
    }
    ((height - h) / 2, (width - w) / 2, h, w)
}

fn between([low, high]: [f64; 2], share: f32) -> f64 {
    low + (high - low) * share as f64
}
