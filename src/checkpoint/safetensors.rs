//! The head of a safetensors file: where its tensors lie. Only what is asked for is read of the rest.

use super::dtype::Dtype;
use super::input::Input;
use super::pickle::{Fault, printable};
use super::{Head, Place, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;

/// Bytes of a head at most, as the format says.
const LARGEST: u64 = 100_000_000;

fn broken(what: &str) -> Fault {
    format!("is not a whole safetensors file ({what}); get it again")
}

/// Could these be the first bytes of such a file of `len` bytes?
pub fn begins(bytes: &[u8], len: u64) -> bool {
    matches!(bytes, [a @ .., b'{'] if a.len() == 8 && head_len(a) <= LARGEST && head_len(a) <= len)
}

fn head_len(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | *b as u64)
}

/// The tensors of a safetensors file.
pub fn read(input: &Input) -> Result<Head, Fault> {
    let len = head_len(&input.read(0, 8).map_err(|_| broken("it has no head"))?);
    if len > LARGEST || len > input.len() - 8 {
        return Err(broken("its head is not all there"));
    }
    let (head, data) = (input.read(8, len)?, 8 + len);
    let json: Value = serde_json::from_slice(&head).map_err(|e| broken(&format!("its head is no JSON: {e}")))?;
    let Value::Object(entries) = json else { return Err(broken("its head is no JSON object")) };
    let (mut tensors, mut metadata) = (BTreeMap::new(), BTreeMap::new());
    let mut parts = vec![];
    for (name, entry) in entries {
        if name == "__metadata__" {
            let Value::Object(words) = entry else { continue };
            metadata.extend(words.into_iter().filter_map(|(key, value)| Some((key, value.as_str()?.to_string()))));
            continue;
        }
        printable(&name)?;
        let wrong = || broken(&format!("tensor `{name}` is not described as such"));
        let sizes = |key: &str| -> Option<Vec<usize>> {
            let list = entry.get(key)?.as_array()?;
            list.iter().map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok())).collect()
        };
        let (shape, offsets) = (sizes("shape").ok_or_else(wrong)?, sizes("data_offsets").ok_or_else(wrong)?);
        let dtype = Dtype::of_safetensors(entry.get("dtype").and_then(Value::as_str).ok_or_else(wrong)?);
        let &[begin, end] = &offsets[..] else { return Err(wrong()) };
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
    // The tensors fill the file without gaps, so one that was cut off is noticed.
    parts.sort_unstable();
    let end = parts.iter().try_fold(0, |at, (begin, end)| (*begin == at).then_some(*end));
    if end.map(|end| end as u64) != Some(input.len() - data) {
        return Err(broken("its tensors do not fill it"));
    }
    let keys = vec![];
    Ok(Head { tensors, keys, metadata })
}

/// Elements between neighbours along each axis of a contiguous tensor; nothing if there are too many elements.
fn strides(shape: &[usize]) -> Option<Vec<usize>> {
    let mut strides = vec![1; shape.len()];
    let mut step = 1usize;
    for (stride, extent) in strides.iter_mut().zip(shape).rev() {
        *stride = step;
        step = step.checked_mul((*extent).max(1))?;
    }
    Some(strides)
}
