#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let pixels = sslmem_fuzz::jpeg(bytes);
    // The decoder asks this variable each time. SAFETY: there is one thread.
    unsafe { std::env::set_var("JSIMD_FORCENONE", "1") };
    let scalar = sslmem_fuzz::jpeg(bytes);
    unsafe { std::env::remove_var("JSIMD_FORCENONE") };
    assert!(pixels == scalar, "vector code and scalar code give other pixels");
});
