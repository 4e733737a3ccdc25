//! The gradients of a linear layer: of its input, its weight and its bias.

use super::super::product;
use super::super::reduce::column_sums;
use super::{BIAS_ROWS, cost};
use crate::device::conv::{self, Conv};
use crate::device::{Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Operands};
use crate::var::Var;

pub(super) struct BackwardData {
    pub dx: Grad,    // [rows, in]
    pub dy: Var,     // [rows, out]
    pub w: Var,      // [out, in]
    pub packed: Var, // [in, out]
    pub size: Conv,
}

impl Call for BackwardData {
    fn name(&self) -> &'static str {
        "linear_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy, self.w, self.packed]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        conv::backward_data(&self.size, &m.f(self.dy), &m.f(self.w), &mut m.f_mut(self.dx.var), self.dx.add);
    }
    fn gpu(&self, g: &Gpu) {
        product::backward_data(g, &self.size, self.dx, self.dy, self.packed);
    }
    fn cost(&self, element: u64) -> Cost {
        cost(&self.size, element)
    }
}

pub(super) struct BackwardWeight {
    pub dw: Grad,     // [out, in]
    pub dy: Var,      // [rows, out]
    pub x: Var,       // [rows, in]
    pub partial: Var, // [parts, out * in], on a GPU: split-K sums
    pub size: Conv,
}

impl Call for BackwardWeight {
    fn name(&self) -> &'static str {
        "linear_bwd_w"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.partial], &[self.dy, self.x]).grad(self.dw)
    }
    fn cpu(&self, m: &Host) {
        conv::backward_weight(&self.size, &m.f(self.x), &m.f(self.dy), &mut m.f_mut(self.dw.var), self.dw.add);
    }
    fn gpu(&self, g: &Gpu) {
        product::backward_weight(g, &self.size, self.dw, self.dy, self.x, self.partial);
    }
    fn cost(&self, element: u64) -> Cost {
        cost(&self.size, element)
    }
}

pub(super) struct BackwardBias {
    pub db: Grad,     // [out]
    pub dy: Var,      // [rows, out]
    pub partial: Var, // [rows / BIAS_ROWS, out], on a GPU
    pub size: Conv,
}

impl Call for BackwardBias {
    fn name(&self) -> &'static str {
        "linear_bwd_b"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.partial], &[self.dy]).grad(self.db)
    }
    fn cpu(&self, m: &Host) {
        let sums = column_sums(&m.f(self.dy), self.size.outputs);
        for (db, sum) in m.f_mut(self.db.var).iter_mut().zip(sums) {
            *db = if self.db.add { *db + sum as f32 } else { sum as f32 };
        }
    }
    fn gpu(&self, g: &Gpu) {
        let (rows, cols) = (self.size.batch, self.size.outputs);
        let grid = [cols.div_ceil(32) as u32, rows.div_ceil(BIAS_ROWS) as u32, 1];
        let launch = Launch { kernel: "linear_bwd_b", grid, block: [256, 1, 1], shared: 0 };
        g.launch(&launch, &[self.partial.into(), self.dy.into(), rows.into(), cols.into(), BIAS_ROWS.into()]);
        let launch = Launch { kernel: "linear_bwd_b_sum", grid: [cols.div_ceil(256) as u32, 1, 1], block: [256, 1, 1], shared: 0 };
        let parts = rows.div_ceil(BIAS_ROWS);
        g.launch(&launch, &[self.db.var.into(), self.partial.into(), self.db.add.into(), parts.into(), cols.into()]);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = self.size.output_len() as u64;
        Cost { flops: n, bytes: element * n }
    }
}
