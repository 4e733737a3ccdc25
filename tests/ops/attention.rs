//! Attention against its definition in f64, for any batch and number of threads; and the traffic and matrix instructions of its kernels,
//! counted by the emulator.

use crate::emulated::Emulated;
use crate::kernels::counts::{counted, wasteful};
use crate::kernels::{compare, distance, noise, record};
use emulator::{Access, LaunchCounts, Options};
use sslmem::device::Device;
use sslmem::init::Init;
use sslmem::ops::Case;
use sslmem::ops::linear::{Dense, Epilogue};
use sslmem::tape::{Mode, Scope, Tape};
use sslmem::var::{Dtype, Var};
use sslmem::weights::Weights;

/// images, tokens, heads, size of a head.
type Size = [usize; 4];

/// The result and the gradient of `qkv`.
fn attend([images, tokens, heads, head]: Size, qkv: &[f32], dy: &[f32]) -> [Vec<f32>; 2] {
    let mut tape = Tape::new(Mode::Train);
    let x = tape.fixed([images, tokens, 3 * heads * head], Dtype::Activation);
    tape.require_grad(x);
    let y = tape.root().attention(x, heads);
    let seed = tape.fixed([images, tokens, heads * head], Dtype::Activation);
    tape.seed(y, seed);
    tape.reverse();
    tape.keep_all();
    let gradient = tape.gradient(x).unwrap();
    let mut program = tape.compile(&mut Weights::new(1)).unwrap();
    program.write(x, qkv).unwrap();
    program.write(seed, dy).unwrap();
    program.run().unwrap();
    [y, gradient].map(|v| program.read(v).unwrap())
}

/// The same from the formula, one number at a time.
fn definition([images, tokens, heads, head]: Size, qkv: &[f32], dy: &[f32]) -> [Vec<f32>; 2] {
    let (width, scale) = (heads * head, 1.0 / (head as f64).sqrt());
    let (mut result, mut gradient) = (vec![0.0; images * tokens * width], vec![0.0; qkv.len()]);
    for (image, h) in (0..images).flat_map(|image| (0..heads).map(move |h| (image, h))) {
        let row = |token: usize| image * tokens + token;
        let place = |part: usize, token: usize, c: usize| row(token) * 3 * width + part * width + h * head + c;
        let at = |part: usize, token: usize, c: usize| qkv[place(part, token, c)] as f64;
        let change = |token: usize, c: usize| dy[row(token) * width + h * head + c] as f64;
        let sum = |f: &dyn Fn(usize) -> f64| (0..head).map(f).sum::<f64>();
        for i in 0..tokens {
            let scores: Vec<f64> = (0..tokens).map(|j| scale * sum(&|c| at(0, i, c) * at(1, j, c))).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let all: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            let p: Vec<f64> = scores.iter().map(|s| (s - top).exp() / all).collect();
            let dp: Vec<f64> = (0..tokens).map(|j| sum(&|c| change(i, c) * at(2, j, c))).collect();
            let delta: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
            for c in 0..head {
                result[row(i) * width + h * head + c] = (0..tokens).map(|j| p[j] * at(2, j, c)).sum();
                for j in 0..tokens {
                    let ds = p[j] * (dp[j] - delta) * scale;
                    gradient[place(0, i, c)] += ds * at(1, j, c);
                    gradient[place(1, j, c)] += ds * at(0, i, c);
                    gradient[place(2, j, c)] += p[j] * change(i, c);
                }
            }
        }
    }
    [result, gradient].map(|v: Vec<f64>| v.into_iter().map(|v| v as f32).collect())
}

fn inputs([images, tokens, heads, head]: Size, sharpness: f32) -> [Vec<f32>; 2] {
    let rows = images * tokens * heads * head;
    [noise(1, 3 * rows).into_iter().map(|v| v * sharpness).collect(), noise(2, rows)]
}

#[test]
fn result_and_gradient_are_those_of_the_definition() {
    // The last are so sharp that nearly every probability is 0 or 1: exp must neither overflow nor lose the small ones.
    let sizes = [[2, 1, 1, 1], [2, 7, 3, 5], [1, 17, 2, 32], [1, 65, 2, 64], [1, 101, 1, 80], [1, 33, 1, 128], [1, 40, 2, 64]];
    for (i, size) in sizes.into_iter().enumerate() {
        let [qkv, dy] = inputs(size, if i + 1 < sizes.len() { 2.0 } else { 8.0 });
        let [wanted, got] = [definition(size, &qkv, &dy), attend(size, &qkv, &dy)];
        for (what, wanted, got) in [("result", &wanted[0], &got[0]), ("gradient", &wanted[1], &got[1])] {
            let (largest, norm) = distance(wanted, got);
            assert!(largest < 1e-5 && norm < 5e-6, "{size:?}: the {what} is off by {largest:.1e} of the largest value, {norm:.1e} in norm");
        }
    }
}

#[test]
fn an_image_gets_the_same_bits_in_any_batch_and_on_any_number_of_threads() {
    let [qkv, dy] = inputs([17, 21, 2, 24], 1.0);
    let [all, gradient] = attend([17, 21, 2, 24], &qkv, &dy);
    let one = 21 * 48;
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let [y, g] = pool.install(|| attend([1, 21, 2, 24], &qkv[..3 * one], &dy[..one]));
        assert!(y == all[..one] && g == gradient[..3 * one], "{threads} threads");
    }
}

#[test]
fn a_nan_stays_a_nan_in_its_head() {
    let size = [1, 20, 2, 8];
    let [mut qkv, dy] = inputs(size, 1.0);
    qkv[5 * 48 + 16] = f32::NAN; // the first key of the first head at token 5
    let [y, _] = attend(size, &qkv, &dy);
    for row in y.chunks(16) {
        assert!(row[..8].iter().all(|v| v.is_nan()) && row[8..].iter().all(|v| v.is_finite()), "{row:?}");
    }
}

#[test]
fn heads_that_cannot_be_are_refused_by_name() {
    let refused = |columns: usize, heads: usize| {
        let record = move || {
            let mut tape = Tape::new(Mode::Eval);
            let x = tape.fixed([1, 4, columns], Dtype::Activation);
            tape.root().at("blocks.0.attn").attention(x, heads);
        };
        *std::panic::catch_unwind(record).unwrap_err().downcast::<String>().unwrap()
    };
    assert_eq!(refused(100, 3), "blocks.0.attn: 100 columns are not three times 3 heads");
    assert_eq!(refused(3 * 130, 1), "blocks.0.attn: a head of 130 columns is larger than 128; take more heads");
}

/// The kernels of a size, counted in bf16: two where all of a head lies in shared memory, three elsewhere.
fn launches(case: &Case, kernels: usize) -> Vec<LaunchCounts> {
    let all = counted(case);
    assert_eq!(all.len(), kernels, "{}", case.name);
    all
}

const WHOLE: Case =
    Case { name: "attention 2 x 64, 2 x 64", mode: Mode::Train, inputs: &[&[2, 64, 3 * 128]], build: |s, x| s.attention(x[0], 2) };
const VIT_TINY: Case =
    Case { name: "attention 1 x 65, 3 x 64", mode: Mode::Train, inputs: &[&[1, 65, 3 * 192]], build: |s, x| s.attention(x[0], 3) };
const PHOTO: Case =
    Case { name: "attention 1 x 197, 1 x 64", mode: Mode::Train, inputs: &[&[1, 197, 3 * 64]], build: |s, x| s.attention(x[0], 1) };
const NANO: Case =
    Case { name: "attention 2 x 17, 2 x 32", mode: Mode::Train, inputs: &[&[2, 17, 3 * 64]], build: |s, x| s.attention(x[0], 2) };

/// Nothing is read twice: few tokens lie in shared memory together, and otherwise up to 128 tokens a block holds a head's queries.
#[test]
fn kernels_touch_the_bytes_of_their_floor_once() {
    if crate::emulated::missing() {
        return;
    }
    for (case, images, tokens, heads, head) in
        [(WHOLE, 2, 64, 2, 64), (VIT_TINY, 1, 65, 3, 64), (PHOTO, 1, 197, 1, 64), (NANO, 2, 17, 2, 32)]
    {
        let (t, f) = (2 * images * tokens * heads * head, 4 * images * tokens * heads); // bytes of one part, and of a number per query
        let few = vec![[3 * t, 3 * t, t + f], [4 * t, 5 * t + f, 3 * t]];
        let many = vec![[3 * t, 3 * t, t + f], [4 * t, 5 * t + f, t + f], [4 * t + 2 * f, 4 * t + 2 * f, 2 * t]];
        let expected = if head == 64 { few } else { many };
        for (launch, expected) in launches(&case, expected.len()).iter().zip(expected) {
            assert_eq!([launch.copied, launch.unique_read, launch.unique_written], expected, "{}: {launch}", case.name);
            assert_eq!(launch.written, launch.unique_written, "{}: {launch}", case.name);
        }
    }
}

#[test]
fn shared_memory_is_read_without_bank_conflicts_and_memory_in_whole_sectors() {
    if crate::emulated::missing() {
        return;
    }
    for (case, kernels) in [(WHOLE, 2), (VIT_TINY, 2), (PHOTO, 2), (NANO, 3)] {
        for launch in launches(&case, kernels) {
            let shared = [Access::CopyTo, Access::Ldmatrix, Access::SharedLoad, Access::SharedStore];
            let global = [Access::CopyFrom, Access::GlobalLoad, Access::GlobalStore];
            // A head's numbers per query begin anywhere in a sector where the tokens are no multiple of eight.
            for kinds in if case.name == WHOLE.name { vec![&shared[..], &global] } else { vec![&shared[..]] } {
                let wasted = wasteful(&launch, kinds);
                assert!(wasted.is_empty(), "{}: {wasted:#?}", case.name);
            }
        }
    }
}

/// Two products forward and five back, of which three for queries and four for keys where they are kernels of their own; tokens are filled up
/// to 16.
#[test]
fn matrix_instructions_do_the_operations_of_the_op_and_no_more() {
    if crate::emulated::missing() {
        return;
    }
    for (case, tokens, size) in [(WHOLE, 64, 2 * 2 * 64), (VIT_TINY, 80, 3 * 64), (PHOTO, 208, 64), (NANO, 32, 2 * 2 * 32)] {
        let products: &[u64] = if case.name == NANO.name { &[4, 6, 8] } else { &[4, 10] };
        let flops: Vec<u64> = launches(&case, products.len()).iter().map(|launch| launch.mma_flops).collect();
        assert_eq!(flops, products.iter().map(|n| n * tokens * tokens * size).collect::<Vec<_>>(), "{}", case.name);
    }
}

/// Scores of about ±100 before the softmax, where an exponential of what was not brought below the maximum would overflow: few tokens, and many.
#[test]
fn scores_far_from_zero_neither_overflow_nor_vanish() {
    if crate::emulated::missing() {
        return;
    }
    let build = |s: &mut Scope, x: &[Var]| {
        let qkv = Dense { outputs: 3 * 64, bias: false, weight: Init::Normal(4.0), shape: None, epilogue: Epilogue::Nothing };
        let qkv = s.at("qkv").dense(x[0], &qkv);
        s.attention(qkv, 1)
    };
    let cases = [
        Case { name: "steep", mode: Mode::Train, inputs: &[&[1, 197, 16]], build },
        Case { name: "steep, many tokens", mode: Mode::Train, inputs: &[&[1, 290, 16]], build },
    ];
    for (case, dtype) in cases.iter().flat_map(|case| [(case, Dtype::F32), (case, Dtype::Bf16)]) {
        let mut gpu = record(case, false, Device::Gpu(Emulated::new(dtype, Options::default())));
        compare(case.name, &mut record(case, false, Device::Cpu), &mut gpu, dtype).unwrap_or_else(|e| panic!("{e}"));
    }
}
