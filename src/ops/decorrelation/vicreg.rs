//! VICReg (Bardes et al. 2022): variance, invariance, covariance. The outputs of two views are close, each column varies, and columns do
//! not covary.

use super::{Columns, square, squares_but};
use crate::device::conv::{self, Epilogue};
use crate::device::{Arg, Gpu, Host, Launch};
use crate::ops::product;
use crate::ops::reduce::sum_of;
use crate::ops::{CHUNK, Case, scaled_sum};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::{Dtype, Var};
use rayon::prelude::*;

/// Added to the variance under the root, as in the authors' code.
const EPS: f32 = 1e-4;

impl Scope<'_> {
    /// L = w_0 mean((a - b)^2) + w_1 / 2 sum over views of mean_j relu(1 - std_j) + w_2 / d sum over views and i != j of cov_ij^2, as
    /// in the authors' code (Bardes et al. 2022, Eq. 1 to 6); variances and covariances are unbiased.
    ///
    /// a and b are `[n, d]`, the loss is `[1]`; `weights` are those of invariance, variance and covariance. The gradient goes to both.
    /// Kernels: `decorrelation.cu`, and the products of `conv_bwd_w.cu` and `conv.cu`.
    ///
    /// # Panics
    /// a and b differ in shape, or have a single row.
    pub fn vicreg_loss(&mut self, a: Var, b: Var, weights: [f32; 3]) -> Var {
        let shape = self.shape(a);
        assert_eq!(shape, self.shape(b), "{}: outputs that are compared have one shape", self.path());
        let (rows, cols) = (shape.rows(), shape.cols());
        assert!(rows > 1, "{}: a variance needs more than one row", self.path());
        let views = [a, b].map(|x| {
            let (centred, std) = Columns::record(self, x, false, EPS);
            ViewStats { centred, std, dcov: self.tape.var([cols, cols]) }
        });
        let t = &mut *self.tape;
        let (loss, covariances, terms) = (t.f32([1]), t.f32([cols, cols]), t.scratch([2 * cols + rows], Dtype::F32));
        let partial = product::partial_sums(t, &square(rows, cols));
        let size = VicregSize { rows, cols, weights };
        self.record(&[a, b], loss, Forward { loss, covariances, terms, partial, a, b, views, size }, move |t, dloss| {
            for (x, other, stats) in [(a, b, views[0]), (b, a, views[1])] {
                if let Some(dx) = t.gradient_of(x) {
                    let back = t.var([rows, cols]);
                    t.no_grad(Backward { dx, back, dloss, x, other, stats, size })
                }
            }
        })
    }
}

#[derive(Clone, Copy)]
struct VicregSize {
    rows: usize,
    cols: usize,
    weights: [f32; 3],
}

impl VicregSize {
    /// Coefficients of each (a - b)^2, each relu(1 - std) and each squared covariance.
    fn coefficients(&self) -> [f32; 3] {
        let [invariance, variance, covariance] = self.weights;
        let (n, d) = (self.rows as f32, self.cols as f32);
        [invariance / (n * d), variance / (2.0 * d), covariance / d]
    }
}

/// The statistics of one view.
#[derive(Clone, Copy)]
struct ViewStats {
    centred: Var, // [rows, cols]
    std: Var,     // [cols]
    dcov: Var,    // [cols, cols], symmetric: dL/dcov, with the gradient of the variance term on the diagonal
}

struct Forward {
    loss: Var,        // [1]
    covariances: Var, // [cols, cols]: (n - 1) cov of a view; both views use it in turn
    terms: Var,       // [2 * cols + rows], on a GPU: variance + covariance term of each column of a, of b, invariance term of each row
    partial: Var,     // [parts, cols * cols]: split-K sums of the covariances, on a GPU
    a: Var,           // [rows, cols]
    b: Var,           // [rows, cols]
    views: [ViewStats; 2],
    size: VicregSize,
}

impl Forward {
    /// Returns the variance and covariance terms of one view, and writes its `dcov`.
    fn view_loss(&self, m: &Host, stats: ViewStats) -> f64 {
        let VicregSize { rows, cols, .. } = self.size;
        let ([_, variance, covariance], inverse) = (self.size.coefficients(), 1.0 / (rows - 1) as f32);
        let (mut c, mut dcov, std) = (m.f_mut(self.covariances), m.f_mut(stats.dcov), m.f(stats.std));
        let centred = m.f(stats.centred);
        conv::backward_weight(&square(rows, cols), &centred, &centred, &mut c, false);
        let std = &*std;
        let rows: Vec<f64> = dcov
            .par_chunks_mut(cols)
            .zip(c.par_chunks(cols))
            .enumerate()
            .map(|(i, (dcov, c))| {
                dcov.iter_mut().zip(c).for_each(|(d, c)| *d = 4.0 * covariance * inverse * (c * inverse));
                let hinge = (1.0 - std[i]).max(0.0);
                dcov[i] = if hinge > 0.0 { -variance * inverse / std[i] } else { 0.0 };
                let (cov_loss, std_loss) = (covariance as f64 * squares_but(i, c, inverse), (variance * hinge) as f64);
                cov_loss + std_loss
            })
            .collect();
        rows.iter().sum()
    }
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "vicreg_loss_fwd"
    }
    fn operands(&self) -> Operands {
        let [p, q] = self.views;
        let writes = [self.loss, self.covariances, self.terms, self.partial, p.dcov, q.dcov];
        Operands::new(&writes, &[self.a, self.b, p.centred, p.std, q.centred, q.std])
    }
    fn cpu(&self, m: &Host) {
        let (a, b) = (m.f(self.a), m.f(self.b));
        let distances: Vec<f64> =
            a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)).map(|(a, b)| sum_of([a, b], |[a, b]| (a - b).powi(2))).collect();
        let repr_loss = self.size.coefficients()[0] as f64 * distances.iter().sum::<f64>();
        m.f_mut(self.loss)[0] = (repr_loss + self.view_loss(m, self.views[0]) + self.view_loss(m, self.views[1])) as f32;
    }
    fn gpu(&self, g: &Gpu) {
        let VicregSize { rows, cols, .. } = self.size;
        let [invariance, variance, covariance] = self.size.coefficients().map(Arg::F32);
        for (i, stats) in self.views.iter().enumerate() {
            let to = Grad { var: self.covariances, add: false };
            product::backward_weight(g, &square(rows, cols), to, stats.centred, stats.centred, self.partial);
            let to = [stats.dcov.into(), Arg::Element(self.terms, i * cols), self.covariances.into(), stats.std.into()];
            let launch = Launch::blocks("vicreg_loss_fwd", cols);
            g.launch(&launch, &[&to[..], &[rows.into(), cols.into(), variance.clone(), covariance.clone()]].concat());
        }
        let args = [Arg::Element(self.terms, 2 * cols), self.a.into(), self.b.into(), rows.into(), cols.into(), invariance];
        g.launch(&Launch::blocks("vicreg_loss_invariance", rows.div_ceil(8)), &args);
        scaled_sum::launch(g, self.loss, self.terms.into(), 2 * cols + rows, 1.0);
    }
    fn cost(&self, element: u64) -> Cost {
        let (r, c) = (self.size.rows as u64, self.size.cols as u64);
        Cost { flops: 4 * r * c * c, bytes: element * (4 * r * c + 2 * c * c) }
    }
}

struct Backward {
    dx: Grad,   // [rows, cols]
    back: Var,  // [rows, cols]: the gradient of variance and covariance
    dloss: Var, // [1]
    x: Var,     // [rows, cols]
    other: Var, // [rows, cols]
    stats: ViewStats,
    size: VicregSize,
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "vicreg_loss_bwd"
    }
    fn operands(&self) -> Operands {
        let ViewStats { centred, dcov, .. } = self.stats;
        Operands::new(&[self.back], &[self.dloss, self.x, self.other, centred, dcov]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        let VicregSize { rows, cols, .. } = self.size;
        let (mut back, x, other) = (m.f_mut(self.back), m.f(self.x), m.f(self.other));
        conv::forward(&square(rows, cols), &m.f(self.stats.centred), &m.f(self.stats.dcov), &Epilogue::default(), &mut back);
        let (dloss, invariance, add) = (m.f(self.dloss)[0], 2.0 * self.size.coefficients()[0], self.dx.add);
        let from = back.par_chunks(CHUNK).zip(x.par_chunks(CHUNK).zip(other.par_chunks(CHUNK)));
        m.f_mut(self.dx.var).par_chunks_mut(CHUNK).zip(from).for_each(|(dx, (back, (x, other)))| {
            for (((dx, back), x), other) in dx.iter_mut().zip(back).zip(x).zip(other) {
                let g = dloss * (back + invariance * (x - other));
                *dx = if add { *dx + g } else { g };
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let VicregSize { rows, cols, .. } = self.size;
        product::forward(g, &square(rows, cols), self.back, self.stats.centred, self.stats.dcov, &product::Epilogue::default());
        let from = [self.dx.var.into(), self.dloss.into(), self.back.into(), self.x.into(), self.other.into(), self.dx.add.into()];
        let sizes = [rows.into(), cols.into(), Arg::F32(2.0 * self.size.coefficients()[0])];
        g.launch(&Launch::blocks("vicreg_loss_bwd", rows.div_ceil(8)), &[&from[..], &sizes].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let (r, c) = (self.size.rows as u64, self.size.cols as u64);
        Cost { flops: 2 * r * c * c, bytes: element * ((4 + self.dx.add as u64) * r * c + c * c) }
    }
}

/// Of the authors.
const OFFICIAL: [f32; 3] = [25.0, 25.0, 1.0];

pub(super) static CASES: &[Case] = &[
    Case { name: "vicreg_loss/small", mode: Mode::Train, inputs: &[&[4, 3], &[4, 3]], build: |s, x| s.vicreg_loss(x[0], x[1], OFFICIAL) },
    Case {
        name: "vicreg_loss/ragged",
        mode: Mode::Train,
        inputs: &[&[33, 41], &[33, 41]],
        build: |s, x| s.vicreg_loss(x[0], x[1], OFFICIAL),
    },
    Case {
        name: "vicreg_loss/wide",
        mode: Mode::Train,
        inputs: &[&[70, 136], &[70, 136]],
        build: |s, x| s.vicreg_loss(x[0], x[1], [1.0, 2.0, 30.0]),
    },
];
