//! Any bytes as a file of torch.save; without the zip's or the old format's beginning they are taken for the pickled object of one.
#![no_main]

use sslmem::checkpoint::Checkpoint;
use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let known = bytes.starts_with(b"PK") || bytes.starts_with(b"\x80");
    let begin: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.\x80\x02";
    let whole = if known { bytes.to_vec() } else { [begin, bytes].concat() };
    let Ok(file) = Checkpoint::from_bytes(Path::new("x.pt"), whole) else { return };
    for (name, tensor) in file.tensors.iter().filter(|(_, t)| t.len() < 1 << 16) {
        assert_eq!(file.bytes(name).unwrap().len(), tensor.len() * tensor.dtype.bytes());
        let _ = file.values(name);
    }
    let _ = file.identify();
});
