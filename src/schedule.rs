//! Values that change from step to step (learning rate, temperature, ...), as a table with one row per step. Calls read their row through a
//! counter on the device, so a step needs nothing from the host and can be captured as one graph.

use crate::device::Host;
use crate::init::Init;
use crate::tape::Tape;
use crate::var::{Dtype, Var};

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleColumn {
    LearningRate,
    WeightDecay,
    /// m of to = m to + (1 - m) from in [`Tape::ema`].
    Momentum,
    /// The teacher's softmax temperature in [`crate::tape::Scope::dino_loss`].
    Temperature,
}

/// Columns of the table; the kernels' `schedule.cuh` has the same number.
pub const COLUMNS: usize = 4;

/// The table and the counter. The counter is named memory, so a checkpoint carries it.
#[derive(Clone, Copy)]
pub struct Schedule {
    table: Var,    // [steps, COLUMNS] f32
    pub step: Var, // [1] u32
}

impl Schedule {
    /// One row per step: learning rate, weight decay, momentum, temperature.
    pub fn new(tape: &mut Tape, rows: &[[f32; COLUMNS]]) -> Schedule {
        let table = tape.constant([rows.len(), COLUMNS], rows.concat());
        let step = tape.root().state("schedule.step", [1], Dtype::U32, Init::Constant(0.0));
        Schedule { table, step }
    }
    /// The variables that a call reads to look up a value: table and counter.
    pub(crate) fn vars(&self) -> [Var; 2] {
        [self.table, self.step]
    }
    /// Steps done so far.
    pub(crate) fn count(&self, m: &Host) -> u32 {
        m.u(self.step)[0]
    }
    pub(crate) fn value(&self, m: &Host, column: ScheduleColumn) -> f32 {
        m.f(self.table)[self.count(m) as usize * COLUMNS + column as usize]
    }
}

/// Linear warm-up to `peak` over `warmup` steps, then a cosine to zero at `steps`.
pub fn warmup_cosine(peak: f64, warmup: usize, steps: usize, step: usize) -> f64 {
    if step < warmup {
        return peak * (step + 1) as f64 / warmup as f64;
    }
    let done = (step - warmup) as f64 / (steps - warmup).max(1) as f64;
    peak * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
}
