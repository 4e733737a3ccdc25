//! Any bytes as packs: a data set or an error, never a panic, never more memory than the file accounts for.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sslmem::data::{self, OnBadImage};

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fuzz.pack");
    std::fs::write(&path, bytes).unwrap();
    if let Ok(source) = data::open(&format!("packed:{}", path.display()), OnBadImage::Fail) {
        source.largest();
        for index in 0..source.len().min(8) {
            source.id(index);
            let _ = source.image(index);
        }
    }
});
