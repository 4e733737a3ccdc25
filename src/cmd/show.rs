//! `sslmem show`: lists the choices and defaults, and shows augmented views.

use std::io::Cursor;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use image::ImageFormat;

use super::args::{Flags, Images, Network, Origin, open, whole};
use super::{Global, print, reserve};
use crate::config::{DEFAULT, PRESETS, Recipe, nearest, sources};
use crate::data::DATASETS;
use crate::encoders::ENCODERS;
use crate::error::{Error, Result};
use crate::files;
use crate::methods::METHODS;
use crate::table::{More, columns};
use crate::tape::{Mode, Tape};
use crate::var::Dtype;
use crate::view::{POLICIES, policy, sheet};

/// Show what there is to choose from, every default, and what augmentation does
#[derive(Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  sslmem show recipe paper\n  sslmem show augment --data cifar10:data/cifar10 --policy score \\\n    --out views.png"
)]
pub struct Verb {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// A recipe with every key, its value and its meaning
    #[command(
        after_help = "Examples:\n  sslmem show recipe paper > mine.toml\n  sslmem show recipe dino_imagenet --sources\n  sslmem show recipe --recipe mine.toml --set train.epochs=10"
    )]
    Recipe {
        /// Presets to show, each on top of the one before
        #[arg(value_name = "PRESET")]
        named: Vec<String>,
        /// Say where each value is from (repository, file, line), and where the preset is not as its authors have it
        #[arg(long)]
        sources: bool,
        #[command(flatten)]
        origin: Origin,
    },
    /// Recipes that have a name
    #[command(after_help = "Example:\n  sslmem show presets")]
    Presets,
    /// Ways to train
    #[command(after_help = "Example:\n  sslmem show methods")]
    Methods,
    /// Networks
    #[command(after_help = "Example:\n  sslmem show encoders")]
    Encoders,
    /// Layers of an encoder whose output can be scored, and its shape for one image
    #[command(after_help = "Example:\n  sslmem show layers --arch vit_tiny --patch 4")]
    Layers {
        #[command(flatten)]
        network: Network,
        #[command(flatten)]
        origin: Origin,
    },
    /// Kinds of data sets
    #[command(after_help = "Example:\n  sslmem show data")]
    Data,
    /// Columns of a score table
    #[command(after_help = "Example:\n  sslmem show columns")]
    Columns,
    /// Kinds of views; with a name, its parameters, to be put into a recipe
    #[command(after_help = "Example:\n  sslmem show policies simclr")]
    Policies {
        #[arg(value_name = "POLICY")]
        name: Option<String>,
        /// Height and width of the views in pixels
        #[arg(long, value_name = "PIXELS", allow_negative_numbers = true, value_parser = whole::<usize>, default_value_t = 32)]
        size: usize,
    },
    /// Views of some samples: as a picture, or as numbers with what was drawn for each
    #[command(
        after_help = "Examples:\n  sslmem show augment --data cifar10:data/cifar10 --policy simclr \\\n    --out views.png\n  sslmem show augment --data folder:photos --policy simclr_imagenet \\\n    --size 224 --out views.safetensors"
    )]
    Augment(Augment),
}

#[derive(Args)]
struct Augment {
    /// Picture (.png), or views and drawn parameters (.safetensors)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Kind of views (see `sslmem show policies`)
    #[arg(long, value_name = "NAME", default_value = "score")]
    policy: String,
    /// How many samples, evenly spread over the data
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<usize>, default_value_t = 8)]
    samples: usize,
    /// Views of each sample
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = whole::<usize>, default_value_t = 5)]
    views: usize,
    /// Height and width of the views in pixels [default: the recipe's]
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true, value_parser = whole::<usize>)]
    size: Option<usize>,
    /// Channel statistics of views written as numbers, as in `sslmem score` [default: the recipe's]
    #[arg(long, value_name = "NAME")]
    normalize: Option<String>,
    /// Replace a file that exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    images: Images,
    #[command(flatten)]
    origin: Origin,
}

pub fn run(verb: Verb, global: &Global) -> Result<()> {
    match verb.what {
        What::Recipe { named, sources: from, mut origin } => {
            origin.preset.splice(0..0, named);
            let recipe = origin.resolve(&Flags::default().seed(global))?;
            let known = origin.preset.iter().rev().find(|preset| !sources(preset).is_empty());
            let preset = known.or(origin.preset.last()).map_or(DEFAULT, String::as_str);
            print(&if from { recipe.sourced(preset)? } else { recipe.explained()? })
        }
        What::Presets => list(PRESETS.iter().map(|preset| (preset.name, preset.about.to_string()))),
        What::Methods => list(METHODS.iter().map(|method| (method.name(), method.about().to_string()))),
        What::Encoders => list(ENCODERS.iter().map(|encoder| (encoder.name(), encoder.about()))),
        What::Layers { network, origin } => layers(&origin.resolve(&Flags::default().network(&network))?),
        What::Data => list(DATASETS.iter().map(|data| (data.example, data.about.to_string()))),
        What::Columns => list(columns(&More::ALL).into_iter().map(|(name, meaning)| (name, meaning.to_string()))),
        What::Policies { name: None, size } => list(POLICIES.iter().map(|(name, make)| (*name, make(size).to_string()))),
        What::Policies { name: Some(name), size } => {
            let view = policy(&name, size).ok_or_else(|| no_policy(&name))?;
            let text = toml::to_string(&view)
                .map_err(|error| Error::config(format!("{name} does not fit TOML: {error}"), "choose a smaller size"))?;
            print(&text)
        }
        What::Augment(verb) => augment(verb, global),
    }
}

fn layers(recipe: &Recipe) -> Result<()> {
    let (size, network) = (recipe.encoder.size, recipe.network()?);
    let mut tape = Tape::new(Mode::Eval);
    let images = tape.fixed([1, size, size, 3], Dtype::Activation);
    network.map(&mut tape.root().at("encoder"), images);
    let mut taps: Vec<_> = tape.taps("encoder.").into_iter().collect();
    taps.sort_by_key(|(_, v)| *v);
    list(taps.iter().map(|(name, v)| (name.as_str(), format!("{:?}", &tape.shape(*v).dims()[1..]))))
}

fn augment(verb: Augment, global: &Global) -> Result<()> {
    let ending = verb.out.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    let picture = match ending.as_deref() {
        Some("png") => true,
        Some("safetensors") => false,
        _ => {
            let what = format!("{} is neither a picture nor a file of numbers", verb.out.display());
            return Err(Error::config(what, "use a name that ends in .png or .safetensors"));
        }
    };
    let flags = Flags::default().images(&verb.images).with("encoder.size", &verb.size).with("encoder.normalize", &verb.normalize);
    let recipe = verb.origin.resolve(&flags.seed(global))?;
    // Normalised as in training and scoring with this recipe.
    let [mean, std] = recipe.encoder.normalize.statistics();
    let view = policy(&verb.policy, recipe.encoder.size).ok_or_else(|| no_policy(&verb.policy))?.normalized(mean, std);
    let _lock = reserve(&verb.out, verb.force)?;
    let source = open(&recipe, global)?;
    let count = verb.samples.min(source.len());
    let samples: Vec<usize> = (0..count).map(|n| n * source.len() / count).collect();
    if picture {
        let image = sheet::draw(source.as_ref(), &view, &samples, verb.views, recipe.seed)?;
        let mut bytes = Cursor::new(Vec::new());
        let encoded = image.write_to(&mut bytes, ImageFormat::Png);
        encoded.map_err(|error| Error::format(&verb.out, format!("cannot be drawn: {error}")))?;
        files::write_whole(&verb.out, bytes.get_ref())?;
    } else {
        sheet::export(source.as_ref(), &view, &samples, verb.views, recipe.seed, &verb.out)?;
    }
    print(&format!("{}: {} views of {count} samples, {} x {} pixels\n", verb.out.display(), verb.views, view.size, view.size))
}

fn no_policy(name: &str) -> Error {
    let remedy = match nearest(name, POLICIES.iter().map(|policy| policy.0)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "see `sslmem show policies`".to_string(),
    };
    Error::config(format!("there is no policy `{name}`"), remedy)
}

fn list<'a>(entries: impl Iterator<Item = (&'a str, String)>) -> Result<()> {
    let entries: Vec<_> = entries.collect();
    let width = entries.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = entries.iter().map(|(name, about)| format!("{name:<width$}  {about}\n"));
    print(&lines.collect::<String>())
}
