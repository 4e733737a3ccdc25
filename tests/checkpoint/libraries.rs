//! Files saved by Hugging Face's transformers and lightly give the features that these libraries compute.

use crate::ops::golden::{Golden, close, formula, signed};
use sslmem::checkpoint::{Checkpoint, TensorRole};
use sslmem::encoders::{EncoderConfig, Stem, find};
use sslmem::tape::{Mode, Tape};
use sslmem::weights::Weights;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/libraries");

fn folder(name: &str) -> TempDir {
    filled(&Path::new(GOLDEN).join(name))
}

/// A folder of `save_pretrained` with its numbers, which come from the formula: tensor i is the i-th of all names, sorted.
pub fn filled(kept: &Path) -> TempDir {
    let folder = TempDir::new().unwrap();
    let files: Vec<PathBuf> = std::fs::read_dir(kept).unwrap().map(|e| e.unwrap().path()).collect();
    let mut heads = vec![];
    for path in files {
        let bytes = std::fs::read(&path).unwrap();
        match path.file_name().unwrap().to_str().unwrap().strip_suffix(".head") {
            None => std::fs::write(folder.path().join(path.file_name().unwrap()), bytes).unwrap(),
            Some(file) => {
                let head: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes[8..]).unwrap();
                heads.push((folder.path().join(file), bytes, head));
            }
        }
    }
    let described = |head: &serde_json::Map<String, serde_json::Value>| -> Vec<(String, Vec<usize>, [usize; 2])> {
        let each = head.iter().filter(|(_, entry)| entry["dtype"] == "F32");
        let sizes = |v: &serde_json::Value| v.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect::<Vec<_>>();
        each.map(|(name, e)| (name.clone(), sizes(&e["shape"]), sizes(&e["data_offsets"]).try_into().unwrap())).collect()
    };
    let mut names: Vec<String> = heads.iter().flat_map(|(_, _, head)| described(head)).map(|(name, ..)| name).collect();
    names.sort();
    for (path, mut bytes, head) in heads {
        let (start, ends) = (bytes.len(), head.values().filter_map(|entry| entry["data_offsets"][1].as_u64()));
        bytes.resize(start + ends.max().unwrap() as usize, 0);
        for (name, shape, [first, last]) in described(&head) {
            let values = formula(names.binary_search(&name).unwrap() as u32, &name, &shape);
            bytes[start + first..start + last].copy_from_slice(bytemuck::cast_slice(&values));
        }
        std::fs::write(path, bytes).unwrap();
    }
    folder
}

/// Pooled features of two images.
fn features(path: &Path, arch: &str) -> Vec<f32> {
    let mut weights = Weights::new(0);
    let facts = weights.load(path, "encoder.").unwrap();
    let fact = |name: &str| facts.get(name).map(String::as_str);
    assert_eq!(fact("arch"), Some(arch), "{}", path.display());
    let stem = if fact("stem") == Some("imagenet") { Stem::Imagenet } else { Stem::Cifar };
    let config = EncoderConfig { stem, patch: fact("patch").map_or(4, |patch| patch.parse().unwrap()), ..EncoderConfig::of(32) };
    let (mut tape, encoder) = (Tape::new(Mode::Eval), find(arch).unwrap());
    let images = tape.constant([2, 32, 32, 3], signed(4000, 2 * 32 * 32 * 3));
    let map = encoder.map(&mut tape.root().at("encoder"), &config, images);
    let features = encoder.pool(&mut tape.root(), map);
    weights.check(path, &tape.shapes_below("encoder."), "encoder.").unwrap();
    tape.keep(features);
    let mut program = tape.compile(&mut weights).unwrap();
    program.run().unwrap();
    program.read(features).unwrap()
}

#[test]
fn their_files_give_their_features() {
    use TensorRole::*;
    // File or folder, who is named, encoder, what is left besides counters.
    type Row = (&'static str, &'static str, &'static str, &'static [(TensorRole, usize)]);
    let table: &[Row] = &[
        ("vit", "Hugging Face transformers", "vit_nano", &[(Classifier, 2)]),
        ("vit_labelled", "Hugging Face transformers", "vit_nano", &[(Classifier, 2)]),
        ("vit.pt", "Hugging Face transformers", "vit_nano", &[(Classifier, 2)]),
        ("mae", "Hugging Face ViTMAE", "vit_nano", &[(Decoder, 24)]),
        ("mae.pt", "Hugging Face ViTMAE", "vit_nano", &[(Decoder, 24)]),
        ("dinov2", "Hugging Face transformers", "vit_nano", &[(Decoder, 1)]),
        ("dinov2.pt", "Hugging Face transformers", "vit_nano", &[(Decoder, 1)]),
        ("resnet", "Hugging Face transformers", "resnet8", &[]),
        ("resnet.pt", "Hugging Face transformers", "resnet8", &[]),
        ("resnet_labelled", "Hugging Face transformers", "resnet8", &[(Classifier, 2)]),
        ("resnet_shards", "Hugging Face transformers", "resnet8", &[]),
        ("simclr.ckpt", "lightly", "resnet18", &[(Projector, 12)]),
    ];
    let golden = Golden::read("libraries/features");
    for (name, wrapper, arch, left) in table {
        let whole = Path::new(GOLDEN).join(name);
        let made = whole.is_dir().then(|| folder(name));
        let path = made.as_ref().map_or(whole, |folder| folder.path().to_path_buf());
        let file = Checkpoint::open(&path).unwrap();
        let layout = file.identify().unwrap().layout.unwrap_or_else(|| panic!("{name}: nothing"));
        assert_eq!((layout.wrapper, layout.arch), (*wrapper, *arch), "{name}");
        assert!(layout.missing.is_empty(), "{name}: {:?}", layout.missing);
        let mut found: Vec<TensorRole> = layout.leftovers.iter().map(|left| left.reason).filter(|reason| *reason != Counter).collect();
        found.sort();
        let wanted: Vec<TensorRole> = left.iter().flat_map(|(part, count)| vec![*part; *count]).collect();
        assert_eq!(found, wanted, "{name}");
        close(name, &features(&path, arch), golden.get(name), 1e-4);
    }
    // lightly's ResNet calls the first relu as a function, which a Sequential of its children lacks.
    let moco = Checkpoint::open(&Path::new(GOLDEN).join("moco.ckpt")).unwrap();
    assert!(moco.identify().err().unwrap().to_string().contains("without the relu behind its first norm"));
}

#[test]
fn settings_beside_them_are_known() {
    let said = |name: &str| Checkpoint::open(folder(name).path()).unwrap().identify().unwrap().facts;
    for (name, facts) in [
        ("vit", [("size", "224"), ("mean", "[0.5, 0.5, 0.5]"), ("interpolation", "bilinear"), ("trained_size", "32")]),
        ("dinov2", [("size", "224"), ("mean", "[0.48145467, 0.4578275, 0.40821072]"), ("interpolation", "bicubic"), ("patch", "8")]),
        ("resnet", [("size", "384"), ("resize", "whole"), ("std", "[0.5, 0.5, 0.5]"), ("stem", "imagenet")]),
    ] {
        let said = said(name);
        for (key, value) in facts {
            assert_eq!(said.get(key).map(String::as_str), Some(value), "{name}: {key}");
        }
    }
    let of = folder("vit");
    let config = std::fs::read_to_string(of.path().join("config.json")).unwrap();
    std::fs::write(of.path().join("config.json"), config.replace(r#""num_attention_heads": 2"#, r#""num_attention_heads": 4"#)).unwrap();
    let facts = Checkpoint::open(of.path()).unwrap().identify().unwrap().facts;
    assert_eq!(facts["heads"], "4");
}

#[test]
fn weights_in_several_files_are_one_encoder() {
    let of = folder("resnet_shards");
    let index = of.path().join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    let (of_folder, of_index) = (Checkpoint::open(of.path()).unwrap(), Checkpoint::open(&index).unwrap());
    assert_eq!(of_folder.tensors.len(), 54);
    let name = "encoder.stages.2.layers.0.layer.1.convolution.weight";
    assert_eq!(of_folder.values(name).unwrap(), of_index.values(name).unwrap());

    // The whole folder can be scored, and what the manifest says of it changes with any of its files.
    let digest = || {
        let (path, to) = (of.path().to_str().unwrap(), TempDir::new().unwrap());
        let args =
            ["score", "--f", path, "--g", path, "--data", "synthetic:2", "--views", "2", "--size", "32", "--quiet", "--out", "s.csv"];
        let output = Command::new(env!("CARGO_BIN_EXE_sslmem")).current_dir(to.path()).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(to.path().join("s.json")).unwrap()).unwrap();
        manifest["encoders"][0]["digest"].as_str().unwrap().to_string()
    };
    let before = digest();
    let part = of.path().join("model-00002-of-00003.safetensors");
    let mut bytes = std::fs::read(&part).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&part, &bytes).unwrap();
    assert_ne!(digest(), before);

    let refused = |text: &str| {
        std::fs::write(&index, text).unwrap();
        Checkpoint::open(&index).err().unwrap().to_string()
    };
    assert!(refused("{}").contains("is not an index of files of weights"));
    assert!(refused(r#"{"weight_map": {}}"#).contains("names 0 files of weights"));
    assert!(refused(&text.replace("model-00002", "../model-00002")).contains("which is not in its own folder"));
    assert!(refused(&text.replace("00002-of", "00004-of")).contains("model-00004-of-00003.safetensors: "));
    assert!(refused(&text.replace(&format!("{name}\""), "nothing\"")).contains("names a tensor `nothing` that none of its files has"));
    std::fs::write(of.path().join("again.safetensors"), &bytes).unwrap();
    let twice = text.replacen("model-00002-of-00003", "again", 1);
    assert!(refused(&twice).contains("which another file of the same index holds as well"));
    std::fs::remove_file(&index).unwrap();
    assert!(Checkpoint::open(of.path()).err().unwrap().to_string().contains("is a folder without model.safetensors"));
}
