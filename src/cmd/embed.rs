//! `sslmem embed`: the features of every sample of a data set.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use super::args::{Flags, Images, Network, Origin, opened, whole};
use super::{Global, keep, print, signals};
use crate::data::{Content, OnBadImage, few_bad};
use crate::error::{Error, Result};
use crate::files::{self, Lock};
use crate::manifest::{DataFacts, EncoderFacts, Manifest};
use crate::score::{Parts, embed, features, features_digest};
use crate::table::{Sample, write_samples};

/// Write the features of every sample of a data set
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sslmem embed --encoder resnet18.pth --normalize imagenet \\\n    --data folder:photos --out features.safetensors\n  sslmem embed --encoder vit/model.safetensors \\\n    --data folder:photos --out features.safetensors"
)]
pub struct Verb {
    /// Weights: safetensors, or a file of torch.save
    #[arg(long, value_name = "FILE", visible_alias = "weights")]
    encoder: PathBuf,
    /// File to write: `features` [samples, width] in the order of the data, f32. Beside it are written, with the endings .parquet and .json,
    /// which samples the rows are (index, id, label), and a manifest with what was left out
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Pooled features (a ViT's class token), their mean over places, or the whole map (all tokens)
    #[arg(long, value_name = "WHICH")]
    features: Option<String>,
    /// The whole output of a layer instead, such as layer4.1 or blocks.3
    #[arg(long, value_name = "NAME")]
    layer: Option<String>,
    /// Samples at a time; features do not depend on it
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<usize>)]
    batch: Option<usize>,
    /// Replace a file that exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    images: Images,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    origin: Origin,
}

pub fn run(verb: Verb, global: &Global) -> Result<()> {
    let flags = Flags::default().images(&verb.images).measuring(&verb.images).network(&verb.network).seed(global);
    let flags = flags.with("score.layer", &verb.layer);
    let device = global.device()?;
    let recipe = verb.origin.resolve_for(&verb.encoder, &flags.with("score.features", &verb.features).with("score.batch", &verb.batch))?;
    let samples = verb.out.with_extension("parquet");
    if samples == verb.out {
        return Err(Error::config(
            format!("{} is the place of what says which samples the rows are", samples.display()),
            "use a name that ends in .safetensors",
        ));
    }
    let outputs = [verb.out.clone(), samples.clone(), Manifest::path(&samples)];
    files::check_writable(&verb.out)?;
    let lock = Lock::output(&verb.out)?;
    lock.warning().iter().for_each(|text| global.progress().warning(text));
    for path in &outputs {
        files::remove_unfinished_of(path)?;
        files::check_writable(path)?;
    }
    // Its folder says whose the files are that have no manifest yet.
    let parts = Parts::of(&verb.out);
    if parts.begun()?.is_none() {
        outputs.iter().try_for_each(|path| keep(path, verb.force))?;
    }
    let start = Instant::now();
    // Bad images are found as they are met, not by decoding everything before.
    let source = opened(&recipe, OnBadImage::Fail, global)?;
    let (protocol, side) = (recipe.protocol(), recipe.side(&verb.encoder)?);
    let settings =
        crate::manifest::settings(&recipe).map_err(|e| Error::format(&verb.out, format!("its recipe cannot be written ({e})")))?;
    let encoder = EncoderFacts::of("encoder", &side.network, &side.original, &verb.encoder)?;
    let (layer, data) = (protocol.compared().name().to_string(), &recipe.data);
    let mine = serde_json::json!({
        "sslmem": env!("CARGO_PKG_VERSION"), "embed": encoder, "layer": layer,
        "data": source.digest(), "exif": data.exif, "max_pixels": data.max_pixels,
    });
    parts.claim(&mine, &outputs, verb.force)?;
    let mut progress = global.progress();
    progress.line(&side.describe("encoder"));
    let arch = side.network.encoder.name();
    // The width is what the first samples tell, and the number of rows what the last ones do.
    let (mut table, mut width, mut rows, mut content) = (None, 0, vec![], Content::default());
    let mut skipped = source.skipped().to_vec();
    signals::watch()?;
    let expected = |width| features::head(source.len(), width, source.digest(), arch);
    embed(side, &protocol, source.as_ref(), &device, recipe.data.on_bad_image, progress.as_mut(), |some| {
        width = some.width;
        let to = match &mut table {
            Some(table) => table,
            none => none.insert(features::Table::create(&verb.out, "encoder", &expected(width), width)?),
        };
        rows.extend(some.places.iter().map(|&place| place as u32));
        content += some.places.iter().zip(some.contents).map(|(&place, file)| Content::of(place as u32, *file)).sum::<Content>();
        content += some.bad.iter().map(|bad| Content::left_out(bad.place as u32, bad.content)).sum();
        skipped.extend(some.bad.iter().map(|bad| (source.id(bad.place), bad.reason.clone())));
        to.push(bytemuck::cast_slice(some.values))
    })?;
    let Some(mut table) = table.filter(|_| !rows.is_empty()) else {
        let (id, reason) = skipped.first().cloned().unwrap_or_default();
        return Err(Error::format(
            &verb.out,
            format!("would have no row: no image could be decoded (first: {id}: {reason}); look at the data"),
        ));
    };
    let data = DataFacts { skipped, content: content.hex(), ..DataFacts::of(source.as_ref()) };
    let head = features::head(rows.len(), width, &features_digest(&data, &rows), arch);
    if head != expected(width) {
        table = table.below(&head, expected(width).len())?;
    }
    let of = |&index: &u32| Sample { index, id: source.id(index as usize), label: source.label(index as usize) };
    parts.begin(&mine)?;
    write_samples(&samples, &rows.iter().map(of).collect::<Vec<_>>())?;
    let manifest = Manifest {
        sslmem: env!("CARGO_PKG_VERSION").into(),
        device: device.name(),
        data,
        encoders: vec![encoder],
        layer: Some(layer),
        settings,
        rows: rows.len(),
        table: files::digest_file(&samples)?,
        embeddings: vec![table.commit()?],
        seconds: start.elapsed().as_secs_f64(),
        ..Manifest::default()
    };
    manifest.write(&samples)?;
    parts.remove()?.iter().for_each(|text| progress.line(text));
    let Manifest { data: DataFacts { skipped, .. }, rows, .. } = manifest;
    let mut text = format!("{}: features of {arch}, {rows} samples x {width}; which they are: {}\n", verb.out.display(), samples.display());
    if let Some((id, reason)) = skipped.first() {
        text +=
            &format!("{} images could not be decoded and have no row (first: {id}: {reason}); the manifest lists them\n", skipped.len());
    }
    print(&text)?;
    few_bad(&verb.out, &skipped, rows + skipped.len(), recipe.data.max_bad)
}
