//! Where the values of a preset come from that is named after someone's code, as `sources.tsv` has it: a preset is what its authors have, or
//! says where it is not and why.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{Recipe, SAME};
use crate::error::{Error, Result};
use crate::view::Policy;

const TABLE: &str = include_str!("sources.tsv");

/// One fact of a preset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cited {
    /// A key of a recipe, or in brackets what no key says.
    pub key: &'static str,
    /// Its value here: as TOML, of a view as its description.
    pub value: &'static str,
    /// Repository at a commit, file and lines; or a paper.
    pub place: String,
    /// What the original has instead, and why it is not so here.
    pub differs: Option<[&'static str; 2]>,
}

/// Every fact that is known of a preset; none of one that is named after nobody's code.
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
    /// For people: where the value is from, or what stands there instead.
    fn comment(&self) -> String {
        match self.differs {
            None => self.place.clone(),
            Some([theirs, why]) => format!("{theirs} in {}; here: {why}", self.place),
        }
    }
}

impl Recipe {
    /// What a [`Cited`] has as the value of `key`, whose TOML is `value`.
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

    /// The recipe as TOML, with where each value of `preset` is from that nothing has changed.
    ///
    /// # Errors
    /// As [`Recipe::to_toml`]; the preset is named after nobody's code.
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

/// Is this the same value? Numbers are written in more ways than one.
fn same(a: &str, b: &str) -> bool {
    let parsed = |text: &str| format!("x = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("x"));
    a == b || matches!((parsed(a), parsed(b)), (Some(a), Some(b)) if a == b && !matches!(a, Value::Table(_)))
}
