//! Arguments that several verbs share, and their conversion to a recipe.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;

use super::{Global, warn};
use crate::config::{Keys, Known, Layers, Recipe, Request};
use crate::data::{OnBadImage, Source};
use crate::error::{self, line};

/// A whole number on the command line, with our own error for other text.
pub fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().map_err(|_| if digits { "the number is too large" } else { "a whole number belongs there" }.to_string())
}

/// `KIND:~/photos` with the folder that `~` stands for: a shell expands it at the beginning of a word alone.
pub fn home(spec: &str) -> String {
    match (spec.split_once(":~/"), std::env::var("HOME")) {
        (Some((kind, rest)), Ok(home)) if !home.is_empty() => format!("{kind}:{home}/{rest}"),
        _ => spec.to_string(),
    }
}

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
    /// First layers of a ResNet: cifar (3x3, no max-pool), cifar_wide (the same padded by 2, as solo-learn's) or imagenet (7x7, max-pool)
    #[arg(long, value_name = "NAME", help_heading = "Encoder")]
    pub stem: Option<String>,
    /// Height and width of a ViT's patches in pixels
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true, value_parser = whole::<usize>, help_heading = "Encoder")]
    pub patch: Option<usize>,
    /// A ViT's positions: learned or sincos
    #[arg(long, value_name = "NAME", help_heading = "Encoder")]
    pub positions: Option<String>,
    /// Heads of a ViT's attention
    #[arg(long, value_name = "N", help_heading = "Encoder")]
    pub heads: Option<usize>,
    /// Height and width of the views in pixels
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true, value_parser = whole::<usize>, help_heading = "Encoder")]
    pub size: Option<usize>,
    /// Of images without augmentation: pixels of the short side before the middle is cut out, whole, or whole:256 [default: what the file says, else
    /// 8/7 of the size, as torchvision; below 128 the size]
    #[arg(long, value_name = "PIXELS", help_heading = "Encoder")]
    pub resize: Option<String>,
    /// Of images without augmentation: bilinear or bicubic [default: what the file says, else bilinear]
    #[arg(long, value_name = "NAME", help_heading = "Encoder")]
    pub interpolation: Option<String>,
    /// Channel statistics the encoder was trained with: cifar10, imagenet, half (-1 to 1), unit (0 to 1), another's name, or
    /// '{ mean = [r, g, b], std = [r, g, b] }' [default: what the file says; without that it has to be given]
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
    #[arg(long, value_name = "LAMBDA", allow_negative_numbers = true, help_heading = "Training")]
    pub alignment_limit: Option<f32>,
    /// Passes over the samples
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<usize>, help_heading = "Training")]
    pub epochs: Option<usize>,
    /// Samples in a training step
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<usize>, help_heading = "Training")]
    pub batch: Option<usize>,
}

/// Flags of the command line as keys of the recipe.
#[derive(Default)]
pub struct Flags(Keys);

impl Flags {
    pub fn with<T: ToString>(mut self, key: &'static str, value: &Option<T>) -> Flags {
        self.0.extend(value.as_ref().map(|value| (key, value.to_string())));
        self
    }
    pub fn images(self, images: &Images) -> Flags {
        let source = images.data.as_deref().map(home);
        self.with("data.source", &source).with("data.on_bad_image", &images.on_bad_image).with("data.max_bad", &images.max_bad)
    }
    /// What only measures images leaves bad ones out: a million have a bad one, and a table that lacks it is worth more than none.
    pub fn measuring(self, images: &Images) -> Flags {
        self.with("data.on_bad_image", &Some(images.on_bad_image.as_deref().unwrap_or("skip")))
    }
    pub fn network(self, network: &Network) -> Flags {
        let flags = self.with("encoder.arch", &network.arch).with("encoder.stem", &network.stem);
        let flags = flags.with("encoder.patch", &network.patch).with("encoder.positions", &network.positions);
        let flags = flags.with("encoder.heads", &network.heads).with("encoder.size", &network.size);
        let flags = flags.with("encoder.resize", &network.resize).with("encoder.interpolation", &network.interpolation);
        flags.with("encoder.normalize", &network.normalize)
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
    fn request<'a>(&'a self, flags: &'a Flags) -> Request<'a> {
        Request { presets: &self.preset, file: self.recipe.as_deref(), keys: &flags.0, assignments: &self.set }
    }

    /// The recipe: preset, then file, then flags, then `--set`.
    pub fn resolve(&self, flags: &Flags) -> error::Result<Recipe> {
        self.request(flags).resolve()
    }

    /// The same over other layers than the presets.
    pub fn over(&self, layers: Layers, flags: &Flags) -> error::Result<Recipe> {
        self.request(flags).over(layers)
    }

    /// The recipe for the encoder in a file, with a warning for each guess.
    pub fn resolve_for(&self, path: &Path, flags: &Flags) -> error::Result<Recipe> {
        let Known { recipe, warnings } = self.request(flags).encoder(path)?;
        warnings.iter().for_each(|text| warn(text));
        Ok(recipe)
    }
}

/// Opens the data of a recipe, and reports the entries left out.
pub fn open(recipe: &Recipe, global: &Global) -> error::Result<Box<dyn Source>> {
    opened(recipe, recipe.data.on_bad_image, global)
}

/// The same, with bad images treated in another way.
pub fn opened(recipe: &Recipe, on_bad: OnBadImage, global: &Global) -> error::Result<Box<dyn Source>> {
    let source = recipe.data.open(on_bad)?;
    if let [(name, reason), rest @ ..] = source.left_out() {
        let more = if rest.is_empty() { String::new() } else { format!(", and {} more", rest.len()) };
        global.progress().line(&format!("left out of {}: {}: {reason}{more}", source.name(), line(name.clone())));
    }
    Ok(source)
}
