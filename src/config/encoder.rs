//! Resolves a request into a recipe: for a training, or for the encoder in a file of weights. For a file its own settings count, a key that
//! contradicts its tensors is an error, and settings that no source gives must be given by the user.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Layers, Normalize, Recipe};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};

/// Settings of an encoder from its file, by name.
type Facts = BTreeMap<String, String>;

/// Settings that the tensors of a file decide, whatever a recipe says: (fact, key).
const FIXED: [(&str, &str); 7] = [
    ("arch", "encoder.arch"),
    ("stem", "encoder.stem"),
    ("patch", "encoder.patch"),
    ("positions", "encoder.positions"),
    ("heads", "encoder.heads"),
    ("norm_eps", "encoder.norm_eps"),
    ("trained_size", "encoder.trained_size"),
];

/// Settings of its images, which a recipe may override.
const IMAGES: [(&str, &str); 3] = [("size", "encoder.size"), ("resize", "encoder.resize"), ("interpolation", "encoder.interpolation")];

/// Keys of a recipe with their values.
pub type Keys = Vec<(&'static str, String)>;

/// A request: presets, a recipe file, keys, assignments. Later ones win.
#[derive(Clone, Copy, Default)]
pub struct Request<'a> {
    /// Presets, later over earlier; without any, the default one.
    pub presets: &'a [String],
    /// TOML.
    pub file: Option<&'a Path>,
    pub keys: &'a [(&'static str, String)],
    /// `section.key=value`.
    pub assignments: &'a [String],
}

/// The recipe for an encoder in a file.
pub struct Known {
    pub recipe: Recipe,
    /// Guesses, and requests that differ from the file's own settings: sentences without their full stop.
    pub warnings: Vec<String>,
}

impl Request<'_> {
    /// The recipe.
    ///
    /// # Errors
    /// There is no such preset, key or file; as [`Recipe::validate`].
    pub fn resolve(&self) -> Result<Recipe> {
        self.over(Layers::presets(self.presets)?)
    }

    /// As [`Request::resolve`] on top of `layers` instead of the presets.
    ///
    /// # Errors
    /// As [`Request::resolve`].
    pub fn over(&self, layers: Layers) -> Result<Recipe> {
        self.above(layers, &[])?.resolve()
    }

    /// Adds the recipe file, the `fixed` settings of the tensors, keys and assignments to `layers`, in this order.
    fn above(&self, mut layers: Layers, fixed: &[(&'static str, String)]) -> Result<Layers> {
        if let Some(path) = self.file {
            layers = layers.file(path)?;
        }
        for (key, value) in fixed.iter().chain(self.keys) {
            layers = layers.set(key, value)?;
        }
        self.assignments.iter().try_fold(layers, |layers, assignment| layers.assign(assignment))
    }

    /// The recipe for the encoder in `path`. Later sources win: presets, the file's settings of its images, the recipe file, the tensors,
    /// keys, assignments.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`Checkpoint::identify`]; the request contradicts the file; no source gives the channel statistics or
    /// another required setting.
    pub fn encoder(&self, path: &Path) -> Result<Known> {
        let found = Checkpoint::open(path).and_then(|file| file.identify());
        let facts = found.as_ref().map(|found| found.facts.clone()).unwrap_or_default();
        let mut layers = Layers::presets(self.presets)?;
        for (key, value) in images(&facts) {
            layers = layers.set(key, &value)?;
        }
        let asked = self.asked(&layers)?;
        contradicts(path, &facts, &asked)?;
        if let Some(resize) = proportional(&facts, &asked) {
            layers = layers.set("encoder.resize", &resize)?;
        }
        let layers = self.above(layers, &fixed(&facts))?;
        let normalised = layers.said("encoder.normalize").is_some();
        // Errors of the request come before errors of the file.
        let recipe = layers.resolve()?;
        let found = found?;
        let said = |key: &str| asked.iter().any(|asked| asked.key == key);
        if let Some((key, why)) = found.unclear.iter().find(|(key, _)| !said(key)) {
            return Err(Error::config(format!("{} {why}", path.display()), remedy(key)));
        }
        if !normalised {
            let what = format!("{} does not say how the images of its encoder were normalised", path.display());
            return Err(Error::config(what, remedy("encoder.normalize")));
        }
        let mut warnings = vec![];
        let [mean, std] = recipe.encoder.normalize.statistics();
        if statistics(&found.facts).is_some_and(|held| held.statistics() != [mean, std]) {
            let what = "says that its encoder was trained on images with other channel statistics than those asked for";
            warnings.push(format!("{} {what} (mean {mean:?}, std {std:?})", path.display()));
        }
        for (_, guess) in found.guesses.iter().filter(|(key, _)| !said(key)) {
            warnings.push(format!("{}: {guess}; this is a guess from the names of its tensors", path.display()));
        }
        Ok(Known { recipe, warnings })
    }

    /// Settings asked for by the recipe file, keys and assignments.
    fn asked(&self, layers: &Layers) -> Result<Vec<Asked>> {
        let mut asked = vec![];
        if let Some(file) = self.file {
            let layers = layers.clone().file(file)?;
            let place = file.display().to_string();
            let said = FIXED.iter().chain(&IMAGES).filter(|(_, key)| layers.said(key) == Some(&place));
            asked.extend(said.filter_map(|(_, key)| {
                Some(Asked { key: key.to_string(), place: format!("{key} of {place},"), value: layers.value(key)? })
            }));
        }
        asked.extend(self.keys.iter().map(|(key, value)| {
            let place = format!("--{}", key.trim_start_matches("encoder."));
            Asked { key: key.to_string(), place, value: value.to_string() }
        }));
        let pairs = self.assignments.iter().filter_map(|assignment| assignment.split_once('='));
        asked.extend(pairs.map(|(key, value)| {
            let (key, value) = (key.trim(), value.trim().trim_matches('"'));
            Asked { key: key.to_string(), place: format!("--set {key}"), value: value.to_string() }
        }));
        Ok(asked)
    }
}

/// A key that was asked for.
struct Asked {
    key: String,
    /// Its name in errors.
    place: String,
    value: String,
}

/// Refuses settings that contradict the tensors of a file.
fn contradicts(path: &Path, facts: &Facts, asked: &[Asked]) -> Result<()> {
    let vit = facts.get("arch").is_some_and(|arch| arch.starts_with("vit"));
    for Asked { key, place, value } in asked {
        let counts = match &key[..] {
            "encoder.arch" => true,
            "encoder.stem" => !vit,
            "encoder.patch" => vit,
            _ => false,
        };
        let held = FIXED.iter().find(|(_, known)| known == key).and_then(|(fact, _)| facts.get(*fact));
        // The two 3x3 stems differ only in padding, so their tensors are alike.
        let alike = |a: &str, b: &str| a == b || a.starts_with("cifar") && b.starts_with("cifar");
        if let Some(held) = held.filter(|held| counts && !alike(held, value)) {
            let fact = key.trim_start_matches("encoder.");
            let what = format!("{place} {value} contradicts {}, which holds an encoder with {fact} {held}", path.display());
            return Err(Error::config(what, format!("leave out {}, or name another file", place.trim_end_matches(','))));
        }
    }
    Ok(())
}

/// The settings that the tensors decide, as keys of the recipe.
fn fixed(facts: &Facts) -> Keys {
    FIXED.iter().filter_map(|(fact, key)| Some((*key, facts.get(*fact)?.clone()))).collect()
}

/// If another size than the file's is asked for, `resize` is scaled with it.
fn proportional(facts: &Facts, asked: &[Asked]) -> Option<String> {
    let last = |key: &str| asked.iter().rev().find(|asked| asked.key == key);
    let size: usize = last("encoder.size").filter(|_| last("encoder.resize").is_none())?.value.parse().ok()?;
    let (held, own) = (facts.get("resize")?, facts.get("size")?.parse::<usize>().ok()?);
    let (kind, pixels) = held.split_once(':').map_or(("", &held[..]), |(_, pixels)| ("whole:", pixels));
    Some(format!("{kind}{}", pixels.parse::<usize>().ok()?.checked_mul(size)? / own.max(1)))
}

/// The file's settings of its images, as keys of the recipe.
fn images(facts: &Facts) -> Keys {
    let get = |fact: &str| if fact == "size" { size(facts) } else { facts.get(fact).cloned() };
    let mut keys: Keys = IMAGES.iter().filter_map(|(fact, key)| Some((*key, get(fact)?))).collect();
    let normalize = statistics(facts).map(|statistics| match statistics {
        Normalize::Named(name) => name.to_string(),
        Normalize::Own(own) => format!("{{ mean = {:?}, std = {:?} }}", own.mean, own.std),
    });
    keys.extend(normalize.map(|normalize| ("encoder.normalize", normalize)));
    keys
}

/// Side of its images in pixels, or 224 for networks with ImageNet's stem.
fn size(facts: &Facts) -> Option<String> {
    let usual = || (facts.get("stem")? == "imagenet").then(|| "224".to_string());
    facts.get("size").or(facts.get("trained_size")).cloned().or_else(usual)
}

fn statistics(facts: &Facts) -> Option<Normalize> {
    let three = |fact: &str| serde_json::from_str::<[f32; 3]>(facts.get(fact)?).ok();
    Some(Normalize::of(three("mean")?, three("std")?))
}

/// Advice for a setting that no source gives.
fn remedy(key: &str) -> String {
    let text = match key {
        "encoder.stem" => "say which with --stem cifar_wide or --stem cifar",
        "encoder.heads" => "say how many with --heads, such as 3 or 12",
        "encoder.resize" => "say how with --resize (pixels of the short side, or whole) and --interpolation",
        _ => "choose --normalize imagenet (torchvision's and most others), half (Google's ViTs), cifar10, unit (none) or another's name",
    };
    text.to_string()
}
