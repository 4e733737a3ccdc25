//! A method of one's own: `Method::loss` from views to a loss. Checkpoints, curves and resuming are those of every training.
//!
//! ```sh
//! cargo run --release --example own_method               # writes runs/own_method/f.safetensors
//! cargo run --release --example own_method -- DIR EPOCHS
//! ```
//!
//! The file opens in every verb: `sslmem embed --encoder runs/own_method/f.safetensors ...`. A method that is to have a name in recipes is a
//! file in `src/methods/` (see CONTRIBUTING.md).

use sslmem::config::Layers;
use sslmem::data::{Source, Synthetic};
use sslmem::encoders::{Last, MlpHead};
use sslmem::methods::{Context, LossOutput, Method, Options, Representations, ViewKind};
use sslmem::progress::Silent;
use sslmem::tape::Scope;
use sslmem::train::{Job, train};
use sslmem::var::Var;
use std::path::Path;
use std::process::ExitCode;

/// SimCLR that also pulls the representations of two views together, not only what its projector makes of them.
struct Close {
    /// Weight of the distance between the representations, beside NT-Xent's 1.
    pull: f32,
}

impl Method for Close {
    fn name(&self) -> &'static str {
        "close"
    }
    fn about(&self) -> &'static str {
        "SimCLR that also pulls the representations of two views together"
    }
    /// One group: both views are one batch, so that batch norm sees them together.
    fn views(&self, _: &Options) -> Vec<Vec<ViewKind>> {
        vec![vec![ViewKind::First, ViewKind::Second]]
    }
    /// `views[0]` is [2n, size, size, 3], first all first views, then all second ones.
    fn loss(&self, s: &mut Scope, context: &Context, views: &[Var]) -> LossOutput {
        let o = context.options;
        let h = context.encode(s, views, 0); // [2n, width]
        let head = MlpHead { widths: &o.projector, norm: o.head_norm, last: Last::Linear { bias: true } };
        let embeddings = head.record(&mut s.at("projector"), h); // [2n, d]
        let similarity = s.nt_xent(embeddings, o.temperature);
        let distance = s.distance_halves(h);
        let loss = s.weighted_sum(&[(similarity, 1.0), (distance, self.pull)]);
        LossOutput { loss, embeddings, representations: Representations::Halves(h), metric: None }
    }
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
    let dir = Path::new(arguments.first().map_or("runs/own_method", String::as_str));
    let epochs = arguments.get(1).map_or("20", String::as_str);
    sslmem::files::create_dir(dir)?;

    let recipe =
        Layers::presets(&["smoke"])?.set("train.epochs", epochs)?.set("optim.warmup_epochs", "0")?.set("train.batch", "40")?.resolve()?;
    let source = Synthetic::new(200, 0)?;
    let samples: Vec<u32> = (0..source.train_len() as u32).collect();
    let method = Close { pull: 0.1 };
    let job = Job { method: &method, ..Job::new(&recipe, &source, &samples, "f", dir)? };
    let curve = train(&job, &mut Silent)?;
    let (first, last) = (curve.first().map_or(f64::NAN, |point| point.loss), curve.last().map_or(f64::NAN, |point| point.loss));
    println!("loss {first:.3} in the first step, {last:.3} in the last of {}", curve.len());
    println!("{}", job.weights_path().display());
    Ok(())
}
