//! Convolutions against a plain sum in f64, and the same bits for any batch, place and number of threads.

use rayon::ThreadPoolBuilder;
use sslmem::device::conv::{self, Activation, Conv, Epilogue};
use sslmem::random::{Purpose, Stream};

/// Numbers of a normal distribution.
fn normal(seed: u64, len: usize) -> Vec<f32> {
    let mut stream = Stream::new(seed, Purpose::Synthetic, 0, 0, 0);
    let mut uniform = || f64::from(stream.uniform());
    (0..len).map(|_| ((-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32).collect()
}

fn shape(batch: usize, map: (usize, usize), io: (usize, usize), kernel: usize, stride: usize, pad: usize) -> Conv {
    let ((height, width), (channels, outputs)) = (map, io);
    Conv { batch, height, width, channels, outputs, kernel, stride, pad }
}

/// Calls `each` with the places in x, w and y of every product of the plain sum.
fn products(c: &Conv, mut each: impl FnMut(usize, usize, usize)) {
    let (oh, ow) = (c.out_height(), c.out_width());
    for pixel in 0..c.batch * oh * ow {
        let (image, oy, ox) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
        for tap in 0..c.kernel * c.kernel {
            let (ky, kx) = (tap / c.kernel, tap % c.kernel);
            let (y, x) = ((oy * c.stride + ky).wrapping_sub(c.pad), (ox * c.stride + kx).wrapping_sub(c.pad));
            if y < c.height && x < c.width {
                let input = ((image * c.height + y) * c.width + x) * c.channels;
                for o in 0..c.outputs {
                    for i in 0..c.channels {
                        each(input + i, (o * c.channels + i) * c.kernel * c.kernel + tap, pixel * c.outputs + o);
                    }
                }
            }
        }
    }
}

/// The largest difference as a part of the largest expected value.
fn error(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(1e-30f64, |m, e| m.max(e.abs()));
    got.iter().zip(expected).fold(0.0f64, |m, (&g, e)| m.max(if g.is_nan() { f64::MAX } else { (f64::from(g) - e).abs() })) / largest
}

/// Shapes of every path: Winograd, copied neighbourhoods, plain rows; whole and partial tiles and panels.
fn shapes() -> Vec<Conv> {
    let mut shapes = vec![
        shape(5, (1, 1), (40, 24), 1, 1, 0),
        shape(2, (5, 7), (16, 32), 1, 1, 0),
        shape(2, (8, 8), (64, 128), 1, 2, 0),
        shape(2, (7, 5), (16, 16), 1, 2, 0),
        shape(1, (6, 6), (3, 5), 1, 1, 1),
        shape(2, (9, 9), (3, 64), 3, 1, 1),
        shape(2, (8, 8), (32, 64), 3, 2, 1),
        shape(3, (7, 9), (16, 20), 3, 2, 1),
        shape(2, (23, 21), (3, 16), 7, 2, 3),
        shape(1, (9, 8), (1, 1), 5, 1, 2),
        shape(1, (9, 8), (7, 70), 5, 3, 0),
        shape(2, (6, 6), (1, 130), 3, 1, 1),
        shape(1, (4, 4), (16, 16), 2, 3, 0),
        shape(3, (8, 8), (64, 64), 3, 1, 1),
        shape(2, (16, 16), (32, 80), 3, 1, 1),
        shape(7, (4, 4), (192, 176), 3, 1, 1),
        shape(1, (6, 7), (16, 16), 3, 1, 0),
        shape(1, (6, 7), (16, 16), 3, 1, 2),
    ];
    for map in 1..=9 {
        shapes.push(shape(2, (map, map), (16, 16), 3, 1, 1));
        shapes.push(shape(2, (map, 10 - map), (16, 48), 3, 1, 1));
    }
    shapes
}

#[test]
fn convolutions_equal_the_plain_sum() {
    for (seed, c) in (0u64..).step_by(8).zip(shapes()) {
        let (x, w, dy) = (normal(seed, c.input_len()), normal(seed + 1, c.weight_len()), normal(seed + 2, c.output_len()));
        let (mut y64, mut dx64, mut dw64) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
        products(&c, |i, k, o| {
            y64[o] += f64::from(x[i]) * f64::from(w[k]);
            dx64[i] += f64::from(dy[o]) * f64::from(w[k]);
            dw64[k] += f64::from(dy[o]) * f64::from(x[i]);
        });
        let close = |what: &str, got: &[f32], expected: &[f64]| {
            let error = error(got, expected);
            assert!(error < 5e-6, "{what} of {c:?} is off by {error:e} of its largest value");
        };

        let mut y = vec![f32::NAN; dy.len()];
        conv::forward(&c, &x, &w, &Epilogue::default(), &mut y);
        close("forward", &y, &y64);
        let (scale, shift) = (normal(seed + 3, c.outputs), normal(seed + 4, c.outputs));
        let epilogue = Epilogue { scale: Some(&scale), shift: Some(&shift), residual: Some(&dy), activation: Activation::Relu };
        conv::forward(&c, &x, &w, &epilogue, &mut y);
        for (index, y) in y64.iter_mut().enumerate() {
            let o = index % c.outputs;
            *y = (*y * f64::from(scale[o]) + f64::from(shift[o]) + f64::from(dy[index])).max(0.0);
        }
        close("forward with all of the epilogue", &y, &y64);

        let mut dx = vec![f32::NAN; x.len()];
        conv::backward_data(&c, &dy, &w, &mut dx, false);
        close("backward_data", &dx, &dx64);
        dx.copy_from_slice(&x);
        conv::backward_data(&c, &dy, &w, &mut dx, true);
        dx64.iter_mut().zip(&x).for_each(|(d, &x)| *d += f64::from(x));
        close("backward_data added", &dx, &dx64);

        let mut dw = vec![f32::NAN; w.len()];
        conv::backward_weight(&c, &x, &dy, &mut dw, false);
        close("backward_weight", &dw, &dw64);
        dw.copy_from_slice(&w);
        conv::backward_weight(&c, &x, &dy, &mut dw, true);
        dw64.iter_mut().zip(&w).for_each(|(d, &w)| *d += f64::from(w));
        close("backward_weight added", &dw, &dw64);
    }
}

#[test]
fn many_channels_stay_accurate() {
    // He-initialised weights and rectified inputs, as inside a network: 512 channels are the longest sums.
    let c = shape(4, (4, 4), (512, 64), 3, 1, 1);
    let x: Vec<f32> = normal(1, c.input_len()).iter().map(|x| x.max(0.0)).collect();
    let w: Vec<f32> = normal(2, c.weight_len()).iter().map(|w| w * (2.0 / (9.0 * 512.0f32)).sqrt()).collect();
    let (mut y, mut expected) = (vec![0.0; c.output_len()], vec![0.0; c.output_len()]);
    products(&c, |i, k, o| expected[o] += f64::from(x[i]) * f64::from(w[k]));
    conv::forward(&c, &x, &w, &Epilogue::default(), &mut y);
    let error = error(&y, &expected);
    assert!(error < 1e-5, "off by {error:e} of the largest output");
}

/// One layer of every path of the forward pass and of the gradient of x.
fn paths() -> [Conv; 7] {
    [
        shape(37, (1, 1), (96, 72), 1, 1, 0),
        shape(37, (6, 6), (16, 32), 1, 2, 0),
        shape(37, (9, 9), (3, 16), 3, 1, 1),
        shape(37, (8, 8), (32, 48), 3, 2, 1),
        shape(37, (8, 8), (32, 64), 3, 1, 1),
        shape(37, (5, 6), (48, 16), 3, 1, 1),
        shape(37, (4, 4), (192, 192), 3, 1, 1),
    ]
}

#[test]
fn an_image_does_not_feel_its_batch() {
    for c in paths() {
        let (image, result) = (c.input_len() / c.batch, c.output_len() / c.batch);
        let (x, w, dy) = (normal(3, c.input_len()), normal(4, c.weight_len()), normal(5, c.output_len()));
        let scale = normal(6, c.outputs);
        let run = |c: &Conv, x: &[f32], dy: &[f32]| {
            let (mut y, mut dx) = (vec![0.0; c.output_len()], vec![0.0; c.input_len()]);
            let epilogue = Epilogue { scale: Some(&scale), shift: Some(&scale), residual: Some(dy), activation: Activation::Relu };
            conv::forward(c, x, &w, &epilogue, &mut y);
            conv::backward_data(c, dy, &w, &mut dx, false);
            (y, dx)
        };
        let (y, dx) = run(&c, &x, &dy);
        for (batch, step) in [(1, 1), (3, 5), (16, 36), (37, 11)] {
            // The images of this batch, in another order among other neighbours.
            let chosen: Vec<usize> = (0..batch).map(|b| (b * step + 2) % c.batch).collect();
            let pick = |from: &[f32], len: usize| -> Vec<f32> {
                chosen.iter().flat_map(|&image| &from[image * len..(image + 1) * len]).copied().collect()
            };
            let (got, dgot) = run(&Conv { batch, ..c }, &pick(&x, image), &pick(&dy, result));
            assert!(got == pick(&y, result), "forward of {batch} images of {c:?}");
            assert!(dgot == pick(&dx, image), "backward_data of {batch} images of {c:?}");
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for c in paths() {
        let (x, w, dy) = (normal(7, c.input_len()), normal(8, c.weight_len()), normal(9, c.output_len()));
        let run = |threads: usize| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| {
                let (mut y, mut dx, mut dw) = (vec![0.0; c.output_len()], vec![0.0; c.input_len()], vec![0.0; w.len()]);
                conv::forward(&c, &x, &w, &Epilogue::default(), &mut y);
                conv::backward_data(&c, &dy, &w, &mut dx, false);
                conv::backward_weight(&c, &x, &dy, &mut dw, false);
                (y, dx, dw)
            })
        };
        let one = run(1);
        for threads in [2, 3, 5] {
            assert!(run(threads) == one, "{threads} threads, {c:?}");
        }
    }
}

#[test]
fn not_a_number_is_not_hidden() {
    for c in paths() {
        let (mut x, w) = (normal(1, c.input_len()), normal(2, c.weight_len()));
        x[0] = f32::NAN;
        let mut y = vec![0.0; c.output_len()];
        conv::forward(&c, &x, &w, &Epilogue { activation: Activation::Relu, ..Epilogue::default() }, &mut y);
        assert!(y.iter().any(|y| y.is_nan()), "{c:?}");
    }
}

#[test]
fn nothing_in_gives_nothing_out() {
    let empty = shape(0, (8, 8), (16, 16), 3, 1, 1);
    let w = normal(1, empty.weight_len());
    conv::forward(&empty, &[], &w, &Epilogue::default(), &mut []);
    conv::backward_data(&empty, &[], &w, &mut [], false);
    let mut dw = w.clone();
    conv::backward_weight(&empty, &[], &[], &mut dw, true);
    assert_eq!(dw, w);
    conv::backward_weight(&empty, &[], &[], &mut dw, false);
    assert!(dw.iter().all(|&d| d == 0.0));
}

#[test]
fn short_slices_are_refused() {
    use sslmem::device::product::{Left, Right, multiply};
    let numbers = vec![1.0; 6 * 64];
    let left = Left { data: &numbers[..12], row_step: 4, depth_step: 1 };
    let right = Right { data: &numbers[..64], width: 16, panel: 64, panel_step: 64, stride: 16 };
    let mut out = vec![0.0; 48];
    multiply(left, 3, 4, right, &mut out, 16, false);
    assert_eq!(out, [4.0; 48]);
    let refused = |rows, depth, right: Right, out_stride| {
        let mut out = vec![0.0; 48];
        let call = std::panic::AssertUnwindSafe(|| multiply(left, rows, depth, right, &mut out, out_stride, false));
        std::panic::catch_unwind(call).is_err()
    };
    assert!(refused(4, 4, right, 8), "left rows");
    assert!(refused(3, 5, right, 16), "depth");
    assert!(refused(3, 4, Right { width: 17, ..right }, 16), "columns that are rounded up");
    assert!(refused(3, 4, Right { stride: usize::MAX, ..right }, 16), "a stride that overflows");
    assert!(refused(3, 4, right, 17), "the output");
}
