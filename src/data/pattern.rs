//! Painting small procedural images: textures, shapes and layers of both, drawn from a random stream.
//!
//! Arithmetic is f64 and only the last step rounds to 8 bits, so that machines whose sine differs in the last digit still paint the same
//! image.

use std::f64::consts::{PI, TAU};

use crate::random::Stream;

/// Red, green and blue in [0, 1].
pub type Colour = [f64; 3];

/// A rotation: sine and cosine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn(f64, f64);

impl Turn {
    pub const NONE: Turn = Turn(0.0, 1.0);

    pub fn degrees(angle: f64) -> Turn {
        let (sin, cos) = angle.to_radians().sin_cos();
        Turn(sin, cos)
    }

    fn back(self, x: f64, y: f64) -> (f64, f64) {
        (x * self.1 + y * self.0, y * self.1 - x * self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Texture {
    Flat,
    Stripes,
    Checks,
    Dots,
    Rings,
    Patches,
    Grain,
    Cells,
    Rays,
    /// A mirrored bit pattern.
    Glyph,
    /// Interfering waves.
    Waves,
}

impl Texture {
    pub const ALL: [Texture; 10] = [
        Texture::Stripes,
        Texture::Checks,
        Texture::Dots,
        Texture::Rings,
        Texture::Patches,
        Texture::Grain,
        Texture::Cells,
        Texture::Rays,
        Texture::Glyph,
        Texture::Waves,
    ];
}

/// A texture in place: where it lies, how large and in which colours.
pub struct Pattern {
    pub texture: Texture,
    pub turn: Turn,
    /// Pixels from one repeat to the next.
    pub period: f64,
    pub centre: [f64; 2],
    /// Dark, middle and light.
    pub palette: [Colour; 3],
    /// Random numbers of the texture.
    pub lattice: [f64; 64],
}

impl Pattern {
    /// One colour everywhere.
    pub fn flat(colour: Colour) -> Pattern {
        Pattern { texture: Texture::Flat, turn: Turn::NONE, period: 1.0, centre: [0.0; 2], palette: [colour; 3], lattice: [0.0; 64] }
    }

    pub fn at(&self, x: f64, y: f64) -> Colour {
        let (u, v) = self.turn.back((x - self.centre[0]) / self.period, (y - self.centre[1]) / self.period);
        self.shade(self.tone(u, v))
    }

    /// Between dark (0) and light (1), at (u, v) in periods.
    fn tone(&self, u: f64, v: f64) -> f64 {
        match self.texture {
            Texture::Flat => 0.5,
            Texture::Stripes => soft(self.period * 0.6, (TAU * u).sin()),
            Texture::Checks => soft(self.period * 0.9, (PI * u).sin() * (PI * v).sin()),
            Texture::Dots => {
                let row = v.round();
                let u = u - 0.5 * (row as i64 & 1) as f64;
                soft(self.period * 2.0, 0.3 - length(u - u.round(), v - row))
            }
            Texture::Rings => soft(self.period * 0.5, (TAU * length(u, v)).sin()),
            Texture::Patches => {
                let height = self.noise(u, v) + 0.35 * self.noise(2.3 * u + 3.1, 2.3 * v + 5.7);
                0.5 * soft(9.0, height - 0.52) + 0.5 * soft(9.0, height - 0.8)
            }
            Texture::Grain => {
                let bent = u + 0.9 * self.noise(0.35 * u, 0.35 * v);
                0.5 + 0.38 * (TAU * bent).sin() + 0.12 * (3.0 * TAU * bent).sin()
            }
            Texture::Cells => self.cells(u, v),
            Texture::Rays => soft(length(u, v) * self.period * 0.25, (self.period * v.atan2(u)).sin()),
            Texture::Glyph => {
                let (column, row) = (u.abs().floor(), v.floor());
                (3.0 * self.lattice[cell(column, row)]).floor() / 2.0
            }
            Texture::Waves => {
                let wave = |k: usize| {
                    let [a, b, phase] = [self.lattice[k], self.lattice[k + 1], self.lattice[k + 2]];
                    (TAU * ((2.0 * a - 1.0) * u * 2.0 + (2.0 * b - 1.0) * v * 2.0 + phase)).sin()
                };
                0.5 + 0.2 * (wave(0) + wave(3) + wave(6) + wave(9))
            }
        }
    }

    fn shade(&self, tone: f64) -> Colour {
        let tone = 2.0 * tone.clamp(0.0, 1.0);
        let [dark, middle, light] = &self.palette;
        if tone < 1.0 { mix(dark, middle, tone) } else { mix(middle, light, tone - 1.0) }
    }

    /// Smooth noise in [0, 1] that repeats after eight units.
    fn noise(&self, u: f64, v: f64) -> f64 {
        let (column, row) = (u.floor(), v.floor());
        let smooth = |t: f64| t * t * (3.0 - 2.0 * t);
        let (s, t) = (smooth(u - column), smooth(v - row));
        let at = |dx: f64, dy: f64| self.lattice[cell(column + dx, row + dy)];
        let (top, bottom) = (at(0.0, 0.0) * (1.0 - s) + at(1.0, 0.0) * s, at(0.0, 1.0) * (1.0 - s) + at(1.0, 1.0) * s);
        top * (1.0 - t) + bottom * t
    }

    /// Voronoi cells: dark walls, and rooms between middle and light.
    fn cells(&self, u: f64, v: f64) -> f64 {
        let (column, row) = (u.floor(), v.floor());
        let (mut first, mut second, mut room) = (f64::MAX, f64::MAX, 0.0);
        for dy in -1..=1 {
            for dx in -1..=1 {
                let (x, y) = (column + dx as f64, row + dy as f64);
                let value = self.lattice[cell(x, y)];
                let other = self.lattice[cell(y + 3.0, x + 5.0)];
                let far = length(x + 0.15 + 0.7 * value - u, y + 0.15 + 0.7 * other - v);
                if far < first {
                    (second, first, room) = (first, far, other);
                } else {
                    second = second.min(far);
                }
            }
        }
        ((second - first) * self.period * 0.45).min(1.0) * (0.45 + 0.55 * room)
    }
}

/// The lattice point of a column and a row.
fn cell(column: f64, row: f64) -> usize {
    ((row as i64 & 7) * 8 + (column as i64 & 7)) as usize
}

fn length(u: f64, v: f64) -> f64 {
    (u * u + v * v).sqrt()
}

/// A step from 0 to 1 around zero, as sharp as told.
fn soft(sharpness: f64, value: f64) -> f64 {
    (0.5 + sharpness.max(1.0) * value).clamp(0.0, 1.0)
}

pub fn mix(a: &Colour, b: &Colour, t: f64) -> Colour {
    [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t]
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Covers everything.
    Everywhere,
    /// Covers one side of a line.
    HalfPlane,
    Disc,
    Square,
    Triangle,
    Cross,
    Ring,
    Star,
    Bar,
    Drop,
}

impl Shape {
    /// Shapes with a closed outline.
    pub const FIGURES: [Shape; 8] =
        [Shape::Disc, Shape::Square, Shape::Triangle, Shape::Cross, Shape::Ring, Shape::Star, Shape::Bar, Shape::Drop];
}

/// A shape in place.
pub struct Mask {
    pub shape: Shape,
    pub centre: [f64; 2],
    /// Half of the width, in pixels.
    pub radius: f64,
    pub turn: Turn,
}

impl Mask {
    pub const EVERYWHERE: Mask = Mask { shape: Shape::Everywhere, centre: [0.0; 2], radius: 1.0, turn: Turn::NONE };

    /// How much of the pixel at (x, y) is covered, by the distance to the shape's edge.
    fn cover(&self, x: f64, y: f64) -> f64 {
        let (x, y, r) = (x - self.centre[0], y - self.centre[1], self.radius);
        let infinite = matches!(self.shape, Shape::Everywhere | Shape::HalfPlane);
        if !infinite && x * x + y * y > (1.5 * r + 1.0).powi(2) {
            return 0.0;
        }
        let (u, v) = self.turn.back(x, y);
        let outside = match self.shape {
            Shape::Everywhere => return 1.0,
            Shape::HalfPlane => u,
            Shape::Disc => length(u, v) - r,
            Shape::Square => u.abs().max(v.abs()) - 0.85 * r,
            Shape::Triangle => (0.866 * u.abs() + 0.5 * v).max(-v) - 0.55 * r,
            Shape::Cross => (u.abs().max(v.abs()) - r).max(u.abs().min(v.abs()) - 0.33 * r),
            Shape::Ring => (length(u, v) - 0.75 * r).abs() - 0.25 * r,
            Shape::Star => length(u, v) - r * (0.68 + 0.32 * (5.0 * v.atan2(u)).cos()),
            Shape::Bar => (u.abs() - r).max(v.abs() - 0.3 * r),
            Shape::Drop => length(u, v) - r * (0.62 - 0.38 * v / length(u, v).max(1e-9)),
        };
        (0.5 - outside).clamp(0.0, 1.0)
    }
}

/// Paint `side` x `side` pixels (RGB, channels last): layers from the bottom to the top, a light that
/// falls off along `light` (a vector, change in brightness from the middle to an edge), and grain of the
/// standard deviation `grain`.
pub fn paint(side: usize, layers: &[(Mask, Pattern)], light: [f64; 2], grain: f64, stream: &mut Stream) -> Vec<u8> {
    let half = side as f64 / 2.0;
    let mut pixels = Vec::with_capacity(side * side * 3);
    for row in 0..side {
        for column in 0..side {
            let (x, y) = (column as f64 + 0.5, row as f64 + 0.5);
            let mut colour = [0.0; 3];
            for (mask, pattern) in layers {
                let cover = mask.cover(x, y);
                if cover > 0.0 {
                    colour = mix(&colour, &pattern.at(x, y), cover);
                }
            }
            let bright = 1.0 + light[0] * (x / half - 1.0) + light[1] * (y / half - 1.0);
            let speck = grain * triangular(stream);
            pixels.extend(colour.map(|c| ((c * bright + speck) * 255.0).round().clamp(0.0, 255.0) as u8));
        }
    }
    pixels
}

/// Mean 0, standard deviation 1, at the price of one number.
fn triangular(stream: &mut Stream) -> f64 {
    let bits = stream.bits();
    ((bits >> 16) as f64 - (bits & 0xFFFF) as f64) / 65536.0 * 6f64.sqrt()
}
