//! Checkpoints: the tensors of a safetensors or PyTorch file, and the encoder that they form.
//!
//! Files are not trusted: no class of a pickle is imported or called, and no allocation exceeds what the file holds.

mod call;
mod dtype;
mod families;
mod input;
mod layout;
mod pickle;
mod safetensors;
mod seal;
mod settings;
mod shards;
mod torch;
mod translate;
mod zip;

pub use dtype::Dtype;
pub use families::{expected, sine_cosine};
pub use layout::{EncoderLayout, Identity, Leftover, Source, TensorRole};
pub use seal::{SEAL, Seal};
pub use shards::digest;

use crate::error::{Error, Result};
use crate::files;
use input::Input;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// File format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Safetensors,
    /// `torch.save` since version 1.6.
    Zip,
    /// `torch.save` before.
    Legacy,
}

/// An open checkpoint. Its tensors are listed by name and read on demand.
pub struct Checkpoint {
    path: PathBuf,
    /// One file, or those named by an index.
    inputs: Vec<Input>,
    pub format: Format,
    pub tensors: BTreeMap<String, Tensor>,
    /// Keys of a pickled dictionary, tensors or not.
    pub keys: Vec<String>,
    /// Metadata of a safetensors file.
    pub metadata: BTreeMap<String, String>,
}

/// A tensor in a file.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    place: Place,
}

/// Location of its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// Number of the file.
    file: usize,
    /// First byte of the storage.
    start: u64,
    /// First element in it.
    offset: usize,
    /// Elements between neighbours along each axis.
    strides: Vec<usize>,
}

/// The format of a file that is no checkpoint, by its first bytes, for the error.
fn other(first: &[u8]) -> &'static str {
    match first {
        [0x89, b'H', b'D', b'F', ..] => "is an HDF5 file, as Keras writes them",
        [b'G', b'G', b'U', b'F', ..] => "is a GGUF file",
        // The field ir_version of ONNX's ModelProto, then its producer.
        [8, version, 0x12, ..] if *version < 32 => "is an ONNX model",
        [0x93, b'N', b'U', b'M', ..] => "is a numpy array",
        _ => "is not a whole safetensors file, nor one of torch.save (or was cut short)",
    }
}

/// The contents of a file, as found by a format's reader.
struct FileHeader {
    tensors: BTreeMap<String, Tensor>,
    keys: Vec<String>,
    metadata: BTreeMap<String, String>,
}

/// Largest number of elements of a tensor with stride 0: a few bytes of a file can claim any size of it, so the length of the file is no bound.
const MOST_REPEATED: usize = 1 << 28;

impl Tensor {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Elements from the first to the last, both counted; nothing if that overflows.
    fn span(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, extent| n.checked_mul(*extent))?;
        let steps = self.shape.iter().zip(&self.place.strides).map(|(extent, stride)| extent.saturating_sub(1).checked_mul(*stride));
        steps.into_iter().try_fold(1usize, |sum, step| sum.checked_add(step?))
    }
    /// All elements lie in a storage of `held`.
    fn lies_within(&self, held: usize) -> bool {
        let Some(span) = self.span() else { return false };
        let end = self.place.offset.checked_add(if self.is_empty() { 0 } else { span });
        end.is_some_and(|end| end <= held) && (self.len() <= held || self.len() <= MOST_REPEATED)
    }
}

impl Checkpoint {
    /// Opens a safetensors file or one of `torch.save`, by content and not by name; the files of a `.index.json`; or those in a Hugging
    /// Face folder.
    ///
    /// # Errors
    /// The file is missing, of another format, truncated or damaged.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        let path = shards::meant(path)?;
        if shards::is_index(&path) { shards::open(&path) } else { Checkpoint::one(&path) }
    }

    fn one(path: &Path) -> Result<Checkpoint> {
        let file = files::open(path)?;
        let about = file.metadata().map_err(Error::io("read", path))?;
        Checkpoint::of(path, Input::File { file, len: about.len() })
    }

    /// As [`Checkpoint::open`] on bytes in memory; errors name `path`.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Checkpoint> {
        Checkpoint::of(path, Input::Memory(bytes))
    }

    fn of(path: &Path, input: Input) -> Result<Checkpoint> {
        let fault = |what| Error::format(path, what);
        let first = input.read(0, input.len().min(9)).map_err(fault)?;
        let (format, head) = match &first[..] {
            [b'P', b'K', 3, 4, ..] => (Format::Zip, torch::zipped(&input)),
            [0x80, 0..=5, ..] => (Format::Legacy, torch::legacy(&input)),
            bytes if safetensors::begins(bytes, input.len()) => (Format::Safetensors, safetensors::read(&input)),
            _ => {
                return Err(fault(format!("{}; save the encoder's state_dict() with torch.save or as safetensors", other(&first))));
            }
        };
        let FileHeader { tensors, keys, metadata } = head.map_err(fault)?;
        Ok(Checkpoint { path: path.to_path_buf(), inputs: vec![input], format, tensors, keys, metadata })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of a contiguous tensor as they are, little-endian.
    ///
    /// # Errors
    /// There is no such tensor, or the file is shorter than it was.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let tensor = self.tensor(name)?;
        self.elements(tensor).map_err(|what| Error::format(&self.path, what))
    }

    /// The elements of a tensor, row by row, as f32.
    ///
    /// # Errors
    /// There is no such tensor, its type has no conversion to f32, or an element is NaN or infinite, which would otherwise surface much
    /// later as a meaningless score.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.tensor(name)?;
        let bytes = self.elements(tensor).map_err(|what| Error::format(&self.path, what))?;
        let Some(values) = tensor.dtype.to_f32(&bytes) else {
            let what = format!("tensor `{name}` is of a type that is not known here; convert the file to float32");
            return Err(Error::format(&self.path, what));
        };
        if let Some((i, value)) = values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
            let what = format!("tensor `{name}` holds {value} at element {i}; these weights cannot be used");
            return Err(Error::format(&self.path, what));
        }
        Ok(values)
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| Error::format(&self.path, format!("has no tensor `{name}`")))
    }

    /// A tensor's bytes in contiguous order.
    fn elements(&self, tensor: &Tensor) -> std::result::Result<Vec<u8>, pickle::Fault> {
        let (width, Place { file, start, offset, strides }) = (tensor.dtype.bytes(), &tensor.place);
        let span = tensor.span().unwrap_or(0);
        if tensor.is_empty() || width == 0 {
            return Ok(vec![]);
        }
        let read = self.inputs[*file].read(start + (offset * width) as u64, (span * width) as u64)?;
        let mut contiguous = 1;
        let plain = tensor.shape.iter().zip(strides).rev().all(|(&extent, &stride)| {
            let fits = extent == 1 || stride == contiguous;
            contiguous *= extent;
            fits
        });
        if plain {
            return Ok(read);
        }
        let mut bytes = Vec::with_capacity(tensor.len() * width);
        let mut place = vec![0; tensor.shape.len()];
        for _ in 0..tensor.len() {
            let at: usize = place.iter().zip(strides).map(|(i, stride)| i * stride).sum();
            bytes.extend_from_slice(&read[at * width..][..width]);
            for (i, extent) in place.iter_mut().zip(&tensor.shape).rev() {
                *i += 1;
                if *i < *extent {
                    break;
                }
                *i = 0;
            }
        }
        Ok(bytes)
    }
}
