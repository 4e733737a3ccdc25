//! Scoring jobs: foreign files stay, changed data is noticed, a stop costs little.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sslmem::config::Recipe;
use sslmem::data::{Exif, OnBadImage};
use sslmem::encoders::Features;
use sslmem::error::{Error, Result};
use sslmem::ops::alignment::Pairs;
use sslmem::progress::{Progress, Silent};
use sslmem::score::{CLOSE, EncoderFile, Job, JobReport, Layer, Protocol, Task};
use sslmem::split::Subset;
use sslmem::view::policy;

use super::{command, done, encoders, fails, network, photos};

fn sslmem(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sslmem"));
    command.current_dir(folder).args(args);
    command
}

fn manifest(folder: &Path, name: &str) -> serde_json::Value {
    serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
}

/// Cannot write a file of more than this many KiB.
fn limited(plain: &Command, kilobytes: usize) -> Command {
    let mut limited = Command::new("bash");
    limited.current_dir(plain.get_current_dir().unwrap()).args(["-c", &format!("ulimit -f {kilobytes}; exec \"$@\""), "bash"]);
    limited.arg(plain.get_program()).args(plain.get_args());
    limited
}

/// Everything below a folder: names, and what files hold.
fn all(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        found.extend(if entry.is_dir() { all(&entry) } else { vec![(entry.clone(), fs::read(&entry).unwrap())] });
    }
    found.sort();
    found
}

#[test]
fn what_is_in_the_way_of_a_job_stays_and_is_named() {
    let folder = encoders();
    let f = folder.path();
    let job = |more: &[&str]| command(f, "synthetic:20", "o.csv", more);
    fs::create_dir_all(f.join("o.csv.parts/sub")).unwrap();
    fs::write(f.join("o.csv.parts/thesis.txt"), "x").unwrap();
    fs::write(f.join("o.csv.parts/sub/b"), "x").unwrap();
    let before = all(f);
    for more in [&[][..], &["--force"]] {
        fails(job(more), 2, &["o.csv.parts is where the job would keep its work, and it holds `sub`, which no job wrote; move it away"]);
    }
    fs::write(f.join("o.csv.parts/job.json"), "{}").unwrap();
    fails(job(&["--force"]), 1, &["o.csv.parts/job.json: is not what scoring writes"]);
    fs::remove_file(f.join("o.csv.parts/job.json")).unwrap();
    assert!(all(f) == before);
    fs::remove_dir_all(f.join("o.csv.parts")).unwrap();

    #[cfg(unix)]
    {
        fs::create_dir(f.join("mine")).unwrap();
        fs::write(f.join("mine/.x.1.0.part"), "x").unwrap();
        for (name, to, part) in [("o.csv.parts", "mine", "it is a link"), ("o.csv.lock", "mine/.x.1.0.part", "is in the way of the lock")] {
            std::os::unix::fs::symlink(f.join(to), f.join(name)).unwrap();
            fails(job(&[]), 2, &[name, part]);
            fs::remove_file(f.join(name)).unwrap();
        }
        assert_eq!(all(&f.join("mine")), [(f.join("mine/.x.1.0.part"), b"x".to_vec())]);
    }

    // A foreign file in the folder of a job stays.
    fails(limited(&job(&[]), 5), 1, &["file too large"]);
    fs::write(f.join("o.csv.parts/notes.txt"), "x").unwrap();
    let (said, _) = done(job(&[]));
    assert!(said.contains("note: o.csv.parts stays, because no job wrote `notes.txt` in it\n"), "{said}");
    assert_eq!(all(&f.join("o.csv.parts")), [(f.join("o.csv.parts/notes.txt"), b"x".to_vec())]);
}

#[test]
fn a_run_does_not_write_over_what_is_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    for name in ["scores.parquet", "report.html", "report.figures", "split.json", "pair1"] {
        fs::create_dir_all(f.join("r")).unwrap();
        fs::write(f.join("r").join(name), "mine").unwrap();
        fails(sslmem(f, &["run", "--preset", "demo", "--out", "r"]), 2, &[&format!("r/{name} is in the way, and is not of a run")]);
        assert_eq!(all(&f.join("r")), [(f.join("r").join(name), b"mine".to_vec())]);
        fs::remove_dir_all(f.join("r")).unwrap();
    }
}

#[test]
fn what_killed_processes_left_is_removed_with_the_next_one() {
    let folder = encoders();
    let f = folder.path();
    let job = |more: &[&str]| command(f, "synthetic:20", "o.csv", &[&["--also", "embeddings"], more].concat());
    let own = [".o.csv.77.0.part", ".o.json.77.1.part", ".o.f.safetensors.77.2.part", ".o.g.safetensors.77.3.part"];
    let others = [".o.parquet.77.0.part", ".o.csv.part", ".p.csv.77.0.part"];
    own.iter().chain(&others).for_each(|name| fs::write(f.join(name), "x").unwrap());
    done(job(&[]));
    assert!(own.iter().all(|name| !f.join(name).exists()) && others.iter().all(|name| f.join(name).exists()));
    (1..=2).for_each(|i| drop(done(job(&["--shard", &format!("{i}/2")]))));
    let merge = |out: &str| sslmem(f, &["merge", out, "o.1-of-2.csv", "o.2-of-2.csv"]);

    // Stopped after the features are written, before the manifest lists them.
    fails(limited(&merge("m.csv"), 5), 1, &["cannot write", "file too large"]);
    for name in [".m.csv.77.0.part", ".m.json.77.1.part", ".m.g.safetensors.77.2.part"] {
        fs::write(f.join(name), "x").unwrap();
    }
    fs::write(f.join("m.f.safetensors"), "half").unwrap();
    done(merge("m.csv"));
    assert!(!fs::read_dir(f).unwrap().any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("m.csv.")));
    for ending in ["csv", "f.safetensors", "g.safetensors"] {
        assert!(fs::read(f.join(format!("m.{ending}"))).unwrap() == fs::read(f.join(format!("o.{ending}"))).unwrap(), "{ending}");
    }
    assert!(!f.join(".m.csv.77.0.part").exists() && !f.join(".m.g.safetensors.77.2.part").exists());
    // A foreign file in the place of the output is kept.
    fs::write(f.join("n.csv"), "mine").unwrap();
    fails(merge("n.csv"), 2, &["n.csv exists already"]);
    // So is the folder of an unfinished job.
    fails(limited(&command(f, "synthetic:20", "b.csv", &[]), 5), 1, &["file too large"]);
    let before = all(&f.join("b.csv.parts"));
    fails(merge("b.csv"), 2, &["b.csv.parts is of another job: "]);
    assert!(all(&f.join("b.csv.parts")) == before);
    // An input is never overwritten.
    let input = fs::read(f.join("o.1-of-2.csv")).unwrap();
    let mut over = merge("o.1-of-2.csv");
    over.arg("--force");
    fails(over, 2, &["o.1-of-2.csv is one of the files that are to be merged"]);
    assert!(fs::read(f.join("o.1-of-2.csv")).unwrap() == input);
    let busy = sslmem::files::Lock::output(&f.join("k.csv")).unwrap();
    fails(merge("k.csv"), 1, &["k.csv is being written by process"]);
    drop(busy);
}

/// Stops the work after so many batches.
struct Stop(u32, Vec<String>);

impl Progress for Stop {
    fn start(&mut self, _: &str, _: u64, _: &str) {}
    fn advance(&mut self, _: u64, _: &str) {
        self.0 = self.0.saturating_sub(1);
    }
    fn done(&mut self) {}
    fn line(&mut self, text: &str) {
        self.1.push(text.into());
    }
    fn stopped(&self) -> bool {
        self.0 == 0
    }
}

/// A job on all images of a data set, at most 4 at a time.
fn run(folder: &Path, data: &str, out: &str, close: Duration, progress: &mut dyn Progress) -> Result<JobReport> {
    let source = Exif::Ignore.open(data, OnBadImage::Fail).unwrap();
    let paths = ["f", "g"].map(|name| folder.join(format!("{name}.safetensors")));
    let samples: Vec<(u32, Subset)> = (0..source.len() as u32).map(|index| (index, Subset::Candidate)).collect();
    let [view, original] = ["score", "original"].map(|name| policy(name, 16).unwrap());
    let layers = vec![Layer::Output(Features::Pooled)];
    let protocol = Protocol { views: 1, pairs: Pairs::Original, layers, seed: 0, batch: 4 };
    let [f, g] = [0, 1].map(|i| EncoderFile { path: &paths[i], network: network(), view, original, classifier: None });
    let task = Task { on_bad: OnBadImage::Skip, features: true, ..Task::new(f, g, &protocol, &*source) };
    let (out, settings) = (&folder.join(out), serde_json::to_value(Recipe::default()).unwrap());
    Job { close, ..Job::new(task, &samples, out, settings)? }.score(progress)
}

/// What a job wrote.
fn written(folder: &Path, stem: &str) -> Vec<Vec<u8>> {
    ["csv", "f.safetensors", "g.safetensors"].map(|ending| fs::read(folder.join(format!("{stem}.{ending}"))).unwrap()).into()
}

#[test]
fn stopped_anywhere_and_with_blocks_of_any_length_a_job_ends_in_the_same_bytes() {
    let folder = encoders();
    let f = folder.path();
    photos(f, 30, &[3, 17]);
    let data = format!("folder:{}", f.join("photos").display());
    run(f, &data, "whole.csv", CLOSE, &mut Silent).unwrap();
    for close in [Duration::ZERO, CLOSE] {
        let mut kept = 0;
        for step in 0.. {
            let mut stop = Stop(3, vec![]);
            match run(f, &data, "s.csv", close, &mut stop) {
                Err(Error::Stopped { what }) => {
                    let (samples, rest) = what.split_once(" of 30 samples are scored and kept in ").unwrap();
                    assert!(rest.ends_with("s.csv.parts; the same command goes on from there"), "{what}");
                    let now: usize = samples.parse().unwrap();
                    // The first report advances by the samples that are kept.
                    assert!(now > kept, "step {step} measured nothing");
                    assert_eq!(stop.1.contains(&format!("{kept} of 30 samples are kept from before")), kept > 0, "{:?}", stop.1);
                    kept = now;
                }
                done => {
                    assert!(done.unwrap().rows == 28 && step > 2);
                    break;
                }
            }
        }
        assert!(written(f, "s") == written(f, "whole") && !f.join("s.csv.parts").exists());
        ["csv", "json", "f.safetensors", "g.safetensors"].iter().for_each(|ending| fs::remove_file(f.join(format!("s.{ending}"))).unwrap());
    }
}

/// Pictures of one size, so that their names and lengths say nothing of what they show.
fn pixels(folder: &Path, count: usize, shade: impl Fn(usize) -> u8) {
    fs::create_dir_all(folder.join("p")).unwrap();
    for i in 0..count {
        image::RgbImage::from_fn(20, 20, |x, y| image::Rgb([x as u8 * 9, y as u8 * 7, shade(i)]))
            .save(folder.join(format!("p/{i:03}.bmp")))
            .unwrap();
    }
}

#[test]
fn contents_that_changed_are_noticed() {
    let folder = encoders();
    let f = folder.path();
    let data = format!("folder:{}", f.join("p").display());
    pixels(f, 30, |i| i as u8);
    run(f, &data, "old.csv", CLOSE, &mut Silent).unwrap();
    let mut stop = Stop(5, vec![]);
    assert!(matches!(run(f, &data, "s.csv", Duration::ZERO, &mut stop), Err(Error::Stopped { .. })));
    // Change one image of a finished block.
    pixels(f, 30, |i| if i == 6 { 200 } else { i as u8 });
    let mut listen = Stop(u32::MAX, vec![]);
    run(f, &data, "s.csv", CLOSE, &mut listen).unwrap();
    assert!(listen.1.iter().any(|line| line.starts_with("the images of 1 of ")), "{:?}", listen.1);
    run(f, &data, "new.csv", CLOSE, &mut Silent).unwrap();
    assert!(written(f, "s") == written(f, "new") && written(f, "new") != written(f, "old"));
    let content = |name: &str| manifest(f, name)["data"]["content"].to_string();
    assert!(content("s.json") == content("new.json") && content("new.json") != content("old.json"));
    // A finished job, on other contents and on its own.
    let error = run(f, &data, "old.csv", CLOSE, &mut Silent).err().unwrap().to_string();
    assert!(error.contains("old.csv was scored from other images: files of the same names and lengths have changed"), "{error}");
    pixels(f, 30, |i| i as u8);
    assert!(run(f, &data, "old.csv", CLOSE, &mut Silent).unwrap().before);

    // Shards of two versions of the data.
    let shard = |i: usize| done(command(f, &data, "t.csv", &["--shard", &format!("{i}/2")]));
    shard(1);
    pixels(f, 30, |i| 255 - i as u8);
    shard(2);
    let merge = || sslmem(f, &["merge", "t.csv", "t.1-of-2.csv", "t.2-of-2.csv"]);
    fails(merge(), 2, &["are not of one job: the content of the images is"]);
    pixels(f, 30, |i| i as u8);
    done(command(f, &data, "t.csv", &["--shard", "2/2", "--force"]));
    done(merge());
    done(command(f, &data, "w.csv", &[]));
    assert_eq!(manifest(f, "t.json")["data"], manifest(f, "w.json")["data"]);
}

/// Two files that both cannot be decoded are two contents, and so is one that can.
#[test]
fn what_was_left_out_is_content_too() {
    let folder = encoders();
    let f = folder.path();
    photos(f, 6, &[]);
    let path = f.join("photos/002.jpg");
    let whole = fs::read(&path).unwrap();
    // Of equal length, so that only the content differs.
    let damaged = |with: u8| {
        let mut bytes = whole.clone();
        bytes[whole.len() / 2..].fill(with);
        bytes
    };
    let versions = [whole.clone(), damaged(0), damaged(1)];
    let job = |out: &str, more: &[&str]| command(f, "folder:photos", out, &[&["--max-bad", "1", "--batch", "2"], more].concat());
    let content = |name: &str| manifest(f, name)["data"]["content"].to_string();
    let embed = |out: &str| {
        let args =
            ["embed", "--encoder", "f.safetensors", "--normalize", "unit", "--size", "16", "--max-bad", "1", "--data", "folder:photos"];
        sslmem(f, &[&args[..], &["--out", out]].concat())
    };
    let mut found = vec![];
    for (i, version) in versions.iter().enumerate() {
        fs::write(&path, version).unwrap();
        done(job(&format!("{i}.csv"), &[]));
        done(embed(&format!("e{i}.safetensors")));
        found.push(content(&format!("{i}.json")));
        assert_eq!(found[i], content(&format!("e{i}.json")));
    }
    assert!(found[0] != found[1] && found[1] != found[2] && found[0] != found[2], "{found:?}");
    // A finished table is reused only if the image files have not changed.
    for (i, version) in versions.iter().enumerate() {
        fs::write(&path, version).unwrap();
        for (j, out) in ["0.csv", "1.csv", "2.csv"].into_iter().enumerate() {
            match i == j {
                true => assert!(done(job(out, &[])).0.contains(", scored before")),
                false => fails(job(out, &[]), 2, &["was scored from other images"]),
            }
        }
    }
    // The same holds for a merged table.
    let merge = || sslmem(f, &["merge", "--max-bad", "1", "t.csv", "t.1-of-2.csv", "t.2-of-2.csv"]);
    let shard = |i: usize, more: &[&str]| done(job("t.csv", &[&["--shard", &format!("{i}/2")], more].concat()));
    fs::write(&path, &versions[1]).unwrap();
    [1, 2].into_iter().for_each(|i| drop(shard(i, &[])));
    done(merge());
    assert!(content("t.json") == found[1] && done(merge()).0.contains(", scored before"));
    // Both shards again, because each also hashes some files of the whole.
    fs::write(&path, &versions[2]).unwrap();
    [1, 2].into_iter().for_each(|i| drop(shard(i, &["--force"])));
    fails(merge(), 2, &["t.csv exists already"]);
}

/// Numbers in a job's identity are those of the recipe.
#[test]
fn a_manifest_writes_numbers_as_the_recipe_has_them() {
    let folder = encoders();
    let f = folder.path();
    done(command(f, "synthetic:20", "s.csv", &["--set", "encoder.normalize=cifar10"]));
    let embed = ["embed", "--encoder", "f.safetensors", "--normalize", "cifar10", "--size", "16", "--data", "synthetic:20"];
    done(sslmem(f, &[&embed[..], &["--out", "e.safetensors"]].concat()));
    let view = |name: &str| fs::read_to_string(f.join(name)).unwrap();
    assert!(manifest(f, "s.json")["job"]["f"]["view"]["mean"] == serde_json::json!([0.4914, 0.4822, 0.4465]), "{}", view("s.json"));
    for name in ["s.json", "e.json"] {
        let text = view(name);
        // An f32 has nine digits at most; measured values (seconds, rates) have more.
        let mut settings =
            text.lines().filter(|line| !["seconds", "per_second", "decode", "compute", "wait"].iter().any(|key| line.contains(key)));
        let digits = |line: &&str| line.split(|c: char| !c.is_ascii_digit() && c != '.').any(|word| word.contains('.') && word.len() > 11);
        assert_eq!(settings.find(digits), None, "{name}");
    }
}

/// The digest of an image's file is the same whether it is decoded or only read, however the data are kept.
#[test]
fn what_is_read_is_what_is_hashed() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    photos(f, 6, &[]);
    let names: Vec<String> = (0..6).map(|i| format!("photos/{i:03}.jpg")).collect();
    fs::write(f.join("list.txt"), names.join("\n")).unwrap();
    done(sslmem(f, &["pack", "--data", "folder:photos", "--original", "--out", "o.pack", "--quiet"]));
    let mut tar = tar::Builder::new(fs::File::create(f.join("s.tar")).unwrap());
    names.iter().for_each(|name| tar.append_path_with_name(f.join(name), &name["photos/".len()..]).unwrap());
    tar.finish().unwrap();
    let right: Vec<_> = names.iter().map(|name| Some(blake3::hash(&fs::read(f.join(name)).unwrap()))).collect();
    for kind in ["folder:photos", "list:list.txt", "packed:o.pack", "webdataset:s.tar"] {
        let (kind, place) = kind.split_once(':').unwrap();
        for (exif, on_bad) in [(Exif::Ignore, OnBadImage::Fail), (Exif::Turn, OnBadImage::Skip)] {
            let source = exif.open(&format!("{kind}:{}", f.join(place).display()), on_bad).unwrap();
            let decoded: Vec<_> = (0..6).map(|i| source.image_within(i, &mut |_| true).unwrap().unwrap()).collect();
            assert_eq!(decoded.iter().map(|(_, content)| *content).collect::<Vec<_>>(), right, "{kind}");
            assert_eq!((0..6).map(|i| source.content(i).unwrap()).collect::<Vec<_>>(), right, "{kind}");
            assert!((0..6).all(|i| source.image(i).unwrap() == decoded[i].0));
        }
    }
}

/// SIGTERM and SIGINT end a job with what it has done.
#[cfg(unix)]
#[test]
fn a_job_that_is_told_to_end_keeps_what_it_has() {
    let folder = encoders();
    let f = folder.path();
    let job = |out: &str| command(f, "synthetic:3000", out, &["--batch", "8", "--threads", "1"]);
    done(job("whole.csv"));
    for (signal, status) in [("TERM", 143), ("INT", 130)] {
        let out = format!("{signal}.csv");
        let child = job(&out).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let begun = Instant::now();
        while !f.join(format!("{out}.parts/job.json")).exists() && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap().success());
        let ended = child.wait_with_output().unwrap();
        let error = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(status), "{error}");
        let last = error.trim_end().lines().last().unwrap();
        assert!(
            last.starts_with("stopped: ")
                && last.ends_with(&format!(" of 3600 samples are scored and kept in {out}.parts; the same command goes on from there")),
            "{error}"
        );
        done(job(&out));
        assert!(fs::read(f.join(out)).unwrap() == fs::read(f.join("whole.csv")).unwrap());
    }
}

/// What keeps nothing says so, and leaves nothing behind.
#[cfg(unix)]
#[test]
fn verbs_that_keep_nothing_end_with_nothing() {
    let folder = encoders();
    let f = folder.path();
    let encoder = ["--normalize", "unit", "--size", "16", "--set", "score.batch=4", "--threads", "1", "--data", "synthetic:2000000"];
    let verbs: [(&[&str], &str); 3] = [
        (&["embed", "--encoder", "f.safetensors", "--out", "e.safetensors"], "embedding"),
        (&["probe", "--weights", "f.safetensors", "--out", "p.json"], "embedding"),
        (&["pack", "--size", "32", "--data", "synthetic:2000000", "--threads", "1", "--out", "o.pack"], "the pack"),
    ];
    let before = all(f);
    for ((args, what), (signal, status)) in verbs.into_iter().zip([("TERM", 143), ("INT", 130), ("TERM", 143)]) {
        let more = if args[0] == "pack" { &[][..] } else { &encoder[..] };
        let mut child = sslmem(f, &[args, more].concat()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Signals are caught before the first line of progress.
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| line.unwrap());
        let first: Vec<String> = lines.by_ref().take_while(|line| !line.contains("/s, ")).collect();
        assert!(Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap().success());
        let last = lines.last().unwrap_or_default();
        assert_eq!(child.wait().unwrap().code(), Some(status), "{first:?} {last}");
        assert_eq!(last, format!("stopped: {what} was not finished and nothing of it is kept; the same command begins again"));
        assert!(all(f) == before, "{what}");
    }
}

#[test]
fn too_many_bad_images_and_no_image_are_errors_with_everything_kept() {
    let folder = encoders();
    let f = folder.path();
    photos(f, 30, &[0, 13, 14, 29]);
    let job = |out: &str, more: &[&str]| command(f, "folder:photos", out, more);
    let words = "4 of 30 images could not be decoded, which is more than 1 % (first: 000.jpg: the JPEG is cut short";
    for _ in 0..2 {
        let ended = job("s.csv", &[]).output().unwrap();
        let error = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.code() == Some(1) && error.contains(words) && error.contains("accept them with --max-bad 0.14"), "{error}");
        assert!(String::from_utf8(ended.stdout).unwrap().starts_with("s.csv: 26 samples"));
    }
    done(job("s.csv", &["--max-bad", "0.14"]));
    let embed = |out: &str, more: &[&str]| {
        let args = ["embed", "--encoder", "f.safetensors", "--normalize", "unit", "--size", "16", "--data", "folder:photos", "--out", out];
        sslmem(f, &[&args[..], more].concat())
    };
    let ended = embed("e.safetensors", &[]).output().unwrap();
    assert!(ended.status.code() == Some(1) && String::from_utf8(ended.stderr).unwrap().contains(words));
    // The samples of the rows are identified, and images without a row are listed.
    let samples = fs::read(f.join("e.parquet")).unwrap();
    let about = manifest(f, "e.json");
    assert_eq!(about["table"], blake3::hash(&samples).to_hex().as_str());
    assert_eq!((&about["rows"], &about["data"]["skipped"]), (&26.into(), &manifest(f, "s.json")["data"]["skipped"]));
    assert_eq!(about["data"]["content"], manifest(f, "s.json")["data"]["content"]);
    let bytes = fs::read(f.join("e.safetensors")).unwrap();
    assert_eq!(about["embeddings"][0]["digest"], blake3::hash(&bytes).to_hex().as_str());
    assert_eq!(safetensors::SafeTensors::deserialize(&bytes).unwrap().tensor("features").unwrap().shape(), [26, 64]);
    let right: Vec<(i32, String)> = (0..30).filter(|i| ![0, 13, 14, 29].contains(i)).map(|i| (i, format!("{i:03}.jpg"))).collect();
    assert_eq!(who(&f.join("e.parquet")), right);
    fails(embed("e.safetensors", &["--max-bad", "1"]), 2, &["e.safetensors exists already"]);
    fails(embed("x.parquet", &[]), 2, &["use a name that ends in .safetensors"]);

    for entry in fs::read_dir(f.join("photos")).unwrap() {
        fs::write(entry.unwrap().path(), "no image").unwrap();
    }
    fails(job("n.csv", &["--max-bad", "1"]), 1, &["n.csv: would have no row: no image could be decoded (first: 000.jpg: "]);
    fails(
        embed("n.safetensors", &["--max-bad", "1"]),
        1,
        &["n.safetensors: would have no row: no image could be decoded (first: 000.jpg: "],
    );
    assert!(!f.join("n.csv").exists() && !f.join("n.safetensors").exists());
}

/// Index and id of each row.
fn who(path: &Path) -> Vec<(i32, String)> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;
    let file = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
    let rows = file.get_row_iter(None).unwrap().map(|row| row.unwrap());
    rows.map(|row| (row.get_uint(0).unwrap() as i32, row.get_string(1).unwrap().clone())).collect()
}

/// A job of two small encoders lives within 500 MB of address space, and a head of 98 MB of nonsense within 600.
#[cfg(target_os = "linux")]
#[test]
fn memory_is_taken_as_it_is_needed() {
    let folder = encoders();
    let f = folder.path();
    photos(f, 6, &[]);
    let within = |kilobytes: usize, plain: &Command| {
        let mut within = Command::new("bash");
        within.current_dir(f).args(["-c", &format!("ulimit -v {kilobytes}; exec \"$@\""), "bash"]).arg(plain.get_program());
        within.args(plain.get_args());
        within
    };
    done(within(500_000, &command(f, "folder:photos", "s.csv", &["--threads", "2"])));
    let mut head = b"{\"a\":{\"shape\":[1".to_vec();
    head.resize(98_000_000, b'1');
    (0..head.len() - 16).step_by(2).for_each(|at| head[16 + at] = b',');
    head.extend(b"]}}");
    let bytes = [&(head.len() as u64).to_le_bytes()[..], &head].concat();
    fs::write(f.join("hostile.safetensors"), bytes).unwrap();
    let hostile = sslmem(f, &["convert", "hostile.safetensors", "--threads", "2"]);
    fails(within(600_000, &hostile), 1, &["tensor `a` is not described as such: more than 64 axes"]);
}
