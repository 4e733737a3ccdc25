//! Max pooling with stride 2, 3x3 with padding 1 (the ImageNet stem) or 2x2 without, and the mean over the map.

use super::Case;
use crate::device::{Arg, Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::{Shape, Var};
use rayon::prelude::*;

impl Scope<'_> {
    /// Max pooling with stride 2: x `[n, h, w, c]` to y `[n, h', w', c]`. A `kernel` of 3 has padding 1, which never wins, and rounds h' = h / 2
    /// up; one of 2 has none and rounds down. A NaN always wins, as in PyTorch. Gradient: dy goes to the first maximum of each
    /// window in reading order, as in PyTorch.
    /// Kernels: `pool.cu`.
    ///
    /// # Panics
    /// x has not four dimensions, or `kernel` is neither 2 nor 3.
    pub fn max_pool(&mut self, x: Var, kernel: usize) -> Var {
        let &[n, h, w, c] = self.shape(x).dims() else { panic!("{}: max_pool wants [n, h, w, c]", self.path()) };
        assert!(kernel == 2 || kernel == 3, "{}: max_pool looks at 2 x 2 or 3 x 3 pixels", self.path());
        let map = Map { n, h, w, c, kernel };
        let y = self.tape.var([n, map.half(h), map.half(w), c]);
        self.record(&[x], y, MaxForward { y, x, map }, move |t, dy| {
            if let Some(dx) = t.gradient_of(x) {
                t.no_grad(MaxBackward { dx, dy, x, map })
            }
        })
    }

    /// Global average pooling: x `[n, h, w, c]` to y `[n, c]`, the mean over h and w; in evaluation y is f32 on every device. Gradient:
    /// dx = dy / (h w). Kernels: `pool.cu`.
    ///
    /// # Panics
    /// x has not four dimensions.
    pub fn average_pool(&mut self, x: Var) -> Var {
        let &[n, h, w, c] = self.shape(x).dims() else { panic!("{}: average_pool wants [n, h, w, c]", self.path()) };
        // In evaluation these are features. Scores are differences of them, so bf16 would be too coarse.
        let y_f32 = self.mode() == Mode::Eval;
        let y = if y_f32 { self.tape.f32([n, c]) } else { self.tape.var([n, c]) };
        self.record(&[x], y, MeanForward { y, x, n, pixels: h * w, c, y_f32 }, move |t, dy| {
            if let Some(dx) = t.gradient_of(x) {
                t.no_grad(MeanBackward { dx, dy, n, pixels: h * w, c })
            }
        })
    }
}

/// A map that is pooled.
#[derive(Clone, Copy)]
struct Map {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    kernel: usize,
}

impl Map {
    fn half(&self, extent: usize) -> usize {
        if self.kernel == 3 { extent.div_ceil(2) } else { extent / 2 }
    }
    /// The pixels of a window that lie in the map, along one axis.
    fn window(&self, out: usize, extent: usize) -> std::ops::Range<usize> {
        (2 * out).saturating_sub(self.kernel - 2)..(2 * out + 2).min(extent)
    }
    /// The pixels of a window, in reading order.
    fn pixels(&self, o: usize) -> impl Iterator<Item = usize> {
        let (map, wide) = (*self, self.half(self.w));
        map.window(o / wide, map.h).flat_map(move |i| map.window(o % wide, map.w).map(move |j| i * map.w + j))
    }
    fn values(&self) -> usize {
        self.h * self.w * self.c
    }
    fn results(&self) -> usize {
        self.half(self.h) * self.half(self.w) * self.c
    }
    fn sizes(&self) -> [Arg; 4] {
        [self.n, self.h, self.w, self.c].map(Arg::from)
    }
}

struct MaxForward {
    y: Var, // [n, h / 2, w / 2, c]
    x: Var, // [n, h, w, c]
    map: Map,
}

impl Call for MaxForward {
    fn name(&self) -> &'static str {
        "max_pool_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y], &[self.x])
    }
    fn cpu(&self, m: &Host) {
        let (map, x) = (self.map, m.f(self.x));
        m.f_mut(self.y).par_chunks_mut(map.results()).zip(x.par_chunks(map.values())).for_each(|(y, x)| {
            for (o, y) in y.chunks_exact_mut(map.c).enumerate() {
                y.fill(f32::NEG_INFINITY);
                map.pixels(o)
                    .for_each(|p| y.iter_mut().zip(&x[p * map.c..]).for_each(|(y, x)| *y = if *x > *y || x.is_nan() { *x } else { *y }));
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let kernel = if self.map.kernel == 3 { "max_pool_fwd" } else { "max_pool_2_fwd" };
        let launch = Launch::rows(g, kernel, self.map.n * self.map.results() / self.map.c, self.map.c);
        g.launch(&launch, &[&[self.y.into(), self.x.into()], &self.map.sizes()[..]].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let (all, kernel) = (self.map.n as u64, (self.map.kernel * self.map.kernel) as u64);
        let (x, y) = (all * self.map.values() as u64, all * self.map.results() as u64);
        Cost { flops: kernel * y, bytes: element * (x + y) }
    }
}

struct MaxBackward {
    dx: Grad, // [n, h, w, c]
    dy: Var,  // [n, h / 2, w / 2, c]
    x: Var,   // [n, h, w, c]
    map: Map,
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
        let (map, x, dy, add) = (self.map, m.f(self.x), m.f(self.dy), self.dx.add);
        let mut dx = m.f_mut(self.dx.var);
        let images = dx.par_chunks_mut(map.values()).zip(x.par_chunks(map.values())).zip(dy.par_chunks(map.results()));
        images.for_each(|((dx, x), dy)| {
            if !add {
                dx.fill(0.0);
            }
            let (mut best, mut at) = (vec![0.0; map.c], vec![0usize; map.c]);
            for (o, dy) in dy.chunks_exact(map.c).enumerate() {
                best.fill(f32::NEG_INFINITY);
                for p in map.pixels(o) {
                    for (k, &x) in x[p * map.c..][..map.c].iter().enumerate() {
                        if x > best[k] {
                            (best[k], at[k]) = (x, p);
                        }
                    }
                }
                at.iter().zip(dy).enumerate().for_each(|(k, (p, g))| dx[p * map.c + k] += g);
            }
        });
    }
    /// A thread computes 2 x 2 pixels of dx.
    fn gpu(&self, g: &Gpu) {
        let (map, pointers) = (self.map, [self.dx.var.into(), self.dy.into(), self.x.into(), self.dx.add.into()]);
        let kernel = if map.kernel == 3 { "max_pool_bwd" } else { "max_pool_2_bwd" };
        let launch = Launch::rows(g, kernel, map.n * map.h.div_ceil(2) * map.w.div_ceil(2), map.c);
        g.launch(&launch, &[&pointers[..], &map.sizes()[..]].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let Cost { flops, bytes } = MaxForward { y: self.dy, x: self.x, map: self.map }.cost(element);
        Cost { flops, bytes: bytes + element * (self.map.n * self.map.values()) as u64 }
    }
}

struct MeanForward {
    y: Var, // [n, c]
    x: Var, // [n, pixels, c]
    n: usize,
    pixels: usize,
    c: usize,
    /// y is f32 on every device.
    y_f32: bool,
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
        let kernel = if self.y_f32 { "average_pool_fwd_to_f32" } else { "average_pool_fwd" };
        let args = [self.y.into(), self.x.into(), self.n.into(), self.pixels.into(), self.c.into()];
        g.launch(&Launch::rows(g, kernel, self.n, self.c), &args);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = Shape::new(&[self.n, self.pixels, self.c]).len() as u64;
        Cost { flops: n, bytes: element * n }
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
    fn cost(&self, element: u64) -> Cost {
        let n = Shape::new(&[self.n, self.pixels, self.c]).len() as u64;
        Cost { flops: n, bytes: element * n }
    }
}

pub static CASES: &[Case] = &[
    Case { name: "max_pool/one", mode: Mode::Train, inputs: &[&[1, 1, 1, 1]], build: |s, x| s.max_pool(x[0], 3) },
    Case { name: "max_pool/odd", mode: Mode::Train, inputs: &[&[2, 7, 5, 6]], build: |s, x| s.max_pool(x[0], 3) },
    Case { name: "max_pool/even", mode: Mode::Train, inputs: &[&[2, 8, 8, 16]], build: |s, x| s.max_pool(x[0], 3) },
    Case { name: "max_pool/two", mode: Mode::Train, inputs: &[&[2, 8, 4, 16]], build: |s, x| s.max_pool(x[0], 2) },
    Case { name: "max_pool/two_odd", mode: Mode::Train, inputs: &[&[2, 5, 7, 3]], build: |s, x| s.max_pool(x[0], 2) },
    Case {
        name: "max_pool/ties", // of zeros
        mode: Mode::Train,
        inputs: &[&[2, 6, 7, 8]],
        build: |s, x| {
            let h = s.relu(x[0]);
            s.max_pool(h, 3)
        },
    },
    Case { name: "average_pool/eval", mode: Mode::Eval, inputs: &[&[3, 4, 4, 16]], build: |s, x| s.average_pool(x[0]) },
    Case { name: "average_pool/eval_ragged", mode: Mode::Eval, inputs: &[&[2, 1, 3, 5]], build: |s, x| s.average_pool(x[0]) },
    Case { name: "average_pool/wide", mode: Mode::Train, inputs: &[&[2, 2, 2, 264]], build: |s, x| s.average_pool(x[0]) },
    Case { name: "average_pool/one", mode: Mode::Train, inputs: &[&[1, 1, 1, 3]], build: |s, x| s.average_pool(x[0]) },
    Case { name: "average_pool/map", mode: Mode::Train, inputs: &[&[3, 4, 5, 21]], build: |s, x| s.average_pool(x[0]) },
];
