//! `sslmem train`: train f, g or both.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::args::{Flags, Images, Length, Network, Origin};
use super::run::open;
use super::split::dealt;
use super::{Global, print, signals};
use crate::error::Result;
use crate::run::Which;

/// Train f (on S_S and S_C), g (on S_S and S_I) or both
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sslmem train --preset paper --data cifar10:data/cifar10 --out runs/paper\n  sslmem train --out runs/paper --resume"
)]
pub struct Verb {
    /// Folder for the weights, the split and the recipe
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Which encoder
    #[arg(long, value_enum, default_value = "both")]
    which: Encoders,
    /// Split to train on [default: one drawn as the recipe says]
    #[arg(long, value_name = "FILE.json")]
    split: Option<PathBuf>,
    /// Go on with what the folder holds; without other flags by the recipe in it
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    images: Images,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    length: Length,
    #[command(flatten)]
    origin: Origin,
}

#[derive(Clone, Copy, ValueEnum)]
enum Encoders {
    F,
    G,
    Both,
}

pub fn run(verb: Verb, global: &Global) -> Result<()> {
    let flags = Flags::default().images(&verb.images).network(&verb.network).length(&verb.length).seed(global);
    // The device first, so that a missing one leaves no files behind.
    let device = global.device()?;
    let which = match verb.which {
        Encoders::F => Which::F,
        Encoders::G => Which::G,
        Encoders::Both => Which::Both,
    };
    let run = open(&verb.out, &verb.origin, &flags, verb.resume, verb.split.as_deref(), device)?;
    signals::watch()?;
    run.train(which, global.progress().as_mut())?;
    let mut text = format!("{}: {}\n", run.dir.join("split.json").display(), dealt(&run.split, &*run.source));
    for pair in 1..=run.recipe.pairs {
        for (name, skipped, samples) in [("f", Which::G, run.split.f_indices()), ("g", Which::F, run.split.g_indices())] {
            if which != skipped {
                let path = run.dir.join(format!("pair{pair}/{name}.safetensors"));
                let (arch, epochs) = (&run.recipe.encoder.arch, run.recipe.train.epochs);
                text += &format!("{}: {arch}, {epochs} epochs of {} samples\n", path.display(), samples.len());
            }
        }
    }
    print(&text)
}
