//! Labels as written in files, and their numbering by class.

use serde::{Deserialize, Serialize};

/// Largest class number.
const MOST: i64 = 1 << 20;

/// A label as written: a class number or a class name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Label {
    Number(u32),
    Name(String),
}

impl Label {
    /// A label from a whole number. Negative ones mean none: -1 in many data sets, -100 is PyTorch's `ignore_index`.
    ///
    /// # Errors
    /// It is above the largest class number.
    pub fn whole(number: i64) -> Result<Option<Label>, String> {
        match number {
            ..0 => Ok(None),
            0..MOST => Ok(Some(Label::Number(number as u32))),
            _ => Err(format!("{number} is no number of a class (0 to {})", MOST - 1)),
        }
    }

    /// A label from a float such as Python's 7.0. NaN, which pandas writes for missing values, means none.
    ///
    /// # Errors
    /// It is not whole, or too large.
    pub fn real(number: f64) -> Result<Option<Label>, String> {
        match number {
            n if n.is_nan() => Ok(None),
            n if n.fract() == 0.0 && n.abs() < 2f64.powi(53) => Label::whole(n as i64),
            n => Err(format!("{n} is no number of a class (0 to {})", MOST - 1)),
        }
    }

    /// A label from text: a number, else a class name; empty text means none.
    ///
    /// # Errors
    /// A number that is too large.
    pub fn text(text: &str) -> Result<Option<Label>, String> {
        match (text.trim(), text.trim().parse()) {
            ("", _) => Ok(None),
            (_, Ok(number)) => Label::whole(number),
            (name, _) => Ok(Some(Label::Name(name.into()))),
        }
    }

    /// A label from a truth value, named as Python writes it.
    pub fn flag(value: bool) -> Label {
        Label::Name(if value { "True" } else { "False" }.into())
    }

    /// Adds a label to the digest of a data set.
    pub fn digest(label: &Option<Label>, to: &mut blake3::Hasher) {
        let number = match label {
            None => -1,
            Some(Label::Number(number)) => i64::from(*number),
            Some(Label::Name(_)) => -2,
        };
        to.update(&number.to_le_bytes());
        if let Some(Label::Name(name)) = label {
            to.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        }
    }
}

/// The class number of every sample, and the class names. Numeric labels are the class numbers, and their digits the names. If one label is
/// a name, all count as names, numbered in sorted order, as in torchvision's `ImageFolder`.
pub fn numbered(labels: Vec<Option<Label>>) -> (Vec<Option<u32>>, Vec<String>) {
    if !labels.iter().flatten().any(|label| matches!(label, Label::Name(_))) {
        let number = |label: &Option<Label>| label.as_ref().and_then(|label| if let Label::Number(n) = label { Some(*n) } else { None });
        let numbers: Vec<Option<u32>> = labels.iter().map(number).collect();
        let count = numbers.iter().flatten().max().map_or(0, |highest| highest + 1);
        return (numbers, (0..count).map(|number| number.to_string()).collect());
    }
    let name = |label: Label| match label {
        Label::Number(number) => number.to_string(),
        Label::Name(name) => name,
    };
    let names: Vec<Option<String>> = labels.into_iter().map(|label| label.map(name)).collect();
    let mut classes: Vec<String> = names.iter().flatten().cloned().collect();
    classes.sort_unstable();
    classes.dedup();
    let place = |name: &String| classes.binary_search(name).ok().map(|at| at as u32);
    (names.iter().map(|name| name.as_ref().and_then(place)).collect(), classes)
}
