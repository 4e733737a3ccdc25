//! Compiled kernels on the disk: one file per source, options, compiler and architecture.

use super::super::kernels::Source;
use super::nvrtc::Nvrtc;
use crate::error::Result;
use crate::files;
use std::path::{Path, PathBuf};

/// The variable that names the folder.
pub const PLACE: &str = files::CACHE;

/// Bytes of the digest that a file begins with.
const DIGEST: usize = blake3::OUT_LEN;

/// A folder of compiled kernels; it may be deleted at any time.
pub struct Cache {
    /// Nowhere, if the system names no folder for caches.
    pub folder: Option<PathBuf>,
}

impl Cache {
    /// The folder that the environment's variables name.
    pub fn new(variable: impl Fn(&str) -> Option<String>) -> Cache {
        Cache { folder: files::cache_folder(variable) }
    }

    /// The result of `compile` for these inputs: from the disk if it is there and intact, else compiled and stored. A disk that cannot be
    /// written costs time, not the result.
    ///
    /// # Errors
    /// Those of `compile`.
    pub fn image(&self, name: &str, compile: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        let path = self.folder.as_ref().map(|folder| folder.join(name));
        if let Some(image) = path.as_deref().and_then(read) {
            return Ok(image);
        }
        let image = compile()?;
        if let Some(path) = path {
            let _ = write(&path, &image);
        }
        Ok(image)
    }

    /// Files and bytes in the folder.
    pub fn size(&self) -> (usize, u64) {
        let entries = self.folder.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
        let sizes = entries.filter_map(|entry| entry.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len());
        sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size))
    }
}

/// The file name of a compilation: everything that its result depends on is in the digest.
pub fn name(source: &Source, headers: &[Source], options: &[String], nvrtc: &Nvrtc) -> String {
    let mut hash = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    for text in std::iter::once(source).chain(headers) {
        part(text.name.as_bytes());
        part(text.text.as_bytes());
    }
    options.iter().for_each(|option| part(option.as_bytes()));
    part(format!("{:?}", nvrtc.version).as_bytes());
    let stem = source.name.trim_end_matches(".cu");
    format!("{stem}-{}.image", &hash.finalize().to_hex()[..32])
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    let (digest, image) = bytes.split_at_checked(DIGEST)?;
    (blake3::hash(image).as_bytes() == digest).then(|| image.to_vec())
}

fn write(path: &Path, image: &[u8]) -> Result<()> {
    files::create_dir(path.parent().unwrap_or(Path::new(".")))?;
    files::write_whole(path, &[blake3::hash(image).as_bytes(), image].concat())
}
