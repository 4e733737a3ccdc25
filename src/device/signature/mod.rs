//! The signature of each kernel, read from its source. A launch that does not match is refused before the driver sees it, because a
//! driver takes any bytes for an address.

pub mod parse;

use super::Launch;
use super::kernels::{Source, sources};
use crate::error::{Error, Result};
use crate::var::Dtype;
use parse::{Field, places, with_headers, without_comments};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// A kernel's signature.
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
    pub kind: ArgKind,
    /// A pointer to `const`.
    pub constant: bool,
}

/// The kind of a parameter or of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgKind {
    /// A pointer to activations (`T`, [`Dtype::Activation`]) or to elements of this type.
    Pointer(Dtype),
    /// A pointer to a table of 64-bit words.
    Words,
    /// A null pointer; only an argument is one.
    Null,
    I32,
    U32,
    F32,
    /// A tensor map, [`MAP`] words.
    Map,
    /// A structure by value, as many words as it fills.
    Struct(Struct),
}

/// A structure that kernels take by value. Host and kernel both declare its fields, and a launch compares the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Struct {
    pub name: &'static str,
    pub fields: Vec<Param>,
}

impl Struct {
    /// First byte and size of each field, and the words that the structure fills, in C++'s layout.
    pub fn layout(&self) -> (Vec<(usize, usize)>, usize) {
        let size = |param: &Param| if matches!(param.kind, ArgKind::I32 | ArgKind::U32 | ArgKind::F32) { 4 } else { 8 };
        let sizes: Vec<usize> = self.fields.iter().map(size).collect();
        let (places, all) = places(sizes.iter().copied());
        (places.into_iter().zip(sizes).collect(), all.div_ceil(8))
    }
}

/// Words of a [`ArgKind::Map`].
pub const MAP: usize = 16;

/// The signature of a kernel.
pub fn find(kernel: &str) -> Option<&'static Signature> {
    table().ok()?.get(kernel)
}

/// Every kernel by its name.
///
/// # Errors
/// A kernel has a parameter that no call can give, two kernels have one name, or the sources cannot be read.
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

/// Refuses a launch whose arguments do not match its kernel's signature, on a device whose activations are `dtype`.
///
/// # Errors
/// There is no such kernel, or an argument more, less or of another kind.
pub fn check(launch: &Launch, dtype: Dtype, given: &[ArgKind]) -> Result<()> {
    let Some(signature) = table()?.get(launch.kernel) else {
        return Err(bug(format!("there is no kernel `{}`", launch.kernel)));
    };
    signature.check(dtype, given)
}

impl Signature {
    /// The first word of each parameter, and the number of words of a launch.
    pub fn words(&self) -> (Vec<usize>, usize) {
        let mut at = 0;
        let first = |param: &Param| {
            let first = at;
            at += match &param.kind {
                ArgKind::Map => MAP,
                ArgKind::Struct(fields) => fields.layout().1,
                _ => 1,
            };
            first
        };
        (self.params.iter().map(first).collect(), at)
    }

    /// # Errors
    /// An argument more, less or of another kind.
    pub fn check(&self, dtype: Dtype, given: &[ArgKind]) -> Result<()> {
        let Signature { kernel, file, params } = self;
        if params.len() != given.len() {
            return Err(bug(format!("`{kernel}` ({file}) takes {} arguments, not {}", params.len(), given.len())));
        }
        for (at, (param, given)) in params.iter().zip(given).enumerate() {
            if let Some(why) = param.kind.refuses(given, dtype) {
                return Err(bug(format!("argument {} (`{}`) of `{kernel}` ({file}) {why}", at + 1, param.name)));
            }
        }
        Ok(())
    }
}

impl ArgKind {
    /// Why this does not take what is given.
    fn refuses(&self, given: &ArgKind, dtype: Dtype) -> Option<String> {
        let takes = match (self, given) {
            (ArgKind::Struct(wanted), ArgKind::Struct(given)) if wanted.name == given.name => return wanted.refuses(given, dtype),
            (ArgKind::Pointer(_) | ArgKind::Words, ArgKind::Null) => true,
            (ArgKind::Pointer(wanted), ArgKind::Pointer(given)) => wanted.with(dtype) == given.with(dtype),
            // Variables hold no 64-bit words: two 32-bit ones make one.
            (ArgKind::Words, ArgKind::Pointer(given)) => *given == Dtype::U32,
            (wanted, given) => wanted == given,
        };
        (!takes).then(|| format!("is {}, not {}", self.name(dtype), given.name(dtype)))
    }
    fn name(&self, dtype: Dtype) -> String {
        match self {
            ArgKind::Pointer(of) => format!("a pointer to {}", of.with(dtype).name()),
            ArgKind::Words => "a pointer to U64".into(),
            ArgKind::Null => "no pointer".into(),
            ArgKind::I32 => "an int".into(),
            ArgKind::U32 => "a u32".into(),
            ArgKind::F32 => "a float".into(),
            ArgKind::Map => "a map of a matrix".into(),
            ArgKind::Struct(of) => format!("the structure `{}`", of.name),
        }
    }
}

impl Struct {
    /// Why the fields of a structure of the same name are not those of this one.
    fn refuses(&self, given: &Struct, dtype: Dtype) -> Option<String> {
        let names = |of: &Struct| of.fields.iter().map(|f| f.name).collect::<Vec<_>>().join(", ");
        if names(self) != names(given) {
            return Some(format!("has the fields {}, not {}", names(self), names(given)));
        }
        let mut fields = self.fields.iter().zip(&given.fields);
        fields.find_map(|(wanted, given)| Some(format!("has a field `{}` that {}", wanted.name, wanted.kind.refuses(&given.kind, dtype)?)))
    }
}

/// The entry points of a file, with the structures that they take from it and its headers.
///
/// # Errors
/// One is not of the form that [`parse::entries`] reads or takes what no call can give.
pub fn parse(source: &Source) -> Result<Vec<Signature>> {
    let file = source.name;
    let odd = |what: String| bug(format!("{file}: {what}"));
    let headers = sources()?;
    let header = |name: &str| headers.iter().find(|h| h.name == name).map(|h| h.text.to_string());
    let all: &'static str = without_comments(&with_headers(source.text, header)).leak();
    let own: &'static str = without_comments(source.text).leak();
    let mut signatures = vec![];
    for entry in parse::entries(own).map_err(odd)? {
        let param = |field: &Field<'static>| {
            let plain = plain(field).map(Ok);
            let kind = plain.unwrap_or_else(|| structure(all, field)).map_err(|why| odd(format!("{why} to `{}`", entry.name)))?;
            Ok(Param { name: field.name, kind, constant: field.constant })
        };
        let params = entry.params.iter().map(param).collect::<Result<_>>()?;
        signatures.push(Signature { kernel: entry.name, file, params });
    }
    Ok(signatures)
}

/// What a parameter of a plain type takes.
fn plain(field: &Field) -> Option<ArgKind> {
    Some(match (field.of, field.pointer) {
        ("T", true) => ArgKind::Pointer(Dtype::Activation),
        ("float", true) => ArgKind::Pointer(Dtype::F32),
        ("u32", true) => ArgKind::Pointer(Dtype::U32),
        ("u8", true) => ArgKind::Pointer(Dtype::U8),
        ("u64", true) => ArgKind::Words,
        ("int", false) => ArgKind::I32,
        ("u32", false) => ArgKind::U32,
        ("float", false) => ArgKind::F32,
        ("TensorMap", false) => ArgKind::Map,
        _ => return None,
    })
}

/// What a parameter takes that is a structure.
fn structure(text: &'static str, field: &Field<'static>) -> std::result::Result<ArgKind, String> {
    if field.pointer || !text.contains(&format!("struct {} ", field.of)) {
        return Err(format!("no call can give `{} {}{}`", field.of, if field.pointer { "*" } else { "" }, field.name));
    }
    let member = |inner: &Field<'static>| {
        let kind = plain(inner).filter(|kind| *kind != ArgKind::Map);
        let kind = kind.ok_or_else(|| format!("no call can give `{} {}` in `{}`", inner.of, inner.name, field.of))?;
        Ok(Param { name: inner.name, kind, constant: inner.constant })
    };
    let fields = parse::fields(text, field.of)?.iter().map(member).collect::<std::result::Result<_, String>>()?;
    Ok(ArgKind::Struct(Struct { name: field.of, fields }))
}

fn bug(what: String) -> Error {
    Error::device(what, "this is a fault of the program: please report it")
}
