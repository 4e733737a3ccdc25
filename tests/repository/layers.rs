//! The layer rules of ARCHITECTURE.md, held against the `use crate::` lines.

use std::path::{Path, PathBuf};

/// Module and what it may use besides `error`. Longest prefix wins.
const RULES: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("random", &[]),
    ("var", &[]),
    ("progress", &[]),
    ("files", &[]),
    ("tensors", &[]),
    ("init", &["random", "var"]),
    ("checkpoint", &["files"]),
    ("parquet_pages", &[]),
    ("device", &["files", "var"]),
    ("tape", &["device", "init", "var"]),
    ("program", &["device", "tape", "var", "weights"]),
    ("weights", &["checkpoint", "device", "files", "init", "random", "tensors", "var"]),
    ("schedule", &["device", "init", "tape", "var"]),
    ("data", &["files", "parquet_pages", "progress", "random"]),
    ("fetch", &["files", "progress"]),
    ("split", &["data", "files", "random"]),
    ("stage", &["progress"]),
    ("view", &["data", "files", "random", "tensors"]),
    ("ops", &["device", "init", "random", "schedule", "tape", "var", "view"]),
    ("encoders", &["init", "ops", "tape", "var"]),
    ("methods", &["encoders", "init", "ops", "schedule", "tape", "var", "view"]),
    ("table", &["files", "parquet_pages", "split"]),
    ("stats", &["split", "table"]),
    ("config", &["checkpoint", "data", "encoders", "files", "methods", "ops", "score", "split", "stage", "view"]),
    ("loader", &["data", "device", "ops", "program"]),
    (
        "train",
        &[
            "checkpoint",
            "config",
            "data",
            "device",
            "encoders",
            "files",
            "loader",
            "methods",
            "ops",
            "program",
            "progress",
            "random",
            "schedule",
            "stage",
            "tape",
            "var",
            "view",
            "weights",
        ],
    ),
    (
        "score",
        &[
            "checkpoint",
            "data",
            "device",
            "encoders",
            "files",
            "loader",
            "manifest",
            "ops",
            "program",
            "progress",
            "random",
            "split",
            "stage",
            "table",
            "tape",
            "tensors",
            "var",
            "view",
            "weights",
        ],
    ),
    ("probe", &["checkpoint", "data", "device", "encoders", "files", "progress", "random", "score", "stage"]),
    ("manifest", &["checkpoint", "data", "device", "encoders", "files", "table", "view"]),
    ("report", &["data", "files", "split", "stats", "table", "train"]),
    (
        "run",
        &[
            "config", "data", "device", "encoders", "files", "manifest", "probe", "progress", "report", "score", "split", "stage", "table",
            "train",
        ],
    ),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found)
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path)
        }
    }
}

fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = vec![];
    sources(&root, &mut found);
    let name = |p: &PathBuf| p.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
    found.iter().map(|p| (name(p), std::fs::read_to_string(p).unwrap())).collect()
}

/// The modules named by `use crate::a::b` and `use crate::{a::b, c}`, where `from` is `use crate::`.
fn used(text: &str, from: &str) -> Vec<String> {
    let mut modules = vec![];
    for part in text.split(from).skip(1) {
        let statement = part.split(';').next().unwrap_or_default();
        let first = |s: &str| s.trim().split([':', ',', '}', ' ']).next().unwrap_or_default().to_string();
        match statement.strip_prefix('{') {
            None => modules.push(first(statement)),
            Some(list) => {
                let mut depth = 0;
                let top = list.split(|c| {
                    depth += (c == '{') as i32 - (c == '}') as i32;
                    c == ',' && depth == 0
                });
                modules.extend(top.map(first).filter(|m| !m.is_empty()));
            }
        }
    }
    modules
}

#[test]
fn modules_use_only_what_lies_below_them() {
    for (name, text) in files() {
        let module = name.split(['/', '.']).next().unwrap();
        if ["lib", "main", "cmd"].contains(&module) {
            continue;
        }
        let rule = RULES
            .iter()
            .find(|(m, _)| *m == module)
            .unwrap_or_else(|| panic!("{name}: no rule for this module; add one here and in ARCHITECTURE.md"));
        for other in used(&text, "use crate::") {
            let fine = other == "error" || other == "Error" || other == "Result" || other == module || rule.1.contains(&other.as_str());
            assert!(fine, "src/{name} uses `{other}`, which {module} may not know");
        }
    }
}

/// Files of `src/ops` that are pieces of several ops and none themselves: any op may use them.
const PIECES: [&str; 6] = ["choose", "packs", "product", "reduce", "scaled_sum", "stem"];
/// What else an op uses: what it fuses, or whose result it takes.
const FUSED: &[(&str, &[&str])] = &[
    ("conv", &["batch_norm"]),  // the norm that follows, folded into its weights or begun with its statistics
    ("packs", &["batch_norm"]), // the same norm, where weights are packed
    ("linear", &["gelu"]),
    ("mask", &["augment"]),   // whose batch says which samples they are
    ("tokens", &["mask"]),    // the patches that are seen
    ("mae_loss", &["mask"]),  // and those that are not
    ("drop_path", &["mask"]), // its cases: the keys of samples
];

#[test]
fn an_op_uses_pieces_and_what_it_fuses() {
    let files: Vec<(String, String)> = files().into_iter().filter_map(|(n, t)| Some((n.strip_prefix("ops/")?.to_string(), t))).collect();
    let module = |name: &str| name.split(['/', '.']).next().unwrap().to_string();
    let all: std::collections::BTreeSet<String> = files.iter().map(|(name, _)| module(name)).collect();
    let mut seen = std::collections::BTreeSet::new();
    for (name, text) in files.iter().filter(|(name, _)| name != "mod.rs") {
        let nested = name.contains('/') && !name.ends_with("/mod.rs");
        let above = if nested { "super::super::" } else { "super::" };
        let own = module(name);
        let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        for other in [used(&code, above), used(&code, "crate::ops::")].concat() {
            if !all.contains(&other) || other == own || PIECES.contains(&&*other) {
                continue;
            }
            let fused = FUSED.iter().any(|(op, uses)| *op == own && uses.contains(&&*other));
            assert!(
                fused,
                "src/ops/{name} uses `{other}`, which is an op; say in tests/repository/layers.rs what it fuses, or make a piece of what both need"
            );
            seen.insert((own.clone(), other));
        }
    }
    let said: usize = FUSED.iter().map(|(_, uses)| uses.len()).sum();
    assert_eq!(seen.len(), said, "tests/repository/layers.rs allows more than is used: {seen:?}");
}

#[test]
fn a_shape_holds_extents_alone() {
    let text = |name: &str| files().into_iter().find(|(n, _)| n == name).unwrap().1;
    let fields = |text: &str, of: &str| -> Vec<String> {
        let body = text.split(&format!("struct {of} {{")).nth(1).unwrap().split('}').next().unwrap().to_string();
        body.lines().filter_map(|l| Some(l.trim().trim_start_matches("pub ").split_once(':')?.0.to_string())).collect()
    };
    assert_eq!(fields(&text("var.rs"), "Shape"), ["dims", "rank"]);
    assert_eq!(fields(&text("tape.rs"), "Slot"), ["shape", "dtype", "kind", "residence"]);
}

#[test]
fn unsafe_code_lies_in_device_and_says_why() {
    for (name, text) in files() {
        // The type of a foreign function is no code: whoever calls it says why.
        let code = |line: &str| line.split("//").next().unwrap_or_default().replace("unsafe extern \"C\" fn(", "");
        for (i, line) in text.lines().enumerate().filter(|(_, l)| code(l).contains("unsafe ")) {
            assert!(name.starts_with("device/"), "src/{name}:{}: unsafe outside device", i + 1);
            let before: Vec<&str> = text.lines().take(i + 1).collect();
            let near = before.iter().rev().take(8).any(|l| l.contains("SAFETY") || l.contains("# Safety"));
            assert!(near, "src/{name}:{}: unsafe without a SAFETY line: {line}", i + 1);
        }
        assert!(!text.contains("cfg("), "src/{name}: conditional compilation");
    }
}

#[test]
fn only_the_command_line_prints() {
    for (name, text) in files() {
        let prints = ["println!", "eprintln!", "print!(", "dbg!"].iter().any(|p| text.contains(p));
        assert!(!prints || name.starts_with("cmd/") || name == "main.rs", "src/{name} prints");
    }
}

#[test]
fn only_device_cuda_knows_the_driver() {
    for (name, text) in files() {
        let knows = ["cudarc", "libloading"].iter().any(|word| text.lines().any(|l| !l.trim_start().starts_with("//") && l.contains(word)));
        assert!(!knows || name.starts_with("device/cuda/"), "src/{name} names the driver's bindings");
    }
}
