//! A data set of one's own: whatever implements `Source` can be split, trained on and scored.
//!
//! ```sh
//! cargo run --release --example own_data               # writes runs/own_data
//! cargo run --release --example own_data -- DIR EPOCHS
//! ```

use sslmem::config::Layers;
use sslmem::data::{Image, Source};
use sslmem::device::Device;
use sslmem::ops::alignment::Pairs;
use sslmem::progress::Silent;
use sslmem::score::{Protocol, score};
use sslmem::split::{How, Sizes, Split, Subset, SubsetSize};
use sslmem::train::{CHECKPOINT, Job, train};
use sslmem::{stats, table};
use std::path::Path;
use std::process::ExitCode;

/// Side of an image in pixels.
const SIDE: usize = 16;

/// Gradients of colour in as many directions as there are images.
struct Slopes {
    classes: Vec<String>,
    digest: String,
    images: usize,
}

impl Slopes {
    fn new(images: usize) -> Slopes {
        // The digest stands for the content: it goes into splits, manifests and checkpoints, which refuse data with another one.
        let digest = blake3::hash(format!("slopes of {SIDE} pixels, {images} of them, version 1").as_bytes());
        Slopes { classes: vec!["flat".into(), "steep".into()], digest: digest.to_hex().to_string(), images }
    }
}

impl Source for Slopes {
    fn name(&self) -> &str {
        "slopes"
    }
    fn len(&self) -> usize {
        self.images
    }
    /// The others are the test part, from which S_E comes.
    fn train_len(&self) -> usize {
        self.images * 3 / 4
    }
    fn id(&self, index: usize) -> String {
        format!("slope/{index:04}")
    }
    fn label(&self, index: usize) -> Option<u32> {
        Some(index as u32 % 2)
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn digest(&self) -> &str {
        &self.digest
    }
    fn largest(&self) -> usize {
        SIDE * SIDE * 3
    }
    /// Called from many threads at once.
    fn image(&self, index: usize) -> sslmem::Result<Image> {
        let (sin, cos) = (index as f32 * 2.4).sin_cos();
        let steep = 4.0 + 12.0 * (index % 2) as f32;
        let pixel = |x: usize, y: usize, colour: usize| {
            let along = x as f32 * cos + y as f32 * sin;
            (128.0 + steep * along + 40.0 * ((index * (colour + 3)) % 5) as f32 - 80.0) as u8
        };
        let pixels = (0..SIDE * SIDE * 3).map(|i| pixel(i / 3 % SIDE, i / 3 / SIDE, i % 3)).collect();
        Ok(Image { height: SIDE, width: SIDE, pixels })
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
    let dir = Path::new(arguments.first().map_or("runs/own_data", String::as_str));
    let epochs = arguments.get(1).map_or("60", String::as_str);
    sslmem::files::create_dir(dir)?;

    let source = Slopes::new(320);
    let sizes = Sizes {
        shared: SubsetSize::Count(80),
        candidate: SubsetSize::Count(80),
        independent: SubsetSize::Count(80),
        external: SubsetSize::Candidates,
    };
    let split = Split::draw(&source, &sizes, How::Stratified(0))?;
    split.write(dir.join("split.json"))?;

    let recipe =
        Layers::presets(&["demo"])?.set("train.epochs", epochs)?.set("optim.warmup_epochs", "0")?.set("train.batch", "40")?.resolve()?;
    for (name, samples) in [("f", split.f_indices()), ("g", split.g_indices())] {
        let job =
            Job { recipe: &recipe, seed: 0, source: &source, samples: &samples, name, dir, checkpoint: CHECKPOINT, device: &Device::Cpu };
        let curve = train(&job, &mut Silent)?;
        println!("{name}: loss {:.3} after {} steps", curve.last().map_or(f64::NAN, |p| p.loss), curve.last().map_or(0, |p| p.step));
    }

    let samples: Vec<(u32, Subset)> =
        Subset::ALL.into_iter().flat_map(|subset| split.subset(subset).iter().map(move |&index| (index, subset))).collect();
    let [f, g] = ["f", "g"].map(|name| dir.join(format!("{name}.safetensors")));
    let protocol = Protocol { views: 5, pairs: Pairs::All, ..recipe.protocol() };
    let mut rows = score(recipe.side(&f)?, recipe.side(&g)?, &protocol, &source, &samples, &Device::Cpu, &mut Silent)?;
    table::finish(&mut rows);
    table::write(dir.join("scores.parquet"), &rows, &[])?;
    for subset in Subset::ALL {
        if let Some(found) = stats::summary(&stats::values(&rows, subset, |row| row.calibrated)) {
            println!("{}  {:3} samples  mean calibrated {:+.4}", subset.symbol(), found.n, found.mean);
        }
    }
    Ok(())
}
