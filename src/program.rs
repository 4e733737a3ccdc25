//! A recorded network with its memory planned: run it, write to it, read from it.

use crate::device::{Buffer, Cell, Host, Place};
use crate::error::{Error, Result};
use crate::tape::{Call, Cost, Kind, Tape};
use crate::var::Var;
use crate::weights::Weights;
use bytemuck::Pod;
use std::time::Instant;

/// How much memory a program needs, known before its first run. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Weights and other named memory, shared with the programs that use the same weights.
    pub named: usize,
    /// What the host writes and reads.
    pub fixed: usize,
    /// Intermediate results and gradients, after reuse.
    pub temporary: usize,
    /// The same without reuse.
    pub without_reuse: usize,
}

/// A flat list of calls over memory that does not move.
pub struct Program {
    calls: Vec<Box<dyn Call>>,
    host: Host,
    plan: Plan,
}

impl Plan {
    pub fn total(&self) -> usize {
        self.named + self.fixed + self.temporary
    }
    /// Refuse before anything is allocated what this machine cannot hold.
    pub fn must_fit(&self, work: &str, remedy: &str) -> Result<()> {
        let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
        match crate::device::available_memory() {
            Some(free) if self.total() > free => {
                Err(Error::config(format!("{work} needs {:.1} GiB of memory and {:.1} GiB are free", gib(self.total()), gib(free)), remedy))
            }
            _ => Ok(()),
        }
    }
}

impl Tape {
    /// How much memory the program will need.
    pub fn plan(&self) -> Plan {
        let (_, sizes) = assign(self);
        let mut plan = Plan { named: 0, fixed: 0, temporary: sizes.iter().sum(), without_reuse: 0 };
        for slot in &self.slots {
            let bytes = slot.shape.len() * slot.dtype.bytes();
            match slot.kind {
                Kind::Named { .. } => plan.named += bytes,
                Kind::Fixed(_) => plan.fixed += bytes,
                Kind::Temporary => plan.without_reuse += bytes,
            }
        }
        plan
    }

    /// Plan the memory and take what is named from `weights`, where it is made if it is new.
    pub fn compile(self, weights: &mut Weights) -> Program {
        let plan = self.plan();
        let (rooms, sizes) = assign(&self);
        let cells: Vec<Cell> = sizes.iter().map(|&bytes| Buffer::cell(bytes)).collect();
        let places = self.slots.into_iter().zip(rooms).map(|(slot, room)| {
            let bytes = slot.shape.len() * slot.dtype.bytes();
            let cell = match slot.kind {
                Kind::Named { name, init, .. } => weights.cell(&name, slot.shape, slot.dtype, init),
                Kind::Fixed(data) => {
                    let cell = Buffer::cell(bytes);
                    cell.borrow_mut().slice_mut(data.len()).copy_from_slice(&data);
                    cell
                }
                Kind::Temporary => room.map_or_else(|| Buffer::cell(0), |r| cells[r].clone()),
            };
            Place { cell, shape: slot.shape, dtype: slot.dtype }
        });
        let host = Host::new(places.collect());
        Program { calls: self.calls, host, plan }
    }
}

/// Give every temporary a room: rooms are reused as soon as their last reader is done. Best fit, in the
/// order of the calls. Returns the room of each variable and the bytes of each room.
fn assign(tape: &Tape) -> (Vec<Option<usize>>, Vec<usize>) {
    let operands: Vec<_> = tape.calls.iter().map(|c| c.operands()).collect();
    let mut last = vec![0; tape.slots.len()];
    for (i, o) in operands.iter().enumerate() {
        o.reads.iter().chain(&o.writes).for_each(|v| last[v.index()] = i);
    }
    let mut rooms: Vec<Option<usize>> = vec![None; tape.slots.len()];
    let (mut sizes, mut free): (Vec<usize>, Vec<usize>) = (vec![], vec![]);
    for (i, o) in operands.iter().enumerate() {
        for v in &o.writes {
            let slot = &tape.slots[v.index()];
            if !matches!(slot.kind, Kind::Temporary) || rooms[v.index()].is_some() {
                continue;
            }
            let bytes = slot.shape.len() * slot.dtype.bytes();
            let fits = (0..free.len()).filter(|&f| sizes[free[f]] >= bytes).min_by_key(|&f| sizes[free[f]]);
            let best = fits.or_else(|| (0..free.len()).max_by_key(|&f| sizes[free[f]]));
            let room = match best {
                Some(f) => free.swap_remove(f),
                None => {
                    sizes.push(0);
                    sizes.len() - 1
                }
            };
            sizes[room] = sizes[room].max(bytes);
            rooms[v.index()] = Some(room);
        }
        for v in o.reads.iter() {
            let known = rooms[v.index()].is_some() || !matches!(tape.slots[v.index()].kind, Kind::Temporary);
            assert!(known, "{} reads {v:?} before anything wrote it", tape.calls[i].name());
        }
        let mut done: Vec<Var> = o.reads.iter().chain(&o.writes).copied().filter(|v| last[v.index()] == i).collect();
        done.sort();
        done.dedup();
        free.extend(done.iter().filter_map(|v| rooms[v.index()]));
    }
    (rooms, sizes)
}

impl Program {
    pub fn run(&mut self) {
        self.calls.iter().for_each(|c| c.cpu(&self.host));
    }
    pub fn plan(&self) -> Plan {
        self.plan
    }
    /// Write the first `data.len()` elements of `to`.
    pub fn write<T: Pod>(&mut self, to: Var, data: &[T]) {
        self.host.write(to, data);
    }
    /// Read a whole variable. Temporaries hold something only if [`Tape::keep`] was called for them.
    pub fn read<T: Pod>(&self, from: Var) -> Vec<T> {
        self.host.read(from)
    }
    /// Run once and time every call: (name, seconds, floor of its work).
    pub fn profile(&mut self) -> Vec<(&'static str, f64, Cost)> {
        let timed = |c: &Box<dyn Call>| {
            let start = Instant::now();
            c.cpu(&self.host);
            (c.name(), start.elapsed().as_secs_f64(), c.cost())
        };
        self.calls.iter().map(timed).collect()
    }
}
