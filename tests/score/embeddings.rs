//! `score --also embeddings`: the bytes of `embed`, from the same pass as the scores, also after stops and crashes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{command, done, encoders, fails, photos};

fn sslmem(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sslmem"));
    command.current_dir(folder).args(args);
    command
}

/// The bytes that `embed` writes.
fn embedded(folder: &Path, data: &str, encoder: &str, more: &[&str]) -> Vec<u8> {
    let weights = format!("{encoder}.safetensors");
    let args = [
        "embed",
        "--encoder",
        &weights,
        "--arch",
        "resnet8",
        "--size",
        "16",
        "--normalize",
        "unit",
        "--data",
        data,
        "--out",
        "e.safetensors",
        "--force",
    ];
    done(sslmem(folder, &[&args, more].concat()));
    fs::read(folder.join("e.safetensors")).unwrap()
}

fn bytes(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

const ALSO: [&str; 2] = ["--also", "embeddings"];

#[test]
fn features_are_the_bytes_of_embed_and_scores_what_they_are_without_them() {
    let folder = encoders();
    let f = folder.path();
    let data = "synthetic:1000";
    let layers = [("pooled", "--features", 64), ("map", "--features", 64 * 4 * 4), ("layer2.0", "--layer", 32 * 8 * 8)];
    for (kind, settings) in [("all", ["score.pairs=all", "score.views=3"]), ("original", ["score.pairs=original", "score.views=2"])] {
        let set: Vec<&str> = settings.iter().flat_map(|s| ["--set", s]).chain(["--layers", "pooled,map,layer2.0"]).collect();
        done(command(f, data, &format!("plain.{kind}.parquet"), &set));
        let (said, _) = done(command(f, data, &format!("also.{kind}.parquet"), &[&set[..], &ALSO].concat()));
        assert!(said.contains(&format!("also.{kind}.layer2.0.g.safetensors: features, row for row\n")), "{said}");
        for (layer, flag, width) in layers {
            assert!(
                bytes(f, &format!("plain.{kind}.{layer}.parquet")) == bytes(f, &format!("also.{kind}.{layer}.parquet")),
                "{kind} {layer}"
            );
            let manifest: serde_json::Value = serde_json::from_slice(&bytes(f, &format!("also.{kind}.{layer}.json"))).unwrap();
            for (role, facts) in ["f", "g"].into_iter().zip(manifest["embeddings"].as_array().unwrap()) {
                let name = format!("also.{kind}.{layer}.{role}.safetensors");
                let features = bytes(f, &name);
                assert!(features == embedded(f, data, role, &[flag, layer]), "{name}");
                let want =
                    serde_json::json!({ "role": role, "file": name, "width": width, "digest": blake3::hash(&features).to_hex().as_str() });
                assert_eq!(*facts, want);
            }
        }
    }
}

#[test]
fn features_of_shards_are_merged_and_bad_images_have_no_row() {
    let folder = encoders();
    let f = folder.path();
    photos(f, 30, &[0, 13, 14, 29]);
    let job = |more: &[&str]| command(f, "folder:photos", "s.csv", &[&ALSO, &["--max-bad", "1"], more].concat());
    done(job(&["--batch", "4"]));
    // One shard has only bad images, others are empty.
    for i in 1..=40 {
        done(job(&["--shard", &format!("{i}/40")]));
    }
    let shards: Vec<String> = (1..=40).map(|i| format!("s.{i}-of-40.csv")).collect();
    let merge =
        |out: &str| sslmem(f, &["merge", "--max-bad", "1", out].into_iter().chain(shards.iter().map(String::as_str)).collect::<Vec<_>>());
    let (said, _) = done(merge("m.csv"));
    assert!(said.contains("m.f.safetensors: features") && bytes(f, "m.csv") == bytes(f, "s.csv"), "{said}");
    let facts = |name: &str| {
        let manifest: serde_json::Value = serde_json::from_slice(&bytes(f, name)).unwrap();
        manifest["embeddings"].to_string()
    };
    assert_eq!(facts("m.json").replace("\"m.", "\"s."), facts("s.json"));
    for role in ["f", "g"] {
        let whole = bytes(f, &format!("s.{role}.safetensors"));
        assert!(whole == bytes(f, &format!("m.{role}.safetensors")), "merged, those of {role} differ");
        assert!(whole == embedded(f, "folder:photos", role, &["--max-bad", "1"]), "{role}");
    }
    assert!(done(merge("m.csv")).0.starts_with("m.csv: 26 samples, scored before\nm.f.safetensors: features"));
    ["m.csv", "m.json"].iter().for_each(|name| fs::remove_file(f.join(name)).unwrap());
    fails(merge("m.csv"), 2, &["m.f.safetensors exists already"]);
    let mut damaged = bytes(f, "s.7-of-40.g.safetensors");
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(f.join("s.7-of-40.g.safetensors"), damaged).unwrap();
    fails(merge("n.csv"), 1, &["s.7-of-40.g.safetensors: was changed or damaged"]);
}

/// The files in a folder whose names end so, in order.
fn named(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.to_str().unwrap().ends_with(ending));
    paths.sort();
    paths
}

/// Cannot write a file of more than 600 KiB: of 1,024 samples the features are less, of all more.
fn limited(plain: &Command) -> Command {
    let mut limited = Command::new("bash");
    limited.current_dir(plain.get_current_dir().unwrap()).args(["-c", "trap '' XFSZ; ulimit -f 600; exec \"$@\"", "bash"]);
    limited.arg(plain.get_program()).args(plain.get_args());
    limited
}

#[test]
fn damaged_features_are_made_again() {
    let folder = encoders();
    let f = folder.path();
    let job = |more: &[&str]| command(f, "synthetic:4000", "s.parquet", &[&ALSO, more].concat());
    fails(limited(&job(&[])), 1, &["s.f.safetensors: file too large"]);
    assert!(!f.join("s.f.safetensors").exists() && !f.join("s.parquet").exists());
    fails(command(f, "synthetic:4000", "s.parquet", &[]), 2, &["also is embeddings there and none here"]);
    for (block, damage) in [(0, "flip"), (1, "cut"), (2, "other"), (3, "gone"), (4, "empty")] {
        // A slow machine closes more blocks.
        let blocks = named(&f.join("s.parquet.parts"), ".features");
        let path = &blocks[block];
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        match damage {
            "flip" => bytes[middle] ^= 1,
            "cut" => bytes.truncate(middle),
            "other" => bytes = fs::read(&blocks[1]).unwrap(),
            _ => bytes.clear(),
        }
        if damage == "gone" { fs::remove_file(path) } else { fs::write(path, bytes) }.unwrap();
        let error = String::from_utf8(limited(&job(&[])).output().unwrap().stderr).unwrap();
        let said = format!("1 of {} blocks in s.parquet.parts are damaged and scored again", blocks.len());
        assert!(error.contains(&said) && blocks.len() >= 5, "{damage}: {error}");
    }
    done(job(&["--batch", "7", "--threads", "1"]));
    assert!(bytes(f, "s.f.safetensors") == embedded(f, "synthetic:4000", "f", &[]));
    assert!(bytes(f, "s.g.safetensors") == embedded(f, "synthetic:4000", "g", &[]));
    let (said, _) = done(job(&[]));
    assert!(said.starts_with("s.parquet: 4800 samples, scored before\ns.f.safetensors: features"), "{said}");
    fs::write(f.join("s.g.safetensors"), "x").unwrap();
    fails(job(&[]), 2, &["s.parquet exists already"]);
    done(job(&["--force"]));
    assert!(bytes(f, "s.g.safetensors") == bytes(f, "e.safetensors"));
}

#[test]
fn weights_are_not_written_over() {
    let folder = encoders();
    let f = folder.path();
    fs::rename(f.join("f.safetensors"), f.join("s.f.safetensors")).unwrap();
    let args =
        ["score", "--f", "s.f.safetensors", "--g", "g.safetensors", "--normalize", "unit", "--data", "synthetic:20", "--out", "s.csv"];
    let before = bytes(f, "s.f.safetensors");
    fails(sslmem(f, &[&args[..], &ALSO, &["--force"]].concat()), 2, &["the features would take the place of the weights s.f.safetensors"]);
    assert!(bytes(f, "s.f.safetensors") == before);
}
