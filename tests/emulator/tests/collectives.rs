//! What each collective gives each lane, against its definition.

use crate::right::all;
use crate::support::{download, numbers, to_bf16, upload};
use emulator::{Emulator, Options};

/// Runs one block of a kernel under every schedule; each must give the words that `expected` names by index.
fn check(kernel: &str, threads: u32, inputs: &[&[u32]], words: usize, expected: impl Fn(usize) -> u32) {
    for options in all() {
        let emulator = Emulator::new(options);
        let out = emulator.alloc(words * 4);
        let arguments: Vec<u64> = inputs.iter().map(|i| upload(&emulator, i)).chain([out]).collect();
        emulator.launch(kernel, false, [1, 1, 1], [threads, 1, 1], 0, &arguments).unwrap_or_else(|e| panic!("{e}"));
        for (i, got) in download(&emulator, out, words).into_iter().enumerate() {
            assert_eq!(got.to_bits(), expected(i), "word {i} of {kernel}");
        }
    }
}

#[test]
fn shuffles_votes_and_reductions() {
    check("shuffles", 32, &[], 32 * 16, |i| {
        let (t, v) = (i as u32 / 16, |lane: u32| 100 + lane);
        match i % 16 {
            0 => v(5),
            1 => v(t / 8 * 8 + 3),
            2 => v(if t < 3 { t } else { t - 3 }),
            3 => v(if t % 16 < 3 { t } else { t - 3 }),
            4 => v(if t + 7 > 31 { t } else { t + 7 }),
            5 => v(if t % 16 + 7 > 15 { t } else { t + 7 }),
            6 => v(t ^ 9),
            // Lane t ^ 9 lies above the segment of 8 for the lower half of each pair.
            7 => v(if (t ^ 9) >= t / 8 * 8 + 8 { t } else { t ^ 9 }),
            8 => v(t ^ 1) * 4 + 1,
            9 => 0x4924_9249,
            10 => 2 + 4,
            11 => (0..32).filter(|o| o / 10 == t / 10).fold(0, |mask, o| mask | 1 << o),
            12 => 32 * 100 + 31 * 16,
            13 => 100 * 1000 + 131,
            14 => (-7i32) as u32,
            _ => {
                if t < 16 {
                    v(t ^ 1)
                } else {
                    0
                }
            }
        }
    });
}

#[test]
fn sums_are_the_same_for_all_threads_and_schedules() {
    let x = numbers(4, 96);
    let butterfly = |v: &[f32]| {
        let mut sums = v.to_vec();
        for by in [16, 8, 4, 2, 1] {
            sums = (0..32).map(|l| sums[l] + sums[l ^ by]).collect();
        }
        sums[0]
    };
    let mut parts: Vec<f32> = x.chunks(32).map(butterfly).collect();
    parts.resize(32, 0.0);
    let precise = x.iter().map(|&v| v as f64).sum::<f64>() as f32;
    let bits: Vec<u32> = x.iter().map(|v| v.to_bits()).collect();
    check("sums", 96, &[&bits], 96 * 4, |i| {
        let value = match i % 4 {
            0 => butterfly(&parts),
            1 => x.iter().copied().fold(f32::MIN, f32::max),
            2 => precise,
            _ => butterfly(&x[i / 4 / 32 * 32..][..32]),
        };
        value.to_bits()
    });
}

#[test]
fn ldmatrix() {
    check("fragments", 32, &[], 32 * 12, |i| {
        let (lane, word) = (i as u32 / 12, i as u32 % 12);
        let (g, q) = (lane / 4, lane % 4 * 2);
        // Matrix m holds rows 0-7 or 8-15 of columns 0-7 (m = 0, 1) or 8-15 (m = 2, 3).
        let (m, transposed) = match word {
            0..4 => (word, false),
            4..8 => (word - 4, true),
            8..10 => (word - 8, false),
            _ => (word - 10, true),
        };
        let element = |r: u32, c: u32| (m % 2 * 8 + r) * 16 + m / 2 * 8 + c;
        let (low, high) = if transposed { (element(q, g), element(q + 1, g)) } else { (element(g, q), element(g, q + 1)) };
        low | high << 16
    });
}

#[test]
fn mma() {
    // Whole numbers, so that the sums are exact in any order.
    let value = |seed: usize, i: usize| ((i * 7 + seed * 13) % 9) as f32 - 4.0;
    let a = |r: usize, k: usize| value(1, r * 16 + k);
    let b = |k: usize, n: usize| value(2, k * 8 + n);
    let pair = |low: f32, high: f32| low.to_bits() >> 16 | high.to_bits() & 0xffff_0000;
    let mut words = vec![];
    for lane in 0..32 {
        let (g, q) = (lane / 4, lane % 4 * 2);
        for (r, k) in [(g, q), (g + 8, q), (g, q + 8), (g + 8, q + 8)] {
            words.push(pair(a(r, k), a(r, k + 1)));
        }
        for k in [q, q + 8] {
            words.push(pair(b(k, g), b(k + 1, g)));
        }
    }
    let emulator = Emulator::new(Options::default());
    let (ab, d) = (upload(&emulator, &words), upload(&emulator, &[0.5f32; 128]));
    emulator.launch("one_mma", false, [1, 1, 1], [32, 1, 1], 0, &[ab, d]).unwrap();
    for (i, got) in download(&emulator, d, 128).into_iter().enumerate() {
        let (lane, e) = (i / 4, i % 4);
        let (row, column) = (lane / 4 + e / 2 * 8, lane % 4 * 2 + e % 2);
        let sum: f32 = (0..16).map(|k| a(row, k) * b(k, column)).sum();
        assert_eq!(got, sum + 0.5, "row {row}, column {column}");
    }
}

#[test]
fn asynchronous_copies() {
    let x: Vec<u32> = (1000..1128).collect();
    check("copies", 32, &[&x], 32 * 7, |i| {
        let (t, word) = (i / 7, i % 7);
        let from = match word {
            0 => t,
            1..3 => 2 * t + word - 1,
            _ => 4 * t + word - 3,
        };
        if t % 2 == 0 { x[from] } else { 0 }
    });
}

#[test]
fn conversions() {
    let mut x = numbers(5, 20);
    x.extend([0.5, 1.5, -2.5, 3e9, -3e9, 1e-40, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 65535.0, -0.0, 16_777_217.0]);
    let bits: Vec<u32> = x.iter().map(|v| v.to_bits()).collect();
    // To nearest, ties to even, through the exact arithmetic of f64.
    let bf16 = |v: f32| match v.is_nan() {
        true => 0x7fff,
        false => {
            let below = v.to_bits() & 0xffff_0000;
            let above = below.wrapping_add(0x1_0000);
            let distance = |b: u32| (f32::from_bits(b) as f64 - v as f64).abs();
            let odd = below >> 16 & 1 == 1;
            let up = v.is_finite() && (distance(above) < distance(below) || distance(above) == distance(below) && odd);
            (if up { above } else { below }) >> 16
        }
    };
    check("conversions", 32, &[&bits], 32 * 8, |i| {
        let (t, v) = (i as u32 / 8, x[i / 8]);
        let high = ((v.to_bits() as u64 * 0x1234_5678) >> 32) as u32;
        match i % 8 {
            0 => bf16(v),
            1 => bf16(v) | 0x3f80_0000,
            2 => v.round_ties_even() as i32 as u32,
            3 => v.floor() as i32 as u32,
            4 => v as u32,
            5 => high,
            6 => ((((high as u64) << 32) as u128 * 1000) >> 64) as u32 + t.count_ones() * 100 + t.leading_zeros() * 10000,
            _ => (high << 7 | bf16(v) >> 25) ^ t.reverse_bits() ^ (bf16(v) | high << 16),
        }
    });
    assert_eq!(to_bf16(&[1.0]), [0x3f80]);
}
