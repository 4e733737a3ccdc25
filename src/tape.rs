//! Recording a network: calls over variables, with the backward demanded beside each forward.
//!
//! A network is recorded once as a flat list of calls; `backward` reverses the list; [`crate::program`]
//! plans the memory and runs it. Whether a gradient is written or added is known while recording: the first
//! use writes, later ones add, so nothing is ever zeroed.

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
    /// What it reads and what it writes, for planning memory. A gradient that is added to is both.
    fn operands(&self) -> Operands;
    /// The meaning, on the CPU.
    fn cpu(&self, m: &Host);
    /// The same as launches of kernels.
    fn gpu(&self, g: &Gpu) {
        g.missing(self.name());
    }
    /// What must be written to the GPU's memory once, before the first run: tables of addresses.
    fn prepare(&self, _: &Gpu) {}
    /// What it writes depends on weights alone and stays true while they do not change: in evaluation it runs
    /// once, and its outputs must be [`Tape::fixed`].
    fn once(&self) -> bool {
        false
    }
    /// The floor of its work, which the profiler divides by. `element` are the bytes of one value of an activation.
    fn cost(&self, element: u64) -> Cost;
}

#[derive(Default)]
pub struct Operands {
    pub reads: Vec<Var>,
    pub writes: Vec<Var>,
}

impl Operands {
    pub fn new(writes: &[Var], reads: &[Var]) -> Operands {
        Operands { reads: reads.to_vec(), writes: writes.to_vec() }
    }
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

/// Where a gradient goes, and whether something is there already.
#[derive(Clone, Copy, Debug)]
pub struct Grad {
    pub var: Var,
    pub add: bool,
}

/// Batch statistics and gradients, or running statistics and folded norms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Train,
    Eval,
}

/// What a variable is to the planner.
pub(crate) enum SlotKind {
    /// Lives from its first write to its last use; its memory is used again afterwards.
    Temporary,
    /// Lives as long as the program; written or read by the host.
    Fixed(Vec<f32>),
    /// Lives in [`crate::weights::Weights`] under a name.
    Named { name: String, init: Init, trained: bool },
}

pub(crate) struct Slot {
    pub shape: Shape,
    pub dtype: Dtype,
    pub kind: SlotKind,
    pub residence: Residence,
}

/// Which devices need a variable: scratch of one way to compute something is no memory of the other.
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
    /// What calls of one kind collect over the whole recording.
    common: HashMap<TypeId, Rc<dyn Any>>,
}

impl Tape {
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
    pub fn root(&mut self) -> Scope<'_> {
        Scope { tape: self, path: String::new(), frozen: false }
    }
    fn slot(&mut self, shape: Shape, dtype: Dtype, kind: SlotKind) -> Var {
        self.slots.push(Slot { shape, dtype, kind, residence: Residence::Both });
        self.requires_grad.push(false);
        self.cut.push(None);
        Var(self.slots.len() as u32 - 1)
    }
    /// An activation: f32 on the CPU, on a GPU what the device says.
    pub fn var(&mut self, shape: impl Into<Shape>) -> Var {
        self.slot(shape.into(), Dtype::Activation, SlotKind::Temporary)
    }
    /// An intermediate result that is f32 everywhere: a loss, a statistic.
    pub fn f32(&mut self, shape: impl Into<Shape>) -> Var {
        self.slot(shape.into(), Dtype::F32, SlotKind::Temporary)
    }
    /// `v` is scratch that only the CPU's side of a call uses.
    pub fn cpu_only(&mut self, v: Var) -> Var {
        self.slots[v.index()].residence = Residence::Cpu;
        v
    }
    /// `v` is scratch that only the GPU's side of a call uses.
    pub fn gpu_only(&mut self, v: Var) -> Var {
        self.slots[v.index()].residence = Residence::Gpu;
        v
    }
    /// Scratch bytes, for the packed forms and partial results of kernels.
    pub fn scratch(&mut self, shape: impl Into<Shape>, dtype: Dtype) -> Var {
        let v = self.slot(shape.into(), dtype, SlotKind::Temporary);
        self.gpu_only(v)
    }
    /// Change how large a table is that grows while calls are recorded.
    pub(crate) fn reshape(&mut self, v: Var, shape: impl Into<Shape>) {
        self.slots[v.index()].shape = shape.into();
    }
    /// What calls of one kind collect over a whole recording: made when first asked for.
    pub(crate) fn common<T: Default + 'static>(&mut self) -> Rc<T> {
        let any = self.common.entry(TypeId::of::<T>()).or_insert_with(|| Rc::new(T::default())).clone();
        any.downcast().expect("the key is the type")
    }
    /// Memory that the host writes before a run or reads after it.
    pub fn fixed(&mut self, shape: impl Into<Shape>, dtype: Dtype) -> Var {
        self.slot(shape.into(), dtype, SlotKind::Fixed(vec![]))
    }
    /// Memory of the host's like `v`.
    pub fn fixed_like(&mut self, v: Var) -> Var {
        self.slot(self.shape(v), self.slots[v.index()].dtype, SlotKind::Fixed(vec![]))
    }
    /// Like [`Tape::fixed`], holding `data` from the start.
    pub fn constant(&mut self, shape: impl Into<Shape>, data: Vec<f32>) -> Var {
        let shape = shape.into();
        assert_eq!(shape.len(), data.len(), "a constant of shape {shape:?} got {} values", data.len());
        self.slot(shape, Dtype::F32, SlotKind::Fixed(data))
    }
    /// Whole numbers that are there from the start.
    pub fn words(&mut self, shape: impl Into<Shape>, data: Vec<u32>) -> Var {
        let shape = shape.into();
        assert_eq!(shape.len(), data.len(), "words of shape {shape:?} got {} values", data.len());
        self.slot(shape, Dtype::U32, SlotKind::Fixed(bytemuck::cast_vec(data)))
    }
    /// Keep an intermediate result until the host has read it.
    pub fn keep(&mut self, v: Var) {
        if let SlotKind::Temporary = self.slots[v.index()].kind {
            self.slots[v.index()].kind = SlotKind::Fixed(vec![]);
        }
    }
    /// Keep every intermediate result, each in memory of its own: for checks that look at all of them.
    pub fn keep_all(&mut self) {
        let written: Vec<Var> = self.calls.iter().flat_map(|c| c.operands().writes).collect();
        written.into_iter().for_each(|v| self.keep(v));
    }
    pub fn shape(&self, v: Var) -> Shape {
        self.slots[v.index()].shape
    }
    /// Append a call that no gradient passes: a measurement, an update, a part of a backward. To ask for the gradient of what it
    /// makes of something that wants one is an error; [`Scope::record`] appends calls that have a gradient.
    pub fn no_grad(&mut self, call: impl Call + 'static) {
        self.push(call, None);
    }
    /// Append a call; no gradient flows through what it writes besides `to`.
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
    /// Refuses to lose the gradient of `x`.
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
    /// The weight `v` starts so instead.
    pub fn start(&mut self, v: Var, start: Init) {
        if let SlotKind::Named { init, .. } = &mut self.slots[v.index()].kind {
            *init = start;
        }
    }
    /// Where the gradient of `x` goes; `None`: nobody asks for it.
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
    /// Ask for the gradient of a variable that is not a weight (an input).
    pub fn require_grad(&mut self, x: Var) {
        self.requires_grad[x.index()] = true;
    }
    /// No gradient flows into `x`, whatever is recorded: it is a target.
    pub fn stop_gradient(&mut self, x: Var) {
        self.requires_grad[x.index()] = false;
        self.cut[x.index()] = None;
    }
    /// Does a gradient flow to `x`?
    pub fn requires_grad(&self, x: Var) -> bool {
        self.requires_grad[x.index()]
    }
    /// The gradient of `x`, once [`Tape::backward`] has recorded it.
    pub fn gradient(&self, x: Var) -> Option<Var> {
        self.grads.get(&x).copied()
    }
    /// Record the backward of everything that `loss` `[1]` depends on.
    ///
    /// # Panics
    /// Nothing that wants a gradient leads to `loss`, or a call without one lies between ([`Tape::no_grad`]).
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
    /// `gradient`, like `x`, is or already holds the gradient of `x`: what is recorded next adds to it.
    ///
    /// # Panics
    /// The shapes differ, or a call without a gradient lies between `x` and what wants one ([`Tape::no_grad`]).
    pub fn seed(&mut self, x: Var, gradient: Var) {
        self.not_cut(x);
        assert_eq!(self.shape(x), self.shape(gradient), "a gradient has the shape of its variable");
        self.grads.insert(x, gradient);
    }
    /// Record the backward of everything recorded so far, from the gradients that were seeded.
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
    /// Outputs of layers by their names: those below `prefix`, without it.
    pub fn taps(&self, prefix: &str) -> BTreeMap<String, Var> {
        self.taps.iter().filter_map(|(n, v)| Some((n.strip_prefix(prefix)?.to_string(), *v))).collect()
    }
    /// Names and shapes of the named variables below `prefix`: what [`crate::weights::Weights::check`] looks for.
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
    pub fn at(&mut self, name: impl Display) -> Scope<'_> {
        let path = self.name(&name.to_string());
        Scope { tape: self.tape, path, frozen: self.frozen }
    }
    /// Like [`Scope::at`]; the weights below want no gradient.
    pub fn frozen(&mut self, name: impl Display) -> Scope<'_> {
        Scope { frozen: true, ..self.at(name) }
    }
    fn name(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }
    /// Do the weights below want gradients?
    pub fn trains(&self) -> bool {
        !self.frozen
    }
    pub fn path(&self) -> &str {
        &self.path
    }
    /// Give the output of a layer this scope's name, under which it can be scored.
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
    /// A trained weight; the same name is the same weight.
    pub fn param(&mut self, name: &str, shape: impl Into<Shape>, init: Init) -> Var {
        let (name, trained) = (self.name(name), !self.frozen);
        self.tape.named(&name, shape.into(), Dtype::F32, init, trained)
    }
    /// Memory that persists between runs and gets no gradient: statistics, moments, queues.
    pub fn state(&mut self, name: &str, shape: impl Into<Shape>, dtype: Dtype, init: Init) -> Var {
        let name = self.name(name);
        self.tape.named(&name, shape.into(), dtype, init, false)
    }
    /// Append `forward`, which makes `to` from `from`, and remember what undoes it: a call that has a gradient is recorded with it.
    /// `backward` gets the gradient of `to`, which is complete when it is called. What `forward` reads besides `from` is a target or
    /// a constant of the op: no gradient flows into it.
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
