//! Expands a pattern to files: braces as in a shell, comma lists, `*` and `?`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;

/// Most files of one pattern.
const MOST: usize = 1 << 20;

/// One file of a data set in several files.
#[derive(Clone, Debug)]
pub struct Shard {
    pub path: PathBuf,
    /// The file's name without its last ending, the prefix of ids.
    pub name: String,
    pub length: u64,
}

/// The files of a pattern: comma-separated parts and braces (`{a,b}`, `{000..146}`) in their order, matches of `*` and `?` bytewise. A
/// folder means its files that end in `.ENDING`. If a file has the pattern as its name, that file is meant.
///
/// # Errors
/// Patterns without a file or with too many, missing files, two files of one name (their ids would be equal).
pub fn find(pattern: &str, ending: &str) -> Result<Vec<Shard>> {
    let mut shards = Vec::new();
    for path in paths(pattern, ending)? {
        let kind = fs::metadata(&path).map_err(Error::io("read", &path))?;
        if !kind.is_file() {
            return Err(Error::format(&path, "this is not a file"));
        }
        let name = path.file_stem().and_then(|name| name.to_str()).map(String::from);
        let name = name.ok_or_else(|| Error::format(&path, "the name is not UTF-8; rename it"))?;
        shards.push(Shard { path, name, length: kind.len() });
    }
    let mut names: Vec<&str> = shards.iter().map(|shard| &shard.name[..]).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let what = format!("`{pattern}` means two files that are called `{}`, so their samples would have the same ids", twice[0]);
        return Err(Error::config(what, "rename one of them"));
    }
    Ok(shards)
}

fn paths(pattern: &str, ending: &str) -> Result<Vec<PathBuf>> {
    if is_file(Path::new(pattern))? {
        return Ok(vec![pattern.into()]);
    }
    let mut found = Vec::new();
    for text in expand(pattern)? {
        let before = found.len();
        if is_dir(Path::new(&text))? {
            glob(&format!("{}/*.{ending}", text.trim_end_matches('/')), &mut found)?;
        } else if text.contains(['*', '?']) {
            glob(&text, &mut found)?;
        } else {
            found.push(text.clone().into());
        }
        if found.len() == before {
            return Err(Error::config(format!("`{text}` means no file"), format!("name files that end in .{ending}, or their folder")));
        }
        if found.len() > MOST {
            return Err(too_many(pattern));
        }
    }
    Ok(found)
}

fn too_many(pattern: &str) -> Error {
    Error::config(format!("`{pattern}` means more than {MOST} files"), "name fewer, or put them into larger files")
}

/// The expansions of commas and braces in a pattern.
pub fn expand(pattern: &str) -> Result<Vec<String>> {
    let mut done = Vec::new();
    let mut open: Vec<String> = split(pattern).into_iter().rev().map(String::from).collect();
    while let Some(text) = open.pop() {
        let Some((before, inner, after)) = braces(&text) else {
            done.push(text);
            continue;
        };
        let choices = match range(inner) {
            Some(range) => range,
            None => split(inner).into_iter().map(String::from).collect(),
        };
        if choices.len() + done.len() + open.len() > MOST {
            return Err(too_many(pattern));
        }
        open.extend(choices.into_iter().rev().map(|choice| format!("{before}{choice}{after}")));
    }
    Ok(done)
}

/// The parts between commas outside of braces.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0i64;
    text.split(|c| {
        depth += (c == '{') as i64 - (c == '}') as i64;
        c == ',' && depth <= 0
    })
    .collect()
}

/// The first braces with a choice: (before, inside, after).
fn braces(text: &str) -> Option<(&str, &str, &str)> {
    let start = text.find('{')?;
    let mut depth = 0;
    for (at, c) in text[start..].char_indices() {
        depth += (c == '{') as i32 - (c == '}') as i32;
        if depth == 0 {
            let inner = &text[start + 1..start + at];
            let is_choice = inner.contains(',') || inner.contains("..");
            return is_choice.then_some((&text[..start], inner, &text[start + at + 1..]));
        }
    }
    None
}

/// `000..146`: every number, padded to the wider of the two if one begins with a zero.
fn range(inner: &str) -> Option<Vec<String>> {
    let (first, last) = inner.split_once("..")?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u32>().ok()).flatten();
    let (from, to) = (number(first)?, number(last)?);
    let padded = [first, last].iter().any(|text| text.len() > 1 && text.starts_with('0'));
    let width = if padded { first.len().max(last.len()) } else { 0 };
    // One more than allowed is enough for the error.
    let count = (from.abs_diff(to) as usize + 1).min(MOST + 1) as u32;
    let each = (0..count).map(|n| if from <= to { from + n } else { from - n });
    Some(each.map(|number| format!("{number:0width$}")).collect())
}

/// The files that match `*` and `?` in names of files and folders; neither matches `/`.
fn glob(pattern: &str, to: &mut Vec<PathBuf>) -> Result<()> {
    let start = if pattern.starts_with('/') { PathBuf::from("/") } else { PathBuf::new() };
    let mut level = vec![start];
    let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
    for (number, part) in parts.iter().enumerate() {
        let mut next = Vec::new();
        for folder in &level {
            if !part.contains(['*', '?']) {
                next.push(folder.join(part));
                continue;
            }
            let place = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let mut names = Vec::new();
            for entry in fs::read_dir(place).map_err(Error::io("list the folder", place))? {
                let name = entry.map_err(Error::io("list the folder", place))?.file_name();
                names.extend(name.into_string().ok().filter(|name| !name.starts_with('.') && matches(part, name)));
            }
            names.sort_unstable();
            let is_last = number + 1 == parts.len();
            for path in names.into_iter().map(|name| folder.join(name)) {
                let fits = if is_last { is_file(&path)? } else { is_dir(&path)? };
                if fits {
                    next.push(path);
                }
            }
            if next.len() > MOST {
                return Err(too_many(pattern));
            }
        }
        level = next;
    }
    to.extend(level);
    Ok(())
}

fn is_file(path: &Path) -> Result<bool> {
    Ok(files::found(path)?.is_some_and(|kind| kind.is_file()))
}

fn is_dir(path: &Path) -> Result<bool> {
    Ok(files::found(path)?.is_some_and(|kind| kind.is_dir()))
}

/// Whether a name matches. It backtracks only to the last `*`, so it takes at most pattern length times name length steps.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, eaten)) = star else { return false };
                star = Some((at, eaten + 1));
                p = at + 1;
                n = eaten + 1;
            }
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}
