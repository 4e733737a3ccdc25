//! A procedural data set whose truth is known: classes with common and rare members, and planted atypical images.

use crate::error::{Error, Result};
use crate::random::{Purpose, Stream};

use super::pattern::{Colour, Mask, Pattern, Shape, Texture, Turn, mix, paint};
use super::{Image, SampleKind, Source};

const SIDE: usize = 32;

/// Raised with every change of the pixels, so that a digest never means two data sets.
const GENERATION: u32 = 1;

/// In every [`BLOCK`] consecutive images one is atypical and two are rare, at random positions.
const BLOCK: usize = 25;
const ATYPICAL: usize = 1;
const RARE: usize = 2;

/// Common traits of a sub-population: a texture and a figure on it.
struct Look {
    texture: Texture,
    angle: f64,
    period: f64,
    palette: [u32; 3],
    figure: Shape,
    ink: u32,
}

struct Class {
    name: &'static str,
    common: Look,
    rare: Look,
}

const fn look(texture: Texture, angle: f64, period: f64, palette: [u32; 3], figure: Shape, ink: u32) -> Look {
    Look { texture, angle, period, palette, figure, ink }
}

const CLASSES: [Class; 8] = [
    Class {
        name: "stripes",
        common: look(Texture::Stripes, 45.0, 7.0, [0x1D3557, 0x6C8FAF, 0xF1EDE0], Shape::Disc, 0xE63946),
        rare: look(Texture::Stripes, 90.0, 3.2, [0xB5179E, 0xE58FC8, 0xFFF0FA], Shape::Disc, 0x3A0CA3),
    },
    Class {
        name: "checks",
        common: look(Texture::Checks, 0.0, 5.0, [0x9B2226, 0xC9736B, 0xFAF3E8], Shape::Triangle, 0x264653),
        rare: look(Texture::Checks, 45.0, 10.0, [0x111111, 0x6F6A2C, 0xFFD60A], Shape::Triangle, 0x00A6A6),
    },
    Class {
        name: "dots",
        common: look(Texture::Dots, 0.0, 8.0, [0xF6BD60, 0xD58B6A, 0x6D2E8C], Shape::Square, 0x2A9D8F),
        rare: look(Texture::Dots, 30.0, 4.0, [0x0B3C49, 0x5FA8B0, 0xFFFFFF], Shape::Square, 0xFB5607),
    },
    Class {
        name: "rings",
        common: look(Texture::Rings, 0.0, 6.0, [0x0F6E6E, 0x63B5A8, 0xE9F5EC], Shape::Bar, 0xF4A261),
        rare: look(Texture::Rings, 0.0, 12.0, [0xD00000, 0xF48C06, 0xFFBA08], Shape::Bar, 0x03071E),
    },
    Class {
        name: "patches",
        common: look(Texture::Patches, 0.0, 9.0, [0x31401F, 0x6E7F3A, 0xC2B280], Shape::Cross, 0xEDE6D0),
        rare: look(Texture::Patches, 0.0, 5.0, [0x5E6C7A, 0xA9B8C6, 0xF4F8FB], Shape::Cross, 0xD62828),
    },
    Class {
        name: "grain",
        common: look(Texture::Grain, 90.0, 6.0, [0x5B3A1E, 0x99683A, 0xD9AE76], Shape::Ring, 0x1B1B1E),
        rare: look(Texture::Grain, 0.0, 10.0, [0x023E8A, 0x0096C7, 0xADE8F4], Shape::Ring, 0xFFFFFF),
    },
    Class {
        name: "cells",
        common: look(Texture::Cells, 0.0, 8.0, [0x2B2D42, 0x7D7FA6, 0xD6D4EA], Shape::Star, 0xFFC300),
        rare: look(Texture::Cells, 0.0, 4.5, [0x3A2300, 0xE09F1F, 0xFFE08A], Shape::Star, 0x5A189A),
    },
    Class {
        name: "rays",
        common: look(Texture::Rays, 0.0, 9.0, [0xF28482, 0xF7B7A3, 0xFDF0D5], Shape::Drop, 0x5F0F40),
        rare: look(Texture::Rays, 0.0, 18.0, [0x10002B, 0x5A189A, 0xC77DFF], Shape::Drop, 0x80FFDB),
    },
];

/// 32 x 32 images. Each is a function of the seed, the part and its number there, so the first images of a larger set are those of a
/// smaller one.
///
/// Members of a class share texture, colours and figure and differ in place, size, turn, light and grain.
/// 88 of 100 images are [`SampleKind::Common`], 8 [`SampleKind::Rare`] (the class in other colours, size and turn) and
/// 4 [`SampleKind::Atypical`] (a composition, colours and figures that no other image has, under a random label).
/// The test part has a fifth of the training part's size, rounded up.
pub struct Synthetic {
    seed: u64,
    train: usize,
    test: usize,
    classes: Vec<String>,
    digest: String,
}

impl Synthetic {
    /// # Errors
    /// No images, or more than a 32-bit index can count.
    pub fn new(train: usize, seed: u64) -> Result<Synthetic> {
        let test = train.div_ceil(5);
        if train == 0 || train.saturating_add(test) > u32::MAX as usize {
            return Err(Error::config(format!("a synthetic data set cannot have {train} training images"), "ask for 1 to 3000000000"));
        }
        let identity = format!("synthetic generation {GENERATION} train {train} seed {seed}");
        let digest = blake3::hash(identity.as_bytes()).to_hex().to_string();
        Ok(Synthetic { seed, train, test, classes: CLASSES.iter().map(|c| c.name.to_string()).collect(), digest })
    }

    /// From `N` or `N@SEED`; the seed is 0 when it is not named.
    ///
    /// # Errors
    /// Any other text; as [`Synthetic::new`].
    pub fn parse(text: &str) -> Result<Synthetic> {
        let (train, seed) = text.split_once('@').unwrap_or((text, "0"));
        match (train.parse(), seed.parse()) {
            (Ok(train), Ok(seed)) => Synthetic::new(train, seed),
            _ => Err(Error::config(
                format!("`synthetic:{text}` is not a number of images"),
                "write `synthetic:N` or `synthetic:N@SEED`, as in `synthetic:1000@7`",
            )),
        }
    }

    /// The planted truth.
    pub fn kind(&self, index: usize) -> SampleKind {
        let (part, number) = self.place(index);
        let mut stream = Stream::new(self.seed, Purpose::Synthetic, 1, (number / BLOCK) as u32, part);
        match stream.permutation(BLOCK)[number % BLOCK] as usize {
            rank if rank < ATYPICAL => SampleKind::Atypical,
            rank if rank < ATYPICAL + RARE => SampleKind::Rare,
            _ => SampleKind::Common,
        }
    }

    /// Part (0 training, 1 test) and number within it.
    fn place(&self, index: usize) -> (u32, usize) {
        assert!(index < self.len(), "sample {index} of {}", self.len());
        if index < self.train { (0, index) } else { (1, index - self.train) }
    }

    /// The image's random stream, after its first number chose the class.
    fn start(&self, index: usize) -> (usize, Stream) {
        let (part, number) = self.place(index);
        let mut stream = Stream::new(self.seed, Purpose::Synthetic, 0, number as u32, part);
        (stream.below(CLASSES.len() as u32) as usize, stream)
    }
}

impl Source for Synthetic {
    fn name(&self) -> &str {
        "synthetic"
    }
    fn len(&self) -> usize {
        self.train + self.test
    }
    fn train_len(&self) -> usize {
        self.train
    }
    fn id(&self, index: usize) -> String {
        match self.place(index) {
            (0, number) => format!("train/{number:05}"),
            (_, number) => format!("test/{number:05}"),
        }
    }
    fn label(&self, index: usize) -> Option<u32> {
        Some(self.start(index).0 as u32)
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn digest(&self) -> &str {
        &self.digest
    }
    fn largest(&self) -> usize {
        SIDE * SIDE * 3
    }
    fn image(&self, index: usize) -> Result<Image> {
        let (class, mut stream) = self.start(index);
        let s = &mut stream;
        let layers = match self.kind(index) {
            SampleKind::Common => member(&CLASSES[class].common, s),
            SampleKind::Rare => member(&CLASSES[class].rare, s),
            SampleKind::Atypical => oddity(s),
        };
        let light = [between(s, -0.25, 0.25), between(s, -0.25, 0.25)];
        let grain = between(s, 0.015, 0.03);
        Ok(Image { height: SIDE, width: SIDE, pixels: paint(SIDE, &layers, light, grain, s) })
    }
    fn truth(&self, index: usize) -> Option<SampleKind> {
        Some(self.kind(index))
    }
}

/// An image of a sub-population.
fn member(look: &Look, s: &mut Stream) -> Vec<(Mask, Pattern)> {
    let tint: Colour = [(); 3].map(|_| between(s, -0.09, 0.09));
    let ground = Pattern {
        texture: look.texture,
        turn: Turn::degrees(look.angle + between(s, -30.0, 30.0)),
        period: look.period * between(s, 0.75, 1.35),
        centre: anywhere(s, 6.0),
        palette: look.palette.map(|stop| jitter(rgb(stop), &tint, s)),
        lattice: lattice(s),
    };
    let figure =
        Mask { shape: look.figure, centre: anywhere(s, 6.0), radius: between(s, 3.5, 8.0), turn: Turn::degrees(between(s, 0.0, 360.0)) };
    let ink = jitter(rgb(look.ink), &tint, s);
    vec![(Mask::EVERYWHERE, ground), (figure, Pattern::flat(ink))]
}

/// An image like no other.
fn oddity(s: &mut Stream) -> Vec<(Mask, Pattern)> {
    let mut layers = vec![(Mask::EVERYWHERE, any_pattern(s))];
    match s.below(3) {
        // Fields of different textures that meet somewhere.
        0 => {
            let first = between(s, 0.0, 360.0);
            for part in 0..2 + s.below(2) {
                let mask = Mask {
                    shape: Shape::HalfPlane,
                    centre: anywhere(s, 10.0),
                    radius: 1.0,
                    turn: Turn::degrees(first + 110.0 * part as f64 + between(s, -20.0, 20.0)),
                };
                layers.push((mask, any_pattern(s)));
            }
        }
        // A heap of figures.
        1 => {
            for _ in 0..3 + s.below(4) {
                let mask = Mask { radius: between(s, 4.0, 10.0), ..any_figure(s) };
                let fill = if s.below(2) == 0 { Pattern::flat(any_colour(s)) } else { any_pattern(s) };
                layers.push((mask, fill));
            }
        }
        // One large figure that is a picture of its own, with a mark on it.
        _ => {
            let large = Mask { radius: between(s, 11.0, 15.0), centre: anywhere(s, 12.0), ..any_figure(s) };
            let glyph = Pattern { texture: Texture::Glyph, period: between(s, 1.8, 3.2), ..any_pattern(s) };
            layers.push((large, glyph));
            layers.push((Mask { radius: between(s, 3.0, 6.0), ..any_figure(s) }, Pattern::flat(any_colour(s))));
        }
    }
    layers
}

fn any_pattern(s: &mut Stream) -> Pattern {
    Pattern {
        texture: Texture::ALL[s.below(Texture::ALL.len() as u32) as usize],
        turn: Turn::degrees(between(s, 0.0, 180.0)),
        period: between(s, 2.5, 12.0),
        centre: anywhere(s, 4.0),
        palette: [(0.1, 0.45), (0.4, 0.85), (0.75, 1.0)].map(|(low, high)| colour(between(s, low, high), s)),
        lattice: lattice(s),
    }
}

fn any_figure(s: &mut Stream) -> Mask {
    let shape = Shape::FIGURES[s.below(Shape::FIGURES.len() as u32) as usize];
    Mask { shape, centre: anywhere(s, 3.0), radius: 1.0, turn: Turn::degrees(between(s, 0.0, 360.0)) }
}

fn any_colour(s: &mut Stream) -> Colour {
    colour(between(s, 0.15, 1.0), s)
}

/// A colour of this brightness: any hue, weak or strong.
fn colour(value: f64, s: &mut Stream) -> Colour {
    let (hue, strength) = (between(s, 0.0, 6.0), between(s, 0.25, 1.0));
    [5.0, 3.0, 1.0].map(|turn| {
        let k = (turn + hue) % 6.0;
        value * (1.0 - strength * k.min(4.0 - k).clamp(0.0, 1.0))
    })
}

/// A colour of a palette, a little off: together with the others by `tint`, and on its own.
fn jitter(colour: Colour, tint: &Colour, s: &mut Stream) -> Colour {
    let own = mix(&colour, &any_colour(s), 0.16);
    [own[0] + tint[0], own[1] + tint[1], own[2] + tint[2]]
}

fn rgb(hex: u32) -> Colour {
    [16, 8, 0].map(|shift| (hex >> shift & 0xFF) as f64 / 255.0)
}

/// A place at least `margin` pixels from every edge.
fn anywhere(s: &mut Stream, margin: f64) -> [f64; 2] {
    [(); 2].map(|_| between(s, margin, SIDE as f64 - margin))
}

fn lattice(s: &mut Stream) -> [f64; 64] {
    [(); 64].map(|_| s.uniform() as f64)
}

fn between(s: &mut Stream, low: f64, high: f64) -> f64 {
    low + (high - low) * s.uniform() as f64
}
