//! What is refused, with its message; what looks like it and is not; the memory of the device.

use crate::right::all;
use crate::support::{bytes, download, upload};
use emulator::{Emulator, Options, SHARED_SM86};
use std::process::Command;

/// One block on 64 words of zeros, after `first` arguments.
fn run(options: Options, kernel: &str, blocks: u32, threads: u32, first: &[u64]) -> Result<Vec<u32>, String> {
    let emulator = Emulator::new(options);
    let out = upload(&emulator, &[0u32; 64]);
    let words: Vec<u64> = first.iter().copied().chain([out]).collect();
    emulator.launch(kernel, false, [blocks, 1, 1], [threads, 1, 1], 0, &words)?;
    Ok(download(&emulator, out, 64).into_iter().map(f32::to_bits).collect())
}

/// Refused under every schedule, with one of the messages.
fn refused(kernel: &str, blocks: u32, threads: u32, first: &[u64], messages: &[&str]) {
    for options in all() {
        let options = Options { steps: 1 << 16, ..options };
        match run(options, kernel, blocks, threads, first) {
            Ok(_) => panic!("{kernel} passed with {options:?}"),
            Err(e) => assert!(messages.iter().any(|m| e.contains(m)), "{e}"),
        }
    }
}

#[test]
fn divergence() {
    refused("two_collectives", 1, 32, &[], &["warp 0 diverged: lane"]);
    refused("exit_before_barrier", 1, 64, &[], &["threads 0-31 wait in __syncthreads at misc.cu:"]);
    refused("two_barriers", 1, 32, &[], &["barrier 0 in divergent code: thread"]);
    refused("shuffle_from_absent_lane", 1, 32, &[], &["lane 0 reads lane 20, which does not take part", "reads lane 20"]);
}

#[test]
fn undefined_arithmetic() {
    refused("asserts", 1, 1, &[], &["assert(out[0] == 1) at misc.cu:"]);
    refused("overflows", 1, 1, &[1 << 20], &["signed overflow in 1048576 * 100000 at misc.cu:"]);
    refused("shifts", 1, 1, &[40], &["shift by 40 at misc.cu:"]);
    refused("divides", 1, 1, &[0], &["division by zero at misc.cu:"]);
}

#[test]
fn endless_loops() {
    refused("loops", 1, 32, &[], &["memory accesses: an endless loop?"]);
    refused("spins", 1, 2, &[], &["memory accesses: an endless loop?"]);
}

#[test]
fn shared_memory() {
    refused("mbarrier_without_init", 1, 1, &[], &["mbarrier 0x400 is not initialised"]);
    refused("too_much_static", 1, 1, &[], &["53248 bytes of static shared memory with `big`: a kernel may have 49152"]);
    refused("uses_dynamic", 1, 1, &[], &["uses dynamic shared memory at misc.cu:"]);
    refused("reads_before_syncwarp", 1, 32, &[], &["load: race on 4 bytes of shared memory (s+", "uninitialised shared memory (s+"]);
}

#[test]
fn an_array_has_an_end() {
    let emulator = Emulator::new(Options::default());
    let out = emulator.alloc(128);
    let launch = |at: u64| emulator.launch("past_a_static_array", false, [1, 1, 1], [32, 1, 1], 0, &[out, at]);
    launch(0).unwrap();
    let message = launch(1).unwrap_err();
    assert!(message.contains("write of 4 bytes outside the block's shared memory (offset 128"), "{message}");
}

#[test]
fn threads_and_blocks_that_meet_in_global_memory() {
    refused("two_threads_write", 1, 32, &[], &["race in global memory: write of 4 bytes that thread "]);
    refused("reads_what_another_thread_wrote", 1, 32, &[], &["race in global memory: read of 4 bytes that thread "]);
    let wrote = [
        "race in global memory: read of 4 bytes that block (0,0,0) wrote",
        "race in global memory: write of 4 bytes that block (1,0,0) read",
    ];
    refused("reads_what_another_block_wrote", 2, 1, &[], &wrote);
    let read = [
        "race in global memory: write of 4 bytes that block (0,0,0) read",
        "race in global memory: read of 4 bytes that block (1,0,0) wrote",
    ];
    refused("writes_what_another_block_read", 2, 1, &[], &read);
}

#[test]
fn arguments() {
    let emulator = Emulator::new(Options { shared_limit: SHARED_SM86, ..Options::default() });
    let (a, out) = (upload(&emulator, &[0u32; 64]), emulator.alloc(256));
    let launch = |kernel: &str, threads: u32, shared: u32, words: &[u64]| {
        emulator.launch(kernel, false, [1, 1, 1], [threads, 1, 1], shared, words).unwrap_err()
    };
    let cases = [
        (launch("writes_const", 1, 0, &[a, out]), "write of 4 bytes that only `const` parameters point to"),
        (launch("reads_null", 1, 0, &[a, 0, out]), "read through a null pointer (address 0x4; null parameters: absent)"),
        (launch("bounded", 65, 0, &[out]), "a block of 65 threads, but the kernel's __launch_bounds__ is 64"),
        (launch("uses_dynamic", 1, 100 * 1024, &[out]), "102400 bytes of dynamic shared memory: a block may have 101376 here"),
        (launch("bounded", 1, 0, &[out, 1]), "2 arguments for 1 parameters (out)"),
        (launch("bounded", 1, 0, &[out + 4096]), "parameter `out` points to memory: 0 bytes at"),
        (launch("overflows", 1, 0, &[1 << 32, out]), "parameter `n` takes 32 bits"),
        (launch("no_such", 1, 0, &[]), "no kernel of the name `no_such`"),
        (launch("misaligned_copy", 1, 0, &[a, out]), "is not a multiple of 16, at misc.cu:"),
    ];
    for (message, part) in cases {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn memory_holds_a_value_only_once_it_was_written() {
    let emulator = Emulator::new(Options::default());
    let (input, out) = (emulator.alloc(64), emulator.alloc(4));
    let read = |threads: u32| emulator.launch("reads_uninitialised", false, [1, 1, 1], [1, threads, 1], 0, &[input, out]);
    emulator.upload(input + 1, &[7; 63]).unwrap();
    let message = read(1).unwrap_err();
    assert!(message.contains("read of 1 bytes that hold no value yet: byte 0 of the allocation"), "{message}");
    emulator.upload(input, &[7]).unwrap();
    read(1).unwrap();
    assert!(emulator.upload(input + 60, &[0; 5]).unwrap_err().contains("out of bounds"));
    assert!(emulator.download(input - 1, &mut [0]).unwrap_err().contains("1 bytes before the allocation"));
    emulator.free(input);
    assert!(read(1).unwrap_err().contains("parameter `in` points to memory"));
    let empty = emulator.alloc(0);
    assert_eq!(empty % 256, 0);
    assert!(emulator.upload(empty, &[]).is_ok());
}

#[test]
fn what_must_pass() {
    for options in all() {
        let first = |kernel, blocks, threads| run(options, kernel, blocks, threads, &[]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(first("waits_for_a_flag", 1, 32)[1], 7);
        let expected: Vec<u32> = (0..32)
            .map(|t: u32| (0..4).map(|i| (t * 4 + i) / 32 + (t * 4 + i) % 32).enumerate().fold(0, |w, (i, b)| w | b << (8 * i)) + 31 - t)
            .collect();
        assert_eq!(first("mixed_sizes", 1, 32)[..32], expected);
        assert_eq!(first("named_barriers", 1, 64)[..32], (0..32).map(|l| (31 - l) * 3).collect::<Vec<u32>>());
        assert_eq!(first("within_a_warp", 1, 32)[..32], (0..32).map(|l| (l ^ 1) + 2).collect::<Vec<u32>>());
        let emulator = Emulator::new(options);
        let out = emulator.alloc(90);
        emulator.launch("neighbouring_bytes", false, [3, 1, 1], [30, 1, 1], 0, &[out]).unwrap_or_else(|e| panic!("{e}"));
        let mut got = [0; 90];
        emulator.download(out, &mut got).unwrap();
        let expected: Vec<u8> = (0..90).map(|i| (i % 30 * 4 + 1 + 29 - i % 30) as u8).collect();
        assert_eq!(got.to_vec(), expected);
        let (count, last) = (upload(&emulator, &[0u32]), emulator.alloc(4));
        emulator.launch("counts_blocks", false, [5, 1, 1], [32, 1, 1], 0, &[count, last]).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn addresses_may_come_from_memory() {
    let emulator = Emulator::new(Options::default());
    let arena = emulator.alloc(512);
    emulator.upload(arena, bytes(&[1f32; 128])).unwrap();
    let table = upload(&emulator, &[arena, arena + 128, arena + 256, arena + 384]);
    let run = |n| emulator.launch("through_a_table", false, [2, 1, 1], [16, 1, 1], 0, &[table, n]);
    run(32).unwrap();
    assert_eq!(download(&emulator, arena, 128), [[3f32; 64], [1f32; 64]].concat());
    let message = run(33).unwrap_err();
    assert!(message.contains("race in global memory"), "{message}");
    let short = upload(&emulator, &[arena, arena + 128, arena + 256, arena + 400]);
    let message = emulator.launch("through_a_table", false, [2, 1, 1], [16, 1, 1], 0, &[short, 32]).unwrap_err();
    assert!(message.contains("0 bytes past the end of the allocation"), "{message}");
}

/// Set in the process that runs over its stack.
const CHILD: &str = "EMULATOR_STACK_TEST";

#[test]
fn a_stack_that_runs_over_is_named() {
    if std::env::var_os(CHILD).is_some() {
        let _ = run(Options::default(), "deep_stack", 1, 2, &[]);
        return;
    }
    let test = "refused::a_stack_that_runs_over_is_named";
    let child = Command::new(std::env::current_exe().unwrap()).args([test, "--exact"]).env(CHILD, "1").output().unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(!child.status.success());
    assert!(said.contains("thread (0,0,0) of block (0,0,0) ran over its stack of 256 KB"), "{said}");
}
