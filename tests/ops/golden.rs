//! Against PyTorch: encoders, losses, optimizers, norms and pools. The numbers come from tests/golden/*.py.

use crate::ops::{dot_with, sum};
use safetensors::SafeTensors;
use sslmem::encoders::{EncoderConfig, Stem, find};
use sslmem::init::Init;
use sslmem::ops::alignment::Pairs;
use sslmem::ops::optimize::{Algorithm, Gradients, LarsVariant, ParamGroup};
use sslmem::schedule::Schedule;
use sslmem::tape::{Mode, Tape};
use sslmem::var::{Dtype, Var};
use sslmem::weights::Weights;
use std::collections::HashMap;

pub struct Golden(HashMap<String, (Vec<usize>, Vec<f32>)>);

impl Golden {
    pub fn read(name: &str) -> Golden {
        let bytes = std::fs::read(format!("{}/tests/golden/{name}.safetensors", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter().map(|(n, t)| {
            let values = t.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            (n, (t.shape().to_vec(), values))
        });
        Golden(tensors.collect())
    }
    pub fn get(&self, name: &str) -> &[f32] {
        &self.0.get(name).unwrap_or_else(|| panic!("no golden `{name}`")).1
    }
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
    pub fn shape(&self, name: &str) -> &[usize] {
        &self.0[name].0
    }
    pub fn with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.keys().filter_map(move |n| n.strip_prefix(prefix))
    }
}

/// Largest difference over the largest golden value.
pub fn close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let scale = want.iter().fold(1e-12f32, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * scale, "{what}[{i}]: {g}, PyTorch has {w} (scale {scale})");
    }
}

/// `u` of formula.py: element j of tensor number i.
pub fn uniform(i: u32, j: u32) -> f64 {
    let mut h = j.wrapping_mul(2654435761).wrapping_add(i * 40503 + 12345);
    h = (h ^ h >> 16).wrapping_mul(2246822507);
    h = (h ^ h >> 13).wrapping_mul(3266489909);
    h ^= h >> 16;
    (h >> 8) as f64 / (1u32 << 24) as f64
}

pub fn signed(i: u32, n: usize) -> Vec<f32> {
    (0..n).map(|j| (2.0 * uniform(i, j as u32) - 1.0) as f32).collect()
}

/// Names in the order of torchvision's `named_parameters`, then `named_buffers`.
fn numbered(arch: &str) -> Vec<String> {
    let (depths, convs) = match arch {
        "resnet18" => ([2, 2, 2, 2], 2),
        "resnet34" => ([3, 4, 6, 3], 2),
        _ => ([3, 4, 6, 3], 3),
    };
    let mut modules = vec![("conv1".to_string(), "bn1".to_string())];
    for (stage, depth) in depths.iter().enumerate() {
        for block in 0..*depth {
            let at = format!("layer{}.{block}", stage + 1);
            modules.extend((1..=convs).map(|c| (format!("{at}.conv{c}"), format!("{at}.bn{c}"))));
            if block == 0 && (stage > 0 || convs == 3) {
                modules.push((format!("{at}.downsample.0"), format!("{at}.downsample.1")));
            }
        }
    }
    let parameters = modules.iter().flat_map(|(c, b)| [format!("{c}.weight"), format!("{b}.weight"), format!("{b}.bias")]);
    let buffers = modules.iter().flat_map(|(_, b)| [format!("{b}.running_mean"), format!("{b}.running_var")]);
    parameters.chain(buffers).collect()
}

/// Tensor number i of formula.py, told by its name and shape.
pub fn formula(i: u32, name: &str, shape: &[usize]) -> Vec<f32> {
    let fan_in: usize = shape[1..].iter().product();
    let value = |u: f64| match name {
        n if n.ends_with("running_mean") => 0.2 * (2.0 * u - 1.0),
        n if n.ends_with("running_var") => 0.5 + u,
        _ if shape.len() > 1 => (2.0 * u - 1.0) * (6.0 / fan_in as f64).sqrt(),
        n if n.ends_with("bn3.weight") => 0.25 * (0.5 + u),
        n if n.ends_with("weight") => 0.5 + u,
        _ => u - 0.5,
    };
    (0..shape.iter().product::<usize>()).map(|j| value(uniform(i, j as u32)) as f32).collect()
}

struct Net {
    tape: Tape,
    weights: Weights,
    features: Var,
    map: Var,
}

/// A ResNet with formula weights on formula images.
fn net(golden: &Golden, arch: &str, stem: Stem, mode: Mode, [batch, size]: [usize; 2], prefix: &str) -> Net {
    let encoder = find(arch).unwrap();
    let mut tape = Tape::new(mode);
    let number = golden.get(&format!("{prefix}images"))[0] as u32;
    let images = tape.constant([batch, size, size, 3], signed(number, batch * size * size * 3));
    let mut root = tape.root();
    let mut s = root.at("encoder");
    let map = encoder.map(&mut s, &EncoderConfig { stem, ..EncoderConfig::of(size) }, images);
    let features = s.average_pool(map);
    let shapes: HashMap<String, Vec<usize>> =
        tape.below("encoder.").into_iter().map(|(n, v)| (n["encoder.".len()..].to_string(), tape.shape(v).dims().to_vec())).collect();
    let names = numbered(arch);
    assert_eq!(names.len(), shapes.len(), "{arch}: number of tensors");
    let mut weights = Weights::new(0);
    for (i, name) in names.iter().enumerate() {
        let values = formula(i as u32, name, &shapes[name]);
        assert_eq!(values[0], golden.get(&format!("{prefix}first"))[i], "{name}: the formula is not repeated right");
        weights.set(&format!("encoder.{name}"), &shapes[name][..], &values).unwrap();
    }
    Net { tape, weights, features, map }
}

const NETS: &[(&str, Stem, [usize; 2])] = &[
    ("resnet18", Stem::Cifar, [4, 32]),
    ("resnet18", Stem::Imagenet, [2, 64]),
    ("resnet34", Stem::Cifar, [2, 32]),
    ("resnet50", Stem::Cifar, [2, 32]),
    ("resnet50", Stem::Imagenet, [2, 64]),
    ("wide_resnet50_2", Stem::Cifar, [2, 32]),
];

fn prefix(arch: &str, stem: Stem) -> String {
    format!("{arch}.{}.", if stem == Stem::Cifar { "cifar" } else { "imagenet" })
}

#[test]
fn resnet_features_equal_torchvision() {
    let golden = Golden::read("resnet");
    for &(arch, stem, size) in NETS {
        let prefix = prefix(arch, stem);
        let mut n = net(&golden, arch, stem, Mode::Eval, size, &prefix);
        n.tape.keep(n.features);
        n.tape.keep(n.map);
        let mut program = n.tape.compile(&mut n.weights).unwrap();
        program.run().unwrap();
        close(&prefix, &program.read::<f32>(n.features).unwrap(), golden.get(&format!("{prefix}eval.features")), 1e-4);
        if golden.0.contains_key(&format!("{prefix}eval.map")) {
            let want = golden.get(&format!("{prefix}eval.map"));
            close(&format!("{prefix}map"), &program.read::<f32>(n.map).unwrap()[..want.len()], want, 1e-4);
        }
    }
}

#[test]
fn resnet_gradients_and_running_statistics_equal_torchvision() {
    let golden = Golden::read("resnet");
    for &(arch, stem, size) in NETS {
        let prefix = prefix(arch, stem);
        if !golden.0.contains_key(&format!("{prefix}train.loss")) {
            continue;
        }
        let mut n = net(&golden, arch, stem, Mode::Train, size, &prefix);
        let shape = n.tape.shape(n.features);
        let r = n.tape.constant(shape, signed(2000, shape.len()));
        let loss = dot_with(&mut n.tape.root(), n.features, r);
        n.tape.keep(n.features);
        n.tape.keep(loss);
        n.tape.backward(loss);
        let gradients: HashMap<String, Var> = n.tape.gradients().into_iter().map(|(name, _, g)| (name, g)).collect();
        gradients.values().for_each(|g| n.tape.keep(*g));
        let mut program = n.tape.compile(&mut n.weights).unwrap();
        program.run().unwrap();
        close(
            &format!("{prefix}features"),
            &program.read::<f32>(n.features).unwrap(),
            golden.get(&format!("{prefix}train.features")),
            1e-4,
        );
        close(&format!("{prefix}loss"), &program.read::<f32>(loss).unwrap(), golden.get(&format!("{prefix}train.loss")), 1e-4);
        for name in golden.with(&format!("{prefix}train.grad.")) {
            let got: Vec<f32> = program.read(gradients[&format!("encoder.{name}")]).unwrap();
            // In the bottleneck nets the nearest relu lies only twice the rounding error from its kink
            // (tests/golden/margins.py): one that flips costs up to 1e-2 of a gradient, here as in PyTorch's f32.
            let tolerance = if arch == "resnet18" { 1e-4 } else { 1e-2 };
            let norm = got.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt() as f32;
            close(&format!("{prefix}|d{name}|"), &[norm], golden.get(&format!("{prefix}train.grad_norm.{name}")), tolerance);
            let picked: Vec<f32> = got.iter().step_by((got.len() / 256).saturating_sub(1).max(1)).take(256).copied().collect();
            close(&format!("{prefix}d{name}"), &picked, golden.get(&format!("{prefix}train.grad.{name}")), tolerance);
        }
        for name in golden.with(&format!("{prefix}train.after.")) {
            let got = n.weights.get(&format!("encoder.{name}")).unwrap().unwrap();
            close(&format!("{prefix}{name}"), &got, golden.get(&format!("{prefix}train.after.{name}")), 1e-4);
        }
    }
}

#[test]
fn nt_xent_equals_pytorch() {
    let golden = Golden::read("losses");
    for (rows, cols) in [(8, 4), (64, 32)] {
        for t in [0.5f32, 0.1] {
            let name = format!("ntxent.{rows}x{cols}");
            let mut tape = Tape::new(Mode::Train);
            let z = tape.constant([rows, cols], golden.get(&format!("{name}.z")).to_vec());
            tape.require_grad(z);
            let loss = tape.root().nt_xent(z, t);
            tape.keep(loss);
            tape.backward(loss);
            let dz = tape.gradient(z).unwrap();
            tape.keep(dz);
            let mut program = tape.compile(&mut Weights::new(0)).unwrap();
            program.run().unwrap();
            close(&name, &program.read::<f32>(loss).unwrap(), golden.get(&format!("{name}.t{t:.1}.loss")), 1e-6);
            close(&format!("d{name}"), &program.read::<f32>(dz).unwrap(), golden.get(&format!("{name}.t{t:.1}.dz")), 1e-5);
        }
    }
}

/// All similarities equal: every row of 2N - 1 choices costs ln(2N - 1), whatever the temperature.
#[test]
fn nt_xent_of_equal_embeddings_is_the_closed_form() {
    for rows in [4usize, 128, 512] {
        let mut tape = Tape::new(Mode::Train);
        let z = tape.constant([rows, 3], [1.0, 2.0, -1.0].repeat(rows));
        let loss = tape.root().nt_xent(z, 0.2);
        tape.keep(loss);
        let mut program = tape.compile(&mut Weights::new(0)).unwrap();
        program.run().unwrap();
        let (got, want) = (program.read::<f32>(loss).unwrap()[0], ((rows - 1) as f32).ln());
        assert!((got - want).abs() < 1e-5, "{rows} rows: {got}, ln(2N - 1) = {want}");
    }
}

#[test]
fn optimizers_equal_pytorch_for_ten_steps() {
    let golden = Golden::read("losses");
    for name in ["sgd", "adam", "adamw", "lars", "lars_classic", "lars_clipped"] {
        let s = golden.get(&format!("optim.{name}.settings"));
        let (algorithm, decay) = match name {
            "sgd" => (Algorithm::Sgd { momentum: s[0] }, s[1]),
            "lars" => (Algorithm::Lars { momentum: s[0], trust: s[2], variant: LarsVariant::Plain }, s[1]),
            "lars_classic" => (Algorithm::Lars { momentum: s[0], trust: s[2], variant: LarsVariant::Classic }, s[1]),
            "lars_clipped" => (Algorithm::Lars { momentum: s[0], trust: s[2], variant: LarsVariant::Clipped }, s[1]),
            _ => (Algorithm::Adam { betas: [s[0], s[1]], eps: s[2], decoupled: name == "adamw" }, s[3]),
        };
        let rows: Vec<[f32; 4]> = golden.get("optim.lr").iter().map(|lr| [*lr, decay, 0.0, 0.0]).collect();
        let mut tape = Tape::new(Mode::Train);
        let mut weights = Weights::new(0);
        let mut losses = vec![];
        let mut parts = vec![];
        for part in ["matrix", "vector", "zero"] {
            let shape = golden.shape(&format!("optim.{part}"));
            weights.set(part, shape, golden.get(&format!("optim.{part}"))).unwrap();
            let mut root = tape.root();
            let w = root.param(part, shape, Init::Constant(0.0));
            let r = root.tape().fixed(shape, Dtype::F32);
            losses.push(dot_with(&mut root, w, r));
            parts.push((part, w, r));
        }
        let loss = sum(&mut tape.root(), &losses);
        tape.backward(loss);
        let schedule = Schedule::new(&mut tape, &rows);
        tape.optimize(Gradients::of(&tape), algorithm, &|_, _| ParamGroup::default(), schedule);
        let log = tape.fixed([1, 1], Dtype::F32);
        tape.log_step(schedule, log, &[loss]);
        let mut program = tape.compile(&mut weights).unwrap();
        for step in 0..rows.len() {
            for (part, _, r) in &parts {
                let g = golden.get(&format!("optim.gradient.{part}"));
                let n = g.len() / rows.len();
                program.write(*r, &g[step * n..][..n]).unwrap();
            }
            program.run().unwrap();
            for (part, w, _) in &parts {
                let want = golden.get(&format!("optim.{name}.{part}"));
                let n = want.len() / rows.len();
                close(&format!("{name} {part} step {step}"), &program.read::<f32>(*w).unwrap(), &want[step * n..][..n], 2e-5);
            }
        }
    }
}

#[test]
fn batch_norm_equals_pytorch() {
    let golden = Golden::read("losses");
    let get = |name: &str| golden.get(&format!("batch_norm.{name}"));
    let mut weights = Weights::new(0);
    let (rows, cols) = (golden.shape("batch_norm.x")[0], golden.shape("batch_norm.x")[1]);
    weights.set("bn.weight", [cols], get("weight")).unwrap();
    weights.set("bn.bias", [cols], get("bias")).unwrap();
    let mut tape = Tape::new(Mode::Train);
    let x = tape.constant([rows, cols], get("x").to_vec());
    tape.require_grad(x);
    let y = tape.root().at("bn").batch_norm(x, None, false);
    let r = tape.constant([rows, cols], get("dy").to_vec());
    let loss = dot_with(&mut tape.root(), y, r);
    tape.backward(loss);
    let dx = tape.gradient(x).unwrap();
    let gradients = tape.gradients();
    [y, dx].into_iter().chain(gradients.iter().map(|g| g.2)).for_each(|v| tape.keep(v));
    let mut program = tape.compile(&mut weights).unwrap();
    program.run().unwrap();
    close("y", &program.read::<f32>(y).unwrap(), get("y"), 1e-6);
    close("dx", &program.read::<f32>(dx).unwrap(), get("dx"), 1e-5);
    for (name, _, g) in gradients {
        close(&name, &program.read::<f32>(g).unwrap(), get(&name.replace("bn.", "d")), 1e-6);
    }
    close("running_mean", &weights.get("bn.running_mean").unwrap().unwrap(), get("running_mean"), 1e-6);
    close("running_var", &weights.get("bn.running_var").unwrap().unwrap(), get("running_var"), 1e-6);
    let mut tape = Tape::new(Mode::Eval);
    let x = tape.constant([rows, cols], get("x").to_vec());
    let y = tape.root().at("bn").batch_norm(x, None, false);
    tape.keep(y);
    let mut program = tape.compile(&mut weights).unwrap();
    program.run().unwrap();
    close("eval", &program.read::<f32>(y).unwrap(), get("eval"), 1e-6);
}

#[test]
fn pools_equal_pytorch() {
    let golden = Golden::read("losses");
    for name in ["max_pool", "average_pool"] {
        let get = |part: &str| golden.get(&format!("{name}.{part}"));
        let mut tape = Tape::new(Mode::Train);
        let x = tape.constant(golden.shape(&format!("{name}.x")), get("x").to_vec());
        tape.require_grad(x);
        let mut root = tape.root();
        let y = if name == "max_pool" { root.max_pool(x, 3) } else { root.average_pool(x) };
        let shape = tape.shape(y);
        let r = tape.constant(shape, get("dy").to_vec());
        let loss = dot_with(&mut tape.root(), y, r);
        tape.backward(loss);
        let dx = tape.gradient(x).unwrap();
        tape.keep(y);
        tape.keep(dx);
        let mut program = tape.compile(&mut Weights::new(0)).unwrap();
        program.run().unwrap();
        close(name, &program.read::<f32>(y).unwrap(), get("y"), 1e-6);
        close(&format!("d{name}"), &program.read::<f32>(dx).unwrap(), get("dx"), 1e-6);
    }
}

#[test]
fn alignment_equals_numpy() {
    let golden = Golden::read("losses");
    let dims = golden.shape("alignment.features");
    let (n, views, width) = (dims[0], dims[1], dims[2]);
    let by_sample = golden.get("alignment.features");
    // Ours lie view by view.
    let by_view: Vec<f32> =
        (0..views).flat_map(|v| (0..n).flat_map(move |i| by_sample[(i * views + v) * width..][..width].iter().copied())).collect();
    for (pairs, name) in [(Pairs::All, "alignment.all"), (Pairs::Original, "alignment.original")] {
        let mut tape = Tape::new(Mode::Eval);
        let x = tape.constant([views * n, width], by_view.clone());
        let y = tape.root().alignment(x, views, pairs);
        tape.keep(y);
        let mut program = tape.compile(&mut Weights::new(0)).unwrap();
        program.run().unwrap();
        let distances: Vec<f32> = program.read(y).unwrap();
        let p = distances.len() / n;
        let means: Vec<f32> = distances.chunks_exact(p).map(|d| d.iter().sum::<f32>() / p as f32).collect();
        close(name, &means, golden.get(name), 1e-6);
    }
}
