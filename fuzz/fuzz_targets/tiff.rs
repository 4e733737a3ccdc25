#![no_main]

// What a decoder panics at is caught and becomes a sentence; libFuzzer's hook would end the process before.
libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| {})),
    |bytes: &[u8]| sslmem_fuzz::tiff(bytes)
);
