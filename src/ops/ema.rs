//! Exponential moving averages of weights: the teachers of BYOL, MoCo v3 and DINO.

use super::CHUNK;
use crate::device::{Arg, Gpu, Host, Launch};
use crate::schedule::{Schedule, ScheduleColumn};
use crate::tape::{Call, Cost, Operands, SlotKind, Tape};
use crate::var::{Dtype, Var};
use rayon::prelude::*;

impl Tape {
    /// Appends one call: to = m to + (1 - m) from, for every weight below `to` and the one of the same name below `from`; m is the
    /// schedule's momentum. Only weights that are trained below `from` are updated: running statistics belong to each network, and
    /// frozen weights start equal on both sides. Kernel: `ema.cu`.
    ///
    /// # Panics
    /// No trained weight below `from` has its like below `to`, or two of one name differ in shape.
    pub fn ema(&mut self, from: &str, to: &str, schedule: Schedule) {
        let targets = self.below(&format!("{to}."));
        let sources = self.below(&format!("{from}.")).into_iter();
        let trained = sources.filter(|(_, v)| matches!(self.slots[v.index()].kind, SlotKind::Named { trained: true, .. }));
        let pairs = trained.filter_map(|(name, source)| {
            let name = format!("{to}{}", name.strip_prefix(from)?);
            let (_, target) = targets.iter().find(|(n, _)| *n == name)?;
            assert_eq!(self.shape(source), self.shape(*target), "{name} has another shape than below `{from}`");
            Some(EmaPair { to: *target, from: source, len: self.shape(source).len() })
        });
        let pairs: Vec<EmaPair> = pairs.collect();
        assert!(!pairs.is_empty(), "no trained weight below `{from}` has its like below `{to}`");
        let table = self.fixed([blocks(&pairs), WORDS, 2], Dtype::U32);
        let table = self.gpu_only(table);
        self.no_grad(Ema { pairs, schedule, table });
    }
}

struct EmaPair {
    to: Var,   // [len]
    from: Var, // [len]
    len: usize,
}

struct Ema {
    pairs: Vec<EmaPair>,
    schedule: Schedule,
    table: Var, // [blocks, WORDS, 2] u32, on a GPU: two addresses and a length per block
}

/// Values of one weight per GPU block.
const PIECE: usize = 8192;
/// 64-bit words in a row of the kernel's table: the two addresses and the length.
const WORDS: usize = 3;

fn blocks(pairs: &[EmaPair]) -> usize {
    pairs.iter().map(|p| p.len.div_ceil(PIECE)).sum()
}

impl Call for Ema {
    fn name(&self) -> &'static str {
        "ema"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[], &self.schedule.vars());
        for p in &self.pairs {
            o.writes.push(p.to);
            o.reads.extend([p.to, p.from]);
        }
        o.reads.push(self.table);
        o
    }
    fn cpu(&self, m: &Host) {
        let keep = self.schedule.value(m, ScheduleColumn::Momentum);
        for p in &self.pairs {
            let (mut to, from) = (m.f_mut(p.to), m.f(p.from));
            to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = keep * *to + (1.0 - keep) * from);
            });
        }
    }
    fn prepare(&self, g: &Gpu) {
        let mut words: Vec<u64> = vec![];
        for p in &self.pairs {
            for start in (0..p.len).step_by(PIECE) {
                let address = |v: Var| g.address(v) + 4 * start as u64;
                words.extend([address(p.to), address(p.from), PIECE.min(p.len - start) as u64]);
            }
        }
        g.write::<u32>(self.table, bytemuck::cast_slice(&words));
    }
    fn gpu(&self, g: &Gpu) {
        let [schedule, step] = self.schedule.vars().map(Arg::Var);
        g.launch(&Launch::blocks("ema", blocks(&self.pairs)), &[self.table.into(), schedule, step]);
    }
    fn cost(&self, _: u64) -> Cost {
        let n: usize = self.pairs.iter().map(|p| p.len).sum();
        Cost { flops: 3 * n as u64, bytes: 12 * n as u64 }
    }
}
