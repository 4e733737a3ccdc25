//! benches/gpu.sh with small scripts in place of the programs: a failure shows in its final table and stops nothing.

#[path = "../../benches/gpu/cold.rs"]
pub mod cold;
#[path = "../../benches/gpu/table.rs"]
mod table;

use crate::emulated::Emulated;
use crate::kernels;
use emulator::Options;
use sslmem::device::Device;
use std::rc::Rc;

use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn program(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/usr/bin/env bash\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Stand-ins that succeed, for the programs, `nvidia-smi`, and a Python that has torch.
fn programs(folder: &Path) {
    program(folder, "sslmem", "echo a card");
    program(folder, "tests", "echo 'test result: ok. 1 passed'");
    program(
        folder,
        "gpu",
        "[ \"$1\" = --merge ] && { echo merged; exit 0; }\necho \"{\\\"name\\\": \\\"$2\\\", \\\"value\\\": 3000.0, \\\"unit\\\": \\\"GB/s\\\"}\"",
    );
    program(folder, "compute-sanitizer", "shift 4; \"$@\"");
    program(folder, "nvidia-smi", "[[ \"$*\" == *card* || \"$*\" == *name* ]] && echo 'Card, 9 MiB, 580.1, 1980 MHz'");
    program(
        folder,
        "python3",
        "[ \"$1\" = -c ] && exit 0\necho '{\"name\": \"linear\", \"value\": 1.5, \"unit\": \"us\", \"how\": \"mm\"}'",
    );
}

/// The script, as it stands or with other seconds for its stages, started as its users start it.
fn run(bin: &Path, out: &Path, more: &[&str], seconds: &[(&str, u32)]) -> Output {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("benches")).unwrap();
    let mut text = std::fs::read_to_string(SCRIPT).unwrap();
    for (stage, seconds) in seconds {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(stage)).unwrap().to_string();
        text = text.replace(&line, &format!("{stage} {seconds} changed"));
    }
    program(&root.path().join("benches"), "gpu.sh", &text);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    Command::new("bash").arg(root.path().join("benches/gpu.sh")).args([bin, out]).args(more).env("PATH", path).output().unwrap()
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gpu.sh");

/// Stage, outcome and words.
fn outcomes(out: &Path) -> Vec<[String; 3]> {
    let text = std::fs::read_to_string(out.join("stages.tsv")).unwrap();
    let row = |line: &str| {
        let all: Vec<&str> = line.split('\t').collect();
        [all[0], all[1], all[3]].map(str::to_string)
    };
    text.lines().map(row).collect()
}

fn plan() -> Vec<(String, u32)> {
    let output = Command::new("bash").args([SCRIPT, "--plan"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split_whitespace()).map(|mut w| (w.next().unwrap().into(), w.next().unwrap().parse().unwrap())).collect()
}

#[test]
fn the_plan_takes_at_most_nine_minutes_and_every_stage_of_it_runs() {
    let plan = plan();
    assert!(plan.iter().map(|(_, seconds)| seconds).sum::<u32>() <= 540, "{plan:?}");
    let (bin, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    programs(bin.path());
    let whole = run(bin.path(), out.path(), &["--commit", "abc"], &[]);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let outcomes = outcomes(out.path());
    assert_eq!(outcomes.iter().map(|row| &row[0]).collect::<Vec<_>>(), plan.iter().map(|(stage, _)| stage).collect::<Vec<_>>());
    assert!(outcomes.iter().all(|row| row[1] == "ok"), "{outcomes:?}");
    let read = |name: &str| std::fs::read_to_string(out.path().join(name)).unwrap();
    assert!(read("about.tsv").contains("commit\tabc\ncard\tCard\nmemory\t9 MiB\ndriver\t580.1\n"), "{}", read("about.tsv"));
    assert_eq!(read("ours.jsonl").lines().count(), 5, "{}", read("ours.jsonl"));
    assert_eq!(read("rival.jsonl").lines().count(), 1);
}

/// Failures of all kinds in three stages: each is a line, every other stage has its own, and what was measured is there.
#[test]
fn wrong_kernels_lost_contexts_and_endless_stages_stop_no_other_stage() {
    let (bin, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    programs(bin.path());
    let tests = "case $1 in
  *cases_bf16) echo 'FAIL conv/stem: off by 1'; echo 'FAIL linear/one: off by 2'; exit 101 ;;
  *large_products) echo 'FAIL fc1: an illegal address was encountered'; exit 101 ;;
  *replays*) echo 'going on'; sleep 60 ;;
esac
echo 'test result: ok. 1 passed'";
    program(bin.path(), "tests", tests);
    let whole = run(bin.path(), out.path(), &[], &[("graphs", 3)]);
    assert_eq!(whole.status.code(), Some(1));
    let outcomes = outcomes(out.path());
    assert_eq!(outcomes.len(), plan().len());
    let failed: Vec<String> = outcomes.iter().filter(|row| row[1] != "ok").map(|row| format!("{}: {}", row[0], row[2])).collect();
    let expected = [
        "compile: FAIL conv/stem: off by 1 (and 1 more)",
        "cases_bf16: FAIL conv/stem: off by 1 (and 1 more)",
        "large: FAIL fc1: an illegal address was encountered",
        "graphs: took more than 3 s; going on",
        "cases_portable: FAIL conv/stem: off by 1 (and 1 more)",
        "memcheck: FAIL conv/stem: off by 1 (and 1 more)",
    ];
    assert_eq!(failed, expected);
    let words = String::from_utf8_lossy(&whole.stderr).into_owned();
    assert!(words.contains("\nFAIL linear/one: off by 2\n"), "{words}");
    assert!(std::fs::read_to_string(out.path().join("log.txt")).unwrap().contains("=== kernels\n"));
    // What failed is run again, and nothing else.
    programs(bin.path());
    let again = tempfile::tempdir().unwrap();
    let stages = out.path().join("stages.tsv");
    let second = run(bin.path(), again.path(), &["--again", stages.to_str().unwrap()], &[]);
    assert!(second.status.success(), "{}", String::from_utf8_lossy(&second.stderr));
    let names: Vec<String> = self::outcomes(again.path()).into_iter().map(|[stage, ..]| stage).collect();
    assert_eq!(names, ["compile", "cases_bf16", "large", "graphs", "cases_portable", "memcheck"]);
}

#[test]
fn where_wgmma_fails_the_rest_runs_with_the_kernels_of_all_cards() {
    let (bin, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    programs(bin.path());
    let tests = "[[ $1 == *conformance* ]] && { echo 'FAIL wgmma: row 3'; exit 101; }
echo \"portable: ${SSLMEM_PORTABLE:-no}\"; echo 'test result: ok. 1 passed'";
    program(bin.path(), "tests", tests);
    run(bin.path(), out.path(), &["--only", "conformance,large,cases_portable"], &[]);
    let log = std::fs::read_to_string(out.path().join("log.txt")).unwrap();
    assert!(log.contains("=== large\nportable: 1\n"), "{log}");
    assert_eq!(outcomes(out.path())[2][1], "skipped");
}

/// The tests of a card with the emulator in its place, in which a bug is planted.
#[test]
fn a_wrong_kernel_is_found_with_the_emulator_in_the_place_of_the_card() {
    if crate::emulated::missing() {
        return;
    }
    let (bin, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    programs(bin.path());
    let found = |bug: &str| {
        let script = format!("export SSLMEM_CASE=linear/no_bias {bug}\nexec \"{}\" \"$@\"", std::env::current_exe().unwrap().display());
        program(bin.path(), "tests", &script);
        run(bin.path(), out.path(), &["--emulate", "--only", "conformance,cases_bf16"], &[]);
        outcomes(out.path())
    };
    assert!(found("").iter().all(|row| row[1] == "ok"), "{:?}", outcomes(out.path()));
    let planted = found("SSLMEM_BUG=waits_for_too_little");
    assert_eq!([&planted[0][1], &planted[1][1]], ["ok", "failed"]);
    assert!(planted[1][2].starts_with("FAIL linear/no_bias: ") && planted[1][2].contains("race"), "{planted:?}");
}

#[test]
fn tests_that_did_not_run_benchmarks_that_measured_nothing_and_stages_without_time_fail() {
    let (bin, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    programs(bin.path());
    program(bin.path(), "tests", "echo 'test result: ok. 0 passed'");
    program(bin.path(), "gpu", "exit 0");
    program(bin.path(), "sslmem", "sleep 30");
    let run = run(bin.path(), out.path(), &["--only", "doctor,conformance,products", "--seconds", "5"], &[]);
    assert_eq!(run.status.code(), Some(1));
    let failed: Vec<[String; 2]> = outcomes(out.path()).into_iter().map(|[stage, outcome, _]| [stage, outcome]).collect();
    assert_eq!(failed, ["doctor", "conformance", "products"].map(|stage| [stage.to_string(), "failed".into()]));
}

#[test]
fn misuse_is_said_in_a_sentence() {
    let (bin, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let run = run(bin.path(), out.path(), &[], &[]);
    assert_eq!(run.status.code(), Some(2));
    let words = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(words.contains("has no program `sslmem`; make it with benches/gpu_build.sh"), "{words}");
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
        json!({ "name": "augment/32", "value": 250.0, "unit": "us" }),
        json!({ "name": "augment/32", "value": 30000.0, "unit": "views/s" }),
        json!({ "name": "score/memory", "error": "no time was left" }),
    ];
    let rival = [
        json!({ "name": "linear_fwd/8192x8192x8192", "value": 1500.0, "unit": "us", "how": "slow" }),
        json!({ "name": "linear_fwd/8192x8192x8192", "value": 1400.0, "unit": "us", "how": "torch.mm" }),
        json!({ "name": "train/resnet18_cifar", "value": 30000.0, "unit": "images/s", "how": "compiled" }),
        json!({ "name": "train/resnet18_cifar", "value": 20000.0, "unit": "images/s", "how": "eager" }),
        json!({ "name": "augment/32", "value": 500.0, "unit": "views/s", "how": "one image at a time" }),
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
    // A time is not compared with a rate.
    assert_eq!((number(3, "value"), report["numbers"][3]["times_as_fast"].is_null()), (250.0, true));
    assert_eq!((number(4, "value"), number(4, "times_as_fast")), (30000.0, 60.0));
    assert!(table.contains("missing: score/memory of sslmem: no time was left"), "{table}");
    assert!(table.contains("rival        failed         9  took more than 9 s"), "{table}");
    assert!(table.contains("PyTorch alone: augment_one_draw/32 8.0 views/s  one draw"), "{table}");
    assert_eq!(table, std::fs::read_to_string(folder.path().join("gpu.txt")).unwrap());
}

/// A benchmark's device around the card once forgot which products the card multiplies by, and would have measured others.
#[test]
fn benchmarks_launch_the_kernels_of_the_card_and_name_them() {
    if crate::emulated::missing() {
        return;
    }
    let gpu = Rc::new(cold::Cold::new(Emulated::hopper(Options::default()), 1 << 12).unwrap());
    let case = kernels::chosen(&["linear/wide"]).next().unwrap();
    case.record(Device::Gpu(gpu.clone())).run().unwrap();
    let launched = gpu.take_launched();
    assert!(launched.contains(&"conv_hopper") && launched.contains(&"conv_bwd_w_hopper"), "{launched:?}");
    assert!(gpu.take_launched().is_empty());
}

#[test]
fn a_table_of_nothing_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let error = table::merge(folder.path()).unwrap_err().to_string();
    assert!(error.contains("about.tsv"), "{error}");
}
