//! The gradients of queries, keys and values. The probabilities p are recomputed from scores and logsumexp. With delta = sum(dy y) of a
//! query, the gradient of its scores is ds = p (dy vᵀ - delta) / sqrt(d); then dv = pᵀ dy, dk = dsᵀ q, dq = ds k.

use super::forward::split;
use super::{AttentionSize, HeadRows, Projection, right, rows_by_head, scores};
use crate::device::product::{LANES, Left, Right, multiply, pack_here, packed_len, with_scratch};
use crate::device::{Gpu, Host};
use crate::ops::choose;
use crate::ops::reduce::sum_of;
use crate::tape::{Call, Cost, Grad, Operands};
use crate::var::Var;
use rayon::prelude::*;

pub struct Backward {
    pub dqkv: Grad,    // [images, tokens, 3 * heads * head]
    pub delta: Var,    // [images, heads, tokens], on a GPU: from the first to the second of the kernels for many tokens
    pub dy: Var,       // [images, tokens, heads * head]
    pub y: Var,        // [images, tokens, heads * head]
    pub qkv: Var,      // [images, tokens, 3 * heads * head]
    pub log_sums: Var, // [images, heads, tokens]
    pub size: AttentionSize,
}

/// The operands of one image.
struct Image<'a> {
    qkv: &'a [f32],      // [tokens, 3 * width]
    dy: &'a [f32],       // [tokens, width]
    y: &'a [f32],        // [tokens, width]
    log_sums: &'a [f32], // [heads, tokens]
    size: AttentionSize,
    add: bool,
}

impl Image<'_> {
    /// The three gradients of one head, `[tokens][head]` each.
    fn back(&self, head: usize, [mut dq, mut dk, mut dv]: [Vec<&mut [f32]>; 3]) {
        let size = self.size;
        let [q, k, v] = [Projection::Query, Projection::Key, Projection::Value].map(|part| HeadRows::of(self.qkv, size, part, head));
        let [dy, y] = [self.dy, self.y].map(|data| HeadRows { data, first: head * size.head, stride: size.width(), size });
        let log_sums = &self.log_sums[head * size.tokens..][..size.tokens];
        let (tokens, block, stride) = (size.tokens, size.block(), size.stride());
        let columns = size.head.next_multiple_of(LANES);
        let (packed, copied) = (packed_len(size.head, tokens), tokens * columns);
        let (some, pairs) = (block * columns, block * stride);
        let sizes = [packed, packed, copied, copied, copied, some, some, some, pairs, pairs, block];
        with_scratch(sizes.iter().sum(), |scratch| {
            let [keys, values, key_rows, sum_k, sum_v, query_rows, dy_rows, out, s, dp, delta] = split(scratch, sizes);
            pack_here(size.head, tokens, keys, |token| k.row(token));
            pack_here(size.head, tokens, values, |token| v.row(token));
            k.copy(0, key_rows);
            for first in (0..tokens).step_by(block) {
                let count = block.min(tokens - first);
                q.copy(first, &mut query_rows[..count * columns]);
                dy.copy(first, &mut dy_rows[..count * columns]);
                for (i, delta) in delta[..count].iter_mut().enumerate() {
                    *delta = sum_of([y.row(first + i), dy.row(first + i)], |[y, dy]| y * dy) as f32;
                }
                let (s, dp) = (&mut s[..count * stride], &mut dp[..count * stride]);
                multiply(q.left(first), count, size.head, Right::packed(keys, size.head, tokens), s, stride, false);
                multiply(dy.left(first), count, size.head, Right::packed(values, size.head, tokens), dp, stride, false);
                scores::softmax_back(s, dp, stride, size.scale(), delta, &log_sums[first..]);
                let turned = |data| Left { data, row_step: 1, depth_step: stride };
                multiply(turned(s), tokens, count, right(dy_rows, size.head), sum_v, columns, first > 0);
                multiply(turned(dp), tokens, count, right(query_rows, size.head), sum_k, columns, first > 0);
                let ds = Left { data: dp, row_step: stride, depth_step: 1 };
                multiply(ds, count, tokens, right(key_rows, size.head), out, columns, false);
                self.write(&mut dq[first..first + count], out, size.scale());
            }
            self.write(&mut dk, sum_k, size.scale());
            self.write(&mut dv, sum_v, 1.0);
        });
    }
    fn write(&self, rows: &mut [&mut [f32]], sums: &[f32], scale: f32) {
        for (to, from) in rows.iter_mut().zip(sums.chunks_exact(self.size.head.next_multiple_of(LANES))) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = if self.add { *to + from * scale } else { from * scale });
        }
    }
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "attention_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.delta], &[self.dy, self.y, self.qkv, self.log_sums]).grad(self.dqkv)
    }
    fn cpu(&self, m: &Host) {
        let (size, add) = (self.size, self.dqkv.add);
        let (image, sums) = (size.tokens * size.width(), size.heads * size.tokens);
        let (dy, y, qkv, log_sums) = (m.f(self.dy), m.f(self.y), m.f(self.qkv), m.f(self.log_sums));
        let images = qkv.par_chunks(3 * image).zip(dy.par_chunks(image)).zip(y.par_chunks(image)).zip(log_sums.par_chunks(sums));
        images.zip(m.f_mut(self.dqkv.var).par_chunks_mut(3 * image)).for_each(|((((qkv, dy), y), log_sums), dqkv)| {
            let image = Image { qkv, dy, y, log_sums, size, add };
            let mut dq = rows_by_head(dqkv, size, 3);
            let mut dk = dq.split_off(size.heads);
            let dv = dk.split_off(size.heads);
            let heads = dq.into_par_iter().zip(dk).zip(dv).enumerate();
            heads.with_min_len(size.heads_at_once()).for_each(|(head, ((dq, dk), dv))| image.back(head, [dq, dk, dv]));
        });
    }
    fn gpu(&self, g: &Gpu) {
        let Backward { dqkv: Grad { var: dqkv, add }, delta, dy, y, qkv, log_sums, size } = *self;
        if let Some(launch) = choose::attention_back(&g.capabilities(), g.dtype(), &size.shape()) {
            let args = [dqkv.into(), qkv.into(), y.into(), dy.into(), log_sums.into(), add.into()];
            return g.launch(&launch, &[&args[..], &size.args()].concat());
        }
        let [queries, keys_values] = choose::attention_back_long(g.dtype(), &size.shape());
        let args = [dqkv.into(), delta.into(), qkv.into(), y.into(), dy.into(), log_sums.into(), add.into()];
        g.launch(&queries, &[&args[..], &size.args()].concat());
        let args = [dqkv.into(), qkv.into(), dy.into(), log_sums.into(), delta.into(), add.into()];
        g.launch(&keys_values, &[&args[..], &size.args()].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        self.size.cost(5, element, 8 + 3 * self.dqkv.add as u64)
    }
}
