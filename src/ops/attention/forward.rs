//! The result, and every query's logsumexp, from which the backward recomputes the probabilities.

use super::{AttentionSize, HeadRows, Projection, right, rows_by_head, scores};
use crate::device::product::{LANES, Left, Right, multiply, pack_here, packed_len, with_scratch};
use crate::device::{Gpu, Host};
use crate::ops::choose;
use crate::tape::{Call, Cost, Operands};
use crate::var::Var;
use rayon::prelude::*;

pub struct Forward {
    pub y: Var,        // [images, tokens, heads * head]
    pub log_sums: Var, // [images, heads, tokens]
    pub qkv: Var,      // [images, tokens, 3 * heads * head]
    pub size: AttentionSize,
}

/// One head of one image, a block of queries at a time: y `[tokens][head]`, log_sums `[tokens]`.
fn attend(qkv: &[f32], size: AttentionSize, head: usize, mut y: Vec<&mut [f32]>, log_sums: &mut [f32]) {
    let [q, k, v] = [Projection::Query, Projection::Key, Projection::Value].map(|part| HeadRows::of(qkv, size, part, head));
    let (tokens, block, stride) = (size.tokens, size.block(), size.stride());
    let columns = size.head.next_multiple_of(LANES);
    let sizes = [packed_len(size.head, tokens), tokens * columns, block * stride, block * columns, block];
    with_scratch(sizes.iter().sum(), |scratch| {
        let [keys, values, s, out, inverse] = split(scratch, sizes);
        pack_here(size.head, tokens, keys, |token| k.row(token));
        v.copy(0, values);
        for first in (0..tokens).step_by(block) {
            let count = block.min(tokens - first);
            let s = &mut s[..count * stride];
            multiply(q.left(first), count, size.head, Right::packed(keys, size.head, tokens), s, stride, false);
            scores::softmax(s, stride, tokens, size.scale(), inverse, &mut log_sums[first..]);
            let p = Left { data: s, row_step: stride, depth_step: 1 };
            multiply(p, count, tokens, right(values, size.head), out, columns, false);
            for ((y, out), inverse) in y[first..].iter_mut().zip(out.chunks_exact(columns)).zip(&inverse[..count]) {
                y.iter_mut().zip(out).for_each(|(y, out)| *y = out * inverse);
            }
        }
    });
}

/// Cuts a buffer into pieces of these sizes.
pub fn split<const N: usize>(mut buffer: &mut [f32], sizes: [usize; N]) -> [&mut [f32]; N] {
    sizes.map(|size| buffer.split_off_mut(..size).expect("as long as its pieces"))
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "attention_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y, self.log_sums], &[self.qkv])
    }
    fn cpu(&self, m: &Host) {
        let (size, qkv) = (self.size, m.f(self.qkv));
        let (image, sums) = (size.tokens * size.width(), size.heads * size.tokens);
        let (mut y, mut log_sums) = (m.f_mut(self.y), m.f_mut(self.log_sums));
        let images = y.par_chunks_mut(image).zip(log_sums.par_chunks_mut(sums)).zip(qkv.par_chunks(3 * image));
        images.for_each(|((y, log_sums), qkv)| {
            let heads = rows_by_head(y, size, 1).into_par_iter().zip(log_sums.par_chunks_mut(size.tokens)).enumerate();
            heads.with_min_len(size.heads_at_once()).for_each(|(head, (y, log_sums))| attend(qkv, size, head, y, log_sums));
        });
    }
    fn gpu(&self, g: &Gpu) {
        let launch = choose::attention(&g.capabilities(), g.dtype(), &self.size.shape());
        g.launch(&launch, &[&[self.y.into(), self.log_sums.into(), self.qkv.into()][..], &self.size.args()].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        self.size.cost(2, element, 4)
    }
}
