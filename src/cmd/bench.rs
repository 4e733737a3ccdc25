//! `sslmem bench score`: the time of scoring on this machine, and its slowest part.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::args::{Flags, Images, Network, Origin, whole};
use super::{Global, print};
use crate::data::OnBadImage;
use crate::error::Result;
use crate::score::{Task, bench};

/// Measure how fast this machine scores, part by part
#[derive(Args)]
#[command(after_help = "Example:\n  sslmem bench score --f f.safetensors --g g.safetensors \\\n    --data folder:photos")]
pub struct Verb {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Score(Score),
}

/// Decoding, augmentation, f, g, and all together, a few seconds each
#[derive(Args)]
#[command(after_help = "Example:\n  sslmem bench score --f f.safetensors --g g.safetensors \\\n    --data folder:photos")]
struct Score {
    /// Weights of f
    #[arg(long, value_name = "FILE")]
    f: PathBuf,
    /// Weights of g
    #[arg(long, value_name = "FILE")]
    g: PathBuf,
    /// Augmented views of each sample
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = whole::<usize>)]
    views: Option<usize>,
    /// Samples at a time
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<usize>)]
    batch: Option<usize>,
    /// Seconds for each part
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    seconds: f64,
    #[command(flatten)]
    images: Images,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    origin: Origin,
}

pub fn run(verb: Verb, global: &Global) -> Result<()> {
    let What::Score(verb) = verb.what;
    let flags = Flags::default().images(&verb.images).network(&verb.network).seed(global);
    let flags = flags.with("score.views", &verb.views).with("score.batch", &verb.batch);
    let device = global.device()?;
    let recipe = verb.origin.resolve_for(&verb.f, &flags)?;
    let source = recipe.data.open(OnBadImage::Fail)?;
    let protocol = recipe.protocol();
    let [f, g] = [recipe.encoder_file(&verb.f)?, verb.origin.resolve_for(&verb.g, &flags)?.encoder_file(&verb.g)?];
    let task = Task { device: &device, on_bad: OnBadImage::Skip, ..Task::new(f, g, &protocol, &*source) };
    let speeds = bench::measure(task, verb.seconds, global.progress().as_mut())?;
    let mut text = String::new();
    for (name, speed) in speeds.parts.iter().chain([&("together", speeds.whole)]) {
        text += &format!("{name:9} {speed:12.1} samples/s\n");
    }
    let (slowest, share) = speeds.bottleneck();
    let seconds = source.len() as f64 / speeds.whole;
    text += &format!("most of the time goes to {slowest}: {:.0} % of what the parts take one after the other\n", 100.0 * share);
    text += &format!("all {} samples would take {}\n", source.len(), duration(seconds));
    print(&text)
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
