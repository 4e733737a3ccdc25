//! Files and folders of this repository that comments and documents name exist.

use std::collections::BTreeSet;
use std::path::Path;

/// Folders whose files are read, and whose names a path may begin with.
const FOLDERS: [&str; 8] = ["benches", "docs", "examples", "fuzz", "integrations", "kernels", "src", "tests"];
/// Endings of files that are named.
const ENDINGS: [&str; 8] = [".rs", ".cu", ".cuh", ".md", ".sh", ".py", ".tsv", ".cpp"];
/// Files of other programs, and files that a program here writes.
const ELSEWHERE: [&str; 10] = [
    "references/classification/presets.py",
    "solo/methods/base.py",
    "vits.py",
    "timm/data/config.py",
    "timm/data/constants.py",
    "models/convnext/image_processing_convnext.py",
    "linear_probing_train.py",
    "memorization_scores.py",
    "stages.tsv",
    "about.tsv",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file and folder below `folder`, with the path from the root.
fn walk(folder: &str, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(root().join(folder)).unwrap().map(|e| e.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let skipped = path == "fuzz/target" || folder.is_empty() && !FOLDERS.contains(&&*name);
        if entry.path().is_dir() && !skipped {
            walk(&path, found);
        }
        found.insert(path);
    }
}

/// What `line` says to people: all of a document, of code the comment.
fn comment<'a>(file: &str, line: &'a str) -> Option<&'a str> {
    match file.rsplit('.').next()? {
        "md" => Some(line),
        "rs" | "cu" | "cuh" | "cpp" | "h" => line.find("//").map(|at| &line[at..]),
        "py" | "sh" => line.find('#').map(|at| &line[at..]),
        _ => None,
    }
}

/// The paths that a text names: words with the ending of a file, and words that begin like a folder here.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_-./*".contains(c)));
    let words = words.map(|word| word.trim_start_matches("./").trim_start_matches("../").trim_end_matches(['.', '/']));
    words.filter(|word| {
        let file = ENDINGS.iter().any(|ending| word.strip_suffix(ending).is_some_and(|stem| !stem.is_empty()));
        let inside = FOLDERS.iter().any(|folder| word.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')));
        (file || inside) && !word.contains('*')
    })
}

/// Whether a path from the root, or the end of one, names something of `all`. In ARCHITECTURE.md `x` stands for what somebody adds.
fn is_there(word: &str, file: &str, all: &BTreeSet<String>) -> bool {
    let stem = word.rsplit('/').next().unwrap().split('.').next().unwrap();
    let example = ["ARCHITECTURE.md", "tests/repository/documents.rs", "tests/emulator/src/counts.rs"].contains(&file)
        && ["x", "x_hopper"].contains(&stem);
    let ours = all.contains(word) || all.iter().any(|path| path.strip_suffix(word).is_some_and(|before| before.ends_with('/')));
    ours || example || ELSEWHERE.contains(&word)
}

#[test]
fn every_file_that_a_comment_or_a_document_names_exists() {
    let mut all = BTreeSet::new();
    walk("", &mut all);
    let mut missing = vec![];
    for file in all.iter().filter(|file| comment(file, "// #").is_some()) {
        let Ok(text) = std::fs::read_to_string(root().join(file)) else { continue };
        for (i, line) in text.lines().enumerate() {
            let words = comment(file, line).into_iter().flat_map(named).filter(|word| !is_there(word, file, &all));
            missing.extend(words.map(|word| format!("{file}:{}: {word}", i + 1)));
        }
    }
    assert!(missing.is_empty(), "there is no such file:\n{}", missing.join("\n"));
}

#[test]
fn a_path_that_leads_nowhere_is_found() {
    let all: BTreeSet<String> = ["src/ops/conv.rs", "src/ops", "kernels/conv.cu"].map(String::from).into();
    let wrong = |text: &'static str| named(text).filter(|word| !is_there(word, "src/lib.rs", &all)).collect::<Vec<_>>();
    assert_eq!(wrong("as in `src/ops/conv.rs`, ops/conv.rs, conv.cu and src/ops/."), [""; 0]);
    assert_eq!(wrong("as in `src/ops/gone.rs`, conf.cu and src/gone/."), ["src/ops/gone.rs", "conf.cu", "src/gone"]);
    assert_eq!(wrong("`*_hopper.cu`, a.b, 1.5, and x/y."), [""; 0]);
}

#[test]
fn every_invariant_names_its_test() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section = text.split("\n## ").find(|s| s.starts_with("Invariants")).expect("a section");
    let items: Vec<&str> = section.split("\n\n").flat_map(|p| p.split('\n')).filter(|l| !l.trim().is_empty()).skip(1).collect();
    let mut numbered: Vec<String> = vec![];
    for line in items {
        match line.split_once(". ") {
            Some((number, _)) if number.parse::<usize>().is_ok() => numbered.push(line.to_string()),
            _ => *numbered.last_mut().expect("the first line has a number") += line,
        }
    }
    assert!(numbered.len() > 8, "{numbered:?}");
    for item in numbered {
        assert!(item.contains("`tests/"), "no test is named: {item}");
    }
}
