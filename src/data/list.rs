//! Images listed in a text file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;

use crate::error::{Error, Result, plain};
use crate::files;

use super::labels::{Label, numbered};
use super::section::{self, Section};
use super::{Image, Source};

/// One image per line: its path relative to the list's folder, and optionally its label, a number after a tab or a comma, or a class name
/// after a tab. Empty lines and lines that begin with `#` are skipped. All images are the training part; ids are the paths as written.
pub struct List {
    folder: PathBuf,
    files: Vec<Line>,
    classes: Vec<String>,
    digest: String,
    largest: OnceLock<usize>,
}

struct Line {
    path: String,
    label: Option<u32>,
    length: u64,
}

impl List {
    /// Takes the length of every file, in parallel. No file is read, so the digest covers paths, lengths and labels, not the content.
    ///
    /// # Errors
    /// No such list, no image in it, an unreadable label, a missing file; each with its line.
    pub fn open(path: impl AsRef<Path>) -> Result<List> {
        let list = path.as_ref();
        let text = files::read_lines(list)?;
        let folder = list.parent().map(Path::to_path_buf).unwrap_or_default();
        let lines = text.trim_start_matches('\u{FEFF}').lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
        let lines: Vec<_> = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
        let read = |number: usize, line: &str| {
            let wrong = |what: String| Error::format(list, format!("line {number}: {what}"));
            let (path, label) = parse(line).map_err(wrong)?;
            let kind = fs::metadata(folder.join(path)).map_err(|error| wrong(format!("{path}: {}", plain(&error))))?;
            if !kind.is_file() {
                return Err(wrong(format!("{path} is not a file")));
            }
            Ok((Line { path: path.to_string(), label: None, length: kind.len() }, label))
        };
        let files: Vec<Result<_>> = lines.par_iter().map(|&(number, line)| read(number, line)).collect();
        let (mut files, labels): (Vec<Line>, Vec<_>) = files.into_iter().collect::<Result<Vec<_>>>()?.into_iter().unzip();
        if files.is_empty() {
            return Err(Error::format(list, "lists no image; write one path per line"));
        }
        let (labels, classes) = numbered(labels);
        files.iter_mut().zip(labels).for_each(|(line, label)| line.label = label);
        let samples = files.iter().map(|line| (&line.path[..], line.length, line.label));
        let digest = section::digest("list", files.len(), &classes, samples);
        Ok(List { folder, files, classes, digest, largest: OnceLock::new() })
    }

    fn section(&self, index: usize) -> Section {
        let Line { path, length, .. } = &self.files[index];
        Section::whole(self.folder.join(path), *length)
    }
}

/// The path and the label of a line. A comma separates them only if a number follows; otherwise it is part of the path.
fn parse(line: &str) -> std::result::Result<(&str, Option<Label>), String> {
    let (path, label) = match (line.rsplit_once('\t'), line.rsplit_once(',')) {
        (Some(parts), _) => parts,
        (None, Some((path, number))) if number.trim().parse::<i64>().is_ok() => (path, number),
        _ => return Ok((line, None)),
    };
    match path.trim_end() {
        "" => Err("there is no path before the label".into()),
        path => Ok((path, Label::text(label).map_err(|what| format!("the label {what}"))?)),
    }
}

impl Source for List {
    fn name(&self) -> &str {
        "list"
    }
    fn len(&self) -> usize {
        self.files.len()
    }
    fn train_len(&self) -> usize {
        self.files.len()
    }
    fn id(&self, index: usize) -> String {
        self.files[index].path.clone()
    }
    fn label(&self, index: usize) -> Option<u32> {
        self.files[index].label
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn digest(&self) -> &str {
        &self.digest
    }
    fn largest(&self) -> usize {
        *self.largest.get_or_init(|| section::largest(self.files.len(), |index| (self.section(index), self.files[index].path.clone())))
    }
    fn image(&self, index: usize) -> Result<Image> {
        self.section(index).image(&self.files[index].path)
    }
    fn image_within(&self, index: usize, admit: &mut dyn FnMut(u64) -> bool) -> Result<Option<(Image, Option<blake3::Hash>)>> {
        self.section(index).image_within(&self.files[index].path, admit)
    }
    fn file(&self, index: usize) -> Result<Option<Vec<u8>>> {
        self.section(index).read().map(Some)
    }
}
