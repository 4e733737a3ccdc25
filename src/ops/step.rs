//! The end of a step: write the step's numbers into a log and count up.

use crate::device::Host;
use crate::schedule::Schedule;
use crate::tape::{Call, Cost, Operands, Tape};
use crate::var::Var;

impl Tape {
    /// Append the last call of a training step: `log` [rows, values] gets one number of each of `values`
    /// `[1]` at row step % rows, then the step counts up. The host reads the log once in `rows` steps.
    pub fn step(&mut self, when: Schedule, log: Var, values: &[Var]) {
        let rows = self.shape(log).rows();
        assert_eq!(self.shape(log).cols(), values.len(), "the log has one column per value");
        self.call(Step { step: when.step, log, values: values.to_vec(), rows });
    }
}

struct Step {
    step: Var,        // [1] u32
    log: Var,         // [rows, values]
    values: Vec<Var>, // [1] each
    rows: usize,
}

impl Call for Step {
    fn name(&self) -> &'static str {
        "step"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[self.step, self.log], &[self.step]);
        o.reads.extend(&self.values);
        o
    }
    fn cpu(&self, m: &Host) {
        let mut step = m.u_mut(self.step);
        let row = step[0] as usize % self.rows;
        let mut log = m.f_mut(self.log);
        for (i, v) in self.values.iter().enumerate() {
            log[row * self.values.len() + i] = m.f(*v)[0];
        }
        step[0] += 1;
    }
    fn cost(&self) -> Cost {
        Cost { flops: 0, bytes: 8 * self.values.len() as u64 }
    }
}
