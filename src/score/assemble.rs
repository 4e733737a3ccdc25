//! From blocks to tables, one block in memory at a time.

use super::blocks::{Block, Blocks};
use super::features::{self, ROLES, Table};
use super::job::{Done, Job};
use crate::data::kept_digest;
use crate::error::Result;
use crate::files;
use crate::manifest::{DataFacts, FeatureFacts, Manifest, Throughput};
use crate::split::Subset;
use crate::table::{Row, TableWriter, Totals};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Instant;

/// Write the tables of a job whose blocks are all there, each with its manifest.
pub fn tables(
    job: &Job,
    own: &[(u32, Subset)],
    blocks: &Blocks,
    identity: &Value,
    tables: &[PathBuf],
    throughput: Throughput,
    start: Instant,
) -> Result<Done> {
    let (mut totals, mut skipped, mut indices) = (vec![Totals::default(); tables.len()], vec![], vec![]);
    for number in 0..blocks.count() {
        let block = blocks.demand(number)?;
        for (layer, totals) in totals.iter_mut().enumerate() {
            rows(job, own, blocks, number, &block, layer).iter().for_each(|row| totals.add(row));
        }
        indices.extend(block.indices);
        skipped.extend(block.skipped.into_iter().map(|(index, reason)| (job.task.source.id(index as usize), reason)));
    }
    let data = DataFacts { skipped: skipped.clone(), ..DataFacts::of(job.task.source) };
    let mut embeddings = features(job, blocks, &features_digest(&data, &indices), indices.len(), tables)?.into_iter();
    for (layer, (path, totals)) in tables.iter().zip(&totals).enumerate() {
        let mut table = TableWriter::create(path, totals, &[])?;
        for number in 0..blocks.count() {
            for mut row in rows(job, own, blocks, number, &blocks.demand(number)?, layer) {
                // A shard does not know the others.
                if job.shard.is_some() {
                    totals.part(&mut row)
                } else {
                    totals.finish(&mut row)
                }
                table.push(row)?;
            }
        }
        table.commit()?;
        let manifest = Manifest {
            sslmem: env!("CARGO_PKG_VERSION").into(),
            device: job.task.device.name(),
            data: data.clone(),
            encoders: job.encoders.clone(),
            layer: Some(job.task.layers[layer].name().into()),
            settings: job.settings.clone(),
            job: Some(identity.clone()),
            rows: totals.rows as usize,
            table: files::digest_file(path)?,
            embeddings: embeddings.next().unwrap_or_default(),
            seconds: start.elapsed().as_secs_f64(),
            throughput,
        };
        manifest.write(path)?;
    }
    let rows = totals.first().map_or(0, |totals| totals.rows);
    Ok(Done { tables: vec![], embeddings: vec![], rows, skipped, throughput, before: false })
}

/// The digest in a file of features of these samples, in the order of its rows: of the data that is left without the skipped ones.
pub fn features_digest(data: &DataFacts, indices: &[u32]) -> String {
    if data.skipped.is_empty() { data.digest.clone() } else { kept_digest(&data.digest, indices) }
}

/// Write the files of features, all in one pass over the blocks: of f and g for each table, none if they were not asked for.
fn features(job: &Job, blocks: &Blocks, data: &str, rows: usize, tables: &[PathBuf]) -> Result<Vec<Vec<FeatureFacts>>> {
    let sides = [job.task.f, job.task.g].map(|side| side.network.encoder.name());
    let one = |(place, &width): (usize, &usize)| {
        let (table, role, arch) = (&tables[place / 2], ROLES[place % 2], sides[place % 2]);
        Table::create(&features::path(table, role), role, &features::head(rows, width, data, arch), width)
    };
    let create = |widths: &[usize]| widths.iter().enumerate().map(one).collect::<Result<Vec<_>>>();
    if !blocks.features {
        return Ok(vec![]);
    }
    let mut files = if blocks.count() == 0 { create(&vec![0; 2 * tables.len()])? } else { vec![] };
    for number in 0..blocks.count() {
        let kept = blocks.features(number, &blocks.demand(number)?).ok_or_else(|| blocks.damaged(number))?;
        if files.is_empty() {
            files = create(&kept.widths)?;
        }
        if !kept.each(|place, values| files[place].push(values))? {
            return Err(blocks.damaged(number));
        }
    }
    let facts = files.into_iter().map(Table::commit).collect::<Result<Vec<_>>>()?;
    Ok(facts.chunks(2).map(<[_]>::to_vec).collect())
}

/// The rows of a block at one layer, as measured.
fn rows(job: &Job, own: &[(u32, Subset)], blocks: &Blocks, number: usize, block: &Block, layer: usize) -> Vec<Row> {
    let source = job.task.source;
    let known = &own[number * super::BLOCK..][..blocks.samples(number).len()];
    let mut values = block.indices.iter().zip(block.values.chunks_exact(blocks.layers)).peekable();
    let row = |&(index, subset): &(u32, Subset)| {
        let (_, values) = values.next_if(|(next, _)| **next == index)?;
        Some(Row::measured(index, source.id(index as usize), source.label(index as usize), subset, values[layer]))
    };
    known.iter().filter_map(row).collect()
}
