//! Convolution, weights `[out, in, kernel, kernel]` as in PyTorch, followed by batch norm. In training these are two calls; in
//! evaluation one, with the norm folded into weights and epilogue.

use super::Case;
use super::batch_norm::{EPS, Moments, Named};
use super::choose::TILE;
use super::packs::{Packed, Packs};
use super::product;
use crate::device::conv::{self, Activation, Conv};
use crate::device::{Gpu, Host};
use crate::init::Init;
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::{Dtype, Var};

/// The hyperparameters of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    /// Zeros around the input on each side, pixels.
    pub pad: usize,
}

impl Filter {
    /// "Same" padding, half of the kernel: a stride of 1 keeps height and width.
    pub const fn same(outputs: usize, kernel: usize, stride: usize) -> Filter {
        Filter { outputs, kernel, stride, pad: kernel / 2 }
    }
}

impl Scope<'_> {
    /// y = relu(batch_norm(conv(x)) + residual); residual and ReLU are optional, the convolution has no bias.
    ///
    /// x is `[n, h, w, c]`, y and `residual` are `[n, h', w', outputs]` with h' = (h + 2 pad - kernel) / stride + 1. `names` are the
    /// names of convolution and norm below this scope. Weights start as in torchvision's ResNet: normal, fan-out (He et al. 2015).
    /// dx is a convolution of dy with reversed taps, dw a product over the pixels of the batch.
    ///
    /// Kernels: `conv.cu`, `conv_bwd_w.cu`, `batch_norm.cu`, for three channels `conv_stem.cu`; on Hopper `conv_hopper.cu` and
    /// `conv_bwd_w_hopper.cu`. In training the convolution also leaves the statistics of its result, so the norm reads it once less.
    ///
    /// # Panics
    /// x has not four dimensions, the norm gets a single row in training, or a weight of this name has another shape.
    pub fn conv_norm(&mut self, names: [&str; 2], x: Var, filter: Filter, residual: Option<Var>, relu: bool) -> Var {
        let &[batch, height, width, channels] = self.shape(x).dims() else { panic!("{}: a convolution wants [n, h, w, c]", self.path()) };
        let Filter { outputs, kernel, stride, pad } = filter;
        let c = Conv { batch, height, width, channels, outputs, kernel, stride, pad };
        let std = (2.0 / (outputs * kernel * kernel) as f32).sqrt();
        let w = self.at(names[0]).param("weight", [outputs, channels, kernel, kernel], Init::Normal(std));
        let y = self.tape.var([batch, c.out_height(), c.out_width(), outputs]);
        if self.mode() == Mode::Eval {
            let norm = self.at(names[1]).norm_weights(outputs);
            let packed = Packs::forward(self.tape, w, c, Some(&norm));
            self.tape.no_grad(Forward { y, x, w, norm: Some(norm), packed, moments: None, residual, relu, c });
            return y;
        }
        let packed = Packs::forward(self.tape, w, c, None);
        let tiles = (batch * c.out_height() * c.out_width()).div_ceil(TILE);
        let moments = self.tape.scratch([tiles, 2, outputs], Dtype::F32);
        let call = Forward { y, x, w, norm: None, packed, moments: Some(moments), residual: None, relu: false, c };
        let y = self.record(&[x, w], y, call, move |t, dy| {
            if let Some(dx) = t.gradient_of(x) {
                let packed = Packs::backward(t, w);
                t.no_grad(BackwardData { dx, dy, w, packed, c })
            }
            if let Some(dw) = t.gradient_of(w) {
                let partial = product::partial_sums(t, &c);
                t.no_grad(BackwardWeight { dw, dy, x, partial, c })
            }
        });
        self.at(names[1]).batch_norm_after(y, residual, relu, Some(Moments { partials: moments, rows: TILE }))
    }
}

fn cost(c: &Conv, element: u64) -> Cost {
    Cost { flops: c.operations(), bytes: element * (c.input_len() + c.weight_len() + c.output_len()) as u64 }
}

fn activation(relu: bool) -> Activation {
    if relu { Activation::Relu } else { Activation::Nothing }
}

struct Forward {
    y: Var, // [batch, out_height, out_width, outputs]
    x: Var, // [batch, height, width, channels]
    w: Var, // [outputs, channels, kernel, kernel]
    norm: Option<Named>,
    packed: Packed,
    moments: Option<Var>, // [tiles, 2, outputs]: mean and sum of squared deviations per tile of TILE rows, for the norm that follows
    residual: Option<Var>, // like y
    relu: bool,
    c: Conv,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "conv_fwd"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[self.y], &[self.x, self.w]);
        o.writes.extend(self.moments);
        o.reads.extend(self.packed.reads());
        o.reads.extend(self.residual);
        if let Some(n) = &self.norm {
            o.reads.extend([n.gamma, n.beta, n.mean, n.var]);
        }
        o
    }
    fn cpu(&self, m: &Host) {
        let folded = self.norm.as_ref().map(|n| {
            let (gamma, beta, mean, var) = (m.f(n.gamma), m.f(n.beta), m.f(n.mean), m.f(n.var));
            let scale: Vec<f32> = gamma.iter().zip(var.iter()).map(|(g, v)| g / (v + EPS).sqrt()).collect();
            let shift: Vec<f32> = (0..scale.len()).map(|c| beta[c] - mean[c] * scale[c]).collect();
            (scale, shift)
        });
        let residual = self.residual.map(|r| m.f(r));
        let epilogue = conv::Epilogue {
            scale: folded.as_ref().map(|f| &f.0[..]),
            shift: folded.as_ref().map(|f| &f.1[..]),
            residual: residual.as_deref(),
            activation: activation(self.relu),
        };
        self.packed.forward(m, &self.c, [self.y, self.x, self.w], &epilogue);
    }
    fn gpu(&self, g: &Gpu) {
        let activation = activation(self.relu);
        let to = product::Epilogue {
            moments: self.moments,
            shift: self.packed.shift,
            residual: self.residual,
            activation,
            ..product::Epilogue::default()
        };
        product::forward(g, &self.c, self.y, self.x, self.packed.gpu, &to);
    }
    fn cost(&self, element: u64) -> Cost {
        cost(&self.c, element)
    }
}

struct BackwardData {
    dx: Grad,    // [batch, height, width, channels]
    dy: Var,     // [batch, out_height, out_width, outputs]
    w: Var,      // [outputs, channels, kernel, kernel]
    packed: Var, // [weights]: w per residue of the tap, reversed; see `Packs::backward`
    c: Conv,
}

impl Call for BackwardData {
    fn name(&self) -> &'static str {
        "conv_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy, self.w, self.packed]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        conv::backward_data(&self.c, &m.f(self.dy), &m.f(self.w), &mut m.f_mut(self.dx.var), self.dx.add);
    }
    fn gpu(&self, g: &Gpu) {
        product::backward_data(g, &self.c, self.dx, self.dy, self.packed);
    }
    fn cost(&self, element: u64) -> Cost {
        cost(&self.c, element)
    }
}

struct BackwardWeight {
    dw: Grad,     // [outputs, channels, kernel, kernel]
    dy: Var,      // [batch, out_height, out_width, outputs]
    x: Var,       // [batch, height, width, channels]
    partial: Var, // [parts, weights]: split-K sums, on a GPU
    c: Conv,
}

impl Call for BackwardWeight {
    fn name(&self) -> &'static str {
        "conv_bwd_w"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.partial], &[self.dy, self.x]).grad(self.dw)
    }
    fn cpu(&self, m: &Host) {
        conv::backward_weight(&self.c, &m.f(self.x), &m.f(self.dy), &mut m.f_mut(self.dw.var), self.dw.add);
    }
    fn gpu(&self, g: &Gpu) {
        product::backward_weight(g, &self.c, self.dw, self.dy, self.x, self.partial);
    }
    fn cost(&self, element: u64) -> Cost {
        cost(&self.c, element)
    }
}

pub static CASES: &[Case] = &[
    Case {
        name: "conv/one",
        mode: Mode::Train,
        inputs: &[&[3, 1, 1, 1]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter::same(1, 1, 1), None, false),
    },
    Case {
        name: "conv/3x3",
        mode: Mode::Train,
        inputs: &[&[2, 6, 5, 7]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter::same(9, 3, 1), None, true),
    },
    Case {
        name: "conv/3x3_strided",
        mode: Mode::Train,
        inputs: &[&[3, 7, 8, 5]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter::same(6, 3, 2), None, false),
    },
    Case {
        name: "conv/1x1_strided",
        mode: Mode::Train,
        inputs: &[&[3, 6, 6, 8]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter::same(16, 1, 2), None, false),
    },
    // The first convolution of solo-learn's ResNets for CIFAR: the map is larger than the image.
    Case {
        name: "conv/stem_wide",
        mode: Mode::Train,
        inputs: &[&[2, 9, 8, 3]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter { pad: 2, ..Filter::same(8, 3, 1) }, None, true),
    },
    Case {
        name: "conv/stem",
        mode: Mode::Train,
        inputs: &[&[2, 17, 16, 3]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter::same(8, 7, 2), None, true),
    },
    // Rows aligned to 16 bytes, more tiles than one block takes, images that end within a tile.
    Case {
        name: "conv/stem_whole",
        mode: Mode::Train,
        inputs: &[&[3, 48, 32, 3]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter::same(8, 7, 2), None, true),
    },
    // Unaligned rows, more outputs than one block takes.
    Case {
        name: "conv/stem_ragged",
        mode: Mode::Train,
        inputs: &[&[2, 13, 21, 3]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter::same(72, 7, 2), None, true),
    },
    Case {
        name: "conv/stem_folded",
        mode: Mode::Eval,
        inputs: &[&[2, 23, 37, 3]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter::same(40, 7, 2), None, true),
    },
    Case {
        name: "conv/stem_small",
        mode: Mode::Train,
        inputs: &[&[2, 26, 24, 3]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter::same(16, 3, 1), None, true),
    },
    Case {
        name: "conv/stem_small_ragged",
        mode: Mode::Train,
        inputs: &[&[2, 5, 6, 3]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter::same(72, 3, 1), None, false),
    },
    Case {
        name: "conv/stem_small_folded",
        mode: Mode::Eval,
        inputs: &[&[2, 4, 10, 3]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter::same(64, 3, 1), None, true),
    },
    // Columns of 3x3 have two parities, which rows of odd length mix: here only the gradient has a stem kernel.
    Case {
        name: "conv/stem_odd",
        mode: Mode::Train,
        inputs: &[&[2, 5, 7, 3]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter::same(16, 3, 1), None, false),
    },
    Case {
        name: "conv/block",
        mode: Mode::Train,
        inputs: &[&[4, 8, 8, 16]],
        build: |s, x| {
            let h = s.conv_norm(["conv1", "bn1"], x[0], Filter::same(16, 3, 1), None, true);
            s.conv_norm(["conv2", "bn2"], h, Filter::same(16, 3, 1), Some(x[0]), true)
        },
    },
    // More outputs than the narrowest tile.
    Case {
        name: "conv/wide",
        mode: Mode::Train,
        inputs: &[&[2, 7, 6, 72]],
        build: |s, x| {
            let h = s.conv_norm(["conv1", "bn1"], x[0], Filter::same(80, 3, 2), None, true);
            s.conv_norm(["conv2", "bn2"], h, Filter::same(136, 1, 1), None, false)
        },
    },
    // More outputs than the widest tile.
    Case {
        name: "conv/widest",
        mode: Mode::Train,
        inputs: &[&[2, 7, 6, 72]],
        build: |s, x| {
            let h = s.conv_norm(["conv1", "bn1"], x[0], Filter::same(264, 3, 2), None, true);
            s.conv_norm(["conv2", "bn2"], h, Filter::same(264, 1, 1), Some(h), false)
        },
    },
    Case {
        name: "conv/wide_folded",
        mode: Mode::Eval,
        inputs: &[&[3, 9, 9, 72]],
        build: |s, x| {
            let h = s.conv_norm(["conv1", "bn1"], x[0], Filter::same(72, 3, 1), None, true);
            s.conv_norm(["conv2", "bn2"], h, Filter::same(72, 1, 1), Some(x[0]), true)
        },
    },
    Case {
        name: "conv/twice",
        mode: Mode::Train,
        inputs: &[&[2, 5, 5, 8]],
        build: |s, x| {
            let h = s.conv_norm(["conv", "bn"], x[0], Filter::same(8, 3, 1), None, true);
            s.conv_norm(["conv", "bn"], h, Filter::same(8, 3, 1), Some(x[0]), false)
        },
    },
    Case {
        name: "conv/folded",
        mode: Mode::Eval,
        inputs: &[&[3, 9, 9, 8]],
        build: |s, x| {
            let h = s.conv_norm(["conv1", "bn1"], x[0], Filter::same(8, 3, 1), None, true);
            s.conv_norm(["conv2", "bn2"], h, Filter::same(8, 1, 1), Some(x[0]), true)
        },
    },
];
