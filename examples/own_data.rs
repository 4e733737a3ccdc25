//! A data set of one's own: whatever implements `Source` can be split, trained on and scored.
//!
//! ```sh
//! cargo run --release --example own_data               # writes runs/own_data
//! cargo run --release --example own_data -- DIR EPOCHS
//! ```

use sslmem::config::Layers;
use sslmem::data::{Image, Source};
use sslmem::device::Device;
use sslmem::progress::Silent;
use sslmem::run::{Run, Which};
use sslmem::split::Subset;
use sslmem::stats;
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

    // `data.source` is no more than a name here.
    let mut layers = Layers::presets(&["demo"])?.set("data.source", "slopes")?.set("train.epochs", epochs)?;
    for key in ["split.shared", "split.candidate", "split.independent"] {
        layers = layers.set(key, "80")?;
    }
    let recipe = layers
        .set("split.external", "candidates")?
        .set("split.order", "stratified")?
        .set("optim.warmup_epochs", "0")?
        .set("train.batch", "40")?
        .resolve()?;
    let run = Run::on(recipe, dir, Box::new(Slopes::new(320)), None, Device::Cpu)?;
    run.train(Which::Both, &mut Silent)?;
    let rows = run.score(&mut Silent)?;
    for subset in Subset::ALL {
        if let Some(found) = stats::summary(&stats::values(&rows, subset, |row| row.calibrated)) {
            println!("{}  {:3} samples  mean calibrated {:+.4}", subset.symbol(), found.n, found.mean);
        }
    }
    println!("{}", run.report()?.display());
    Ok(())
}
