//! A method of one's own: `Method::loss` from views to a loss, a training step recorded around it, and a loop.
//!
//! ```sh
//! cargo run --release --example own_method               # writes runs/own_method/encoder.safetensors
//! cargo run --release --example own_method -- DIR EPOCHS
//! ```
//!
//! The file opens in every verb: `sslmem embed --encoder runs/own_method/encoder.safetensors ...`. A method that is to be trained by
//! `sslmem train` with checkpoints, curves and a name in recipes is a file in `src/methods/` (see CONTRIBUTING.md).

use sslmem::config::{Layers, Recipe};
use sslmem::data::{Source, Synthetic};
use sslmem::encoders::{Last, MlpHead};
use sslmem::loader::load;
use sslmem::methods::{Method, Options, Recorded, Representations, Setting, ViewKind};
use sslmem::ops::optimize::{Algorithm, ParamGroup};
use sslmem::random::{Purpose, Stream};
use sslmem::schedule::{Schedule, warmup_cosine};
use sslmem::tape::{Mode, Scope, Tape};
use sslmem::var::{Dtype, Var};
use sslmem::weights::Weights;
use std::collections::BTreeMap;
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
    fn loss(&self, s: &mut Scope, setting: &Setting, views: &[Var]) -> Recorded {
        let o = setting.options;
        let h = setting.encode(s, views, 0); // [2n, width]
        let head = MlpHead { widths: &o.projector, norm: o.head_norm, last: Last::Linear { bias: true } };
        let embeddings = head.record(&mut s.at("projector"), h); // [2n, d]
        let similarity = s.nt_xent(embeddings, o.temperature);
        let distance = s.distance_halves(h);
        let loss = s.weighted_sum(&[(similarity, 1.0), (distance, self.pull)]);
        Recorded { loss, embeddings, representations: Representations::Halves(h), metric: None }
    }
}

/// Trains on these samples and returns the loss of each step.
fn train(method: &dyn Method, recipe: &Recipe, source: &dyn Source, samples: &[u32], out: &Path) -> sslmem::Result<Vec<f32>> {
    let (n, epochs) = (recipe.train.batch, recipe.train.epochs);
    let (per_epoch, seed) = (samples.len() / n, recipe.seed);
    let steps = per_epoch * epochs;

    // What changes from step to step is a table on the device: learning rate, weight decay, momentum and temperature of a teacher.
    let rates: Vec<[f32; 4]> = (0..steps).map(|step| [warmup_cosine(2e-3, per_epoch, steps, step) as f32, 1e-4, 0.0, 0.0]).collect();

    // One training step, recorded once.
    let mut tape = Tape::new(Mode::Train);
    let schedule = Schedule::new(&mut tape, &rates);
    let batch = tape.batch(n, source.largest());
    let view = recipe.train_view()?;
    let groups = method.views(&recipe.method);
    let mut first = 0; // number of a group's first view, which its random numbers depend on
    let mut views = vec![];
    for group in &groups {
        views.push(tape.augment(batch, vec![view; group.len()], first, seed, Purpose::Train));
        first += group.len();
    }
    let setting = Setting { network: recipe.network()?, options: &recipe.method, schedule, batch, classes: 0, seed };
    let recorded = method.loss(&mut tape.root(), &setting, &views);
    tape.backward(recorded.loss);
    tape.optimize(Algorithm::Adam { betas: [0.9, 0.999], eps: 1e-8, decoupled: true }, 0.0, &|_, _| ParamGroup::default(), schedule);
    method.after(&mut tape, schedule);
    let log = tape.fixed([1, 1], Dtype::F32); // [rows, values]: the last steps
    tape.log_step(schedule, log, &[recorded.loss]);

    // Memory is planned and taken here; from then on a step allocates nothing on a GPU.
    let mut weights = Weights::new(seed);
    let mut program = tape.compile(&mut weights)?;
    let mut losses = vec![];
    for epoch in 0..epochs as u32 {
        let order = Stream::new(seed, Purpose::Shuffle, epoch, 0, 0).permutation(samples.len());
        for ids in order.chunks_exact(n) {
            let ids: Vec<u32> = ids.iter().map(|&i| samples[i as usize]).collect();
            load(&mut program, &batch, source, &ids, epoch)?;
            program.run()?;
            losses.extend(program.read::<f32>(log)?);
        }
    }

    // What the file says of its images is what every verb shows its encoder later.
    let facts = [
        ("arch", recipe.encoder.arch.clone()),
        ("stem", "cifar".into()),
        ("size", recipe.encoder.size.to_string()),
        ("mean", format!("{:?}", view.mean)),
        ("std", format!("{:?}", view.std)),
        ("method", method.name().into()),
    ];
    let facts: BTreeMap<String, String> = facts.map(|(key, value)| (key.to_string(), value)).into();
    weights.save(out, "encoder.", &facts)?;
    Ok(losses)
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
    let out = dir.join("encoder.safetensors");
    let losses = train(&Close { pull: 0.1 }, &recipe, &source, &samples, &out)?;
    let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
    let some = losses.len().min(5);
    println!("loss {:.3} in the first {some} steps, {:.3} in the last {some}", mean(&losses[..some]), mean(&losses[losses.len() - some..]));
    println!("{}", out.display());
    Ok(())
}
