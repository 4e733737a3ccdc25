//! Compiled kernels that travel with the programs: minutes on a card are too dear for a compiler.

use rayon::prelude::*;
use sslmem::device::cuda::{Cache, Nvrtc, Search, image, options};
use sslmem::device::kernels::{Source, sources};
use sslmem::error::{Error, Result};
use sslmem::var::Dtype;
use std::path::Path;

/// Compiles every file for Hopper, in both types, into a cache at `folder` as the program looks for it, with the NVRTC that is found.
///
/// # Errors
/// There is no compiler, or it refuses a file.
pub fn all(folder: &Path) -> Result<usize> {
    let missing = || Error::config("there is no NVRTC here", "let SSLMEM_NVRTC name the folder of libnvrtc.so");
    let place = Search::new(None).nvrtc.ok_or_else(missing)?.path;
    let files: Vec<&Source> = sources()?.iter().filter(|source| !source.is_header()).collect();
    let jobs: Vec<(&Source, Dtype)> = files.iter().flat_map(|source| [(*source, Dtype::Bf16), (*source, Dtype::F32)]).collect();
    let jobs: Vec<_> = jobs.into_iter().filter(|(source, dtype)| *dtype == Dtype::Bf16 || !source.is_hopper()).collect();
    jobs.par_iter().try_for_each(|(source, dtype)| {
        let nvrtc = Nvrtc::open(&place).map_err(|why| Error::device(why, "try another version of NVRTC"))?;
        image(source, &nvrtc, &Cache { folder: Some(folder.into()) }, &options("sm_90a", *dtype)).map(|_| ())
    })?;
    Ok(jobs.len())
}
