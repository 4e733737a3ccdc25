//! A recipe from its layers: a preset, then files, then flags, then `--set`; the later wins.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use super::check::remedy;
use super::{KEYS, Recipe, presets};
use crate::error::{Error, Result};
use crate::files;

/// The layers of a recipe, merged so far.
#[derive(Clone, Debug)]
pub struct Layers {
    table: Table,
    /// Keys that were asked for, and where; not those of the default preset.
    said: BTreeMap<&'static str, String>,
}

impl Layers {
    /// The lowest layer: TOML that has every key.
    ///
    /// # Errors
    /// It is not TOML.
    pub(super) fn whole(text: &str) -> Result<Layers> {
        let table = text.parse().map_err(|e| Error::config(format!("a preset is broken: {e}"), "report this"))?;
        Ok(Layers { table, said: BTreeMap::new() })
    }

    /// Presets, later over earlier; without any, the default one.
    ///
    /// # Errors
    /// There is no such preset.
    pub fn presets<T: AsRef<str>>(names: &[T]) -> Result<Layers> {
        let mut start = presets::find(presets::DEFAULT)?.over(Layers { table: Table::new(), said: BTreeMap::new() })?;
        start.said.clear();
        names.iter().try_fold(start, |layers, name| presets::find(name.as_ref())?.over(layers))
    }

    /// A TOML file with any of the keys.
    ///
    /// # Errors
    /// The file is missing, is not TOML, or has a key that no recipe has.
    pub fn file(self, path: &Path) -> Result<Layers> {
        self.text(&path.display().to_string(), &files::read_text(path)?)
    }

    /// TOML text; errors call it `place`.
    ///
    /// # Errors
    /// As [`Layers::file`].
    pub fn text(mut self, place: &str, text: &str) -> Result<Layers> {
        let layer: Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let at = line.map(|line| format!(", line {line}")).unwrap_or_default();
            Error::config(format!("{place}{at}: this is not TOML: {}", error.message()), "see `sslmem show recipe` for how it should look")
        })?;
        for (key, value) in layer {
            match value {
                Value::Table(section) => {
                    for (name, value) in section {
                        self.put(place, &format!("{key}.{name}"), value)?;
                    }
                }
                value => self.put(place, &key, value)?,
            }
        }
        Ok(self)
    }

    /// One key from a flag of the command line. A value that is not TOML is taken as text.
    ///
    /// # Errors
    /// No recipe has such a key.
    pub fn set(mut self, key: &str, value: &str) -> Result<Layers> {
        let parsed = format!("value = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
        self.put(Layers::COMMAND, key, parsed.unwrap_or_else(|| Value::String(value.to_string())))?;
        Ok(self)
    }

    /// Where a key was last asked for: the name of a preset or a file, or [`Layers::COMMAND`]; `None` for a default.
    pub fn said(&self, key: &str) -> Option<&str> {
        self.said.get(key).map(String::as_str)
    }

    /// The current value of a key, as written on the command line.
    pub fn value(&self, key: &str) -> Option<String> {
        let (section, name) = key.split_once('.')?;
        match self.table.get(section)?.get(name)? {
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    /// The command line's name in [`Layers::said`].
    pub const COMMAND: &str = "--set";

    /// One argument of `--set`: `section.key=value`.
    ///
    /// # Errors
    /// There is no `=`, or no recipe has such a key.
    pub fn assign(self, assignment: &str) -> Result<Layers> {
        let Some((key, value)) = assignment.split_once('=') else {
            return Err(Error::config(
                format!("--set {assignment} has no value"),
                "write --set section.key=value, as in --set train.epochs=10",
            ));
        };
        self.set(key.trim(), value.trim())
    }

    fn put(&mut self, place: &str, key: &str, value: Value) -> Result<()> {
        let Some((known, _)) = KEYS.iter().find(|(known, _)| *known == key) else {
            return Err(unknown(place, key));
        };
        self.said.insert(known, place.to_string());
        match known.split_once('.') {
            None => self.table.insert(key.to_string(), value),
            Some((section, name)) => match self.table.get_mut(section) {
                Some(Value::Table(section)) => section.insert(name.to_string(), value),
                _ => None,
            },
        };
        Ok(())
    }

    /// The recipe, checked.
    ///
    /// # Errors
    /// A value of the wrong kind, or [`Recipe::validate`].
    pub fn resolve(self) -> Result<Recipe> {
        let recipe: Recipe = Value::Table(self.table).try_into().map_err(|error: toml::de::Error| {
            // "invalid type: ...\nin `train.epochs`\n"
            let text = error.to_string();
            let key = text.lines().find_map(|line| line.strip_prefix("in `")?.strip_suffix('`'));
            let key = key.map(|key| format!("{key}: ")).unwrap_or_default();
            // Serde's message names Rust types, which mean nothing to users.
            let what = error.message().replace("usize", "a whole number").replace("u64", "a whole number").replace("f32", "a number");
            let what = match what.strip_prefix("unknown variant ") {
                Some(rest) => rest.replacen(", expected one of ", " is none of ", 1).replacen(", expected ", " is not ", 1),
                None => what,
            };
            Error::config(format!("{key}{what}"), "see `sslmem show recipe` for what each key takes")
        })?;
        recipe.validate()?;
        Ok(recipe)
    }
}

/// The error for an unknown key, with the nearest known one.
fn unknown(place: &str, key: &str) -> Error {
    let sections = || KEYS.iter().filter_map(|(known, _)| known.split_once('.'));
    let (what, options): (String, Vec<&str>) = match key.split_once('.') {
        Some((section, name)) if sections().any(|(known, _)| known == section) => {
            let inside = sections().filter(|(known, _)| *known == section).map(|(_, name)| name);
            (format!("{place}: unknown key `{name}` in [{section}]"), inside.collect())
        }
        Some((section, _)) => (format!("{place}: unknown section [{section}]"), sections().map(|(known, _)| known).collect()),
        None if sections().any(|(known, _)| known == key) => {
            let what = format!("{place}: `{key}` is a section and takes no value");
            return Error::config(what, format!("write [{key}] and its keys below it, or {key}.name=value"));
        }
        None => (format!("{place}: unknown key `{key}`"), KEYS.iter().map(|(known, _)| *known).collect()),
    };
    let typed = match key.split_once('.') {
        Some((section, name)) => {
            if sections().any(|(known, _)| known == section) {
                name
            } else {
                section
            }
        }
        None => key,
    };
    // `epochs` alone: the key exists, in a section.
    let whole = sections().find(|(_, name)| *name == key).map(|(section, name)| format!("did you mean `{section}.{name}`?"));
    Error::config(what, whole.unwrap_or_else(|| remedy(typed, options.into_iter())))
}
