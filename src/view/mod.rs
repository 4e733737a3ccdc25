//! Augmented views: a policy as data, parameters drawn from it, and their rendering.

mod describe;
mod draw;
mod pillow;
mod plain;
mod policy;
mod render;
mod resize;
pub mod sheet;
mod tone;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use draw::{Drawn, WORDS};
pub use plain::{Resize, SMALL};
pub use policy::{CIFAR10, CIFAR100, HALF, IMAGENET, MNIST, Make, POLICIES, Policy, SSLMEM, STL10, SVHN, UNIT, policy};
pub use render::{Scratch, render};
pub use resize::{resampling, resized};

use resize::short_side;

/// A policy: all parameters of a kind of view. Operations apply in the order of the fields.
///
/// The operations are those of torchvision's v2 transforms on float images in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// Height and width of the view in pixels.
    pub size: usize,
    pub interpolation: Interpolation,
    /// Probability of a horizontal flip.
    pub flip: f32,
    /// Probability of losing all colour (RandomGrayscale).
    pub gray: f32,
    /// Subtracted from the red, green and blue channel, after everything else.
    pub mean: [f32; 3],
    /// Divides the difference.
    pub std: [f32; 3],
    pub crop: Crop,
    pub jitter: Option<Jitter>,
    pub blur: Option<Blur>,
    pub solarize: Option<Solarize>,
}

/// The part of the image that becomes the view.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Crop {
    /// RandomResizedCrop: a box with a share of the area in `scale` and width / height in `ratio`.
    Random { scale: [f32; 2], ratio: [f32; 2] },
    /// The short side is resized to `resize`, then the centre is cropped.
    Center { resize: usize },
    /// The whole image is resized without regard to its aspect ratio; an image of the right size is unchanged.
    Whole,
    /// The whole image is resized to a square of `resize` pixels, then the centre is cropped.
    Square { resize: usize },
}

/// Both are antialiased: the filter widens when the image shrinks. Bicubic is Keys' with a = -0.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    Bilinear,
    Bicubic,
}

/// ColorJitter: four operations in a random order. A strength of zero leaves its operation out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jitter {
    /// The factor is uniform in [max(0, 1 - brightness), 1 + brightness]; contrast and saturation likewise.
    pub brightness: f32,
    pub contrast: f32,
    pub saturation: f32,
    /// The shift is uniform in [-hue, hue], in turns; at most a half.
    pub hue: f32,
    /// Probability that any of this happens.
    pub p: f32,
}

/// Gaussian blur with reflected borders.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blur {
    /// The standard deviation, in pixels, is uniform in this range.
    pub sigma: [f32; 2],
    /// Width of the kernel in pixels, odd; `None`: 2 * ceil(3 * sigma) + 1 for the drawn sigma.
    pub kernel: Option<usize>,
    pub p: f32,
}

/// Values of at least `threshold` become one minus themselves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Solarize {
    pub threshold: f32,
    pub p: f32,
}

impl View {
    /// Values of one view: size * size * 3.
    pub fn len(&self) -> usize {
        self.size * self.size * 3
    }
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// The same view with other channel statistics.
    pub fn normalized(self, mean: [f32; 3], std: [f32; 3]) -> View {
        View { mean, std, ..self }
    }

    /// Refuses a policy that cannot be drawn or rendered.
    ///
    /// # Errors
    /// `Config`, naming the first field that is out of range.
    pub fn validate(&self) -> Result<()> {
        check(self.size > 0, || "a view has size 0".into(), "choose at least 1 pixel")?;
        probability("flip", self.flip)?;
        probability("gray", self.gray)?;
        self.validate_crop()?;
        self.validate_jitter()?;
        self.validate_blur()?;
        if let Some(s) = &self.solarize {
            probability("solarize.p", s.p)?;
            check(
                (0.0..=1.0).contains(&s.threshold),
                || format!("solarize.threshold is {}", s.threshold),
                "choose a value between 0 and 1",
            )?;
        }
        check(self.mean.iter().all(|m| m.is_finite()), || format!("mean is {:?}", self.mean), "choose three finite numbers")?;
        check(
            self.std.iter().all(|s| s.is_finite() && *s > 0.0),
            || format!("std is {:?}", self.std),
            "choose three numbers above 0, or 1 for no scaling",
        )
    }

    fn validate_crop(&self) -> Result<()> {
        match self.crop {
            Crop::Random { scale, ratio } => {
                range("crop.random.scale", scale, "0 < low <= high <= 1", |v| v > 0.0 && v <= 1.0)?;
                range("crop.random.ratio", ratio, "0 < low <= high", |v| v > 0.0 && v.is_finite())
            }
            Crop::Center { resize } | Crop::Square { resize } => check(
                resize >= self.size,
                || format!("images are resized to {resize} pixels, fewer than the view's size {}", self.size),
                "choose at least the size",
            ),
            Crop::Whole => Ok(()),
        }
    }

    fn validate_jitter(&self) -> Result<()> {
        let Some(j) = &self.jitter else { return Ok(()) };
        probability("jitter.p", j.p)?;
        for (name, value) in [("brightness", j.brightness), ("contrast", j.contrast), ("saturation", j.saturation)] {
            check(
                value >= 0.0 && value.is_finite(),
                || format!("jitter.{name} is {value}"),
                "choose 0 (off) or a positive strength such as 0.4",
            )?;
        }
        check((0.0..=0.5).contains(&j.hue), || format!("jitter.hue is {}", j.hue), "choose between 0 and 0.5 turns")
    }

    fn validate_blur(&self) -> Result<()> {
        let Some(b) = &self.blur else { return Ok(()) };
        probability("blur.p", b.p)?;
        range("blur.sigma", b.sigma, "0 < low <= high", |v| v > 0.0 && v.is_finite())?;
        if let Some(kernel) = b.kernel {
            check(kernel % 2 == 1, || format!("blur.kernel is {kernel}"), "choose an odd number")?;
        }
        let kernel = b.width(b.sigma[1]);
        check(
            kernel / 2 < self.size,
            || format!("a blur of {kernel} pixels reflects more than a view of {} pixels has", self.size),
            "choose a smaller kernel or sigma, or larger views",
        )
    }
}

impl Blur {
    /// Width of the kernel in pixels for a drawn sigma.
    pub fn width(&self, sigma: f32) -> usize {
        self.kernel.unwrap_or_else(|| 2 * (3.0 * sigma as f64).ceil() as usize + 1)
    }
}

fn check(holds: bool, what: impl FnOnce() -> String, remedy: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::config(what(), remedy)) }
}

fn probability(name: &str, p: f32) -> Result<()> {
    check((0.0..=1.0).contains(&p), || format!("{name} is {p}"), "choose a probability between 0 and 1")
}

fn range(name: &str, [low, high]: [f32; 2], rule: &str, valid: impl Fn(f32) -> bool) -> Result<()> {
    check(valid(low) && valid(high) && low <= high, || format!("{name} is [{low}, {high}]"), &format!("choose two numbers with {rule}"))
}
