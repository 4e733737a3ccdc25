//! The mean over some of a sample's tokens: the class token, or all patches.

use super::Case;
use crate::device::{Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::{Dtype, Shape, Var};
use rayon::prelude::*;
use std::ops::Range;

impl Scope<'_> {
    /// y = mean of these tokens: x `[n, t, d]` to y `[n, d]`; in evaluation y is f32 on every device, because these are features. Gradient:
    /// dy / count for these tokens, 0 elsewhere. Kernels: `tokens_mean.cu`.
    ///
    /// # Panics
    /// x has not three dimensions, or `tokens` is empty or ends beyond t.
    pub fn tokens_mean(&mut self, x: Var, tokens: Range<usize>) -> Var {
        let &[n, _, d] = self.shape(x).dims() else { panic!("{}: tokens_mean wants [n, t, d]", self.path()) };
        let y_f32 = self.mode() == Mode::Eval;
        self.mean_of(x, tokens, [n, d].into(), y_f32)
    }

    /// The class token (token 0) of x `[n, t, d]` as `[n, 1, d]` of x's type, for layers that go on with it alone. Kernels: `tokens_mean.cu`.
    ///
    /// # Panics
    /// x has not three dimensions.
    pub fn class_token(&mut self, x: Var) -> Var {
        let &[n, _, d] = self.shape(x).dims() else { panic!("{}: class_token wants [n, t, d]", self.path()) };
        self.mean_of(x, 0..1, [n, 1, d].into(), false)
    }

    fn mean_of(&mut self, x: Var, tokens: Range<usize>, shape: Shape, y_f32: bool) -> Var {
        let &[n, t, d] = self.shape(x).dims() else { unreachable!("the callers have looked") };
        assert!(tokens.start < tokens.end && tokens.end <= t, "{}: tokens {tokens:?} of {t}", self.path());
        let kernel = match (self.tape.slots[x.index()].dtype == Dtype::F32, y_f32) {
            (_, false) => "tokens_mean_fwd",
            (false, true) => "tokens_mean_fwd_to_f32",
            (true, true) => "tokens_mean_fwd_f32",
        };
        let y = if y_f32 { self.tape.f32(shape) } else { self.tape.var(shape) };
        let span = Span { n, t, d, first: tokens.start, count: tokens.len() };
        self.record(&[x], y, Forward { y, x, span, kernel }, move |t, dy| {
            if let Some(dx) = t.gradient_of(x) {
                t.no_grad(Backward { dx, dy, span })
            }
        })
    }
}

/// Which tokens of how many.
#[derive(Clone, Copy)]
struct Span {
    n: usize,
    t: usize,
    d: usize,
    first: usize,
    count: usize,
}

struct Forward {
    y: Var, // [n, d], or [n, 1, d]
    x: Var, // [n, t, d]
    span: Span,
    kernel: &'static str,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "tokens_mean_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y], &[self.x])
    }
    fn cpu(&self, m: &Host) {
        let Span { t, d, first, count, .. } = self.span;
        let x = m.f(self.x);
        m.f_mut(self.y).par_chunks_mut(d).zip(x.par_chunks(t * d)).for_each(|(y, x)| {
            y.copy_from_slice(&x[first * d..][..d]);
            for x in x[(first + 1) * d..(first + count) * d].chunks_exact(d) {
                y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
            }
            y.iter_mut().for_each(|y| *y /= count as f32);
        });
    }
    fn gpu(&self, g: &Gpu) {
        let Span { n, t, d, first, count } = self.span;
        let launch = Launch::rows(g, self.kernel, n, d);
        g.launch(&launch, &[self.y.into(), self.x.into(), n.into(), t.into(), d.into(), first.into(), count.into()]);
    }
    fn cost(&self, element: u64) -> Cost {
        let Span { n, d, count, .. } = self.span;
        let read = (n * count * d) as u64;
        Cost { flops: read, bytes: element * (read + (n * d) as u64) }
    }
}

struct Backward {
    dx: Grad, // [n, t, d]
    dy: Var,  // [n, d]
    span: Span,
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "tokens_mean_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        let Span { t, d, first, count, .. } = self.span;
        let (dy, add) = (m.f(self.dy), self.dx.add);
        m.f_mut(self.dx.var).par_chunks_mut(t * d).zip(dy.par_chunks(d)).for_each(|(dx, dy)| {
            if !add {
                dx[..first * d].fill(0.0);
                dx[(first + count) * d..].fill(0.0);
            }
            for dx in dx[first * d..(first + count) * d].chunks_exact_mut(d) {
                for (dx, dy) in dx.iter_mut().zip(dy) {
                    let g = dy / count as f32;
                    *dx = if add { *dx + g } else { g };
                }
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let Span { n, t, d, first, count } = self.span;
        // Where others have added already only the chosen tokens are touched.
        let rows = n * if self.dx.add { count } else { t };
        let sizes = [t.into(), d.into(), first.into(), count.into()];
        let args = [&[self.dx.var.into(), self.dy.into(), self.dx.add.into(), n.into()][..], &sizes].concat();
        g.launch(&Launch::rows(g, "tokens_mean_bwd", rows, d), &args);
    }
    fn cost(&self, element: u64) -> Cost {
        let Span { n, t, d, count, .. } = self.span;
        let touched = n * d * if self.dx.add { 2 * count } else { t };
        Cost { flops: (n * count * d) as u64, bytes: element * (n * d + touched) as u64 }
    }
}

pub static CASES: &[Case] = &[
    Case { name: "tokens_mean/one", mode: Mode::Train, inputs: &[&[1, 1, 1]], build: |s, x| s.tokens_mean(x[0], 0..1) },
    Case { name: "tokens_mean/class", mode: Mode::Train, inputs: &[&[3, 5, 24]], build: |s, x| s.tokens_mean(x[0], 0..1) },
    Case {
        name: "tokens_mean/class_alone",
        mode: Mode::Eval,
        inputs: &[&[3, 5, 24]],
        build: |s, x| {
            let h = s.class_token(x[0]);
            s.tokens_mean(h, 0..1)
        },
    },
    Case { name: "tokens_mean/patches", mode: Mode::Train, inputs: &[&[3, 17, 13]], build: |s, x| s.tokens_mean(x[0], 1..17) },
    Case { name: "tokens_mean/features", mode: Mode::Eval, inputs: &[&[3, 17, 192]], build: |s, x| s.tokens_mean(x[0], 1..17) },
    Case {
        name: "tokens_mean/of_f32",
        mode: Mode::Eval,
        inputs: &[&[2, 5, 40]],
        build: |s, x| {
            let h = s.layer_norm(x[0], 1e-6, true);
            s.tokens_mean(h, 1..5)
        },
    },
];
