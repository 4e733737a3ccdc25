//! The program from outside: output, exit status, and the files that it leaves.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use sslmem::table;

const VERBS: [&str; 16] = [
    "run", "demo", "split", "train", "score", "merge", "top", "bench", "embed", "probe", "convert", "report", "fetch", "pack", "show",
    "doctor",
];

fn sslmem(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sslmem")).current_dir(folder).args(args).output().unwrap()
}

fn done(folder: &Path, args: &[&str]) -> String {
    let output = sslmem(folder, args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Fails with this status and one sentence that begins so.
fn fails(folder: &Path, args: &[&str], status: i32, sentence: &str) {
    let output = sslmem(folder, args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {error}");
    assert!(error.starts_with(&format!("error: {sentence}")), "{args:?}: {error}");
    assert_eq!(error.trim_end().lines().count(), 1, "{args:?}: {error}");
    assert!(output.stdout.is_empty());
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_verb_has_help_with_an_example() {
    let folder = tempfile::tempdir().unwrap();
    let top = done(folder.path(), &["--help"]);
    for verb in VERBS {
        assert!(top.contains(&format!("\n  {verb} ")), "{verb} is not in the help");
        let help = done(folder.path(), &[verb, "--help"]);
        assert!(help.contains(&format!("  sslmem {verb}")) && help.contains("Example"), "{verb} has no example");
        assert_eq!(done(folder.path(), &["help", verb]), help);
        // What can be pasted: a line of an example is whole, or ends in a backslash.
        let examples = help.split_once("\nExample").unwrap().1;
        for line in examples.lines().skip(1).take_while(|line| line.starts_with("  ")) {
            assert!(line.len() < 80 && !line.ends_with("--"), "{verb}: {line}");
        }
        let (starts, rest) =
            examples.lines().skip(1).take_while(|line| line.starts_with("  ")).partition::<Vec<_>, _>(|l| l.starts_with("  sslmem "));
        assert_eq!(rest.len(), starts.iter().chain(&rest).filter(|line| line.ends_with('\\')).count(), "{verb}: {examples}");
        for flag in ["--threads", "--seed", "--device", "--precision", "--quiet"] {
            assert!(help.contains(flag), "{verb} does not say {flag}");
        }
    }
    assert_eq!(done(folder.path(), &["--version"]), format!("sslmem {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn misuse_is_two() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&[][..], &["trian"], &["show"], &["show", "recipe", "--epoch", "3"], &["split"], &["--threads", "0", "show", "data"]] {
        let output = sslmem(folder.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
    let f = folder.path();
    fails(f, &["show", "recipe", "papr"], 2, "there is no preset `papr`; did you mean `paper`?");
    fails(f, &["show", "recipe", "--set", "train.epoch=3"], 2, "--set: unknown key `epoch` in [train]; did you mean `epochs`?");
    fails(f, &["run", "--out", "r", "--data", "cifa10:x"], 2, "`cifa10:x` names no data set");
    fails(f, &["show", "augment", "--data", "synthetic:20", "--out", "a.jpg"], 2, "a.jpg is neither a picture");
    fails(
        f,
        &["show", "augment", "--data", "synthetic:20", "--policy", "scor", "--out", "a.png"],
        2,
        "there is no policy `scor`; did you mean `score`?",
    );
    for args in
        [&["score", "--views", "-3"][..], &["embed", "--batch", "x"], &["show", "data", "--seed", "-1"], &["train", "--epochs", "1.5"]]
    {
        let error = String::from_utf8(sslmem(f, args).stderr).unwrap();
        assert!(error.contains(": a whole number belongs there\n"), "{args:?}: {error}");
    }
    fs::write(f.join("r.toml"), "[optim]\nlearning_rate = 1\n").unwrap();
    fails(f, &["train", "--recipe", "r.toml", "--out", "t"], 2, "r.toml: unknown key `learning_rate` in [optim]");
}

#[test]
fn failure_is_one_sentence_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    fails(f, &["split", "--data", "cifar10:nowhere", "--out", "s.json"], 1, "cannot open the folder nowhere: ");
    fails(f, &["split", "--data", "synthetic:60", "--out", "no/s.json"], 1, "cannot write no/s.json: no such file or directory");
    fails(f, &["show", "recipe", "--recipe", "no.toml"], 1, "cannot read no.toml: no such file or directory");
    fails(f, &["report", "no.csv"], 2, "there is no no.csv; name the folder of a run, or a table of scores");
    fails(f, &["probe"], 2, "no encoder is named; give --run RUN, or --weights FILE with --data");
    fails(f, &["split", "--data", "synthetic:60", "--out", "-"], 2, "results are files, and `-` (standard output) is none");
    let weights = ["--f", "f.safetensors", "--g", "g.safetensors", "--data", "synthetic:60"];
    let score = |more: &[&'static str]| [&["score"], &weights[..], more].concat();
    fails(f, &score(&["--out", "s.json"]), 2, "s.json: .json is not a kind of score table");
    fails(f, &score(&["--out", "-"]), 2, "- has no ending that says which kind of score table it is; use a name that ends in .parquet");
    fails(f, &score(&["--out", "s.csv", "--views", "1"]), 2, "score.views is 1; choose at least 2");
    fails(f, &score(&["--out", "s.csv", "--views", "0", "--pairs", "original"]), 2, "score.views is 0; choose at least 1");
    fails(f, &score(&["--out", "no/s.csv"]), 1, "cannot write no/s.csv: no such file or directory");
    fails(f, &score(&["--out", "s.csv"]), 1, "cannot read f.safetensors: no such file or directory");
    assert_eq!(names(f), [""; 0]);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child =
        Command::new(env!("CARGO_BIN_EXE_sslmem")).args(["show", "recipe"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_is_shown_can_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let recipe = done(f, &["show", "recipe", "demo", "--seed", "5"]);
    assert!(recipe.starts_with("seed = 5 "));
    fs::write(f.join("r.toml"), &recipe).unwrap();
    assert_eq!(done(f, &["show", "recipe", "--recipe", "r.toml"]), recipe);
    for (what, word) in [("methods", "simclr"), ("encoders", "resnet50"), ("data", "cifar10:"), ("policies", "score"), ("presets", "paper")]
    {
        assert!(done(f, &["show", what]).contains(word), "{what}");
    }
    assert!(done(f, &["show", "policies", "simclr"]).contains("[jitter]"));
    for name in ["v.png", "v.safetensors"] {
        done(f, &["show", "augment", "--data", "synthetic:20", "--samples", "2", "--views", "3", "--out", name]);
        fails(f, &["show", "augment", "--data", "synthetic:20", "--out", name], 2, &format!("{name} exists already; choose another name"));
    }
    assert_eq!(names(f), ["r.toml", "v.png", "v.safetensors"]);
}

/// Killed at some moments of its training, the program leaves nothing half-written and ends in the same bytes.
#[test]
fn killed_runs_go_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let recipe = ["--preset", "demo", "--data", "synthetic:1000", "--set", "train.epochs=40", "--which", "f", "--quiet"];
    done(f, &[&["train", "--out", "whole"], &recipe[..]].concat());
    for (i, pause) in [400u64, 1500, 150, 900].into_iter().enumerate() {
        let go_on: &[&str] = if i == 0 { &[] } else { &["--resume"] };
        let args = [&["train", "--out", "killed"], &recipe[..], go_on].concat();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sslmem")).args(&args).current_dir(f).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(pause));
        let _ = child.kill();
        child.wait().unwrap();
    }
    done(f, &[&["train", "--out", "killed", "--resume"], &recipe[..]].concat());
    let weights = |run: &str| fs::read(f.join(format!("{run}/pair1/f.safetensors"))).unwrap();
    assert!(weights("whole") == weights("killed"), "a killed run ends in other weights");
    assert!(!names(&f.join("killed/pair1")).iter().any(|name| name.contains("part")), "{:?}", names(&f.join("killed/pair1")));
}

/// The verbs one after the other on a set so small that it takes seconds, and the whole run beside them.
#[test]
fn the_whole_way_by_verbs_and_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let settings = ["split.shared=0.8", "split.candidate=0.1", "split.independent=0.1", "split.external=candidates"];
    let settings = settings.into_iter().chain(["encoder.size=32", "optim.warmup_epochs=0", "score.view=score", "score.views=3"]);
    let recipe: Vec<&str> = ["--preset", "demo", "--data", "synthetic:60"].into_iter().chain(settings.flat_map(|s| ["--set", s])).collect();
    let split = done(f, &[&["split", "--out", "s.json"], &recipe[..]].concat());
    assert_eq!(split, "s.json: S_S 48, S_C 6, S_I 6, S_E 6, in the order of the data; 6 of 72 samples in no subset\n");
    fails(f, &[&["split", "--out", "s.json"], &recipe[..]].concat(), 2, "s.json exists already");

    let length = ["--epochs", "1", "--batch", "16"];
    let output = sslmem(f, &[&["run", "--quiet", "--out", "r", "--split", "s.json"], &recipe[..], &length].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "--quiet is quiet: {}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("S_S ") && said.ends_with("report.html\n"), "{said}");
    assert_eq!(done(f, &["run", "--out", "r"]), said, "a run that is done says the same again");
    fails(f, &["run", "--out", "r", "--preset", "demo"], 2, "r holds a run of another recipe");

    let train = [&["train", "--out", "t"], &recipe[..], &length].concat();
    let plain = String::from_utf8(sslmem(f, &[&train[..], &["--which", "f"]].concat()).stderr).unwrap();
    assert!(plain.contains("train f: ") && !plain.contains('\u{1b}') && !plain.contains('\r'), "plain lines: {plain}");
    fails(f, &train, 2, "t holds a run already; go on with it with --resume");
    let trained = done(f, &["train", "--out", "t", "--resume"]);
    assert_eq!(
        trained.lines().take(2).collect::<Vec<_>>(),
        [
            "t/split.json: S_S 48, S_C 6, S_I 6, S_E 6, in the order of the data; 6 of 72 samples in no subset",
            "t/pair1/f.safetensors: resnet8, 1 epochs of 54 samples"
        ]
    );
    for name in ["f", "g"] {
        let at = |run: &str| fs::read(f.join(format!("{run}/pair1/{name}.safetensors"))).unwrap();
        assert!(at("r") == at("t"), "the same recipe trains the same {name}");
    }

    let network = ["--arch", "resnet8", "--normalize", "cifar10", "--views", "3"];
    let weights = ["score", "--f", "t/pair1/f.safetensors", "--g", "t/pair1/g.safetensors"];
    let score = |out, more: &[&'static str]| [&weights[..], &network, &["--data", "synthetic:60", "--out", out], more].concat();
    let said = done(f, &score("a.parquet", &["--split", "s.json"]));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[..2],
        [
            "a.parquet: 66 samples",
            "f: resnet8 (stem 3x3), sees short side 32 (bilinear), middle 32 x 32, mean [0.4914, 0.4822, 0.4465], std [0.247, 0.2435, 0.2616]"
        ]
    );
    assert_eq!(lines[3], "3 views, pairs all, pooled");
    assert!(lines[5].starts_with("S_C       6 samples  mean score ") && lines[5].contains("  ["), "{said}");
    assert_eq!(lines[8..], ["next: sslmem top --scores a.parquet --data synthetic:60"]);
    done(f, &score("b.csv", &["--split", "s.json", "--batch", "7", "--threads", "1"]));
    let (a, b) = (table::read(f.join("a.parquet")).unwrap(), table::read(f.join("b.csv")).unwrap());
    assert!(a == b && a.len() == 66, "scores do not depend on batch, threads or format");
    let inside = table::read(f.join("r/scores.parquet")).unwrap();
    let find = |index: u32| a.iter().find(|row| row.index == index).map(|row| (row.align_f, row.align_g, row.stderr));
    assert!(inside.iter().all(|row| find(row.index) == Some((row.align_f, row.align_g, row.stderr))), "the run scores alike");
    fails(f, &score("a.parquet", &[]), 2, "a.parquet is of another job: split.digest is");
    let other = [&weights[..], &network, &["--data", "synthetic:61", "--split", "s.json", "--out", "c.csv"]].concat();
    fails(f, &other, 2, "s.json: the split was drawn from other data");
    let other = [&weights[..], &["--arch", "resnet18", "--data", "synthetic:60", "--out", "c.csv"]].concat();
    fails(f, &other, 2, "--arch resnet18 contradicts t/pair1/f.safetensors, which holds an encoder with arch resnet8; ");

    let embed = [
        "embed",
        "--encoder",
        "t/pair1/f.safetensors",
        "--arch",
        "resnet8",
        "--normalize",
        "cifar10",
        "--data",
        "synthetic:60",
        "--out",
        "e.safetensors",
    ];
    assert_eq!(done(f, &embed), "e.safetensors: features of resnet8, 72 samples x 64; which they are: e.parquet\n");
    let bytes = fs::read(f.join("e.safetensors")).unwrap();
    let features = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(features.tensor("features").unwrap().shape(), [72, 64]);
    assert_eq!(done(f, &["report", "b.csv", "--data", "synthetic:60", "--out", "page.html"]), "page.html\n");
    fails(f, &["report", "b.csv", "--out", "page.html"], 2, "page.html exists already");
    assert_eq!(done(f, &["report", "b.csv"]), "b.html\n");
    assert!(names(f).iter().any(|name| name == "b.figures") && names(f).iter().any(|name| name == "page.figures"));
    assert!(!names(f).iter().any(|name| name.contains("part") || name == "c.csv"), "{:?}", names(f));
    manifests_say_what_was_done_and_warn(f);
}

/// The weights of `t` scored against themselves.
fn manifests_say_what_was_done_and_warn(f: &Path) {
    let weights = "t/pair1/f.safetensors";
    let score = ["score", "--f", weights, "--g", weights, "--data", "synthetic:60", "--views", "3", "--out", "same.csv", "--quiet"];
    let output = sslmem(f, &score);
    let warning = "f and g are the same weights (f.safetensors and f.safetensors), so every score of theirs is 0";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("warning: {warning}\n"));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("S_C      72 samples  mean score +0.000  [+0.000, +0.000]  (all taken as candidates: no split)\n"), "{said}");
    let text = fs::read_to_string(f.join("same.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(manifest["warnings"][0], warning);
    assert_eq!(manifest["command"].as_array().unwrap().len(), score.len() + 1);
    let written = manifest["written"].as_str().unwrap();
    assert!(written.len() == 20 && written.starts_with("20") && written.ends_with('Z'), "{written}");
    let settings = manifest["settings"].as_object().unwrap();
    assert_eq!(settings.keys().collect::<Vec<_>>(), ["data", "encoder", "score", "seed"], "nothing of a training");
    let other = fs::read_to_string(f.join("r/scores.json")).unwrap();
    let settings: serde_json::Value = serde_json::from_str(&other).unwrap();
    assert_eq!(settings["settings"]["optim"]["betas"].to_string(), "[0.9,0.999]", "the shortest decimals");
    done(f, &["report", "same.csv"]);
    assert!(fs::read_to_string(f.join("same.html")).unwrap().contains(warning));
    done(f, &["top", "--scores", "same.csv", "--data", "synthetic:60"]);
    assert!(fs::read_to_string(f.join("same.top.html")).unwrap().contains(warning));
}

#[test]
fn what_was_packed_is_data() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let said = done(f, &["pack", "--data", "synthetic:20@3", "--size", "16", "--out", "s.pack", "--quiet"]);
    assert!(said.starts_with("packed:s.pack: 24 images"), "{said}");
    done(f, &["show", "augment", "--data", "packed:s.pack", "--out", "a.png"]);
    assert_eq!(names(f), ["a.png", "s.pack"]);
    fails(f, &["pack", "--data", "synthetic:20@3", "--size", "16", "--out", "s.pack"], 2, "s.pack exists already");
    fails(
        f,
        &["pack", "--data", "synthetic:20@3", "--original", "--out", "o.pack", "--quiet"],
        2,
        "the images of synthetic are not stored",
    );
    assert_eq!(sslmem(f, &["pack", "--data", "synthetic:20@3", "--out", "o.pack"]).status.code(), Some(2));
    assert_eq!(names(f), ["a.png", "s.pack"]);
}

/// What would never end is refused at once, and names in files do not command the terminal.
#[cfg(unix)]
#[test]
fn pipes_devices_and_names_are_only_named() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    assert!(Command::new("mkfifo").arg(f.join("pipe")).status().unwrap().success());
    for place in ["pipe", "/dev/zero"] {
        let list = format!("list:{place}");
        let said = format!("{place}: this is a pipe or a device, not a file");
        fails(f, &["split", "--data", &list, "--out", "s.json"], 1, &said);
        fails(f, &["show", "recipe", "--recipe", place], 1, &said);
        fails(f, &["convert", place], 1, &said);
        fails(f, &["score", "--f", place, "--g", place, "--data", "synthetic:20@1", "--out", "t.csv"], 1, &said);
        let args = ["score", "--f", "no", "--g", "no", "--data", "synthetic:20@1", "--out", "t.csv", "--split", place];
        fails(f, &args, 1, &said);
    }
    assert_eq!(names(f), ["pipe"]);
    let evil = "\u{1b}]0;PWN\u{7}\na";
    fs::create_dir(f.join(evil)).unwrap();
    fails(f, &["split", "--data", &format!("folder:{evil}"), "--out", "s.json"], 1, "\\u{1b}]0;PWN\\u{7}\\na: has no image");
    // More threads than can be of use are cut down, with a word.
    let output = sslmem(f, &["--threads", "65535", "show", "data"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("--threads 65535 is more than 64 for each core; "), "{said}");
}

/// Words of Rust's own are not shown.
#[test]
fn wrong_values_are_named_in_plain_words() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    fails(
        f,
        &["split", "--data", "synthetic:20@1", "--on-bad-image", "skp", "--out", "s.json"],
        2,
        "data.on_bad_image: `skp` is not `fail` or `skip`",
    );
    for (value, said) in [("abc", "a whole number belongs there"), ("99999999999999999999", "the number is too large")] {
        let output = sslmem(f, &["split", "--data", "synthetic:20@1", "--seed", value, "--out", "s.json"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && error.contains(said), "{error}");
    }
}
