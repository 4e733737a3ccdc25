//! A recorded network with its memory planned: run it, write to it, read from it.

use crate::device::{Buffer, Device, Gpu, Host, Place, Replay, SharedBuffer};
use crate::error::{Error, Result};
use crate::tape::{Call, Cost, Mode, Operands, Residence, Slot, SlotKind, Tape};
use crate::var::{Dtype, Shape, Var};
use crate::weights::Weights;
use bytemuck::Pod;
use std::rc::Rc;
use std::time::Instant;

/// The memory that a program needs, bytes, known before its first run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Weights and other named memory, shared with the programs that use the same weights.
    pub named: usize,
    /// Memory that the host writes and reads.
    pub fixed: usize,
    /// Intermediate results and gradients, after reuse.
    pub temporary: usize,
    /// The same without reuse.
    pub without_reuse: usize,
}

/// A flat list of calls over memory that does not move.
pub struct Program {
    calls: Vec<Box<dyn Call>>,
    places: Rc<Vec<Place>>, // by variable
    named: Vec<bool>,       // by variable: does it live in the weights?
    here: Vec<bool>,        // by variable: does it exist on this device?
    memory: Memory,
    plan: Plan,
    mode: Mode,
    /// The [`Call::once`] calls have run, and nothing was written to the weights through this program since.
    fresh: bool,
    replay: Option<Replay>,
    /// The first run is done.
    warm: bool,
}

/// The variables' memory, as the calls of a device see it.
enum Memory {
    Host(Host),
    Gpu(Gpu),
}

impl Plan {
    pub fn total(&self) -> usize {
        self.named + self.fixed + self.temporary
    }
    /// Refuses what this machine cannot hold, before anything is allocated. On a GPU the allocation itself fails.
    ///
    /// # Errors
    /// The plan needs more memory than is free; `work` names the job, `remedy` the advice.
    pub fn must_fit(&self, device: &Device, work: &str, remedy: &str) -> Result<()> {
        let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
        match crate::device::available_memory().filter(|_| matches!(device, Device::Cpu)) {
            Some(free) if self.total() > free => {
                Err(Error::config(format!("{work} needs {:.1} GiB of memory and {:.1} GiB are free", gib(self.total()), gib(free)), remedy))
            }
            _ => Ok(()),
        }
    }
}

/// The properties of a device that decide the size of each variable.
struct Target {
    dtype: Dtype,
    without: Residence,
}

impl Target {
    fn of(device: &Device) -> Target {
        match device {
            Device::Cpu => Target { dtype: Dtype::F32, without: Residence::Gpu },
            Device::Gpu(gpu) => Target { dtype: gpu.dtype(), without: Residence::Cpu },
        }
    }
    fn bytes(&self, slot: &Slot) -> usize {
        if slot.residence == self.without { 0 } else { slot.shape.len() * slot.dtype.with(self.dtype).bytes() }
    }
}

impl Tape {
    /// The memory that the program will need on `device`.
    pub fn plan(&self, device: &Device) -> Plan {
        let target = Target::of(device);
        let (_, sizes) = assign(self, &target);
        let mut plan = Plan { named: 0, fixed: 0, temporary: sizes.iter().sum(), without_reuse: 0 };
        for slot in &self.slots {
            let bytes = target.bytes(slot);
            match slot.kind {
                SlotKind::Named { .. } => plan.named += bytes,
                SlotKind::Fixed(_) => plan.fixed += bytes,
                SlotKind::Temporary => plan.without_reuse += bytes,
            }
        }
        plan
    }

    /// Plans the memory and allocates it on the device of `weights`. Named variables are taken from `weights`, which creates new ones.
    ///
    /// # Errors
    /// The device has too little memory.
    ///
    /// # Panics
    /// A call reads a variable before any call wrote it, or a named variable is in use with another shape.
    pub fn compile(self, weights: &mut Weights) -> Result<Program> {
        let device = weights.device().clone();
        let (plan, target, mode) = (self.plan(&device), Target::of(&device), self.mode());
        let (rooms, sizes) = assign(&self, &target);
        let buffers: Vec<SharedBuffer> = sizes.iter().map(|&bytes| Buffer::shared(&device, bytes)).collect::<Result<_>>()?;
        let here = self.slots.iter().map(|s| s.residence != target.without).collect();
        let named = self.slots.iter().map(|s| matches!(s.kind, SlotKind::Named { .. })).collect();
        let mut places = vec![];
        for (slot, room) in self.slots.into_iter().zip(rooms) {
            let (bytes, dtype) = (target.bytes(&slot), slot.dtype.with(target.dtype));
            let buffer = match (slot.kind, room) {
                (SlotKind::Named { name, init, .. }, _) => weights.buffer(&name, slot.shape, slot.dtype, init)?,
                (SlotKind::Temporary, Some(room)) => buffers[room].clone(),
                (SlotKind::Temporary, None) => Buffer::shared(&device, 0)?,
                // Pixels of images: the shape is that of the largest images, so memory is allocated as they come.
                (SlotKind::Fixed(_), _) if dtype == Dtype::U8 => Buffer::growing(&device, bytes)?,
                (SlotKind::Fixed(data), _) => {
                    let buffer = Buffer::shared(&device, bytes)?;
                    buffer.borrow_mut().set(&data)?;
                    buffer
                }
            };
            places.push(Place { buffer, shape: slot.shape, dtype });
        }
        let places = Rc::new(places);
        let memory = match device {
            Device::Cpu => Memory::Host(Host::new(places.clone())),
            Device::Gpu(gpu) => Memory::Gpu(Gpu::new(gpu, places.clone())),
        };
        if let Memory::Gpu(g) = &memory {
            self.calls.iter().for_each(|c| c.prepare(g));
            g.finish()?;
        }
        Ok(Program { calls: self.calls, places, named, here, memory, plan, mode, fresh: false, replay: None, warm: false })
    }
}

/// A variable takes a room of at most this many times its size, and grows one of at least its size over this. In a larger room a small
/// gradient would keep the memory of an activation until the update: without the bound a ResNet-50 at 224 pixels needs 23 % more, eight
/// micro-batches of a ViT 2.4 times as much. 2 and 8 are no better.
const ALIKE: usize = 4;

/// Assigns every temporary a room (a shared buffer), which is free again after the variable's last use. Best fit among rooms of a like
/// size, in the order of the calls; if none of those is large enough, the largest of them grows. Returns the room of each variable and the
/// bytes of each room.
fn assign(tape: &Tape, target: &Target) -> (Vec<Option<usize>>, Vec<usize>) {
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
            if !matches!(slot.kind, SlotKind::Temporary) || rooms[v.index()].is_some() {
                continue;
            }
            let bytes = target.bytes(slot);
            let alike = |f: &usize| sizes[free[*f]] <= ALIKE * bytes && bytes <= ALIKE * sizes[free[*f]];
            let fits = (0..free.len()).filter(alike).filter(|&f| sizes[free[f]] >= bytes).min_by_key(|&f| sizes[free[f]]);
            let best = fits.or_else(|| (0..free.len()).filter(alike).max_by_key(|&f| sizes[free[f]]));
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
            let known = rooms[v.index()].is_some() || !matches!(tape.slots[v.index()].kind, SlotKind::Temporary);
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
    pub fn shape(&self, v: Var) -> Shape {
        self.places[v.index()].shape
    }
    /// Runs every call, in order.
    ///
    /// In evaluation, calls that depend on weights alone ([`Call::once`]) run in the first run, and again after a write to weights through this
    /// program. They do not notice another program that trains the same weights. On a GPU the first run launches kernel by kernel,
    /// which compiles them; the second captures a graph; later ones replay it.
    ///
    /// # Errors
    /// The GPU failed, or a call has no kernel. A CPU cannot fail.
    pub fn run(&mut self) -> Result<()> {
        let (warm, fresh) = (std::mem::replace(&mut self.warm, true), std::mem::replace(&mut self.fresh, true));
        let derive = !fresh && self.mode == Mode::Eval;
        let g = match &self.memory {
            Memory::Host(m) => {
                self.calls.iter().filter(|c| derive && c.once()).for_each(|c| c.cpu(m));
                self.repeated().for_each(|c| c.cpu(m));
                return Ok(());
            }
            Memory::Gpu(g) => g,
        };
        if derive {
            self.calls.iter().filter(|c| c.once()).for_each(|c| c.gpu(g));
            g.finish()?;
        }
        if let Some(replay) = &self.replay {
            return replay();
        }
        let mut work = || {
            self.repeated().for_each(|c| c.gpu(g));
            g.finish()
        };
        if !warm {
            return work();
        }
        match g.device().capture(&mut work)? {
            Some(replay) => {
                replay()?;
                self.replay = Some(replay);
                Ok(())
            }
            None => work(),
        }
    }
    /// The calls of every run.
    fn repeated(&self) -> impl Iterator<Item = &dyn Call> {
        let all = self.mode == Mode::Train;
        self.calls.iter().map(|c| &**c).filter(move |c| all || !c.once())
    }
    pub fn plan(&self) -> Plan {
        self.plan
    }
    /// Writes the first `data.len()` elements of `to`; f32 becomes bf16 where activations are that.
    ///
    /// # Errors
    /// The device has too little memory, or the copy failed.
    ///
    /// # Panics
    /// T is not the type of `to`, or `data` is longer.
    pub fn write<T: Pod>(&mut self, to: Var, data: &[T]) -> Result<()> {
        self.fresh &= !self.named[to.index()];
        self.places[to.index()].write(data)
    }
    /// Reads all elements of a variable; bf16 becomes f32. Temporaries hold their value only if [`Tape::keep`] was called for them.
    ///
    /// # Errors
    /// The copy failed.
    ///
    /// # Panics
    /// T is not the type of `from`.
    pub fn read<T: Pod>(&self, from: Var) -> Result<Vec<T>> {
        self.places[from.index()].read()
    }
    /// Name and operands of every call, for checks that go call by call.
    pub fn calls(&self) -> Vec<(&'static str, Operands)> {
        self.calls.iter().map(|c| (c.name(), c.operands())).collect()
    }
    /// Runs only call `i`.
    ///
    /// # Errors
    /// As [`Program::run`].
    ///
    /// # Panics
    /// There is no call `i`.
    pub fn run_call(&mut self, i: usize) -> Result<()> {
        match &self.memory {
            Memory::Host(m) => {
                self.calls[i].cpu(m);
                Ok(())
            }
            Memory::Gpu(g) => {
                self.calls[i].gpu(g);
                g.finish()
            }
        }
    }
    /// Whether `v` exists on this device: scratch of the other one does not.
    pub fn holds(&self, v: Var) -> bool {
        self.here[v.index()]
    }
    /// Runs once and times every call: (name, seconds, floor of its work).
    ///
    /// # Errors
    /// As [`Program::run`].
    pub fn profile(&mut self) -> Result<Vec<(&'static str, f64, Cost)>> {
        if !self.warm {
            self.run()?;
        }
        let dtype = match &self.memory {
            Memory::Host(_) => Dtype::F32,
            Memory::Gpu(g) => g.dtype(),
        };
        let (mut timed, element) = (vec![], dtype.bytes() as u64);
        for c in self.repeated() {
            let seconds = match &self.memory {
                Memory::Host(m) => {
                    let start = Instant::now();
                    c.cpu(m);
                    start.elapsed().as_secs_f64()
                }
                Memory::Gpu(g) => g.device().time(&mut || {
                    c.gpu(g);
                    g.finish()
                })?,
            };
            timed.push((c.name(), seconds, c.cost(element)));
        }
        Ok(timed)
    }
}
