//! Convolutions of NHWC f32 activations with OIHW weights, forward and backward, on the CPU.
//!
//! A 3x3 convolution with stride 1 uses Winograd's F(4x4, 3x3) (winograd.rs): 36 products for 16
//! results instead of 144. Every other one is a matrix product over copied windows (im2col.rs), tile by tile.
//!
//! Floor of [`forward`]: 2 · batch · out_height · out_width · outputs · channels · kernel² operations, a
//! quarter of them through Winograd, and one read of x and w and one write of y.
//!
//! The result of an image depends neither on the batch around it nor on the number of threads. Weight
//! gradients sum over fixed groups of the batch in a fixed order.

mod im2col;
mod tiles;
mod transform;
mod winograd;
mod winograd_weight;

use super::product::with_scratch;
pub use super::product::{Activation, Epilogue};

/// The shape of a convolution. `channels` come in, `outputs` go out; kernel, stride and padding are square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    pub pad: usize,
}

impl Conv {
    /// A linear layer: a 1x1 convolution of `rows` images of one pixel.
    pub fn linear(rows: usize, channels: usize, outputs: usize) -> Conv {
        Conv { batch: rows, height: 1, width: 1, channels, outputs, kernel: 1, stride: 1, pad: 0 }
    }

    pub fn out_height(&self) -> usize {
        (self.height + 2 * self.pad + 1).saturating_sub(self.kernel).div_ceil(self.stride)
    }

    pub fn out_width(&self) -> usize {
        (self.width + 2 * self.pad + 1).saturating_sub(self.kernel).div_ceil(self.stride)
    }

    /// Numbers in x: `batch · height · width · channels`.
    pub fn input_len(&self) -> usize {
        self.batch * self.height * self.width * self.channels
    }

    /// Numbers in w: `outputs · channels · kernel²`.
    pub fn weight_len(&self) -> usize {
        self.outputs * self.channels * self.kernel * self.kernel
    }

    /// Numbers in y: `batch · out_height · out_width · outputs`.
    pub fn output_len(&self) -> usize {
        self.batch * self.out_height() * self.out_width() * self.outputs
    }

    /// Operations of the plain sum: two for each product of a weight and an input.
    pub fn operations(&self) -> u64 {
        2 * self.output_len() as u64 * (self.channels * self.kernel * self.kernel) as u64
    }

    /// The convolution whose forward is this one's gradient of x, when the stride is 1.
    fn reversed(&self) -> Conv {
        Conv {
            height: self.out_height(),
            width: self.out_width(),
            channels: self.outputs,
            outputs: self.channels,
            pad: self.kernel - 1 - self.pad,
            ..*self
        }
    }
}

/// The pass that weights are packed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Forward,
    BackwardData,
}

/// The stride-1 convolution that this pass is, if Winograd computes it.
fn winograd_of(c: &Conv, pass: Pass) -> Option<Conv> {
    let like = match pass {
        Pass::Forward => *c,
        Pass::BackwardData if c.kernel == 3 && c.stride == 1 && c.pad <= 2 => c.reversed(),
        Pass::BackwardData => return None,
    };
    winograd::fits(&like).then_some(like)
}

/// Floats that [`pack`] writes.
pub fn packed_len(c: &Conv) -> usize {
    len_for(c, Pass::Forward)
}

/// Packs `w` [outputs, channels, kernel, kernel] for [`forward_packed`].
pub fn pack(c: &Conv, w: &[f32], out: &mut [f32]) {
    check(c, None, Some(w), None);
    assert_eq!(out.len(), packed_len(c), "room for the packed weights of {c:?}");
    pack_for(c, w, Pass::Forward, out);
}

/// Whether weights packed for one convolution serve the other, of as many weights. Maps of different sizes may use different algorithms.
pub fn packs_alike(a: &Conv, b: &Conv) -> bool {
    winograd::fits(a) == winograd::fits(b)
}

fn len_for(c: &Conv, pass: Pass) -> usize {
    match (winograd_of(c, pass), pass) {
        (Some(like), _) => winograd::packed_len(&like),
        (None, Pass::Forward) => im2col::forward_len(c),
        (None, Pass::BackwardData) => im2col::backward_len(c),
    }
}

fn pack_for(c: &Conv, w: &[f32], pass: Pass, out: &mut [f32]) {
    let nine = |o: usize, i: usize| &w[(o * c.channels + i) * 9..][..9];
    match (winograd_of(c, pass), pass) {
        (Some(like), Pass::Forward) => winograd::pack(&like, nine, false, out),
        (Some(like), Pass::BackwardData) => winograd::pack(&like, |o, i| nine(i, o), true, out),
        (None, Pass::Forward) => im2col::pack_forward(c, w, out),
        (None, Pass::BackwardData) => im2col::pack_backward(c, w, out),
    }
}

/// `y = epilogue(x * w)`. x: [batch, height, width, channels], w: [outputs, channels, kernel, kernel],
/// y: [batch, out_height, out_width, outputs].
pub fn forward(c: &Conv, x: &[f32], w: &[f32], epilogue: &Epilogue, y: &mut [f32]) {
    with_scratch(packed_len(c), |packed| {
        pack(c, w, packed);
        forward_packed(c, x, packed, epilogue, y);
    });
}

/// [`forward`] with weights from [`pack`], for those that are used again and again.
pub fn forward_packed(c: &Conv, x: &[f32], packed: &[f32], epilogue: &Epilogue, y: &mut [f32]) {
    check(c, Some(x), None, Some(y));
    assert_eq!(packed.len(), packed_len(c), "the packed weights of {c:?}");
    if y.is_empty() {
        return;
    }
    epilogue.check(y.len() / c.outputs, c.outputs);
    if winograd::fits(c) {
        winograd::forward(c, x, packed, epilogue, false, y);
    } else {
        im2col::forward(c, x, packed, epilogue, None, y);
    }
}

/// [`forward`] of a linear layer; `pre_activation`, like y, gets the activation's argument.
pub fn linear_keeping(c: &Conv, x: &[f32], w: &[f32], epilogue: &Epilogue, pre_activation: &mut [f32], y: &mut [f32]) {
    check(c, Some(x), Some(w), Some(y));
    assert_eq!(c.kernel, 1, "a linear layer");
    with_scratch(packed_len(c), |packed| {
        pack(c, w, packed);
        im2col::forward(c, x, packed, epilogue, Some(pre_activation), y);
    });
}

/// The gradient of x from dy: written to dx, or added to it with `add`.
pub fn backward_data(c: &Conv, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
    check(c, Some(dx), Some(w), Some(dy));
    if dx.is_empty() {
        return;
    }
    with_scratch(len_for(c, Pass::BackwardData), |packed| {
        pack_for(c, w, Pass::BackwardData, packed);
        match winograd_of(c, Pass::BackwardData) {
            Some(like) => winograd::forward(&like, dy, packed, &Epilogue::default(), add, dx),
            None => im2col::backward_data(c, dy, packed, dx, add),
        }
    });
}

/// The gradient of w from x and dy: written to dw, or added to it with `add`.
pub fn backward_weight(c: &Conv, x: &[f32], dy: &[f32], dw: &mut [f32], add: bool) {
    check(c, Some(x), Some(dw), Some(dy));
    if dw.is_empty() {
        return;
    }
    if winograd::fits(c) && c.batch > 0 {
        winograd_weight::backward_weight(c, x, dy, dw, add);
    } else {
        im2col::backward_weight(c, x, dy, dw, add);
    }
}

/// Checks the lengths of the slices, which callers plan from [`Conv`]; panics on a wrong one.
fn check(c: &Conv, x: Option<&[f32]>, w: Option<&[f32]>, y: Option<&[f32]>) {
    assert!(c.kernel > 0 && c.stride > 0, "a kernel and a stride of at least 1");
    assert!(x.is_none_or(|x| x.len() == c.input_len()), "x does not have the length of {c:?}");
    assert!(w.is_none_or(|w| w.len() == c.weight_len()), "w does not have the length of {c:?}");
    assert!(y.is_none_or(|y| y.len() == c.output_len()), "y does not have the length of {c:?}");
}
