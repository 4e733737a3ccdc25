//! The pieces of a vision transformer against PyTorch, masks and stochastic depth against their documentation.

use crate::emulated::Emulated;
use crate::ops::dot_with;
use crate::ops::golden::{Golden, close};
use emulator::Options;
use sslmem::device::{Device, gelu};
use sslmem::init::Init;
use sslmem::ops::augment::Batch;
use sslmem::ops::drop_path::Drop;
use sslmem::ops::linear::{Dense, Epilogue};
use sslmem::ops::mask::Masking;
use sslmem::program::Program;
use sslmem::tape::{Mode, Scope, Tape};
use sslmem::var::{Dtype, Var};
use sslmem::weights::Weights;
use statrs::function::erf::erf;

/// Record what `build` makes of the golden inputs of a case, of which `weights` are (name here, name there), run it with the loss
/// sum(y * r), and compare y and every gradient.
fn compare(case: &str, inputs: &[&str], weights: &[(&str, &str)], build: impl Fn(&mut Scope, &[Var]) -> Var) {
    let golden = Golden::read("tokens");
    let find = |name: &str| format!("{case}.{name}");
    let (mut tape, mut memory) = (Tape::new(Mode::Train), Weights::new(0));
    let vars: Vec<Var> = inputs.iter().map(|i| tape.constant(golden.shape(&find(i)), golden.get(&find(i)).to_vec())).collect();
    for (var, _) in vars.iter().zip(inputs).filter(|(_, i)| golden.has(&find(&format!("d{i}")))) {
        tape.require_grad(*var);
    }
    for (here, there) in weights {
        memory.set(here, golden.shape(&find(there)), golden.get(&find(there))).unwrap();
    }
    let y = build(&mut tape.root(), &vars);
    let r = tape.constant(tape.shape(y), golden.get(&find("r")).to_vec());
    let loss = dot_with(&mut tape.root(), y, r);
    tape.keep(y);
    tape.backward(loss);
    let mut wanted: Vec<(String, Var)> = vars.iter().zip(inputs).filter_map(|(v, i)| Some((format!("d{i}"), tape.gradient(*v)?))).collect();
    for (name, _, gradient) in tape.gradients() {
        let there = weights.iter().find(|(here, _)| *here == name).expect("a weight of the case").1;
        wanted.push((format!("d{there}"), gradient));
    }
    assert_eq!(wanted.len(), golden.with(&format!("{case}.d")).count(), "{case}: gradients");
    wanted.iter().for_each(|(_, v)| tape.keep(*v));
    let mut program = tape.compile(&mut memory).unwrap();
    program.run().unwrap();
    wanted.push(("y".into(), y));
    for (name, v) in wanted {
        let (got, want): (Vec<f32>, _) = (program.read(v).unwrap(), golden.get(&find(&name)));
        // Row by row: some cases have rows of very different size.
        let cols = *golden.shape(&find(&name)).last().unwrap();
        for (got, want) in got.chunks(cols).zip(want.chunks(cols)) {
            close(&format!("{case}.{name}"), got, want, 1e-5);
        }
    }
}

#[test]
fn layer_norm_equals_pytorch() {
    compare("layer_norm", &["x"], &[("ln.weight", "weight"), ("ln.bias", "bias")], |s, x| s.at("ln").layer_norm(x[0], 1e-6, false));
}

#[test]
fn a_patch_embedding_is_a_convolution() {
    let weights = [("proj.weight", "weight"), ("proj.bias", "bias")];
    compare("embed", &["images"], &weights, |s, x| {
        let patches = s.patches(x[0], 4, None);
        let shape = Some([10, 3, 4, 4].into());
        s.at("proj").dense(patches, &Dense { outputs: 10, bias: true, weight: Init::Constant(0.0), shape, epilogue: Epilogue::Nothing })
    });
}

#[test]
fn unit_rows_and_weight_norm_equal_pytorch() {
    compare("unit", &["x"], &[], |s, x| s.l2_normalize(x[0]));
    compare("weight_norm", &["x"], &[("last.weight", "v")], |s, x| {
        let u = s.at("last").linear(x[0], 11, false);
        let v = s.at("last").param("weight", [11, 6], Init::Constant(0.0));
        s.weight_norm(u, v)
    });
}

/// A product with 1 and nothing else, so that what is left is the GELU.
#[test]
fn gelu_equals_pytorch() {
    let golden = Golden::read("tokens");
    let (mut tape, mut weights) = (Tape::new(Mode::Train), Weights::new(0));
    let x = tape.constant([257, 1], golden.get("gelu.x").to_vec());
    tape.require_grad(x);
    weights.set("fc.weight", [1, 1], &[1.0]).unwrap();
    let dense = Dense { outputs: 1, bias: true, weight: Init::Constant(0.0), shape: None, epilogue: Epilogue::Gelu };
    let y = tape.root().at("fc").dense(x, &dense);
    let r = tape.constant([257, 1], golden.get("gelu.r").to_vec());
    let loss = dot_with(&mut tape.root(), y, r);
    tape.backward(loss);
    let dx = tape.gradient(x).unwrap();
    [y, dx].into_iter().for_each(|v| tape.keep(v));
    let mut program = tape.compile(&mut weights).unwrap();
    program.run().unwrap();
    close("gelu", &program.read::<f32>(y).unwrap(), golden.get("gelu.y"), 2e-7);
    close("dgelu", &program.read::<f32>(dx).unwrap(), golden.get("gelu.dx"), 1e-6);
}

/// Against erf in f64, far into both tails, through every length of what is left beside whole vectors.
#[test]
fn gelu_is_within_a_millionth_of_erf() {
    let x: Vec<f32> = (-12_000..12_007).map(|i| i as f32 * 1e-3).collect();
    let (mut y, mut slope) = (x.clone(), vec![0.0; x.len()]);
    gelu::apply(&mut y);
    gelu::backward(&mut slope, &vec![1.0; x.len()], &x, false);
    for ((x, y), slope) in x.iter().map(|x| *x as f64).zip(y).zip(slope) {
        let below = 0.5 * (1.0 + erf(x / 2f64.sqrt()));
        let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
        assert!((y as f64 - x * below).abs() <= 1e-6 * x.abs().max(1.0), "gelu({x}) = {y}");
        assert!((slope as f64 - (below + x * density)).abs() <= 1e-6, "the slope at {x} = {slope}");
    }
    let mut odd = [f32::NAN, f32::INFINITY, -200.0];
    gelu::apply(&mut odd);
    assert!(odd[0].is_nan() && odd[1] == f32::INFINITY && odd[2].abs() < 1e-37, "{odd:?}");
}

fn batch(tape: &mut Tape, epoch: u32, samples: &[u32]) -> Batch {
    let n = samples.len();
    let keys = tape.words([n, 2], samples.iter().flat_map(|s| [epoch, *s]).collect());
    let (pixels, table) = (tape.fixed([16], Dtype::U8), tape.fixed([n, 3], Dtype::U32));
    Batch { pixels, table, keys, labels: None, n, capacity: 16 }
}

#[test]
fn masking_and_restoring_equal_mae() {
    let golden = Golden::read("tokens");
    let samples: Vec<u32> = golden.get("mae.samples").iter().map(|s| *s as u32).collect();
    let (mut tape, mut weights) = (Tape::new(Mode::Train), Weights::new(0));
    let batch = batch(&mut tape, 5, &samples);
    let masking = tape.mask(batch, 16, 4, 21);
    let x = tape.constant([3, 4, 6], golden.get("mae.chosen_tokens").to_vec());
    tape.require_grad(x);
    let names = ["cls_token", "mask_token", "pos_embed", "decoder_pos_embed"];
    for name in names {
        let name = format!("mae.{name}");
        weights.set(&name, golden.shape(&name), golden.get(&name)).unwrap();
    }
    let mut root = tape.root();
    let [class, token, positions, more] = names.map(|n| root.at("mae").param(n, golden.shape(&format!("mae.{n}")), Init::Constant(0.0)));
    let seen = root.sequence(x, Some(class), positions, Some(masking));
    let unmasked = root.unmask_tokens(seen, token, more, masking);
    let r = root.tape().constant([3, 17, 6], golden.get("mae.r").to_vec());
    let loss = dot_with(&mut root, unmasked, r);
    tape.backward(loss);
    let gradients: Vec<(String, Var)> = tape.gradients().into_iter().map(|(n, _, g)| (n, g)).collect();
    let dx = tape.gradient(x).unwrap();
    [seen, unmasked, dx].into_iter().chain(gradients.iter().map(|g| g.1)).for_each(|v| tape.keep(v));
    let mut program = tape.compile(&mut weights).unwrap();
    program.run().unwrap();
    for (v, name) in [(masking.ids_keep, "mae.ids"), (masking.ids_restore, "mae.place")] {
        let got: Vec<f32> = program.read::<u32>(v).unwrap().into_iter().map(|v| v as f32).collect();
        assert_eq!(got, golden.get(name), "{name}");
    }
    for (v, name) in [(seen, "seen"), (unmasked, "y"), (dx, "dchosen_tokens")] {
        close(name, &program.read::<f32>(v).unwrap(), golden.get(&format!("mae.{name}")), 1e-6);
    }
    assert_eq!(gradients.len(), 4);
    for (name, g) in gradients {
        let wanted = name.replace("mae.", "mae.d");
        close(&name, &program.read::<f32>(g).unwrap(), golden.get(&wanted), 1e-5);
    }
}

/// The patches that are seen, as a program on a device.
fn masked(device: Device, samples: &[u32], tokens: usize, keep: usize) -> (Program, Masking) {
    let mut tape = Tape::new(Mode::Eval);
    let batch = batch(&mut tape, 2, samples);
    let masking = tape.mask(batch, tokens, keep, 7);
    let mut program = tape.compile(&mut Weights::on(device, 0)).unwrap();
    program.run().unwrap();
    (program, masking)
}

#[test]
fn a_gpu_hides_the_same_patches() {
    if crate::emulated::missing() {
        return;
    }
    for (tokens, keep) in [(1, 1), (64, 16), (49, 12), (300, 75), (259, 259)] {
        let samples = [9, 4, 70_000];
        let (cpu, masking) = masked(Device::Cpu, &samples, tokens, keep);
        let (gpu, _) = masked(Device::Gpu(Emulated::new(Dtype::Bf16, Options::default())), &samples, tokens, keep);
        for v in [masking.ids_keep, masking.ids_restore] {
            assert_eq!(cpu.read::<u32>(v).unwrap(), gpu.read::<u32>(v).unwrap(), "{keep} of {tokens}");
        }
    }
}

#[test]
fn a_mask_belongs_to_its_sample() {
    let samples = [3, 8, 21];
    let (together, masking) = masked(Device::Cpu, &samples, 64, 16);
    let ids = together.read::<u32>(masking.ids_keep).unwrap();
    for (i, sample) in samples.iter().enumerate() {
        let (alone, masking) = masked(Device::Cpu, &[*sample], 64, 16);
        assert_eq!(alone.read::<u32>(masking.ids_keep).unwrap(), ids[i * 16..][..16]);
    }
    assert_ne!(ids[..16], ids[16..32], "every sample has a mask of its own");
}

/// What ones become: the factors of every sample of every view.
fn dropped(samples: &[u32], views: usize, rate: f32, view: u32, layer: u32) -> Vec<f32> {
    let mut tape = Tape::new(Mode::Train);
    let keys = batch(&mut tape, 2, samples).keys;
    let x = tape.constant([samples.len() * views, 1, 1], vec![1.0; samples.len() * views]);
    let y = tape.root().drop_path(x, rate, Drop { keys, seed: 4, view, layer });
    tape.keep(y);
    let mut program = tape.compile(&mut Weights::new(0)).unwrap();
    program.run().unwrap();
    program.read(y).unwrap()
}

#[test]
fn drop_path_drops_as_often_as_it_should_and_keeps_the_mean() {
    let (n, rate) = (8000, 0.3f32);
    let samples: Vec<u32> = (0..n).collect();
    let factors = dropped(&samples, 1, rate, 0, 3);
    let zeros = factors.iter().filter(|f| **f == 0.0).count() as f64;
    assert!(factors.iter().all(|f| *f == 0.0 || *f == 1.0 / (1.0 - rate)));
    // Four standard deviations of a binomial.
    let (expected, deviation) = (n as f64 * rate as f64, (n as f64 * 0.3 * 0.7).sqrt());
    assert!((zeros - expected).abs() < 4.0 * deviation, "{zeros} of {n} were dropped");
}

#[test]
fn drop_path_depends_on_sample_view_and_layer_only() {
    let samples: Vec<u32> = (0..64).map(|i| 11 * i).collect();
    let both = dropped(&samples, 2, 0.5, 3, 9);
    assert_eq!(both[64..], dropped(&samples, 1, 0.5, 4, 9)[..], "the second view is that of the next number");
    assert_ne!(both[..64], both[64..], "views differ");
    assert_ne!(both[..64], dropped(&samples, 1, 0.5, 3, 10)[..], "layers differ");
    let turned: Vec<u32> = samples.iter().rev().copied().collect();
    let mut back = dropped(&turned, 1, 0.5, 3, 9);
    back.reverse();
    assert_eq!(back, both[..64], "the order of a batch does not matter");
}
