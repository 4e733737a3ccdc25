//! benches/gpu.sh, with small scripts in place of the programs, and the table that it ends with: what fails is seen and stops nothing.

#[path = "../benches/gpu/table.rs"]
mod table;

use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn program(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/usr/bin/env bash\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Programs of which `tests` fails in the cases named `broken`; `nvidia-smi`, the sanitizer and Python are stand-ins too.
fn programs(folder: &Path, broken: &str) {
    program(folder, "sslmem", "echo a card");
    program(
        folder,
        "tests",
        &format!(
            "[[ \"$*\" == *{broken}* ]] && {{ echo \"thread panicked at here\"; echo \"off by 1\"; echo FAILED; exit 101; }}\necho 'test result: ok. 1 passed'"
        ),
    );
    program(
        folder,
        "gpu",
        "[ \"$1\" = --merge ] && { echo merged; exit 0; }\necho '{\"name\": \"ceiling/copy\", \"value\": 3000.0, \"unit\": \"GB/s\"}'",
    );
    program(folder, "nvidia-smi", "[[ \"$*\" == *compute_cap* ]] && echo 9.0 || echo Card");
    program(folder, "compute-sanitizer", "shift 4; \"$@\"");
    program(folder, "python3", "echo '{\"name\": \"linear\", \"value\": 1.5, \"unit\": \"us\", \"how\": \"mm\"}'");
}

fn run(bin: &Path, out: &Path, more: &[&str]) -> Output {
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gpu.sh");
    Command::new("bash").arg(script).args([bin, out]).args(more).env("PATH", path).output().unwrap()
}

/// Stage and outcome.
fn outcomes(out: &Path) -> Vec<[String; 2]> {
    let text = std::fs::read_to_string(out.join("stages.tsv")).unwrap();
    let row = |line: &str| line.split('\t').take(2).map(str::to_string).collect::<Vec<_>>().try_into().unwrap();
    text.lines().map(row).collect()
}

#[test]
fn a_stage_that_fails_stops_no_other_and_decides_the_status() {
    let (bin, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    programs(bin.path(), "no-such-case");
    let whole = run(bin.path(), out.path(), &[]);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    assert!(outcomes(out.path()).iter().all(|[_, outcome]| outcome == "ok"), "{:?}", outcomes(out.path()));
    programs(bin.path(), "cases_f32");
    let failed = run(bin.path(), out.path(), &["--commit", "abc"]);
    assert_eq!(failed.status.code(), Some(1));
    let bad: Vec<String> = outcomes(out.path()).into_iter().filter(|[_, outcome]| outcome != "ok").map(|[stage, _]| stage).collect();
    assert_eq!(bad, ["cases_f32"]);
    assert_eq!(outcomes(out.path()).len(), 11);
    let words = std::fs::read_to_string(out.path().join("stages.tsv")).unwrap();
    assert!(words.contains("\toff by 1\n"), "{words}");
    assert!(std::fs::read_to_string(out.path().join("about.tsv")).unwrap().contains("commit\tabc\ncard\tCard\n"));
}

#[test]
fn tests_that_did_not_run_benchmarks_that_measured_nothing_and_stages_without_time_fail() {
    let (bin, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    programs(bin.path(), "no-such-case");
    program(bin.path(), "tests", "echo 'test result: ok. 0 passed'");
    program(bin.path(), "gpu", "exit 0");
    program(bin.path(), "sslmem", "sleep 30");
    let run = run(bin.path(), out.path(), &["--only", "doctor,conformance,benchmark", "--seconds", "5"]);
    assert_eq!(run.status.code(), Some(1));
    let failed: Vec<[String; 2]> = ["doctor", "conformance", "benchmark"].map(|stage| [stage.to_string(), "failed".into()]).into();
    assert_eq!(outcomes(out.path()), failed);
}

#[test]
fn misuse_is_said_in_a_sentence() {
    let (bin, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let run = run(bin.path(), out.path(), &[]);
    assert_eq!(run.status.code(), Some(2));
    let words = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(words.contains("has no program `sslmem`; make the folder with benches/gpu_build.sh"), "{words}");
}

#[test]
fn the_table_puts_numbers_beside_the_card_and_the_rival() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("about.tsv", "date\t2026-01-02\ncard\tH\n");
    write("stages.tsv", "doctor\tok\t1\tone card\nrival\tfailed\t9\ttook more than 9 s\n");
    let ours = [
        json!({ "name": "ceiling/copy", "value": 4000.0, "unit": "GB/s" }),
        json!({ "name": "linear_fwd/8192x8192x8192", "value": 2000.0, "unit": "us", "seconds": 2e-3, "flops": 2u64 * 8192u64.pow(3), "bytes": 4_000_000_000u64 }),
        json!({ "name": "train/resnet18_cifar", "value": 60000.0, "unit": "images/s" }),
        json!({ "name": "score/memory", "error": "no time was left" }),
    ];
    let rival = [
        json!({ "name": "linear_fwd/8192x8192x8192", "value": 1500.0, "unit": "us", "how": "slow" }),
        json!({ "name": "linear_fwd/8192x8192x8192", "value": 1400.0, "unit": "us", "how": "torch.mm" }),
        json!({ "name": "train/resnet18_cifar", "value": 30000.0, "unit": "images/s", "how": "compiled" }),
        json!({ "name": "train/resnet18_cifar", "value": 20000.0, "unit": "images/s", "how": "eager" }),
        json!({ "name": "augment_one_draw/32", "value": 8.0, "unit": "views/s", "how": "one draw" }),
    ];
    let text = |lines: &[Value]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    write("ours.jsonl", &text(&ours));
    write("rival.jsonl", &(text(&rival) + "a warning\n{\"name\": \"cut o"));
    let table = table::merge(folder.path()).unwrap();
    let report: Value = serde_json::from_str(&std::fs::read_to_string(folder.path().join("gpu.json")).unwrap()).unwrap();
    let number = |i: usize, key: &str| report["numbers"][i][key].as_f64().unwrap();
    assert_eq!(number(1, "gb_per_s"), 2000.0);
    assert_eq!(number(1, "percent_of_copy"), 50.0);
    assert!((number(1, "tflop_per_s") - 549.8).abs() < 0.1);
    assert!((number(1, "percent_of_matrix") - 70.0).abs() < 1e-9);
    assert_eq!((number(1, "times_as_fast"), &report["numbers"][1]["pytorch_how"]), (0.7, &json!("torch.mm")));
    assert_eq!((number(2, "times_as_fast"), &report["numbers"][2]["pytorch_how"]), (2.0, &json!("compiled")));
    assert!(table.contains("missing: score/memory of sslmem: no time was left"), "{table}");
    assert!(table.contains("rival        failed         9  took more than 9 s"), "{table}");
    assert!(table.contains("PyTorch alone: augment_one_draw/32 8.0 views/s  one draw"), "{table}");
    assert_eq!(table, std::fs::read_to_string(folder.path().join("gpu.txt")).unwrap());
}

#[test]
fn a_table_of_nothing_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let error = table::merge(folder.path()).unwrap_err().to_string();
    assert!(error.contains("about.tsv"), "{error}");
}
