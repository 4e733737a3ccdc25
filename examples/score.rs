//! Scores a folder of images with two checkpoints, f and g, and lists the ten images that f has memorised most.
//!
//! ```sh
//! cargo run --release --example score -- f.safetensors g.pth photos scores.parquet
//! ```
//!
//! Run twice, the second run finds its table and scores nothing; stopped, it goes on where it was.

use sslmem::Error;
use sslmem::config::Request;
use sslmem::data::{self, OnBadImage};
use sslmem::manifest::{self, Trust};
use sslmem::progress::Silent;
use sslmem::score::{Job, Task};
use sslmem::split::Subset;
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
    let [f, g, folder, out] = &arguments[..] else {
        return Err(Error::config("four arguments are needed", "give F G FOLDER TABLE"));
    };
    let [f, g, out] = [f, g, out].map(Path::new);
    // The recipe follows from the file: its tensors, its metadata, the configs beside it. A missing setting is an error that names the key; give it
    // in `keys`.
    let [of_f, of_g] = [Request::default().encoder(f)?, Request::default().encoder(g)?];
    of_f.warnings.iter().chain(&of_g.warnings).for_each(|warning| eprintln!("warning: {warning}"));

    let source = data::open(&format!("folder:{folder}"), OnBadImage::Fail)?;
    // Without a split every image is a candidate.
    let samples: Vec<(u32, Subset)> = (0..source.len() as u32).map(|index| (index, Subset::Candidate)).collect();
    let protocol = of_f.recipe.protocol();
    let task = Task::new(of_f.recipe.encoder_file(f)?, of_g.recipe.encoder_file(g)?, &protocol, &*source);
    let job = Job::new(Task { on_bad: OnBadImage::Skip, ..task }, &samples, out, of_f.recipe.scoring()?)?;
    let done = job.score(&mut Silent)?;

    let mut rows = manifest::scored(out, Trust::Verified)?.rows;
    rows.sort_by(|a, b| b.score.total_cmp(&a.score));
    for row in rows.iter().take(10) {
        println!("{:+.3}  +- {:.3}  {}", row.score, row.stderr, row.id);
    }
    println!("{}: {} samples, {} images left out", out.display(), done.rows, done.skipped.len());
    Ok(())
}
