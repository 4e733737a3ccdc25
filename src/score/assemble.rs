//! From blocks to tables, one block in memory at a time.

use super::blocks::{Block, Blocks};
use super::features::{self, ROLES, Table};
use super::job::{Job, JobReport};
use crate::data::{Content, decodable_digest};
use crate::error::{Error, Result};
use crate::files;
use crate::manifest::{DataFacts, FeatureFacts, Manifest, Throughput};
use crate::split::Subset;
use crate::stage::Identity;
use crate::table::{Row, TableWriter, Totals};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

/// A job with all of its blocks.
pub struct Ready<'a> {
    pub job: &'a Job<'a>,
    pub blocks: &'a Blocks<'a>,
    /// Positions of the samples, one range per block.
    pub there: &'a [Range<usize>],
    pub identity: &'a Identity,
    /// Tables to write, one for each layer.
    pub tables: &'a [PathBuf],
    pub throughput: Throughput,
    /// Start of this process's work on the job.
    pub start: Instant,
}

impl Ready<'_> {
    /// Writes the tables, each with its manifest.
    ///
    /// # Errors
    /// No image could be decoded; the disk is full or failed.
    pub fn write(&self) -> Result<JobReport> {
        let &Ready { job, blocks, there, identity, tables, throughput, start } = self;
        let own = job.own();
        let (mut totals, mut indices, mut content) = (vec![Totals::default(); tables.len()], vec![], Content::default());
        let mut skipped = job.task.source.skipped().to_vec();
        for range in there {
            let block = blocks.demand(range.start)?;
            for (layer, totals) in totals.iter_mut().enumerate() {
                self.rows(&own[range.clone()], &block, layer).iter().for_each(|row| totals.add(row));
            }
            content += block.content;
            indices.extend(block.indices);
            skipped.extend(block.skipped.into_iter().map(|(index, reason)| (job.task.source.id(index as usize), reason)));
        }
        // A shard may be empty or have only bad images; a whole table may not.
        if indices.is_empty() && job.shard.is_none() {
            let (id, reason) = skipped.first().cloned().unwrap_or_default();
            return Err(Error::format(
                job.out,
                format!("would have no row: no image could be decoded (first: {id}: {reason}); look at the data"),
            ));
        }
        let every: Vec<u32> = job.samples.iter().map(|(index, _)| *index).collect();
        let sampled = Content::sampled(job.task.source, &every)?.and_then(Content::hex);
        let data = DataFacts { skipped: skipped.clone(), content: content.hex(), sampled, ..DataFacts::of(job.task.source) };
        let mut embeddings = self.features(&features_digest(&data, &indices), indices.len())?.into_iter();
        for (layer, (path, totals)) in tables.iter().zip(&totals).enumerate() {
            let mut table = TableWriter::create(path, totals, &[])?;
            for range in there {
                for mut row in self.rows(&own[range.clone()], &blocks.demand(range.start)?, layer) {
                    // Columns such as `score` need the rows of all shards, so `merge` computes them.
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
                layer: Some(job.task.protocol.layers[layer].name().into()),
                settings: job.settings.clone(),
                job: Some(identity.value().clone()),
                rows: totals.rows as usize,
                table: files::digest_file(path)?,
                embeddings: embeddings.next().unwrap_or_default(),
                seconds: start.elapsed().as_secs_f64(),
                throughput,
            };
            manifest.write(path)?;
        }
        let rows = totals.first().map_or(0, |totals| totals.rows);
        Ok(JobReport { tables: vec![], embeddings: vec![], rows, skipped, throughput, before: false, notes: vec![] })
    }

    /// The rows of a block at one layer, before the derived columns; `own` are its samples.
    fn rows(&self, own: &[(u32, Subset)], block: &Block, layer: usize) -> Vec<Row> {
        let &Ready { job, blocks, .. } = self;
        let (source, columns) = (job.task.source, job.task.more());
        let mut values = block.indices.iter().zip(block.values.chunks_exact(blocks.numbers())).peekable();
        let row = |&(index, subset): &(u32, Subset)| {
            let (_, values) = values.next_if(|(next, _)| **next == index)?;
            let (layers, more) = values.split_at(3 * blocks.layers);
            let alignment = layers.as_chunks().0[layer];
            let row = Row::measured(index, source.id(index as usize), source.label(index as usize), subset, alignment);
            Some(Row { more: columns.iter().copied().zip(more.iter().copied()).collect(), ..row })
        };
        own.iter().filter_map(row).collect()
    }

    /// Writes the features of f and g for each table in one pass over the blocks, if they were asked for.
    fn features(&self, data: &str, rows: usize) -> Result<Vec<Vec<FeatureFacts>>> {
        let &Ready { job, blocks, there, tables, .. } = self;
        let sides = [job.task.f, job.task.g].map(|side| side.network.encoder.name());
        let one = |(place, &width): (usize, &usize)| {
            let (table, role, arch) = (&tables[place / 2], ROLES[place % 2], sides[place % 2]);
            Table::create(&features::path(table, role), role, &features::head(rows, width, data, arch), width)
        };
        let create = |widths: &[usize]| widths.iter().enumerate().map(one).collect::<Result<Vec<_>>>();
        if !blocks.features {
            return Ok(vec![]);
        }
        let mut files = if there.is_empty() { create(&vec![0; 2 * tables.len()])? } else { vec![] };
        for &Range { start, .. } in there {
            let kept = blocks.features(start, &blocks.demand(start)?).ok_or_else(|| blocks.damaged(start))?;
            if files.is_empty() {
                files = create(&kept.widths)?;
            }
            if !kept.each(|place, values| files[place].push(values))? {
                return Err(blocks.damaged(start));
            }
        }
        let facts = files.into_iter().map(Table::commit).collect::<Result<Vec<_>>>()?;
        Ok(facts.chunks(2).map(<[_]>::to_vec).collect())
    }
}

/// The digest in the header of features of these samples, in the order of the rows. It equals the digest of the data set without the
/// skipped samples, so that the bytes are those of `embed`.
pub fn features_digest(data: &DataFacts, indices: &[u32]) -> String {
    if data.skipped.is_empty() { data.digest.clone() } else { decodable_digest(&data.digest, indices) }
}
