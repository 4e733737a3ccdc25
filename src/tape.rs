//! Recording a network: calls over variables, each forward together with its backward.
//!
//! A network is recorded once as a flat list of calls. [`Tape::backward`] appends the calls of the backward, in reverse order.
//! [`crate::program`] plans the memory and runs the list. Whether a gradient is written or accumulated is known while recording: the
//! first use writes, later ones add, so no gradient is ever zeroed.

use crate::device::{Gpu, Host};
use crate::init::Init;
use crate::var::{Dtype, Shape, Var};
use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::rc::Rc;

/// One kernel call with its operands bound: the unit of everything that runs.
pub trait Call {
    /// The kernel's name: `<op>_fwd`, `<op>_bwd`, ...
    fn name(&self) -> &'static str;
    /// The variables that it reads and writes, for planning memory. A gradient that is added to is both.
    fn operands(&self) -> Operands;
    /// Computes it on the CPU. This is the definition of the op; kernels are tested against it.
    fn cpu(&self, m: &Host);
    /// Launches the kernels that compute the same.
    fn gpu(&self, g: &Gpu) {
        g.missing(self.name());
    }
    /// Writes tables of addresses to the GPU's memory, once before the first run: addresses do not change afterwards.
    fn prepare(&self, _: &Gpu) {}
    /// Whether its outputs depend on weights alone. In evaluation such a call runs once, so its outputs must be [`Tape::fixed`].
    fn once(&self) -> bool {
        false
    }
    /// The floor of its work, which the profiler divides by. `element`: bytes of one activation.
    fn cost(&self, element: u64) -> Cost;
}

/// The variables that a call reads and writes.
#[derive(Default)]
pub struct Operands {
    pub reads: Vec<Var>,
    pub writes: Vec<Var>,
}

impl Operands {
    pub fn new(writes: &[Var], reads: &[Var]) -> Operands {
        Operands { reads: reads.to_vec(), writes: writes.to_vec() }
    }
    /// Adds a gradient: written, and also read if it is added to.
    pub fn grad(mut self, g: Grad) -> Operands {
        self.writes.push(g.var);
        if g.add {
            self.reads.push(g.var);
        }
        self
    }
}

/// Floating point operations and bytes that a call cannot do without.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct Cost {
    pub flops: u64,
    pub bytes: u64,
}

/// The destination of a gradient: written, or accumulated into if `add`.
#[derive(Clone, Copy, Debug)]
pub struct Grad {
    pub var: Var,
    pub add: bool,
}

/// Training: batch statistics and gradients. Evaluation: running statistics, folded norms, no gradients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Train,
    Eval,
}

/// The lifetime of a variable's memory.
pub(crate) enum SlotKind {
    /// From its first write to its last use; other temporaries reuse the memory.
    Temporary,
    /// As long as the program; the host writes or reads it.
    Fixed(Vec<f32>),
    /// In [`crate::weights::Weights`], under a name that several programs may share.
    Named { name: String, init: Init, trained: bool },
}

pub(crate) struct Slot {
    pub shape: Shape,
    pub dtype: Dtype,
    pub kind: SlotKind,
    pub residence: Residence,
}

/// The devices that need a variable. Scratch of the GPU's algorithm takes no memory on the CPU, and vice versa.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Residence {
    Both,
    Cpu,
    Gpu,
}

type Undo = Box<dyn FnOnce(&mut Tape)>;

/// A recording in progress.
pub struct Tape {
    pub(crate) slots: Vec<Slot>,
    pub(crate) calls: Vec<Box<dyn Call>>,
    mode: Mode,
    requires_grad: Vec<bool>,       // by variable: does a gradient flow here?
    cut: Vec<Option<&'static str>>, // by variable: the call through which a gradient would be lost
    undo: Vec<Undo>,
    grads: HashMap<Var, Var>,
    names: BTreeMap<String, Var>,
    taps: BTreeMap<String, Var>,
    /// State that calls of one kind share over the whole recording, by type; see [`Tape::common`].
    common: HashMap<TypeId, Rc<dyn Any>>,
}

impl Tape {
    /// An empty recording.
    pub fn new(mode: Mode) -> Tape {
        Tape {
            slots: vec![],
            calls: vec![],
            mode,
            requires_grad: vec![],
            cut: vec![],
            undo: vec![],
            grads: HashMap::new(),
            names: BTreeMap::new(),
            taps: BTreeMap::new(),
            common: HashMap::new(),
        }
    }
    pub fn mode(&self) -> Mode {
        self.mode
    }
    /// The scope without a name, in which a network is recorded.
    pub fn root(&mut self) -> Scope<'_> {
        Scope { tape: self, path: String::new(), frozen: false }
    }
    fn slot(&mut self, shape: Shape, dtype: Dtype, kind: SlotKind) -> Var {
        self.slots.push(Slot { shape, dtype, kind, residence: Residence::Both });
        self.requires_grad.push(false);
        self.cut.push(None);
        Var(self.slots.len() as u32 - 1)
    }
    /// An activation: f32 on the CPU, bf16 or f32 on a GPU, as [`crate::device::GpuDevice::dtype`] says.
    pub fn var(&mut self, shape: impl Into<Shape>) -> Var {
        self.slot(shape.into(), Dtype::Activation, SlotKind::Temporary)
    }
    /// An intermediate result that is f32 on every device: a loss, a statistic.
    pub fn f32(&mut self, shape: impl Into<Shape>) -> Var {
        self.slot(shape.into(), Dtype::F32, SlotKind::Temporary)
    }
    /// Marks `v` as scratch of [`Call::cpu`]: it takes no memory on a GPU.
    pub fn cpu_only(&mut self, v: Var) -> Var {
        self.slots[v.index()].residence = Residence::Cpu;
        v
    }
    /// Marks `v` as scratch of [`Call::gpu`]: it takes no memory on the CPU.
    pub fn gpu_only(&mut self, v: Var) -> Var {
        self.slots[v.index()].residence = Residence::Gpu;
        v
    }
    /// Scratch of kernels, on a GPU only: packed weights, partial sums.
    pub fn scratch(&mut self, shape: impl Into<Shape>, dtype: Dtype) -> Var {
        let v = self.slot(shape.into(), dtype, SlotKind::Temporary);
        self.gpu_only(v)
    }
    /// Changes the shape of a table that grows while calls are recorded.
    pub(crate) fn reshape(&mut self, v: Var, shape: impl Into<Shape>) {
        self.slots[v.index()].shape = shape.into();
    }
    /// The state T that calls of one kind share over a whole recording, made on first use. [`crate::ops`] packs all weights by it in one call.
    pub(crate) fn common<T: Default + 'static>(&mut self) -> Rc<T> {
        let any = self.common.entry(TypeId::of::<T>()).or_insert_with(|| Rc::new(T::default())).clone();
        any.downcast().expect("the key is the type")
    }
    /// Memory that the host writes before a run or reads after it.
    pub fn fixed(&mut self, shape: impl Into<Shape>, dtype: Dtype) -> Var {
        self.slot(shape.into(), dtype, SlotKind::Fixed(vec![]))
    }
    /// [`Tape::fixed`] with the shape and type of `v`.
    pub fn fixed_like(&mut self, v: Var) -> Var {
        self.slot(self.shape(v), self.slots[v.index()].dtype, SlotKind::Fixed(vec![]))
    }
    /// Like [`Tape::fixed`], f32, holding `data` from the start.
    ///
    /// # Panics
    /// `data` has not as many values as the shape.
    pub fn constant(&mut self, shape: impl Into<Shape>, data: Vec<f32>) -> Var {
        let shape = shape.into();
        assert_eq!(shape.len(), data.len(), "a constant of shape {shape:?} got {} values", data.len());
        self.slot(shape, Dtype::F32, SlotKind::Fixed(data))
    }
    /// Like [`Tape::fixed`], u32, holding `data` from the start.
    ///
    /// # Panics
    /// `data` has not as many values as the shape.
    pub fn words(&mut self, shape: impl Into<Shape>, data: Vec<u32>) -> Var {
        let shape = shape.into();
        assert_eq!(shape.len(), data.len(), "words of shape {shape:?} got {} values", data.len());
        self.slot(shape, Dtype::U32, SlotKind::Fixed(bytemuck::cast_vec(data)))
    }
    /// Keeps an intermediate result in memory of its own, so that the host can read it after a run.
    pub fn keep(&mut self, v: Var) {
        if let SlotKind::Temporary = self.slots[v.index()].kind {
            self.slots[v.index()].kind = SlotKind::Fixed(vec![]);
        }
    }
    /// Keeps every intermediate result, for checks that look at all of them.
    pub fn keep_all(&mut self) {
        let written: Vec<Var> = self.calls.iter().flat_map(|c| c.operands().writes).collect();
        written.into_iter().for_each(|v| self.keep(v));
    }
    pub fn shape(&self, v: Var) -> Shape {
        self.slots[v.index()].shape
    }
    /// Appends a call that no gradient passes: a measurement, an update, a part of a backward. Asking later for a gradient through it panics,
    /// so that no gradient is lost in silence. [`Scope::record`] appends calls with a gradient.
    pub fn no_grad(&mut self, call: impl Call + 'static) {
        self.push(call, None);
    }
    /// Appends a call, and marks its outputs besides `to` as cut if a gradient would have flowed through them.
    fn push(&mut self, call: impl Call + 'static, to: Option<Var>) {
        let Operands { reads, writes } = call.operands();
        if reads.iter().any(|x| self.requires_grad(*x) || self.cut[x.index()].is_some()) {
            // Named memory, a weight that is updated or running statistics, is no result of the call.
            let named = |y: &Var| matches!(self.slots[y.index()].kind, SlotKind::Named { .. });
            let cut: Vec<Var> = writes.into_iter().filter(|y| Some(*y) != to && !named(y)).collect();
            cut.iter().for_each(|y| self.cut[y.index()] = Some(call.name()));
        }
        self.calls.push(Box::new(call));
    }
    /// Panics if a gradient of `x` would be lost.
    fn not_cut(&self, x: Var) {
        if let Some(op) = self.cut[x.index()] {
            panic!("a gradient is asked through `{op}`, which was recorded without one; what is a target says so by `Tape::stop_gradient`");
        }
    }
    /// A persistent variable: the same name is the same memory.
    pub(crate) fn named(&mut self, name: &str, shape: Shape, dtype: Dtype, init: Init, trained: bool) -> Var {
        if let Some(&v) = self.names.get(name) {
            assert_eq!(self.shape(v), shape, "{name} was recorded with another shape");
            return v;
        }
        let v = self.slot(shape, dtype, SlotKind::Named { name: name.to_string(), init, trained });
        self.requires_grad[v.index()] = trained;
        self.names.insert(name.to_string(), v);
        v
    }
    /// Replaces the initialiser of the weight `v`.
    pub fn start(&mut self, v: Var, start: Init) {
        if let SlotKind::Named { init, .. } = &mut self.slots[v.index()].kind {
            *init = start;
        }
    }
    /// The destination of the gradient of `x`, of its shape and type; `None` if nobody wants it.
    ///
    /// # Panics
    /// A call without a gradient lies between `x` and what wants one ([`Tape::no_grad`]).
    pub fn gradient_of(&mut self, x: Var) -> Option<Grad> {
        self.not_cut(x);
        if !self.requires_grad[x.index()] {
            return None;
        }
        if let Some(&var) = self.grads.get(&x) {
            return Some(Grad { var, add: true });
        }
        let var = self.slot(self.shape(x), self.slots[x.index()].dtype, SlotKind::Temporary);
        self.grads.insert(x, var);
        Some(Grad { var, add: false })
    }
    /// Asks for the gradient of a variable that is no weight (an input).
    pub fn require_grad(&mut self, x: Var) {
        self.requires_grad[x.index()] = true;
    }
    /// No gradient flows into `x`, whatever is recorded: it is a target, as by PyTorch's `detach`.
    pub fn stop_gradient(&mut self, x: Var) {
        self.requires_grad[x.index()] = false;
        self.cut[x.index()] = None;
    }
    /// Whether a gradient flows to `x`.
    pub fn requires_grad(&self, x: Var) -> bool {
        self.requires_grad[x.index()]
    }
    /// The gradient of `x`, once [`Tape::backward`] has recorded it.
    pub fn gradient(&self, x: Var) -> Option<Var> {
        self.grads.get(&x).copied()
    }
    /// Records the backward of everything that `loss` `[1]` depends on.
    ///
    /// # Panics
    /// `loss` is not one number; the recording is one for evaluation; nothing that wants a gradient leads to `loss`; or a call without a
    /// gradient lies between ([`Tape::no_grad`]).
    pub fn backward(&mut self, loss: Var) {
        assert_eq!(self.shape(loss).len(), 1, "a loss is one number");
        assert!(self.mode == Mode::Train, "a recording for evaluation has no backward");
        self.not_cut(loss);
        if !self.requires_grad(loss) {
            let op = self.calls.iter().rev().find(|call| call.operands().writes.contains(&loss));
            panic!("no trained weight leads to the loss, which `{}` makes", op.map_or("the host", |call| call.name()));
        }
        let one = self.constant([1], vec![1.0]);
        self.seed(loss, one);
        self.reverse();
    }
    /// Makes `gradient`, of the shape of `x`, the gradient of `x`. Calls recorded later add to it.
    ///
    /// # Panics
    /// The shapes differ, or a call without a gradient lies between `x` and what wants one ([`Tape::no_grad`]).
    pub fn seed(&mut self, x: Var, gradient: Var) {
        self.not_cut(x);
        assert_eq!(self.shape(x), self.shape(gradient), "a gradient has the shape of its variable");
        self.grads.insert(x, gradient);
    }
    /// Records the backward of everything recorded so far, from the gradients that were seeded.
    pub fn reverse(&mut self) {
        while let Some(undo) = self.undo.pop() {
            undo(self);
        }
    }
    /// Every trained weight that got a gradient: (name, weight, gradient), in the order of recording.
    pub fn gradients(&self) -> Vec<(String, Var, Var)> {
        let named = self.slots.iter().enumerate().filter_map(|(i, s)| match &s.kind {
            SlotKind::Named { name, trained: true, .. } => Some((name.clone(), Var(i as u32))),
            _ => None,
        });
        named.filter_map(|(name, v)| Some((name, v, self.gradient(v)?))).collect()
    }
    /// The tapped outputs of layers below `prefix`, by their names without it.
    pub fn taps(&self, prefix: &str) -> BTreeMap<String, Var> {
        self.taps.iter().filter_map(|(n, v)| Some((n.strip_prefix(prefix)?.to_string(), *v))).collect()
    }
    /// Names and shapes of the named variables below `prefix`, for [`crate::weights::Weights::check`].
    pub fn shapes_below(&self, prefix: &str) -> Vec<(String, Shape)> {
        self.below(prefix).into_iter().map(|(name, v)| (name, self.shape(v))).collect()
    }
    /// Named variables below `prefix`.
    pub fn below(&self, prefix: &str) -> Vec<(String, Var)> {
        self.names.iter().filter(|(n, _)| n.starts_with(prefix)).map(|(n, v)| (n.clone(), *v)).collect()
    }
}

/// A point in the tree of names. Ops are its methods, each defined in its own file.
pub struct Scope<'t> {
    pub(crate) tape: &'t mut Tape,
    path: String,
    frozen: bool,
}

impl Scope<'_> {
    /// The scope `name` below this one: `layer1` below `encoder` is `encoder.layer1`.
    pub fn at(&mut self, name: impl Display) -> Scope<'_> {
        let path = self.name(&name.to_string());
        Scope { tape: self.tape, path, frozen: self.frozen }
    }
    /// Like [`Scope::at`]; the weights below get no gradient.
    pub fn frozen(&mut self, name: impl Display) -> Scope<'_> {
        Scope { frozen: true, ..self.at(name) }
    }
    fn name(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }
    /// Whether the weights below get gradients.
    pub fn trains(&self) -> bool {
        !self.frozen
    }
    pub fn path(&self) -> &str {
        &self.path
    }
    /// Registers `x` as the output of this scope's layer, so that it can be scored under the scope's name.
    pub fn tap(&mut self, x: Var) -> Var {
        self.tape.taps.insert(self.path.clone(), x);
        x
    }
    pub fn mode(&self) -> Mode {
        self.tape.mode
    }
    pub fn tape(&mut self) -> &mut Tape {
        self.tape
    }
    pub fn shape(&self, v: Var) -> Shape {
        self.tape.shape(v)
    }
    /// A trained weight, f32 on every device; the same name is the same weight.
    ///
    /// # Panics
    /// The name was recorded with another shape.
    pub fn param(&mut self, name: &str, shape: impl Into<Shape>, init: Init) -> Var {
        let (name, trained) = (self.name(name), !self.frozen);
        self.tape.named(&name, shape.into(), Dtype::F32, init, trained)
    }
    /// Memory that persists between runs and gets no gradient: running statistics, moments, centres.
    ///
    /// # Panics
    /// The name was recorded with another shape.
    pub fn state(&mut self, name: &str, shape: impl Into<Shape>, dtype: Dtype, init: Init) -> Var {
        let name = self.name(name);
        self.tape.named(&name, shape.into(), dtype, init, false)
    }
    /// Appends `forward`, which computes `to` from `from`, together with its `backward`. [`Tape::backward`] calls `backward` with the gradient of
    /// `to`, once that is complete; it records the calls that compute the gradients of `from`. Other variables that `forward` reads are
    /// targets or constants: no gradient flows into them. Returns `to`.
    pub fn record(&mut self, from: &[Var], to: Var, forward: impl Call + 'static, backward: impl FnOnce(&mut Tape, Var) + 'static) -> Var {
        let tape = &mut *self.tape;
        tape.push(forward, Some(to));
        if from.iter().any(|x| tape.requires_grad[x.index()]) && tape.mode == Mode::Train {
            tape.requires_grad[to.index()] = true;
            tape.undo.push(Box::new(move |t| {
                if let Some(dy) = t.gradient(to) {
                    backward(t, dy)
                }
            }));
        } else {
            tape.cut[to.index()] = from.iter().find_map(|x| tape.cut[x.index()]);
        }
        to
    }
}
