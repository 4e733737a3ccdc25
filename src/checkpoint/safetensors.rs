//! The header of a safetensors file: the location of its tensors. Tensors are read on demand.

use super::dtype::Dtype;
use super::input::Input;
use super::pickle::{Fault, printable};
use super::{FileHeader, Place, Tensor};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// Largest header in bytes, by the format's definition.
const LARGEST: u64 = 100_000_000;

fn broken(what: &str) -> Fault {
    format!("is not a whole safetensors file ({what}); get it again")
}

/// Whether these may be the first bytes of a safetensors file of `len` bytes.
pub fn begins(bytes: &[u8], len: u64) -> bool {
    matches!(bytes, [a @ .., b'{'] if a.len() == 8 && head_len(a) <= LARGEST && head_len(a) <= len)
}

fn head_len(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | *b as u64)
}

/// The tensors of a safetensors file.
pub fn read(input: &Input) -> Result<FileHeader, Fault> {
    let len = head_len(&input.read(0, 8).map_err(|_| broken("it has no head"))?);
    if len > LARGEST || len > input.len() - 8 {
        return Err(broken("its head is not all there"));
    }
    let (head, data) = (input.read(8, len)?, 8 + len);
    let Entries { entries, metadata } =
        serde_json::from_slice(&head).map_err(|e| broken(&format!("its head is not as it should be: {e}")))?;
    let mut tensors = BTreeMap::new();
    let mut parts = vec![];
    for (name, Entry { dtype, shape: Shape(shape), data_offsets: [begin, end] }) in entries {
        printable(&name)?;
        let wrong = || broken(&format!("tensor `{name}` is not described as such"));
        let dtype = Dtype::of_safetensors(&dtype);
        let strides = strides(&shape).ok_or_else(wrong)?;
        let bytes = shape.iter().product::<usize>().checked_mul(dtype.bytes());
        if begin > end || end as u64 > input.len() - data {
            return Err(broken(&format!("tensor `{name}` lies beyond its end")));
        }
        if dtype.bytes() > 0 && bytes != Some(end - begin) {
            return Err(broken(&format!("tensor `{name}` has {} bytes, its shape wants another number", end - begin)));
        }
        parts.push((begin, end));
        tensors.insert(name, Tensor { dtype, shape, place: Place { file: 0, start: data + begin as u64, offset: 0, strides } });
    }
    // The format has no gaps, so a truncated file is noticed.
    parts.sort_unstable();
    let end = parts.iter().try_fold(0, |at, (begin, end)| (*begin == at).then_some(*end));
    if end.map(|end| end as u64) != Some(input.len() - data) {
        return Err(broken("its tensors do not fill it"));
    }
    let keys = vec![];
    Ok(FileHeader { tensors, keys, metadata })
}

/// A header parsed into exactly its fields, so that a hostile one takes no more memory than its bytes.
#[derive(Default)]
struct Entries {
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

/// A tensor as the head describes it.
#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Shape,
    data_offsets: [usize; 2],
}

/// A shape of at most [`AXES`] axes.
struct Shape(Vec<usize>);

/// Most axes of a tensor, as in PyTorch.
const AXES: usize = 64;

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Entries, D::Error> {
        from.deserialize_map(OfHead)
    }
}

struct OfHead;

impl<'de> Visitor<'de> for OfHead {
    type Value = Entries;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with a description for each tensor")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut head = Entries::default();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                head.metadata = map.next_value()?;
                continue;
            }
            let wrong = |what: &str| A::Error::custom(format!("tensor `{}` {what}", name.escape_debug()));
            let entry = map.next_value().map_err(|e| wrong(&format!("is not described as such: {e}")))?;
            if head.entries.insert(name.clone(), entry).is_some() {
                return Err(wrong("is described twice"));
            }
        }
        Ok(head)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Shape, D::Error> {
        from.deserialize_seq(OfShape)
    }
}

struct OfShape;

impl<'de> Visitor<'de> for OfShape {
    type Value = Shape;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "at most {AXES} whole numbers")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
        let mut shape = vec![];
        while let Some(extent) = list.next_element()? {
            if shape.len() == AXES {
                return Err(A::Error::custom(format!("more than {AXES} axes")));
            }
            shape.push(extent);
        }
        Ok(Shape(shape))
    }
}

/// Strides of a contiguous tensor, in elements; `None` on overflow.
fn strides(shape: &[usize]) -> Option<Vec<usize>> {
    let mut strides = vec![1; shape.len()];
    let mut step = 1usize;
    for (stride, extent) in strides.iter_mut().zip(shape).rev() {
        *stride = step;
        step = step.checked_mul((*extent).max(1))?;
    }
    Some(strides)
}
