#![no_main]

// One thread that does everything itself is several times faster than handing each file to another.
libfuzzer_sys::fuzz_target!(
    init: rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global().expect("the first pool"),
    |bytes: &[u8]| sslmem_fuzz::tar(bytes)
);
