//! The gradient of the student's output: number of partners times its own softmax, minus the sum of the partners' softmaxes.

use super::softmax::gradient;
use super::{DinoSize, VIEWS};
use crate::device::{Arg, Gpu, Host, Launch};
use crate::schedule::Schedule;
use crate::tape::{Call, Cost, Grad, Operands};
use crate::var::Var;
use rayon::prelude::*;

pub(super) struct Backward {
    pub ds: Grad,      // [crops * n, k]
    pub dloss: Var,    // [1]
    pub log_sums: Var, // [(VIEWS + crops) * n]
    pub soft: Var,     // [VIEWS * n, k]: the teacher's softmax, on the CPU
    pub student: Var,  // [crops * n, k]
    pub teacher: Var,  // [VIEWS * n, k]
    pub center: Var,   // [1, k]: as the loss has read it
    pub schedule: Schedule,
    pub size: DinoSize,
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "dino_loss_bwd"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[], &[self.dloss, self.log_sums, self.soft, self.student, self.teacher, self.center]);
        o.reads.extend(self.schedule.vars());
        o.grad(self.ds)
    }
    fn cpu(&self, m: &Host) {
        let DinoSize { n, k, temperature, .. } = self.size;
        let (student, soft, log_sums) = (m.f(self.student), m.f(self.soft), m.f(self.log_sums));
        let (soft, log_sums) = (&*soft, &*log_sums);
        let (scale, add) = (m.f(self.dloss)[0] / (temperature * self.size.pairs() as f32), self.ds.add);
        m.f_mut(self.ds.var).par_chunks_mut(k).zip(student.par_chunks(k)).enumerate().for_each(|(row, (ds, s))| {
            let (crop, i) = (row / n, row % n);
            gradient(ds, s, temperature, log_sums[VIEWS * n + row], scale * self.size.partners(crop) as f32, add);
            for view in (0..VIEWS).filter(|view| *view != crop) {
                ds.iter_mut().zip(&soft[(view * n + i) * k..][..k]).for_each(|(ds, q)| *ds -= scale * q);
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let DinoSize { n, crops, k, temperature } = self.size;
        let [schedule, step] = self.schedule.vars().map(Arg::Var);
        let from = [self.dloss.into(), self.student.into(), self.teacher.into(), self.center.into(), self.log_sums.into(), schedule, step];
        let sizes = [self.ds.add.into(), n.into(), crops.into(), k.into(), temperature.into()];
        g.launch(&Launch::blocks("dino_loss_bwd", crops * n), &[&[self.ds.var.into()][..], &from, &sizes].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let DinoSize { n, crops, k, .. } = self.size;
        let (s, t) = ((crops * n * k) as u64, (VIEWS * n * k) as u64);
        Cost { flops: 15 * s, bytes: element * (s * (2 + self.ds.add as u64) + t) }
    }
}
