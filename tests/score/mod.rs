//! Scoring jobs from outside: killed, out of disk, damaged, divided, with bad images, at several layers.

mod device;
mod embeddings;
mod jobs;
mod leftovers;
mod measures;
mod places;
mod tables;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use sslmem::encoders::{self, EncoderConfig, Network};
use sslmem::random::{Purpose, Stream};
use sslmem::score::Shard;
use sslmem::table;
use sslmem::tape::{Mode, Tape};
use sslmem::var::Dtype;
use sslmem::weights::Weights;

/// A folder with two untrained encoders, `f.safetensors` and `g.safetensors`.
pub fn encoders() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (seed, name) in ["f", "g"].into_iter().enumerate() {
        let mut tape = Tape::new(Mode::Eval);
        let x = tape.fixed([1, 32, 32, 3], Dtype::Activation);
        network().features(&mut tape.root().at("encoder"), x);
        let mut weights = Weights::new(seed as u64);
        tape.compile(&mut weights).unwrap();
        weights.save(&folder.path().join(format!("{name}.safetensors")), "encoder.", &BTreeMap::new()).unwrap();
    }
    folder
}

pub fn network() -> Network {
    Network { encoder: encoders::find("resnet8").unwrap(), config: EncoderConfig::of(32) }
}

pub fn command(folder: &Path, data: &str, out: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sslmem"));
    command.current_dir(folder).args(["score", "--f", "f.safetensors", "--g", "g.safetensors", "--arch", "resnet8"]);
    command.args(["--size", "16", "--normalize", "unit", "--pairs", "original", "--views", "1", "--data", data, "--out", out]).args(more);
    command
}

pub fn done(mut command: Command) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (said, error) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(0), "{command:?}: {error}");
    (said, error)
}

/// Fails with one sentence that holds all of these.
pub fn fails(mut command: Command, code: i32, parts: &[&str]) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let error = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{command:?}: {error}");
    let last = error.trim_end().lines().last().unwrap_or_default();
    assert!(last.starts_with("error: ") && stdout.is_empty(), "{error}");
    parts.iter().for_each(|part| assert!(last.contains(part), "`{part}` is not in: {error}"));
}

fn merge(folder: &Path, out: &str, shards: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sslmem"));
    command.current_dir(folder).args(["merge", out]).args(shards);
    command
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "f.safetensors" && name != "g.safetensors");
    names.sort();
    names
}

/// The table's bytes, and the manifest without what a clock and the command line say, and the seal over it.
fn result(folder: &Path, table: &str) -> (Vec<u8>, String) {
    let path = folder.join(table);
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(path.with_extension("json")).unwrap()).unwrap();
    (manifest["seconds"], manifest["throughput"]) = (0.into(), 0.into());
    (manifest["written"], manifest["command"], manifest["seal"]) = (0.into(), 0.into(), 0.into());
    (fs::read(path).unwrap(), manifest.to_string())
}

#[test]
fn killed_at_any_moment_a_job_ends_in_the_same_bytes() {
    let folder = encoders();
    let f = folder.path();
    let job = |out| command(f, "synthetic:4000", out, &["--quiet", "--batch", "32", "--also", "embeddings"]);
    let features = |out: &str| ["f", "g"].map(|role| fs::read(f.join(format!("{out}.{role}.safetensors"))).unwrap());
    let start = Instant::now();
    done(job("whole.parquet"));
    let (whole, took) = ((result(f, "whole.parquet").0, features("whole")), start.elapsed().as_millis() as f32);
    let (mut stream, mut kills, mut ends) = (Stream::new(1, Purpose::Synthetic, 0, 0, 0), 0, 0);
    while kills < 20 || ends == 0 {
        let mut child = job("killed.parquet").stdout(Stdio::null()).spawn().unwrap();
        // After 20 kills one run is left alone, so that at least one ends.
        let wait = if kills >= 20 { 600_000 } else { (stream.uniform() * took * 0.6) as u64 };
        let until = Instant::now() + Duration::from_millis(wait);
        let status = loop {
            match child.try_wait().unwrap() {
                None if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
                status => break status,
            }
        };
        match status {
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
            }
            Some(status) => {
                assert!(status.success());
                assert!((result(f, "killed.parquet").0, features("killed")) == whole, "after {kills} kills the result is another");
                assert!(!f.join("killed.parquet.parts").exists());
                ["killed.parquet", "killed.json", "killed.f.safetensors", "killed.g.safetensors"]
                    .iter()
                    .for_each(|name| fs::remove_file(f.join(name)).unwrap());
                ends += 1;
            }
        }
    }
    // Killed during the removal of its blocks, whose identity goes last.
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(f.join("whole.json")).unwrap()).unwrap();
    fs::create_dir(f.join("whole.parquet.parts")).unwrap();
    fs::write(f.join("whole.parquet.parts/job.json"), manifest["job"].to_string()).unwrap();
    fs::write(f.join("whole.parquet.parts/0003072.block"), "").unwrap();
    done(job("whole.parquet"));
    assert!(!f.join("whole.parquet.parts").exists());
    println!("{kills} kills, {ends} jobs ended");
}

#[test]
fn a_full_disk_is_a_sentence_and_the_job_goes_on_afterwards() {
    let folder = encoders();
    let f = folder.path();
    let data = "synthetic:1500";
    done(command(f, data, "whole.parquet", &[]));
    // No file may exceed 8 KiB, and a block does.
    let plain = command(f, data, "s.parquet", &["--quiet"]);
    let mut limited = Command::new("bash");
    limited.current_dir(f).args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "bash"]).arg(plain.get_program()).args(plain.get_args());
    fails(limited, 1, &["cannot write s.parquet.parts/0000000.block: file too large"]);
    done(plain);
    assert!(result(f, "s.parquet") == result(f, "whole.parquet"));
    // The blocks fit, the table does not.
    let plain = command(f, data, "t.parquet", &["--quiet"]);
    let mut limited = Command::new("bash");
    limited.current_dir(f).args(["-c", "trap '' XFSZ; ulimit -f 40; exec \"$@\"", "bash"]).arg(plain.get_program()).args(plain.get_args());
    fails(limited, 1, &["cannot write", "t.parquet: file too large"]);
    let start = Instant::now();
    done(plain);
    println!("the table alone took {:?}", start.elapsed());
    assert!(result(f, "t.parquet") == result(f, "whole.parquet"));
    assert_eq!(names(f), ["s.json", "s.parquet", "t.json", "t.parquet", "whole.json", "whole.parquet"]);
}

/// A job that was begun, with all its blocks: what it needs is that the table could not be written. A slow machine closes more blocks.
fn begun(folder: &Path, data: &str) -> Vec<PathBuf> {
    let plain = command(folder, data, "s.parquet", &["--quiet"]);
    let mut limited = Command::new("bash");
    limited
        .current_dir(folder)
        .args(["-c", "trap '' XFSZ; ulimit -f 40; exec \"$@\"", "bash"])
        .arg(plain.get_program())
        .args(plain.get_args());
    fails(limited, 1, &["s.parquet: file too large"]);
    let parts = names(&folder.join("s.parquet.parts"));
    let (job, blocks) = parts.split_last().unwrap();
    assert!(job == "job.json" && blocks.len() >= 2 && blocks[0] == "0000000.block", "{parts:?}");
    blocks.iter().map(|block| folder.join("s.parquet.parts").join(block)).collect()
}

#[test]
fn damaged_blocks_are_scored_again_and_other_jobs_refused() {
    let folder = encoders();
    let f = folder.path();
    let data = "synthetic:1500";
    done(command(f, data, "whole.parquet", &[]));
    let blocks = begun(f, data);
    let job = |more: &[&str]| command(f, data, "s.parquet", more);
    fails(job(&["--seed", "5"]), 2, &["s.parquet.parts is of another job: seed is 0 there and 5 here; go on with the same settings"]);
    fails(job(&["--set", "score.views=2"]), 2, &["views is 1 there and 2 here"]);
    fails(job(&["--layers", "map"]), 2, &["layers is [\"pooled\"] there and [\"map\"] here"]);
    fails(command(f, "synthetic:1501", "s.parquet", &[]), 2, &["data.digest is "]);
    fs::copy(f.join("f.safetensors"), f.join("h.safetensors")).unwrap();
    let mut swapped = job(&[]);
    swapped.args(["--g", "h.safetensors"]);
    assert_eq!(swapped.output().unwrap().status.code(), Some(2), "--g twice is misuse");

    for (last, damage) in [(false, "flip"), (true, "cut"), (false, "empty"), (true, "other")] {
        let path = if last { blocks.last().unwrap() } else { &blocks[0] };
        let mut bytes = fs::read(path).unwrap();
        match damage {
            "flip" => bytes[1000] ^= 1,
            "cut" => bytes.truncate(bytes.len() / 2),
            "empty" => bytes.clear(),
            _ => bytes = fs::read(&blocks[0]).unwrap(),
        }
        fs::write(path, bytes).unwrap();
        let plain = command(f, data, "s.parquet", &[]);
        let mut limited = Command::new("bash");
        limited
            .current_dir(f)
            .args(["-c", "trap '' XFSZ; ulimit -f 40; exec \"$@\"", "bash"])
            .arg(plain.get_program())
            .args(plain.get_args());
        let error = String::from_utf8(limited.output().unwrap().stderr).unwrap();
        assert!(error.contains(" blocks in s.parquet.parts are damaged and scored again"), "{damage}: {error}");
    }
    // Batch and threads are not part of the identity.
    let (said, _) = done(job(&["--batch", "7", "--threads", "1"]));
    assert!(said.starts_with("s.parquet: 1800 samples\n"), "{said}");
    let bytes = fs::read(f.join("s.parquet")).unwrap();
    assert!(bytes == fs::read(f.join("whole.parquet")).unwrap());
    assert!(done(job(&[])).0.starts_with("s.parquet: 1800 samples, scored before\n"));
    fails(
        job(&["--seed", "5"]),
        2,
        &["s.parquet is of another job: seed is 0 there and 5 here; choose another name, or replace it with --force"],
    );
    begun_by_force(f, data);
}

/// `--force` starts again where another job is in the way.
fn begun_by_force(f: &Path, data: &str) {
    ["s.parquet", "s.json"].iter().for_each(|name| fs::remove_file(f.join(name)).unwrap());
    begun(f, data);
    done(command(f, data, "s.parquet", &["--seed", "5", "--force"]));
    assert!(fs::read(f.join("s.parquet")).unwrap() != fs::read(f.join("whole.parquet")).unwrap());
}

#[test]
fn merged_shards_are_the_bytes_of_one_run() {
    let folder = encoders();
    let f = folder.path();
    let data = "synthetic:1500";
    let mut split = Command::new(env!("CARGO_BIN_EXE_sslmem"));
    split.current_dir(f).args(["split", "--data", data, "--out", "split.json"]);
    done(split);
    let job = |more: &[&str]| command(f, data, "s.parquet", &[&["--split", "split.json"], more].concat());
    done(job(&[]));
    let mut auto = job(&["--shard", "auto"]);
    auto.env("SLURM_ARRAY_TASK_ID", "7").env("SLURM_ARRAY_TASK_MIN", "5").env("SLURM_ARRAY_TASK_COUNT", "3");
    done(auto);
    done(job(&["--shard", "1/3", "--threads", "1", "--batch", "9"]));
    done(job(&["--shard", "2/3"]));
    let shards = ["s.3-of-3.parquet", "s.1-of-3.parquet", "s.2-of-3.parquet"];
    done(merge(f, "m.parquet", &shards));
    let (whole, merged) = (result(f, "s.parquet"), result(f, "m.parquet"));
    assert!(whole.0 == merged.0, "the tables differ");
    // The first shard's batch is in its settings; everything else is equal.
    assert_eq!(whole.1, merged.1.replace("\"batch\":9,\"features\"", "\"batch\":32,\"features\""));
    done(merge(f, "c.csv", &shards));
    // As text, in which NaN (here the standard error, with one view) equals itself.
    let rows = |name: &str| format!("{:?}", table::read(f.join(name)).unwrap());
    assert!(rows("c.csv") == rows("s.parquet"), "the rows differ");

    assert!(done(merge(f, "m.parquet", &shards)).0.starts_with("m.parquet: 1650 samples, scored before\n"));
    fails(merge(f, "n.parquet", &shards[..2]), 2, &["shard 2/3 is missing (2 of 3 are named)"]);
    fails(merge(f, "n.parquet", &["s.1-of-3.parquet", "s.1-of-3.parquet"]), 2, &["are both shard 1/3"]);
    fails(merge(f, "n.parquet", &["s.parquet"]), 2, &["s.parquet is not the table of a shard"]);
    done(job(&["--shard", "2/2"]));
    fails(merge(f, "n.parquet", &[&shards[..], &["s.2-of-2.parquet"]].concat()), 2, &["not of one job: the number of shards is"]);
    done(command(f, data, "o.parquet", &["--split", "split.json", "--shard", "2/3", "--seed", "9"]));
    fails(merge(f, "n.parquet", &[shards[0], shards[1], "o.2-of-3.parquet"]), 2, &["seed is 0 in the first and 9 in the second"]);
    let mut bytes = fs::read(f.join(shards[1])).unwrap();
    bytes[400] ^= 1;
    fs::write(f.join(shards[1]), bytes).unwrap();
    fails(merge(f, "n.parquet", &shards), 1, &["s.1-of-3.parquet: was changed or damaged"]);
    assert!(!f.join("n.parquet").exists());
}

#[test]
fn shards_are_ranges_and_clusters_name_them() {
    for (samples, count) in [(0, 3), (2, 5), (1800, 7), (1_281_167, 64)] {
        let ranges: Vec<_> = (1..=count).map(|i| Shard::new(i, count).unwrap().range(samples)).collect();
        assert!(ranges.windows(2).all(|r| r[0].end == r[1].start) && ranges[0].start == 0 && ranges.last().unwrap().end == samples);
        let sizes = || ranges.iter().map(|r| r.len());
        assert!(sizes().max().unwrap() - sizes().min().unwrap() <= 1);
    }
    let auto = |pairs: &[(&str, &str)]| {
        let map: HashMap<String, String> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Shard::auto(|name| map.get(name).cloned()).map(|shard| shard.map(|s| s.to_string())).map_err(|e| e.to_string())
    };
    let slurm = [("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_ARRAY_TASK_MIN", "0"), ("SLURM_ARRAY_TASK_COUNT", "8"), ("RANK", "1")];
    assert_eq!(auto(&slurm), Ok(Some("4/8".into())));
    assert_eq!(auto(&[("JOB_COMPLETION_INDEX", "0"), ("JOB_COMPLETIONS", "2")]), Ok(Some("1/2".into())));
    assert_eq!(auto(&[("RANK", "3"), ("WORLD_SIZE", "4")]), Ok(Some("4/4".into())));
    assert_eq!(auto(&[]), Ok(None));
    let gaps = [&slurm[..], &[("SLURM_ARRAY_TASK_MAX", "14")]].concat();
    assert!(auto(&gaps).unwrap_err().contains("numbered with gaps"));
    assert!(auto(&[("RANK", "4"), ("WORLD_SIZE", "4")]).unwrap_err().contains("there is no shard 5 of 4"));
    assert!(auto(&[("JOB_COMPLETION_INDEX", "0")]).unwrap_err().contains("does not set JOB_COMPLETIONS"));
    assert!(auto(&[("RANK", "x"), ("WORLD_SIZE", "4")]).unwrap_err().contains("RANK is `x`, not a number"));
    for (text, part) in [("0/3", "no shard 0"), ("4/3", "no shard 4"), ("3", "`3` is no shard"), ("a/b", "no shard")] {
        assert!(text.parse::<Shard>().unwrap_err().to_string().contains(part), "{text}");
    }
}

/// JPEGs in a folder, of which these are cut short.
pub fn photos(folder: &Path, count: usize, bad: &[usize]) -> PathBuf {
    let photos = folder.join("photos");
    fs::create_dir(&photos).unwrap();
    for i in 0..count {
        let mut stream = Stream::new(2, Purpose::Synthetic, 0, i as u32, 0);
        let picture =
            image::RgbImage::from_fn(40 + i as u32 % 3, 36, |x, y| image::Rgb([x as u8 * 5, y as u8 * 7, stream.below(256) as u8]));
        let path = photos.join(format!("{i:03}.jpg"));
        picture.save(&path).unwrap();
        if bad.contains(&i) {
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
        }
    }
    photos
}

#[test]
fn bad_images_are_listed_or_stop_the_job_which_goes_on_without_them() {
    let folder = encoders();
    let f = folder.path();
    photos(f, 30, &[0, 13, 14, 29]);
    fails(command(f, "folder:photos", "s.csv", &["--on-bad-image", "fail"]), 1, &["photos/000.jpg: the JPEG is cut short"]);
    let (said, _) = done(command(f, "folder:photos", "s.csv", &["--batch", "4", "--max-bad", "0.14"]));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "s.csv: 26 samples");
    assert_eq!(
        lines[1],
        "4 images could not be decoded and have no row (first: 000.jpg: the JPEG is cut short (no end-of-image marker)); the manifest lists them"
    );
    let rows = table::read(f.join("s.csv")).unwrap();
    assert!(rows.iter().all(|row| ![0, 13, 14, 29].contains(&row.index)) && rows.len() == 26);
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(f.join("s.json")).unwrap()).unwrap();
    let skipped: Vec<&str> = manifest["data"]["skipped"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap()).collect();
    assert_eq!(skipped, ["000.jpg", "013.jpg", "014.jpg", "029.jpg"]);
    // Some shards have only bad images, and merging counts the skipped ones.
    for i in 1..=30 {
        done(command(f, "folder:photos", "t.csv", &["--max-bad", "1", "--shard", &format!("{i}/30")]));
    }
    let shards: Vec<String> = (1..=30).map(|i| format!("t.{i}-of-30.csv")).collect();
    done(merge(f, "m.csv", &shards.iter().map(String::as_str).chain(["--max-bad", "1"]).collect::<Vec<_>>()));
    assert!(fs::read(f.join("m.csv")).unwrap() == fs::read(f.join("s.csv")).unwrap());
}
