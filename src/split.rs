//! Splits: the subsets S_S, S_C, S_I and S_E of a data set (paper, section 4), which decide what each encoder sees.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize, de};

use crate::data::Source;
use crate::error::{Error, Result};
use crate::files;
use crate::random::{Purpose, Stream};

/// The four subsets. f trains on Shared and Candidate, g on Shared and Independent, neither on External.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subset {
    Shared,
    Candidate,
    Independent,
    External,
}

impl Subset {
    pub const ALL: [Subset; 4] = [Subset::Shared, Subset::Candidate, Subset::Independent, Subset::External];

    /// The paper's symbol.
    pub fn symbol(self) -> &'static str {
        match self {
            Subset::Shared => "S_S",
            Subset::Candidate => "S_C",
            Subset::Independent => "S_I",
            Subset::External => "S_E",
        }
    }
    pub fn parse(symbol: &str) -> Option<Subset> {
        Subset::ALL.into_iter().find(|s| s.symbol() == symbol)
    }
}

/// How samples are divided among the subsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// By index: the first samples to S_S, the next to S_C, the next to S_I; S_E from the start of the test part. This is the paper's code.
    Ordered,
    /// By a random order that is a function of this seed (and of the number of samples).
    Seeded(u64),
    /// By a random order, stratified: each subset has every class in proportion. Samples without a label form one class.
    Stratified(u64),
}

/// Size of a subset.
///
/// In text or TOML a number with a decimal point, at most 1 (`0.8`, `1.0`), is a fraction, a whole one (`40000`) a count. `candidates`
/// means as many as there are candidates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SubsetSize {
    /// A fraction of the part that the samples come from, rounded down.
    Fraction(f64),
    Count(usize),
    /// As many as S_C, or the whole test part if that is smaller.
    Candidates,
}

/// Sizes of the four subsets. S_S, S_C and S_I come from the training part, S_E from the test part. Without a test part S_E comes from the
/// training part, too. If then all sizes are fractions, S_E is [`SubsetSize::Candidates`] and the sum exceeds 1, the four are divided by it
/// (the default becomes .727, .091, .091 and .091).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sizes {
    pub shared: SubsetSize,
    pub candidate: SubsetSize,
    pub independent: SubsetSize,
    pub external: SubsetSize,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes {
            shared: SubsetSize::Fraction(0.8),
            candidate: SubsetSize::Fraction(0.1),
            independent: SubsetSize::Fraction(0.1),
            external: SubsetSize::Candidates,
        }
    }
}

/// A drawn split: the samples of each subset, and the data that they are of. Samples may belong to no subset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// [`Source::name`] of the data.
    pub data: String,
    /// [`Source::digest`] of the data.
    pub digest: String,
    pub how: How,
    /// Indices in the order of [`Subset::ALL`], each ascending.
    pub indices: [Vec<u32>; 4],
    /// [`Source::id`] of each of them.
    pub ids: [Vec<String>; 4],
}

impl Split {
    /// Draws a split of a data set.
    ///
    /// # Errors
    /// The sizes exceed the data or leave no candidate.
    pub fn draw(source: &dyn Source, sizes: &Sizes, how: How) -> Result<Split> {
        let train = source.train_len();
        let test = source.len() - train;
        let [shared, candidate, independent, external] = sizes.resolve(train, test)?;
        // `counts` samples for each subset, from the `count` samples that start at `first`.
        let deal = |part: u32, first: usize, count: usize, counts: [usize; 4]| -> [Vec<u32>; 4] {
            let random = |seed| Stream::new(seed, Purpose::Split, 0, part, 0).permutation(count);
            let dealt = match how {
                How::Ordered => in_order((0..count as u32).collect(), counts),
                How::Seeded(seed) => in_order(random(seed), counts),
                How::Stratified(seed) => stratified(&random(seed), counts, |i| source.label(first + i as usize)),
            };
            dealt.map(|subset| subset.into_iter().map(|i| first as u32 + i).collect())
        };
        let mut indices = deal(0, 0, train, [shared, candidate, independent, if test == 0 { external } else { 0 }]);
        if test > 0 {
            indices[3] = std::mem::take(&mut deal(1, train, test, [0, 0, 0, external])[3]);
        }
        indices.iter_mut().for_each(|subset| subset.sort_unstable());
        let ids = indices.each_ref().map(|subset| subset.iter().map(|&i| source.id(i as usize)).collect());
        Ok(Split { data: source.name().to_string(), digest: source.digest().to_string(), how, indices, ids })
    }

    /// The samples of one subset, ascending.
    pub fn subset(&self, subset: Subset) -> &[u32] {
        &self.indices[subset as usize]
    }

    /// All samples in a subset, in the order of the data, so that files are read in sequence and rows are easy to find.
    pub fn samples(&self) -> Vec<(u32, Subset)> {
        let of = |subset: Subset| self.subset(subset).iter().map(move |&index| (index, subset));
        let mut samples: Vec<_> = Subset::ALL.into_iter().flat_map(of).collect();
        samples.sort_unstable();
        samples
    }

    /// Number of samples of the data in no subset.
    pub fn left_out(&self, source: &dyn Source) -> usize {
        source.len() - self.indices.iter().map(Vec::len).sum::<usize>()
    }

    /// Training samples of f: S_S, then S_C.
    pub fn f_indices(&self) -> Vec<u32> {
        [self.subset(Subset::Shared), self.subset(Subset::Candidate)].concat()
    }

    /// Training samples of g: S_S, then S_I.
    pub fn g_indices(&self) -> Vec<u32> {
        [self.subset(Subset::Shared), self.subset(Subset::Independent)].concat()
    }

    /// The subset that a sample belongs to, if any.
    pub fn of(&self, index: u32) -> Option<Subset> {
        Subset::ALL.into_iter().find(|&subset| self.subset(subset).binary_search(&index).is_ok())
    }

    /// Refuses a split of other data.
    ///
    /// # Errors
    /// The data has another digest, fewer samples, or other ids than the split was drawn from.
    pub fn check(&self, source: &dyn Source) -> Result<()> {
        let remedy = "draw a new split for this data, or name the data that the split was drawn from";
        if self.digest != source.digest() {
            let short = |digest: &str| digest.chars().take(12).collect::<String>();
            let (split, data) = (short(&self.digest), short(source.digest()));
            let what = format!("the split was drawn from other data ({} {split}) than this ({} {data})", self.data, source.name());
            return Err(Error::config(what, remedy));
        }
        let pairs = self.indices.iter().flatten().zip(self.ids.iter().flatten());
        for (&index, id) in pairs {
            if index as usize >= source.len() {
                return Err(Error::config(format!("the split names sample {index}, but the data has {}", source.len()), remedy));
            }
            if *id != source.id(index as usize) {
                let what = format!("the split calls sample {index} `{id}`, but in the data it is `{}`", source.id(index as usize));
                return Err(Error::config(what, remedy));
            }
        }
        Ok(())
    }

    /// Writes the split as JSON, in an atomic file.
    ///
    /// # Errors
    /// The folder or the file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let subsets = Subset::ALL.map(|s| Members { indices: self.indices[s as usize].clone(), ids: self.ids[s as usize].clone() });
        let [shared, candidate, independent, external] = subsets;
        let file = File {
            format: FORMAT.to_string(),
            data: self.data.clone(),
            digest: self.digest.clone(),
            how: self.how,
            shared,
            candidate,
            independent,
            external,
        };
        let text = serde_json::to_string(&file).map_err(|e| Error::format(path, format!("cannot be written as JSON ({e})")))?;
        files::write_whole(path, (text + "\n").as_bytes())
    }

    /// Reads a split of [`Split::write`]. [`Split::check`] compares it with the data.
    ///
    /// # Errors
    /// The file cannot be read, is no split, or names a sample twice.
    pub fn read(path: impl AsRef<Path>) -> Result<Split> {
        let path = path.as_ref();
        let text = files::read_lines(path)?; // an id for each sample
        let file: File = serde_json::from_str(&text).map_err(|e| Error::format(path, format!("is not a split ({e})")))?;
        if file.format != FORMAT {
            return Err(Error::format(path, format!("has the format `{}`, but this program reads `{FORMAT}`", file.format)));
        }
        let members = [file.shared, file.candidate, file.independent, file.external];
        if let Some(at) = members.iter().position(|m| m.ids.len() != m.indices.len()) {
            let what = format!("{} has {} indices but {} ids", Subset::ALL[at].symbol(), members[at].indices.len(), members[at].ids.len());
            return Err(Error::format(path, what));
        }
        let mut seen: Vec<u32> = members.iter().flat_map(|m| m.indices.iter().copied()).collect();
        seen.sort_unstable();
        if let Some(twice) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::format(path, format!("names sample {} twice; the subsets must not overlap", twice[0])));
        }
        if members[Subset::Candidate as usize].indices.is_empty() {
            return Err(Error::format(path, "has no candidates (S_C)"));
        }
        let (indices, ids) = (members.each_ref().map(|m| m.indices.clone()), members.map(|m| m.ids));
        if indices.iter().any(|subset| !subset.is_sorted()) {
            return Err(Error::format(path, "has indices that do not ascend"));
        }
        Ok(Split { data: file.data, digest: file.digest, how: file.how, indices, ids })
    }
}

/// The first samples to the first subset, the next to the next.
fn in_order(order: Vec<u32>, counts: [usize; 4]) -> [Vec<u32>; 4] {
    let mut left = order.into_iter();
    counts.map(|count| left.by_ref().take(count).collect())
}

/// As [`in_order`], stratified by class. Each subset has every class in proportion, by largest remainders. Remainders of earlier subsets
/// carry over, so that a class that had too little comes first; ties go to the class that comes first in `order`.
fn stratified(order: &[u32], counts: [usize; 4], label: impl Fn(u32) -> Option<u32>) -> [Vec<u32>; 4] {
    let mut places = HashMap::new();
    let mut classes: Vec<Vec<u32>> = vec![];
    for &i in order {
        let place = *places.entry(label(i)).or_insert(classes.len());
        if place == classes.len() {
            classes.push(vec![]);
        }
        classes[place].push(i);
    }
    let sizes: Vec<usize> = classes.iter().map(Vec::len).collect();
    let mut left: Vec<_> = classes.into_iter().map(Vec::into_iter).collect();
    let mut due = vec![0.0; sizes.len()]; // samples that a class should have given by now, less those that it gave
    counts.map(|count| {
        let mut subset = Vec::with_capacity(count);
        for class in 0..sizes.len() {
            let share = sizes[class] as f64 * count as f64 / order.len() as f64;
            let whole = (share as usize).min(left[class].len());
            subset.extend(left[class].by_ref().take(whole));
            due[class] += share - whole as f64;
        }
        while subset.len() < count {
            let open = (0..sizes.len()).filter(|&class| left[class].len() > 0);
            let Some(class) = open.reduce(|a, b| if due[b] > due[a] + 1e-9 { b } else { a }) else { break };
            subset.extend(left[class].next());
            due[class] -= 1.0;
        }
        subset
    })
}

const FORMAT: &str = "sslmem split 1";

/// The file of a split.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    data: String,
    digest: String,
    how: How,
    shared: Members,
    candidate: Members,
    independent: Members,
    external: Members,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    indices: Vec<u32>,
    ids: Vec<String>,
}

impl Sizes {
    /// Number of samples of each subset, in the order of [`Subset::ALL`], from parts of these sizes.
    ///
    /// # Errors
    /// The sizes exceed the parts, or leave no candidate.
    pub fn resolve(&self, train: usize, test: usize) -> Result<[usize; 4]> {
        let scale = if test == 0 { self.excess() } else { 1.0 };
        // The small addition keeps .1 of 50,000 from becoming 4,999.
        let of = |fraction: f64, part: usize| (fraction / scale * part as f64 + 1e-6) as usize;
        let count = |size: SubsetSize, part: usize, candidates: usize| match size {
            SubsetSize::Fraction(fraction) => of(fraction, part),
            SubsetSize::Count(count) => count,
            SubsetSize::Candidates => candidates,
        };
        let candidate = count(self.candidate, train, 0);
        let shared = count(self.shared, train, candidate);
        let independent = count(self.independent, train, candidate);
        let pool = if test == 0 { train } else { test };
        let external = match self.external {
            SubsetSize::Candidates if test > 0 => candidate.min(test),
            size => count(size, pool, candidate),
        };
        if candidate == 0 {
            let what = format!("no sample of {train} would be a candidate (S_C)");
            return Err(Error::config(what, "make `candidate` larger or take more data"));
        }
        let from_train = [shared, candidate, independent, if test == 0 { external } else { 0 }];
        let asked = from_train.iter().fold(0usize, |sum, &n| sum.saturating_add(n));
        if asked > train {
            let names = if test == 0 { "S_S, S_C, S_I and S_E (there is no test part)" } else { "S_S, S_C and S_I" };
            let what = format!("{names} ask for {asked} samples ({shared} + {candidate} + {independent}");
            let what = if test == 0 { format!("{what} + {external})") } else { format!("{what})") };
            return Err(Error::config(format!("{what}, but the training part has {train}"), "ask for fewer"));
        }
        if test > 0 && external > test {
            let what = format!("S_E asks for {external} samples, but the test part has {test}");
            return Err(Error::config(what, "ask for fewer, or for `candidates`"));
        }
        Ok([shared, candidate, independent, external])
    }

    /// The divisor of the four fractions if S_E comes from the training part, too.
    fn excess(&self) -> f64 {
        let (SubsetSize::Fraction(s), SubsetSize::Fraction(c), SubsetSize::Fraction(i), SubsetSize::Candidates) =
            (self.shared, self.candidate, self.independent, self.external)
        else {
            return 1.0;
        };
        // Three fractions that exceed 1 without S_E are a mistake of the user, which an error reports.
        if s + c + i > 1.0 + 1e-9 { 1.0 } else { (s + c + i + c).max(1.0) }
    }
}

impl FromStr for SubsetSize {
    type Err = Error;
    fn from_str(text: &str) -> Result<SubsetSize> {
        let fault = || Error::config(format!("`{text}` is no size"), "write a fraction like `0.8`, a count like `40000`, or `candidates`");
        if text == "candidates" {
            return Ok(SubsetSize::Candidates);
        }
        if let Ok(count) = text.parse() {
            return Ok(SubsetSize::Count(count));
        }
        SubsetSize::fraction(text.parse().map_err(|_| fault())?).ok_or_else(fault)
    }
}

impl SubsetSize {
    fn fraction(value: f64) -> Option<SubsetSize> {
        (0.0..=1.0).contains(&value).then_some(SubsetSize::Fraction(value))
    }
}

/// The inverse of `FromStr`.
impl fmt::Display for SubsetSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SubsetSize::Fraction(value) => write!(f, "{value:?}"),
            SubsetSize::Count(count) => write!(f, "{count}"),
            SubsetSize::Candidates => f.write_str("candidates"),
        }
    }
}

impl Serialize for SubsetSize {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match *self {
            SubsetSize::Fraction(value) => to.serialize_f64(value),
            SubsetSize::Count(count) => to.serialize_u64(count as u64),
            SubsetSize::Candidates => to.serialize_str("candidates"),
        }
    }
}

impl<'de> Deserialize<'de> for SubsetSize {
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> std::result::Result<SubsetSize, D::Error> {
        from.deserialize_any(AnySize)
    }
}

struct AnySize;

impl de::Visitor<'_> for AnySize {
    type Value = SubsetSize;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fraction like 0.8, a count like 40000, or \"candidates\"")
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> std::result::Result<SubsetSize, E> {
        SubsetSize::fraction(value).ok_or_else(|| E::invalid_value(de::Unexpected::Float(value), &self))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> std::result::Result<SubsetSize, E> {
        usize::try_from(value).map(SubsetSize::Count).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> std::result::Result<SubsetSize, E> {
        u64::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self)).and_then(|v| self.visit_u64(v))
    }
    fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<SubsetSize, E> {
        text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}
