//! Whole runs: checks before the first step, settings that can change afterwards, and reports that match their folder.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::score::{done, fails};

fn sslmem(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sslmem"));
    command.current_dir(folder).args(args);
    command
}

/// A run of seconds.
fn small(folder: &Path, more: &[&str]) -> Command {
    let settings = ["split.candidate=8", "split.independent=8", "split.shared=20", "split.external=8", "encoder.size=16", "train.batch=16"];
    let settings = settings.into_iter().chain(["train.epochs=1", "optim.warmup_epochs=0", "score.views=3", "pairs=2"]);
    let args: Vec<&str> = ["run", "--preset", "demo", "--data", "synthetic:60", "--out", "r"].into_iter().collect();
    sslmem(folder, &[&args[..], &settings.flat_map(|s| ["--set", s]).collect::<Vec<_>>(), more].concat())
}

fn views(folder: &Path, table: &str) -> serde_json::Value {
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(folder.join(table)).unwrap()).unwrap();
    manifest["settings"]["score"]["views"].clone()
}

fn change(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {}", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// A corrected command works, and nothing is there before.
#[test]
fn nothing_is_written_before_everything_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    for (wrong, part) in [
        (&["--set", "train.batch=512"][..], "f has 28 samples, fewer than one batch of 512; lower train.batch"),
        (&["--set", "score.views=5000"], "choose score.views of at most 1000"),
        (&["--set", "score.layer=layer9"], "resnet8 has no layer `layer9`"),
        (&["--data", "folder:none"], "cannot open the folder none"),
    ] {
        let plain = small(f, &[]);
        let mut args: Vec<String> = plain.get_args().map(|arg| arg.to_str().unwrap().to_string()).collect();
        if wrong[0] == "--data" {
            args[4] = wrong[1].into()
        } else {
            args.extend(wrong.iter().map(|arg| arg.to_string()))
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let code = if wrong[0] == "--data" { 1 } else { 2 };
        fails(sslmem(f, &args), code, &[part]);
        assert!(!f.join("r").exists(), "{part}");
    }
    done(small(f, &["--quiet"]));
}

#[test]
fn scores_follow_their_settings_and_nothing_is_trained_again() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    done(small(f, &[]));
    let read = |name: &str| fs::read(f.join("r").join(name)).unwrap();
    let weights = read("pair1/f.safetensors");
    let before = (read("scores.parquet"), read("pair1/scores.parquet"));
    let (_, said) = done(sslmem(f, &["run", "--out", "r"]));
    assert!(!said.contains("score:") && (read("scores.parquet"), read("pair1/scores.parquet")) == before, "{said}");

    // Settings changed by a flag, and by hand in the recipe.
    done(sslmem(f, &["run", "--out", "r", "--set", "score.views=4"]));
    assert!(views(f, "r/scores.json") == 4 && views(f, "r/pair2/scores.json") == 4 && read("scores.parquet") != before.0);
    assert!(fs::read_to_string(f.join("r/report.html")).unwrap().contains("4 views per image"));
    change(&f.join("r/recipe.toml"), "views = 4", "views = 3");
    fails(sslmem(f, &["report", "r"]), 2, &["the scores in r are not of what the folder holds: views is 4 in them and 3 in the folder"]);
    done(sslmem(f, &["run", "--out", "r"]));
    assert!((read("scores.parquet"), read("pair1/scores.parquet")) == before && read("pair1/f.safetensors") == weights);
    done(sslmem(f, &["report", "r"]));
    fails(
        sslmem(f, &["run", "--out", "r", "--set", "train.epochs=2"]),
        2,
        &["r holds a run of another recipe: train.epochs is 1 there and 2 here; choose another folder"],
    );
    change(&f.join("r/recipe.toml"), "epochs = 1", "epochs = 2");
    fails(
        sslmem(f, &["run", "--out", "r"]),
        2,
        &["r/pair1/f.safetensors is of another training: train.epochs is 1 there and 2 here; choose another folder"],
    );
    change(&f.join("r/recipe.toml"), "epochs = 2", "epochs = 1");

    // A split with one sample less in S_E.
    let mut split: serde_json::Value = serde_json::from_slice(&read("split.json")).unwrap();
    ["indices", "ids"].iter().for_each(|key| drop(split["external"][*key].as_array_mut().unwrap().pop()));
    fs::write(f.join("r/split.json"), split.to_string()).unwrap();
    fails(sslmem(f, &["report", "r"]), 2, &["the scores in r are not of what the folder holds: split.digest is"]);
    let (_, said) = done(sslmem(f, &["run", "--out", "r"]));
    assert!(said.contains("the split is that of split.json, which is not the one that [split] of the recipe would draw"), "{said}");
    assert_eq!(sslmem::table::read(f.join("r/scores.parquet")).unwrap().len() + 1, 8 + 8 + 8 + 8);

    // Probes of other weights are not those of the encoders that are there.
    let part = r#"{"samples": 1, "unlabelled": 0}"#;
    let accuracy = r#"[{"protocol": "k-NN, of others", "top1": 0.9375, "top5": null}]"#;
    let other = format!(r#"{{"encoder": "f1", "digest": "00", "train": {part}, "test": {part}, "accuracy": {accuracy}}}"#);
    let probes = format!(r#"{{"sslmem": "0.1.0", "data": "d", "digest": "d", "classes": 2, "seed": 0, "encoders": [{other}]}}"#);
    fs::write(f.join("r/probe.json"), probes).unwrap();
    done(sslmem(f, &["report", "r"]));
    let page = fs::read_to_string(f.join("r/report.html")).unwrap();
    assert!(page.contains("that of f1 in probe.json is of other weights") && !page.contains("of others"), "a probe of other weights");
    fs::remove_file(f.join("r/probe.json")).unwrap();

    // A lost curve is reported.
    fs::remove_file(f.join("r/pair1/f.curve.json")).unwrap();
    done(sslmem(f, &["report", "r"]));
    assert!(fs::read_to_string(f.join("r/report.html")).unwrap().contains("that of f pair 1 is not there"));
    fs::write(f.join("r/recipe.toml"), "").unwrap();
    fails(
        sslmem(f, &["run", "--out", "r"]),
        1,
        &["r/recipe.toml: does not say which data the run is of, so it is of no run, or was damaged; move it away"],
    );
}

#[test]
fn damaged_tables_and_weights_are_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    done(small(f, &[]));
    let whole = fs::read(f.join("r/scores.parquet")).unwrap();
    // A damaged table of a pair is made again.
    flip(&f.join("r/pair1/scores.parquet"));
    done(sslmem(f, &["run", "--out", "r"]));
    assert!(fs::read(f.join("r/scores.parquet")).unwrap() == whole);

    let readers: [&[&str]; 3] = [
        &["report", "r"],
        &["report", "r/scores.parquet", "--out", "page.html", "--force"],
        &["top", "--scores", "r/scores.parquet", "--data", "synthetic:60", "--force"],
    ];
    flip(&f.join("r/scores.parquet"));
    for reader in readers {
        fails(sslmem(f, reader), 1, &["r/scores.parquet: was changed or damaged since its manifest was written; score again"]);
    }
    fs::write(f.join("r/scores.parquet"), &whole).unwrap();
    let manifest = fs::read_to_string(f.join("r/scores.json")).unwrap();
    fs::write(f.join("r/scores.json"), manifest.replacen("\"rows\": 32", "\"rows\": 7", 1)).unwrap();
    for reader in readers {
        fails(sslmem(f, reader), 1, &["r/scores.json: was changed or damaged since it was written; score again"]);
    }
    // A manifest of an earlier version, without a seal.
    let mut earlier: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert!(earlier.as_object_mut().unwrap().remove("seal").is_some());
    earlier["rows"] = 7.into();
    fs::write(f.join("r/scores.json"), earlier.to_string()).unwrap();
    for reader in readers {
        fails(sslmem(f, reader), 1, &["r/scores.parquet: has 32 rows, and its manifest says 7"]);
    }
    fs::write(f.join("r/scores.json"), "{").unwrap();
    for reader in readers {
        fails(sslmem(f, reader), 1, &["r/scores.json: is not the manifest of a score table"]);
    }
    for reader in &readers[1..] {
        done(sslmem(f, &[reader, &["--unverified"][..]].concat()));
    }
    assert!(fs::read_to_string(f.join("page.html")).unwrap().contains("is not the manifest of a score table"));
    // Without a manifest a table is shown, and the page says so.
    fs::remove_file(f.join("r/scores.json")).unwrap();
    done(sslmem(f, readers[1]));
    assert!(fs::read_to_string(f.join("page.html")).unwrap().contains("has no manifest beside it"));
    done(sslmem(f, &["run", "--out", "r"]));
    assert_eq!(
        fs::read_to_string(f.join("r/scores.json")).unwrap().lines().filter(|l| l.contains("rows")).collect::<Vec<_>>(),
        ["  \"rows\": 32,"]
    );

    let [f1, g1] = ["r/pair1/f.safetensors", "r/pair1/g.safetensors"];
    let both =
        ["score", "--f", f1, "--g", g1, "--data", "synthetic:60", "--out", "x.csv", "--layers", "mean", "--set", "score.layer=layer2"];
    fails(sslmem(f, &both), 2, &["--layers and --set score.layer=layer2 both say what is compared"]);
    fails(sslmem(f, &["convert", f1, "--out", f1, "--force"]), 2, &["the result would take the place of r/pair1/f.safetensors"]);
    let trained = fs::read(f.join(f1)).unwrap();
    let at = trained.windows(9).position(|bytes| bytes == b"\"blake3\":").unwrap();
    let mut without = trained.clone();
    without[at + 6] = b'X';
    fs::write(f.join(f1), without).unwrap();
    fails(sslmem(f, &["run", "--out", "r"]), 1, &["r/pair1/f.safetensors: has lost the digest of its tensors"]);
    fs::write(f.join(f1), &trained[..trained.len() / 2]).unwrap();
    fails(sslmem(f, &["run", "--out", "r"]), 1, &["r/pair1/f.safetensors: cannot be read, so it was damaged; delete it"]);
    fs::write(f.join(f1), &trained).unwrap();

    flip(&f.join("r/pair2/g.safetensors"));
    let damaged = "r/pair2/g.safetensors: was changed or damaged since it was written";
    fails(sslmem(f, &["run", "--out", "r"]), 1, &[damaged]);
    fails(sslmem(f, &["embed", "--encoder", "r/pair2/g.safetensors", "--data", "synthetic:60", "--out", "e.safetensors"]), 1, &[damaged]);
    fails(sslmem(f, &["convert", "r/pair2/g.safetensors"]), 1, &[damaged]);
}

/// Encoders that were trained on other images of the same names and lengths are not taken for those of these.
#[test]
fn a_training_notices_other_contents() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let pixels = |shade: u8| {
        fs::create_dir_all(f.join("p")).unwrap();
        for i in 0..60u8 {
            let picture = image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([x as u8 * 9, y as u8 * 7, i ^ shade]));
            picture.save(f.join(format!("p/{i:03}.bmp"))).unwrap();
        }
    };
    let train = || {
        let recipe = ["--preset", "demo", "--data", "folder:p", "--epochs", "1", "--batch", "16", "--which", "f", "--set"];
        let settings = ["split.candidate=8", "split.independent=8", "split.shared=20", "split.external=8", "encoder.size=16"];
        let settings = settings.into_iter().flat_map(|setting| ["--set", setting]);
        let settings: Vec<&str> = ["optim.warmup_epochs=0"].into_iter().chain(settings).collect();
        sslmem(f, &[&["train", "--resume", "--out", "r"], &recipe[..], &settings].concat())
    };
    pixels(0);
    done(train());
    pixels(99);
    fails(train(), 2, &["f.safetensors is of another training: data.content is"]);
    pixels(0);
    done(train());
}

/// Encoders in a folder are those of its recipe, or nothing is said of them.
#[test]
fn what_is_changed_in_the_folder_of_a_run_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    done(small(f, &["--set", "pairs=1"]));
    change(&f.join("r/recipe.toml"), "epochs = 1", "epochs = 3");
    for reader in [&["report", "r"][..], &["probe", "--run", "r", "--protocol", "lbfgs"]] {
        fails(sslmem(f, reader), 2, &["r/pair1/f.safetensors is of another training: train.epochs is 1 there and 3 here"]);
    }
    change(&f.join("r/recipe.toml"), "epochs = 3", "epochs = 1");
    change(&f.join("r/split.json"), "train/", "trail/");
    fails(sslmem(f, &["report", "r"]), 2, &["r/split.json: the split calls sample"]);
}
