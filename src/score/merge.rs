//! From the tables of all shards to the table that one unsharded run would have written.

use super::Shard;
use super::assemble::features_digest;
use super::features;
use super::job::{Done, difference};
use crate::error::{Error, Result};
use crate::files;
use crate::manifest::{DataFacts, FeatureFacts, Manifest, Throughput};
use crate::table::{self, Format, TableWriter, Totals};
use serde_json::Value;
use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A shard's table that was found to be what its manifest says.
struct Part<'a> {
    path: &'a Path,
    manifest: Manifest,
    shard: Shard,
}

/// Put the tables of all shards of one job together at `out`, with the columns that need the whole table, the features that lie beside
/// them, and the manifest. The bytes are those of a run without shards. One shard's table is in memory at a time.
///
/// # Errors
/// The tables are not of one job, one is missing or there twice, or a file is not what its manifest says.
pub fn merge(out: &Path, shards: &[PathBuf]) -> Result<Done> {
    Format::of(out)?;
    files::check_writable(out)?;
    let mut parts = shards.iter().map(|path| open(path)).collect::<Result<Vec<_>>>()?;
    parts.sort_by_key(|part| part.shard.number);
    let Some(first) = parts.first() else {
        return Err(Error::config("no shard is named", "name the tables of all shards"));
    };
    fit(&parts)?;
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
    let data = DataFacts { skipped, ..first.manifest.data.clone() };
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
    manifest.write(out)?;
    let (skipped, throughput) = (manifest.data.skipped, manifest.throughput);
    let embeddings = manifest.embeddings.iter().map(|e| features::path(out, &e.role)).collect();
    Ok(Done { tables: vec![out.to_path_buf()], embeddings, rows: totals.rows, skipped, throughput, before: false })
}

/// Put the features of all shards together, for each encoder of which they have some. `data` is the digest for their heads.
fn embeddings(out: &Path, parts: &[Part], data: &str) -> Result<Vec<FeatureFacts>> {
    let first = &parts[0].manifest;
    let rows = parts.iter().map(|part| part.manifest.rows).sum();
    let one = |own: &FeatureFacts| {
        let all: Vec<_> = parts
            .iter()
            .flat_map(|part| part.manifest.embeddings.iter().filter(move |e| e.role == own.role).map(move |e| (part, e)))
            .collect();
        // A shard without samples does not know how wide they would be.
        let width = all.iter().map(|(_, e)| e.width).max().unwrap_or(0);
        let arch = first.encoders.iter().find(|e| e.role == own.role).map_or("", |e| &e.arch);
        let mut table =
            features::Table::create(&features::path(out, &own.role), &own.role, &features::head(rows, width, data, arch), width)?;
        for (part, facts) in all {
            let path = features::path(part.path, &facts.role);
            let mut file = File::open(&path).map_err(Error::io("read", &path))?;
            // The values are the end of the file.
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
    let manifest = Manifest::read(path)?;
    let shard = manifest.job.as_ref().and_then(|job| job["shard"].as_str()).and_then(|text| text.parse::<Shard>().ok());
    let shard = shard.ok_or_else(|| {
        Error::config(format!("{} is not the table of a shard", path.display()), "name what `sslmem score --shard` wrote")
    })?;
    let embeddings = manifest.embeddings.iter().map(|e| (features::path(path, &e.role), &e.digest));
    for (path, digest) in embeddings.chain([(path.to_path_buf(), &manifest.table)]) {
        if files::digest_file(&path)? != *digest {
            return Err(Error::format(path, "was changed or damaged since its manifest was written; score this shard again"));
        }
    }
    Ok(Part { path, manifest, shard })
}

/// All shards of one job, each once, sorted.
fn fit(parts: &[Part]) -> Result<()> {
    let first = &parts[0];
    let job = |part: &Part| part.manifest.job.clone().map(whole).unwrap_or_default();
    for part in parts {
        let layer = |part: &Part| part.manifest.layer.clone().map(Value::from).unwrap_or_default();
        // The number of shards first: everything else is a consequence.
        let count = |part: &Part| Value::from(part.shard.count);
        let found = difference(&count(first), &count(part), "the number of shards")
            .or_else(|| difference(&job(first), &job(part), ""))
            .or_else(|| difference(&layer(first), &layer(part), "the layer"));
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
    // Sorted and none twice: the first that is not where it belongs shows the gap.
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
