//! What the emulator itself costs, with its checks on, without the race detector, and counting.

use emulator::{Emulator, Options};

const KERNELS: [&str; 9] = [
    "speed_nothing",
    "speed_syncwarp",
    "speed_syncthreads",
    "speed_shuffle",
    "speed_mma",
    "speed_ldmatrix",
    "speed_global",
    "speed_shared",
    "speed_broadcast",
];

/// Time that this thread has had a processor: other work on the machine does not count.
fn seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes a local.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Names of kernels to run; all of them if there are none.
fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let modes = [
        ("checked", Options::default()),
        ("no races", Options { race: false, ..Options::default() }),
        ("counting", Options { counts: true, ..Options::default() }),
    ];
    for (mode, options) in modes {
        let emulator = Emulator::new(options);
        let out = emulator.alloc(4096);
        emulator.upload(out, &[0; 4096]).unwrap();
        for kernel in KERNELS.into_iter().filter(|k| wanted.is_empty() || wanted.iter().any(|w| w == k)) {
            for threads in [32, 256] {
                let n = if kernel == "speed_nothing" { 1 } else { 1000 };
                let once = || {
                    let start = seconds();
                    emulator.launch(kernel, false, [1, 1, 1], [threads, 1, 1], 0, &[n, out]).unwrap();
                    seconds() - start
                };
                let best = (0..7).map(|_| once()).fold(f64::MAX, f64::min);
                let each = best * 1e9 / n as f64 / threads as f64;
                println!("{mode:8}  {kernel:18} {threads:3} threads: {each:7.1} ns per thread and operation");
            }
        }
    }
}
