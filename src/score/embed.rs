//! The features of un-augmented images: a pass that returns them batch by batch, and a stage that writes them to a file.

use super::parts::Parts;
use super::{EncoderFile, Layer, features, features_digest};
use crate::data::{Content, OnBadImage, Source};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::files::{self, Lock};
use crate::loader::{Bad, Feed, expected, room, stream};
use crate::manifest::{DataFacts, EncoderFacts, Manifest};
use crate::progress::Progress;
use crate::random::Purpose;
use crate::stage::{Existing, Identity, Stage};
use crate::table::{Sample, write_samples};
use crate::tape::{Mode, Tape};
use crate::weights::Weights;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// An encoder and the samples to embed.
#[derive(Clone, Copy)]
pub struct Embedding<'a> {
    pub side: EncoderFile<'a>,
    pub layer: &'a Layer,
    pub source: &'a dyn Source,
    /// Samples per run of the program. Features do not depend on it.
    pub batch: usize,
    pub device: &'a Device,
    pub on_bad: OnBadImage,
}

/// The features of some samples of a source, by their places in it, in order.
pub struct Embedded<'a> {
    pub places: &'a [usize],
    pub values: &'a [f32], // [places, width]
    pub width: usize,
    /// Samples between these places that cannot be decoded.
    pub bad: &'a [Bad],
    /// For each place the BLAKE3 of the image file; `None` for a sample that is no file.
    pub contents: &'a [Option<blake3::Hash>],
}

impl Embedding<'_> {
    /// Passes the features of all samples to `take`, one batch at a time.
    ///
    /// # Errors
    /// The weights do not fit, an image cannot be read (or decoded, unless bad images are skipped), `take` fails, or [`Error::Stopped`].
    pub fn each(&self, progress: &mut dyn Progress, mut take: impl FnMut(&Embedded) -> Result<()>) -> Result<()> {
        let &Embedding { side, layer, source, batch, device, on_bad } = self;
        side.validate()?;
        let mut tape = Tape::new(Mode::Eval);
        let input = tape.batch_of(batch, room(batch, device));
        let views = tape.augment(input, vec![side.original], 0, 0, Purpose::Score);
        let x = side.record(&mut tape, "encoder", views, std::slice::from_ref(layer))?[0];
        let width = tape.shape(x).len() / batch;
        tape.keep(x);
        let mut weights = Weights::on(device.clone(), 0);
        weights.load(side.path, "encoder.")?;
        weights.check(side.path, &tape.shapes_below("encoder."), "encoder.")?;
        expected(tape.plan(weights.device()), &input).must_fit(weights.device(), "embedding", "lower the batch")?;
        let mut program = tape.compile(&mut weights)?;
        progress.start("embed", source.len() as u64, "sample");
        let all: Vec<u32> = (0..source.len() as u32).collect();
        let feed = Feed { batch: input, source, samples: &all, on_bad };
        stream(&mut program, &feed, |program, part| {
            let values = if part.places.is_empty() { vec![] } else { program.read::<f32>(x)? };
            let values = &values[..part.places.len() * width];
            take(&Embedded { places: part.places, values, width, bad: part.bad, contents: part.contents })?;
            progress.advance((part.places.len() + part.bad.len()) as u64, "");
            progress.go_on("embedding")
        })?;
        progress.done();
        Ok(())
    }
}

/// The features of every sample of a data set, in a file.
pub struct Embed<'a> {
    pub embedding: Embedding<'a>,
    /// File of `features` [samples, width]. Beside it lie a table of the rows' samples (.parquet) and a manifest (.json).
    pub out: &'a Path,
    /// The recipe's settings, for the manifest.
    pub settings: Value,
    /// Whether existing files are kept or replaced.
    pub existing: Existing,
}

impl Embed<'_> {
    /// The samples of the rows.
    pub fn samples_path(&self) -> PathBuf {
        self.out.with_extension("parquet")
    }

    fn facts(&self) -> Result<EncoderFacts> {
        let side = &self.embedding.side;
        EncoderFacts::of("encoder", &side.network, &side.original, side.path)
    }

    /// Writes the files and returns the manifest.
    ///
    /// # Errors
    /// Other files are in the place; as [`Embedding::each`]; no image can be decoded; the disk is full or failed.
    pub fn embed(&self, progress: &mut dyn Progress) -> Result<Manifest> {
        let Embedding { side, source, device, layer, .. } = self.embedding;
        let (start, samples, outputs) = (Instant::now(), self.samples_path(), self.outputs());
        if samples == self.out {
            let what = format!("{} is the place of what says which samples the rows are", samples.display());
            return Err(Error::config(what, "use a name that ends in .safetensors"));
        }
        files::check_writable(self.out)?;
        let lock = Lock::output(self.out)?;
        lock.warning().iter().for_each(|text| progress.warning(text));
        for path in &outputs {
            files::remove_unfinished_of(path)?;
            files::check_writable(path)?;
        }
        // The folder holds the identity of outputs that have no manifest yet.
        let parts = Parts::of(self.out);
        let identity = self.identity()?;
        parts.claim(&identity, &outputs, self.existing)?;
        progress.line(&side.describe("encoder"));
        let arch = side.network.encoder.name();
        // The first batch gives the width, the last one the number of rows.
        let (mut table, mut width, mut rows, mut content) = (None, 0, vec![], Content::default());
        let mut skipped = source.skipped().to_vec();
        let expected = |width| features::head(source.len(), width, source.digest(), arch);
        self.embedding.each(progress, |some| {
            width = some.width;
            let to = match &mut table {
                Some(table) => table,
                none => none.insert(features::Table::create(self.out, "encoder", &expected(width), width)?),
            };
            rows.extend(some.places.iter().map(|&place| place as u32));
            content += some.places.iter().zip(some.contents).map(|(&place, file)| Content::of(place as u32, *file)).sum::<Content>();
            content += some.bad.iter().map(|bad| Content::left_out(bad.place as u32, bad.content)).sum();
            skipped.extend(some.bad.iter().map(|bad| (source.id(bad.place), bad.reason.clone())));
            to.push(bytemuck::cast_slice(some.values))
        })?;
        let Some(mut table) = table.filter(|_| !rows.is_empty()) else {
            let (id, reason) = skipped.first().cloned().unwrap_or_default();
            let what = format!("would have no row: no image could be decoded (first: {id}: {reason}); look at the data");
            return Err(Error::format(self.out, what));
        };
        let data = DataFacts { skipped, content: content.hex(), ..DataFacts::of(source) };
        let head = features::head(rows.len(), width, &features_digest(&data, &rows), arch);
        if head != expected(width) {
            table = table.below(&head, expected(width).len())?;
        }
        let of = |&index: &u32| Sample { index, id: source.id(index as usize), label: source.label(index as usize) };
        parts.begin(&identity)?;
        write_samples(&samples, &rows.iter().map(of).collect::<Vec<_>>())?;
        let manifest = Manifest {
            sslmem: env!("CARGO_PKG_VERSION").into(),
            device: device.name(),
            data,
            encoders: vec![self.facts()?],
            layer: Some(layer.name().to_string()),
            settings: self.settings.clone(),
            rows: rows.len(),
            table: files::digest_file(&samples)?,
            embeddings: vec![table.commit()?],
            seconds: start.elapsed().as_secs_f64(),
            ..Manifest::default()
        };
        manifest.write(&samples)?;
        parts.remove()?.iter().for_each(|text| progress.line(text));
        Ok(manifest)
    }
}

impl Stage for Embed<'_> {
    fn name(&self) -> String {
        "embed".into()
    }

    fn identity(&self) -> Result<Identity> {
        let (data, source) = (&self.settings["data"], self.embedding.source);
        Ok(Identity::new(json!({
            "sslmem": env!("CARGO_PKG_VERSION"), "embed": self.facts()?, "layer": self.embedding.layer.name(),
            "data": source.digest(), "exif": data["exif"], "max_pixels": data["max_pixels"],
        })))
    }

    fn outputs(&self) -> Vec<PathBuf> {
        let samples = self.samples_path();
        vec![self.out.to_path_buf(), Manifest::path(&samples), samples]
    }

    fn run(&self, progress: &mut dyn Progress) -> Result<()> {
        self.embed(progress).map(drop)
    }
}
