//! The collapse watch: the standard deviation of unit-length rows per column, averaged over columns, times
//! sqrt(cols). About 1 for directions spread evenly, 0 when all rows point the same way (Chen and He 2021, Fig. 2).

use super::Case;
use crate::device::Host;
use crate::tape::{Call, Cost, Mode, Operands, Scope};
use crate::var::Var;

impl Scope<'_> {
    /// The spread `[1]` of x `[rows, cols]`. No gradient: it watches, it does not train.
    pub fn spread(&mut self, x: Var) -> Var {
        let shape = self.shape(x);
        let y = self.tape.exact([1]);
        self.tape.call(Forward { y, x, rows: shape.rows(), cols: shape.cols() });
        y
    }
}

struct Forward {
    y: Var, // [1]
    x: Var, // [rows, cols]
    rows: usize,
    cols: usize,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "spread_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y], &[self.x])
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
    fn cost(&self) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { flops: 5 * n, bytes: 4 * n }
    }
}

pub static CASES: &[Case] = &[Case { name: "spread/ragged", mode: Mode::Eval, inputs: &[&[33, 7]], build: |s, x| s.spread(x[0]) }];
