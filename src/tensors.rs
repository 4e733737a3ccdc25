//! Writes the header of a safetensors file. The `safetensors` crate writes metadata in random order and needs all data in memory. Here the
//! same content gives the same bytes, and data can be streamed.

use std::collections::BTreeMap;

/// One tensor; entries are in the order of their data.
pub struct Entry<'a> {
    pub name: &'a str,
    /// `F32`, `U32` or `U8`.
    pub dtype: &'static str,
    pub shape: Vec<usize>,
}

impl Entry<'_> {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * if self.dtype == "U8" { 1 } else { 4 }
    }
}

/// The header. The data follow in the order of `entries`, without gaps.
pub fn header(metadata: &BTreeMap<String, String>, entries: &[Entry]) -> Vec<u8> {
    let mut head = serde_json::Map::new();
    head.insert("__metadata__".into(), serde_json::json!(metadata));
    let mut end = 0;
    for e in entries {
        let start = end;
        end += e.bytes();
        head.insert(e.name.into(), serde_json::json!({ "dtype": e.dtype, "shape": e.shape, "data_offsets": [start, end] }));
    }
    let text = serde_json::Value::Object(head).to_string();
    // The data start at a multiple of eight, because readers map them in place.
    let width = text.len().next_multiple_of(8);
    let mut bytes = (width as u64).to_le_bytes().to_vec();
    bytes.extend(text.bytes());
    bytes.resize(8 + width, b' ');
    bytes
}
