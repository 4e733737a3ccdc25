//! The gradients of the positions and of the class token, which all images share: sums over images, in their order.

use crate::device::{Arg, Gpu, Host, Launch, THREADS};
use crate::tape::{Call, Cost, Grad, Operands, Tape};
use crate::var::{Dtype, Var};
use rayon::prelude::*;

/// Images that one block sums.
const IMAGES: usize = 32;

/// The tokens of an image that carry each position.
#[derive(Clone, Copy)]
pub(super) struct Places {
    pub n: usize,
    /// Tokens of an image in dy.
    pub tokens: usize,
    pub d: usize,
    /// Tokens before the first patch: the class token.
    pub prefix: usize,
    /// [n, patches] u32: the place of each patch among the tokens behind the class token, if not its own, and how many are there.
    pub place: Option<(Var, usize)>,
}

pub(super) struct Sums {
    dpositions: Option<Grad>, // [rows, d]
    dclass: Option<Grad>,     // [d], the same as the first position's
    partial: Var,             // [chunks, rows, d], on a GPU
    dy: Var,                  // [n, tokens, d]
    places: Places,
    rows: usize, // positions that are summed
}

/// Records the gradients of `positions` and of `class`, if they are wanted.
pub(super) fn record(t: &mut Tape, positions: Var, class: Option<Var>, dy: Var, places: Places) {
    let (dpositions, dclass) = (t.gradient_of(positions), class.and_then(|c| t.gradient_of(c)));
    if dpositions.is_none() && dclass.is_none() {
        return;
    }
    let rows = if dpositions.is_some() { t.shape(positions).rows() } else { 1 };
    let partial = t.scratch([places.n.div_ceil(IMAGES), rows, places.d], Dtype::F32);
    t.no_grad(Sums { dpositions, dclass, partial, dy, places, rows });
}

impl Call for Sums {
    fn name(&self) -> &'static str {
        "positions_bwd"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[self.partial], &[self.dy]);
        o.reads.extend(self.places.place.map(|p| p.0));
        for g in [self.dpositions, self.dclass].into_iter().flatten() {
            o = o.grad(g);
        }
        o
    }
    fn cpu(&self, m: &Host) {
        let Places { n, tokens, d, prefix, place } = self.places;
        let (dy, place) = (m.f(self.dy), place.map(|(place, keep)| (m.u(place), keep)));
        let (dy, place) = (&*dy, place.as_ref().map(|(place, keep)| (&**place, *keep)));
        let sums: Vec<Vec<f64>> = (0..self.rows)
            .into_par_iter()
            .map(|p| {
                let mut sum = vec![0.0f64; d];
                for i in 0..n {
                    let token = match place {
                        Some((place, keep)) if p >= prefix => {
                            let at = place[i * (place.len() / n) + p - prefix] as usize;
                            if at >= keep {
                                continue;
                            }
                            prefix + at
                        }
                        _ => p,
                    };
                    sum.iter_mut().zip(&dy[(i * tokens + token) * d..]).for_each(|(s, g)| *s += *g as f64);
                }
                sum
            })
            .collect();
        let write = |gradient: Option<Grad>, sums: &[Vec<f64>]| {
            let Some(Grad { var, add }) = gradient else { return };
            for (to, sum) in m.f_mut(var).chunks_exact_mut(d).zip(sums) {
                to.iter_mut().zip(sum).for_each(|(to, s)| *to = if add { *to + *s as f32 } else { *s as f32 });
            }
        };
        write(self.dpositions, &sums);
        write(self.dclass, &sums[..1]);
    }
    fn gpu(&self, g: &Gpu) {
        let Places { n, tokens, d, prefix, place } = self.places;
        let patches = if place.is_some() { self.rows.max(prefix) - prefix } else { 0 };
        let vector = 16 / g.dtype().bytes();
        let groups = if d.is_multiple_of(vector) { d / vector } else { d };
        let chunks = n.div_ceil(IMAGES);
        let grid = [(self.rows * groups).div_ceil(THREADS) as u32, chunks as u32, 1];
        let launch = Launch { grid, ..Launch::blocks("positions_bwd", 1) };
        let keep = place.map_or(0, |p| p.1);
        let sizes = [n, IMAGES, tokens, d, prefix, self.rows, patches, keep].map(Arg::from);
        g.launch(&launch, &[&[self.partial.into(), self.dy.into(), place.map(|p| p.0).into()][..], &sizes].concat());
        sum(g, self.dpositions, self.dclass, self.partial, chunks, self.rows * d, d);
    }
    fn cost(&self, element: u64) -> Cost {
        let Places { n, tokens, d, .. } = self.places;
        let read = (n * tokens.min(self.rows) * d) as u64;
        Cost { flops: read, bytes: element * read }
    }
}

/// Both gradients from `partial` [chunks, len], of which the first `d` are also the class token's.
pub(super) fn sum(g: &Gpu, dpositions: Option<Grad>, dclass: Option<Grad>, partial: Var, chunks: usize, len: usize, d: usize) {
    let pointer = |gradient: Option<Grad>| -> (Arg, Arg) { (gradient.map(|g| g.var).into(), gradient.is_some_and(|g| g.add).into()) };
    let ((dpositions, add), (dclass, add_class)) = (pointer(dpositions), pointer(dclass));
    let args = [dpositions, dclass, partial.into(), add, add_class, chunks.into(), len.into(), d.into()];
    g.launch(&Launch::blocks("positions_bwd_sum", len.div_ceil(THREADS)), &args);
}
