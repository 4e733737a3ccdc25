//! Any bytes as a safetensors file; what does not begin like one is taken for the JSON of its head.
#![no_main]

use sslmem::checkpoint::Checkpoint;
use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut whole = bytes.to_vec();
    if bytes.starts_with(b"{") {
        whole = [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat();
    }
    let Ok(file) = Checkpoint::from_bytes(Path::new("x.safetensors"), whole) else { return };
    for (name, tensor) in file.tensors.iter().filter(|(_, t)| t.len() < 1 << 16) {
        assert_eq!(file.bytes(name).unwrap().len(), tensor.len() * tensor.dtype.bytes());
        let _ = file.values(name);
    }
    let _ = file.identify();
});
