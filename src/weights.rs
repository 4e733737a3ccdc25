//! Weights and other named memory, and their safetensors files.

use crate::device::{Buffer, Cell, Device, Place};
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
#[derive(Clone, Copy, Debug)]
pub enum Init {
    Constant(f32),
    /// Standard deviation.
    Normal(f32),
    /// Standard deviation of a normal that is drawn again beyond two of them.
    Truncated(f32),
    /// Uniform in [-bound, bound).
    Uniform(f32),
    /// What the shape alone decides: a table of positions.
    Table(fn(Shape) -> Vec<f32>),
}

impl Init {
    fn values(self, shape: Shape, mut stream: Stream) -> Vec<f32> {
        let mut value: Box<dyn FnMut() -> f32> = match self {
            Init::Table(of) => return of(shape),
            Init::Constant(c) => Box::new(move || c),
            Init::Normal(std) => Box::new(move || std * stream.normal()),
            Init::Truncated(std) => {
                Box::new(move || std * std::iter::repeat_with(|| stream.normal()).find(|x| x.abs() <= 2.0).unwrap_or(0.0))
            }
            Init::Uniform(bound) => Box::new(move || stream.range(-bound, bound)),
        };
        (0..shape.len()).map(|_| value()).collect()
    }
}

/// Name to buffer. Programs compiled with the same weights share them.
pub struct Weights {
    seed: u64,
    device: Device,
    entries: BTreeMap<String, Place>,
}

impl Weights {
    /// Empty, on the CPU; what a program asks for is made on demand from `seed`.
    pub fn new(seed: u64) -> Weights {
        Weights::on(Device::Cpu, seed)
    }
    /// The same on another device: programs run where their weights are.
    pub fn on(device: Device, seed: u64) -> Weights {
        Weights { seed, device, entries: BTreeMap::new() }
    }
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The buffer of `name`, made if it is new.
    pub(crate) fn cell(&mut self, name: &str, shape: Shape, dtype: Dtype, init: Init) -> Result<Cell> {
        if let Some(e) = self.entries.get(name) {
            assert_eq!((e.shape, e.dtype), (shape, dtype), "{name} is in use with another shape");
            return Ok(e.cell.clone());
        }
        let place = Place { shape, dtype, cell: Buffer::cell(&self.device, shape.len() * dtype.bytes())? };
        if dtype == Dtype::F32 {
            place.write(&init.values(shape, Stream::new(self.seed, Purpose::Init, 0, hash(name), 0)))?;
        } else {
            place.cell.borrow_mut().set(&vec![0u8; shape.len() * dtype.bytes()])?;
        }
        let cell = place.cell.clone();
        self.entries.insert(name.to_string(), place);
        Ok(cell)
    }

    /// A copy of one named f32 buffer.
    pub fn get(&self, name: &str) -> Result<Option<Vec<f32>>> {
        self.entries.get(name).filter(|e| e.dtype == Dtype::F32).map(Place::read).transpose()
    }

    /// Overwrite or create one named f32 buffer.
    pub fn set(&mut self, name: &str, shape: impl Into<Shape>, values: &[f32]) -> Result<()> {
        let shape = shape.into();
        let cell = self.cell(name, shape, Dtype::F32, Init::Constant(0.0))?;
        assert_eq!(shape.len(), values.len(), "{name} has shape {shape:?}");
        cell.borrow_mut().set(values)
    }

    /// Write what lies below `prefix` as safetensors, names without the prefix, whole or not at all.
    pub fn save(&self, path: &Path, prefix: &str, metadata: &BTreeMap<String, String>) -> Result<()> {
        let chosen: Vec<_> = self.entries.iter().filter(|(n, _)| n.starts_with(prefix)).collect();
        let entries: Vec<Entry> =
            chosen.iter().map(|(n, p)| Entry { name: &n[prefix.len()..], dtype: p.dtype.name(), shape: p.shape.dims().to_vec() }).collect();
        let mut file = tensors::header(metadata, &entries);
        for (_, p) in chosen {
            file.extend(p.cell.borrow().get::<u8>(p.shape.len() * p.dtype.bytes())?);
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
            let shape = Shape::new(dims);
            let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            if dtype == Dtype::F32
                && let Some((i, value)) = view.data().chunks_exact(4).map(number).enumerate().find(|(_, v)| !v.is_finite())
            {
                return Err(Error::format(path, format!("tensor `{name}` holds {value} at element {i}; these weights cannot be used")));
            }
            let cell = Buffer::cell(&self.device, view.data().len())?;
            cell.borrow_mut().set(view.data())?;
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
            return Err(Error::format(
                path,
                format!("lacks {n} of the {} tensors of this architecture (first: `{name}`); check --arch and --stem", wanted.len()),
            ));
        }
        for (name, v) in &wanted {
            let (have, want) = (self.entries[name].shape, tape.shape(*v));
            if have != want {
                return Err(Error::format(
                    path,
                    format!(
                        "tensor `{}` has shape {have:?}, this architecture needs {want:?}; check --arch and --stem",
                        &name[prefix.len()..]
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// FNV-1a, to give every name a stream of its own. A teacher starts as its student, so it has the stream of the name
/// without `teacher.`.
fn hash(name: &str) -> u32 {
    let name = name.strip_prefix("teacher.").unwrap_or(name);
    name.bytes().fold(0x811C_9DC5, |h, b| (h ^ b as u32).wrapping_mul(0x0100_0193))
}
