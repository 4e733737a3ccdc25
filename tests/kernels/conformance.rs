//! Every primitive of kernels/ptx.cuh and kernels/hopper.cuh does what the PTX manual says: fragments, zero fill, rounding and barriers are
//! written down here once more, and a kernel per primitive is held against them, emulated or on a card.

use crate::emulated::Emulated;
use emulator::Options;
use sslmem::device::{GpuDevice, Launch, Matrix};
use sslmem::random::{Purpose, Stream};

/// Launches `kernel` with its outputs, of these bytes, first, then its inputs, then its scalars; returns the outputs.
fn run(
    gpu: &dyn GpuDevice,
    kernel: &'static str,
    [grid, block]: [u32; 2],
    outputs: &[usize],
    inputs: &[&[u8]],
    scalars: &[u64],
) -> Vec<Vec<u8>> {
    let to: Vec<u64> = outputs.iter().map(|&bytes| gpu.alloc(bytes).unwrap()).collect();
    let from: Vec<u64> = inputs.iter().map(|input| gpu.alloc(input.len()).unwrap()).collect();
    from.iter().zip(inputs).for_each(|(&address, input)| gpu.upload(address, input).unwrap());
    let shared = if kernel.contains("wgmma") || kernel.contains("tma") { WGMMA_SHARED } else { 0 };
    let launch = Launch { kernel, grid: [grid, 1, 1], block: [block, 1, 1], shared };
    let words: Vec<u64> = to.iter().chain(&from).chain(scalars).copied().collect();
    gpu.launch(&launch, &words).unwrap_or_else(|e| panic!("{kernel}: {e}"));
    let read = |(&address, &bytes)| {
        let mut data = vec![0; bytes];
        gpu.download(address, &mut data).unwrap_or_else(|e| panic!("{kernel}: {e}"));
        data
    };
    let written = to.iter().zip(outputs).map(read).collect();
    to.iter().chain(&from).for_each(|&address| gpu.free(address));
    written
}

/// The tiles of the kernels that multiply by wgmma lie in dynamic memory, which begins at a multiple of what a swizzle repeats after.
const WGMMA_SHARED: u32 = 40 << 10;

fn bytes<T: bytemuck::Pod>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytemuck::pod_collect_to_vec(bytes)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(bytes)
}

fn random(stream: u32) -> Stream {
    Stream::new(11, Purpose::Statistics, 0, stream, 0)
}

/// What panics where a device's primitive is not what the manual says.
pub type Check = fn(&dyn GpuDevice);

/// All of them by name, with those of Hopper or without; the most telling first.
pub fn all(hopper: bool) -> Vec<(&'static str, Check)> {
    let portable: [(&str, Check); 9] = [
        ("cp_async", cp_async),
        ("ldmatrix", ldmatrix),
        ("mma of integers", mma_of_integers_is_exact),
        ("mma of reals", mma_of_reals_is_within_its_rounding),
        ("mma of infinity, NaN and subnormals", mma_knows_infinity_nan_and_subnormals),
        ("bf16", bf16),
        ("ex2", ex2),
        ("barriers", barriers),
        ("what benchmarks divide by", measures),
    ];
    let only_hopper: [(&str, Check); 4] = [("wgmma", wgmma), ("TMA", tma), ("stmatrix", stmatrix), ("the rate of wgmma", measure_wgmma)];
    only_hopper.into_iter().filter(|_| hopper).chain(portable).collect()
}

/// Lane 8i + j gives the address of row j of matrix i; lane l receives of each matrix the elements 2(l % 4) and the
/// next of row l / 4, the first in the lower half; with `.trans` of the transposed matrix.
fn ldmatrix(gpu: &dyn GpuDevice) {
    let halves: Vec<u16> = (0..512).map(|i| i * 97 + 5).collect();
    let rows = random(1).permutation(64);
    let element = |matrix: usize, row: usize, column: usize| halves[rows[8 * matrix + row] as usize * 8 + column] as u32;
    let kernels = [
        ("conformance_ldmatrix_x2", 2, false),
        ("conformance_ldmatrix_x4", 4, false),
        ("conformance_ldmatrix_x2_trans", 2, true),
        ("conformance_ldmatrix_x4_trans", 4, true),
    ];
    for (kernel, count, trans) in kernels {
        let got = run(gpu, kernel, [1, 32], &[128 * count], &[bytes(&halves), bytes(&rows[..32])], &[]);
        let pair = |lane: usize, matrix: usize| {
            let (row, column) = (lane / 4, lane % 4 * 2);
            let at = |k| if trans { element(matrix, column + k, row) } else { element(matrix, row, column + k) };
            at(0) | at(1) << 16
        };
        let expected: Vec<u32> = (0..32).flat_map(|lane| (0..count).map(move |matrix| pair(lane, matrix))).collect();
        assert_eq!(words(&got[0]), expected, "{kernel}");
    }
}

/// Products of 16 x 16 by 16 x 8 plus 16 x 8, many at once.
struct Tiles {
    a: Vec<[[f32; 16]; 16]>,
    b: Vec<[[f32; 8]; 16]>,
    c: Vec<[[f32; 8]; 16]>,
}

impl Tiles {
    fn new(count: usize, mut a: impl FnMut() -> f32, mut b: impl FnMut() -> f32, mut c: impl FnMut() -> f32) -> Tiles {
        Tiles {
            a: (0..count).map(|_| std::array::from_fn(|_| std::array::from_fn(|_| a()))).collect(),
            b: (0..count).map(|_| std::array::from_fn(|_| std::array::from_fn(|_| b()))).collect(),
            c: (0..count).map(|_| std::array::from_fn(|_| std::array::from_fn(|_| c()))).collect(),
        }
    }

    /// The device's result, and beside it the terms of each sum, in f64.
    fn multiply(&self, gpu: &dyn GpuDevice) -> Vec<(f32, [f64; 17])> {
        let pair = |low: f32, high: f32| nearest_bf16(low) as u32 | (nearest_bf16(high) as u32) << 16;
        let (mut a, mut b, mut c, mut places) = (vec![], vec![], vec![], vec![]);
        for tile in 0..self.a.len() {
            for lane in 0..32 {
                let (group, two) = (lane / 4, lane % 4 * 2);
                for (row, column) in [(group, two), (group + 8, two), (group, two + 8), (group + 8, two + 8)] {
                    a.push(pair(self.a[tile][row][column], self.a[tile][row][column + 1]));
                }
                for row in [two, two + 8] {
                    b.push(pair(self.b[tile][row][group], self.b[tile][row + 1][group]));
                }
                for (row, column) in [(group, two), (group, two + 1), (group + 8, two), (group + 8, two + 1)] {
                    c.push(self.c[tile][row][column]);
                    places.push((tile, row, column));
                }
            }
        }
        let grid = [self.a.len() as u32, 32];
        let got = run(gpu, "conformance_mma_m16n8k16", grid, &[4 * c.len()], &[bytes(&a), bytes(&b), bytes(&c)], &[]);
        let terms = |(tile, row, column): (usize, usize, usize)| {
            let product = |k: usize| self.a[tile][row][k] as f64 * self.b[tile][k][column] as f64;
            std::array::from_fn(|k| if k < 16 { product(k) } else { self.c[tile][row][column] as f64 })
        };
        floats(&got[0]).into_iter().zip(places.into_iter().map(terms)).collect()
    }
}

/// Small integers leave nothing to round: a wrong fragment shows in the bits.
fn mma_of_integers_is_exact(gpu: &dyn GpuDevice) {
    let (mut a, mut b, mut c) = (random(2), random(3), random(4));
    let integer = |s: &mut Stream| s.range(-128.0, 128.0).round();
    for (got, terms) in Tiles::new(4, || integer(&mut a), || integer(&mut b), || integer(&mut c)).multiply(gpu) {
        assert_eq!(got as f64, terms.iter().sum::<f64>(), "mma_m16n8k16 of integers");
    }
}

/// Tensor cores align the terms of a sum to the largest and cut what does not fit 24 bits (Fasi et al. 2021); the sum of
/// 16 products may be taken in two halves. So each half cuts at most nine terms and its own result by 2^-23 of the largest.
fn mma_of_reals_is_within_its_rounding(gpu: &dyn GpuDevice) {
    let wide = |s: &mut Stream| bf16_value(nearest_bf16(s.range(-1.0, 1.0) * s.range(-12.0, 12.0).exp2()));
    let (mut a, mut b, mut c) = (random(5), random(6), random(7));
    let mut worst = 0.0f64;
    for (got, terms) in Tiles::new(8, || wide(&mut a), || wide(&mut b), || wide(&mut c)).multiply(gpu) {
        let size: f64 = terms.iter().map(|t| t.abs()).sum();
        worst = worst.max((got as f64 - terms.iter().sum::<f64>()).abs() / size);
    }
    let bound = 20.0 * 2f64.powi(-23);
    assert!(worst <= bound, "mma_m16n8k16 is off by {worst:.1e} of the sum of sizes, more than {bound:.1e}");
}

/// Where the bytes of element (row, k) of a tile with 64 values of K lie under the swizzle of 128 bytes: rows along K, or pieces of 64 rows
/// beside each other for each k. Of every eight lines of 128 bytes the chunks of 16 are exchanged by the line's number.
fn swizzled(mn_major: bool, row: usize, k: usize) -> usize {
    let (line, value) = if mn_major { (row / 64 * 64 + k, row % 64) } else { (row, k) };
    line * 128 + ((value / 8) ^ (line % 8)) * 16 + value % 8 * 2
}

/// 64 x 64 by 64 x 128 or 64 x 256 of small integers, from tiles laid out here by the manual: exact. Thread t holds in register i row
/// t / 32 * 16 + t % 32 / 4, and eight below for i % 4 > 1, and column i / 4 * 8 + t % 4 * 2 + i % 2.
fn wgmma(gpu: &dyn GpuDevice) {
    let mut s = random(12);
    let mut integers = |n: usize| (0..n * 64).map(|_| s.range(-64.0, 64.0).round()).collect::<Vec<f32>>();
    let (a, b) = (integers(64), integers(256));
    let kernels =
        [("conformance_wgmma_k_major", false, 128), ("conformance_wgmma_mn_major", true, 128), ("conformance_wgmma_wide", false, 256)];
    for (kernel, mn_major, columns) in kernels {
        let b = &b[..64 * columns];
        let tile = |values: &[f32]| {
            let mut laid = vec![0u16; values.len()];
            values.iter().enumerate().for_each(|(i, &v)| laid[swizzled(mn_major, i / 64, i % 64) / 2] = nearest_bf16(v));
            laid
        };
        let got = floats(&run(gpu, kernel, [1, 128], &[4 * 64 * columns], &[bytes(&tile(&a)), bytes(&tile(b))], &[])[0]);
        for (at, &got) in got.iter().enumerate() {
            let (thread, i) = (2 * at / columns, at % (columns / 2));
            let (row, column) = (thread / 32 * 16 + thread % 32 / 4 + i % 4 / 2 * 8, i / 4 * 8 + thread % 4 * 2 + i % 2);
            let expected: f32 = (0..64).map(|k| a[row * 64 + k] * b[column * 64 + k]).sum();
            assert_eq!(got, expected, "{kernel}: row {row}, column {column}");
        }
    }
}

/// What ldmatrix loads, stmatrix stores: register i of lane l is the pair l % 4 of row l / 4 of matrix i.
fn stmatrix(gpu: &dyn GpuDevice) {
    let (registers, rows) = ((0..128u32).map(|i| i.wrapping_mul(2654435761)).collect::<Vec<u32>>(), random(13).permutation(32));
    let got = run(gpu, "conformance_stmatrix", [1, 32], &[512], &[bytes(&registers), bytes(&rows)], &[]);
    let mut expected = vec![0; 128];
    for (lane, i) in (0..128).map(|at| (at / 4, at % 4)) {
        expected[rows[8 * i + lane / 4] as usize * 4 + lane % 4] = registers[lane * 4 + i];
    }
    assert_eq!(words(&got[0]), expected, "stmatrix_x4");
}

/// Boxes of 64 x 64 of a matrix of 150 x 72, swizzled by 128 bytes, with zeros outside.
fn tma(gpu: &dyn GpuDevice) {
    let (height, width) = (150, 72);
    let from: Vec<u16> = (0..height * width).map(|i| (i * 97 + 5) as u16).collect();
    let address = gpu.alloc(2 * from.len()).unwrap();
    gpu.upload(address, bytes(&from)).unwrap();
    let map = gpu.map(address, &Matrix { rows: height, columns: width, high: 64 }).unwrap();
    for (column, row, rounds) in [(0, 0, 3), (64, 8, 5)] {
        let scalars: Vec<u64> = map.into_iter().chain([column as u64, row as u64, rounds as u64]).collect();
        let got = run(gpu, "conformance_tma", [1, 128], &[8192 * rounds], &[], &scalars);
        let got: Vec<u16> = bytemuck::pod_collect_to_vec(&got[0]);
        for (i, k) in (0..rounds * 64).flat_map(|i| (0..64).map(move |k| (i, k))) {
            let inside = row + i < height && column + k < width;
            let expected = if inside { from[(row + i) * width + column + k] } else { 0 };
            assert_eq!(
                got[i / 64 * 4096 + swizzled(false, i % 64, k) / 2],
                expected,
                "conformance_tma: row {}, column {}",
                row + i,
                column + k
            );
        }
    }
    gpu.free(address);
}

fn measure_wgmma(gpu: &dyn GpuDevice) {
    let sums = |rounds: u64| floats(&run(gpu, "measure_wgmma", [1, 256], &[4 * 256], &[], &[rounds])[0]);
    let (none, one, three) = (sums(0), sums(1), sums(3));
    assert_eq!(none, vec![0.0; 256], "measure_wgmma starts from zeros");
    assert!(one.iter().any(|sum| sum.abs() > 1.0), "measure_wgmma multiplies");
    for (one, three) in one.iter().zip(&three) {
        assert!((three - 3.0 * one).abs() < 1e-2, "measure_wgmma multiplies once per round");
    }
}

fn mma_knows_infinity_nan_and_subnormals(gpu: &dyn GpuDevice) {
    let first = |a: f32, b: f32, c: f32| Tiles::new(1, || a, || b, || c).multiply(gpu)[0].0;
    assert_eq!(first(f32::INFINITY, 2.0, 1.0), f32::INFINITY);
    assert_eq!(first(f32::NEG_INFINITY, 2.0, 1.0), f32::NEG_INFINITY);
    assert!(first(f32::INFINITY, 0.0, 1.0).is_nan(), "infinity times zero");
    assert!(first(f32::NAN, 1.0, 1.0).is_nan());
    assert!(first(1.0, 1.0, f32::NAN).is_nan());
    assert_eq!(first(2f32.powi(-130), 2f32.powi(100), 0.0), 2f32.powi(-26), "sixteen products of a subnormal bf16");
    assert_eq!(first(0.0, 1.0, 2f32.powi(-140)), 2f32.powi(-140), "a subnormal f32 passes");
}

/// Lane i copies `size` bytes to slot to[i] where bit i says so; the rest of the slots becomes zeros. In the second
/// group it is the other lanes that copy.
fn cp_async(gpu: &dyn GpuDevice) {
    let (from, to, mask) = ((0..1024).map(|i| (i * 7 + 1) as u8).collect::<Vec<u8>>(), random(8).permutation(32), 0xb38f_0d71u32);
    for (kernel, size) in [("conformance_cp_async_4", 4), ("conformance_cp_async_8", 8), ("conformance_cp_async_16", 16)] {
        let mut expected = vec![0u8; 64 * size];
        for (group, lane) in (0..64).map(|i| (i / 32, i % 32)).filter(|(group, lane)| (mask >> lane & 1) as usize != *group) {
            let slot = (group * 32 + to[lane] as usize) * size;
            expected[slot..slot + size].copy_from_slice(&from[(group * 32 + lane) * size..][..size]);
        }
        let got = run(gpu, kernel, [1, 32], &[64 * size], &[&from, bytes(&to)], &[mask as u64]);
        assert_eq!(got[0], expected, "{kernel}");
    }
}

/// What a bf16 stands for.
fn bf16_value(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// By comparing distances: the nearest bf16, of two equally near ones the even one; past the largest comes infinity
/// where the next would be; every NaN is 0x7fff.
fn nearest_bf16(x: f32) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    if x.is_infinite() {
        return (x.to_bits() >> 16) as u16;
    }
    let size = |bits: u16| if bits & 0x7fff == 0x7f80 { 2f64.powi(128) } else { bf16_value(bits & 0x7fff) as f64 };
    let below = (x.to_bits() >> 16) as u16;
    let (down, up) = (x.abs() as f64 - size(below), size(below + 1) - x.abs() as f64);
    if down < up || (down == up && below.is_multiple_of(2)) { below } else { below + 1 }
}

/// Every exponent and sign, with mantissas and rests at and around the ties: zeros, subnormals, infinities, NaNs too.
fn bf16(gpu: &dyn GpuDevice) {
    let mantissas = [0u32, 1, 2, 0x3f, 0x40, 0x7e, 0x7f];
    let rests = [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
    let bits = (0..512u32).flat_map(|e| mantissas.into_iter().flat_map(move |m| rests.into_iter().map(move |r| e << 23 | m << 16 | r)));
    let x: Vec<f32> = bits.map(f32::from_bits).collect();
    let pairs = x.len() / 2;
    let outputs = [4 * pairs, 8 * pairs, 8 * pairs];
    let got = run(gpu, "conformance_bf16", [pairs.div_ceil(256) as u32, 256], &outputs, &[bytes(&x)], &[pairs as u64]);
    let (packed, single, back) = (words(&got[0]), words(&got[1]), words(&got[2]));
    for (i, &x) in x.iter().enumerate() {
        let expected = nearest_bf16(x) as u32;
        assert_eq!(single[i], expected, "f32_to_bf16 of {x:e} ({:#x})", x.to_bits());
        assert_eq!(packed[i / 2] >> (16 * (i % 2)) & 0xffff, expected, "pack_bf16 of {x:e} ({:#x})", x.to_bits());
        assert_eq!(back[i], expected << 16, "bf16_to_f32 of {expected:#x}");
    }
}

/// Powers of two within 2^-22 of themselves (twice that is allowed, for whole exponents add their rounding), zero where they would be
/// subnormal, infinite past the largest; of NaN comes NaN.
fn ex2(gpu: &dyn GpuDevice) {
    let mut s = random(8);
    let mut x: Vec<f32> = (0..4000).map(|_| s.range(-126.0, 128.0)).chain((-126..128).map(|e| e as f32)).collect();
    x.extend([-0.0, 0.0, 1e-30, -1e-30, 1e-40, -126.5, -127.0, -200.0, -1e30, 128.0, 300.0]);
    x.extend([f32::NEG_INFINITY, f32::INFINITY, f32::NAN]);
    let got = floats(&run(gpu, "conformance_ex2", [x.len().div_ceil(256) as u32, 256], &[4 * x.len()], &[bytes(&x)], &[x.len() as u64])[0]);
    for (&x, &got) in x.iter().zip(&got) {
        let wanted = (x as f64).exp2();
        match x {
            _ if x.is_nan() => assert!(got.is_nan(), "ex2 of NaN is {got:e}"),
            128.0.. => assert_eq!(got, f32::INFINITY, "ex2 of {x:e}"),
            _ if x < -126.0 => assert_eq!(got, 0.0, "ex2 of {x:e}"),
            _ => assert!((got as f64 / wanted - 1.0).abs() <= 2f64.powi(-21), "ex2 of {x:e} is {got:e}, not {wanted:e}"),
        }
    }
}

/// Two warps hand 64 words at a time to two others, who write them backwards; two such groups in one block.
fn barriers(gpu: &dyn GpuDevice) {
    let rounds = 9u32;
    let x: Vec<u32> = (0..2 * rounds * 64).map(|i: u32| i.wrapping_mul(2654435761)).collect();
    let got = run(gpu, "conformance_barriers", [1, 256], &[4 * x.len()], &[bytes(&x)], &[rounds as u64]);
    let expected: Vec<u32> = x.chunks(64).flat_map(|c| c.iter().rev().copied()).collect();
    assert_eq!(words(&got[0]), expected, "bar_sync and bar_arrive");
}

/// The kernels that benchmarks divide by do all of the work that is counted.
fn measures(gpu: &dyn GpuDevice) {
    let x: Vec<u32> = (0..4 * 1500u32).map(|i| i.wrapping_mul(2654435761)).collect();
    let copy = run(gpu, "measure_copy", [2, 256], &[4 * x.len()], &[bytes(&x)], &[1500]);
    assert_eq!(words(&copy[0]), x, "measure_copy");
    let read = run(gpu, "measure_read", [3, 256], &[4 * 3 * 256], &[bytes(&x)], &[1500, 3]);
    let all = |words: &[u32]| words.iter().fold(0, |all, word| all ^ word);
    assert_eq!(all(&words(&read[0])), all(&x), "measure_read reads each word three times");
    let sums = |rounds: u64| floats(&run(gpu, "measure_mma", [1, 256], &[4 * 256], &[], &[rounds])[0]);
    let (none, one, three) = (sums(0), sums(1), sums(3));
    assert_eq!(none, vec![496.0; 256], "measure_mma starts from 0 + 1 + .. + 31");
    assert!(one.iter().zip(&none).any(|(one, none)| one != none), "measure_mma multiplies");
    for ((one, three), none) in one.iter().zip(&three).zip(&none) {
        assert!((three - none - 3.0 * (one - none)).abs() < 1e-2, "measure_mma multiplies once per round");
    }
}

#[test]
fn emulated_primitives_do_what_the_manual_says() {
    if crate::emulated::missing() {
        return;
    }
    for schedule in Options::schedules() {
        let gpu = Emulated::hopper(schedule);
        all(true).into_iter().for_each(|(_, check)| check(&*gpu));
    }
}
