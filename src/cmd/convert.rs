//! `sslmem convert`: what a foreign file of weights holds, and the encoder in it as a file of ours.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{keep, print};
use crate::checkpoint::{Checkpoint, Format, Layout, Leftover, SEAL};
use crate::error::{Error, Result};
use crate::files::{self, Writer};
use crate::tensors::{self, Entry};

/// Say which encoder a file of weights holds, and write it with our names
#[derive(Args)]
#[command(
    after_help = "Example:\n  sslmem convert dino_deitsmall16_pretrain_full_checkpoint.pth --out dino.safetensors\n\nEvery verb reads such files directly; converting shows what is taken of them, and leaves the rest behind. mean, std and size of\nthe images are taken from a config.json or preprocessor_config.json beside the file."
)]
pub struct Verb {
    /// File of weights: safetensors, or one of torch.save
    #[arg(value_name = "FILE")]
    input: PathBuf,
    /// File to write; without it nothing is written
    #[arg(long, value_name = "FILE.safetensors")]
    out: Option<PathBuf>,
    /// Write nothing
    #[arg(long, conflicts_with = "out")]
    dry_run: bool,
    /// Replace a file that exists
    #[arg(long)]
    force: bool,
}

pub fn run(verb: Verb) -> Result<()> {
    if let Some(out) = &verb.out {
        keep(out, verb.force)?;
        files::check_writable(out)?;
    }
    let file = Checkpoint::open(&verb.input)?;
    file.verify()?;
    let (layout, facts) = file.identify()?;
    let layout = layout.ok_or_else(|| file.unknown())?;
    print(&describe(&file, &layout, &facts))?;
    let Some(out) = &verb.out else { return Ok(()) };
    if let Some(first) = layout.missing.first() {
        let what =
            format!("lacks {} tensors of its encoder (first: `{first}`), so nothing was written; get the whole file", layout.missing.len());
        return Err(Error::format(&verb.input, what));
    }
    write(&file, &layout, &facts, out)?;
    print(&format!("{}\n", out.display()))
}

/// For people: what was recognised, what is taken, what is left.
fn describe(file: &Checkpoint, layout: &Layout, facts: &BTreeMap<String, String>) -> String {
    let format = match file.format {
        Format::Safetensors => "safetensors",
        Format::Zip => "PyTorch, zip",
        Format::Legacy => "PyTorch, before 1.6",
    };
    let mut out = format!("{}: {format}, {} tensors\n", file.path().display(), file.tensors.len());
    let place = if layout.prefix.is_empty() { String::new() } else { format!(", below `{}`", layout.prefix) };
    out += &format!("  written by  {}{place}\n", layout.wrapper);
    let named = ["stem", "patch", "positions", "trained_size", "size", "mean", "std", "interpolation", "crop_pct"];
    let details: Vec<String> = named.iter().filter_map(|name| Some(format!(", {name} {}", facts.get(*name)?))).collect();
    out += &format!("  encoder     {}{}\n", layout.arch, details.concat());
    let joined = layout.sources.values().filter(|s| s.parts.len() > 1).count();
    let scaled = layout.sources.values().filter(|s| s.scale.is_some()).count();
    let numbers: usize = layout.sources.values().map(|s| s.shape.iter().product::<usize>()).sum();
    out += &format!("  mapped      {} tensors, {:.2} million numbers", layout.sources.len(), numbers as f64 / 1e6);
    out += &if joined > 0 { format!(", {joined} of them joined from queries, keys and values") } else { String::new() };
    out += &if scaled > 0 { format!(", {scaled} of them with the layer scale taken in") } else { String::new() };
    out.push('\n');
    let mut groups = BTreeMap::<_, Vec<&Leftover>>::new();
    layout.leftovers.iter().for_each(|left| groups.entry(left.reason).or_default().push(left));
    for (reason, list) in groups {
        out += &format!("  left        {} of {} (as `{}`)\n", list.len(), reason.name(), list[0].name);
    }
    if let Some(first) = layout.missing.first() {
        out += &format!("  missing     {} (first `{first}`)\n", layout.missing.len());
    }
    if !facts.contains_key("mean") {
        out += "  note        the file does not say how its images were normalised; choose --normalize where it is used\n";
    }
    out
}

/// The encoder under our names, tensor by tensor.
fn write(file: &Checkpoint, layout: &Layout, facts: &BTreeMap<String, String>, out: &Path) -> Result<()> {
    let mut metadata = facts.clone();
    metadata.insert("source".into(), file.path().file_name().unwrap_or_default().to_string_lossy().into_owned());
    metadata.insert("sslmem".into(), env!("CARGO_PKG_VERSION").into());
    // Of the run that made the file, which this is not any more.
    metadata.remove("fingerprint");
    metadata.remove(SEAL);
    let entries: Vec<Entry> =
        layout.sources.iter().map(|(name, source)| Entry { name, dtype: "F32", shape: source.shape.clone() }).collect();
    let mut to = Writer::create(out)?;
    let failed = |e| Error::io("write", out)(e);
    to.write_all(&tensors::header(&metadata, &entries)).map_err(failed)?;
    for name in layout.sources.keys() {
        to.write_all(bytemuck::cast_slice(&layout.values(file, name)?)).map_err(failed)?;
    }
    to.commit()
}
