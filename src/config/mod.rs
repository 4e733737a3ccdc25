//! The recipe: everything a run depends on, with TOML in and out.

mod check;
mod encoder;
mod keys;
mod layers;
mod normalize;
mod presets;
mod sources;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

use crate::data::{Exif, OnBadImage, Reading, Source};
use crate::encoders::{self, EncoderConfig, Features, Network, Positions, Stem};
use crate::error::{Error, Result};
use crate::methods::{self, Ramp, ViewKind};
use crate::ops::alignment::Pairs;
use crate::score::{EncoderFile, Layer, Protocol};
use crate::split::{How, Sizes, SubsetSize};
use crate::stage::setting;
use crate::view::{self, Interpolation, Policy, Resize, View};

pub use crate::methods::Options as Method;
pub use check::nearest;
pub use encoder::{Keys, Known, Request};
pub use keys::KEYS;
pub use layers::Layers;
pub use normalize::{Normalize, Statistics};
pub use presets::{DEFAULT, PRESETS, Preset, preset};
pub use sources::{Cited, sources};

/// Everything a run depends on. The same recipe on the same data gives the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub seed: u64,
    pub pairs: usize,
    pub data: Data,
    pub split: Split,
    pub encoder: Encoder,
    pub method: Method,
    pub optim: Optim,
    pub train: Train,
    pub score: Score,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    pub source: String,
    pub on_bad_image: OnBadImage,
    pub max_bad: f64,
    pub exif: Exif,
    pub max_pixels: u64,
}

impl Data {
    /// Opens the data set with this treatment of bad images, which may differ from the recipe's.
    ///
    /// # Errors
    /// As [`Reading::open`].
    pub fn open(&self, on_bad: OnBadImage) -> Result<Box<dyn Source>> {
        Reading { on_bad, exif: self.exif, max_pixels: self.max_pixels }.open(&self.source)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    pub shared: SubsetSize,
    pub candidate: SubsetSize,
    pub independent: SubsetSize,
    pub external: SubsetSize,
    pub order: Order,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoder {
    pub arch: String,
    pub stem: Stem,
    pub patch: usize,
    pub positions: Positions,
    pub heads: usize,
    pub norm_eps: f32,
    pub drop_path: f32,
    pub zero_init_residual: bool,
    pub trained_size: usize,
    pub size: usize,
    pub resize: Resize,
    pub interpolation: Interpolation,
    pub normalize: Normalize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optim {
    pub name: String,
    pub lr: f32,
    pub lr_scaling: String,
    pub lr_end: f32,
    pub lr_bias: f32,
    pub warmup_epochs: f32,
    pub schedule: String,
    pub weight_decay: Ramp,
    pub decay_all: bool,
    pub clip: f32,
    pub momentum: f32,
    pub betas: [f32; 2],
    pub eps: f32,
    pub trust: f32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    pub epochs: usize,
    pub batch: usize,
    pub accumulate: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    pub views: usize,
    pub pairs: Pairs,
    pub features: Features,
    pub layer: String,
    pub batch: usize,
    pub view: Policy,
}

impl Default for Recipe {
    /// The preset [`DEFAULT`].
    fn default() -> Recipe {
        preset(DEFAULT).expect("a test resolves every preset")
    }
}

impl Recipe {
    /// The policy of training views, at the encoder's size.
    ///
    /// # Errors
    /// As [`Recipe::validate`].
    pub fn train_view(&self) -> Result<View> {
        self.view("method.view", &self.method.view, self.encoder.size)
    }

    /// The views of a sample that `method` trains on, grouped by encoder pass.
    ///
    /// # Errors
    /// As [`Recipe::validate`].
    pub fn train_views(&self, method: &dyn methods::Method) -> Result<Vec<Vec<View>>> {
        let o = &self.method;
        let one = |kind: &ViewKind| match kind {
            ViewKind::First => self.view("method.view", &o.view, self.encoder.size),
            ViewKind::Second if o.second_view == Policy::Named(SAME.into()) => self.train_view(),
            ViewKind::Second => self.view("method.second_view", &o.second_view, self.encoder.size),
            ViewKind::Local => self.view("method.local_view", &o.local_view, o.local_size),
        };
        let groups = method.views(o);
        groups.iter().map(|group| group.iter().map(one).collect()).collect()
    }

    /// The recipe's network.
    ///
    /// # Errors
    /// There is no such encoder, or not in this configuration.
    pub fn network(&self) -> Result<Network> {
        let Encoder { stem, patch, positions, heads, norm_eps, zero_init_residual, trained_size, size, .. } = self.encoder;
        let trained = if trained_size == 0 { size } else { trained_size };
        let config = EncoderConfig { stem, patch, positions, heads, norm_eps, zero_init_residual, ..EncoderConfig::of(trained) };
        let network = Network { encoder: encoders::find(&self.encoder.arch)?, config };
        network.encoder.check(&network.config, size)?;
        Ok(network)
    }

    /// The policy of scoring views, at the encoder's size.
    ///
    /// # Errors
    /// As [`Recipe::validate`].
    pub fn score_view(&self) -> Result<View> {
        self.view("score.view", &self.score.view, self.encoder.size)
    }

    /// The un-augmented view, normalised as [`Recipe::score_view`].
    ///
    /// # Errors
    /// As [`Recipe::validate`].
    pub fn original_view(&self) -> Result<View> {
        let Encoder { size, resize, interpolation, .. } = self.encoder;
        let View { mean, std, .. } = self.score_view()?;
        Ok(View::plain(size, resize, interpolation, [mean, std]))
    }

    /// The encoder in `path`, with the settings of its images.
    ///
    /// # Errors
    /// As [`Recipe::validate`].
    pub fn encoder_file<'a>(&self, path: &'a Path) -> Result<EncoderFile<'a>> {
        Ok(EncoderFile { path, network: self.network()?, view: self.score_view()?, original: self.original_view()?, classifier: None })
    }

    /// Whether the method learns from the classes of the samples.
    ///
    /// # Errors
    /// There is no such method.
    pub fn supervised(&self) -> Result<bool> {
        Ok(methods::find(&self.method.name)?.supervised())
    }

    /// The scoring protocol.
    pub fn protocol(&self) -> Protocol {
        let Score { views, pairs, batch, .. } = self.score;
        Protocol { views, pairs, layers: vec![self.layer()], seed: self.seed, batch }
    }

    /// The compared layers.
    pub fn layer(&self) -> Layer {
        let Score { features, ref layer, .. } = self.score;
        if layer.is_empty() { Layer::Output(features) } else { Layer::of(layer) }
    }

    /// The part of the recipe that scores and features depend on, for manifests. The rest describes a training, and the encoders may come
    /// from elsewhere.
    ///
    /// # Errors
    /// A value has no JSON.
    pub fn scoring(&self) -> Result<Value> {
        let mut settings = setting(self)?;
        if let Some(keys) = settings.as_object_mut() {
            keys.retain(|key, _| ["seed", "data", "encoder", "score"].contains(&key.as_str()));
            let encoder = keys.get_mut("encoder").and_then(Value::as_object_mut);
            encoder.into_iter().for_each(|encoder| encoder.retain(|key, _| !["drop_path", "zero_init_residual"].contains(&key.as_str())));
        }
        Ok(settings)
    }

    fn view(&self, key: &str, policy: &Policy, size: usize) -> Result<View> {
        let view = match policy {
            Policy::Own(view) => *view,
            Policy::Named(name) => {
                let [mean, std] = self.encoder.normalize.statistics();
                let made = view::policy(name, size).ok_or_else(|| {
                    Error::config(format!("{key}: there is no policy `{name}`"), check::remedy(name, view::POLICIES.iter().map(|p| p.0)))
                })?;
                made.normalized(mean, std)
            }
        };
        if view.size != size {
            let what = format!("{key}.size is {}, but {size} belongs there", view.size);
            return Err(Error::config(what, "give both the same size"));
        }
        Ok(view)
    }

    /// The sizes of the split, as the split wants them.
    pub fn sizes(&self) -> Sizes {
        let Split { shared, candidate, independent, external, .. } = self.split;
        Sizes { shared, candidate, independent, external }
    }

    /// The order of the split, as the split wants it.
    pub fn how(&self) -> How {
        let kind = self.data.source.split(':').next().unwrap_or_default();
        match self.split.order {
            Order::Auto if NAMED.contains(&kind) => How::Ordered,
            Order::Ordered => How::Ordered,
            Order::Auto | Order::Stratified => How::Stratified(self.seed),
            Order::Seed(seed) => How::Seeded(seed),
        }
    }

    /// The recipe as TOML, every key with its value; reading it back gives the same recipe.
    ///
    /// # Errors
    /// A number does not fit TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::config(format!("the recipe does not fit TOML: {error}"), "choose a seed below 2^63"))
    }

    /// The recipe as TOML with the meaning of each key.
    ///
    /// # Errors
    /// As [`Recipe::to_toml`].
    pub fn explained(&self) -> Result<String> {
        self.commented(|key, _| KEYS.iter().find(|(known, _)| *known == key).map(|(_, meaning)| meaning.to_string()))
    }

    /// The recipe as TOML with `comment`'s text for each key and value.
    fn commented(&self, comment: impl Fn(&str, &str) -> Option<String>) -> Result<String> {
        let text = self.to_toml()?;
        let mut section = String::new();
        let mut out = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = format!("{name}.");
            }
            let comment = line.split_once(" = ").and_then(|(key, value)| comment(&format!("{section}{key}"), value));
            match comment {
                Some(comment) => out.push_str(&format!("{line:<30} # {comment}\n")),
                None => out.push_str(&format!("{line}\n")),
            }
        }
        Ok(out)
    }
}

/// Kinds of data that are split in their own order: it is the paper's, or random with respect to classes. Users' files are mostly sorted by
/// class.
const NAMED: [&str; 6] = ["cifar10", "cifar100", "svhn", "stl10", "mnist", "synthetic"];

/// Name of a second view with the policy of the first.
const SAME: &str = "same";

/// How samples are divided among the subsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `Ordered` for the kinds of data in `NAMED`, `Stratified` for the others.
    Auto,
    Ordered,
    Stratified,
    Seed(u64),
}

impl Serialize for Order {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match *self {
            Order::Auto => to.serialize_str("auto"),
            Order::Ordered => to.serialize_str("ordered"),
            Order::Stratified => to.serialize_str("stratified"),
            Order::Seed(seed) => to.serialize_u64(seed),
        }
    }
}

impl<'de> Deserialize<'de> for Order {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Order, D::Error> {
        from.deserialize_any(AnyOrder)
    }
}

struct AnyOrder;

impl serde::de::Visitor<'_> for AnyOrder {
    type Value = Order;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("\"auto\", \"ordered\", \"stratified\" or a seed, a whole number")
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Order, E> {
        match text {
            "auto" => Ok(Order::Auto),
            "ordered" => Ok(Order::Ordered),
            "stratified" => Ok(Order::Stratified),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }
    fn visit_u64<E: serde::de::Error>(self, seed: u64) -> std::result::Result<Order, E> {
        Ok(Order::Seed(seed))
    }
    fn visit_i64<E: serde::de::Error>(self, seed: i64) -> std::result::Result<Order, E> {
        let wrong = || E::invalid_value(serde::de::Unexpected::Signed(seed), &self);
        u64::try_from(seed).map(Order::Seed).map_err(|_| wrong())
    }
}
