//! Initial weights and learning-rate schedules where authors differ, and the heads that training keeps.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sslmem::checkpoint::Checkpoint;
use sslmem::config::{Layers, Recipe};
use sslmem::data::{self, OnBadImage};
use sslmem::encoders::{EncoderConfig, Network, Start, glorot};
use sslmem::methods::METHODS;
use sslmem::progress::Silent;
use sslmem::tape::{Mode, Tape};
use sslmem::train::{Job, Point, train};
use sslmem::var::Dtype;
use sslmem::weights::Weights;

use super::methods::tiny;

/// The names and the weights of an encoder in a form, and its teacher's, before anything is trained.
fn started(arch: &str, config: EncoderConfig) -> (Vec<String>, Weights) {
    let network = Network { encoder: sslmem::encoders::find(arch).unwrap(), config };
    let mut tape = Tape::new(Mode::Train);
    let images = tape.fixed([2, config.size, config.size, 3], Dtype::Activation);
    network.features(&mut tape.root().at("encoder"), images);
    network.features(&mut tape.root().frozen("teacher").at("encoder"), images);
    let (names, mut weights) = (tape.below("").into_iter().map(|(name, _)| name).collect(), Weights::new(0));
    tape.compile(&mut weights).unwrap();
    (names, weights)
}

/// torchvision's `zero_init_residual`: bn2 of a basic block, bn3 of a bottleneck, never a shortcut's.
#[test]
fn the_last_norm_of_each_residual_block_may_start_at_nothing() {
    // One of each kind: basic blocks with both shortcuts, bottlenecks, and the one with sums of its own.
    for (name, deep) in [("resnet8", false), ("resnet20", false), ("resnet50", true), ("resnet9", false)] {
        for zero_init_residual in [false, true] {
            let (names, weights) = started(name, EncoderConfig { zero_init_residual, ..EncoderConfig::of(16) });
            let mut zeros = 0;
            for weight in names.iter().filter(|n| n.contains("bn") && n.ends_with(".weight")) {
                let last = match name {
                    "resnet9" => weight.contains(".bn4.") || weight.contains(".bn8."),
                    _ => weight.contains("layer") && weight.ends_with(if deep { "bn3.weight" } else { "bn2.weight" }),
                };
                let want = if zero_init_residual && last { 0.0 } else { 1.0 };
                zeros += (want == 0.0) as usize;
                assert!(weights.get(weight).unwrap().unwrap().iter().all(|v| *v == want), "{name}: {weight}");
            }
            assert_eq!(zeros > 0, zero_init_residual, "{name}");
        }
    }
}

/// Largest value and root mean square.
fn spread(weights: &Weights, name: &str) -> [f32; 2] {
    let values = weights.get(&format!("encoder.{name}")).unwrap().unwrap();
    let square = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
    [values.iter().fold(0.0, |most, v| v.abs().max(most)), square.sqrt()]
}

#[test]
fn a_vit_starts_as_its_authors_have_it() {
    let near = |[_, rms]: [f32; 2], want: f32| assert!((rms / want - 1.0).abs() < 0.1, "{rms} instead of {want}");
    let (width, fan) = (192, 4 * 4 * 3);
    for (start, layer, qkv, patches, class) in [
        (Start::MoCoV3, glorot(width, 4 * width), glorot(width, width), glorot(fan, width), 1e-6),
        (Start::Mae, glorot(width, 4 * width), glorot(width, 3 * width), glorot(fan, width), 0.02),
    ] {
        let (_, weights) = started("vit_tiny", EncoderConfig { start, ..EncoderConfig::of(16) });
        for (name, bound) in [("blocks.3.mlp.fc1.weight", layer), ("blocks.3.attn.qkv.weight", qkv), ("patch_embed.proj.weight", patches)] {
            let [most, rms] = spread(&weights, name);
            assert!(most <= bound && most > 0.99 * bound, "{start:?}: {name} reaches {most} of {bound}");
            near([most, rms], bound / 3f32.sqrt());
        }
        near(spread(&weights, "cls_token"), class);
    }
    let (_, weights) = started("vit_tiny", EncoderConfig { start: Start::Dino, ..EncoderConfig::of(16) });
    for name in ["blocks.3.mlp.fc1.weight", "blocks.3.attn.qkv.weight", "cls_token", "pos_embed"] {
        near(spread(&weights, name), 0.02);
    }
    assert!(spread(&weights, "blocks.3.mlp.fc1.weight")[0] > 0.06, "nothing is cut at two standard deviations");
}

fn trained(recipe: &Recipe, dir: &Path) -> Vec<Point> {
    let (source, samples): (_, Vec<u32>) = (data::open("synthetic:64@1", OnBadImage::Fail).unwrap(), (0..32).collect());
    let job = Job { seed: 3, checkpoint: Duration::MAX, ..Job::new(recipe, &*source, &samples, "f", dir).unwrap() };
    train(&job, &mut Silent).unwrap()
}

/// SimSiam's code sets the rate before each epoch: .5 (1 + cos(pi epoch / epochs)).
#[test]
fn a_cosine_may_go_by_epochs() {
    let changes = "[train]\nepochs = 4\n[optim]\nschedule = 'cosine_epochs'\nlr = 1e-3";
    let recipe =
        Layers::presets(&["smoke"]).unwrap().text("t", changes).unwrap().text("t", "[train]\nbatch = 8\n[optim]\nwarmup_epochs = 0");
    let dir = tempfile::tempdir().unwrap();
    let curve = trained(&recipe.unwrap().resolve().unwrap(), dir.path());
    assert_eq!(curve.len(), 16, "four steps of each epoch");
    for (step, point) in curve.iter().enumerate() {
        let want = 1e-3 * 0.5 * (1.0 + (std::f64::consts::PI * (step / 4) as f64 / 4.0).cos());
        assert!((point.lr - want).abs() < 1e-9, "step {step}: {} instead of {want}", point.lr);
    }
}

#[test]
fn heads_are_kept_beside_the_encoder_and_are_none() {
    for method in METHODS {
        let (recipe, dir) = (tiny(method.name()), tempfile::tempdir().unwrap());
        trained(&recipe, dir.path());
        let path = dir.path().join("f.heads.safetensors");
        let heads = Checkpoint::open(&path).unwrap();
        let (encoder, parts): (Vec<_>, Vec<_>) = heads.tensors.keys().map(String::as_str).partition(|name| name.contains("encoder."));
        assert!(encoder.is_empty(), "{}: {encoder:?}", method.name());
        let has = |start: &str| parts.iter().any(|name| name.starts_with(start));
        let (known, wanted): (&[&str], &[&str]) = match method.name() {
            "simclr" | "barlow" | "vicreg" => (&["projector."], &["projector.fc2.weight"]),
            "simsiam" => (&["projector.", "predictor."], &["projector.bn1.running_mean", "predictor.fc2.weight"]),
            "byol" | "mocov3" => {
                (&["projector.", "predictor.", "teacher.projector."], &["predictor.fc2.weight", "teacher.projector.fc1.weight"])
            }
            "dino" => (&["head.", "teacher.head.", "center"], &["head.last_layer.weight", "teacher.head.mlp.0.weight", "center"]),
            "mae" => (&["decoder."], &["decoder.mask_token", "decoder.decoder_pred.weight"]),
            "supervised" => (&["classifier."], &["classifier.weight", "classifier.bias"]),
            other => panic!("{other}"),
        };
        assert!(parts.iter().all(|name| known.iter().any(|start| name.starts_with(start))), "{}: {parts:?}", method.name());
        assert!(wanted.iter().all(|name| has(name)), "{}: {parts:?}", method.name());
        // Whoever names them as an encoder is told what they are, and where it is.
        let wanted = format!("holds the heads that {} trained, not the encoder below them; name f.safetensors instead", method.name());
        let said = [heads.identify().err().unwrap(), Weights::new(0).load(&path, "encoder.").unwrap_err()];
        said.iter().for_each(|error| assert!(error.to_string().contains(&wanted), "{error}"));
        assert!(Checkpoint::open(&dir.path().join("f.safetensors")).unwrap().heads().is_none());
    }
}

#[test]
fn convert_says_what_heads_are_and_writes_none() {
    let dir = tempfile::tempdir().unwrap();
    trained(&tiny("byol"), dir.path());
    let sslmem = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sslmem")).current_dir(dir.path()).args(args).output().unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        (output.status.code().unwrap(), said)
    };
    let (code, said) = sslmem(&["convert", "f.heads.safetensors"]);
    assert_eq!(code, 0, "{said}");
    for part in ["sslmem, beside the encoder f.safetensors", "heads       of byol: predictor (", "projector (", "teacher.projector ("] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    let embed = ["embed", "--encoder", "f.heads.safetensors", "--data", "synthetic:4", "--out", "e.safetensors"];
    for args in [&["convert", "f.heads.safetensors", "--out", "c.safetensors"][..], &embed] {
        let (code, said) = sslmem(args);
        assert!(code != 0 && said.contains("holds the heads that byol trained"), "{said}");
    }
    assert!(!dir.path().join("c.safetensors").exists() && !dir.path().join("e.safetensors").exists());
}
