//! Scores a folder of images with two checkpoints, f and g, and lists the ten images that f has memorised most.
//!
//! ```sh
//! cargo run --release --example score -- f.safetensors g.pth photos scores.parquet
//! ```
//!
//! Run twice, the second run finds its table and scores nothing; stopped, it goes on where it was.

use sslmem::Error;
use sslmem::checkpoint::Checkpoint;
use sslmem::config::{Layers, Recipe};
use sslmem::data::{self, OnBadImage};
use sslmem::device::Device;
use sslmem::manifest::{self, EncoderFacts, Trust};
use sslmem::progress::Silent;
use sslmem::score::{CLOSE, Existing, Job, Task};
use sslmem::split::Subset;
use std::path::Path;
use std::process::ExitCode;

/// The recipe for the encoder in a file: what its tensors, its metadata and the configs beside it say of the network and of its images.
fn recipe_for(path: &Path) -> sslmem::Result<Recipe> {
    let found = Checkpoint::open(path)?.identify()?;
    if let Some((key, why)) = found.unclear.first() {
        return Err(Error::config(format!("{} {why}", path.display()), format!("set {key}")));
    }
    let mut layers = Layers::presets::<&str>(&[])?;
    let facts = ["arch", "stem", "patch", "positions", "heads", "norm_eps", "trained_size", "size", "resize", "interpolation"].into_iter();
    for (fact, value) in facts.filter_map(|fact| Some((fact, found.facts.get(fact)?))) {
        layers = layers.set(&format!("encoder.{fact}"), value)?;
    }
    // Channel statistics are never assumed: a score with wrong ones looks like any other.
    let (Some(mean), Some(std)) = (found.facts.get("mean"), found.facts.get("std")) else {
        return Err(Error::config(format!("{} does not say how its images were normalised", path.display()), "set encoder.normalize"));
    };
    layers.set("encoder.normalize", &format!("{{ mean = {mean}, std = {std} }}"))?.resolve()
}

fn main() -> ExitCode {
    match example() {
        Ok(()) => ExitCode::SUCCESS,
        // One sentence that says what, where and what to do.
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn example() -> sslmem::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [f, g, folder, out] = &arguments[..] else {
        return Err(Error::config("four arguments are needed", "give F G FOLDER TABLE"));
    };
    let [f, g, out] = [f, g, out].map(Path::new);
    let [of_f, of_g] = [recipe_for(f)?, recipe_for(g)?];
    let [f, g] = [of_f.side(f)?, of_g.side(g)?];

    let source = data::open(&format!("folder:{folder}"), OnBadImage::Fail)?;
    // Without a split every image is a candidate.
    let samples: Vec<(u32, Subset)> = (0..source.len() as u32).map(|index| (index, Subset::Candidate)).collect();
    let protocol = of_f.protocol();
    let encoders = [("f", f), ("g", g)].map(|(role, side)| EncoderFacts::of(role, &side.network, &side.original, side.path));
    let job = Job {
        task: Task {
            f,
            g,
            protocol: &protocol,
            layers: &[protocol.compared()],
            source: &*source,
            device: &Device::Cpu,
            on_bad: OnBadImage::Skip,
            features: false,
        },
        samples: &samples,
        shard: None,
        out,
        encoders: encoders.into_iter().collect::<sslmem::Result<_>>()?,
        settings: manifest::settings(&of_f.score).expect("a recipe is JSON"),
        existing: Existing::Keep,
        close: CLOSE,
    };
    let done = job.run(&mut Silent)?;

    let mut rows = manifest::scored(out, Trust::Verified)?.rows;
    rows.sort_by(|a, b| b.score.total_cmp(&a.score));
    for row in rows.iter().take(10) {
        println!("{:+.3}  +- {:.3}  {}", row.score, row.stderr, row.id);
    }
    println!("{}: {} samples, {} images left out", out.display(), done.rows, done.skipped.len());
    Ok(())
}
