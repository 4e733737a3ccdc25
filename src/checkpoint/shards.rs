//! Weights in several files, as Hugging Face stores large models: an index beside them gives the file of each tensor.

use super::Checkpoint;
use crate::error::{Error, Result};
use crate::files;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest index in bytes; it has about 100 per tensor.
const LARGEST: u64 = 64 << 20;

/// Most files of an index; all of them stay open.
const MOST: usize = 256;

/// File names of weights in a folder; the first that exists is taken.
const NAMES: [&str; 4] = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The file of a path: the path itself, or the weights in a folder.
pub fn meant(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let found = NAMES.iter().map(|name| path.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| {
        Error::format(path, format!("is a folder without {}, so it does not say what is meant; name the file of weights", NAMES[0]))
    })
}

pub fn is_index(path: &Path) -> bool {
    path.to_string_lossy().ends_with(".index.json")
}

/// The file name of each tensor. The files lie in the folder of the index.
fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    let mut text = vec![];
    let file = files::open(path)?;
    file.take(LARGEST).read_to_end(&mut text).map_err(Error::io("read", path))?;
    let index: Index = serde_json::from_slice(&text).map_err(|e| {
        Error::format(path, format!("is not an index of files of weights ({e}); name the file of weights, or get it again"))
    })?;
    let names: BTreeSet<&String> = index.weight_map.values().collect();
    if names.is_empty() || names.len() > MOST {
        return Err(Error::format(path, format!("names {} files of weights; 1 to {MOST} are read here", names.len())));
    }
    if let Some(name) = names.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        let name: String = name.escape_debug().take(80).collect();
        return Err(Error::format(path, format!("names the file `{name}`, which is not in its own folder; get the index again")));
    }
    Ok(index.weight_map)
}

fn parts(path: &Path, map: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let names: BTreeSet<&String> = map.values().collect();
    names.into_iter().map(|name| path.with_file_name(name)).collect()
}

/// The tensors of all files of an index.
pub fn open(path: &Path) -> Result<Checkpoint> {
    let map = read(path)?;
    let mut whole: Option<Checkpoint> = None;
    for part in parts(path, &map) {
        let part = Checkpoint::one(&part)?;
        match &mut whole {
            None => whole = Some(part),
            Some(whole) => whole.join(part)?,
        }
    }
    let missing = |file: &Checkpoint| map.keys().find(|name| !file.tensors.contains_key(*name)).cloned();
    match whole {
        Some(file) if missing(&file).is_none() => Ok(Checkpoint { path: path.to_path_buf(), ..file }),
        whole => {
            let name = whole.as_ref().and_then(missing).unwrap_or_default();
            let name: String = name.escape_debug().take(80).collect();
            Err(Error::format(path, format!("names a tensor `{name}` that none of its files has; get them again")))
        }
    }
}

impl Checkpoint {
    /// Adds the tensors of another file.
    fn join(&mut self, other: Checkpoint) -> Result<()> {
        let before = self.inputs.len();
        self.inputs.extend(other.inputs);
        for (name, mut tensor) in other.tensors {
            tensor.place.file += before;
            if self.tensors.contains_key(&name) {
                return Err(Error::format(
                    other.path,
                    format!("holds tensor `{name}`, which another file of the same index holds as well"),
                ));
            }
            self.tensors.insert(name, tensor);
        }
        Ok(())
    }
}

/// BLAKE3 of a file of weights, hexadecimal. For an index it covers the digests of the index and of its files.
///
/// # Errors
/// As [`Checkpoint::open`] for missing files and broken indices.
pub fn digest(path: &Path) -> Result<String> {
    let path = meant(path)?;
    let own = files::digest_file(&path)?;
    if !is_index(&path) {
        return Ok(own);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(own.as_bytes());
    for part in parts(&path, &read(&path)?) {
        hasher.update(files::digest_file(part)?.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}
