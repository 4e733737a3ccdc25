//! The report of a run on a card: what benches/gpu.sh collected in a folder, as one JSON file and one table for people.
//!
//! The folder holds `about.tsv` (key, value: date, commit, card, driver, ...), `stages.tsv` (stage, outcome, seconds, words),
//! and of the benchmarks that ran `ours.jsonl` and `rival.jsonl`.

use serde_json::{Map, Value, json};
use sslmem::error::{Error, Result};
use sslmem::files;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Makes `gpu.json` and `gpu.txt` in the folder and returns the text.
///
/// # Errors
/// The folder lacks what every run leaves, or a line of it is not what it should be.
pub fn merge(folder: &Path) -> Result<String> {
    let needed = |name: &str| files::read_text(folder.join(name));
    let about: Map<String, Value> = rows(&needed("about.tsv")?).map(|row| (row[0].clone(), json!(row.get(1)))).collect();
    let stages: Vec<Vec<String>> = rows(&needed("stages.tsv")?).collect();
    let numbers = |name: &str| {
        let path = folder.join(name);
        if path.exists() { lines(&path, &files::read_text(&path)?) } else { Ok(vec![]) }
    };
    let report = report(about, &stages, numbers("ours.jsonl")?, numbers("rival.jsonl")?);
    let text = text(&report);
    files::write_whole(folder.join("gpu.json"), format!("{report:#}\n").as_bytes())?;
    files::write_whole(folder.join("gpu.txt"), text.as_bytes())?;
    Ok(text)
}

fn rows(text: &str) -> impl Iterator<Item = Vec<String>> {
    text.lines().map(|line| line.split('\t').map(str::to_string).collect())
}

/// A program that was stopped may leave half a line at the end; what else it printed is no JSON and no error.
fn lines(path: &Path, text: &str) -> Result<Vec<Value>> {
    let found: Vec<&str> = text.split_inclusive('\n').filter(|l| l.starts_with('{') && l.ends_with('\n')).collect();
    let bad = |e| Error::format(path, format!("a line is no JSON ({e})"));
    found.into_iter().map(|line| serde_json::from_str(line).map_err(bad)).collect()
}

/// Name and unit of a number. Both, because a kernel's time and its network's rate may have the same name.
type Key = (String, String);

fn key(line: &Value) -> Option<Key> {
    Some((line["name"].as_str()?.to_string(), line["unit"].as_str()?.to_string()))
}

/// The best that was found of each number: a rival that tries several ways prints a line for each.
fn best(lines: Vec<Value>) -> BTreeMap<Key, Value> {
    let mut found: BTreeMap<Key, Value> = BTreeMap::new();
    let better = |a: &Value, b: &Value| {
        let (x, y) = (a["value"].as_f64().unwrap_or(f64::NAN), b["value"].as_f64().unwrap_or(f64::NAN));
        if a["unit"] == "us" { x < y } else { x > y }
    };
    for line in lines.into_iter().filter(|line| line["value"].is_f64()) {
        let Some(key) = key(&line) else { continue };
        if found.get(&key).is_none_or(|known| better(&line, known)) {
            found.insert(key, line);
        }
    }
    found
}

/// All that was measured, each number of ours with its distance to the card and to the rival.
pub fn report(about: Map<String, Value>, stages: &[Vec<String>], ours: Vec<Value>, rival: Vec<Value>) -> Value {
    let failed = |lines: &[Value], who: &str| -> Vec<Value> {
        let errors = lines.iter().filter(|line| line["error"].is_string());
        errors.map(|line| json!({ "who": who, "name": line["name"], "error": line["error"] })).collect()
    };
    let missing = [failed(&ours, "sslmem"), failed(&rival, "PyTorch")].concat();
    let order: Vec<Key> = ours.iter().filter_map(key).collect();
    let (mut ours, rival) = (best(ours), best(rival));
    let value = |lines: &BTreeMap<Key, Value>, name: &str, unit: &str| lines.get(&(name.into(), unit.into()))?["value"].as_f64();
    let copy = value(&ours, "ceiling/copy", "GB/s");
    // An 8192 x 8192 x 8192 product by the vendor's library, through PyTorch (microseconds) or by itself (TFLOP/s).
    let matrix = value(&rival, "linear_fwd/8192x8192x8192", "us").map(|us| 2.0 * 8192f64.powi(3) / us / 1e6);
    let matrix = matrix.or(value(&ours, "cublaslt/8192x8192x8192", "TFLOP/s"));
    let alone = rival.iter().filter(|(key, _)| !ours.contains_key(key)).map(|(_, line)| line);
    let alone: Vec<Value> = alone.cloned().collect();
    let mut numbers = vec![];
    for key in order {
        let Some(mut line) = ours.remove(&key) else { continue };
        let (seconds, of) = (line["seconds"].as_f64(), |key: &str| line[key].as_f64());
        let rate = |key: &str, scale: f64| Some(of(key)? / seconds? / scale).filter(|rate| *rate > 0.0);
        let (gbs, tflops) = (rate("bytes", 1e9), rate("flops", 1e12));
        let share = |part: Option<f64>, whole: Option<f64>| Some(100.0 * part? / whole?);
        let theirs = rival.get(&key);
        let ratio = theirs.and_then(|t| Some((line["value"].as_f64()?, t["value"].as_f64()?, line["unit"] == "us")));
        line["gb_per_s"] = json!(gbs);
        line["tflop_per_s"] = json!(tflops);
        line["percent_of_copy"] = json!(share(gbs, copy));
        line["percent_of_matrix"] = json!(share(tflops, matrix));
        line["pytorch"] = theirs.map_or(Value::Null, |t| t["value"].clone());
        line["pytorch_how"] = theirs.map_or(Value::Null, |t| t["how"].clone());
        line["times_as_fast"] = json!(ratio.map(|(a, b, time)| if time { b / a } else { a / b }));
        numbers.push(line);
    }
    let stage = |s: &Vec<String>| json!({ "stage": s[0], "outcome": s.get(1), "seconds": s.get(2), "words": s.get(3) });
    json!({ "about": about, "stages": stages.iter().map(stage).collect::<Vec<_>>(), "matrix_tflop_per_s": matrix, "numbers": numbers,
            "missing": missing, "pytorch_alone": alone })
}

/// The same for people.
pub fn text(report: &Value) -> String {
    let mut t = String::new();
    let word = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    let number = |v: &Value, digits: usize| v.as_f64().map_or_else(|| "-".to_string(), |v| format!("{v:.digits$}"));
    let list = |key: &str| report[key].as_array().cloned().unwrap_or_default();
    for (key, value) in report["about"].as_object().into_iter().flatten() {
        let _ = writeln!(t, "{key:<9} {}", word(value));
    }
    let _ = writeln!(t, "\n{:<12} {:<8} {:>7}", "stage", "outcome", "seconds");
    for s in list("stages") {
        let line = format!("{:<12} {:<8} {:>7}  {}", word(&s["stage"]), word(&s["outcome"]), word(&s["seconds"]), word(&s["words"]));
        let _ = writeln!(t, "{}", line.trim_end());
    }
    let numbers = list("numbers");
    if !numbers.is_empty() {
        let head = ["measured", "", "unit", "GB/s", "% copy", "TFLOP/s", "% matrix", "PyTorch", "x"];
        let _ = writeln!(
            t,
            "\n{:<42} {:>12} {:<9} {:>8} {:>6} {:>8} {:>8} {:>12} {:>6}",
            head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7], head[8]
        );
    }
    for n in &numbers {
        let line = format!(
            "{:<42} {:>12} {:<9} {:>8} {:>6} {:>8} {:>8} {:>12} {:>6}  {}",
            word(&n["name"]),
            number(&n["value"], 1),
            word(&n["unit"]),
            number(&n["gb_per_s"], 0),
            number(&n["percent_of_copy"], 0),
            number(&n["tflop_per_s"], 1),
            number(&n["percent_of_matrix"], 0),
            number(&n["pytorch"], 1),
            number(&n["times_as_fast"], 2),
            n["pytorch_how"].as_str().unwrap_or_default()
        );
        let _ = writeln!(t, "{}", line.trim_end());
    }
    for n in list("pytorch_alone") {
        let (name, how) = (word(&n["name"]), n["how"].as_str().unwrap_or_default());
        let _ = writeln!(t, "PyTorch alone: {name} {} {}  {how}", number(&n["value"], 1), word(&n["unit"]));
    }
    let matrix = number(&report["matrix_tflop_per_s"], 0);
    let _ = writeln!(t, "\n% copy: of the rate of `ceiling/copy`; % matrix: of PyTorch's 8192^3 product in bf16, {matrix} TFLOP/s");
    for m in list("missing") {
        let _ =
            writeln!(t, "missing: {} of {}: {}", word(&m["name"]), word(&m["who"]), word(&m["error"]).lines().next().unwrap_or_default());
    }
    t
}
