//! Losses added up with weights.

use super::Case;
use crate::device::{Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::{Dtype, Var};

impl Scope<'_> {
    /// y `[1]` = sum of weight times loss, over losses `[1]` that are f32 on every device. Gradient: dy times the weight. Kernels:
    /// `weighted_sum.cu`.
    ///
    /// # Panics
    /// There is no term, or one is not a single number.
    pub fn weighted_sum(&mut self, terms: &[(Var, f32)]) -> Var {
        let t = &mut *self.tape;
        let scalars = terms.iter().all(|(x, _)| t.shape(*x).len() == 1 && t.slots[x.index()].dtype == Dtype::F32);
        assert!(scalars && !terms.is_empty(), "a weighted sum is one of losses");
        let terms = terms.to_vec();
        let (y, table) = (t.f32([1]), t.fixed([terms.len(), 2, 2], Dtype::U32));
        let table = t.gpu_only(table);
        let from: Vec<Var> = terms.iter().map(|(x, _)| *x).collect();
        self.record(&from, y, Forward { y, terms: terms.clone(), table }, move |t, dy| {
            let wanted = terms.iter().filter_map(|&(x, weight)| Some((t.gradient_of(x)?, weight)));
            let gradients: Vec<(Grad, f32)> = wanted.collect();
            let table = t.fixed([gradients.len(), 2, 2], Dtype::U32);
            let table = t.gpu_only(table);
            t.no_grad(Backward { gradients, dy, table })
        })
    }
}

/// One thread: there are only a few numbers.
fn one_thread(kernel: &'static str) -> Launch {
    Launch { kernel, grid: [1; 3], block: [1; 3], shared: 0 }
}

struct Forward {
    y: Var,                 // [1]
    terms: Vec<(Var, f32)>, // [1] each
    table: Var,             // [terms, 2, 2] address; weight
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "weighted_sum_fwd"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[self.y], &[self.table]);
        o.reads.extend(self.terms.iter().map(|(x, _)| *x));
        o
    }
    fn cpu(&self, m: &Host) {
        m.f_mut(self.y)[0] = self.terms.iter().map(|&(x, weight)| weight as f64 * m.f(x)[0] as f64).sum::<f64>() as f32;
    }
    fn prepare(&self, g: &Gpu) {
        let words: Vec<u64> = self.terms.iter().flat_map(|&(x, weight)| [g.address(x), weight.to_bits() as u64]).collect();
        g.write::<u32>(self.table, bytemuck::cast_slice(&words));
    }
    fn gpu(&self, g: &Gpu) {
        g.launch(&one_thread("weighted_sum_fwd"), &[self.y.into(), self.table.into(), self.terms.len().into()]);
    }
    fn cost(&self, _: u64) -> Cost {
        Cost { flops: 2 * self.terms.len() as u64, bytes: 4 * self.terms.len() as u64 }
    }
}

struct Backward {
    gradients: Vec<(Grad, f32)>, // [1] each
    dy: Var,                     // [1]
    table: Var,                  // [gradients, 2, 2] address; weight and whether to add
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "weighted_sum_bwd"
    }
    fn operands(&self) -> Operands {
        let o = Operands::new(&[], &[self.dy, self.table]);
        self.gradients.iter().fold(o, |o, (dx, _)| o.grad(*dx))
    }
    fn cpu(&self, m: &Host) {
        let dy = m.f(self.dy)[0];
        for (dx, weight) in &self.gradients {
            let to = &mut m.f_mut(dx.var)[0];
            *to = if dx.add { *to + weight * dy } else { weight * dy };
        }
    }
    fn prepare(&self, g: &Gpu) {
        let word = |dx: &Grad, weight: f32| weight.to_bits() as u64 | (dx.add as u64) << 32;
        let words: Vec<u64> = self.gradients.iter().flat_map(|(dx, weight)| [g.address(dx.var), word(dx, *weight)]).collect();
        g.write::<u32>(self.table, bytemuck::cast_slice(&words));
    }
    fn gpu(&self, g: &Gpu) {
        g.launch(&one_thread("weighted_sum_bwd"), &[self.table.into(), self.dy.into(), self.gradients.len().into()]);
    }
    fn cost(&self, _: u64) -> Cost {
        Cost { flops: self.gradients.len() as u64, bytes: 4 * self.gradients.len() as u64 }
    }
}

pub static CASES: &[Case] = &[
    Case {
        name: "weighted_sum/one",
        mode: Mode::Train,
        inputs: &[&[3, 4], &[3, 4]],
        build: |s, x| {
            let loss = s.distance(x[0], x[1]);
            s.weighted_sum(&[(loss, -0.5)])
        },
    },
    // One loss twice, and one that wants no gradient.
    Case {
        name: "weighted_sum/several",
        mode: Mode::Train,
        inputs: &[&[3, 4], &[3, 4]],
        build: |s, x| {
            let (near, far) = (s.distance(x[1], x[0]), s.distance(x[0], x[1]));
            let watched = s.tape().constant([1], vec![2.0]);
            s.weighted_sum(&[(near, 0.5), (watched, 3.0), (far, -0.75), (near, 1.5)])
        },
    },
];
