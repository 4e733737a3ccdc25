//! Stochastic depth (Huang et al. 2016), timm's `DropPath`: the branch of a residual block is left out for some samples, and scaled for the
//! others so that its expectation stays.

use super::Case;
use crate::device::{Arg, Gpu, Host, Launch, THREADS};
use crate::random::{Purpose, Stream};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::Var;
use rayon::prelude::*;

/// The identity of the branches. Their random numbers are a function of (seed, epoch, sample, view, layer) alone.
#[derive(Clone, Copy, Debug)]
pub struct Drop {
    /// [m, 2] u32: epoch and sample, as `Batch::keys`.
    pub keys: Var,
    pub seed: u64,
    /// The view of the first m rows; each m further rows are of the next.
    pub view: u32,
    /// Which branch of the network, below 256.
    pub layer: u32,
}

impl Scope<'_> {
    /// y = f x, where each sample of each view draws f = 0 with probability `rate`, else f = 1 / (1 - rate). x and y are `[n, t, d]`. In
    /// evaluation, and at rate 0, it returns x itself. Gradient: dx = f dy. Kernels: `drop_path.cu`.
    ///
    /// # Panics
    /// `rate` is not in 0 to 1 (exclusive), the rows are no multiple of the samples in `drop.keys`, or `drop.layer` is above 255.
    pub fn drop_path(&mut self, x: Var, rate: f32, drop: Drop) -> Var {
        if self.mode() == Mode::Eval || rate == 0.0 { x } else { self.dropped(x, None, rate, drop) }
    }

    /// `residual + drop_path(x)` in one pass. In evaluation and at rate 0 the sum belongs into
    /// [`Dense::epilogue`](super::linear::Dense), which needs no pass of its own.
    ///
    /// # Panics
    /// As [`Scope::drop_path`]; in evaluation, or if `rate` is 0.
    pub fn add_dropped(&mut self, residual: Var, x: Var, rate: f32, drop: Drop) -> Var {
        assert!(self.mode() == Mode::Train && rate > 0.0, "{}: nothing is dropped here", self.path());
        self.dropped(x, Some(residual), rate, drop)
    }

    fn dropped(&mut self, x: Var, residual: Option<Var>, rate: f32, drop: Drop) -> Var {
        let (shape, m) = (self.shape(x), self.shape(drop.keys).rows());
        let groups = shape.dims()[0];
        assert!((0.0..1.0).contains(&rate), "{}: a rate of {rate} leaves nothing", self.path());
        assert!(groups % m == 0 && drop.layer < 256, "{}: {groups} rows are not views of {m} samples", self.path());
        let path = Path { rate, drop, m, groups, len: shape.len() / groups };
        let y = self.tape.var(shape);
        let from: Vec<Var> = residual.into_iter().chain([x]).collect();
        self.record(&from, y, Forward { y, x, residual, path }, move |t, dy| {
            if let Some(dx) = t.gradient_of(x) {
                t.no_grad(Backward { dx, dy, path })
            }
            if let Some(residual) = residual {
                t.pass_gradient(residual, dy)
            }
        })
    }
}

#[derive(Clone, Copy)]
struct Path {
    rate: f32,
    drop: Drop,
    m: usize,
    groups: usize,
    /// Values of a sample.
    len: usize,
}

impl Path {
    /// The factor f of group i.
    fn factor(&self, keys: &[u32], i: usize) -> f32 {
        let (key, view) = (&keys[i % self.m * 2..], self.drop.view + (i / self.m) as u32);
        let mut stream = Stream::new(self.drop.seed, Purpose::Drop, key[0], key[1], view * 256 + self.drop.layer);
        if stream.uniform() < self.rate { 0.0 } else { 1.0 / (1.0 - self.rate) }
    }
    fn launch(&self, g: &Gpu, kernel: &'static str, pointers: &[Arg], add: &[Arg]) {
        // Every thread takes eight pieces of eight values.
        let parts = self.len.div_ceil(64 * THREADS);
        let launch = Launch::blocks(kernel, self.groups * parts);
        let first = (Purpose::Drop as u32) << 24 | (self.drop.view * 256 + self.drop.layer);
        let sizes: [Arg; 3] = [self.m.into(), self.len.into(), parts.into()];
        let words = [self.drop.seed as u32, (self.drop.seed >> 32) as u32, first].map(Arg::from);
        g.launch(&launch, &[pointers, add, &sizes, &words, &[self.rate.into()]].concat());
    }
    fn values(&self) -> u64 {
        (self.groups * self.len) as u64
    }
}

struct Forward {
    y: Var,                // [groups, len]
    x: Var,                // [groups, len]
    residual: Option<Var>, // [groups, len]
    path: Path,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "drop_path_fwd"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[self.y], &[self.x, self.path.drop.keys]);
        o.reads.extend(self.residual);
        o
    }
    fn cpu(&self, m: &Host) {
        let (x, keys, residual, len) = (m.f(self.x), m.u(self.path.drop.keys), self.residual.map(|r| m.f(r)), self.path.len);
        let (keys, residual) = (&*keys, residual.as_deref());
        m.f_mut(self.y).par_chunks_mut(len).zip(x.par_chunks(len)).enumerate().for_each(|(i, (y, x))| {
            let factor = self.path.factor(keys, i);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x * factor);
            if let Some(r) = residual {
                y.iter_mut().zip(&r[i * len..]).for_each(|(y, r)| *y += r);
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let pointers = [self.y.into(), self.x.into(), self.residual.into(), self.path.drop.keys.into()];
        self.path.launch(g, "drop_path_fwd", &pointers, &[]);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = self.path.values();
        Cost { flops: n, bytes: element * n * (2 + self.residual.is_some() as u64) }
    }
}

struct Backward {
    dx: Grad, // [groups, len]
    dy: Var,  // [groups, len]
    path: Path,
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "drop_path_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy, self.path.drop.keys]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        let (dy, keys, len, add) = (m.f(self.dy), m.u(self.path.drop.keys), self.path.len, self.dx.add);
        let keys = &*keys;
        m.f_mut(self.dx.var).par_chunks_mut(len).zip(dy.par_chunks(len)).enumerate().for_each(|(i, (dx, dy))| {
            let factor = self.path.factor(keys, i);
            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = if add { *dx + dy * factor } else { dy * factor });
        });
    }
    fn gpu(&self, g: &Gpu) {
        let pointers = [self.dx.var.into(), self.dy.into(), self.path.drop.keys.into()];
        self.path.launch(g, "drop_path_bwd", &pointers, &[self.dx.add.into()]);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = self.path.values();
        Cost { flops: n, bytes: element * n * (2 + self.dx.add as u64) }
    }
}

fn drop(s: &mut Scope, m: usize) -> Drop {
    let keys = super::mask::batch(s.tape(), m).keys;
    Drop { keys, seed: 5, view: 1, layer: 7 }
}

pub static CASES: &[Case] = &[
    Case {
        name: "drop_path/one",
        mode: Mode::Train,
        inputs: &[&[1, 1, 1]],
        build: |s, x| {
            let drop = drop(s, 1);
            s.drop_path(x[0], 0.25, drop)
        },
    },
    Case {
        name: "drop_path/ragged",
        mode: Mode::Train,
        inputs: &[&[6, 5, 7]],
        build: |s, x| {
            let drop = drop(s, 3);
            s.drop_path(x[0], 0.5, drop)
        },
    },
    Case {
        name: "drop_path/residual",
        mode: Mode::Train,
        inputs: &[&[4, 9, 24], &[4, 9, 24]],
        build: |s, x| {
            let drop = drop(s, 2);
            s.add_dropped(x[0], x[1], 0.5, drop)
        },
    },
];
