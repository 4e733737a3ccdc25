//! Places of results: two processes at once, file systems without locks, and a full disk.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{command, done, encoders, fails};

/// Starts it, and stops it (it lives, and does nothing) as soon as `lock` names it.
fn stopped(mut command: Command, lock: &Path) -> Child {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let name = format!("process {}", child.id());
    let until = Instant::now() + Duration::from_secs(300);
    while !fs::read_to_string(lock).is_ok_and(|text| text.starts_with(&name)) {
        assert!(child.try_wait().unwrap().is_none() && Instant::now() < until, "it ended without a lock at {}", lock.display());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(Command::new("kill").args(["-STOP", &child.id().to_string()]).status().unwrap().success());
    child
}

fn killed(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn two_scoring_jobs_do_not_share_an_output() {
    let folder = encoders();
    let f = folder.path();
    let job = |out: &str, more: &[&str]| command(f, "synthetic:1500", out, more);
    done(job("whole.parquet", &[]));
    let lock = f.join("s.parquet.lock");
    let first = stopped(job("s.parquet", &[]), &lock);
    let said = format!("s.parquet is being written by process {}", first.id());
    fails(job("s.parquet", &[]), 1, &[&said, "; wait until it has ended, or choose another --out"]);
    // Also refused with --force, and for other scores.
    fails(job("s.parquet", &["--force", "--seed", "4"]), 1, &[&said]);
    done(job("s.parquet", &["--shard", "1/9"]));
    assert!(lock.exists());
    killed(first);
    assert!(lock.exists(), "what a killed process leaves");
    done(job("s.parquet", &[]));
    assert!(!lock.exists() && fs::read(f.join("s.parquet")).unwrap() == fs::read(f.join("whole.parquet")).unwrap());
}

#[test]
fn two_runs_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let settings = ["split.shared=0.8", "split.candidate=0.1", "split.independent=0.1", "split.external=candidates", "encoder.size=32"];
    let settings = settings.into_iter().chain(["optim.warmup_epochs=0", "score.views=2", "train.epochs=1", "train.batch=16"]);
    let recipe: Vec<&str> = ["--preset", "demo", "--data", "synthetic:60"].into_iter().chain(settings.flat_map(|s| ["--set", s])).collect();
    let sslmem = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sslmem"));
        command.current_dir(f).args(args);
        command
    };
    let run = || sslmem(&[&["run", "--out", "r", "--quiet"], &recipe[..]].concat());
    let lock = f.join("r/run.lock");
    let first = stopped(run(), &lock);
    let said = format!("r is being written by process {}", first.id());
    fails(run(), 1, &[&said, "; wait until it has ended, or choose another --out"]);
    let train = |more: &[&str]| sslmem(&[&["train", "--out", "r"], more, &recipe[..]].concat());
    fails(train(&["--resume"]), 1, &[&said]);
    fails(train(&[]), 1, &[&said]);
    killed(first);
    assert!(lock.exists(), "what a killed process leaves");
    done(run());
    assert!(!lock.exists());
    done(sslmem(&["report", "r"]));
}

#[test]
#[cfg(target_os = "linux")]
fn a_file_system_without_locks_is_a_warning() {
    let folder = encoders();
    let f = folder.path();
    // A preloaded library whose flock answers as file systems without locks do.
    fs::write(f.join("flock.c"), "#include <errno.h>\nint flock(int file, int how) { errno = ENOLCK; return -1; }\n").unwrap();
    let build = Command::new("cc").current_dir(f).args(["-shared", "-fPIC", "-o", "flock.so", "flock.c"]).status();
    assert!(build.unwrap().success());
    let mut job = command(f, "synthetic:50", "s.parquet", &[]);
    job.env("LD_PRELOAD", f.join("flock.so"));
    let (said, error) = done(job);
    assert!(said.starts_with("s.parquet: 60 samples\n"), "{said}");
    let warning = "nothing can be locked at s.parquet.lock (no locks available): start nothing else with the same output";
    assert!(error.contains(warning), "{error}");
    assert!(!f.join("s.parquet.lock").exists());
}

/// The same command on a disk that is full, less full and large enough. The disk is one of the test's own, in memory.
const FULL: &str = r#"
mount -t tmpfs -o size=112k full disk && cd disk || exit 9
score() { "$@" >../said 2>../error; echo "rc $?"; tail -n 1 ../error; ls -A . s.parquet.parts 2>/dev/null | LC_ALL=C sort | grep .; echo; }
score "$@"; mount -o remount,size=200k full .
score "$@"; mount -o remount,size=4m full .
score "$@"; cp s.parquet ..
"#;

#[test]
#[cfg(target_os = "linux")]
fn a_disk_that_fills_up_is_a_sentence_and_nothing_half_written() {
    let folder = encoders();
    let f = folder.path();
    let mounts = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    if !mounts.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: nothing can be mounted here (unshare -rm mount)");
        return;
    }
    fs::create_dir(f.join("disk")).unwrap();
    done(command(f, "synthetic:4000", "whole.parquet", &["--quiet"]));
    let plain = command(f, "synthetic:4000", "s.parquet", &["--quiet"]);
    let args =
        plain.get_args().map(|arg| if arg.to_str().unwrap().ends_with(".safetensors") { f.join(arg).into() } else { arg.to_owned() });
    let mut on_disk = Command::new("unshare");
    on_disk.current_dir(f).args(["-rm", "bash", "-c", FULL, "bash"]).arg(plain.get_program()).args(args);
    let said = done(on_disk).0;
    let parts: Vec<Vec<&str>> = said.split("\n\n").map(|part| part.lines().filter(|line| !line.is_empty()).collect()).collect();
    // The disk fills up while blocks are written (a slow machine closes more of them).
    let full = parts[0][1].strip_prefix("error: cannot write s.parquet.parts/").unwrap_or_default();
    assert!(parts[0][0] == "rc 1" && full.ends_with(".block: no space left on device"), "{said}");
    let (blocks, others): (Vec<&str>, Vec<&str>) = parts[0][2..].iter().partition(|line| line.ends_with(".block"));
    assert_eq!(others, [".:", "job.json", "s.parquet.parts", "s.parquet.parts:"], "{said}");
    assert!(blocks.len() >= 3 && blocks[0] == "0000000.block" && blocks.iter().all(|block| *block < full), "{said}");
    // The disk fills up while the table is written.
    assert_eq!(parts[1][..2], ["rc 1", "error: cannot write s.parquet: no space left on device"], "{said}");
    assert!(parts[1].iter().filter(|line| line.ends_with(".block")).count() > blocks.len(), "{said}");
    assert!(!parts[1].contains(&"s.parquet") && !said.contains(".part\n"), "{said}");
    assert_eq!(parts[2], ["rc 0", ".:", "s.json", "s.parquet"], "{said}");
    assert!(fs::read(f.join("s.parquet")).unwrap() == fs::read(f.join("whole.parquet")).unwrap());
}
