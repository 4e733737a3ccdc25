//! The head of a safetensors file. The crate reads such files; it writes its metadata in random order and
//! wants all data in memory at once, so writing is done here: same content, same bytes, and it can stream.

use std::collections::BTreeMap;

/// One tensor to come, in the order of its data.
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

/// Everything before the data, which follows in the order of `entries` without gaps.
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
    // Readers map the data in place: it starts at a multiple of eight.
    let width = text.len().next_multiple_of(8);
    let mut bytes = (width as u64).to_le_bytes().to_vec();
    bytes.extend(text.bytes());
    bytes.resize(8 + width, b' ');
    bytes
}
