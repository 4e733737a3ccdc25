//! The mean distance of paired representations, as a loss: the alignment-limiting term of the paper (Wang et al. 2024, Eq. 3).

use super::reduce::{inverse_or_zero, sum_of};
use super::{Case, scaled_sum};
use crate::device::{Arg, Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope, Tape};
use crate::var::Var;
use rayon::prelude::*;

impl Scope<'_> {
    /// y `[1]` = mean over samples of |u_i - v_i|, where u and v are a and b `[n, ..]`, flattened and divided by their lengths.
    ///
    /// Differences are taken directly, as the scores do. Gradient: with d = |u - v|, du = dy (u - v) / (n d), then through the normalisation;
    /// 0 where d is 0. Kernels: `distance.cu`.
    ///
    /// # Panics
    /// a and b differ in shape.
    pub fn distance(&mut self, a: Var, b: Var) -> Var {
        let shape = self.shape(a);
        assert_eq!(shape, self.shape(b), "{}: a distance is between representations of one shape", self.path());
        let n = shape.dims()[0];
        let (y, saved) = (self.tape.f32([1]), self.tape.f32([3, n]));
        let pairs = Pairs { a: (a, 0), b: (b, 0), n, cols: shape.len() / n, saved };
        self.record(&[a, b], y, Forward { y, pairs }, move |t, dy| {
            let (da, db) = (t.gradient_of(a), t.gradient_of(b));
            backward(t, pairs, da, db, dy)
        })
    }

    /// [`Scope::distance`] between the halves of x `[2n, ..]`, without copying them.
    ///
    /// # Panics
    /// The first extent of x is odd.
    pub fn distance_halves(&mut self, x: Var) -> Var {
        let shape = self.shape(x);
        let n = shape.dims()[0] / 2;
        assert_eq!(2 * n, shape.dims()[0], "{}: {shape:?} has no two halves", self.path());
        let (y, saved, cols) = (self.tape.f32([1]), self.tape.f32([3, n]), shape.len() / (2 * n));
        let pairs = Pairs { a: (x, 0), b: (x, n * cols), n, cols, saved };
        self.record(&[x], y, Forward { y, pairs }, move |t, dy| {
            let dx = t.gradient_of(x);
            backward(t, pairs, dx, dx, dy)
        })
    }
}

fn backward(t: &mut Tape, pairs: Pairs, da: Option<Grad>, db: Option<Grad>, dy: Var) {
    if da.is_some() || db.is_some() {
        t.no_grad(Backward { da, db, dy, pairs })
    }
}

/// The pairs: a variable for each side, and the element at which the side begins.
#[derive(Clone, Copy)]
struct Pairs {
    a: (Var, usize), // [n, cols]
    b: (Var, usize), // [n, cols]
    n: usize,
    cols: usize,
    saved: Var, // [3, n]: distance, 1/|a|, 1/|b|; 0 for a row of zeros
}

struct Forward {
    y: Var, // [1]
    pairs: Pairs,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "distance_fwd"
    }
    fn operands(&self) -> Operands {
        let p = &self.pairs;
        Operands::new(&[self.y, p.saved], &[p.a.0, p.b.0])
    }
    fn cpu(&self, m: &Host) {
        let Pairs { a, b, n, cols, saved } = self.pairs;
        let (xa, xb, mut saved) = (m.f(a.0), m.f(b.0), m.f_mut(saved));
        let rows = xa[a.1..].par_chunks(cols).zip(xb[b.1..].par_chunks(cols));
        let (distances, inverses) = saved.split_at_mut(n);
        let (of_a, of_b) = inverses.split_at_mut(n);
        distances.par_iter_mut().zip(of_a).zip(of_b).zip(rows).for_each(|(((distance, ia), ib), (a, b))| {
            (*ia, *ib) = (inverse_or_zero(a), inverse_or_zero(b));
            *distance = sum_of([a, b], |[a, b]| (a * *ia - b * *ib).powi(2)).sqrt() as f32;
        });
        m.f_mut(self.y)[0] = (distances.iter().map(|d| *d as f64).sum::<f64>() / n as f64) as f32;
    }
    fn gpu(&self, g: &Gpu) {
        let Pairs { a, b, n, cols, saved } = self.pairs;
        let args = [saved.into(), Arg::Element(a.0, a.1), Arg::Element(b.0, b.1), n.into(), cols.into()];
        g.launch(&Launch::blocks("distance_fwd", n), &args);
        scaled_sum::launch(g, self.y, saved.into(), n, 1.0 / n as f32);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.pairs.n * self.pairs.cols) as u64;
        Cost { flops: 9 * n, bytes: 2 * element * n }
    }
}

struct Backward {
    da: Option<Grad>, // like a
    db: Option<Grad>, // like b; the same variable as da for two halves
    dy: Var,          // [1]
    pairs: Pairs,
}

/// The gradient of the first of a pair, with unit vectors u (its own) and v, is f_0 (u - v) - f_1 u. Returns f_0 and f_1.
fn factors(scale: f32, distance: f32, own: f32, other: f32) -> [f32; 2] {
    if distance == 0.0 {
        return [0.0; 2];
    }
    // u . (u - v) = (|u|^2 - |v|^2 + |u - v|^2) / 2, where a length is 1, or 0 of a row of zeros.
    let along = 0.5 * ((own > 0.0) as u8 as f32 - (other > 0.0) as u8 as f32 + distance * distance);
    let factor = scale * own / distance;
    [factor, factor * along]
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "distance_bwd"
    }
    fn operands(&self) -> Operands {
        let p = &self.pairs;
        let o = Operands::new(&[], &[self.dy, p.a.0, p.b.0, p.saved]);
        [self.da, self.db].into_iter().flatten().fold(o, Operands::grad)
    }
    fn cpu(&self, m: &Host) {
        let Pairs { a, b, n, cols, saved } = self.pairs;
        let (xa, xb, saved) = (m.f(a.0), m.f(b.0), m.f(saved));
        let (xa, xb, saved, scale) = (&xa[a.1..], &xb[b.1..], &*saved, m.f(self.dy)[0] / n as f32);
        let side = |dx: Grad, from: usize, own: &[f32], other: &[f32], of_own: usize, of_other: usize| {
            let rows = own.par_chunks(cols).zip(other.par_chunks(cols));
            m.f_mut(dx.var)[from..][..n * cols].par_chunks_mut(cols).zip(rows).enumerate().for_each(|(i, (dx_row, (own, other)))| {
                let (distance, io, it) = (saved[i], saved[of_own + i], saved[of_other + i]);
                let [apart, along] = factors(scale, distance, io, it);
                for ((to, o), t) in dx_row.iter_mut().zip(own).zip(other) {
                    let g = apart * (o * io - t * it) - along * (o * io);
                    *to = if dx.add { *to + g } else { g };
                }
            });
        };
        if let Some(da) = self.da {
            side(da, a.1, xa, xb, n, 2 * n);
        }
        if let Some(db) = self.db {
            side(db, b.1, xb, xa, 2 * n, n);
        }
    }
    fn gpu(&self, g: &Gpu) {
        let Pairs { a, b, n, cols, saved } = self.pairs;
        let to = |dx: Option<Grad>, from: usize| dx.map_or(Arg::None, |dx| Arg::Element(dx.var, from));
        let add = |dx: Option<Grad>| Arg::from(dx.is_some_and(|dx| dx.add));
        let from = [to(self.da, a.1), to(self.db, b.1), self.dy.into(), Arg::Element(a.0, a.1), Arg::Element(b.0, b.1), saved.into()];
        g.launch(&Launch::blocks("distance_bwd", n), &[&from[..], &[add(self.da), add(self.db), n.into(), cols.into()]].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.pairs.n * self.pairs.cols) as u64;
        let passes: u64 = [self.da, self.db].into_iter().flatten().map(|dx| 1 + dx.add as u64).sum();
        Cost { flops: 12 * n, bytes: element * (2 + passes) * n }
    }
}

pub static CASES: &[Case] = &[
    Case { name: "distance/one", mode: Mode::Train, inputs: &[&[1, 2], &[1, 2]], build: |s, x| s.distance(x[0], x[1]) },
    Case { name: "distance/tokens", mode: Mode::Train, inputs: &[&[5, 7, 24], &[5, 7, 24]], build: |s, x| s.distance(x[0], x[1]) },
    Case {
        name: "distance/target",
        mode: Mode::Train,
        inputs: &[&[6, 19], &[6, 19]],
        build: |s, x| {
            s.tape().stop_gradient(x[0]);
            s.distance(x[0], x[1])
        },
    },
    Case { name: "distance/halves", mode: Mode::Train, inputs: &[&[6, 3, 3, 7]], build: |s, x| s.distance_halves(x[0]) },
    Case { name: "distance/large", mode: Mode::Train, inputs: &[&[4, 9, 1000]], build: |s, x| s.distance_halves(x[0]) },
];
