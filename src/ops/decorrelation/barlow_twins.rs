//! Barlow Twins (Zbontar et al. 2021, Eq. 1): the cross-correlation C of two views' columns, normalised over the batch, should be the identity.

use super::{Columns, column_blocks, square, squares_but};
use crate::device::conv::{self, Epilogue};
use crate::device::{Arg, Gpu, Host, Launch};
use crate::ops::product;
use crate::ops::{Case, scaled_sum};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::{Dtype, Var};
use rayon::prelude::*;

/// Added to the variance, as in batch norm: the authors normalise by a batch norm without weights.
const EPS: f32 = 1e-5;

impl Scope<'_> {
    /// L = scale (sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2) (Zbontar et al. 2021, Eq. 1), where C = âᵀb̂ / n and â, b̂ are the
    /// columns of a and b with mean 0 and variance 1 over the batch.
    ///
    /// a and b are `[n, d]`, the loss is `[1]`. The gradient flows through the normalisation, as that of a batch norm.
    /// Kernels: `decorrelation.cu`, and the products of `conv_bwd_w.cu` and `conv.cu`.
    ///
    /// # Panics
    /// a and b differ in shape, or have a single row.
    pub fn barlow_twins_loss(&mut self, a: Var, b: Var, lambda: f32, scale: f32) -> Var {
        let shape = self.shape(a);
        assert_eq!(shape, self.shape(b), "{}: Barlow Twins pairs outputs of one shape", self.path());
        let (rows, cols) = (shape.rows(), shape.cols());
        assert!(rows > 1, "{}: columns are normalised over more than one row", self.path());
        let (unit_a, std_a) = Columns::record(self, a, true, EPS);
        let (unit_b, std_b) = Columns::record(self, b, true, EPS);
        let t = &mut *self.tape;
        let (loss, correlations) = (t.f32([1]), t.f32([cols, cols]));
        let (of_a, of_b) = (t.var([cols, cols]), t.var([cols, cols]));
        let tiles = t.scratch([cols.div_ceil(TILE), cols.div_ceil(TILE)], Dtype::F32);
        let partial = product::partial_sums(t, &square(rows, cols));
        let size = BarlowTwinsSize { rows, cols, lambda, scale };
        let call = Forward { loss, of_a, of_b, correlations, tiles, partial, unit_a, unit_b, size };
        self.record(&[a, b], loss, call, move |t, dloss| {
            for (x, unit, std, other, weight) in [(a, unit_a, std_a, unit_b, of_a), (b, unit_b, std_b, unit_a, of_b)] {
                if let Some(dx) = t.gradient_of(x) {
                    let back = t.var([rows, cols]);
                    t.no_grad(Backward { dx, back, dloss, unit, std, other, weight, size })
                }
            }
        })
    }
}

#[derive(Clone, Copy)]
struct BarlowTwinsSize {
    rows: usize,
    cols: usize,
    lambda: f32,
    scale: f32,
}

/// Side of the tile of C that a GPU block takes.
const TILE: usize = 32;

struct Forward {
    loss: Var,         // [1]
    of_a: Var,         // [cols, cols]: dL/dC up to the upstream factor; rows are columns of a
    of_b: Var,         // [cols, cols]: its transpose
    correlations: Var, // [cols, cols]: n C
    tiles: Var,        // [cols / TILE, cols / TILE]: parts of the loss, on a GPU
    partial: Var,      // [parts, cols * cols]: split-K sums of n C, on a GPU
    unit_a: Var,       // [rows, cols]
    unit_b: Var,       // [rows, cols]
    size: BarlowTwinsSize,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "barlow_twins_loss_fwd"
    }
    fn operands(&self) -> Operands {
        let writes = [self.loss, self.of_a, self.of_b, self.correlations, self.tiles, self.partial];
        Operands::new(&writes, &[self.unit_a, self.unit_b])
    }
    fn cpu(&self, m: &Host) {
        let BarlowTwinsSize { rows, cols, lambda, scale } = self.size;
        let (mut c, mut of_a, mut of_b) = (m.f_mut(self.correlations), m.f_mut(self.of_a), m.f_mut(self.of_b));
        conv::backward_weight(&square(rows, cols), &m.f(self.unit_b), &m.f(self.unit_a), &mut c, false);
        let inverse = 1.0 / rows as f32;
        let sums: Vec<f64> = of_a
            .par_chunks_mut(cols)
            .zip(c.par_chunks(cols))
            .enumerate()
            .map(|(i, (row, c))| {
                row.iter_mut().zip(c).for_each(|(g, c)| *g = 2.0 * lambda * inverse * c);
                let apart = c[i] * inverse - 1.0;
                row[i] = 2.0 * apart;
                lambda as f64 * squares_but(i, c, inverse) + (apart * apart) as f64
            })
            .collect();
        let of_a = &*of_a;
        // Transposes sixteen rows at a time, so that each cache line is read once.
        of_b.par_chunks_mut(16 * cols).enumerate().for_each(|(block, rows)| {
            for (j, from) in of_a.chunks_exact(cols).enumerate() {
                rows.chunks_exact_mut(cols).zip(&from[16 * block..]).for_each(|(row, g)| row[j] = *g);
            }
        });
        m.f_mut(self.loss)[0] = (scale as f64 * sums.iter().sum::<f64>()) as f32;
    }
    fn gpu(&self, g: &Gpu) {
        let BarlowTwinsSize { rows, cols, lambda, scale } = self.size;
        let to = Grad { var: self.correlations, add: false };
        product::backward_weight(g, &square(rows, cols), to, self.unit_a, self.unit_b, self.partial);
        let side = cols.div_ceil(TILE);
        let launch = Launch { kernel: "barlow_twins_loss_fwd", grid: [side as u32, side as u32, 1], block: [32, 8, 1], shared: 0 };
        let args = [self.of_a.into(), self.of_b.into(), self.tiles.into(), self.correlations.into(), rows.into(), cols.into()];
        g.launch(&launch, &[&args[..], &[lambda.into()]].concat());
        scaled_sum::launch(g, self.loss, self.tiles.into(), side * side, scale);
    }
    fn cost(&self, element: u64) -> Cost {
        let (r, c) = (self.size.rows as u64, self.size.cols as u64);
        Cost { flops: 2 * r * c * c, bytes: element * (2 * r * c + 2 * c * c) }
    }
}

struct Backward {
    dx: Grad,    // [rows, cols]
    back: Var,   // [rows, cols]: n times the gradient of the normalised columns
    dloss: Var,  // [1]
    unit: Var,   // [rows, cols]: this side's normalised columns
    std: Var,    // [cols]
    other: Var,  // [rows, cols]: the other side's normalised columns
    weight: Var, // [cols, cols]: dL/dC, as `Forward` stores it for this side
    size: BarlowTwinsSize,
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "barlow_twins_loss_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.back], &[self.dloss, self.unit, self.std, self.other, self.weight]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        let BarlowTwinsSize { rows, cols, scale, .. } = self.size;
        let mut back = m.f_mut(self.back);
        conv::forward(&square(rows, cols), &m.f(self.other), &m.f(self.weight), &Epilogue::default(), &mut back);
        let (back, unit, std) = (&*back, m.f(self.unit), m.f(self.std));
        let std = &*std;
        let (mut mean, mut along) = (vec![0.0f64; cols], vec![0.0f64; cols]);
        for (back, unit) in back.chunks_exact(cols).zip(unit.chunks_exact(cols)) {
            for (((mean, along), g), u) in mean.iter_mut().zip(&mut along).zip(back).zip(unit) {
                *mean += *g as f64;
                *along += *g as f64 * *u as f64;
            }
        }
        let n = rows as f64;
        let (mean, along): (Vec<f32>, Vec<f32>) = mean.iter().zip(&along).map(|(m, a)| ((m / n) as f32, (a / n) as f32)).unzip();
        let factor = scale * m.f(self.dloss)[0] / rows as f32;
        let (mut dx, add) = (m.f_mut(self.dx.var), self.dx.add);
        dx.par_chunks_mut(cols).zip(back.par_chunks(cols)).zip(unit.par_chunks(cols)).for_each(|((dx, back), unit)| {
            for (j, (dx, (g, u))) in dx.iter_mut().zip(back.iter().zip(unit)).enumerate() {
                let g = factor / std[j] * (g - mean[j] - u * along[j]);
                *dx = if add { *dx + g } else { g };
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let BarlowTwinsSize { rows, cols, scale, .. } = self.size;
        product::forward(g, &square(rows, cols), self.back, self.other, self.weight, &product::Epilogue::default());
        let from = [self.dx.var.into(), self.dloss.into(), self.back.into(), self.unit.into(), self.std.into(), self.dx.add.into()];
        let sizes: [Arg; 3] = [rows.into(), cols.into(), scale.into()];
        g.launch(&column_blocks(g, "barlow_twins_loss_bwd", cols), &[&from[..], &sizes].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let (r, c) = (self.size.rows as u64, self.size.cols as u64);
        Cost { flops: 2 * r * c * c, bytes: element * ((3 + self.dx.add as u64) * r * c + c * c) }
    }
}

pub(super) static CASES: &[Case] = &[
    Case {
        name: "barlow_twins_loss/small",
        mode: Mode::Train,
        inputs: &[&[5, 3], &[5, 3]],
        build: |s, x| s.barlow_twins_loss(x[0], x[1], 0.1, 1.0),
    },
    Case {
        name: "barlow_twins_loss/ragged",
        mode: Mode::Train,
        inputs: &[&[33, 41], &[33, 41]],
        build: |s, x| s.barlow_twins_loss(x[0], x[1], 0.02, 0.1),
    },
    Case {
        name: "barlow_twins_loss/wide",
        mode: Mode::Train,
        inputs: &[&[70, 136], &[70, 136]],
        build: |s, x| s.barlow_twins_loss(x[0], x[1], 0.02, 0.1),
    },
];
