//! Channel statistics of views, by name or by number.

use serde::{Deserialize, Serialize};

use crate::view;

/// Mean and standard deviation with which the channels of a view are normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Normalize {
    /// A name in [`Normalize::NAMED`].
    Named(&'static str),
    /// Per channel (red, green, blue), of pixel values scaled to 0 to 1.
    Own(Statistics),
}

/// Mean and standard deviation of the three channels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

impl Normalize {
    /// Statistics with a name in recipes.
    pub const NAMED: [(&str, [[f32; 3]; 2]); 9] = [
        ("cifar10", view::CIFAR10),
        ("cifar100", view::CIFAR100),
        ("svhn", view::SVHN),
        ("stl10", view::STL10),
        ("mnist", view::MNIST),
        ("imagenet", view::IMAGENET),
        ("sslmem", view::SSLMEM),
        ("half", view::HALF),
        ("unit", view::UNIT),
    ];

    /// The named form if these statistics have a name.
    pub fn of(mean: [f32; 3], std: [f32; 3]) -> Normalize {
        match Normalize::NAMED.iter().find(|(_, statistics)| *statistics == [mean, std]) {
            Some((name, _)) => Normalize::Named(name),
            None => Normalize::Own(Statistics { mean, std }),
        }
    }

    /// Mean and standard deviation of the three channels.
    pub fn statistics(self) -> [[f32; 3]; 2] {
        match self {
            Normalize::Named(name) => Normalize::NAMED.iter().find(|(known, _)| *known == name).map_or(view::UNIT, |(_, s)| *s),
            Normalize::Own(Statistics { mean, std }) => [mean, std],
        }
    }
}

impl Serialize for Normalize {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Normalize::Named(name) => to.serialize_str(name),
            Normalize::Own(statistics) => statistics.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Normalize {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Normalize, D::Error> {
        from.deserialize_any(AnyNormalize)
    }
}

struct AnyNormalize;

impl<'de> serde::de::Visitor<'de> for AnyNormalize {
    type Value = Normalize;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = Normalize::NAMED.iter().map(|(name, _)| *name).collect();
        write!(f, "one of {}, or {{ mean = [r, g, b], std = [r, g, b] }}", names.join(", "))
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Normalize, E> {
        let found = Normalize::NAMED.iter().find(|(name, _)| *name == text);
        found.map(|(name, _)| Normalize::Named(name)).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Normalize, A::Error> {
        let of = serde::de::value::MapAccessDeserializer::new(map);
        Statistics::deserialize(of).map(|Statistics { mean, std }| Normalize::of(mean, std))
    }
}
