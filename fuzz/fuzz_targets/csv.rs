#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sslmem_fuzz::csv(bytes));
