//! y = epilogue(x Wᵀ + b), W `[out, in]` as in PyTorch. Bias, residual and GELU are fused into the product, so that the result crosses memory
//! once.

mod backward;

use super::packs::{Packed, Packs};
use super::product;
use super::{Case, gelu};
use crate::device::conv::{self, Activation, Conv};
use crate::device::{Gpu, Host};
use crate::init::Init;
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::{Dtype, Shape, Var};
use backward::{BackwardBias, BackwardData, BackwardWeight};

/// The hyperparameters of a linear layer.
#[derive(Clone, Copy, Debug)]
pub struct Dense {
    pub outputs: usize,
    pub bias: bool,
    /// The initialiser of the weight; the bias starts at 0.
    pub weight: Init,
    /// The shape under which the weight is stored, if it is not `[out, in]`: a patch embedding has `[out, 3, p, p]`.
    pub shape: Option<Shape>,
    pub epilogue: Epilogue,
}

/// The fused epilogue of a linear layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Epilogue {
    Nothing,
    /// x Φ(x), with erf and not tanh.
    Gelu,
    /// Adds this residual, of the result's shape.
    Add(Var),
}

impl Scope<'_> {
    /// y = x Wᵀ + b, as PyTorch's `Linear`: x `[.., in]` to y `[.., out]`, with `weight` `[out, in]` and, if `bias`, `bias` `[out]`. Both start
    /// uniform in ±1/sqrt(in). Gradient: dx = dy W, dW = dyᵀ x, db = sum dy. Kernels: `conv.cu` and `conv_bwd_w.cu` (maps of one
    /// pixel), `linear.cu` for db; on Hopper their `*_hopper.cu`.
    ///
    /// # Panics
    /// A weight of this name has another shape.
    pub fn linear(&mut self, x: Var, out: usize, bias: bool) -> Var {
        let uniform = Init::Uniform(1.0 / (self.shape(x).cols() as f32).sqrt());
        let dense = Dense { outputs: out, bias, weight: uniform, shape: None, epilogue: Epilogue::Nothing };
        self.product(x, &dense, uniform)
    }

    /// y = epilogue(x Wᵀ + b): x `[.., in]` to y `[.., out]`. With a GELU in training, its argument is kept for the gradient. Otherwise as
    /// [`Scope::linear`].
    ///
    /// # Panics
    /// `dense.shape` has not out * in values, the residual has not y's shape, or a weight of this name has another shape.
    pub fn dense(&mut self, x: Var, dense: &Dense) -> Var {
        self.product(x, dense, Init::Constant(0.0))
    }

    fn product(&mut self, x: Var, dense: &Dense, bias: Init) -> Var {
        let (from, to) = (self.shape(x), self.shape(x).with_cols(dense.outputs));
        let size = Conv::linear(from.rows(), from.cols(), dense.outputs);
        let stored = dense.shape.unwrap_or([size.outputs, size.channels].into());
        assert_eq!(stored.len(), size.weight_len(), "{}: a weight of {stored:?} for {size:?}", self.path());
        let w = self.param("weight", stored, dense.weight);
        let b = dense.bias.then(|| self.param("bias", [size.outputs], bias));
        let y = self.tape.var(to);
        let gelu = dense.epilogue == Epilogue::Gelu;
        let residual = if let Epilogue::Add(r) = dense.epilogue { Some(r) } else { None };
        assert!(residual.is_none_or(|r| self.shape(r) == to), "{}: a residual like the result {to:?}", self.path());
        let pre_activation = (gelu && self.mode() == Mode::Train).then(|| self.tape.var(to));
        let inputs: Vec<Var> = [x, w].into_iter().chain(b).chain(residual).collect();
        let packed = Packs::forward(self.tape, w, size, None);
        let activation = if gelu { Activation::Gelu } else { Activation::Nothing };
        let forward = Forward { y, pre_activation, x, w, packed, b, residual, activation, size };
        self.record(&inputs, y, forward, move |t, dy| {
            let result = dy;
            let dy = match pre_activation {
                Some(u) => {
                    let du = t.var(to);
                    let dx = Grad { var: du, add: false };
                    t.no_grad(gelu::Backward { dx, dy, x: u, rows: size.batch, cols: size.outputs });
                    du
                }
                None => dy,
            };
            if let Some(dx) = t.gradient_of(x) {
                let packed = Packs::backward(t, w);
                t.no_grad(BackwardData { dx, dy, w, packed, size })
            }
            if let Some(dw) = t.gradient_of(w) {
                let partial = product::partial_sums(t, &size);
                t.no_grad(BackwardWeight { dw, dy, x, partial, size })
            }
            if let Some(db) = b.and_then(|b| t.gradient_of(b)) {
                let partial = t.scratch([size.batch.div_ceil(BIAS_ROWS), size.outputs], Dtype::F32);
                t.no_grad(BackwardBias { db, dy, partial, size })
            }
            // Last, because `pass_gradient` may hand dy over to the residual.
            if let Some(residual) = residual {
                t.pass_gradient(residual, result)
            }
        })
    }
}

/// Rows of one partial sum of a bias's gradient on a GPU.
const BIAS_ROWS: usize = 256;

fn cost(c: &Conv, element: u64) -> Cost {
    Cost { flops: c.operations(), bytes: element * (c.input_len() + c.weight_len() + c.output_len()) as u64 }
}

struct Forward {
    y: Var,                      // [rows, out]
    pre_activation: Option<Var>, // [rows, out]: the GELU's argument, for its gradient
    x: Var,                      // [rows, in]
    w: Var,                      // [out, in]
    packed: Packed,
    b: Option<Var>,        // [out]
    residual: Option<Var>, // [rows, out]
    activation: Activation,
    size: Conv,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "linear_fwd"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[self.y], &[self.x, self.w]);
        o.reads.extend(self.packed.reads());
        o.writes.extend(self.pre_activation);
        o.reads.extend(self.b);
        o.reads.extend(self.residual);
        o
    }
    fn cpu(&self, m: &Host) {
        let (bias, residual) = (self.b.map(|b| m.f(b)), self.residual.map(|r| m.f(r)));
        let epilogue = conv::Epilogue {
            shift: bias.as_deref(),
            residual: residual.as_deref(),
            activation: self.activation,
            ..conv::Epilogue::default()
        };
        match self.pre_activation {
            Some(pre_activation) => {
                let (pre_activation, y) = (&mut m.f_mut(pre_activation), &mut m.f_mut(self.y));
                conv::linear_keeping(&self.size, &m.f(self.x), &m.f(self.w), &epilogue, pre_activation, y)
            }
            None => self.packed.forward(m, &self.size, [self.y, self.x, self.w], &epilogue),
        }
    }
    fn gpu(&self, g: &Gpu) {
        let Forward { pre_activation, residual, activation, .. } = *self;
        let epilogue = product::Epilogue { pre_activation, shift: self.b, residual, activation, ..product::Epilogue::default() };
        product::forward(g, &self.size, self.y, self.x, self.packed.gpu, &epilogue);
    }
    fn cost(&self, element: u64) -> Cost {
        let mut cost = cost(&self.size, element);
        let more = self.pre_activation.is_some() as u64 + self.residual.is_some() as u64;
        cost.bytes += element * self.size.output_len() as u64 * more;
        cost
    }
}

const fn dense(outputs: usize, epilogue: Epilogue) -> Dense {
    Dense { outputs, bias: true, weight: Init::Normal(0.3), shape: None, epilogue }
}

pub static CASES: &[Case] = &[
    Case { name: "linear/one", mode: Mode::Train, inputs: &[&[1, 1]], build: |s, x| s.at("fc").linear(x[0], 1, true) },
    Case { name: "linear/ragged", mode: Mode::Train, inputs: &[&[19, 35]], build: |s, x| s.at("fc").linear(x[0], 21, true) },
    Case { name: "linear/no_bias", mode: Mode::Train, inputs: &[&[40, 64]], build: |s, x| s.at("fc").linear(x[0], 48, false) },
    Case {
        name: "linear/twice",
        mode: Mode::Train,
        inputs: &[&[8, 16]],
        build: |s, x| {
            let h = s.at("fc").linear(x[0], 16, true);
            s.at("fc").linear(h, 16, true)
        },
    },
    Case { name: "linear/sequence", mode: Mode::Train, inputs: &[&[3, 5, 16]], build: |s, x| s.at("fc").linear(x[0], 24, true) },
    Case {
        name: "linear/gelu",
        mode: Mode::Train,
        inputs: &[&[2, 19, 24]],
        build: |s, x| s.at("fc").dense(x[0], &dense(40, Epilogue::Gelu)),
    },
    Case {
        name: "linear/gelu_ragged",
        mode: Mode::Train,
        inputs: &[&[7, 5]],
        build: |s, x| s.at("fc").dense(x[0], &dense(3, Epilogue::Gelu)),
    },
    Case {
        name: "linear/gelu_eval",
        mode: Mode::Eval,
        inputs: &[&[70, 32]],
        build: |s, x| s.at("fc").dense(x[0], &dense(72, Epilogue::Gelu)),
    },
    Case {
        name: "linear/residual",
        mode: Mode::Train,
        inputs: &[&[2, 9, 16], &[2, 9, 16]],
        build: |s, x| {
            let h = s.at("a").dense(x[0], &dense(16, Epilogue::Add(x[1])));
            s.at("b").dense(h, &dense(16, Epilogue::Add(h)))
        },
    },
    Case {
        name: "linear/residual_eval",
        mode: Mode::Eval,
        inputs: &[&[11, 7], &[11, 13]],
        build: |s, x| s.at("fc").dense(x[0], &dense(13, Epilogue::Add(x[1]))),
    },
    // More outputs than one tile, whose sizes fill none.
    Case {
        name: "linear/wide",
        mode: Mode::Train,
        inputs: &[&[130, 72], &[130, 264]],
        build: |s, x| {
            let h = s.at("fc1").dense(x[0], &dense(264, Epilogue::Gelu));
            s.at("fc2").dense(h, &dense(264, Epilogue::Add(x[1])))
        },
    },
    // The weight of a patch embedding, as it is stored.
    Case {
        name: "linear/stored",
        mode: Mode::Train,
        inputs: &[&[2, 4, 12]],
        build: |s, x| s.at("proj").dense(x[0], &Dense { shape: Some([16, 3, 2, 2].into()), ..dense(16, Epilogue::Nothing) }),
    },
];
