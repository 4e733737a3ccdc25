//! The input sequence of a ViT: class token and patches, each plus its position.

use super::super::Case;
use super::super::mask::{Masking, batch};
use super::positions::{self, Places};
use crate::device::{Arg, Gpu, Host, Launch};
use crate::init::Init;
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::Var;
use rayon::prelude::*;

impl Scope<'_> {
    /// y = concat(class, tokens) + positions: tokens `[n, k, d]` to y `[n, k (+ 1), d]`. `class` is `[1, 1, d]`, or absent; `positions` is
    /// `[1, patches (+ 1), d]`, the class token's first. With `masking` the tokens are those of the patches that are seen. Gradient:
    /// positions and class get sums over the images. Kernels: `tokens.cu`.
    ///
    /// # Panics
    /// tokens have not three dimensions, or `positions` do not fit.
    pub fn sequence(&mut self, tokens: Var, class: Option<Var>, positions: Var, masking: Option<Masking>) -> Var {
        let &[n, k, d] = self.shape(tokens).dims() else { panic!("{}: sequence wants [n, k, d]", self.path()) };
        let prefix = class.is_some() as usize;
        let patches = masking.map_or(k, |m| self.shape(m.ids_restore).cols());
        let wanted = [1, prefix + patches, d];
        assert_eq!(self.shape(positions), wanted.into(), "{}: positions of {patches} patches", self.path());
        let size = SequenceSize { n, k, d, prefix };
        let y = self.tape.var([n, prefix + k, d]);
        let from: Vec<Var> = [tokens, positions].into_iter().chain(class).collect();
        let forward = Forward { y, tokens, class, positions, ids: masking.map(|m| m.ids_keep), size };
        self.record(&from, y, forward, move |t, dy| {
            let place = masking.map(|m| (m.ids_restore, m.keep));
            positions::record(t, positions, class, dy, Places { n, tokens: prefix + k, d, prefix, place });
            if prefix == 0 {
                t.pass_gradient(tokens, dy)
            } else if let Some(dtokens) = t.gradient_of(tokens) {
                t.no_grad(Backward { dtokens, dy, size })
            }
        })
    }
}

#[derive(Clone, Copy)]
struct SequenceSize {
    n: usize,
    k: usize,
    d: usize,
    /// Tokens before the first patch.
    prefix: usize,
}

struct Forward {
    y: Var,             // [n, prefix + k, d]
    tokens: Var,        // [n, k, d]
    class: Option<Var>, // [1, 1, d]
    positions: Var,     // [1, prefix + patches, d]
    ids: Option<Var>,   // [n, k] u32
    size: SequenceSize,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "sequence_fwd"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[self.y], &[self.tokens, self.positions]);
        o.reads.extend(self.class);
        o.reads.extend(self.ids);
        o
    }
    fn cpu(&self, m: &Host) {
        let SequenceSize { k, d, prefix, .. } = self.size;
        let (tokens, positions) = (m.f(self.tokens), m.f(self.positions));
        let (class, ids) = (self.class.map(|c| m.f(c)), self.ids.map(|ids| m.u(ids)));
        let (tokens, positions, class, ids) = (&*tokens, &*positions, class.as_deref(), ids.as_deref());
        m.f_mut(self.y).par_chunks_mut((prefix + k) * d).enumerate().for_each(|(i, y)| {
            for (r, y) in y.chunks_exact_mut(d).enumerate() {
                let (token, p) = match class {
                    Some(class) if r == 0 => (class, 0),
                    _ => {
                        let row = i * k + r - prefix;
                        (&tokens[row * d..], ids.map_or(r, |ids| prefix + ids[row] as usize))
                    }
                };
                y.iter_mut().zip(token).zip(&positions[p * d..]).for_each(|((y, x), p)| *y = x + p);
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let SequenceSize { n, k, d, prefix } = self.size;
        let pointers = [self.y.into(), self.tokens.into(), self.class.into(), self.positions.into(), self.ids.into()];
        let sizes = [n, k, d, prefix].map(Arg::from);
        g.launch(&Launch::rows(g, "sequence_fwd", n * (prefix + k), d), &[&pointers[..], &sizes].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let SequenceSize { n, k, d, prefix } = self.size;
        Cost { flops: (n * k * d) as u64, bytes: element * (n * (2 * k + prefix) * d) as u64 }
    }
}

struct Backward {
    dtokens: Grad, // [n, k, d]
    dy: Var,       // [n, prefix + k, d]
    size: SequenceSize,
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "sequence_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy]).grad(self.dtokens)
    }
    fn cpu(&self, m: &Host) {
        let SequenceSize { k, d, prefix, .. } = self.size;
        let (dy, Grad { var, add }) = (m.f(self.dy), self.dtokens);
        m.f_mut(var).par_chunks_mut(k * d).zip(dy.par_chunks((prefix + k) * d)).for_each(|(to, dy)| {
            to.iter_mut().zip(&dy[prefix * d..]).for_each(|(to, dy)| *to = if add { *to + dy } else { *dy });
        });
    }
    fn gpu(&self, g: &Gpu) {
        let SequenceSize { n, k, d, prefix } = self.size;
        let sizes = [n, k, d, prefix].map(Arg::from);
        let pointers = [self.dtokens.var.into(), self.dy.into(), self.dtokens.add.into()];
        g.launch(&Launch::rows(g, "sequence_bwd", n * k, d), &[&pointers[..], &sizes].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let SequenceSize { n, k, d, .. } = self.size;
        Cost { flops: 0, bytes: element * (2 + self.dtokens.add as u64) * (n * k * d) as u64 }
    }
}

/// Tokens with weights of their own: masked to as many as there are of `patches`.
fn embedded(s: &mut Scope, x: Var, class: bool, patches: usize) -> Var {
    let &[n, k, d] = s.shape(x).dims() else { panic!("a case of [n, k, d]") };
    let class = class.then(|| s.param("cls_token", [1, 1, d], Init::Normal(0.5)));
    let positions = s.param("pos_embed", [1, patches + class.is_some() as usize, d], Init::Normal(0.5));
    let masking = (k < patches).then(|| {
        let batch = batch(s.tape(), n);
        s.tape().mask(batch, patches, k, 9)
    });
    s.sequence(x, class, positions, masking)
}

pub static CASES: &[Case] = &[
    Case { name: "sequence/one", mode: Mode::Train, inputs: &[&[1, 1, 1]], build: |s, x| embedded(s, x[0], true, 1) },
    Case { name: "sequence/plain", mode: Mode::Train, inputs: &[&[3, 4, 8]], build: |s, x| embedded(s, x[0], false, 4) },
    Case { name: "sequence/class", mode: Mode::Train, inputs: &[&[35, 6, 24]], build: |s, x| embedded(s, x[0], true, 6) },
    Case { name: "sequence/masked", mode: Mode::Train, inputs: &[&[37, 4, 13]], build: |s, x| embedded(s, x[0], true, 16) },
    Case { name: "sequence/masked_plain", mode: Mode::Train, inputs: &[&[5, 3, 16]], build: |s, x| embedded(s, x[0], false, 7) },
    // Fixed positions: only the class token has a gradient.
    Case {
        name: "sequence/fixed",
        mode: Mode::Train,
        inputs: &[&[34, 4, 16]],
        build: |s, x| {
            let class = s.param("cls_token", [1, 1, 16], Init::Normal(0.5));
            let positions = s.frozen("fixed").param("pos_embed", [1, 5, 16], Init::Normal(0.5));
            s.sequence(x[0], Some(class), positions, None)
        },
    },
];
