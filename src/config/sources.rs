//! Sources of the values of presets named after someone's code, from `sources.tsv`. Such a preset equals its authors' settings, or states
//! each difference with a reason.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{Recipe, SAME};
use crate::error::{Error, Result};
use crate::view::Policy;

const TABLE: &str = include_str!("sources.tsv");

/// The source of one value of a preset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cited {
    /// A key of the recipe, or in brackets a setting without a key.
    pub key: &'static str,
    /// Its value here: TOML, or the description of a view.
    pub value: &'static str,
    /// Repository at a commit, file and lines; or a paper.
    pub place: String,
    /// The original's value if it differs, and the reason.
    pub differs: Option<[&'static str; 2]>,
}

/// The sources of a preset; empty if it is not named after someone's code.
pub fn sources(preset: &str) -> Vec<Cited> {
    let (mut repositories, mut here) = (BTreeMap::new(), false);
    let mut found: Vec<Cited> = vec![];
    for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let columns: Vec<&'static str> = line.split('\t').collect();
        match columns[..] {
            ["@", name, repository, commit] => drop(repositories.insert(name, format!("{repository}@{}", &commit[..7]))),
            [section] => here = section.trim_matches(['[', ']']).split(' ').any(|name| name == preset),
            [key, value, place, ref differs @ ..] if here => {
                let place = match place.split_once(' ').and_then(|(name, rest)| Some((repositories.get(name)?, rest))) {
                    Some((repository, rest)) => format!("{repository} {rest}"),
                    None => place.to_string(),
                };
                found.retain(|source| source.key != key);
                found.push(Cited { key, value, place, differs: differs.try_into().ok() });
            }
            _ => (),
        }
    }
    found
}

impl Cited {
    /// For people: the source of the value, or its value there and the reason for another one here.
    fn comment(&self) -> String {
        match self.differs {
            None => self.place.clone(),
            Some([theirs, why]) => format!("{theirs} in {}; here: {why}", self.place),
        }
    }
}

impl Recipe {
    /// The form of a key's value in a [`Cited`], from its TOML.
    pub fn stated(&self, key: &str, value: &str) -> String {
        let Recipe { method, encoder, .. } = self;
        let view = match key {
            "method.view" => self.train_view(),
            "method.second_view" if method.second_view != Policy::Named(SAME.into()) => self.view(key, &method.second_view, encoder.size),
            "method.local_view" => self.view(key, &method.local_view, method.local_size),
            "score.view" => self.score_view(),
            _ => return value.to_string(),
        };
        view.map_or_else(|_| value.to_string(), |view| view.to_string())
    }

    /// The recipe as TOML, with the source of each value that `preset` gives and nothing changed.
    ///
    /// # Errors
    /// As [`Recipe::to_toml`]; the preset is not named after someone's code.
    pub fn sourced(&self, preset: &str) -> Result<String> {
        let sources = sources(preset);
        if sources.is_empty() {
            return Err(Error::config(format!("the values of `{preset}` are from nobody else's code"), "leave out --sources"));
        }
        let mut text = self.commented(|key, value| {
            let source = sources.iter().find(|source| source.key == key)?;
            let stated = self.stated(key, value);
            let view = if stated == value { String::new() } else { format!("{stated}: ") };
            same(&stated, source.value).then(|| format!("{view}{}", source.comment()))
        })?;
        let beside = sources.iter().filter(|source| source.key.starts_with('('));
        beside.for_each(|source| text.push_str(&format!("# {} {}: {}\n", source.key, source.value, source.comment())));
        Ok(text)
    }
}

/// Whether two TOML texts are the same value; numbers have several spellings.
fn same(a: &str, b: &str) -> bool {
    let parsed = |text: &str| format!("x = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("x"));
    a == b || matches!((parsed(a), parsed(b)), (Some(a), Some(b)) if a == b && !matches!(a, Value::Table(_)))
}
