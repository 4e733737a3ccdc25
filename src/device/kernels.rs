//! The sources of the kernels: embedded in the binary, or read from a folder at run time.

use crate::error::{Error, Result};
use crate::files;
use std::path::Path;
use std::sync::OnceLock;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The variable that names a folder to read kernels from instead, for work on kernels without rebuilding.
pub const FOLDER: &str = "SSLMEM_KERNELS";

/// One file of kernels, or a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// As in `conv.cu`.
    pub name: &'static str,
    pub text: &'static str,
}

impl Source {
    pub fn is_header(&self) -> bool {
        self.name.ends_with(".cuh")
    }
    /// Its kernels are for `sm_90a` in bf16 only; they are chosen if [`Capabilities::wgmma`](super::Capabilities::wgmma) is set.
    pub fn is_hopper(&self) -> bool {
        self.name.ends_with("_hopper.cu")
    }
}

/// Every file, by name.
///
/// # Errors
/// The folder that was asked for cannot be read.
pub fn sources() -> Result<&'static [Source]> {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    if let Some(sources) = SOURCES.get() {
        return Ok(sources);
    }
    let read = match std::env::var_os(FOLDER) {
        Some(folder) => read(Path::new(&folder))?,
        None => EMBEDDED.iter().map(|&(name, text)| Source { name, text }).collect(),
    };
    Ok(SOURCES.get_or_init(|| read))
}

/// The files of a folder. They stay in memory until the program ends, as the embedded ones do.
fn read(folder: &Path) -> Result<Vec<Source>> {
    let mut sources = vec![];
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let name = entry.map_err(Error::io("list", folder))?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".cu") || name.ends_with(".cuh") {
            sources.push(Source { text: files::read_text(folder.join(&name))?.leak(), name: name.leak() });
        }
    }
    if sources.is_empty() {
        let what = format!("{} holds no kernels", folder.display());
        return Err(Error::config(what, format!("let {FOLDER} name the folder `kernels` of the sources, or unset it")));
    }
    sources.sort_by_key(|source| source.name);
    Ok(sources)
}
