//! Weights and other named memory, and their safetensors files.

use crate::device::{Buffer, Cell};
use crate::error::{Error, Result};
use crate::files;
use crate::random::{Purpose, Stream};
use crate::tensors::{self, Entry};
use crate::var::{Dtype, Shape};
use safetensors::tensor::{Dtype as FileDtype, SafeTensors};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// How a weight starts. Numbers come from a stream of their own per name, so a weight's start does not
/// depend on what else a network has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    Constant(f32),
    /// Standard deviation.
    Normal(f32),
    /// Uniform in [-bound, bound).
    Uniform(f32),
}

struct Place {
    shape: Shape,
    dtype: Dtype,
    cell: Cell, // [shape]
}

/// Name to buffer. Programs compiled with the same weights share them.
pub struct Weights {
    seed: u64,
    entries: BTreeMap<String, Place>,
}

impl Weights {
    /// Empty; what a program asks for is made on demand from `seed`.
    pub fn new(seed: u64) -> Weights {
        Weights { seed, entries: BTreeMap::new() }
    }

    /// The buffer of `name`, made if it is new.
    pub(crate) fn cell(&mut self, name: &str, shape: Shape, dtype: Dtype, init: Init) -> Cell {
        if let Some(e) = self.entries.get(name) {
            assert_eq!((e.shape, e.dtype), (shape, dtype), "{name} is in use with another shape");
            return e.cell.clone();
        }
        let mut buffer = Buffer::new(shape.len() * dtype.bytes());
        if dtype == Dtype::F32 {
            let values: &mut [f32] = buffer.slice_mut(shape.len());
            let mut stream = Stream::new(self.seed, Purpose::Init, 0, hash(name), 0);
            match init {
                Init::Constant(c) => values.fill(c),
                Init::Normal(std) => values.iter_mut().for_each(|v| *v = std * stream.normal()),
                Init::Uniform(bound) => values.iter_mut().for_each(|v| *v = stream.range(-bound, bound)),
            }
        }
        let cell = std::rc::Rc::new(std::cell::RefCell::new(buffer));
        self.entries.insert(name.to_string(), Place { shape, dtype, cell: cell.clone() });
        cell
    }

    /// Names, shapes and types, sorted by name.
    pub fn list(&self) -> impl Iterator<Item = (&str, Shape)> {
        self.entries.iter().map(|(n, e)| (n.as_str(), e.shape))
    }

    /// A copy of one named f32 buffer.
    pub fn get(&self, name: &str) -> Option<Vec<f32>> {
        let e = self.entries.get(name).filter(|e| e.dtype == Dtype::F32)?;
        Some(e.cell.borrow().slice(e.shape.len()).to_vec())
    }

    /// Overwrite or create one named f32 buffer.
    pub fn set(&mut self, name: &str, shape: impl Into<Shape>, values: &[f32]) {
        let shape = shape.into();
        let cell = self.cell(name, shape, Dtype::F32, Init::Constant(0.0));
        cell.borrow_mut().slice_mut(shape.len()).copy_from_slice(values);
    }

    /// BLAKE3 over names and bytes below `prefix`, hexadecimal.
    pub fn digest(&self, prefix: &str) -> String {
        let mut hash = blake3::Hasher::new();
        for (name, e) in self.entries.range(prefix.to_string()..).take_while(|(n, _)| n.starts_with(prefix)) {
            hash.update(name.as_bytes());
            hash.update(e.cell.borrow().slice::<u8>(e.shape.len() * e.dtype.bytes()));
        }
        hash.finalize().to_hex().to_string()
    }

    /// Write what lies below `prefix` as safetensors, names without the prefix, whole or not at all.
    pub fn save(&self, path: &Path, prefix: &str, metadata: &BTreeMap<String, String>) -> Result<()> {
        let chosen: Vec<_> = self.entries.iter().filter(|(n, _)| n.starts_with(prefix)).collect();
        let entries: Vec<Entry> = chosen.iter().map(|(n, p)| Entry { name: &n[prefix.len()..], dtype: p.dtype.name(), shape: p.shape.dims().to_vec() }).collect();
        let mut file = tensors::header(metadata, &entries);
        for (_, p) in chosen {
            file.extend_from_slice(p.cell.borrow().slice::<u8>(p.shape.len() * p.dtype.bytes()));
        }
        files::write_whole(path, &file)
    }

    /// Read a safetensors file, each name put below `prefix`. Refuses NaN and infinite values, which would
    /// otherwise surface as a meaningless score much later. Returns the file's metadata.
    pub fn load(&mut self, path: &Path, prefix: &str) -> Result<HashMap<String, String>> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let broken = |e: safetensors::SafeTensorError| Error::format(path, format!("is not a whole safetensors file ({e})"));
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
        for (name, view) in SafeTensors::deserialize(&bytes).map_err(broken)?.tensors() {
            let dims = if view.shape().is_empty() { &[1][..] } else { view.shape() };
            if dims.len() > 4 {
                return Err(Error::format(path, format!("tensor `{name}` has {} dimensions; at most four are known here", dims.len())));
            }
            let dtype = match view.dtype() {
                FileDtype::F32 => Dtype::F32,
                FileDtype::U8 => Dtype::U8,
                FileDtype::U32 => Dtype::U32,
                FileDtype::I64 if name.ends_with("num_batches_tracked") => continue,
                other => return Err(Error::format(path, format!("tensor `{name}` is {other:?}; convert the file to float32"))),
            };
            let mut buffer = Buffer::new(view.data().len());
            buffer.slice_mut(view.data().len()).copy_from_slice(view.data());
            let shape = Shape::new(dims);
            if dtype == Dtype::F32
                && let Some(i) = buffer.slice::<f32>(shape.len()).iter().position(|v| !v.is_finite())
            {
                let value = buffer.slice::<f32>(shape.len())[i];
                return Err(Error::format(path, format!("tensor `{name}` holds {value} at element {i}; these weights cannot be used")));
            }
            let cell = std::rc::Rc::new(std::cell::RefCell::new(buffer));
            self.entries.insert(format!("{prefix}{name}"), Place { shape, dtype, cell });
        }
        Ok(header.metadata().clone().unwrap_or_default())
    }

    /// Check that everything `tape` needs below `prefix` is here with its shape, before compiling it.
    pub fn check(&self, path: &Path, tape: &crate::tape::Tape, prefix: &str) -> Result<()> {
        let wanted = tape.below(prefix);
        let missing: Vec<&str> = wanted.iter().map(|(n, _)| n.as_str()).filter(|n| !self.entries.contains_key(*n)).collect();
        if let Some(first) = missing.first() {
            let (n, name) = (missing.len(), &first[prefix.len()..]);
            return Err(Error::format(path, format!("lacks {n} of the {} tensors of this architecture (first: `{name}`); check --arch and --stem", wanted.len())));
        }
        for (name, v) in &wanted {
            let (have, want) = (self.entries[name].shape, tape.shape(*v));
            if have != want {
                return Err(Error::format(path, format!("tensor `{}` has shape {have:?}, this architecture needs {want:?}; check --arch and --stem", &name[prefix.len()..])));
            }
        }
        Ok(())
    }
}

/// FNV-1a, to give every name a stream of its own.
fn hash(name: &str) -> u32 {
    name.bytes().fold(0x811C_9DC5, |h, b| (h ^ b as u32).wrapping_mul(0x0100_0193))
}
