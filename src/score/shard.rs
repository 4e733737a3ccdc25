//! A shard of a scoring job: its samples, the name of its table, and its number from the environment of a cluster.

use super::Layer;
use crate::error::{Error, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Shard `number` of `count`, counted from 1: a contiguous range of the list of samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    pub number: u32,
    pub count: u32,
}

const AUTO: &str = "write I/N as in 3/8, or auto under SLURM (array), Kubernetes (indexed job) or torchrun";

impl Shard {
    /// # Errors
    /// There is no such shard.
    pub fn new(number: u32, count: u32) -> Result<Shard> {
        if number == 0 || number > count {
            return Err(Error::config(format!("there is no shard {number} of {count}"), "count shards from 1: 1/8 to 8/8"));
        }
        Ok(Shard { number, count })
    }

    /// `auto`: the shard from the first of these schedulers whose variables `get` finds. `None` outside a cluster.
    ///
    /// - SLURM's job arrays: `SLURM_ARRAY_TASK_ID`, `SLURM_ARRAY_TASK_MIN`, `SLURM_ARRAY_TASK_COUNT`. The tasks must be
    ///   numbered without gaps.
    /// - Kubernetes' indexed jobs: `JOB_COMPLETION_INDEX`, and `JOB_COMPLETIONS`, which the user must set in the job.
    /// - torchrun and its like: `RANK`, `WORLD_SIZE`.
    ///
    /// # Errors
    /// A variable is missing or is no number.
    pub fn auto(get: impl Fn(&str) -> Option<String>) -> Result<Option<Shard>> {
        let number = |name: &str| -> Result<u32> {
            let text = get(name).ok_or_else(|| Error::config(format!("the environment does not set {name}"), AUTO))?;
            text.trim().parse().map_err(|_| Error::config(format!("{name} is `{text}`, not a number"), AUTO))
        };
        let of = |index: u32, first: u32, count: u32| {
            let place = index.checked_sub(first).and_then(|place| place.checked_add(1));
            Shard::new(place.unwrap_or(0), count).map(Some)
        };
        if get("SLURM_ARRAY_TASK_ID").is_some() {
            let (first, count) = (number("SLURM_ARRAY_TASK_MIN")?, number("SLURM_ARRAY_TASK_COUNT")?);
            if get("SLURM_ARRAY_TASK_MAX").is_some() && number("SLURM_ARRAY_TASK_MAX")?.checked_sub(first).map(|n| n + 1) != Some(count) {
                return Err(Error::config("the tasks of the SLURM array are numbered with gaps", "number them like --array=1-8"));
            }
            return of(number("SLURM_ARRAY_TASK_ID")?, first, count);
        }
        if get("JOB_COMPLETION_INDEX").is_some() {
            return of(number("JOB_COMPLETION_INDEX")?, 0, number("JOB_COMPLETIONS")?);
        }
        if get("RANK").is_some() {
            return of(number("RANK")?, 0, number("WORLD_SIZE")?);
        }
        Ok(None)
    }

    /// Its range among `samples`. Sizes of shards differ by at most 1.
    pub fn range(&self, samples: usize) -> Range<usize> {
        let cut = |n: u32| (samples as u128 * n as u128 / self.count as u128) as usize;
        cut(self.number - 1)..cut(self.number)
    }
}

impl FromStr for Shard {
    type Err = Error;
    /// `I/N`, or `auto`.
    fn from_str(text: &str) -> Result<Shard> {
        if text == "auto" {
            let found = Shard::auto(|name| std::env::var(name).ok())?;
            return found.ok_or_else(|| Error::config("no variable of the environment says which shard this is", AUTO));
        }
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        let (number, count) = parts.ok_or_else(|| Error::config(format!("`{text}` is no shard"), AUTO))?;
        Shard::new(number, count)
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

/// The path of one of a job's tables, derived from `--out`: `scores.parquet` itself, `scores.blocks.5.parquet` if there are several layers,
/// `scores.1-of-8.parquet` for a shard.
pub fn name(out: &Path, layer: Option<&Layer>, shard: Option<Shard>) -> PathBuf {
    if layer.is_none() && shard.is_none() {
        return out.to_path_buf();
    }
    let mut name = out.file_stem().unwrap_or_default().to_os_string();
    if let Some(layer) = layer {
        name.push(format!(".{}", layer.name()));
    }
    if let Some(Shard { number, count }) = shard {
        name.push(format!(".{number}-of-{count}"));
    }
    name.push(".");
    name.push(out.extension().unwrap_or("parquet".as_ref()));
    out.with_file_name(name)
}
