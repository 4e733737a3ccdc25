//! Buffers on the emulator, and the matrix products that the test kernels compute.

use emulator::{Emulator, Options, TensorMap};

/// Uniform numbers in -1..1.
pub fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed * 2 + 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// The upper halves of f32: bf16 by truncation.
pub fn to_bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|v| (v.to_bits() >> 16) as u16).collect()
}

pub fn from_bf16(values: &[u16]) -> Vec<f32> {
    values.iter().map(|&v| f32::from_bits((v as u32) << 16)).collect()
}

pub fn bytes<V: Copy>(values: &[V]) -> &[u8] {
    // SAFETY: plain numbers, read as the bytes they are.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), std::mem::size_of_val(values)) }
}

pub fn upload<V: Copy>(emulator: &Emulator, values: &[V]) -> u64 {
    let address = emulator.alloc(std::mem::size_of_val(values));
    emulator.upload(address, bytes(values)).unwrap();
    address
}

pub fn download(emulator: &Emulator, from: u64, n: usize) -> Vec<f32> {
    let mut raw = vec![0; n * 4];
    emulator.download(from, &mut raw).unwrap();
    raw.chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
}

/// The largest distance; infinite if there is a NaN.
pub fn distance(a: &[f32], b: &[f64]) -> f64 {
    let one = |(x, y): (&f32, &f64)| Some((*x as f64 - y).abs()).filter(|d| !d.is_nan()).unwrap_or(f64::INFINITY);
    a.iter().zip(b).map(one).fold(0.0, f64::max)
}

/// c = a b^T of m x k and n x k.
fn product(a: &[u16], b: &[u16], [m, n, k]: [usize; 3]) -> Vec<f64> {
    let (a, b) = (from_bf16(a), from_bf16(b));
    let dot = |i: usize, j: usize| (0..k).map(|x| a[i * k + x] as f64 * b[j * k + x] as f64).sum();
    (0..m * n).map(|at| dot(at / n, at % n)).collect()
}

/// How far a matrix product on the emulator is from the right one.
pub fn matmul(options: Options, kernel: &str, [m, n, k]: [usize; 3]) -> Result<f64, String> {
    let emulator = Emulator::new(options);
    let (a, b) = (to_bf16(&numbers(7, m * k)), to_bf16(&numbers(8, n * k)));
    let (da, db, dc) = (upload(&emulator, &a), upload(&emulator, &b), emulator.alloc(m * n * 4));
    let sizes = [m as u64, n as u64, k as u64];
    let run = |tile: usize, threads, shared, operands: [u64; 2]| {
        let words: Vec<u64> = operands.into_iter().chain([dc]).chain(sizes).collect();
        emulator.launch(kernel, false, [n.div_ceil(tile) as u32, m.div_ceil(tile) as u32, 1], [threads, 1, 1], shared, &words)
    };
    if kernel.starts_with("gemm_wgmma") {
        let map = |base, rows: usize| TensorMap::tiled(base, 2, &[k as u32, rows as u32], &[k as u64 * 2], &[64, 128], 128).unwrap();
        let (a, b) = (map(da, m), map(db, n));
        run(128, 384, 4 * 32768 + 64, [&raw const a as u64, &raw const b as u64])?;
    } else if kernel.starts_with("gemm_mma_64") {
        run(64, 128, 2 * 128 * 40 * 2, [da, db])?;
    } else {
        run(128, 256, 2 * 256 * 40 * 2, [da, db])?;
    }
    Ok(distance(&download(&emulator, dc, m * n), &product(&a, &b, [m, n, k])))
}

/// The same for the kernels of one 64 x 64 x 64 tile: `wgmma_st_*` and `var_<swizzle>_*`.
pub fn tile(options: Options, kernel: &str) -> Result<f64, String> {
    let emulator = Emulator::new(options);
    let (a, b) = (to_bf16(&numbers(9, 4096)), to_bf16(&numbers(10, 4096)));
    let transposed: Vec<u16> = (0..4096).map(|i| b[i % 64 * 64 + i / 64]).collect();
    let (da, dc) = (upload(&emulator, &a), emulator.alloc(4096 * 4));
    let db = upload(&emulator, if kernel.contains("_mn") { &transposed } else { &b });
    if kernel.starts_with("var_") {
        let width: u32 = kernel.split('_').nth(1).unwrap().parse().unwrap();
        let map = |base| TensorMap::tiled(base, 2, &[64, 64], &[128], &[width / 2, 64], width).unwrap();
        let maps = [map(da), map(db), TensorMap::tiled(dc, 4, &[64, 64], &[256], &[64, 64], 0).unwrap()];
        let words = [&raw const maps[0] as u64, &raw const maps[1] as u64, &raw const maps[2] as u64, da];
        emulator.launch(kernel, false, [1, 1, 1], [128, 1, 1], 32768, &words)?;
    } else {
        emulator.launch(kernel, false, [1, 1, 1], [128, 1, 1], 0, &[da, db, dc])?;
    }
    Ok(distance(&download(&emulator, dc, 4096), &product(&a, &b, [64, 64, 64])))
}

/// The same for sums of n floats by `reduce_sum`.
pub fn reduce(options: Options, kernel: &str, n: usize) -> Result<f64, String> {
    let emulator = Emulator::new(options);
    let x = numbers(3, n);
    let (dx, part) = (upload(&emulator, &x), emulator.alloc(4 * 4));
    emulator.launch(kernel, false, [4, 1, 1], [256, 1, 1], 0, &[dx, n as u64, part])?;
    let sum: f32 = download(&emulator, part, 4).iter().sum();
    Ok(distance(&[sum], &[x.iter().map(|&v| v as f64).sum()]))
}
