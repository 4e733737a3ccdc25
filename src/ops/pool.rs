//! Max pooling 3x3, stride 2, padding 1 (the ImageNet stem) and the mean over the map.

use super::Case;
use crate::device::{Arg, Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::{Shape, Var};
use rayon::prelude::*;

impl Scope<'_> {
    /// x [n, h, w, c] to [n, ceil(h/2), ceil(w/2), c]; padding never wins.
    pub fn max_pool(&mut self, x: Var) -> Var {
        let &[n, h, w, c] = self.shape(x).dims() else { panic!("{}: max_pool wants [n, h, w, c]", self.path()) };
        let y = self.tape.var([n, h.div_ceil(2), w.div_ceil(2), c]);
        let map = [h, w, c];
        self.record(&[x], y, MaxForward { y, x, n, map }, move |t, dy| {
            if let Some(dx) = t.gradient_of(x) {
                t.call(MaxBackward { dx, dy, x, n, map })
            }
        })
    }

    /// x [n, h, w, c] to its mean over h and w, [n, c].
    pub fn average_pool(&mut self, x: Var) -> Var {
        let &[n, h, w, c] = self.shape(x).dims() else { panic!("{}: average_pool wants [n, h, w, c]", self.path()) };
        // In evaluation these are the features: scores are differences of them, so they stay f32.
        let exact = self.mode() == Mode::Eval;
        let y = if exact { self.tape.exact([n, c]) } else { self.tape.var([n, c]) };
        self.record(&[x], y, MeanForward { y, x, n, pixels: h * w, c, exact }, move |t, dy| {
            if let Some(dx) = t.gradient_of(x) {
                t.call(MeanBackward { dx, dy, n, pixels: h * w, c })
            }
        })
    }
}

/// The pixels of a window that lie in the map, along one axis.
fn window(out: usize, extent: usize) -> std::ops::Range<usize> {
    (2 * out).saturating_sub(1)..(2 * out + 2).min(extent)
}

struct MaxForward {
    y: Var, // [n, ceil(h/2), ceil(w/2), c]
    x: Var, // [n, h, w, c]
    n: usize,
    map: [usize; 3],
}

impl Call for MaxForward {
    fn name(&self) -> &'static str {
        "max_pool_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y], &[self.x])
    }
    fn cpu(&self, m: &Host) {
        let ([h, w, c], x) = (self.map, m.f(self.x));
        let wide = w.div_ceil(2);
        m.f_mut(self.y).par_chunks_mut(h.div_ceil(2) * wide * c).zip(x.par_chunks(h * w * c)).for_each(|(y, x)| {
            for (o, y) in y.chunks_exact_mut(c).enumerate() {
                y.fill(f32::NEG_INFINITY);
                for (i, j) in window(o / wide, h).flat_map(|i| window(o % wide, w).map(move |j| (i, j))) {
                    y.iter_mut().zip(&x[(i * w + j) * c..]).for_each(|(y, x)| *y = y.max(*x));
                }
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let [h, w, c] = self.map;
        let launch = Launch::rows(g, "max_pool_fwd", self.n * h.div_ceil(2) * w.div_ceil(2), c);
        g.launch(&launch, &[self.y.into(), self.x.into(), self.n.into(), h.into(), w.into(), c.into()]);
    }
    fn cost(&self, real: u64) -> Cost {
        let pixels = (self.n * self.map.iter().product::<usize>()) as u64;
        Cost { flops: pixels * 9 / 4, bytes: real * pixels * 5 / 4 }
    }
}

struct MaxBackward {
    dx: Grad, // [n, h, w, c]
    dy: Var,  // [n, ceil(h/2), ceil(w/2), c]
    x: Var,   // [n, h, w, c]
    n: usize,
    map: [usize; 3],
}

impl Call for MaxBackward {
    fn name(&self) -> &'static str {
        "max_pool_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy, self.x]).grad(self.dx)
    }
    /// The first maximum of a window, in reading order, gets the gradient, as in PyTorch.
    fn cpu(&self, m: &Host) {
        let ([h, w, c], x, dy, add) = (self.map, m.f(self.x), m.f(self.dy), self.dx.add);
        let (high, wide) = (h.div_ceil(2), w.div_ceil(2));
        let mut dx = m.f_mut(self.dx.var);
        let images = dx.par_chunks_mut(h * w * c).zip(x.par_chunks(h * w * c)).zip(dy.par_chunks(high * wide * c));
        images.for_each(|((dx, x), dy)| {
            if !add {
                dx.fill(0.0);
            }
            let (mut best, mut at) = (vec![0.0; c], vec![0usize; c]);
            for (o, dy) in dy.chunks_exact(c).enumerate() {
                best.fill(f32::NEG_INFINITY);
                for (i, j) in window(o / wide, h).flat_map(|i| window(o % wide, w).map(move |j| (i, j))) {
                    for (k, &x) in x[(i * w + j) * c..][..c].iter().enumerate() {
                        if x > best[k] {
                            (best[k], at[k]) = (x, i * w + j);
                        }
                    }
                }
                at.iter().zip(dy).enumerate().for_each(|(k, (p, g))| dx[p * c + k] += g);
            }
        });
    }
    /// A thread makes two by two pixels of dx.
    fn gpu(&self, g: &Gpu) {
        let [h, w, c] = self.map;
        let launch = Launch::rows(g, "max_pool_bwd", self.n * h.div_ceil(2) * w.div_ceil(2), c);
        let pointers: [Arg; 3] = [self.dx.var.into(), self.dy.into(), self.x.into()];
        g.launch(&launch, &[&pointers[..], &[self.dx.add.into(), self.n.into(), h.into(), w.into(), c.into()]].concat());
    }
    fn cost(&self, real: u64) -> Cost {
        let pixels = (self.n * self.map.iter().product::<usize>()) as u64;
        Cost { flops: pixels * 9 / 4, bytes: real * pixels * 9 / 4 }
    }
}

struct MeanForward {
    y: Var, // [n, c]
    x: Var, // [n, pixels, c]
    n: usize,
    pixels: usize,
    c: usize,
    /// y is f32 everywhere.
    exact: bool,
}

impl Call for MeanForward {
    fn name(&self) -> &'static str {
        "average_pool_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y], &[self.x])
    }
    fn cpu(&self, m: &Host) {
        let (x, c) = (m.f(self.x), self.c);
        m.f_mut(self.y).par_chunks_mut(c).zip(x.par_chunks(self.pixels * c)).for_each(|(y, x)| {
            y.fill(0.0);
            x.chunks_exact(c).for_each(|x| y.iter_mut().zip(x).for_each(|(y, x)| *y += x));
            y.iter_mut().for_each(|y| *y /= self.pixels as f32);
        });
    }
    fn gpu(&self, g: &Gpu) {
        let kernel = if self.exact { "average_pool_fwd_exact" } else { "average_pool_fwd" };
        let args = [self.y.into(), self.x.into(), self.n.into(), self.pixels.into(), self.c.into()];
        g.launch(&Launch::rows(g, kernel, self.n, self.c), &args);
    }
    fn cost(&self, real: u64) -> Cost {
        let n = Shape::new(&[self.n, self.pixels, self.c]).len() as u64;
        Cost { flops: n, bytes: real * n }
    }
}

struct MeanBackward {
    dx: Grad, // [n, pixels, c]
    dy: Var,  // [n, c]
    n: usize,
    pixels: usize,
    c: usize,
}

impl Call for MeanBackward {
    fn name(&self) -> &'static str {
        "average_pool_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        let (dy, c, add) = (m.f(self.dy), self.c, self.dx.add);
        m.f_mut(self.dx.var).par_chunks_mut(self.pixels * c).zip(dy.par_chunks(c)).for_each(|(dx, dy)| {
            for dx in dx.chunks_exact_mut(c) {
                for (dx, dy) in dx.iter_mut().zip(dy) {
                    let g = dy / self.pixels as f32;
                    *dx = if add { *dx + g } else { g };
                }
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let launch = Launch::rows(g, "average_pool_bwd", self.n * self.pixels, self.c);
        let args = [self.dx.var.into(), self.dy.into(), self.dx.add.into(), self.n.into(), self.pixels.into(), self.c.into()];
        g.launch(&launch, &args);
    }
    fn cost(&self, real: u64) -> Cost {
        let n = Shape::new(&[self.n, self.pixels, self.c]).len() as u64;
        Cost { flops: n, bytes: real * n }
    }
}

pub static CASES: &[Case] = &[
    Case { name: "max_pool/one", mode: Mode::Train, inputs: &[&[1, 1, 1, 1]], build: |s, x| s.max_pool(x[0]) },
    Case { name: "max_pool/odd", mode: Mode::Train, inputs: &[&[2, 7, 5, 6]], build: |s, x| s.max_pool(x[0]) },
    Case { name: "max_pool/even", mode: Mode::Train, inputs: &[&[2, 8, 8, 16]], build: |s, x| s.max_pool(x[0]) },
    Case {
        name: "max_pool/ties", // of zeros
        mode: Mode::Train,
        inputs: &[&[2, 6, 7, 8]],
        build: |s, x| {
            let h = s.relu(x[0]);
            s.max_pool(h)
        },
    },
    Case { name: "average_pool/eval", mode: Mode::Eval, inputs: &[&[3, 4, 4, 16]], build: |s, x| s.average_pool(x[0]) },
    Case { name: "average_pool/eval_ragged", mode: Mode::Eval, inputs: &[&[2, 1, 3, 5]], build: |s, x| s.average_pool(x[0]) },
    Case { name: "average_pool/wide", mode: Mode::Train, inputs: &[&[2, 2, 2, 264]], build: |s, x| s.average_pool(x[0]) },
    Case { name: "average_pool/one", mode: Mode::Train, inputs: &[&[1, 1, 1, 3]], build: |s, x| s.average_pool(x[0]) },
    Case { name: "average_pool/map", mode: Mode::Train, inputs: &[&[3, 4, 5, 21]], build: |s, x| s.average_pool(x[0]) },
];
