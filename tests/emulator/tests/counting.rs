//! Counts that can be told by hand, and that no schedule changes.

use crate::right::all;
use crate::support::upload;
use emulator::{Access, Emulator, LaunchCounts, Options};

fn count(options: Options, kernel: &str, blocks: u32, threads: u32, shared: u32, input: &[u16], out: usize) -> LaunchCounts {
    let emulator = Emulator::new(Options { counts: true, ..options });
    let words = [upload(&emulator, input), emulator.alloc(out)];
    emulator.launch(kernel, false, [blocks, 1, 1], [threads, 1, 1], shared, &words).unwrap_or_else(|e| panic!("{e}"));
    let mut all = emulator.take_counts();
    assert_eq!(all.len(), 1);
    assert!(emulator.take_counts().is_empty());
    all.remove(0)
}

/// The counts of a site by its line in counting.cu, told by its text: requests, bytes, passes, ideal.
fn at(counts: &LaunchCounts, access: Access, text: &str) -> [u64; 4] {
    let source = include_str!("../kernels/counting.cu");
    let line = 1 + source.lines().position(|l| l.contains(text)).unwrap_or_else(|| panic!("no line has {text}"));
    let place = format!("counting.cu:{line}");
    let sites: Vec<_> = counts.at(&place).filter(|s| s.access == access).collect();
    assert_eq!(sites.len(), 1, "sites of {place}: {counts}");
    [sites[0].requests, sites[0].bytes, sites[0].passes, sites[0].ideal]
}

#[test]
fn memory_of_threads() {
    let counts = count(Options::default(), "access_patterns", 1, 32, 1024, &[0x3c00; 2048], 128);
    let global = |text| at(&counts, Access::GlobalLoad, text);
    assert_eq!(global("float a = in[t];"), [1, 128, 4, 4]);
    assert_eq!(global("float b = in[t * 8];"), [1, 128, 32, 4]);
    assert_eq!(global("float c = in[1 + t];"), [1, 128, 5, 4]);
    assert_eq!(global("float4 v ="), [1, 512, 16, 16]);
    assert_eq!(at(&counts, Access::GlobalStore, "out[t] = a + b"), [1, 128, 4, 4]);
    assert_eq!(at(&counts, Access::SharedStore, "s[t * 32 + i] = a"), [32, 4096, 1024, 32]);
    assert_eq!(at(&counts, Access::SharedLoad, "d += s[i * 32 + t]"), [32, 4096, 32, 32]);
    assert_eq!(at(&counts, Access::SharedStore, "w[t] = v;"), [1, 512, 4, 4]);
    assert_eq!(at(&counts, Access::SharedStore, "if (t < 8) w[t + 32]"), [1, 128, 1, 1]);
    assert_eq!(at(&counts, Access::SharedLoad, "d += w[t].x"), [1, 128, 4, 1]);
    assert_eq!((counts.read, counts.unique_read), (3 * 128 + 512, 512 + 16 * 4));
    assert_eq!((counts.written, counts.unique_written), (128, 128));
    assert_eq!((counts.barriers, counts.shuffles, counts.mma), (2, 1, 0));
    assert_eq!(counts.shared, 1024 + 32 * 33 * 4);
}

#[test]
fn matrices_and_copies() {
    let counts = count(Options::default(), "matrix_patterns", 1, 32, 0, &[0x3f80; 256], 512);
    assert_eq!(at(&counts, Access::CopyFrom, "smem_u32(good + t / 2"), [1, 512, 16, 16]);
    assert_eq!(at(&counts, Access::CopyFrom, "smem_u32(bad + t / 2"), [1, 256, 8, 8]);
    assert_eq!(at(&counts, Access::CopyTo, "smem_u32(bad + t / 2"), [1, 512, 16, 4]);
    assert_eq!(at(&counts, Access::Ldmatrix, "ldmatrix_x4(a"), [1, 512, 4, 4]);
    assert_eq!(at(&counts, Access::Ldmatrix, "ldmatrix_x4(b"), [1, 512, 32, 4]);
    assert_eq!((counts.mma, counts.mma_flops), (2, 2 * 2 * 16 * 8 * 16));
    assert_eq!((counts.copied, counts.read, counts.unique_read), (768, 768, 512));
}

#[test]
fn no_schedule_changes_a_count() {
    for (kernel, threads, input) in [("access_patterns", 32, 2048), ("matrix_patterns", 32, 256)] {
        let first = count(Options::default(), kernel, 1, threads, 1024, &vec![0x3f80; input], 512);
        for options in all() {
            assert_eq!(count(options, kernel, 1, threads, 1024, &vec![0x3f80; input], 512), first, "{options:?}");
        }
    }
}

#[test]
fn the_table_can_be_read() {
    let text = count(Options::default(), "access_patterns", 1, 32, 1024, &[0x3c00; 2048], 128).to_string();
    assert!(text.starts_with("access_patterns: grid [1, 1, 1], block [32, 1, 1], 5248 bytes of shared memory\n"), "{text}");
    assert!(text.contains("global load      4          1          128       32.00   4.00  counting.cu:"), "{text}");
}
