//! y = x · v / |v| for each output, from u = x · v: the last layer of DINO, whose gain is 1 (Salimans and Kingma 2016).

use super::Case;
use super::reduce::sum_of;
use crate::device::{Arg, Gpu, Host, Launch, chunk};
use crate::init::Init;
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::{Dtype, Var};
use rayon::prelude::*;

/// Rows of v per block: one per warp.
const ROWS: usize = 8;

impl Scope<'_> {
    /// y = u / |v| per column: u and y are `[.., k]`, where u holds the products of some input with the rows of v `[k, c]` (Salimans and
    /// Kingma 2016, Eq. 2, with gain 1). Gradient: du = dy / |v|; dv = -v (sum of dy u) / |v|^3, besides the one through u.
    /// Kernels: `weight_norm.cu`.
    ///
    /// # Panics
    /// v has not a row for each column of u.
    pub fn weight_norm(&mut self, u: Var, v: Var) -> Var {
        let (shape, weight) = (self.shape(u), self.shape(v));
        let size = WeightNormSize { rows: shape.rows(), k: shape.cols(), c: weight.cols() };
        assert_eq!(weight.dims(), [size.k, size.c], "{}: {} products of {weight:?}", self.path(), size.k);
        let (y, inverse) = (self.tape.var(shape), self.tape.f32([size.k]));
        self.record(&[u, v], y, Forward { y, inverse, u, v, size }, move |t, dy| {
            let (du, dv) = (t.gradient_of(u), t.gradient_of(v));
            let partial = t.scratch([size.rows.div_ceil(chunk(size.rows, size.k)), size.k], Dtype::F32);
            t.no_grad(Backward { du, dv, partial, dy, u, v, inverse, size })
        })
    }
}

#[derive(Clone, Copy)]
struct WeightNormSize {
    rows: usize,
    k: usize,
    c: usize,
}

struct Forward {
    y: Var,       // [rows, k]
    inverse: Var, // [k]: 1 / |v|
    u: Var,       // [rows, k]
    v: Var,       // [k, c]
    size: WeightNormSize,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "weight_norm_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y, self.inverse], &[self.u, self.v])
    }
    fn cpu(&self, m: &Host) {
        let WeightNormSize { k, c, .. } = self.size;
        let (u, v, mut inverse) = (m.f(self.u), m.f(self.v), m.f_mut(self.inverse));
        inverse.par_iter_mut().zip(v.par_chunks(c)).for_each(|(i, v)| *i = (1.0 / sum_of([v], |[v]| v * v).sqrt()) as f32);
        let inverse = &*inverse;
        m.f_mut(self.y).par_chunks_mut(k).zip(u.par_chunks(k)).for_each(|(y, u)| {
            y.iter_mut().zip(u).zip(inverse).for_each(|((y, u), i)| *y = u * i);
        });
    }
    fn gpu(&self, g: &Gpu) {
        let WeightNormSize { rows, k, c } = self.size;
        let launch = Launch::blocks("weight_norm_lengths", k.div_ceil(ROWS));
        g.launch(&launch, &[self.inverse.into(), self.v.into(), k.into(), c.into()]);
        let args = [self.y.into(), self.u.into(), self.inverse.into(), rows.into(), k.into()];
        g.launch(&Launch::rows(g, "weight_norm_fwd", rows, k), &args);
    }
    fn cost(&self, element: u64) -> Cost {
        let (n, w) = ((self.size.rows * self.size.k) as u64, (self.size.k * self.size.c) as u64);
        Cost { flops: n + 2 * w, bytes: 2 * element * n + 4 * w }
    }
}

struct Backward {
    du: Option<Grad>, // [rows, k]
    dv: Option<Grad>, // [k, c]
    partial: Var,     // [chunks, k], on a GPU: sums of dy u
    dy: Var,          // [rows, k]
    u: Var,           // [rows, k]
    v: Var,           // [k, c]
    inverse: Var,     // [k]
    size: WeightNormSize,
}

/// Columns whose sums one task makes.
const COLUMNS: usize = 1024;

impl Call for Backward {
    fn name(&self) -> &'static str {
        "weight_norm_bwd"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[self.partial], &[self.dy, self.u, self.v, self.inverse]);
        for g in [self.du, self.dv].into_iter().flatten() {
            o = o.grad(g);
        }
        o
    }
    fn cpu(&self, m: &Host) {
        let WeightNormSize { k, c, .. } = self.size;
        let (dy, u, v, inverse) = (m.f(self.dy), m.f(self.u), m.f(self.v), m.f(self.inverse));
        let (dy, u, v, inverse) = (&*dy, &*u, &*v, &*inverse);
        if let Some(Grad { var, add }) = self.du {
            m.f_mut(var).par_chunks_mut(k).zip(dy.par_chunks(k)).for_each(|(du, dy)| {
                for ((du, dy), i) in du.iter_mut().zip(dy).zip(inverse) {
                    *du = if add { *du + dy * i } else { dy * i };
                }
            });
        }
        let Some(Grad { var, add }) = self.dv else { return };
        m.f_mut(var).par_chunks_mut(COLUMNS * c).enumerate().for_each(|(task, dv)| {
            let columns = task * COLUMNS..task * COLUMNS + dv.len() / c;
            let mut along = vec![0.0f64; columns.len()];
            for (dy, u) in dy.chunks_exact(k).zip(u.chunks_exact(k)) {
                for ((a, dy), u) in along.iter_mut().zip(&dy[columns.clone()]).zip(&u[columns.clone()]) {
                    *a += (dy * u) as f64;
                }
            }
            for (((dv, a), i), v) in
                dv.chunks_exact_mut(c).zip(&along).zip(&inverse[columns.clone()]).zip(v[columns.start * c..].chunks_exact(c))
            {
                let scale = -(a * (*i as f64).powi(3)) as f32;
                dv.iter_mut().zip(v).for_each(|(dv, v)| *dv = if add { *dv + scale * v } else { scale * v });
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let WeightNormSize { rows, k, c } = self.size;
        let pointer = |gradient: Option<Grad>| -> (Arg, Arg) { (gradient.map(|g| g.var).into(), gradient.is_some_and(|g| g.add).into()) };
        let (chunk, (du, add)) = (chunk(rows, k), pointer(self.du));
        let chunks = rows.div_ceil(chunk);
        let pointers = [du, self.partial.into(), self.dy.into(), self.u.into(), self.inverse.into()];
        let sizes = [add, chunk.into(), rows.into(), k.into()];
        g.launch(&Launch::chunks(g, "weight_norm_bwd", chunks, k), &[&pointers[..], &sizes].concat());
        let (dv, add) = pointer(self.dv);
        if self.dv.is_some() {
            let launch = Launch::blocks("weight_norm_bwd_v", k.div_ceil(ROWS));
            let pointers = [dv, self.partial.into(), self.v.into(), self.inverse.into()];
            g.launch(&launch, &[&pointers[..], &[add, chunks.into(), k.into(), c.into()]].concat());
        }
    }
    fn cost(&self, element: u64) -> Cost {
        let (n, w) = ((self.size.rows * self.size.k) as u64, (self.size.k * self.size.c) as u64);
        let v = if self.dv.is_some() { 2 * w } else { 0 };
        Cost { flops: 3 * n + v, bytes: element * n * (2 + self.du.is_some() as u64) + 4 * v }
    }
}

pub static CASES: &[Case] = &[
    Case { name: "weight_norm/two", mode: Mode::Train, inputs: &[&[2, 3]], build: |s, x| layer(s, x[0], 2) },
    Case { name: "weight_norm/ragged", mode: Mode::Train, inputs: &[&[19, 35]], build: |s, x| layer(s, x[0], 21) },
    Case { name: "weight_norm/prototypes", mode: Mode::Train, inputs: &[&[150, 16]], build: |s, x| layer(s, x[0], 320) },
];

/// DINO's last layer.
fn layer(s: &mut Scope, x: Var, k: usize) -> Var {
    let c = s.shape(x).cols();
    let u = s.at("last").linear(x, k, false);
    let v = s.at("last").param("weight", [k, c], Init::Constant(0.0));
    s.weight_norm(u, v)
}
