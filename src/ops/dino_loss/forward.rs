//! The loss, the teacher's entropy, and each row's logsumexp, from which the backward recomputes the softmax.

use super::softmax::{log_sum, softmax};
use super::{DinoSize, VIEWS};
use crate::device::{Arg, Gpu, Host, Launch};
use crate::ops::reduce::sum_of;
use crate::ops::scaled_sum;
use crate::schedule::{Schedule, ScheduleColumn};
use crate::tape::{Call, Cost, Operands};
use crate::var::Var;
use rayon::prelude::*;

pub(super) struct Forward {
    pub loss: Var,     // [1]
    pub entropy: Var,  // [1]
    pub log_sums: Var, // [(VIEWS + crops) * n]: the teacher's rows, then the student's
    pub parts: Var,    // [(VIEWS + crops) * n]: entropies of the teacher's rows, losses of the student's; on a GPU
    pub soft: Var,     // [VIEWS * n, k]: the teacher's softmax, on the CPU; a GPU recomputes it
    pub student: Var,  // [crops * n, k]
    pub teacher: Var,  // [VIEWS * n, k]
    pub center: Var,   // [1, k]
    pub schedule: Schedule,
    pub size: DinoSize,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "dino_loss_fwd"
    }
    fn operands(&self) -> Operands {
        let mut o =
            Operands::new(&[self.loss, self.entropy, self.log_sums, self.parts, self.soft], &[self.student, self.teacher, self.center]);
        o.reads.extend(self.schedule.vars());
        o
    }
    fn cpu(&self, m: &Host) {
        let DinoSize { n, k, temperature, .. } = self.size;
        let (student, teacher, center) = (m.f(self.student), m.f(self.teacher), m.f(self.center));
        let (center, cold) = (&*center, 1.0 / self.schedule.value(m, ScheduleColumn::Temperature));
        let (mut log_sums, mut soft) = (m.f_mut(self.log_sums), m.f_mut(self.soft));
        let (of_teacher, of_student) = log_sums.split_at_mut(VIEWS * n);
        let rows = of_teacher.par_iter_mut().zip(soft.par_chunks_mut(k).zip(teacher.par_chunks(k)));
        let entropies: Vec<f64> = rows
            .map(|(saved, (soft, t))| {
                let [log_sum, entropy] = softmax(soft, t, center, cold);
                *saved = log_sum as f32;
                entropy
            })
            .collect();
        let soft = &*soft;
        let rows = of_student.par_iter_mut().zip(student.par_chunks(k)).enumerate();
        let losses: Vec<f64> = rows
            .map(|(row, (saved, s))| {
                let (crop, i) = (row / n, row % n);
                let own = log_sum(s, temperature);
                *saved = own as f32;
                let partners = (0..VIEWS).filter(|view| *view != crop).map(|view| &soft[(view * n + i) * k..][..k]);
                partners.map(|q| own - sum_of([q, s], |[q, s]| q * s) / temperature as f64).sum()
            })
            .collect();
        m.f_mut(self.entropy)[0] = (entropies.iter().sum::<f64>() / (VIEWS * n) as f64) as f32;
        m.f_mut(self.loss)[0] = (losses.iter().sum::<f64>() / self.size.pairs() as f64) as f32;
    }
    fn gpu(&self, g: &Gpu) {
        let DinoSize { n, crops, k, temperature } = self.size;
        let ([schedule, step], teachers) = (self.schedule.vars().map(Arg::Var), VIEWS * n);
        let [log_sums, parts] = [self.log_sums, self.parts].map(|v| Arg::Element(v, teachers));
        let [teacher, center] = [self.teacher, self.center].map(Arg::Var);
        let args = [
            self.log_sums.into(),
            self.parts.into(),
            teacher.clone(),
            center.clone(),
            schedule.clone(),
            step.clone(),
            teachers.into(),
            k.into(),
        ];
        g.launch(&Launch::blocks("dino_loss_teacher", teachers), &args);
        let to = [log_sums, parts.clone(), self.student.into(), teacher, center, self.log_sums.into(), schedule, step];
        let launch = Launch::blocks("dino_loss_fwd", crops * n);
        g.launch(&launch, &[&to[..], &[n.into(), crops.into(), k.into(), temperature.into()]].concat());
        scaled_sum::launch(g, self.entropy, self.parts.into(), teachers, 1.0 / teachers as f32);
        scaled_sum::launch(g, self.loss, parts, crops * n, 1.0 / self.size.pairs() as f32);
    }
    fn cost(&self, element: u64) -> Cost {
        let DinoSize { n, crops, k, .. } = self.size;
        let (s, t) = ((crops * n * k) as u64, (VIEWS * n * k) as u64);
        Cost { flops: 12 * s + 8 * t, bytes: element * (s + t) }
    }
}
