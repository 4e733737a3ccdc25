//! Files of `torch.save`: a zip file since version 1.6, consecutive pickles before. The ending of the name tells nothing.

use super::input::Input;
use super::pickle::{self, Fault, Id, LONGEST_NAME, Lent, Pickle, Value, printable};
use super::zip;
use super::{FileHeader, Place, Tensor};
use std::collections::{BTreeMap, HashMap};

/// Most bytes beside the tensors.
const LARGEST_PICKLE: u64 = 64 << 20;
/// Deepest nesting of dictionaries.
const DEEPEST: usize = 48;

/// The magic number of old files, 0x1950a86a20f9469cfc6c.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Storages by key: (first byte, length in bytes).
type Storages = HashMap<String, (u64, u64)>;

/// The tensors of a zip file.
pub fn zipped(input: &Input) -> Result<FileHeader, Fault> {
    let members = zip::members(input)?;
    let mut roots: Vec<&str> = members.keys().filter_map(|name| name.strip_suffix("data.pkl")).collect();
    roots.sort_unstable();
    let Some(root) = roots.first() else {
        return Err("is a zip file without data.pkl, so nothing that torch.save wrote; name the checkpoint itself".into());
    };
    if let Some((start, len)) = members.get(&format!("{root}byteorder"))
        && input.read(*start, (*len).min(16))? == b"big"
    {
        return Err("was written on a big-endian machine; save it again on a usual one".into());
    }
    let (start, len) = members[&format!("{root}data.pkl")];
    let bytes = input.read(start, fits(len)?)?;
    let folder = format!("{root}data/");
    let storages = members.iter().filter_map(|(name, place)| Some((name.strip_prefix(&folder)?.to_string(), *place))).collect();
    collect(&pickle::load(&bytes)?, &storages)
}

fn fits(len: u64) -> Result<u64, Fault> {
    if len > LARGEST_PICKLE {
        return Err(format!("holds {len} bytes beside its tensors; save the state_dict alone"));
    }
    Ok(len)
}

/// The tensors of consecutive pickles: magic number, version, machine, object, keys of the storages; then the storages.
pub fn legacy(input: &Input) -> Result<FileHeader, Fault> {
    let bytes = input.read(0, input.len().min(LARGEST_PICKLE))?;
    let mut at = 0;
    let mut next = || -> Result<Pickle, Fault> {
        let pickle = pickle::load(&bytes[at..])?;
        at += pickle.len;
        Ok(pickle)
    };
    let first = next()?;
    if !matches!(first.root(), Value::Long(digits) if *digits == MAGIC) {
        return Err("is a pickle, but not one of torch.save; save the state_dict with torch.save".into());
    }
    let (_, about) = (next()?, next()?);
    if about.entry(about.root, "little_endian").is_some_and(|id| matches!(about.get(id), Value::Bool(false))) {
        return Err("was written on a big-endian machine; save it again on a usual one".into());
    }
    let (object, keys) = (next()?, next()?);
    let Value::List(keys_in_order) = keys.root() else {
        return Err("does not list its storages; get it again".into());
    };
    let mut widths = HashMap::new();
    for value in &object.values {
        if let Value::Storage(storage) = value {
            widths.insert(storage.key.as_str(), storage.dtype.bytes());
        }
    }
    let (mut storages, mut at) = (Storages::new(), at as u64);
    for id in keys_in_order {
        let key = keys.key(*id).ok_or("does not list its storages; get it again")?;
        let width = widths.get(key.as_str()).copied().filter(|width| *width > 0);
        let width = width.ok_or_else(|| {
            format!("has a storage {} of unknown type; save the state_dict alone", key.escape_debug().take(40).collect::<String>())
        })?;
        let count = input.read(at, 8)?.iter().rev().fold(0u64, |n, b| n << 8 | *b as u64);
        let len = count.checked_mul(width as u64).filter(|len| *len <= input.len());
        let len = len.ok_or("ends early; get it again")?;
        storages.insert(key, (at + 8, len));
        at += 8 + len;
    }
    if at > input.len() {
        return Err(format!("ends early ({} bytes of {at}); get it again", input.len()));
    }
    collect(&object, &storages)
}

/// Every tensor below the root, named by the path of its dictionaries.
fn collect(pickle: &Pickle, storages: &Storages) -> Result<FileHeader, Fault> {
    let mut walk = Walk { pickle, storages, tensors: BTreeMap::new(), steps: 4 * pickle.values.len() + 64 };
    walk.visit(pickle.root, &mut String::new(), 0)?;
    let keys = match pickle.root() {
        Value::Dict(pairs) => pairs.iter().filter_map(|(key, _)| pickle.key(*key)).filter(|k| k.len() <= LONGEST_NAME).take(1000).collect(),
        _ => vec![],
    };
    Ok(FileHeader { tensors: walk.tensors, keys, metadata: BTreeMap::new() })
}

struct Walk<'a> {
    pickle: &'a Pickle,
    storages: &'a Storages,
    tensors: BTreeMap<String, Tensor>,
    /// Visits left: shared values are visited several times, but a bound stops a cycle.
    steps: usize,
}

impl Walk<'_> {
    fn visit(&mut self, id: Id, name: &mut String, depth: usize) -> Result<(), Fault> {
        self.steps = self.steps.checked_sub(1).ok_or("holds itself over and over; save the state_dict alone")?;
        if depth > DEEPEST {
            return Err("nests too deep; save the state_dict alone".into());
        }
        match self.pickle.get(id) {
            Value::Tensor(lent) => self.add(name.clone(), lent)?,
            Value::Dict(pairs) => {
                for (key, value) in pairs {
                    if let Some(key) = self.part(*key)? {
                        self.below(name, &key, *value, depth)?;
                    }
                }
            }
            Value::List(items) | Value::Tuple(items) => {
                for (i, value) in items.iter().enumerate() {
                    self.below(name, &i.to_string(), *value, depth)?;
                }
            }
            Value::Opaque(Some(state)) => self.module(*state, name, depth)?,
            _ => {}
        }
        Ok(())
    }

    /// A key as text, if it is text.
    fn part(&self, key: Id) -> Result<Option<String>, Fault> {
        match self.pickle.get(key) {
            Value::Text(text) if text.len() > LONGEST_NAME => Err("has a key of unreasonable length; save the state_dict alone".into()),
            _ => Ok(self.pickle.key(key)),
        }
    }

    fn below(&mut self, name: &mut String, part: &str, id: Id, depth: usize) -> Result<(), Fault> {
        if !matches!(self.pickle.get(id), Value::Tensor(_) | Value::Dict(_) | Value::List(_) | Value::Tuple(_) | Value::Opaque(Some(_))) {
            self.steps = self.steps.checked_sub(1).ok_or("holds itself over and over; save the state_dict alone")?;
            return Ok(());
        }
        let len = name.len();
        if !name.is_empty() && !part.is_empty() {
            name.push('.');
        }
        name.push_str(part);
        if name.len() > LONGEST_NAME {
            return Err("has a name of unreasonable length; save the state_dict alone".into());
        }
        self.visit(id, name, depth + 1)?;
        name.truncate(len);
        Ok(())
    }

    /// The state of a module that was saved whole, with its parameters, buffers and submodules. Other objects hold no tensors of interest.
    fn module(&mut self, state: Id, name: &mut String, depth: usize) -> Result<(), Fault> {
        if self.pickle.entry(state, "_parameters").is_none() || self.pickle.entry(state, "_modules").is_none() {
            return Ok(());
        }
        for part in ["_parameters", "_buffers", "_modules"] {
            if let Some(id) = self.pickle.entry(state, part) {
                self.visit(id, name, depth + 1)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, name: String, lent: &Lent) -> Result<(), Fault> {
        printable(&name)?;
        let dtype = lent.storage.dtype;
        let Some(&(start, len)) = self.storages.get(&lent.storage.key) else {
            return Err(format!("lacks the numbers of tensor `{name}`; get it again"));
        };
        let held = len as usize / dtype.bytes().max(1);
        let place = Place { file: 0, start, offset: lent.offset, strides: lent.strides.clone() };
        let tensor = Tensor { dtype, shape: lent.shape.clone(), place };
        if !tensor.lies_within(held) {
            return Err(format!("has a tensor `{name}` that reaches beyond its numbers; get it again"));
        }
        self.tensors.insert(name, tensor);
        Ok(())
    }
}
