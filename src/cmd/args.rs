//! Arguments that several verbs share, and the way from them to a recipe.

use std::path::PathBuf;

use clap::Args;

use super::Global;
use crate::config::{Layers, Recipe};
use crate::data::Source;
use crate::error::Result;

/// Where the recipe comes from.
#[derive(Args, Default)]
pub struct Origin {
    /// Recipe to start from (see `sslmem show presets`), and others that change it [default: reference]
    #[arg(long, value_name = "NAME", help_heading = "Recipe")]
    pub preset: Vec<String>,
    /// TOML file with any keys of a recipe (see `sslmem show recipe`); wins over the preset
    #[arg(long, value_name = "FILE", help_heading = "Recipe")]
    pub recipe: Option<PathBuf>,
    /// Any key of the recipe, as in --set train.epochs=10; wins over everything
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Recipe")]
    pub set: Vec<String>,
}

/// Which images.
#[derive(Args, Default)]
pub struct Images {
    /// Which images, as in cifar10:DIR, folder:DIR or synthetic:N (see `sslmem show data`)
    #[arg(long, value_name = "KIND:WHERE", help_heading = "Data")]
    pub data: Option<String>,
    /// What to do with an image that cannot be decoded: fail or skip
    #[arg(long, value_name = "WHAT", help_heading = "Data")]
    pub on_bad_image: Option<String>,
    /// Share of bad images above which the exit status is 1, with everything kept [default: 0.01]
    #[arg(long, value_name = "SHARE", help_heading = "Data")]
    pub max_bad: Option<f64>,
}

/// Which network.
#[derive(Args, Default)]
pub struct Network {
    /// Encoder (see `sslmem show encoders`)
    #[arg(long, value_name = "NAME", help_heading = "Encoder")]
    pub arch: Option<String>,
    /// First layers of a ResNet: cifar (3x3, no max-pool) or imagenet (7x7, max-pool)
    #[arg(long, value_name = "NAME", help_heading = "Encoder")]
    pub stem: Option<String>,
    /// Height and width of a ViT's patches in pixels
    #[arg(long, value_name = "PIXELS", help_heading = "Encoder")]
    pub patch: Option<usize>,
    /// A ViT's positions: learned or sincos
    #[arg(long, value_name = "NAME", help_heading = "Encoder")]
    pub positions: Option<String>,
    /// Height and width of the views in pixels
    #[arg(long, value_name = "PIXELS", help_heading = "Encoder")]
    pub size: Option<usize>,
    /// Channel statistics the encoder was trained with: cifar10, imagenet, half, unit or another's name
    #[arg(long, value_name = "NAME", help_heading = "Encoder")]
    pub normalize: Option<String>,
}

/// How, and how long.
#[derive(Args, Default)]
pub struct Length {
    /// Way to train (see `sslmem show methods`); presets have settings that suit each
    #[arg(long, value_name = "NAME", help_heading = "Training")]
    pub method: Option<String>,
    /// Weight of the term that keeps the views of an image apart (the paper's Eq. 3)
    #[arg(long, value_name = "LAMBDA", help_heading = "Training")]
    pub alignment_limit: Option<f32>,
    /// Passes over the samples
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub epochs: Option<usize>,
    /// Samples in a training step
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub batch: Option<usize>,
}

/// Flags of the command line as keys of the recipe.
#[derive(Default)]
pub struct Flags(Vec<(&'static str, String)>);

impl Flags {
    pub fn with<T: ToString>(mut self, key: &'static str, value: &Option<T>) -> Flags {
        self.0.extend(value.as_ref().map(|value| (key, value.to_string())));
        self
    }
    pub fn images(self, images: &Images) -> Flags {
        self.with("data.source", &images.data).with("data.on_bad_image", &images.on_bad_image).with("data.max_bad", &images.max_bad)
    }
    /// What only measures images leaves bad ones out: a million have a bad one, and a table that lacks it is worth more than none.
    pub fn measuring(self, images: &Images) -> Flags {
        self.with("data.on_bad_image", &Some(images.on_bad_image.as_deref().unwrap_or("skip")))
    }
    pub fn network(self, network: &Network) -> Flags {
        let flags = self.with("encoder.arch", &network.arch).with("encoder.stem", &network.stem);
        let flags = flags.with("encoder.patch", &network.patch).with("encoder.positions", &network.positions);
        flags.with("encoder.size", &network.size).with("encoder.normalize", &network.normalize)
    }
    pub fn length(self, length: &Length) -> Flags {
        let flags = self.with("method.name", &length.method).with("method.alignment_limit", &length.alignment_limit);
        flags.with("train.epochs", &length.epochs).with("train.batch", &length.batch)
    }
    pub fn seed(self, global: &Global) -> Flags {
        self.with("seed", &global.seed)
    }
}

impl Origin {
    /// The recipe: preset, then file, then flags, then `--set`.
    pub fn resolve(&self, flags: &Flags) -> Result<Recipe> {
        self.over(Layers::presets(&self.preset)?, flags)
    }

    /// The same over other layers than the presets.
    pub fn over(&self, mut layers: Layers, flags: &Flags) -> Result<Recipe> {
        if let Some(path) = &self.recipe {
            layers = layers.file(path)?;
        }
        for (key, value) in &flags.0 {
            layers = layers.set(key, value)?;
        }
        for assignment in &self.set {
            layers = layers.assign(assignment)?;
        }
        layers.resolve()
    }
}

/// Opens the data of a recipe.
pub fn open(recipe: &Recipe) -> Result<Box<dyn Source>> {
    recipe.data.exif.open(&recipe.data.source, recipe.data.on_bad_image)
}
