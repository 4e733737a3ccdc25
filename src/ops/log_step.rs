//! The end of a step: write the step's numbers into a log and count up.

use crate::device::{Gpu, Host, Launch};
use crate::schedule::Schedule;
use crate::tape::{Call, Cost, Operands, Tape};
use crate::var::{Dtype, Var};

impl Tape {
    /// Appends the last call of a training step: row step % rows of `log` `[rows, values]` gets the numbers `values` (`[1]` each), then the
    /// step counts up. The host reads the log once in `rows` steps, so that steps need not wait for it. Kernel: `log_step.cu`.
    ///
    /// # Panics
    /// `log` has not one column per value.
    pub fn log_step(&mut self, schedule: Schedule, log: Var, values: &[Var]) {
        let rows = self.shape(log).rows();
        assert_eq!(self.shape(log).cols(), values.len(), "the log has one column per value");
        let table = self.fixed([values.len(), 2], Dtype::U32);
        let table = self.gpu_only(table);
        self.no_grad(LogStep { step: schedule.step, log, values: values.to_vec(), rows, table });
    }
}

struct LogStep {
    step: Var,        // [1] u32
    log: Var,         // [rows, values]
    values: Vec<Var>, // [1] f32 each
    rows: usize,
    table: Var, // [values, 2] their addresses
}

impl Call for LogStep {
    fn name(&self) -> &'static str {
        "log_step"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[self.step, self.log], &[self.step, self.table]);
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
    fn prepare(&self, g: &Gpu) {
        let addresses: Vec<u64> = self.values.iter().map(|v| g.address(*v)).collect();
        g.write::<u32>(self.table, bytemuck::cast_slice(&addresses));
    }
    fn gpu(&self, g: &Gpu) {
        let args = [self.step.into(), self.log.into(), self.table.into(), self.rows.into(), self.values.len().into()];
        g.launch(&Launch::blocks("log_step", 1), &args);
    }
    fn cost(&self, _: u64) -> Cost {
        Cost { flops: 0, bytes: 8 * self.values.len() as u64 }
    }
}
