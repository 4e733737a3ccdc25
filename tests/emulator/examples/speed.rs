//! What the emulator itself costs, with its checks on, without the race detector, and counting.

use emulator::{Emulator, Options};
use std::time::Instant;

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

fn main() {
    let modes = [
        ("checked", Options::default()),
        ("no races", Options { race: false, ..Options::default() }),
        ("counting", Options { counts: true, ..Options::default() }),
    ];
    for (mode, options) in modes {
        let emulator = Emulator::new(options);
        let out = emulator.alloc(4096);
        emulator.upload(out, &[0; 4096]).unwrap();
        for kernel in KERNELS {
            for threads in [32, 256] {
                let n = if kernel == "speed_nothing" { 1 } else { 1000 };
                let once = || {
                    let start = Instant::now();
                    emulator.launch(kernel, false, [1, 1, 1], [threads, 1, 1], 0, &[n, out]).unwrap();
                    start.elapsed().as_secs_f64()
                };
                let best = (0..7).map(|_| once()).fold(f64::MAX, f64::min);
                let each = best * 1e9 / n as f64 / threads as f64;
                println!("{mode:8}  {kernel:18} {threads:3} threads: {each:7.1} ns per thread and operation");
            }
        }
    }
}
