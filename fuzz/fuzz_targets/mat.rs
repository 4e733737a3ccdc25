#![no_main]

// One thread that does everything itself is several times faster than handing each file to another. What a decoder panics at is caught and
// becomes a sentence; libFuzzer's hook would end the process before.
libfuzzer_sys::fuzz_target!(
    init: {
        rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global().expect("the first pool");
        std::panic::set_hook(Box::new(|_| {}));
    },
    |bytes: &[u8]| sslmem_fuzz::mat(bytes)
);
