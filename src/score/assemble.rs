//! From blocks to tables, one block in memory at a time.

use super::blocks::{Block, Blocks};
use super::job::{Done, Job};
use crate::error::Result;
use crate::files;
use crate::manifest::{DataFacts, Manifest, Throughput};
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
    let (mut totals, mut skipped) = (vec![Totals::default(); tables.len()], vec![]);
    for number in 0..blocks.count() {
        let block = blocks.demand(number)?;
        for (layer, totals) in totals.iter_mut().enumerate() {
            rows(job, own, blocks, number, &block, layer).iter().for_each(|row| totals.add(row));
        }
        skipped.extend(block.skipped.into_iter().map(|(index, reason)| (job.task.source.id(index as usize), reason)));
    }
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
        let facts = DataFacts { skipped: skipped.clone(), ..DataFacts::of(job.task.source) };
        let manifest = Manifest {
            sslmem: env!("CARGO_PKG_VERSION").into(),
            device: job.task.device.name(),
            data: facts,
            encoders: job.encoders.clone(),
            layer: Some(job.task.layers[layer].name().into()),
            settings: job.settings.clone(),
            job: Some(identity.clone()),
            rows: totals.rows as usize,
            table: files::digest_file(path)?,
            seconds: start.elapsed().as_secs_f64(),
            throughput,
        };
        manifest.write(path)?;
    }
    let rows = totals.first().map_or(0, |totals| totals.rows);
    Ok(Done { tables: vec![], rows, skipped, throughput, before: false })
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
