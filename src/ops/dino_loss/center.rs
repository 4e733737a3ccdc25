//! The centre, a moving average of the teacher's outputs (Caron et al. 2021, Eq. 4).

use crate::device::{Gpu, Host, Launch};
use crate::ops::reduce::column_sums;
use crate::tape::{Call, Cost, Operands};
use crate::var::Var;

pub(super) struct Center {
    pub center: Var,  // [1, k]
    pub used: Var,    // [1, k]: the centre before the update, which the backward of the loss reads
    pub teacher: Var, // [rows, k]
    /// m of center = m center + (1 - m) mean.
    pub momentum: f32,
    pub rows: usize,
    pub k: usize,
}

impl Call for Center {
    fn name(&self) -> &'static str {
        "dino_loss_center"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.center, self.used], &[self.center, self.teacher])
    }
    fn cpu(&self, m: &Host) {
        let sums = column_sums(&m.f(self.teacher), self.k);
        let (mut center, mut used) = (m.f_mut(self.center), m.f_mut(self.used));
        used.copy_from_slice(&center);
        for (center, sum) in center.iter_mut().zip(sums) {
            *center = self.momentum * *center + (1.0 - self.momentum) * (sum / self.rows as f64) as f32;
        }
    }
    fn gpu(&self, g: &Gpu) {
        let args = [self.center.into(), self.used.into(), self.teacher.into(), self.rows.into(), self.k.into(), self.momentum.into()];
        g.launch(&Launch::chunks(g, "dino_loss_center", 1, self.k), &args);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.rows * self.k) as u64;
        Cost { flops: n, bytes: element * n }
    }
}
