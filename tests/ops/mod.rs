//! Every case of every op: the gradient against central differences, and its accumulation if a variable has several readers.

mod attention;
mod choose;
mod conv;
pub mod golden;
mod losses;
mod lost;
mod tokens;

use sslmem::device::Host;
use sslmem::ops::conv::Filter;
use sslmem::ops::{ALL, Case};
use sslmem::program::Program;
use sslmem::random::{Purpose, Stream};
use sslmem::tape::{Call, Cost, Grad, Mode, Operands, Scope, Tape};
use sslmem::var::Var;
use sslmem::weights::Weights;

fn noise(stream: u32, n: usize) -> Vec<f32> {
    let mut s = Stream::new(7, Purpose::Statistics, 0, stream, 0);
    (0..n).map(|_| s.range(-1.0, 1.0)).collect()
}

/// sum(x * r), the loss that makes any op's output a number; f64 inside, so that differences are clean.
struct Dot {
    loss: Var,
    x: Var,
    r: Var,
}

struct DotBack {
    dx: Grad,
    dloss: Var,
    r: Var,
}

impl Call for Dot {
    fn name(&self) -> &'static str {
        "dot_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.loss], &[self.x, self.r])
    }
    fn cpu(&self, m: &Host) {
        m.f_mut(self.loss)[0] = m.f(self.x).iter().zip(m.f(self.r).iter()).map(|(x, r)| (*x as f64) * (*r as f64)).sum::<f64>() as f32;
    }
    fn cost(&self, _: u64) -> Cost {
        Cost::default()
    }
}

impl Call for DotBack {
    fn name(&self) -> &'static str {
        "dot_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dloss, self.r]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        let (g, add) = (m.f(self.dloss)[0], self.dx.add);
        m.f_mut(self.dx.var).iter_mut().zip(m.f(self.r).iter()).for_each(|(d, r)| *d = if add { *d + g * r } else { g * r });
    }
    fn cost(&self, _: u64) -> Cost {
        Cost::default()
    }
}

fn dot(s: &mut Scope, x: Var, seed: u32) -> Var {
    let shape = s.shape(x);
    let r = s.tape().constant(shape, noise(seed, shape.len()));
    dot_with(s, x, r)
}

/// sum(x * r) for a given r.
pub fn dot_with(s: &mut Scope, x: Var, r: Var) -> Var {
    let loss = s.tape().var([1]);
    s.record(&[x], loss, Dot { loss, x, r }, move |t, dloss| {
        if let Some(dx) = t.gradient_of(x) {
            t.no_grad(DotBack { dx, dloss, r })
        }
    })
}

/// The sum of two losses, so that a variable can have two readers.
struct Add {
    y: Var,
    parts: Vec<Var>,
}

impl Call for Add {
    fn name(&self) -> &'static str {
        "add_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y], &self.parts)
    }
    fn cpu(&self, m: &Host) {
        m.f_mut(self.y)[0] = self.parts.iter().map(|p| m.f(*p)[0]).sum();
    }
    fn cost(&self, _: u64) -> Cost {
        Cost::default()
    }
}

struct AddBack {
    to: Grad,
    from: Var,
}

impl Call for AddBack {
    fn name(&self) -> &'static str {
        "add_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.from]).grad(self.to)
    }
    fn cpu(&self, m: &Host) {
        assert!(!self.to.add);
        m.f_mut(self.to.var)[0] = m.f(self.from)[0];
    }
    fn cost(&self, _: u64) -> Cost {
        Cost::default()
    }
}

/// The sum of losses.
pub fn sum(s: &mut Scope, parts: &[Var]) -> Var {
    let (y, parts) = (s.tape().var([1]), parts.to_vec());
    s.record(&parts.clone(), y, Add { y, parts: parts.clone() }, move |t, dy| {
        for &p in &parts {
            if let Some(to) = t.gradient_of(p) {
                t.no_grad(AddBack { to, from: dy })
            }
        }
    })
}

struct Checked {
    program: Program,
    total: Vec<Var>,
    wanted: Vec<(String, Var, Var)>, // name, variable, its gradient
    /// Every input that is not a target got one.
    all: bool,
}

/// Record a case with its inputs as weights, so that every gradient exists. `shared`: each input also has a
/// second reader, so the op must add to a gradient that is already there (or the other way round).
fn record(case: &Case, shared: bool) -> Checked {
    let mut tape = Tape::new(case.mode);
    let mut root = tape.root();
    let mut weights = Weights::new(3);
    let inputs: Vec<Var> = case
        .inputs
        .iter()
        .enumerate()
        .map(|(i, dims)| {
            weights.set(&format!("in.{i}"), *dims, &noise(i as u32 + 1, dims.iter().product())).unwrap();
            root.at("in").param(&i.to_string(), *dims, sslmem::init::Init::Constant(0.0))
        })
        .collect();
    let mut early = vec![];
    if shared {
        early.extend(inputs.iter().enumerate().map(|(i, &x)| dot(&mut root, x, 50 + i as u32)));
    }
    let y = (case.build)(&mut root.at("op"), &inputs);
    let mut total = vec![dot(&mut root, y, 99)];
    if shared {
        total.extend(inputs.iter().enumerate().map(|(i, &x)| dot(&mut root, x, 60 + i as u32)));
    }
    total.extend(early);
    let sum = sum(&mut root, &total);
    for &loss in &total {
        tape.keep(loss);
    }
    tape.backward(sum);
    let wanted = tape.gradients();
    for (_, _, g) in &wanted {
        tape.keep(*g);
    }
    let all = inputs.iter().all(|x| tape.gradient(*x).is_some() || !tape.requires_grad(*x));
    Checked { program: tape.compile(&mut weights).unwrap(), total, wanted, all }
}

fn cases() -> impl Iterator<Item = &'static Case> {
    ALL.iter().copied().flatten()
}

#[test]
fn gradients_agree_with_central_differences() {
    for case in cases().filter(|c| c.mode == Mode::Train) {
        for shared in [false, true] {
            let mut c = record(case, shared);
            c.program.run().unwrap();
            assert!(c.all, "{}: an input got no gradient", case.name);
            let gradients: Vec<Vec<f32>> = c.wanted.iter().map(|(_, _, g)| c.program.read(*g).unwrap()).collect();
            for ((name, v, _), got) in c.wanted.iter().zip(&gradients) {
                let start: Vec<f32> = c.program.read(*v).unwrap();
                let scale = got.iter().fold(1e-3f32, |m, g| m.max(g.abs()));
                let n = start.len();
                let mut bad = 0;
                let picks: Vec<usize> = (0..n.min(10)).map(|k| k * 7919 % n).collect();
                for &i in &picks {
                    // Two step sizes: a kink (relu, max) spoils one difference, rarely both.
                    let close = [2e-3f32, 5e-4].into_iter().any(|h| {
                        let mut at = |d: f32| {
                            let mut x = start.clone();
                            x[i] += d;
                            c.program.write(*v, &x).unwrap();
                            c.program.run().unwrap();
                            c.total.iter().map(|&l| c.program.read::<f32>(l).unwrap()[0] as f64).sum::<f64>()
                        };
                        let slope = (at(h) - at(-h)) / (2.0 * h as f64);
                        (slope as f32 - got[i]).abs() < 2e-2 * scale
                    });
                    bad += !close as usize;
                }
                c.program.write(*v, &start).unwrap();
                assert!(
                    bad * 5 <= picks.len(),
                    "{} (shared: {shared}): {bad} of {} differences disagree for {name}",
                    case.name,
                    picks.len()
                );
            }
        }
    }
}

#[test]
fn every_output_is_finite_and_runs_repeat_bit_for_bit() {
    for case in cases() {
        let run = || {
            let mut tape = Tape::new(case.mode);
            let mut root = tape.root();
            let inputs: Vec<Var> =
                case.inputs.iter().enumerate().map(|(i, d)| root.tape().constant(*d, noise(i as u32, d.iter().product()))).collect();
            let y = (case.build)(&mut root.at("op"), &inputs);
            tape.keep(y);
            let mut program = tape.compile(&mut Weights::new(1)).unwrap();
            program.run().unwrap();
            program.run().unwrap();
            program.read::<f32>(y).unwrap()
        };
        let (a, b) = (run(), run());
        assert!(a.iter().all(|v| v.is_finite()), "{}: not finite", case.name);
        assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()), "{}: differs between runs", case.name);
    }
}

#[test]
fn memory_is_reused() {
    let case = cases().find(|c| c.name == "conv/block").unwrap();
    let c = record(case, false);
    let plan = c.program.plan();
    assert!(plan.temporary < plan.without_reuse, "{plan:?}");
}

/// In evaluation weights are packed once, and again after a write to one. This weight serves two maps, of which Winograd computes one.
#[test]
fn packed_weights_follow_their_weights() {
    let mut tape = Tape::new(Mode::Eval);
    let mut root = tape.root();
    let maps = [[1, 8, 8, 16], [1, 2, 2, 16]].map(|dims: [usize; 4]| (dims, noise(0, dims.iter().product())));
    let filter = Filter::same(16, 3, 1);
    let outputs = maps.clone().map(|(dims, data)| {
        let x = root.tape().constant(dims, data);
        root.conv_norm(["conv", "bn"], x, filter, None, false)
    });
    outputs.iter().for_each(|y| tape.keep(*y));
    let w = tape.below("conv.weight")[0].1;
    let mut program = tape.compile(&mut Weights::new(1)).unwrap();
    program.run().unwrap();
    program.write(w, &[0.5f32; 16 * 16 * 9]).unwrap();
    program.run().unwrap();
    for (([_, _, width, c], data), y) in maps.into_iter().zip(outputs) {
        // The first pixel sees four: all channels of two pixels of two lines.
        let seen: f32 = [0, width * c].into_iter().map(|line| data[line..][..2 * c].iter().sum::<f32>()).sum();
        let y: Vec<f32> = program.read(y).unwrap();
        assert!(y[..c].iter().all(|y| (y - 0.5 * seen).abs() < 1e-4), "{} is not {}", y[0], 0.5 * seen);
    }
}
