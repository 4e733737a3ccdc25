//! The collapse watch: the standard deviation of unit-length rows per column, averaged over columns, times
//! sqrt(cols). About 1 for directions spread evenly, 0 when all rows point the same way (Chen and He 2021, Fig. 2).

use super::Case;
use crate::device::{Gpu, Host, Launch};
use crate::tape::{Call, Cost, Mode, Operands, Scope};
use crate::var::{Dtype, Var};

impl Scope<'_> {
    /// y `[1]` = sqrt(cols) times the mean over columns of std(x / |x|), for x `[rows, cols]`: about 1 for directions spread evenly, 0 at
    /// collapse (Chen and He 2021, Fig. 2). No gradient: it is a measurement. Kernels: `feature_std.cu`.
    pub fn feature_std(&mut self, x: Var) -> Var {
        let shape = self.shape(x);
        let (rows, cols) = (shape.rows(), shape.cols());
        let y = self.tape.f32([1]);
        // At most 128 chunks, because one block adds them up.
        let chunk = rows.div_ceil(128).max(32);
        let partials = self.tape.scratch([rows.div_ceil(chunk), 2, cols], Dtype::F32);
        self.tape.no_grad(Forward { y, x, rows, cols, partials, chunk });
        y
    }
}

struct Forward {
    y: Var, // [1]
    x: Var, // [rows, cols]
    rows: usize,
    cols: usize,
    partials: Var, // [chunks, 2, cols]
    chunk: usize,  // rows
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "feature_std_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y, self.partials], &[self.x])
    }
    fn cpu(&self, m: &Host) {
        let (x, n) = (m.f(self.x), self.rows as f64);
        let (mut sum, mut squares) = (vec![0.0f64; self.cols], vec![0.0f64; self.cols]);
        for row in x.chunks_exact(self.cols) {
            let length = row.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt();
            let inverse = if length > 0.0 { 1.0 / length } else { 0.0 };
            for (c, v) in row.iter().enumerate() {
                let u = *v as f64 * inverse;
                sum[c] += u;
                squares[c] += u * u;
            }
        }
        let std = sum.iter().zip(&squares).map(|(s, q)| (q / n - (s / n).powi(2)).max(0.0).sqrt());
        m.f_mut(self.y)[0] = (std.sum::<f64>() / (self.cols as f64).sqrt()) as f32;
    }
    fn gpu(&self, g: &Gpu) {
        let Forward { y, x, rows, cols, partials, chunk } = *self;
        let chunks = rows.div_ceil(chunk);
        let launch = Launch { shared: 4 * chunk as u32, ..Launch::blocks("feature_std_moments", chunks) };
        g.launch(&launch, &[partials.into(), x.into(), chunk.into(), rows.into(), cols.into()]);
        let launch = Launch { kernel: "feature_std_fwd", grid: [1, 1, 1], block: [1024, 1, 1], shared: 0 };
        g.launch(&launch, &[y.into(), partials.into(), chunks.into(), chunk.into(), rows.into(), cols.into()]);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { flops: 5 * n, bytes: element * n }
    }
}

pub static CASES: &[Case] = &[
    Case { name: "feature_std/ragged", mode: Mode::Eval, inputs: &[&[33, 7]], build: |s, x| s.feature_std(x[0]) },
    Case { name: "feature_std/wide", mode: Mode::Eval, inputs: &[&[70, 264]], build: |s, x| s.feature_std(x[0]) },
];
