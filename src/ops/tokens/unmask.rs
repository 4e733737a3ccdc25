//! The input of MAE's decoder (He et al. 2022): visible tokens at their places, the mask token elsewhere, each plus its position.

use super::super::Case;
use super::super::mask::{Masking, batch};
use super::positions::{self, Places};
use crate::device::{Arg, Gpu, Host, Launch, chunk};
use crate::init::Init;
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::{Dtype, Var};
use rayon::prelude::*;

impl Scope<'_> {
    /// x `[n, 1 + keep, d]`, class token first, to y `[n, 1 + patches, d]`: y_j = x at its rank if patch j is seen, else `mask_token` `[1, 1, d]`,
    /// plus `positions` `[1, 1 + patches, d]`. Gradient: visible tokens get their rows of dy; the mask token the sum of the others.
    /// Kernels: `tokens.cu`.
    ///
    /// # Panics
    /// x has not three dimensions or not 1 + keep tokens, or `positions` do not fit.
    pub fn unmask_tokens(&mut self, x: Var, mask_token: Var, positions: Var, masking: Masking) -> Var {
        let &[n, seen, d] = self.shape(x).dims() else { panic!("{}: unmask_tokens wants [n, 1 + keep, d]", self.path()) };
        let patches = self.shape(masking.ids_restore).cols();
        assert_eq!(seen, 1 + masking.keep, "{}: a class token and {} patches", self.path(), masking.keep);
        assert_eq!(self.shape(positions), [1, 1 + patches, d].into(), "{}: positions of {patches} patches", self.path());
        let size = UnmaskSize { n, patches, keep: masking.keep, d };
        let y = self.tape.var([n, 1 + patches, d]);
        let forward = Forward { y, x, mask_token, positions, place: masking.ids_restore, size };
        self.record(&[x, mask_token, positions], y, forward, move |t, dy| {
            positions::record(t, positions, None, dy, Places { n, tokens: 1 + patches, d, prefix: 1, place: None });
            if let Some(dmask) = t.gradient_of(mask_token) {
                let partial = t.scratch([(n * patches).div_ceil(chunk(n * patches, d)), d], Dtype::F32);
                t.no_grad(BackwardMask { dmask, partial, dy, place: masking.ids_restore, size })
            }
            if let Some(dx) = t.gradient_of(x) {
                t.no_grad(Backward { dx, dy, ids: masking.ids_keep, size })
            }
        })
    }
}

#[derive(Clone, Copy)]
struct UnmaskSize {
    n: usize,
    patches: usize,
    keep: usize,
    d: usize,
}

struct Forward {
    y: Var,          // [n, 1 + patches, d]
    x: Var,          // [n, 1 + keep, d]
    mask_token: Var, // [1, 1, d]
    positions: Var,  // [1, 1 + patches, d]
    place: Var,      // [n, patches] u32
    size: UnmaskSize,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "unmask_tokens_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y], &[self.x, self.mask_token, self.positions, self.place])
    }
    fn cpu(&self, m: &Host) {
        let UnmaskSize { patches, keep, d, .. } = self.size;
        let (x, mask_token, positions, place) = (m.f(self.x), m.f(self.mask_token), m.f(self.positions), m.u(self.place));
        let (mask_token, positions) = (&*mask_token, &*positions);
        let images = x.par_chunks((1 + keep) * d).zip(place.par_chunks(patches));
        m.f_mut(self.y).par_chunks_mut((1 + patches) * d).zip(images).for_each(|(y, (x, place))| {
            for (r, (y, p)) in y.chunks_exact_mut(d).zip(positions.chunks_exact(d)).enumerate() {
                let at = if r == 0 { 0 } else { 1 + place[r - 1] as usize };
                let token = if at > keep { mask_token } else { &x[at * d..] };
                y.iter_mut().zip(token).zip(p).for_each(|((y, x), p)| *y = x + p);
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let UnmaskSize { n, patches, keep, d } = self.size;
        let pointers = [self.y.into(), self.x.into(), self.mask_token.into(), self.positions.into(), self.place.into()];
        let sizes = [n, patches, keep, d].map(Arg::from);
        g.launch(&Launch::rows(g, "unmask_tokens_fwd", n * (1 + patches), d), &[&pointers[..], &sizes].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let UnmaskSize { n, patches, keep, d } = self.size;
        Cost { flops: (n * (1 + patches) * d) as u64, bytes: element * (n * (2 + patches + keep) * d) as u64 }
    }
}

struct Backward {
    dx: Grad, // [n, 1 + keep, d]
    dy: Var,  // [n, 1 + patches, d]
    ids: Var, // [n, keep] u32
    size: UnmaskSize,
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "unmask_tokens_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy, self.ids]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        let UnmaskSize { patches, keep, d, .. } = self.size;
        let (dy, ids, add) = (m.f(self.dy), m.u(self.ids), self.dx.add);
        let images = dy.par_chunks((1 + patches) * d).zip(ids.par_chunks(keep));
        m.f_mut(self.dx.var).par_chunks_mut((1 + keep) * d).zip(images).for_each(|(dx, (dy, ids))| {
            for (r, dx) in dx.chunks_exact_mut(d).enumerate() {
                let from = if r == 0 { 0 } else { 1 + ids[r - 1] as usize };
                dx.iter_mut().zip(&dy[from * d..]).for_each(|(dx, dy)| *dx = if add { *dx + dy } else { *dy });
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let UnmaskSize { n, patches, keep, d } = self.size;
        let pointers = [self.dx.var.into(), self.dy.into(), self.ids.into(), self.dx.add.into()];
        let sizes = [n, patches, keep, d].map(Arg::from);
        g.launch(&Launch::rows(g, "unmask_tokens_bwd", n * (1 + keep), d), &[&pointers[..], &sizes].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let UnmaskSize { n, keep, d, .. } = self.size;
        Cost { flops: 0, bytes: element * (2 + self.dx.add as u64) * (n * (1 + keep) * d) as u64 }
    }
}

struct BackwardMask {
    dmask: Grad,  // [1, 1, d]
    partial: Var, // [chunks, d], on a GPU
    dy: Var,      // [n, 1 + patches, d]
    place: Var,   // [n, patches] u32
    size: UnmaskSize,
}

impl Call for BackwardMask {
    fn name(&self) -> &'static str {
        "unmask_tokens_bwd_mask"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.partial], &[self.dy, self.place]).grad(self.dmask)
    }
    fn cpu(&self, m: &Host) {
        let UnmaskSize { patches, keep, d, .. } = self.size;
        let (dy, place) = (m.f(self.dy), m.u(self.place));
        let images: Vec<Vec<f32>> = dy
            .par_chunks((1 + patches) * d)
            .zip(place.par_chunks(patches))
            .map(|(dy, place)| {
                let mut sum = vec![0.0; d];
                for (dy, _) in dy[d..].chunks_exact(d).zip(place).filter(|(_, p)| **p as usize >= keep) {
                    sum.iter_mut().zip(dy).for_each(|(s, dy)| *s += dy);
                }
                sum
            })
            .collect();
        for (c, to) in m.f_mut(self.dmask.var).iter_mut().enumerate() {
            let sum = images.iter().map(|s| s[c] as f64).sum::<f64>() as f32;
            *to = if self.dmask.add { *to + sum } else { sum };
        }
    }
    fn gpu(&self, g: &Gpu) {
        let UnmaskSize { n, patches, keep, d } = self.size;
        let chunk = chunk(n * patches, d);
        let chunks = (n * patches).div_ceil(chunk);
        let pointers = [self.partial.into(), self.dy.into(), self.place.into()];
        let sizes = [chunk, n, patches, keep, d].map(Arg::from);
        g.launch(&Launch::chunks(g, "unmask_tokens_bwd_mask", chunks, d), &[&pointers[..], &sizes].concat());
        positions::sum(g, None, Some(self.dmask), self.partial, chunks, d, d);
    }
    fn cost(&self, element: u64) -> Cost {
        let UnmaskSize { n, patches, keep, d } = self.size;
        let read = (n * (patches - keep) * d) as u64;
        Cost { flops: read, bytes: element * read }
    }
}

/// A masked image of `patches`, unmasked again.
fn filled(s: &mut Scope, x: Var, patches: usize) -> Var {
    let &[n, seen, d] = s.shape(x).dims() else { panic!("a case of [n, 1 + keep, d]") };
    let batch = batch(s.tape(), n);
    let masking = s.tape().mask(batch, patches, seen - 1, 9);
    let token = s.param("mask_token", [1, 1, d], Init::Normal(0.5));
    let positions = s.param("decoder_pos_embed", [1, 1 + patches, d], Init::Normal(0.5));
    s.unmask_tokens(x, token, positions, masking)
}

pub static CASES: &[Case] = &[
    Case { name: "unmask_tokens/two", mode: Mode::Train, inputs: &[&[1, 2, 1]], build: |s, x| filled(s, x[0], 2) },
    Case { name: "unmask_tokens/quarter", mode: Mode::Train, inputs: &[&[35, 5, 24]], build: |s, x| filled(s, x[0], 16) },
    Case { name: "unmask_tokens/ragged", mode: Mode::Train, inputs: &[&[3, 4, 13]], build: |s, x| filled(s, x[0], 11) },
    Case { name: "unmask_tokens/whole", mode: Mode::Train, inputs: &[&[2, 4, 8]], build: |s, x| filled(s, x[0], 3) },
];
