//! Packed weights: the layouts that the products read, made for all weights of a program by one call. On a GPU that is `pack.cu`, on the
//! CPU the panels of its matrix product. Not an op.

use crate::device::conv::{self, Conv, Epilogue};
use crate::device::{Gpu, Host, Launch};
use crate::ops::batch_norm::Named;
use crate::tape::{Call, Cost, Mode, Operands, Tape};
use crate::var::{Dtype, Var};
use std::cell::RefCell;
use std::rc::Rc;

/// One weight and its packed forms.
struct PackedWeight {
    w: Var,                // [outputs, channels, kernel, kernel] f32
    forward: Var,          // [outputs, kernel, kernel, channels] T
    backward: Option<Var>, // as many, per residue of the tap: [channels, taps, taps, outputs] T
    host: Option<Var>,     // in evaluation, as the CPU's products read them: [conv::packed_len] f32
    norm: Option<Folded>,
    size: Conv,
}

/// A batch norm folded into the weights: its scale multiplies them, its shift goes to the epilogue.
#[derive(Clone, Copy)]
struct Folded {
    shift: Var,     // [outputs] f32
    norm: [Var; 4], // [outputs] f32: gamma, beta, mean, var
}

/// The packed forms of a weight for the forward product.
#[derive(Clone, Copy)]
pub(crate) struct Packed {
    pub gpu: Var, // [outputs, kernel, kernel, channels]
    /// The shift of a norm that is folded into `gpu`.
    pub shift: Option<Var>, // [outputs]
    /// The CPU's panels, in evaluation only. In training weights change with every step, so they are packed while they are multiplied.
    host: Option<Var>, // [conv::packed_len]
}

impl Packed {
    pub fn reads(&self) -> impl Iterator<Item = Var> {
        [self.gpu].into_iter().chain(self.shift).chain(self.host)
    }

    /// y = epilogue(conv(x, w)) on the CPU, with the panels of w if there are some.
    pub fn forward(&self, m: &Host, c: &Conv, [y, x, w]: [Var; 3], epilogue: &Epilogue) {
        match self.host {
            Some(packed) => conv::forward_packed(c, &m.f(x), &m.f(packed), epilogue, &mut m.f_mut(y)),
            None => conv::forward(c, &m.f(x), &m.f(w), epilogue, &mut m.f_mut(y)),
        }
    }
}

/// Every packed weight of a recording. One call at its head packs them all.
#[derive(Default)]
pub(crate) struct Packs {
    parts: RefCell<Vec<PackedWeight>>,
    table: RefCell<Option<Var>>, // [blocks, WORDS] u64 as u32
}

/// 64-bit words of a row of the table: `PackedWeight` in `pack.cu`.
const WORDS: usize = 12;
/// Outputs that a block packs.
const OUTPUTS: usize = 32;

impl Packs {
    /// The packed forms of `w` for the forward product; on a GPU with a norm folded in.
    pub fn forward(t: &mut Tape, w: Var, size: Conv, norm: Option<&Named>) -> Packed {
        let packs = Packs::of(t);
        if let Some(p) = packs.parts.borrow().iter().find(|p| p.w == w) {
            let host = p.host.filter(|_| conv::packs_alike(&p.size, &size));
            return Packed { gpu: p.forward, shift: p.norm.map(|n| n.shift), host };
        }
        let forward = Packs::room(t, [size.weight_len()], Dtype::Activation);
        let norm = norm.map(|n| {
            let shift = Packs::room(t, [size.outputs], Dtype::F32);
            Folded { shift, norm: [n.gamma, n.beta, n.mean, n.var] }
        });
        let host = (t.mode() == Mode::Eval).then(|| {
            let room = t.fixed([conv::packed_len(&size)], Dtype::F32);
            t.cpu_only(room)
        });
        packs.parts.borrow_mut().push(PackedWeight { w, forward, backward: None, host, norm, size });
        packs.resize(t);
        Packed { gpu: forward, shift: norm.map(|n| n.shift), host }
    }

    /// The packed form of `w` for the gradient of the input.
    pub fn backward(t: &mut Tape, w: Var) -> Var {
        let packs = Packs::of(t);
        let mut parts = packs.parts.borrow_mut();
        let part = parts.iter_mut().find(|p| p.w == w).expect("a backward follows its forward");
        *part.backward.get_or_insert_with(|| Packs::room(t, [part.size.weight_len()], Dtype::Activation))
    }

    fn of(t: &mut Tape) -> Rc<Packs> {
        let packs: Rc<Packs> = t.common();
        if packs.table.borrow().is_none() {
            let table = t.fixed([1], Dtype::U32);
            *packs.table.borrow_mut() = Some(t.gpu_only(table));
            t.no_grad(Pack(packs.clone()));
        }
        packs
    }
    fn room(t: &mut Tape, shape: [usize; 1], dtype: Dtype) -> Var {
        let v = if t.mode() == Mode::Eval { t.fixed(shape, dtype) } else { t.scratch(shape, dtype) };
        t.gpu_only(v)
    }
    fn resize(&self, t: &mut Tape) {
        let blocks: usize = self.parts.borrow().iter().map(|p| blocks(&p.size).count()).sum();
        if let Some(table) = *self.table.borrow() {
            t.reshape(table, [blocks, 2 * WORDS]);
        }
    }
}

/// First output, first channel and number of channels of each block. A block takes about 9,000 weights, which fit into shared memory.
fn blocks(c: &Conv) -> impl Iterator<Item = (usize, usize, usize)> {
    let (outputs, channels, run) = (c.outputs, c.channels, run(c));
    (0..outputs).step_by(OUTPUTS).flat_map(move |o| (0..channels).step_by(run).map(move |c| (o, c, run)))
}

fn run(c: &Conv) -> usize {
    (288 / (c.kernel * c.kernel)).clamp(1, 32)
}

struct Pack(Rc<Packs>);

impl Call for Pack {
    fn name(&self) -> &'static str {
        "pack"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::default();
        for p in self.0.parts.borrow().iter() {
            o.reads.push(p.w);
            o.writes.push(p.forward);
            o.writes.extend(p.backward);
            o.writes.extend(p.host);
            if let Some(n) = p.norm {
                o.reads.extend(n.norm);
                o.writes.push(n.shift);
            }
        }
        o
    }
    fn cpu(&self, m: &Host) {
        for p in self.0.parts.borrow().iter() {
            if let Some(host) = p.host {
                conv::pack(&p.size, &m.f(p.w), &mut m.f_mut(host));
            }
        }
    }
    fn once(&self) -> bool {
        true
    }
    fn prepare(&self, g: &Gpu) {
        let mut rows: Vec<u64> = vec![];
        let address = |v: Option<Var>| v.map_or(0, |v| g.address(v));
        for p in self.0.parts.borrow().iter() {
            let norm = p.norm.map(|n| n.norm);
            for (output, channel, run) in blocks(&p.size) {
                let pair = |low: usize, high: usize| low as u64 | (high as u64) << 32;
                rows.extend([g.address(p.w), g.address(p.forward), address(p.backward), address(p.norm.map(|n| n.shift))]);
                rows.extend((0..4).map(|i| address(norm.map(|n| n[i]))));
                rows.extend([
                    pair(p.size.outputs, p.size.channels),
                    pair(p.size.kernel, p.size.stride),
                    pair(output, channel),
                    pair(run, 0),
                ]);
            }
        }
        if let Some(table) = *self.0.table.borrow() {
            g.write(table, bytemuck::cast_slice::<u64, u32>(&rows));
        }
    }
    fn gpu(&self, g: &Gpu) {
        let parts = self.0.parts.borrow();
        let count: usize = parts.iter().map(|p| blocks(&p.size).count()).sum();
        let most = parts.iter().map(|p| run(&p.size).min(p.size.channels) * p.size.kernel * p.size.kernel).max().unwrap_or(0);
        let launch = Launch { kernel: "pack", grid: [count as u32, 1, 1], block: [256, 1, 1], shared: (4 * OUTPUTS * (most + 1)) as u32 };
        g.launch(&launch, &[(*self.0.table.borrow()).into()]);
    }
    fn cost(&self, element: u64) -> Cost {
        let n: usize = self
            .0
            .parts
            .borrow()
            .iter()
            .map(|p| p.size.weight_len() * (4 + element as usize * if p.backward.is_some() { 2 } else { 1 }))
            .sum();
        Cost { flops: 0, bytes: n as u64 }
    }
}
