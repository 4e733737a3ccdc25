//! Foreign checkpoints in every layout: recognised library, translated names, and features.

mod hostile;
pub mod libraries;

use crate::ops::golden::{close, signed};
use sslmem::checkpoint::{Checkpoint, EncoderLayout, Format, TensorRole, expected};
use sslmem::encoders::{ENCODERS, EncoderConfig, Stem, find};
use sslmem::tape::{Mode, Tape};
use sslmem::tensors::{self, Entry};
use sslmem::weights::Weights;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints").join(name)
}

/// Real data beside the checkout; without it the test is skipped, but not where everything must run.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new("../shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var("CI").is_err(), "{} is missing", path.display());
    eprintln!("skipped: no real data in {}", path.display());
    None
}

/// A safetensors file of f32 in memory.
fn file(tensors: &[(&str, Vec<usize>, Vec<f32>)], metadata: &[(&str, &str)]) -> Vec<u8> {
    let entries: Vec<Entry> = tensors.iter().map(|(name, shape, _)| Entry { name, dtype: "F32", shape: shape.clone() }).collect();
    let metadata = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let mut bytes = tensors::header(&metadata, &entries);
    tensors.iter().for_each(|(_, _, values)| bytes.extend_from_slice(bytemuck::cast_slice(values)));
    bytes
}

fn layout_of(bytes: Vec<u8>) -> Result<EncoderLayout, String> {
    let file = Checkpoint::from_bytes(Path::new("nowhere/x"), bytes).map_err(|e| e.to_string())?;
    file.identify().map_err(|e| e.to_string())?.layout.ok_or_else(|| "nothing".into())
}

#[test]
fn every_type_view_and_format_of_torch_save_is_read() {
    let plain: Vec<f32> = (0..24).map(|i| i as f32 / 8.0 - 1.0).collect();
    let at = |a: usize, b: usize, c: usize| plain[a * 12 + b * 4 + c];
    let turned: Vec<f32> =
        (0..4).flat_map(|c| (0..2).flat_map(move |a| (0..3).map(move |b| (a, b, c)))).map(|(a, b, c)| at(a, b, c)).collect();
    let part: Vec<f32> = (0..2).flat_map(|a| (1..3).flat_map(move |b| [0, 2].map(|c| (a, b, c)))).map(|(a, b, c)| at(a, b, c)).collect();
    for (name, format) in [("values.pt", Format::Zip), ("values_protocol4.pt", Format::Zip), ("values_legacy.pt", Format::Legacy)] {
        let file = Checkpoint::open(&golden(name)).unwrap();
        assert_eq!(file.format, format, "{name}");
        let is = |tensor: &str, shape: &[usize], values: &[f32]| {
            let full = format!("state.{tensor}");
            assert_eq!(file.tensors[&full].shape, shape, "{name}: {tensor}");
            assert_eq!(file.values(&full).unwrap(), values, "{name}: {tensor}");
        };
        for same in ["plain", "half", "bfloat", "double", "parameter"] {
            is(same, &[2, 3, 4], &plain);
        }
        is("turned", &[4, 2, 3], &turned);
        is("part", &[2, 2, 2], &part);
        is("wide", &[2, 5], &[0.5; 10]);
        is("long", &[6], &[-3.0, -2.0, -1.0, 0.0, 1.0, 2.0]);
        is("empty", &[0, 3], &[]);
        let others: Vec<&str> = file.tensors.keys().map(String::as_str).filter(|n| !n.starts_with("state.")).collect();
        assert!(others.len() == 6 && others.iter().all(|n| n.starts_with("optimizer.state.")), "{name}: {others:?}");
        assert!(file.keys.iter().any(|key| key == "epoch"), "{name}");
        let error = file.identify().err().unwrap().to_string();
        assert!(error.contains("holds no encoder that is known here (16 tensors"), "{error}");
    }
    let module = Checkpoint::open(&golden("module.pt")).unwrap();
    assert_eq!(module.values("conv1.weight").unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(module.values("bn1.running_var").unwrap(), [1.0, 1.0]);
}

#[test]
fn whose_file_it_is_and_what_is_left() {
    use TensorRole::*;
    // File, wrapper, prefix, arch, stem or patch, what is left besides counters.
    type Row = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static [(TensorRole, usize)]);
    let table: &[Row] = &[
        ("torchvision.pth", "torchvision", "", "resnet18", "imagenet", &[(Classifier, 2)]),
        ("timm.pth", "timm or MAE", "state_dict_ema.module.", "vit_nano", "4", &[(Classifier, 2), (OtherEncoder, 56)]),
        ("compiled.pth", "timm or MAE", "model._orig_mod.", "vit_nano", "4", &[]),
        ("mae.pth", "MAE", "model.", "vit_nano", "4", &[(Decoder, 5), (Optimizer, 1)]),
        ("dino.pth", "DINO", "teacher.backbone.", "vit_nano", "4", &[(Projector, 2), (OtherEncoder, 54), (Loss, 1)]),
        ("simsiam.pth.tar", "SimSiam", "state_dict.module.encoder.", "resnet18", "imagenet", &[(Projector, 2), (Optimizer, 1)]),
        (
            "mocov2.pth.tar",
            "MoCo v1 or v2",
            "state_dict.module.encoder_q.",
            "resnet18",
            "imagenet",
            &[(Projector, 3), (OtherEncoder, 122), (Optimizer, 1)],
        ),
        ("mocov3.pth.tar", "MoCo v3", "state_dict.module.base_encoder.", "resnet18", "imagenet", &[(Projector, 3), (OtherEncoder, 122)]),
        ("barlow.pth", "Barlow Twins", "model.module.backbone.", "resnet18", "imagenet", &[(Projector, 1), (Other, 1)]),
        ("vicreg.pth", "VICReg", "model.module.backbone.", "resnet18", "imagenet", &[(Projector, 1)]),
        (
            "sololearn.ckpt",
            "solo-learn",
            "state_dict.backbone.",
            "resnet18",
            "cifar_wide",
            &[(Classifier, 1), (OtherEncoder, 120), (Optimizer, 1)],
        ),
        ("vissl.torch", "VISSL", "classy_state_dict.base_model.model.trunk._feature_blocks.", "resnet18", "imagenet", &[]),
        ("dejavu.pth", "DejaVu", "model.module.net.", "resnet18", "imagenet", &[(Projector, 1)]),
        ("torchvision_vit.pth", "torchvision", "", "vit_nano", "8", &[(Classifier, 2)]),
    ];
    for &(name, wrapper, prefix, arch, form, left) in table {
        let file = Checkpoint::open(&golden(name)).unwrap();
        let layout = file.identify().unwrap().layout.unwrap_or_else(|| panic!("{name}: nothing"));
        assert_eq!((layout.wrapper, &layout.prefix[..], layout.arch), (wrapper, prefix, arch), "{name}");
        let found = layout.stem.map(String::from).or(layout.patch.map(|p| p.to_string()));
        assert_eq!(found.as_deref(), Some(form), "{name}");
        assert!(layout.missing.is_empty(), "{name}: {:?}", layout.missing);
        let count = |part: TensorRole| layout.leftovers.iter().filter(|l| l.reason == part).count();
        for part in [Classifier, Projector, Decoder, OtherEncoder, Optimizer, Loss, Other] {
            let wanted = left.iter().find(|(p, _)| *p == part).map_or(0, |(_, n)| *n);
            assert_eq!(count(part), wanted, "{name}: {}", part.name());
        }
        let taken: usize = layout.sources.values().map(|s| s.parts.len()).sum();
        assert_eq!(taken + layout.leftovers.len(), file.tensors.len(), "{name}: every tensor is accounted for");
    }
}

#[test]
fn what_would_give_other_features_is_refused() {
    let error = Weights::new(0).load(&golden("registers.pth"), "").unwrap_err().to_string();
    assert!(error.contains("register tokens"), "{error}");
    let tensors = |arch: &str| -> Vec<(String, Vec<usize>)> { expected(arch, 3, (4, 8)).unwrap().into_iter().collect() };
    let with = |arch: &str, more: &[(&str, Vec<usize>)]| {
        let all = tensors(arch).into_iter().chain(more.iter().map(|(n, s)| (n.to_string(), s.clone()))).collect::<BTreeMap<_, _>>();
        let filled: Vec<_> = all.iter().map(|(n, s)| (&n[..], s.clone(), vec![0.5; s.iter().product()])).collect();
        layout_of(file(&filled, &[])).err().unwrap_or_default()
    };
    assert_eq!(with("resnet8", &[]), "");
    assert!(with("resnet8", &[("conv1.bias", vec![16])]).contains("has a tensor `conv1.bias` that these encoders lack"));
    assert!(with("resnet8", &[("layer1.0.se.fc1.weight", vec![4])]).contains("layer1.0.se.fc1.weight"));
    assert!(with("resnet8", &[("layer1.1.conv1.weight", vec![16, 16, 3, 3])]).contains("stages of [2, 1, 1] basic blocks"));
    assert!(with("resnet8", &[("layer2.0.bn2.bias", vec![31])]).contains("tensor `layer2.0.bn2.bias` has shape [31], resnet8 needs [32]"));
    assert!(with("vit_nano", &[("fc_norm.weight", vec![64])]).contains("fc_norm"));
    assert!(with("vit_nano", &[("dist_token", vec![1, 1, 64])]).contains("dist_token"));
    assert!(with("vit_nano", &[("pos_embed", vec![1, 64, 64])]).contains("64 positions"));
    let twice: Vec<(String, Vec<usize>)> =
        ["a.", "b."].iter().flat_map(|at| tensors("resnet8").into_iter().map(move |(n, s)| (format!("{at}{n}"), s))).collect();
    let filled: Vec<_> = twice.iter().map(|(n, s)| (&n[..], s.clone(), vec![0.5; s.iter().product()])).collect();
    assert!(layout_of(file(&filled, &[])).err().unwrap().contains("holds two encoders of equal standing, `a.` and `b.`"));
}

#[test]
fn what_is_expected_of_an_encoder_is_what_it_has() {
    for encoder in ENCODERS {
        for (stem, kernel) in [(Stem::Cifar, 3), (Stem::Imagenet, 7)] {
            let mut tape = Tape::new(Mode::Eval);
            let images = tape.constant([1, 32, 32, 3], vec![0.0; 3072]);
            encoder.map(&mut tape.root(), &EncoderConfig { stem, patch: 8, ..EncoderConfig::of(32) }, images);
            let has: BTreeMap<String, Vec<usize>> =
                tape.below("").into_iter().map(|(name, v)| (name, tape.shape(v).dims().to_vec())).collect();
            assert_eq!(expected(encoder.name(), kernel, (8, 4)), Some(has), "{}", encoder.name());
        }
    }
}

#[test]
fn the_layer_before_takes_over_a_layer_scale() {
    let ours: BTreeMap<String, Vec<usize>> = expected("vit_nano", 3, (4, 8)).unwrap();
    let value = |i: usize, shape: &[usize]| signed(i as u32, shape.iter().product());
    let gamma: Vec<f32> = (0..64).map(|i| i as f32 / 32.0).collect();
    let mut scaled: Vec<_> = ours.iter().enumerate().map(|(i, (n, s))| (&n[..], s.clone(), value(i, s))).collect();
    scaled.push(("blocks.1.ls1.gamma", vec![64], gamma.clone()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, file(&scaled, &[])).unwrap();
    let mut weights = Weights::new(0);
    weights.load(&path, "").unwrap();
    for name in ["blocks.1.attn.proj.weight", "blocks.1.attn.proj.bias"] {
        let (i, (_, shape)) = ours.iter().enumerate().find(|(_, (n, _))| *n == name).unwrap();
        let columns = if shape.len() == 2 { 64 } else { 1 };
        let wanted: Vec<f32> = value(i, shape).iter().enumerate().map(|(j, v)| v * gamma[j / columns]).collect();
        assert_eq!(weights.get(name).unwrap().unwrap(), wanted, "{name}");
    }
}

/// The values of one array of an npz file whose members are stored as they are.
fn array(npz: &[u8], name: &str, count: usize) -> Vec<f32> {
    let at = npz.windows(name.len()).position(|w| w == name.as_bytes()).unwrap();
    let start = at + npz[at..].windows(6).position(|w| w == b"\x93NUMPY").unwrap();
    let head = 10 + u16::from_le_bytes([npz[start + 8], npz[start + 9]]) as usize;
    npz[start + head..][..4 * count].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Features [n, 64] of the first images of CIFAR-10's test part.
fn features(arch: &str, path: &Path, records: &[u8]) -> Vec<f32> {
    const BATCH: usize = 128;
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let images = |records: &[u8]| -> Vec<f32> {
        let one =
            |r: &[u8]| (0..3072).map(|i| (r[1 + i % 3 * 1024 + i / 3] as f32 / 255.0 - mean[i % 3]) / std[i % 3]).collect::<Vec<f32>>();
        records.chunks_exact(3073).flat_map(one).collect()
    };
    let mut out = vec![];
    let mut weights = Weights::new(0);
    let facts = weights.load(path, "encoder.").unwrap();
    assert_eq!((&facts["arch"][..], &facts["stem"][..]), (arch, "cifar"));
    for part in records.chunks(BATCH * 3073) {
        let (n, mut tape) = (part.len() / 3073, Tape::new(Mode::Eval));
        let images = tape.constant([n, 32, 32, 3], images(part));
        let map = find(arch).unwrap().map(&mut tape.root().at("encoder"), &EncoderConfig::of(32), images);
        let features = tape.root().average_pool(map);
        weights.check(path, &tape.shapes_below("encoder."), "encoder.").unwrap();
        tape.keep(features);
        let mut program = tape.compile(&mut weights).unwrap();
        program.run().unwrap();
        out.extend(program.read::<f32>(features).unwrap());
    }
    out
}

fn logits(path: &Path, features: &[f32]) -> Vec<f32> {
    let file = Checkpoint::open(path).unwrap();
    let named = |end: &str| file.values(file.tensors.keys().find(|n| n.ends_with(end)).unwrap()).unwrap();
    let (weight, bias) = (named("linear.weight"), named("linear.bias"));
    let dot = |f: &[f32], w: &[f32]| f.iter().zip(w).map(|(f, w)| *f as f64 * *w as f64).sum::<f64>();
    let one = |f: &[f32]| weight.chunks(64).zip(&bias).map(|(w, b)| dot(f, w) as f32 + b).collect::<Vec<_>>();
    features.chunks(64).flat_map(one).collect()
}

#[test]
fn trained_resnets_of_cifar10_do_what_pytorch_does() {
    let (Some(nets), Some(cifar)) = (shared("resnet-cifar10"), shared("cifar10")) else { return };
    let test = std::fs::read(cifar.join("test_batch.bin")).unwrap();
    for (arch, hash) in [("resnet20", "12fca82f"), ("resnet56", "4bfd9763")] {
        let npz = std::fs::read(nets.join(format!("{arch}.reference_test256.npz"))).unwrap();
        for ending in ["th", "safetensors"] {
            let path = nets.join(format!("{arch}-{hash}.{ending}"));
            let features = features(arch, &path, &test[..256 * 3073]);
            close(&format!("{arch} {ending}"), &features, &array(&npz, "features.npy", 256 * 64), 1e-4);
            close(&format!("{arch} {ending}"), &logits(&path, &features), &array(&npz, "logits.npy", 2560), 1e-4);
        }
    }
}

/// How many of the 10,000 test images of CIFAR-10 a network classifies right.
fn right(arch: &str, hash: &str) -> Option<usize> {
    let (nets, cifar) = (shared("resnet-cifar10")?, shared("cifar10")?);
    let test = std::fs::read(cifar.join("test_batch.bin")).unwrap();
    let path = nets.join(format!("{arch}-{hash}.th"));
    let best = |l: &[f32]| l.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    let logits = logits(&path, &features(arch, &path, &test));
    Some(logits.chunks(10).zip(test.chunks(3073)).filter(|(l, r)| best(l) == r[0] as usize).count())
}

/// PyTorch: 9173 right; the two best logits of an image are .0023 apart or more.
#[test]
fn resnet20_has_91_73_percent_of_cifar10() {
    let Some(right) = right("resnet20", "12fca82f") else { return };
    assert_eq!(right, 9173);
}

/// PyTorch: 9339 right; the two best logits of an image are .0005 apart or more.
#[test]
fn resnet56_has_93_39_percent_of_cifar10() {
    let Some(right) = right("resnet56", "4bfd9763") else { return };
    assert_eq!(right, 9339);
}

fn sslmem(folder: &Path, args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sslmem")).current_dir(folder).args(args).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn foreign_files_are_converted_and_scored_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let (dino, torchvision) = (golden("dino.pth"), golden("torchvision.pth"));
    let (dino, torchvision) = (dino.to_str().unwrap(), torchvision.to_str().unwrap());
    let (code, said) = sslmem(f, &["convert", dino]);
    assert_eq!(code, 0, "{said}");
    for line in ["looks like  DINO, below `teacher.backbone.`", "vit_nano, patch 4", "mapped      54 tensors", "54 of another encoder"] {
        assert!(said.contains(line), "no `{line}` in {said}");
    }
    assert!(std::fs::read_dir(f).unwrap().next().is_none(), "nothing is written without --out");
    assert_eq!(sslmem(f, &["convert", dino, "--out", "dino.safetensors"]).0, 0);
    let (code, said) = sslmem(f, &["convert", dino, "--out", "dino.safetensors"]);
    assert!(code == 2 && said.contains("exists already"), "{said}");
    let file = Checkpoint::open(&f.join("dino.safetensors")).unwrap();
    assert_eq!((&file.metadata["arch"][..], &file.metadata["patch"][..], file.tensors.len()), ("vit_nano", "4", 54));
    assert_eq!(file.tensors.keys().cloned().collect::<Vec<_>>(), expected("vit_nano", 3, (4, 8)).unwrap().into_keys().collect::<Vec<_>>());

    // f and g of different architectures, neither of which is named.
    let score = [
        "score",
        "--f",
        "dino.safetensors",
        "--g",
        torchvision,
        "--data",
        "synthetic:4",
        "--views",
        "2",
        "--normalize",
        "imagenet",
        "--quiet",
    ];
    let (code, said) = sslmem(f, &[&score[..], &["--out", "s.csv"]].concat());
    assert_eq!(code, 0, "{said}");
    let manifest = std::fs::read_to_string(f.join("s.json")).unwrap();
    assert!(manifest.contains("\"vit_nano\"") && manifest.contains("\"resnet18\""), "{manifest}");
    for (flags, sentence) in [(["--arch", "resnet18"], "--arch resnet18 contradicts"), (["--patch", "8"], "--patch 8 contradicts")] {
        let (code, said) = sslmem(f, &[&score[..], &flags, &["--out", "t.csv"]].concat());
        assert!(code == 2 && said.contains(sentence), "{said}");
    }
    let none = golden("values.pt");
    let (code, said) = sslmem(f, &["embed", "--encoder", none.to_str().unwrap(), "--data", "synthetic:4", "--out", "e.safetensors"]);
    assert!(code == 1 && said.contains("holds no encoder that is known here"), "{said}");
}

#[test]
fn positions_that_are_sines_and_cosines_are_known() {
    let shapes = expected("vit_nano", 3, (8, 5)).unwrap();
    // MoCo v3 has the row in the first half of the channels, MAE the column; of five by five patches.
    let rows_first = |table: Vec<f32>| -> Vec<f32> {
        let patch = |at: usize| if at == 0 { 0 } else { 1 + (at - 1) % 5 * 5 + (at - 1) / 5 };
        (0..26).flat_map(|at| table[patch(at) * 64..][..64].to_vec()).collect()
    };
    for (fixed, name) in [(Some(false), "sincos"), (Some(true), "sincos"), (None, "learned")] {
        let value = |name: &str, shape: &[usize]| match name {
            "pos_embed" if fixed == Some(true) => rows_first(sslmem::encoders::sine_cosine(shape.into())),
            "pos_embed" if fixed.is_some() => sslmem::encoders::sine_cosine(shape.into()),
            _ => vec![0.25; shape.iter().product()],
        };
        let filled: Vec<_> = shapes.iter().map(|(n, s)| (&n[..], s.clone(), value(n, s))).collect();
        let layout = layout_of(file(&filled, &[])).unwrap();
        assert_eq!((layout.positions, layout.trained_size), (Some(name), Some(40)));
    }
}
