//! Merges the tables of all shards into the table of a run without shards.

use super::Shard;
use super::assemble::features_digest;
use super::features;
use super::job::JobReport;
use super::parts::Parts;
use crate::data::Content;
use crate::error::{Error, Result};
use crate::files::{self, Lock};
use crate::manifest::{self, DataFacts, FeatureFacts, Manifest, Throughput, Trust};
use crate::progress::Progress;
use crate::stage::{Existing, Identity, difference};
use crate::table::{self, Format, TableWriter, Totals};
use serde_json::Value;
use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A shard's table, verified against its manifest.
struct Part<'a> {
    path: &'a Path,
    manifest: Manifest,
    shard: Shard,
}

/// Joins the tables of all shards of one job at `out`, computes the columns that need all rows, and joins the features. The bytes are those
/// of a run without shards. One shard's table is in memory at a time. The same call repeats a stopped merge: the folder at `out` holds the
/// identity of the merge whose outputs have no manifest yet. `force` replaces the outputs of another.
///
/// # Errors
/// The tables are not of one job, a shard is missing or named twice, or a file differs from its manifest's digest; `out` is one of the
/// inputs, another process works there, or another file is in its place.
pub fn merge(out: &Path, shards: &[PathBuf], force: bool, progress: &mut dyn Progress) -> Result<JobReport> {
    Format::of(out)?;
    files::check_writable(out)?;
    let lock = Lock::output(out)?;
    lock.warning().iter().for_each(|text| progress.warning(text));
    let mut parts = shards.iter().map(|path| open(path)).collect::<Result<Vec<_>>>()?;
    parts.sort_by_key(|part| part.shard.number);
    let Some(first) = parts.first() else {
        return Err(Error::config("no shard is named", "name the tables of all shards"));
    };
    fit(&parts)?;
    let features: Vec<PathBuf> = first.manifest.embeddings.iter().map(|e| features::path(out, &e.role)).collect();
    let outputs = [&[out.to_path_buf(), Manifest::path(out)], &features[..]].concat();
    spare_inputs(&outputs, &parts)?;
    outputs.iter().try_for_each(|path| files::remove_unfinished_of(path))?;
    let job = first.manifest.job.clone().map(whole).unwrap_or_default();
    let folder = Parts::of(out);
    let mine = Identity::new(serde_json::json!({ "sslmem": env!("CARGO_PKG_VERSION"), "merge": job }));
    let content = parts.iter().map(|part| content(part)).sum::<Result<Content>>()?.hex();
    let begun = folder.begun()?;
    if let Some(manifest) = Manifest::read(out).ok().filter(|m| begun.is_none() && !force && merged(out, m, &job, &content)) {
        let notes = folder.remove()?.into_iter().collect(); // a crash during the removal leaves the rest of the folder
        let Manifest { rows, data: DataFacts { skipped, .. }, throughput, .. } = manifest;
        return Ok(JobReport {
            tables: vec![out.to_path_buf()],
            embeddings: features,
            rows: rows as u64,
            skipped,
            throughput,
            before: true,
            notes,
        });
    }
    folder.claim(&mine, &outputs, if force { Existing::Replace } else { Existing::Keep })?;
    folder.begin(&mine)?;
    let (mut totals, mut seen, mut indices) = (Totals::default(), HashSet::new(), vec![]);
    for part in &parts {
        for row in table::read(part.path)? {
            totals.add(&row);
            indices.push(row.index);
            if !seen.insert(row.index) {
                return Err(Error::format(part.path, format!("sample {} is in another shard, too", row.index)));
            }
        }
    }
    drop(seen);
    let skipped = parts.iter().flat_map(|part| part.manifest.data.skipped.clone()).collect();
    let data = DataFacts { skipped, content, ..first.manifest.data.clone() };
    let embeddings = embeddings(out, &parts, &features_digest(&data, &indices))?;
    let mut writer = TableWriter::create(out, &totals, &[])?;
    for part in &parts {
        for mut row in table::read(part.path)? {
            totals.finish(&mut row);
            writer.push(row)?;
        }
    }
    writer.commit()?;
    let mut manifest = first.manifest.clone();
    manifest.job = manifest.job.map(whole);
    manifest.rows = totals.rows as usize;
    manifest.table = files::digest_file(out)?;
    (manifest.data, manifest.embeddings) = (data, embeddings);
    manifest.seconds = parts.iter().map(|part| part.manifest.seconds).sum();
    manifest.throughput = parts.iter().fold(Throughput::default(), |sum, part| sum + part.manifest.throughput);
    let notes = notes(&parts);
    manifest.write(out)?;
    let notes = notes.into_iter().chain(folder.remove()?).collect();
    let (skipped, throughput) = (manifest.data.skipped, manifest.throughput);
    let embeddings = manifest.embeddings.iter().map(|e| features::path(out, &e.role)).collect();
    Ok(JobReport { tables: vec![out.to_path_buf()], embeddings, rows: totals.rows, skipped, throughput, before: false, notes })
}

/// Whether the existing files are those of an earlier merge of these shards.
fn merged(out: &Path, manifest: &Manifest, job: &Value, content: &Option<String>) -> bool {
    let is = |path: &Path, digest: &str| files::digest_file(path).is_ok_and(|found| found == digest);
    let features = || manifest.embeddings.iter().all(|e| is(&features::path(out, &e.role), &e.digest));
    manifest.job.as_ref() == Some(job) && manifest.data.content == *content && is(out, &manifest.table) && features()
}

/// Refuses an output that is one of the inputs.
fn spare_inputs(outputs: &[PathBuf], parts: &[Part]) -> Result<()> {
    let own = |part: &Part| {
        let features = part.manifest.embeddings.iter().map(|e| features::path(part.path, &e.role));
        [part.path.to_path_buf(), Manifest::path(part.path)]
            .into_iter()
            .chain(features)
            .filter_map(|path| path.canonicalize().ok())
            .collect()
    };
    let inputs: HashSet<PathBuf> = parts.iter().flat_map(|part| -> Vec<PathBuf> { own(part) }).collect();
    match outputs.iter().find(|path| path.canonicalize().is_ok_and(|path| inputs.contains(&path))) {
        None => Ok(()),
        Some(path) => {
            let what = format!("{} is one of the files that are to be merged", path.display());
            Err(Error::config(what, "choose another name for the table of all"))
        }
    }
}

fn content(part: &Part) -> Result<Content> {
    let content = Content::parse(part.manifest.data.content.as_deref());
    content.ok_or_else(|| Error::format(Manifest::path(part.path), "its `content` is no digest; score this shard again"))
}

/// A remark if shards were scored on different processors, whose scores differ in the last digits.
fn notes(parts: &[Part]) -> Option<String> {
    let device = |part: &Part| part.manifest.device.clone();
    let other = parts.iter().find(|part| device(part) != device(&parts[0]))?;
    let (a, b) = (device(&parts[0]), device(other));
    let (first, other) = (parts[0].path.display(), other.path.display());
    Some(format!(
        "{first} was scored on {a} and {other} on {b}: these differ in the last digits of a score, so one run would not give these bytes"
    ))
}

/// Joins the features of all shards, for each encoder that has them. `data` is the digest for the header.
fn embeddings(out: &Path, parts: &[Part], data: &str) -> Result<Vec<FeatureFacts>> {
    let first = &parts[0].manifest;
    let rows = parts.iter().map(|part| part.manifest.rows).sum();
    let one = |own: &FeatureFacts| {
        let all: Vec<_> = parts
            .iter()
            .flat_map(|part| part.manifest.embeddings.iter().filter(move |e| e.role == own.role).map(move |e| (part, e)))
            .collect();
        // The features of an empty shard have width 0.
        let width = all.iter().map(|(_, e)| e.width).max().unwrap_or(0);
        let arch = first.encoders.iter().find(|e| e.role == own.role).map_or("", |e| &e.arch);
        let mut table =
            features::Table::create(&features::path(out, &own.role), &own.role, &features::head(rows, width, data, arch), width)?;
        for (part, facts) in all {
            let path = features::path(part.path, &facts.role);
            let mut file = File::open(&path).map_err(Error::io("read", &path))?;
            // Counted from the end of the file, so that the header need not be parsed.
            file.seek(SeekFrom::End(-(4 * (part.manifest.rows * facts.width) as i64))).map_err(Error::io("read", &path))?;
            let mut some = vec![0; 1 << 20];
            loop {
                match file.read(&mut some).map_err(Error::io("read", &path))? {
                    0 => break,
                    n => table.push(&some[..n])?,
                }
            }
        }
        table.commit()
    };
    first.embeddings.iter().map(one).collect()
}

/// A job's identity without its shard.
fn whole(mut job: Value) -> Value {
    job["shard"] = Value::Null;
    job
}

fn open(path: &Path) -> Result<Part<'_>> {
    if Format::of(path)? == Format::Npy {
        return Err(Error::config(format!("{} is a table for NumPy, which is not read here", path.display()), "write shards as .parquet"));
    }
    let manifest = manifest::scored(path, Trust::Verified)?.manifest.ok_or_else(|| no_shard(path))?;
    let shard = manifest.job.as_ref().and_then(|job| job["shard"].as_str()).and_then(|text| text.parse::<Shard>().ok());
    let shard = shard.ok_or_else(|| no_shard(path))?;
    for (path, digest) in manifest.embeddings.iter().map(|e| (features::path(path, &e.role), &e.digest)) {
        if files::digest_file(&path)? != *digest {
            return Err(Error::format(path, "was changed or damaged since its manifest was written; score this shard again"));
        }
    }
    Ok(Part { path, manifest, shard })
}

fn no_shard(path: &Path) -> Error {
    Error::config(format!("{} is not the table of a shard", path.display()), "name what `sslmem score --shard` wrote")
}

/// Refuses parts that are not all shards of one job, each once. They are sorted by shard.
fn fit(parts: &[Part]) -> Result<()> {
    let first = &parts[0];
    let job = |part: &Part| part.manifest.job.clone().map(whole).unwrap_or_default();
    for part in parts {
        let layer = |part: &Part| part.manifest.layer.clone().map(Value::from).unwrap_or_default();
        let sampled = |part: &Part| part.manifest.data.sampled.clone().map(Value::from).unwrap_or_default();
        // The number of shards first, because other differences follow from it.
        let count = |part: &Part| Value::from(part.shard.count);
        let found = difference(&count(first), &count(part), "the number of shards")
            .or_else(|| difference(&job(first), &job(part), ""))
            .or_else(|| difference(&layer(first), &layer(part), "the layer"))
            .or_else(|| difference(&sampled(first), &sampled(part), "the content of the images"));
        if let Some(what) = found {
            let what = format!("{} and {} are not of one job: {what}", first.path.display(), part.path.display());
            return Err(Error::config(
                what.replace(" there ", " in the first ").replace(" here", " in the second"),
                "merge shards of one job",
            ));
        }
    }
    let count = first.shard.count;
    if let Some(pair) = parts.windows(2).find(|pair| pair[0].shard == pair[1].shard) {
        let what = format!("{} and {} are both shard {}", pair[0].path.display(), pair[1].path.display(), pair[0].shard);
        return Err(Error::config(what, "name each shard once"));
    }
    // Sorted and unique, so the first number out of place shows the gap.
    let gap = (1..=count).zip(parts.iter().map(|part| Some(part.shard.number)).chain(std::iter::repeat(None)));
    if let Some((number, _)) = gap.into_iter().find(|(number, found)| Some(*number) != *found) {
        let what = format!("shard {number}/{count} is missing ({} of {count} are named)", parts.len());
        return Err(Error::config(what, "score it, or name its table"));
    }
    let samples = job(first)["split"]["samples"].as_u64().unwrap_or(0) as usize;
    for part in parts {
        let want = part.shard.range(samples).len();
        let have = part.manifest.rows + part.manifest.data.skipped.len();
        if have != want {
            return Err(Error::format(
                part.path,
                format!("has {have} samples where shard {} has {want}; score this shard again", part.shard),
            ));
        }
    }
    Ok(())
}
