//! Any bytes as an image file: pixels or a sentence, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(image) = sslmem::data::decode(bytes, "fuzz.jpg") {
        assert_eq!(image.pixels.len(), image.height * image.width * 3);
    }
});
