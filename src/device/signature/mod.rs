//! What each kernel takes, read from its source: a call that does not fit is refused before a driver sees it,
//! for a driver would take any bytes for an address.

use super::Launch;
use super::kernels::{Source, sources};
use crate::error::{Error, Result};
use crate::var::Dtype;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// What a kernel takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    pub kernel: &'static str,
    /// The name of its source, as in `conv.cu`.
    pub file: &'static str,
    pub params: Vec<Param>,
}

/// One parameter of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    pub name: &'static str,
    pub kind: Kind,
    /// What a pointer points at is only read.
    pub constant: bool,
}

/// What a parameter takes, or what an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A pointer to activations (`T`, [`Dtype::Real`]) or to elements of this type.
    Pointer(Dtype),
    /// A pointer to a table of 64-bit words.
    Words,
    /// An argument only: a pointer to nothing.
    Null,
    I32,
    U32,
    F32,
    /// A map of a matrix, which takes [`MAP`] words.
    Map,
}

/// Words of a [`Kind::Map`].
pub const MAP: usize = 16;

/// The signature of a kernel.
pub fn find(kernel: &str) -> Option<&'static Signature> {
    table().ok()?.get(kernel)
}

/// Every kernel by its name.
///
/// # Errors
/// A kernel takes something that no call can give, two have one name, or the sources cannot be read.
pub fn table() -> Result<&'static BTreeMap<&'static str, Signature>> {
    static TABLE: OnceLock<BTreeMap<&'static str, Signature>> = OnceLock::new();
    if let Some(table) = TABLE.get() {
        return Ok(table);
    }
    let mut table = BTreeMap::new();
    for source in sources()?.iter().filter(|source| !source.is_header()) {
        for signature in parse(source)? {
            let (kernel, file) = (signature.kernel, signature.file);
            if let Some(other) = table.insert(kernel, signature) {
                return Err(bug(format!("there are two kernels `{kernel}`, in {} and {file}", other.file)));
            }
        }
    }
    Ok(TABLE.get_or_init(|| table))
}

/// Refuses a launch whose arguments are not what its kernel takes, on a device whose activations are `real`.
///
/// # Errors
/// There is no such kernel, or an argument more, less or of another kind.
pub fn check(launch: &Launch, real: Dtype, given: &[Kind]) -> Result<()> {
    let Some(signature) = table()?.get(launch.kernel) else {
        return Err(bug(format!("there is no kernel `{}`", launch.kernel)));
    };
    signature.check(real, given)
}

impl Signature {
    /// Each parameter's first word among those of a launch, and how many words there are.
    pub fn words(&self) -> (Vec<usize>, usize) {
        let mut at = 0;
        let first = |param: &Param| {
            let first = at;
            at += if param.kind == Kind::Map { MAP } else { 1 };
            first
        };
        (self.params.iter().map(first).collect(), at)
    }

    /// # Errors
    /// An argument more, less or of another kind.
    pub fn check(&self, real: Dtype, given: &[Kind]) -> Result<()> {
        let Signature { kernel, file, params } = self;
        if params.len() != given.len() {
            return Err(bug(format!("`{kernel}` ({file}) takes {} arguments, not {}", params.len(), given.len())));
        }
        for (at, (param, given)) in params.iter().zip(given).enumerate() {
            if !param.kind.takes(*given, real) {
                let (wanted, given) = (param.kind.name(real), given.name(real));
                return Err(bug(format!("argument {} (`{}`) of `{kernel}` ({file}) is {wanted}, not {given}", at + 1, param.name)));
            }
        }
        Ok(())
    }
}

impl Kind {
    fn takes(self, given: Kind, real: Dtype) -> bool {
        match (self, given) {
            (Kind::Pointer(_) | Kind::Words, Kind::Null) => true,
            (Kind::Pointer(wanted), Kind::Pointer(given)) => wanted.with(real) == given.with(real),
            // Variables hold no 64-bit words: two 32-bit ones make one.
            (Kind::Words, Kind::Pointer(given)) => given == Dtype::U32,
            (wanted, given) => wanted == given,
        }
    }
    fn name(self, real: Dtype) -> String {
        match self {
            Kind::Pointer(dtype) => format!("a pointer to {}", dtype.with(real).name()),
            Kind::Words => "a pointer to U64".into(),
            Kind::Null => "no pointer".into(),
            Kind::I32 => "an int".into(),
            Kind::U32 => "a u32".into(),
            Kind::F32 => "a float".into(),
            Kind::Map => "a map of a matrix".into(),
        }
    }
}

/// The entry points of a file: `KERNEL void __launch_bounds__(N) name(params) {`.
///
/// # Errors
/// One is not of this form or takes what no call can give.
pub fn parse(source: &Source) -> Result<Vec<Signature>> {
    let text: &'static str = without_comments(source.text).leak();
    text.split("KERNEL void").skip(1).map(|rest| entry(source.name, rest)).collect()
}

fn entry(file: &'static str, rest: &'static str) -> Result<Signature> {
    let odd = |what: &str| bug(format!("{file}: {what} in `KERNEL void{}`", rest.lines().next().unwrap_or_default()));
    let mut rest = rest.trim_start();
    if let Some(bounds) = rest.strip_prefix("__launch_bounds__") {
        rest = closing(bounds.trim_start()).ok_or_else(|| odd("launch bounds that do not end"))?.1.trim_start();
    }
    let open = rest.find('(').ok_or_else(|| odd("no parameters"))?;
    let kernel = rest[..open].trim();
    if kernel.is_empty() || !kernel.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(odd("no plain name"));
    }
    let (inside, _) = closing(&rest[open..]).ok_or_else(|| odd("parameters that do not end"))?;
    let params = inside.split(',').map(str::trim).filter(|p| !p.is_empty());
    let params =
        params.map(|p| param(p).ok_or_else(|| bug(format!("{file}: no call can give `{p}` to `{kernel}`")))).collect::<Result<_>>()?;
    Ok(Signature { kernel, file, params })
}

/// What is between the bracket that `text` begins with and its partner, and what follows.
fn closing(text: &'static str) -> Option<(&'static str, &'static str)> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        depth += (c == '(') as i32 - (c == ')') as i32;
        if depth == 0 {
            return Some((text.get(1..at)?, &text[at + 1..]));
        }
    }
    None
}

fn param(text: &'static str) -> Option<Param> {
    let start = text.rfind(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).map_or(0, |at| at + 1);
    let name = &text[start..];
    let words: Vec<&str> = text[..start].split(|c: char| c.is_whitespace() || c == '*').filter(|w| !w.is_empty()).collect();
    let constant = words.contains(&"const");
    let types: Vec<&str> = words.into_iter().filter(|w| !["const", "__restrict__", "GRID_CONSTANT"].contains(w)).collect();
    let kind = match (&types[..], text.matches('*').count()) {
        (["T"], 1) => Kind::Pointer(Dtype::Real),
        (["float"], 1) => Kind::Pointer(Dtype::F32),
        (["u32"], 1) => Kind::Pointer(Dtype::U32),
        (["u8"], 1) => Kind::Pointer(Dtype::U8),
        (["u64"], 1) => Kind::Words,
        (["int"], 0) => Kind::I32,
        (["u32"], 0) => Kind::U32,
        (["float"], 0) => Kind::F32,
        (["TensorMap"], 0) => Kind::Map,
        _ => return None,
    };
    (!name.is_empty()).then_some(Param { name, kind, constant })
}

/// The text with a space in place of each comment.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        out.push_str(&rest[..at]);
        let (end, skip) = if rest[at..].starts_with("//") { ("\n", 0) } else { ("*/", 2) };
        rest = rest[at + 2..].find(end).map_or("", |n| &rest[at + 2 + n + skip..]);
        out.push(' ');
    }
    out + rest
}

fn bug(what: String) -> Error {
    Error::device(what, "this is a fault of the program: please report it")
}
