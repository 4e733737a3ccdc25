//! Leftovers of killed processes are resumed or removed by the same command, and an error of the disk never counts as "no file".

use std::fs;
use std::path::Path;
use std::process::Command;

use sslmem::files;

use super::{done, encoders, fails, photos};

fn sslmem(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sslmem"));
    command.current_dir(folder).args(args);
    command
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const EMBED: [&str; 13] = [
    "embed",
    "--encoder",
    "f.safetensors",
    "--arch",
    "resnet8",
    "--size",
    "16",
    "--normalize",
    "unit",
    "--data",
    "folder:photos",
    "--out",
    "e.safetensors",
];

/// Each verb with what a killed one may leave beside its outputs.
#[test]
fn verbs_take_away_what_killed_ones_left() {
    let folder = encoders();
    let f = folder.path();
    photos(f, 12, &[]);
    let split = ["split", "--data", "folder:photos", "--out", "s.json", "--shared", "3", "--candidate", "3", "--independent", "3"];
    let scored = ["score", "--f", "f.safetensors", "--g", "g.safetensors", "--arch", "resnet8", "--size", "16", "--normalize", "unit"];
    done(sslmem(f, &[&scored[..], &["--data", "folder:photos", "--out", "t.csv", "--views", "2"]].concat()));
    let shown = ["show", "augment", "--data", "folder:photos", "--policy", "score", "--out", "v.png"];
    let verbs: [(&[&str], &[&str]); 6] = [
        (&split, &["s.json"]),
        (&["convert", "f.safetensors", "--out", "c.safetensors"], &["c.safetensors"]),
        (&["report", "t.csv", "--out", "page.html"], &["page.html", "page.figures/histogram.svg"]),
        (&["top", "--scores", "t.csv", "--data", "folder:photos", "--out", "top.html"], &["top.html"]),
        (&shown, &["v.png"]),
        (&EMBED, &["e.safetensors", "e.parquet", "e.json"]),
    ];
    for (verb, outputs) in verbs {
        let part = |output: &&str| {
            let path = f.join(output);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path.with_file_name(format!(".{}.12.0.part", path.file_name().unwrap().to_str().unwrap()))
        };
        let parts: Vec<_> = outputs.iter().map(part).collect();
        parts.iter().for_each(|part| fs::write(part, "half").unwrap());
        let lock = f.join(format!("{}.lock", outputs[0]));
        fs::write(&lock, "process 12 on elsewhere\n0\n").unwrap();
        done(sslmem(f, verb));
        assert!(outputs.iter().all(|output| f.join(output).is_file()), "{verb:?}");
        assert!(!lock.exists() && parts.iter().all(|part| !part.exists()), "{verb:?} left {:?}", names(f));
        // A second call is refused and leaves no lock.
        fs::write(&lock, "process 12 on elsewhere\n0\n").unwrap();
        fails(sslmem(f, verb), 2, &[outputs[0], "exists already"]);
        assert!(!lock.exists(), "{verb:?}");
    }
}

/// The table of samples is written first, then the features, and the manifest last: a stop in between needs no --force.
#[cfg(unix)]
#[test]
fn an_embedding_that_was_stopped_goes_on_with_the_same_command() {
    let folder = encoders();
    let f = folder.path();
    photos(f, 24, &[]);
    done(sslmem(f, &EMBED));
    let whole = ["e.safetensors", "e.parquet"].map(|name| fs::read(f.join(name)).unwrap());
    let before = names(f);
    // The state after a kill before the manifest.
    let plain = sslmem(f, &EMBED);
    let words: Vec<&str> = plain.get_args().map(|word| word.to_str().unwrap()).collect();
    fs::remove_file(f.join("e.json")).unwrap();
    fails(sslmem(f, &words), 2, &["e.safetensors exists already"]);
    fs::remove_file(f.join("e.safetensors")).unwrap();
    fs::remove_file(f.join("e.parquet")).unwrap();
    // The table of samples fits below the limit, the features do not.
    assert!((4096..8192).contains(&whole[0].len()) && whole[1].len() < 4096);
    let mut limited = Command::new("bash");
    limited.current_dir(f).args(["-c", "ulimit -f 4; exec \"$@\"", "bash", env!("CARGO_BIN_EXE_sslmem")]).args(&words);
    fails(limited, 1, &["cannot write e.safetensors"]);
    assert!(f.join("e.parquet").exists() && !f.join("e.safetensors").exists());
    let other: Vec<&str> = words.iter().map(|&word| if word == "16" { "8" } else { word }).collect();
    fails(sslmem(f, &other), 2, &["e.safetensors.parts is of another job: "]);
    done(sslmem(f, &words));
    assert_eq!(names(f), before);
    assert!(["e.safetensors", "e.parquet"].map(|name| fs::read(f.join(name)).unwrap()) == whole);
}

/// A name that leads nowhere is absent. Any other answer of the system is an error, also in lists of images and of shards.
#[cfg(unix)]
#[test]
fn what_the_system_cannot_tell_is_not_taken_for_absent() {
    use std::os::unix::fs::symlink;
    let folder = encoders();
    let f = folder.path();
    photos(f, 4, &[]);
    symlink("nowhere", f.join("photos/dangling")).unwrap();
    assert!(!files::exists(f.join("photos/dangling")).unwrap() && !files::exists(f.join("photos/000.jpg/x")).unwrap());
    done(sslmem(f, &EMBED));
    // A link to itself is not "absent": it may have been a folder of images.
    symlink("round", f.join("photos/round")).unwrap();
    assert!(files::exists(f.join("photos/round")).is_err());
    fails(sslmem(f, &[&EMBED[..], &["--force"]].concat()), 1, &["cannot read photos/round"]);
    symlink("b.tar", f.join("b.tar")).unwrap();
    fs::copy(f.join("f.safetensors"), f.join("a.tar")).unwrap();
    fails(sslmem(f, &["split", "--data", "webdataset:*.tar", "--out", "s.json"]), 1, &["cannot read", "b.tar"]);
}
