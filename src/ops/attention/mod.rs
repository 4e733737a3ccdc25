//! Multi-head self-attention (Vaswani et al. 2017): softmax(q kᵀ / sqrt(d)) v for every image and head.
//!
//! Neither device stores the scores of all queries. The forward keeps each query's logsumexp, from which the backward recomputes the
//! probabilities, as FlashAttention does (Dao et al. 2022).

mod backward;
mod forward;
mod scores;

use super::Case;
use super::choose::{self, LARGEST_HEAD};
use crate::device::Arg;
use crate::device::product::{LANES, Left, PANEL, Right, TILE_ROWS};
use crate::tape::{Cost, Mode, Scope};
use crate::var::Var;
use backward::Backward;
use forward::Forward;

impl Scope<'_> {
    /// y = softmax(q kᵀ / sqrt(d)) v per image and head.
    ///
    /// qkv is `[n, t, 3 * width]`, y is `[n, t, width]`, with width = heads * d. Columns are those of timm: queries, keys, values, each
    /// `heads` times d; y holds the heads in order. Gradient: with p the probabilities and delta = sum(dy y) of a query,
    /// ds = p (dy vᵀ - delta) / sqrt(d); dv = pᵀ dy, dk = dsᵀ q, dq = ds k.
    ///
    /// Kernels: `attention.cu`, `attention_bwd.cu`; for few tokens `attention_short.cu`, `attention_bwd_short.cu`.
    ///
    /// # Panics
    /// qkv has not three dimensions, its columns are no multiple of 3 `heads`, or a head has more than [`LARGEST_HEAD`] columns.
    pub fn attention(&mut self, qkv: Var, heads: usize) -> Var {
        let shape = self.shape(qkv);
        let &[images, tokens, columns] = shape.dims() else {
            panic!("{}: attention takes queries, keys and values [n, t, 3 * width], not {shape:?}", self.path())
        };
        let head = columns / (3 * heads);
        assert!(3 * heads * head == columns && head > 0, "{}: {columns} columns are not three times {heads} heads", self.path());
        assert!(head <= LARGEST_HEAD, "{}: a head of {head} columns is larger than {LARGEST_HEAD}; take more heads", self.path());
        let size = AttentionSize { images, tokens, heads, head };
        let t = &mut *self.tape;
        let (y, log_sums) = (t.var([images, tokens, size.width()]), t.f32([images, heads, tokens]));
        self.record(&[qkv], y, Forward { y, log_sums, qkv, size }, move |t, dy| {
            if let Some(dqkv) = t.gradient_of(qkv) {
                let delta = t.f32([images, heads, tokens]);
                let delta = t.gpu_only(delta);
                t.no_grad(Backward { dqkv, delta, dy, y, qkv, log_sums, size })
            }
        })
    }
}

#[derive(Clone, Copy)]
struct AttentionSize {
    images: usize,
    tokens: usize,
    heads: usize,
    head: usize,
}

/// A third of the columns of `qkv`.
#[derive(Clone, Copy)]
enum Projection {
    Query,
    Key,
    Value,
}

impl AttentionSize {
    fn width(&self) -> usize {
        self.heads * self.head
    }
    fn scale(&self) -> f32 {
        1.0 / (self.head as f32).sqrt()
    }
    /// Queries that the CPU takes at a time: at most about 96, so that their scores stay in the L2 cache.
    fn block(&self) -> usize {
        let blocks = self.tokens.div_ceil(96);
        self.tokens.div_ceil(blocks).next_multiple_of(TILE_ROWS)
    }
    /// Floats from one row of scores to the next on the CPU.
    fn stride(&self) -> usize {
        self.tokens.next_multiple_of(LANES)
    }
    /// Heads of an image per task: all of them if the images alone keep the threads busy.
    fn heads_at_once(&self) -> usize {
        if self.images >= 4 * rayon::current_num_threads() { self.heads } else { 1 }
    }
    /// FLOP of one product of all queries with all keys.
    fn product(&self) -> u64 {
        2 * (self.images * self.tokens * self.tokens * self.width()) as u64
    }
    fn cost(&self, products: u64, element: u64, passes: u64) -> Cost {
        let rows = (self.images * self.tokens) as u64;
        Cost { flops: products * self.product(), bytes: rows * (element * passes * self.width() as u64 + 4 * self.heads as u64) }
    }
}

impl AttentionSize {
    /// The shape, for [`choose`].
    fn shape(&self) -> choose::Attention {
        let AttentionSize { images, tokens, heads, head } = *self;
        choose::Attention { images, tokens, heads, head }
    }
    /// The last parameters of every attention kernel, behind the pointers.
    fn args(&self) -> [Arg; 4] {
        [self.tokens.into(), self.heads.into(), self.head.into(), self.scale().into()]
    }
}

/// One head of one image: a view `[tokens, head]` into rows `[tokens, stride]`.
#[derive(Clone, Copy)]
struct HeadRows<'a> {
    data: &'a [f32],
    first: usize,
    stride: usize,
    size: AttentionSize,
}

impl<'a> HeadRows<'a> {
    /// Queries, keys or values of `head` in one image's rows `[tokens, 3 * width]` of qkv.
    fn of(qkv: &'a [f32], size: AttentionSize, part: Projection, head: usize) -> HeadRows<'a> {
        HeadRows { data: qkv, first: part as usize * size.width() + head * size.head, stride: 3 * size.width(), size }
    }
    fn row(&self, token: usize) -> &'a [f32] {
        &self.data[self.first + token * self.stride..][..self.size.head]
    }
    /// The left matrix `[tokens, head]` of a product, from `token` on.
    fn left(&self, token: usize) -> Left<'a> {
        Left { data: &self.data[self.first + token * self.stride..], row_step: self.stride, depth_step: 1 }
    }
    /// Copies rows from `token` on to `out` `[rows, head rounded up to LANES]`.
    fn copy(&self, token: usize, out: &mut [f32]) {
        let columns = self.size.head.next_multiple_of(LANES);
        out.chunks_exact_mut(columns).enumerate().for_each(|(i, out)| out[..self.size.head].copy_from_slice(self.row(token + i)));
    }
}

/// A right matrix `[rows, columns]` in the layout that [`HeadRows::copy`] leaves.
fn right(data: &[f32], columns: usize) -> Right<'_> {
    let stride = columns.next_multiple_of(LANES);
    Right { data, width: columns, panel: PANEL, panel_step: PANEL, stride }
}

/// An image's rows `[tokens, parts * width]`, cut into the rows `[tokens][head]` of each part and head, so that tasks can write them apart.
fn rows_by_head(rows: &mut [f32], size: AttentionSize, parts: usize) -> Vec<Vec<&mut [f32]>> {
    let count = parts * size.heads;
    let mut heads: Vec<Vec<&mut [f32]>> = (0..count).map(|_| Vec::with_capacity(size.tokens)).collect();
    rows.chunks_exact_mut(size.head).enumerate().for_each(|(i, row)| heads[i % count].push(row));
    heads
}

pub static CASES: &[Case] = &[
    Case { name: "attention/tiny", mode: Mode::Train, inputs: &[&[2, 3, 9]], build: |s, x| s.attention(x[0], 1) },
    Case { name: "attention/ragged", mode: Mode::Train, inputs: &[&[2, 19, 3 * 3 * 20]], build: |s, x| s.attention(x[0], 3) },
    Case { name: "attention/nano", mode: Mode::Train, inputs: &[&[3, 17, 3 * 64]], build: |s, x| s.attention(x[0], 2) },
    Case { name: "attention/vit_tiny", mode: Mode::Train, inputs: &[&[1, 65, 3 * 192]], build: |s, x| s.attention(x[0], 3) },
    Case { name: "attention/crop", mode: Mode::Train, inputs: &[&[2, 37, 3 * 64]], build: |s, x| s.attention(x[0], 1) },
    Case { name: "attention/photo", mode: Mode::Train, inputs: &[&[1, 197, 3 * 64]], build: |s, x| s.attention(x[0], 1) },
    Case { name: "attention/patches_14", mode: Mode::Eval, inputs: &[&[1, 257, 3 * 64]], build: |s, x| s.attention(x[0], 1) },
    Case { name: "attention/short_128", mode: Mode::Train, inputs: &[&[1, 100, 3 * 64]], build: |s, x| s.attention(x[0], 1) },
    Case { name: "attention/odd_head", mode: Mode::Train, inputs: &[&[1, 130, 3 * 60]], build: |s, x| s.attention(x[0], 1) },
    Case { name: "attention/blocks", mode: Mode::Train, inputs: &[&[1, 210, 3 * 64]], build: |s, x| s.attention(x[0], 1) },
    Case { name: "attention/long", mode: Mode::Eval, inputs: &[&[1, 290, 3 * 64]], build: |s, x| s.attention(x[0], 1) },
    Case { name: "attention/head_16", mode: Mode::Train, inputs: &[&[1, 70, 3 * 32]], build: |s, x| s.attention(x[0], 2) },
    Case { name: "attention/head_48", mode: Mode::Train, inputs: &[&[1, 33, 3 * 96]], build: |s, x| s.attention(x[0], 2) },
    Case { name: "attention/head_80", mode: Mode::Eval, inputs: &[&[1, 67, 3 * 160]], build: |s, x| s.attention(x[0], 2) },
    Case { name: "attention/head_128", mode: Mode::Train, inputs: &[&[1, 40, 3 * 128]], build: |s, x| s.attention(x[0], 1) },
];
