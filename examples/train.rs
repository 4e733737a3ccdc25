//! Trains a pair of encoders on procedural images, scores every image with them and writes the report: what `sslmem run` does.
//!
//! ```sh
//! cargo run --release --example train               # writes runs/example, under a minute on two idle cores
//! cargo run --release --example train -- DIR EPOCHS
//! ```

use sslmem::config::Layers;
use sslmem::device::Device;
use sslmem::progress::Silent;
use sslmem::run::{Run, Which};
use sslmem::split::Subset;
use sslmem::stats;
use std::path::Path;
use std::process::ExitCode;

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
    let dir = arguments.first().map_or("runs/example", String::as_str);
    let epochs = arguments.get(1).map_or("150", String::as_str);

    // A preset, and what is changed of it. `docs/recipe.md` has every key.
    let recipe = Layers::presets(&["demo"])?.set("train.epochs", epochs)?.set("optim.warmup_epochs", "0")?.resolve()?;

    // Opens the data, draws the split, checks everything that can be checked before the first step.
    let run = Run::open(recipe, Path::new(dir), None, Device::Cpu)?;
    // `Silent` says nothing; implement `Progress` to listen, and to stop with everything kept.
    run.train(Which::Both, &mut Silent)?;
    let rows = run.score(&mut Silent)?;
    for subset in Subset::ALL {
        if let Some(found) = stats::summary(&stats::values(&rows, subset, |row| row.score)) {
            println!("{}  {:4} samples  mean score {:+.3}", subset.symbol(), found.n, found.mean);
        }
    }
    println!("{}", run.report()?.display());
    Ok(())
}
