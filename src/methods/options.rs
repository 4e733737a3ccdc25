//! What can be chosen about a method.

use crate::encoders::Last;
use crate::view::Policy;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The `[method]` of a recipe. What each key means, and to which methods: [`crate::config::KEYS`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    pub name: String,
    pub temperature: f32,
    pub projector: Vec<usize>,
    pub head_norm: bool,
    pub head_end: HeadEnd,
    pub predictor: Vec<usize>,
    pub fixed_predictor: bool,
    pub momentum: Ramp,
    pub teacher_temperature: Ramp,
    pub teacher_warmup_epochs: f32,
    pub prototypes: usize,
    pub center_momentum: f32,
    pub freeze_last_layer: f32,
    pub lambda: f32,
    pub scale: f32,
    pub weights: [f32; 3],
    pub mask: f32,
    pub norm_pix: bool,
    pub decoder: [usize; 3],
    pub alignment_limit: f32,
    pub view: Policy,
    pub second_view: Policy,
    pub local_view: Policy,
    pub local_crops: usize,
    pub local_size: usize,
}

/// What the heads of SimCLR and BYOL end in; those of the other methods are the same in all code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadEnd {
    /// A linear layer with a bias.
    Bias,
    /// One without.
    Plain,
    /// One without, and batch norm with a scale and no offset.
    Norm,
}

impl HeadEnd {
    pub fn last(self) -> Last {
        match self {
            HeadEnd::Bias => Last::Linear { bias: true },
            HeadEnd::Plain => Last::Linear { bias: false },
            HeadEnd::Norm => Last::Norm { scale: true },
        }
    }
}

/// A number that goes from the first value to the second during a training; written as one number where it stays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp(pub [f32; 2]);

impl Ramp {
    /// Half a cosine from the first value at `share` 0 to the second at 1.
    pub fn cosine(self, share: f64) -> f64 {
        let [first, last] = self.0.map(f64::from);
        last + 0.5 * (first - last) * (1.0 + (std::f64::consts::PI * share).cos())
    }
    /// A straight line from the first value at `share` 0 to the second at 1 and beyond.
    pub fn line(self, share: f64) -> f64 {
        let [first, last] = self.0.map(f64::from);
        first + (last - first) * share.min(1.0)
    }
}

impl Serialize for Ramp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let [first, last] = self.0;
        if first == last { to.serialize_f32(first) } else { self.0.serialize(to) }
    }
}

impl<'de> Deserialize<'de> for Ramp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Ramp, D::Error> {
        from.deserialize_any(AnyRamp)
    }
}

struct AnyRamp;

impl<'de> serde::de::Visitor<'de> for AnyRamp {
    type Value = Ramp;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a number, or [first, last]")
    }
    fn visit_f64<E>(self, x: f64) -> Result<Ramp, E> {
        Ok(Ramp([x as f32; 2]))
    }
    fn visit_i64<E>(self, x: i64) -> Result<Ramp, E> {
        Ok(Ramp([x as f32; 2]))
    }
    fn visit_u64<E>(self, x: u64) -> Result<Ramp, E> {
        Ok(Ramp([x as f32; 2]))
    }
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, from: A) -> Result<Ramp, A::Error> {
        <[f32; 2]>::deserialize(serde::de::value::SeqAccessDeserializer::new(from)).map(Ramp)
    }
}
