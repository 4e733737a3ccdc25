//! Any bytes as tar files as a WebDataset: a data set or an error, never a panic, never more memory than the file accounts for.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sslmem::data::{Source, WebDataset};

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fuzz.tar");
    std::fs::write(&path, bytes).unwrap();
    if let Ok(source) = WebDataset::open(&path.display().to_string(), None) {
        source.largest();
        for index in 0..source.len().min(8) {
            source.id(index);
            let _ = source.image(index);
        }
    }
});
