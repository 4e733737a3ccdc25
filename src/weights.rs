//! Weights and other named memory, and their files.

use crate::checkpoint::{self, Checkpoint, SEAL, Seal};
use crate::device::{Buffer, Device, Place, SharedBuffer};
use crate::error::{Error, Result};
use crate::files::Writer;
use crate::init::Init;
use crate::random::{Purpose, Stream};
use crate::tensors::{self, Entry};
use crate::var::{Dtype, Shape};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

/// Name to buffer. Programs compiled with the same weights share them.
pub struct Weights {
    seed: u64,
    device: Device,
    entries: BTreeMap<String, Place>,
}

impl Weights {
    /// No weights yet, on the CPU. A program that asks for a new name gets it initialised from `seed`.
    pub fn new(seed: u64) -> Weights {
        Weights::on(Device::Cpu, seed)
    }
    /// [`Weights::new`] on another device. Programs run where their weights are.
    pub fn on(device: Device, seed: u64) -> Weights {
        Weights { seed, device, entries: BTreeMap::new() }
    }
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The buffer of `name`, created and initialised if it is new.
    pub(crate) fn buffer(&mut self, name: &str, shape: Shape, dtype: Dtype, init: Init) -> Result<SharedBuffer> {
        if let Some(e) = self.entries.get(name) {
            assert_eq!((e.shape, e.dtype), (shape, dtype), "{name} is in use with another shape");
            return Ok(e.buffer.clone());
        }
        let place = Place { shape, dtype, buffer: Buffer::shared(&self.device, shape.len() * dtype.bytes())? };
        if dtype == Dtype::F32 {
            place.write(&init.values(shape, Stream::new(self.seed, Purpose::Init, 0, hash(name), 0)))?;
        } else {
            place.buffer.borrow_mut().set(&vec![0u8; shape.len() * dtype.bytes()])?;
        }
        let buffer = place.buffer.clone();
        self.entries.insert(name.to_string(), place);
        Ok(buffer)
    }

    /// A copy of one named f32 buffer.
    pub fn get(&self, name: &str) -> Result<Option<Vec<f32>>> {
        self.entries.get(name).filter(|e| e.dtype == Dtype::F32).map(Place::read).transpose()
    }

    /// Overwrites or creates one named f32 buffer.
    ///
    /// # Errors
    /// The device has too little memory.
    ///
    /// # Panics
    /// `values` has not as many values as the shape, or `name` is in use with another shape.
    pub fn set(&mut self, name: &str, shape: impl Into<Shape>, values: &[f32]) -> Result<()> {
        let shape = shape.into();
        let buffer = self.buffer(name, shape, Dtype::F32, Init::Constant(0.0))?;
        assert_eq!(shape.len(), values.len(), "{name} has shape {shape:?}");
        buffer.borrow_mut().set(values)
    }

    /// Writes the variables below `prefix` as safetensors, under their names without the prefix. The file appears whole or not at all.
    pub fn save(&self, path: &Path, prefix: &str, metadata: &BTreeMap<String, String>) -> Result<()> {
        self.save_named(path, |name| name.strip_prefix(prefix), metadata)
    }

    /// Writes the variables for which `named` returns a name, under that name. The file appears whole or not at all.
    pub fn save_named(&self, path: &Path, named: impl Fn(&str) -> Option<&str>, metadata: &BTreeMap<String, String>) -> Result<()> {
        let chosen: Vec<_> = self.entries.iter().filter_map(|(n, p)| Some((named(n)?, p))).collect();
        let entries: Vec<Entry> =
            chosen.iter().map(|&(name, p)| Entry { name, dtype: p.dtype.name(), shape: p.shape.dims().to_vec() }).collect();
        let (mut seal, mut data) = (Seal::new(metadata), vec![]);
        for (entry, (_, p)) in entries.iter().zip(chosen) {
            let bytes = p.buffer.borrow().get::<u8>(p.shape.len() * p.dtype.bytes())?;
            seal.tensor(entry.name, &entry.shape, &bytes);
            data.extend(bytes);
        }
        let mut metadata = metadata.clone();
        metadata.insert(SEAL.into(), seal.finish());
        let mut file = Writer::create(path)?;
        let written = file.write_all(&tensors::header(&metadata, &entries)).and_then(|()| file.write_all(&data));
        written.map_err(Error::io("write", path))?;
        file.commit()
    }

    /// Reads an encoder from a safetensors or PyTorch file and puts its names below `prefix`. [`crate::checkpoint`] translates the names and
    /// wrappers of other libraries; the tensors of a safetensors file without a known encoder are read as they are. Returns the
    /// metadata of the encoder.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], [`Checkpoint::verify`] and [`Checkpoint::identify`]; NaN and infinite values, which would otherwise surface as a
    /// meaningless score much later; types and shapes that no weight has here.
    pub fn load(&mut self, path: &Path, prefix: &str) -> Result<HashMap<String, String>> {
        let file = Checkpoint::open(path)?;
        file.refuse_heads()?;
        file.verify()?;
        if file.is_ours() {
            for name in file.tensors.keys() {
                self.read(&file, name, prefix)?;
            }
            return Ok(file.metadata.into_iter().collect());
        }
        let found = file.identify()?;
        let layout = found.layout.ok_or_else(|| file.unknown())?;
        for (name, source) in &layout.sources {
            let values = layout.values(&file, name)?;
            self.insert(format!("{prefix}{name}"), Shape::new(&source.shape), Dtype::F32, bytemuck::cast_slice(&values))?;
        }
        Ok(found.facts.into_iter().collect())
    }

    /// Reads one head from a file of `sslmem train` and puts its names below `prefix`.
    ///
    /// # Errors
    /// As [`Weights::load`]. A missing head is found by [`Weights::check`].
    pub fn load_head(&mut self, path: &Path, prefix: &str, head: &str) -> Result<()> {
        let file = Checkpoint::open(path)?;
        file.verify()?;
        let below = format!("{head}.");
        file.tensors.keys().filter(|name| name.starts_with(&below)).try_for_each(|name| self.read(&file, name, prefix))
    }

    /// One tensor under its own name.
    fn read(&mut self, file: &Checkpoint, name: &str, prefix: &str) -> Result<()> {
        let tensor = &file.tensors[name];
        let dims = if tensor.shape.is_empty() { &[1][..] } else { &tensor.shape };
        if dims.len() > 4 {
            let what = format!("tensor `{name}` has {} dimensions; at most four are known here", dims.len());
            return Err(Error::format(file.path(), what));
        }
        let (shape, full) = (Shape::new(dims), format!("{prefix}{name}"));
        match tensor.dtype {
            checkpoint::Dtype::U8 => self.insert(full, shape, Dtype::U8, &file.bytes(name)?),
            checkpoint::Dtype::U32 => self.insert(full, shape, Dtype::U32, &file.bytes(name)?),
            _ if name.ends_with("num_batches_tracked") => Ok(()),
            _ => self.insert(full, shape, Dtype::F32, bytemuck::cast_slice(&file.values(name)?)),
        }
    }

    fn insert(&mut self, name: String, shape: Shape, dtype: Dtype, bytes: &[u8]) -> Result<()> {
        let buffer = Buffer::shared(&self.device, bytes.len())?;
        buffer.borrow_mut().set(bytes)?;
        self.entries.insert(name, Place { shape, dtype, buffer });
        Ok(())
    }

    /// Checks that every name of `wanted`, all below `prefix`, is present with its shape. Call it before a program that needs them is
    /// compiled, because compiling would initialise missing weights at random.
    ///
    /// # Errors
    /// A tensor is missing or has another shape: `path` is not of this architecture.
    pub fn check(&self, path: &Path, wanted: &[(String, Shape)], prefix: &str) -> Result<()> {
        let missing: Vec<&str> = wanted.iter().map(|(n, _)| n.as_str()).filter(|n| !self.entries.contains_key(*n)).collect();
        if let Some(first) = missing.first() {
            let (n, name) = (missing.len(), &first[prefix.len()..]);
            return Err(Error::format(
                path,
                format!("lacks {n} of the {} tensors of this architecture (first: `{name}`); check --arch and --stem", wanted.len()),
            ));
        }
        for (name, want) in wanted {
            let have = &self.entries[name].shape;
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

/// FNV-1a of a name, the number of its random stream. The prefix `teacher.` is ignored, so that a teacher starts equal to its student.
fn hash(name: &str) -> u32 {
    let name = name.strip_prefix("teacher.").unwrap_or(name);
    name.bytes().fold(0x811C_9DC5, |h, b| (h ^ b as u32).wrapping_mul(0x0100_0193))
}
