//! Which kernel, of which tiles, with how many blocks: for products, convolutions, attention and the first layer. Functions of the shape,
//! the type of activations and what the device can do; the launches are in `product.rs`, `stem.rs` and `attention/`. Not an op.
//!
//! What the result depends on is chosen by shapes alone: into how many parts a sum is split, so that every card adds in the same order.

use crate::device::conv::{Activation, Conv};
use crate::device::{Capabilities, Launch};
use crate::var::Dtype;

/// Rows of a tile of a product: the pixels that one block makes, and that its statistics are of.
pub const TILE: usize = 128;

/// A product y `[rows, outputs]`, whose sums run over `taps` neighbours of `channels` each.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub rows: usize,
    pub outputs: usize,
    pub channels: usize,
    pub taps: usize,
    /// Pixel and neighbourhood are one: a product of two matrices.
    pub plain: bool,
}

impl Product {
    fn tiles(&self, columns: usize) -> usize {
        self.rows.div_ceil(TILE) * self.outputs.div_ceil(columns)
    }
}

/// Copies and stores go 16 bytes at a time where both sides allow it.
fn whole(dtype: Dtype, channels: usize, outputs: usize) -> bool {
    let vector = 16 / dtype.bytes();
    channels.is_multiple_of(vector) && outputs.is_multiple_of(vector)
}

/// Shared memory of a block that makes so many rows and columns: as in `product.cuh` and `product_hopper.cuh`.
fn shared(hopper: bool, rows: usize, columns: usize) -> u32 {
    let (row, stages) = match (hopper, columns) {
        (true, 256) => (128, 4),
        (true, _) => (128, 3),
        (false, _) => (64, 4),
    };
    (stages * (rows + columns) * row) as u32
}

/// The kernel of a product: of `conv.cu` or `conv_hopper.cu`.
pub fn product(on: &Capabilities, dtype: Dtype, p: &Product) -> Launch {
    let wide = p.outputs >= 256 && p.tiles(256) >= on.wide;
    let (kernel, columns, threads) = match p.outputs {
        _ if !whole(dtype, p.channels, p.outputs) => ("conv_any", 64, 128),
        ..=64 => ("conv_128x64", 64, 128),
        _ if on.wgmma && p.taps * p.channels >= on.deep && wide => ("conv_hopper_wide", 256, 256),
        _ if on.wgmma => ("conv_hopper", 128, 256),
        _ if wide => ("conv_128x256", 256, 256),
        _ => ("conv_128x128", 128, 128),
    };
    let grid = [p.tiles(columns) as u32, 1, 1];
    Launch { kernel, grid, block: [threads, 1, 1], shared: shared(kernel.contains("hopper"), TILE, columns) }
}

/// What happens to a product before it is written, as far as kernels are made for it.
#[derive(Clone, Copy, Debug)]
pub struct EpilogueKind {
    pub activation: Activation,
    /// Something like the result is added.
    pub adds: bool,
    /// What the activation is given is written as well.
    pub keeps: bool,
}

/// The kernel of `linear_hopper.cu` for a product, and the columns of its tiles; none where there is none or it is not to be taken.
pub fn by_tma(on: &Capabilities, dtype: Dtype, p: &Product, kind: EpilogueKind) -> Option<(Launch, usize)> {
    if !(on.tma && whole(dtype, p.channels, p.outputs) && p.outputs > 64 && p.plain) {
        return None;
    }
    let names = match (kind.activation, kind.adds, kind.keeps) {
        (Activation::Nothing, false, _) => ["linear_128", "linear_256"],
        (Activation::Nothing, true, _) => ["linear_128_more", "linear_256_more"],
        (Activation::Relu, false, _) => ["linear_128_relu", "linear_256_relu"],
        (Activation::Relu, true, _) => ["linear_128_relu_more", "linear_256_relu_more"],
        (Activation::Gelu, false, false) => ["linear_128_gelu", "linear_256_gelu"],
        (Activation::Gelu, false, true) => ["linear_128_gelu_keep", "linear_256_gelu_keep"],
        (Activation::Gelu, true, _) => return None,
    };
    // A tile of half as many columns takes about three fifths of the time, and leaves fewer multiprocessors idle at the end.
    let blocks = on.multiprocessors;
    let wide = 5 * p.tiles(256).div_ceil(blocks) <= 3 * p.tiles(128).div_ceil(blocks);
    // Stages, slabs and barriers: `Wide` in `product_tma.cuh`.
    let (columns, stages) = if wide { (256, 4) } else { (128, 6) };
    let shared = (stages * (TILE + columns) * 128 + 8 * 4096 + stages * 16) as u32;
    let grid = [p.tiles(columns).min(blocks) as u32, 1, 1];
    Some((Launch { kernel: names[wide as usize], grid, block: [384, 1, 1], shared }, columns))
}

/// Partial sums of the gradient of weights: how many is decided by the shape alone, so that every card adds alike. The least time of a model of
/// an H200 decides: tiles of 128 x 128 go through 264 places, two on each multiprocessor, at 2 TFLOP/s each, and the parts are written and
/// read again at 4 TB/s. None has fewer than 512 pixels.
fn splits(c: &Conv) -> usize {
    let pixels = c.batch * c.out_height() * c.out_width();
    let tiles = c.outputs.div_ceil(128) * (c.channels * c.kernel * c.kernel).div_ceil(128);
    let seconds = |parts: usize| {
        let rounds = (tiles * parts).div_ceil(264) as f64;
        rounds * (pixels.div_ceil(parts) * 2 * 128 * 128) as f64 / 2e12 + (parts * c.weight_len() * 8) as f64 / 4e12
    };
    (1..=pixels.div_ceil(512).min(528)).min_by(|&a, &b| seconds(a).total_cmp(&seconds(b))).unwrap_or(1)
}

/// Pixels of each part of the sum, a multiple of the steps of both types.
pub fn pixels_per_split(c: &Conv) -> usize {
    (c.batch * c.out_height() * c.out_width()).div_ceil(splits(c)).next_multiple_of(32)
}

/// Parts of the gradient of weights, which [`weights`] leaves.
pub fn parts(c: &Conv) -> usize {
    (c.batch * c.out_height() * c.out_width()).div_ceil(pixels_per_split(c))
}

/// The kernel of the gradient of weights: of `conv_bwd_w.cu` or `conv_bwd_w_hopper.cu`.
pub fn weights(on: &Capabilities, dtype: Dtype, c: &Conv) -> Launch {
    let (kernel, rows, columns, threads) = match c.outputs {
        _ if !whole(dtype, c.channels, c.outputs) => ("conv_bwd_w_any", 64, 64, 128),
        ..=64 => ("conv_bwd_w_64x128", 64, 128, 128),
        _ if on.wgmma => ("conv_bwd_w_hopper", 128, 128, 256),
        _ => ("conv_bwd_w_128x128", 128, 128, 128),
    };
    let tiles = c.outputs.div_ceil(rows) * (c.channels * c.kernel * c.kernel).div_ceil(columns);
    let grid = [tiles as u32, parts(c) as u32, 1];
    Launch { kernel, grid, block: [threads, 1, 1], shared: shared(kernel == "conv_bwd_w_hopper", rows, columns) }
}

/// Outputs that a block of a first layer's kernels makes.
pub const STEM_OUTPUTS: usize = 64;
/// Tiles of a block of the forward kernel at most: weights are arranged once for them.
const STEM_TILES: usize = 8;

/// How the first convolution of a network is launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stem {
    pub launch: Launch,
    /// What a block makes: tiles of pixels, or of the gradient rows of dy.
    pub run: usize,
    /// Bytes of a copied row of an image.
    pub pitch: usize,
}

/// The kernels exist for the first layers of networks, with 7x7 or 3x3 taps.
fn is_stem(c: &Conv) -> bool {
    let shape = matches!((c.kernel, c.stride), (7, 2) | (3, 1)) && c.pad == c.kernel / 2;
    shape && c.channels == 3 && c.outputs.is_multiple_of(8) && c.out_height() > 1 && c.batch > 0
}

/// Bytes of a copied row: those before the image, and what the window of column `last` sees, `wide` values. `bank`: the bank of shared memory,
/// of 32, where each row begins after the one before.
fn pitch(c: &Conv, bytes: usize, last: usize, wide: usize, bank: usize) -> usize {
    let lead = ((3 * c.pad + 1) * bytes).next_multiple_of(16);
    let window = (3 * last * c.stride + wide) * bytes + lead - (3 * c.pad) * bytes;
    let words = window.max(lead + 3 * c.width * bytes).div_ceil(4);
    4 * (words + (bank + 32 - words % 32) % 32)
}

/// Rows of images that `run` tiles of pixels see at most.
fn rows_seen(c: &Conv, run: usize) -> usize {
    let pixels = c.batch * c.out_height() * c.out_width();
    let lines = (((run * TILE).min(pixels) + c.out_width() - 2) / c.out_width() + 1).min(c.batch * c.out_height());
    let images = (lines - 1).div_ceil(c.out_height()).min(c.batch - 1);
    (lines - 1) * c.stride + c.kernel + images * (c.kernel - c.stride)
}

/// The kernel of a network's first convolution, of `conv_stem.cu`; none if there is none for this shape.
pub fn stem(on: &Capabilities, dtype: Dtype, c: &Conv) -> Option<Stem> {
    // Columns that begin at an odd value are told apart by their place in y.
    let even = c.stride > 1 || c.out_width().is_multiple_of(2);
    if !is_stem(c) || !even {
        return None;
    }
    let bytes = dtype.bytes();
    let (kernel, wide) = if c.kernel == 7 { ("conv_stem_7x7", 24) } else { ("conv_stem_3x3", 10) };
    let pitch = pitch(c, bytes, c.out_width() - 1, wide, 24);
    let weights = bytes * STEM_OUTPUTS * 3 * c.kernel * c.kernel;
    let shared = |run: usize| weights + 4 * (STEM_OUTPUTS + run * TILE) + rows_seen(c, run) * pitch;
    // Three blocks on a multiprocessor, or what there is room for.
    let run = [STEM_TILES, STEM_TILES / 2, STEM_TILES / 4, 1].into_iter().find(|&run| shared(run) <= on.shared / 3);
    let run = run.or((shared(1) <= on.shared).then_some(1))?;
    let tiles = (c.batch * c.out_height() * c.out_width()).div_ceil(TILE);
    let grid = [tiles.div_ceil(run) as u32, c.outputs.div_ceil(STEM_OUTPUTS) as u32, 1];
    Some(Stem { launch: Launch { kernel, grid, block: [128, 1, 1], shared: shared(run) as u32 }, run, pitch })
}

/// Rows of dy that a block of the gradient of weights sums up, decided by the shape alone: enough blocks for three on every multiprocessor of a
/// large card, none with fewer than 512 pixels or more than 8192.
fn stem_run(c: &Conv) -> usize {
    let at_least = 512usize.div_ceil(c.out_width());
    (c.batch * c.out_height()).div_ceil(396).clamp(at_least, (8192 / c.out_width()).max(at_least))
}

/// Parts of the sum that [`stem_weights`] leaves; none if there is no kernel for this shape.
pub fn stem_parts(c: &Conv) -> usize {
    if is_stem(c) { (c.batch * c.out_height()).div_ceil(stem_run(c)) } else { 0 }
}

/// The kernel of the gradient of a first convolution's weights, of `conv_stem_bwd_w.cu`; none if there is none for this shape.
pub fn stem_weights(on: &Capabilities, dtype: Dtype, c: &Conv) -> Option<Stem> {
    if !is_stem(c) {
        return None;
    }
    let bytes = dtype.bytes();
    // As in `conv_stem_bwd_w.cu`: columns of a step, rows of dy and of x that are kept, values of a window, kinds of columns.
    let (kernel, group, stages, ring, wide, kinds) = match c.kernel {
        7 => ("conv_stem_bwd_w_7x7", 16, 3, 16, 22, 1),
        _ => ("conv_stem_bwd_w_3x3", 32, 8, 32, 10, 2),
    };
    let columns = c.out_width().next_multiple_of(group);
    let pitch = pitch(c, bytes, columns - 1, wide, 20);
    let sums = 4 * kinds * STEM_OUTPUTS * 3 * c.kernel * c.kernel;
    let shared = (stages * columns * STEM_OUTPUTS * bytes + ring * pitch).max(sums);
    let grid = [c.outputs.div_ceil(STEM_OUTPUTS) as u32, stem_parts(c) as u32, 1];
    let launch = Launch { kernel, grid, block: [128, 1, 1], shared: shared as u32 };
    (shared <= on.shared).then_some(Stem { launch, run: stem_run(c), pitch })
}

/// Columns of a head of attention at most: what the kernels hold in registers.
pub const LARGEST_HEAD: usize = 128;

/// Self-attention of `images` images with `tokens` tokens each, in `heads` heads of `head` columns.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub images: usize,
    pub tokens: usize,
    pub heads: usize,
    pub head: usize,
}

/// Kernels that hold a head's tokens in shared memory; the counterpart of `attention_short.cu` and `attention_bwd_short.cu`.
struct Short {
    tokens: usize,
    /// Of the forward kernel at most.
    warps: usize,
    forward: &'static str,
    back: Option<&'static str>,
}

const fn short(tokens: usize, warps: usize, forward: &'static str, back: Option<&'static str>) -> Short {
    Short { tokens, warps, forward, back }
}

const SHORT: [Short; 5] = [
    short(64, 4, "attention_fwd_short_64", Some("attention_bwd_short_64")),
    short(80, 5, "attention_fwd_short_80", Some("attention_bwd_short_80")),
    short(128, 4, "attention_fwd_short_128", Some("attention_bwd_short_128")),
    short(208, 7, "attention_fwd_short_208", Some("attention_bwd_short_208")),
    short(272, 6, "attention_fwd_short_272", None),
];
/// Columns of a head, filled up, in those kernels.
const SHORT_HEAD: usize = 64;

impl Attention {
    /// Blocks of 16 rows.
    fn strips(&self) -> usize {
        self.tokens.div_ceil(16)
    }
    /// The kernels for few tokens where there are such: for heads that come in 16 bytes and are not mostly filled up.
    fn short(&self, bytes: usize) -> Option<&'static Short> {
        let takes = (SHORT_HEAD / 2 + 1..=SHORT_HEAD).contains(&self.head) && self.head.is_multiple_of(16 / bytes);
        SHORT.iter().find(|short| takes && self.tokens <= short.tokens)
    }
    /// A block per head with all tokens in shared memory, if a block may have so much.
    fn by_heads(&self, on: &Capabilities, kernel: &'static str, warps: usize, shared: usize) -> Option<Launch> {
        let grid = [(self.images * self.heads) as u32, 1, 1];
        (shared <= on.shared).then_some(Launch { kernel, grid, block: [32 * warps as u32, 1, 1], shared: shared as u32 })
    }
    /// Blocks of one head's rows, 16 to a warp: as few as eight warps allow (four of f32), and all alike. `names` are the kernels for
    /// heads of up to 32, 64 and 128. `stay` tiles of a block's own rows lie in shared memory, two others and `beside` bytes for each of
    /// their rows come by in two slots. The counterpart of `attention.cuh`.
    fn by_strips(&self, dtype: Dtype, names: [&'static str; 3], stay: usize, beside: usize) -> Launch {
        let bytes = dtype.bytes();
        let (kernel, padded) = match self.head {
            ..=32 => (names[0], 32),
            33..=64 => (names[1], 64),
            _ => (names[2], LARGEST_HEAD),
        };
        let strips = self.strips();
        let warps = strips.div_ceil(strips.div_ceil(16 / bytes));
        let columns = if padded <= 64 { 64 } else { 64 / bytes };
        let slot = columns * (2 * padded * bytes + beside);
        let slabs = warps * 16 * (64 / bytes + 8) * 4; // through which results leave
        let slots = (self.tokens.div_ceil(columns).min(2) * slot).max(slabs);
        let grid = [(self.images * self.heads * strips.div_ceil(warps)) as u32, 1, 1];
        let shared = (stay * warps * 16 * padded * bytes + slots) as u32;
        Launch { kernel, grid, block: [32 * warps as u32, 1, 1], shared }
    }
}

/// The kernel of attention: for few tokens, whose warps share the strips of queries evenly, or for any number.
pub fn attention(on: &Capabilities, dtype: Dtype, a: &Attention) -> Launch {
    let short = a.short(dtype.bytes()).and_then(|short| {
        let (strips, bytes) = (a.strips(), 3 * short.tokens * SHORT_HEAD * dtype.bytes());
        a.by_heads(on, short.forward, strips.div_ceil(strips.div_ceil(short.warps)), bytes)
    });
    short.unwrap_or_else(|| a.by_strips(dtype, ["attention_fwd_32", "attention_fwd_64", "attention_fwd_128"], 1, 0))
}

/// The gradient of attention for few tokens, if a kernel takes it: a warp per strip, two numbers per query, and the gradients of all scores in
/// shared memory as well.
pub fn attention_back(on: &Capabilities, dtype: Dtype, a: &Attention) -> Option<Launch> {
    let bytes = dtype.bytes();
    let &Short { tokens, back, .. } = a.short(bytes)?;
    a.by_heads(on, back?, a.strips(), tokens * (4 * SHORT_HEAD * bytes + 8 + tokens * bytes))
}

/// The gradient of attention for any number of tokens: first of the queries, then of keys and values.
pub fn attention_back_long(dtype: Dtype, a: &Attention) -> [Launch; 2] {
    [
        a.by_strips(dtype, ["attention_bwd_q_32", "attention_bwd_q_64", "attention_bwd_q_128"], 2, 0),
        a.by_strips(dtype, ["attention_bwd_kv_32", "attention_bwd_kv_64", "attention_bwd_kv_128"], 2, 8),
    ]
}
