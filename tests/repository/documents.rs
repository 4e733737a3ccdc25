//! Documents match the program: links and paths exist, commands use existing verbs and flags, the page of recipe keys is generated.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sslmem::config::{self, KEYS, PRESETS, Recipe};
use sslmem::methods::METHODS;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document for people: its path below the root, and its text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = vec![];
    let mut folders = vec![root().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // What a user of the checkout puts beside it is no document of ours.
            let skipped = name.starts_with('.') || ["target", "runs", "data", "corpus", "shared"].contains(&&name[..]);
            if path.is_dir() && !skipped {
                folders.push(path);
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    found.sort();
    let below = |path: PathBuf| (path.strip_prefix(root()).unwrap().to_path_buf(), fs::read_to_string(&path).unwrap());
    found.into_iter().map(below).collect()
}

/// A document's lines outside blocks of code, or those inside blocks of one language.
fn lines<'a>(text: &'a str, language: Option<&str>) -> Vec<&'a str> {
    let mut inside: Option<&str> = None;
    let mut out = vec![];
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), inside) {
            (Some(_), Some(_)) => inside = None,
            (Some(now), None) => inside = Some(now.trim()),
            (None, _) if inside == language => out.push(line),
            (None, _) => {}
        }
    }
    out
}

/// What a heading is called in a link, as GitHub has it.
fn slug(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn slugs(text: &str) -> BTreeSet<String> {
    let headings = lines(text, None).into_iter().filter(|line| line.starts_with('#'));
    headings.map(|line| slug(line.trim_start_matches('#'))).collect()
}

/// The targets of `[text](target)` and of `src="target"`.
fn targets(text: &str) -> Vec<String> {
    let text = lines(text, None).join("\n");
    let of = |(mark, end): (&str, char)| {
        let rests = text.split(mark).skip(1);
        rests.filter_map(|rest| Some(rest.split_once(end)?.0.to_string())).collect::<Vec<_>>()
    };
    [("](", ')'), ("src=\"", '"')].into_iter().flat_map(of).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut seen = 0;
    for (path, text) in documents() {
        for target in targets(&text).iter().filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let at = if file.is_empty() { root().join(&path) } else { root().join(path.parent().unwrap()).join(file) };
            assert!(at.exists(), "{}: `{target}` leads nowhere", path.display());
            if !anchor.is_empty() {
                let there = slugs(&fs::read_to_string(&at).unwrap());
                assert!(there.contains(anchor), "{}: `{target}`: no such heading; there are {there:?}", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 60, "only {seen} links were found");
}

/// Names in backticks that stand for files of the repository.
#[test]
fn paths_in_documents_exist() {
    let tops = ["src/", "tests/", "kernels/", "benches/", "docs/", "fuzz/", "examples/", "integrations/"];
    let mut seen = 0;
    for (path, text) in documents() {
        for name in lines(&text, None).join("\n").split('`').skip(1).step_by(2) {
            let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "/_-.".contains(c));
            // `src/ops/x.rs` stands for the file that a reader will write.
            let stem = name.rsplit('/').next().unwrap().split('.').next().unwrap();
            if plain && tops.iter().any(|top| name.starts_with(top)) && !["x", "x_hopper"].contains(&stem) {
                assert!(root().join(name).exists(), "{}: there is no `{name}`", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 60, "only {seen} paths were found");
}

/// The commands in blocks of shell: the words behind `sslmem`, each command on one line.
fn commands(text: &str) -> Vec<Vec<String>> {
    let whole = lines(text, Some("sh")).join("\n").replace("\\\n", " ");
    let command = |line: &str| {
        let line = line.split(" #").next().unwrap().trim().to_string();
        let rest = ["sslmem ", "cargo run --release -- "].into_iter().find_map(|start| line.strip_prefix(start).map(str::to_string));
        rest.map(|rest| rest.split_whitespace().map(str::to_string).collect::<Vec<_>>())
    };
    whole.lines().filter_map(command).collect()
}

#[test]
fn commands_name_verbs_flags_and_presets_that_there_are() {
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let mut seen = 0;
    for (path, text) in documents() {
        for words in commands(&text) {
            let place = format!("{}: sslmem {}", path.display(), words.join(" "));
            let verb: Vec<&str> =
                words.iter().take(if words[0] == "show" || words[0] == "bench" { 2 } else { 1 }).map(|w| &w[..]).collect();
            let help = helps.entry(verb.join(" ")).or_insert_with(|| {
                let output = Command::new(env!("CARGO_BIN_EXE_sslmem")).args(&verb).arg("--help").output().unwrap();
                assert!(output.status.success(), "{place}: there is no such verb");
                String::from_utf8(output.stdout).unwrap()
            });
            for flag in words.iter().filter(|word| word.starts_with("--")).map(|word| word.split('=').next().unwrap()) {
                let known = help.split(|c: char| c != '-' && !c.is_ascii_alphanumeric()).any(|word| word == flag);
                assert!(known, "{place}: {verb:?} has no {flag}");
            }
            for pair in words.windows(2).filter(|pair| pair[0] == "--preset") {
                assert!(config::preset(&pair[1]).is_ok() || PRESETS.iter().any(|p| p.name == pair[1]), "{place}: no such preset");
            }
            seen += 1;
        }
    }
    assert!(seen > 15, "only {seen} commands were found");
}

/// `docs/recipe.md`: every key with its default and its meaning, section by section.
fn recipe_page() -> String {
    let defaults = toml::Value::Table(Recipe::default().to_toml().unwrap().parse().unwrap());
    let of = |key: &str| {
        key.split('.').try_fold(&defaults, |at, part| at.get(part)).unwrap_or_else(|| panic!("no default of {key}")).to_string()
    };
    let mut out = String::from(
        "# The recipe\n\n\
         A recipe is everything that a run depends on: the same recipe on the same data and device gives the same bytes. It is made of layers, of which the\n\
         later wins: presets (`--preset`, several go on top of each other), a TOML file (`--recipe`), flags, `--set KEY=VALUE`. A key that no recipe has is an\n\
         error.\n\n\
         ```sh\n\
         sslmem show presets                              # recipes that have a name\n\
         sslmem show recipe paper_dino                    # every key of one, with its meaning\n\
         sslmem show recipe paper_dino --sources          # whose code has each value, and what differs from it\n\
         sslmem show recipe --recipe mine.toml --set train.epochs=10\n\
         ```\n\n\
         The defaults below are those of the preset `reference`. A test makes this page of the program's keys:\n\
         `SSLMEM_BLESS=1 cargo test --release documents` writes it anew.\n",
    );
    let mut section = None;
    for (key, meaning) in KEYS {
        let of_key = key.split_once('.').map_or("", |(section, _)| section);
        if section != Some(of_key) {
            section = Some(of_key);
            let title = if of_key.is_empty() { "## Without a section".to_string() } else { format!("## `[{of_key}]`") };
            out += &format!("\n{title}\n\n| key | default | meaning |\n|---|---|---|\n");
        }
        let name = key.rsplit('.').next().unwrap();
        out += &format!("| `{name}` | `{}` | {} |\n", of(key), meaning.replace('|', "\\|"));
    }
    out
}

#[test]
fn the_recipe_page_is_made_of_the_keys() {
    let path = root().join("docs/recipe.md");
    if std::env::var_os("SSLMEM_BLESS").is_some() {
        fs::write(&path, recipe_page()).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    let differs = recipe_page().lines().zip(there.lines()).find(|(a, b)| a != b).map(|(a, _)| a.to_string());
    assert!(there == recipe_page(), "docs/recipe.md is not what the keys say ({differs:?}); look, then SSLMEM_BLESS=1");
}

#[test]
fn decisions_are_dated_and_in_the_index() {
    let folder = root().join("docs/decisions");
    let index = fs::read_to_string(folder.join("README.md")).unwrap();
    let mut names: Vec<String> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "README.md");
    names.sort();
    for (i, name) in names.iter().enumerate() {
        assert!(name.starts_with(&format!("{:03}-", i + 1)), "{name} is not number {}", i + 1);
        assert_eq!(index.matches(&format!("({name})")).count(), 1, "{name} in the index");
        let text = fs::read_to_string(folder.join(name)).unwrap();
        let date = text.lines().find_map(|line| line.strip_prefix("Date: ")).unwrap_or_else(|| panic!("{name} has no date"));
        assert!(date.starts_with("2026-") || date.starts_with("202"), "{name}: {date}");
        for part in ["## Context", "## Choice"] {
            assert!(text.contains(part), "{name} has no {part}");
        }
    }
}

#[test]
fn excerpts_of_the_worked_example_are_of_the_source() {
    let source = fs::read_to_string(root().join("src/ops/cross_entropy.rs")).unwrap();
    let source: BTreeSet<&str> = source.lines().map(str::trim).collect();
    let text = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let excerpts = lines(&text, Some("rust"));
    assert!(excerpts.len() > 15);
    for line in excerpts.iter().map(|line| line.trim()) {
        assert!(source.contains(line), "CONTRIBUTING.md: `{line}` is not in src/ops/cross_entropy.rs");
    }
}

#[test]
fn the_readme_names_presets_of_every_method() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let rows: Vec<&str> =
        text.lines().skip_while(|line| !line.starts_with("| method |")).skip(2).take_while(|l| l.starts_with('|')).collect();
    assert_eq!(rows.len(), METHODS.len());
    let mut named = BTreeSet::new();
    for row in rows {
        for name in row.split('`').skip(1).step_by(2) {
            assert!(PRESETS.iter().any(|preset| preset.name == name), "README.md: there is no preset `{name}`");
            named.insert(config::preset(name).unwrap().method.name);
        }
    }
    let all: BTreeSet<String> = METHODS.iter().map(|method| method.name().to_string()).collect();
    assert_eq!(named, all, "methods of the presets that README.md names");
}

#[test]
fn the_citation_is_of_this_version() {
    let text = fs::read_to_string(root().join("CITATION.cff")).unwrap();
    assert!(text.contains(&format!("\nversion: {}\n", env!("CARGO_PKG_VERSION"))), "CITATION.cff has another version");
}
