//! The encoder of a file of weights: what the file says of it counts, and a flag that says otherwise is an error.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as NoWord, StrDeserializer};

use super::args::{Flags, Network, Origin};
use crate::checkpoint::Checkpoint;
use crate::config::{Normalize, Recipe};
use crate::encoders;
use crate::error::{Error, Result};
use crate::score::Side;

/// What a file says of its encoder, by name.
pub type Facts = BTreeMap<String, String>;

/// What a file of weights says of its encoder, or what its tensors tell.
///
/// # Errors
/// As [`Checkpoint::open`] and [`Checkpoint::identify`].
pub fn facts(path: &Path) -> Result<Facts> {
    Ok(Checkpoint::open(path)?.identify()?.1)
}

impl Flags {
    /// What a file says of its encoder, to be put below the flags. What is wrong with the file is said when it is needed.
    pub fn file(self, path: &Path) -> Flags {
        let facts = facts(path).unwrap_or_default();
        let get = |name: &str| facts.get(name).cloned();
        let flags = self.with("encoder.arch", &get("arch")).with("encoder.stem", &get("stem"));
        let flags = flags.with("encoder.patch", &get("patch")).with("encoder.positions", &get("positions"));
        let size = get("size").or_else(|| get("trained_size"));
        let size = size.or_else(|| (get("stem")? == "imagenet").then(|| "224".to_string()));
        let trained = get("trained_size").filter(|trained| Some(trained) != size.as_ref());
        let flags = flags.with("encoder.size", &size).with("encoder.trained_size", &trained);
        let same = |how: Normalize| {
            let [mean, std] = how.statistics().map(|values| format!("{values:?}"));
            get("mean") == Some(mean) && get("std") == Some(std)
        };
        flags.with("encoder.normalize", &Normalize::ALL.into_iter().find(|(_, how)| same(*how)).map(|(name, _)| name))
    }
}

/// What the command line says of the encoder.
pub struct Said(Vec<(String, String, String)>);

impl Said {
    /// Nothing.
    pub fn nothing() -> Said {
        Said(vec![])
    }

    /// Flags, and the keys of `--set`.
    pub fn of(network: &Network, origin: &Origin) -> Said {
        let patch = network.patch.map(|patch| patch.to_string());
        let flags = [("arch", &network.arch), ("stem", &network.stem), ("patch", &patch)];
        let mut said: Vec<_> =
            flags.into_iter().filter_map(|(fact, value)| Some((fact.to_string(), format!("--{fact}"), value.clone()?))).collect();
        for assignment in &origin.set {
            let Some((key, value)) = assignment.split_once('=') else { continue };
            if let Some(fact) = key.trim().strip_prefix("encoder.") {
                said.push((fact.to_string(), format!("--set encoder.{fact}"), value.trim().trim_matches('"').to_string()));
            }
        }
        Said(said)
    }

    /// Refuses what contradicts the file.
    fn check(&self, path: &Path, facts: &Facts) -> Result<()> {
        let vit = facts.get("arch").is_some_and(|arch| arch.starts_with("vit"));
        for (fact, flag, value) in &self.0 {
            let counts = match &fact[..] {
                "arch" => true,
                "stem" => !vit,
                "patch" => vit,
                _ => false,
            };
            if let Some(held) = facts.get(fact).filter(|held| counts && *held != value) {
                let what = format!("{flag} {value} contradicts {}, which holds an encoder with {fact} {held}", path.display());
                return Err(Error::config(what, format!("leave out {flag}, or name another file")));
            }
        }
        Ok(())
    }
}

/// The encoder of a file as the file says, and as the recipe says where the file does not.
///
/// # Errors
/// As [`facts`]; the command line contradicts the file; the encoder cannot have images of the recipe's size.
pub fn side<'a>(recipe: &Recipe, said: &Said, path: &'a Path) -> Result<Side<'a>> {
    let facts = facts(path)?;
    said.check(path, &facts)?;
    let mut recipe = recipe.clone();
    let encoder = &mut recipe.encoder;
    if let Some(arch) = facts.get("arch") {
        encoder.arch = encoders::find(arch)?.name().to_string();
    }
    put(path, &facts, "stem", &mut encoder.stem, word)?;
    put(path, &facts, "positions", &mut encoder.positions, word)?;
    put(path, &facts, "patch", &mut encoder.patch, |text| text.parse().ok())?;
    put(path, &facts, "trained_size", &mut encoder.trained_size, |text| text.parse().ok())?;
    Ok(Side { path, network: recipe.network()? })
}

fn word<T: for<'de> Deserialize<'de>>(text: &str) -> Option<T> {
    let from: StrDeserializer<NoWord> = text.into_deserializer();
    T::deserialize(from).ok()
}

fn put<T>(path: &Path, facts: &Facts, name: &str, to: &mut T, read: impl Fn(&str) -> Option<T>) -> Result<()> {
    if let Some(text) = facts.get(name) {
        *to = read(text)
            .ok_or_else(|| Error::format(path, format!("says that its encoder has {name} `{text}`, which is nothing known here")))?;
    }
    Ok(())
}
