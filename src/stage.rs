//! A stage is a piece of work whose results are files: training one encoder, scoring a pair, probing one, a report. It has a name, an
//! identity (everything its outputs depend on) and outputs. A run is a list of stages.
//!
//! The identity is stored with what a stage makes, finished or not. So one comparison answers three questions: may the outputs be
//! reused, may unfinished work go on, and if not, what has changed?

use crate::error::{Error, Result};
use crate::progress::Progress;
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;

/// Everything that the outputs of a stage depend on, by name: a JSON object. Paths, the number of threads and the batch size of evaluation
/// are not in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity(Value);

impl Identity {
    pub fn new(value: Value) -> Identity {
        Identity(value)
    }

    /// The inverse of [`fmt::Display`]; `None` if the text is no identity.
    pub fn parse(text: &str) -> Option<Identity> {
        serde_json::from_str::<Value>(text).ok().filter(Value::is_object).map(Identity)
    }

    pub fn value(&self) -> &Value {
        &self.0
    }

    /// BLAKE3 of the JSON, whose keys are sorted.
    pub fn digest(&self) -> [u8; blake3::OUT_LEN] {
        *blake3::hash(self.to_string().as_bytes()).as_bytes()
    }

    /// The identity without these names.
    pub fn without(mut self, names: &[&str]) -> Identity {
        if let Some(object) = self.0.as_object_mut() {
            object.retain(|name, _| !names.contains(&name.as_str()));
        }
        self
    }

    /// The first difference between this identity and the one `there`, in words: `seed is 0 there and 5 here`.
    pub fn difference(&self, there: &Identity) -> Option<String> {
        difference(&there.0, &self.0, "")
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The first difference between two JSON values in words, under the name `name`.
pub fn difference(there: &Value, here: &Value, name: &str) -> Option<String> {
    if let (Value::Object(a), Value::Object(b)) = (there, here) {
        let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
        keys.sort();
        let at = |key: &str| if name.is_empty() { key.to_string() } else { format!("{name}.{key}") };
        return keys
            .into_iter()
            .find_map(|key| difference(a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), &at(key)));
    }
    let words = |value: &Value| match value {
        Value::Null => "none".to_string(),
        Value::String(text) if text.chars().count() > 40 => format!("{}...", text.chars().take(12).collect::<String>()),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    (there != here).then(|| format!("{name} is {} there and {} here", words(there), words(here)))
}

/// A setting as JSON, with each f32 as its shortest decimal: 0.9, not 0.8999999761581421.
///
/// # Errors
/// JSON cannot express the value.
pub fn setting(value: &impl Serialize) -> Result<Value> {
    let text = serde_json::to_string(value).and_then(|text| serde_json::from_str(&text));
    text.map_err(|error| Error::config(format!("a setting cannot be written as JSON ({error})"), "report this"))
}

/// State of the place of a stage's outputs.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    Nothing,
    /// Unfinished work.
    Begun(Identity),
    /// Finished outputs.
    Made(Identity),
}

/// Policy for existing outputs in a stage's place, and for unfinished work of another stage there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Keep them and refuse another stage.
    Keep,
    /// Replace them, unless they are this stage's own.
    Renew,
    /// Replace them, even this stage's own.
    Replace,
}

/// Work that a stage has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: the outputs exist.
    Reuse,
    /// The rest of unfinished work.
    Resume,
    /// Everything. Existing files in the place may be removed.
    Start,
}

impl Existing {
    /// The work left for a stage of identity `mine`, given what was found.
    ///
    /// # Errors
    /// `refused` with the difference, if the place has work of another stage that must be kept.
    pub fn next(self, found: &Found, mine: &Identity, refused: impl FnOnce(String) -> Error) -> Result<Next> {
        let (there, own) = match found {
            Found::Nothing => return Ok(Next::Start),
            Found::Made(_) if self == Existing::Replace => return Ok(Next::Start),
            Found::Made(there) => (there, Next::Reuse),
            Found::Begun(there) => (there, Next::Resume),
        };
        match mine.difference(there) {
            None => Ok(own),
            Some(what) if self == Existing::Keep => Err(refused(what)),
            Some(_) => Ok(Next::Start),
        }
    }
}

/// A piece of work whose results are files.
pub trait Stage {
    /// Its name: `train f of pair 1`.
    fn name(&self) -> String;
    /// Everything that its outputs depend on.
    ///
    /// # Errors
    /// An input cannot be read.
    fn identity(&self) -> Result<Identity>;
    /// The files that it makes.
    fn outputs(&self) -> Vec<PathBuf>;
    /// Makes the outputs, unless they exist. A stopped stage resumes and ends in the same bytes.
    ///
    /// # Errors
    /// As the stage says; [`Error::Stopped`], with what was done kept.
    fn run(&self, progress: &mut dyn Progress) -> Result<()>;
}
