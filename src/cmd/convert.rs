//! `sslmem convert`: describes a foreign file of weights, and writes its encoder under our names.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{print, reserve};
use crate::checkpoint::{Checkpoint, EncoderLayout, Format, Identity, Leftover, SEAL};
use crate::error::{Error, Result};
use crate::files::Writer;
use crate::tensors::{self, Entry};

/// Say which encoder a file of weights holds, and write it with our names
#[derive(Args)]
#[command(
    after_help = "Example:\n  sslmem convert dino_deitsmall16_pretrain.pth --out dino.safetensors\n\nEvery verb reads such files directly; converting shows what is taken of them, and leaves the rest behind. What the encoder sees of images is taken from a config.json or preprocessor_config.json beside the file."
)]
pub struct Verb {
    /// File of weights: safetensors, or one of torch.save
    #[arg(value_name = "FILE")]
    input: PathBuf,
    /// File to write; without it nothing is written
    #[arg(long, value_name = "FILE.safetensors")]
    out: Option<PathBuf>,
    /// First layers of a ResNet where no tensor tells: cifar or cifar_wide
    #[arg(long, value_name = "NAME", requires = "out")]
    stem: Option<String>,
    /// Heads of a ViT's attention where no tensor tells
    #[arg(long, value_name = "N", requires = "out")]
    heads: Option<usize>,
    /// Write nothing
    #[arg(long, conflicts_with = "out")]
    dry_run: bool,
    /// Replace a file that exists
    #[arg(long)]
    force: bool,
}

pub fn run(verb: Verb) -> Result<()> {
    let same = |out: &PathBuf| out.canonicalize().is_ok_and(|out| verb.input.canonicalize().is_ok_and(|input| input == out));
    if let Some(out) = verb.out.as_ref().filter(|out| same(out)) {
        return Err(Error::config(
            format!("the result would take the place of {}, which it is made of", out.display()),
            "choose another --out",
        ));
    }
    let _lock = verb.out.as_ref().map(|out| reserve(out, verb.force)).transpose()?;
    let file = Checkpoint::open(&verb.input)?;
    if verb.out.is_none() && file.heads().is_some() {
        return print(&describe_heads(&file));
    }
    file.verify()?;
    let found = file.identify()?;
    print(&describe(&file, &found)?)?;
    let (layout, mut facts) = (found.layout.ok_or_else(|| file.unknown())?, found.facts);
    let Some(out) = &verb.out else { return Ok(()) };
    let said = [("encoder.stem", "stem", verb.stem.clone()), ("encoder.heads", "heads", verb.heads.map(|heads| heads.to_string()))];
    for (key, fact, said) in said {
        if let Some((_, why)) = found.unclear.iter().find(|(unclear, _)| *unclear == key && said.is_none()) {
            let what = format!("{} {why}", verb.input.display());
            return Err(Error::config(what, format!("say it with --{fact}; the file to write will hold it")));
        }
        facts.extend(said.map(|said| (fact.to_string(), said)));
    }
    if let Some(first) = layout.missing.first() {
        let what =
            format!("lacks {} tensors of its encoder (first: `{first}`), so nothing was written; get the whole file", layout.missing.len());
        return Err(Error::format(&verb.input, what));
    }
    write(&file, &layout, &facts, out)?;
    print(&format!("{}\n", out.display()))
}

/// For people: the encoder found, its tensors, and the rest.
fn describe(file: &Checkpoint, found: &Identity) -> Result<String> {
    let Identity { layout, facts, guesses, unclear, unknown } = found;
    let layout = layout.as_ref().ok_or_else(|| file.unknown())?;
    let format = match file.format {
        Format::Safetensors => "safetensors",
        Format::Zip => "PyTorch, zip",
        Format::Legacy => "PyTorch, before 1.6",
    };
    let mut out = format!("{}: {format}, {} tensors\n", file.path().display(), file.tensors.len());
    let place = if layout.prefix.is_empty() { String::new() } else { format!(", below `{}`", layout.prefix) };
    // Only the names of tensors hint at the library that wrote a foreign file.
    let who = if facts.contains_key("sslmem") { "written by" } else { "looks like" };
    out += &format!("  {who}  {}{place}\n", layout.wrapper);
    let form = ["stem", "patch", "positions", "trained_size", "heads", "norm_eps"];
    let named = form.iter().chain(&["size", "resize", "interpolation", "mean", "std"]);
    let details: Vec<String> = named.filter_map(|name| Some(format!(", {name} {}", facts.get(*name)?))).collect();
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
    guesses.iter().for_each(|(_, guess)| out += &format!("  guess       {guess}\n"));
    for (key, why) in unclear {
        out += &format!("  unclear     {why}; choose {} where it is used\n", key.replace("encoder.", "--"));
    }
    if !facts.contains_key("mean") {
        out += "  unclear     the file does not say how its images were normalised; choose --normalize where it is used\n";
    }
    if !unknown.is_empty() {
        out += &format!("  not known   {}: keys that nothing is made of here\n", unknown.join(", "));
    }
    Ok(out)
}

/// As above for a file of heads.
fn describe_heads(file: &Checkpoint) -> String {
    let get = |name: &str| file.metadata.get(name).map_or("", String::as_str);
    let mut out = format!("{}: safetensors, {} tensors\n", file.path().display(), file.tensors.len());
    out += &format!("  written by  sslmem, beside the encoder {}\n", get("encoder"));
    let mut parts = BTreeMap::<&str, usize>::new();
    for (name, tensor) in &file.tensors {
        let below = if name.starts_with("teacher.") { 1 } else { 0 };
        let end = name.match_indices('.').nth(below).map_or(name.len(), |(at, _)| at);
        *parts.entry(&name[..end]).or_default() += tensor.len();
    }
    let parts: Vec<String> = parts.iter().map(|(part, numbers)| format!("{part} ({numbers} numbers)")).collect();
    out += &format!("  heads       of {}: {}\n", get("heads_of"), parts.join(", "));
    out += "  note        there is no encoder in it; torch reads it with safetensors.torch.load_file\n";
    out
}

/// The encoder under our names, tensor by tensor.
fn write(file: &Checkpoint, layout: &EncoderLayout, facts: &BTreeMap<String, String>, out: &Path) -> Result<()> {
    let mut metadata = facts.clone();
    metadata.insert("source".into(), file.path().file_name().unwrap_or_default().to_string_lossy().into_owned());
    metadata.insert("sslmem".into(), env!("CARGO_PKG_VERSION").into());
    // These describe the file as trained, which the new file is not.
    metadata.remove("identity");
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
