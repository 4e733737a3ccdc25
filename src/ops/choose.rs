//! The choice of kernel, tile and grid for products, convolutions, attention and the first layer. Each is a pure function of shape, type of
//! activations and [`Capabilities`]; the launches are in `product.rs`, `stem.rs` and `attention/`. Not an op.
//!
//! Choices that change the result (into how many parts a sum is split) depend on shapes alone, so that every card adds in the same order.

use crate::device::conv::{Activation, Conv};
use crate::device::{Capabilities, Launch};
use crate::var::Dtype;

/// Output rows (pixels) per thread block. Batch norm gets one partial mean and variance per such tile.
pub const TILE: usize = 128;

/// A product y `[rows, outputs]` with K = taps * channels.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub rows: usize,
    pub outputs: usize,
    pub channels: usize,
    pub taps: usize,
    /// Each window is its own pixel: a product of two plain matrices.
    pub plain: bool,
}

impl Product {
    fn tiles(&self, columns: usize) -> usize {
        self.rows.div_ceil(TILE) * self.outputs.div_ceil(columns)
    }
}

/// Whether rows of input and output are multiples of 16 bytes, so that copies and stores move 16 bytes at a time.
fn whole(dtype: Dtype, channels: usize, outputs: usize) -> bool {
    let vector = 16 / dtype.bytes();
    channels.is_multiple_of(vector) && outputs.is_multiple_of(vector)
}

/// Dynamic shared memory of a block with a tile of `rows` x `columns`, bytes: the stages of `product.cuh` or `product_hopper.cuh`.
fn shared(hopper: bool, rows: usize, columns: usize) -> u32 {
    let (row, stages) = match (hopper, columns) {
        (true, 256) => (128, 4),
        (true, _) => (128, 3),
        (false, _) => (64, 4),
    };
    (stages * (rows + columns) * row) as u32
}

/// The launch of a product, from `conv.cu` or `conv_hopper.cu`.
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

/// The features of an epilogue for which `linear_hopper.cu` has kernels of its own.
#[derive(Clone, Copy, Debug)]
pub struct EpilogueKind {
    pub activation: Activation,
    /// A residual or the old y is added.
    pub adds: bool,
    /// The activation's argument is stored for the backward.
    pub keeps: bool,
}

/// The launch of a product from `linear_hopper.cu` and the columns of its tile. `None`: the device does not ask for TMA, or no kernel fits.
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
    // A tile of 128 columns takes about 3/5 of the time of one of 256. Compare the rounds of persistent blocks that each width needs.
    let blocks = on.multiprocessors;
    let wide = 5 * p.tiles(256).div_ceil(blocks) <= 3 * p.tiles(128).div_ceil(blocks);
    // Stages, slabs and barriers: `Wide` in `product_tma.cuh`.
    let (columns, stages) = if wide { (256, 4) } else { (128, 6) };
    let shared = (stages * (TILE + columns) * 128 + 8 * 4096 + stages * 16) as u32;
    let grid = [p.tiles(columns).min(blocks) as u32, 1, 1];
    Some((Launch { kernel: names[wide as usize], grid, block: [384, 1, 1], shared }, columns))
}

/// The number of parts of a weight gradient (split-K). The shape alone decides, so that every card adds in the same order.
///
/// It minimises the time on a model of an H200: tiles of 128 x 128 run 264 at a time (two per multiprocessor) at 2 TFLOP/s each, and the
/// parts are written and read once at 4 TB/s. A part has at least 512 pixels.
fn splits(c: &Conv) -> usize {
    let pixels = c.batch * c.out_height() * c.out_width();
    let tiles = c.outputs.div_ceil(128) * (c.channels * c.kernel * c.kernel).div_ceil(128);
    let seconds = |parts: usize| {
        let rounds = (tiles * parts).div_ceil(264) as f64;
        rounds * (pixels.div_ceil(parts) * 2 * 128 * 128) as f64 / 2e12 + (parts * c.weight_len() * 8) as f64 / 4e12
    };
    (1..=pixels.div_ceil(512).min(528)).min_by(|&a, &b| seconds(a).total_cmp(&seconds(b))).unwrap_or(1)
}

/// Pixels per part, a multiple of BK in f32 and bf16.
pub fn pixels_per_split(c: &Conv) -> usize {
    (c.batch * c.out_height() * c.out_width()).div_ceil(splits(c)).next_multiple_of(32)
}

/// Partial sums that the kernel of [`weights`] writes: at most `splits`, after rounding up the pixels of each.
pub fn parts(c: &Conv) -> usize {
    (c.batch * c.out_height() * c.out_width()).div_ceil(pixels_per_split(c))
}

/// The launch of the weight gradient, from `conv_bwd_w.cu` or `conv_bwd_w_hopper.cu`.
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

/// Output channels per block of a first layer's kernels.
pub const STEM_OUTPUTS: usize = 64;
/// Most tiles per block of the forward kernel. A block loads the weights into registers once, so more tiles amortise that.
const STEM_TILES: usize = 8;

/// How the first convolution of a network is launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stem {
    pub launch: Launch,
    /// Work per block: tiles of pixels in the forward, rows of dy in the gradient.
    pub run: usize,
    /// Bytes from one copied row of an image to the next in shared memory.
    pub pitch: usize,
}

/// The kernels exist for the first layers of networks, with 7x7 or 3x3 taps.
fn is_stem(c: &Conv) -> bool {
    let shape = matches!((c.kernel, c.stride), (7, 2) | (3, 1)) && c.pad == c.kernel / 2;
    shape && c.channels == 3 && c.outputs.is_multiple_of(8) && c.out_height() > 1 && c.batch > 0
}

/// Bytes of a copied row: the padding before the image, up to the end of the window of column `last`, which is `wide` values long. The row is
/// padded until the next begins `bank` banks (of 32) further, so that windows of neighbouring rows do not collide.
fn pitch(c: &Conv, bytes: usize, last: usize, wide: usize, bank: usize) -> usize {
    let lead = ((3 * c.pad + 1) * bytes).next_multiple_of(16);
    let window = (3 * last * c.stride + wide) * bytes + lead - (3 * c.pad) * bytes;
    let words = window.max(lead + 3 * c.width * bytes).div_ceil(4);
    4 * (words + (bank + 32 - words % 32) % 32)
}

/// Most rows of images that the windows of `run` tiles of pixels cover.
fn rows_seen(c: &Conv, run: usize) -> usize {
    let pixels = c.batch * c.out_height() * c.out_width();
    let lines = (((run * TILE).min(pixels) + c.out_width() - 2) / c.out_width() + 1).min(c.batch * c.out_height());
    let images = (lines - 1).div_ceil(c.out_height()).min(c.batch - 1);
    (lines - 1) * c.stride + c.kernel + images * (c.kernel - c.stride)
}

/// The launch of a network's first convolution, from `conv_stem.cu`. `None`: no kernel fits this shape.
pub fn stem(on: &Capabilities, dtype: Dtype, c: &Conv) -> Option<Stem> {
    // With stride 1 the kernel tells odd from even columns by the pixel's number, which an odd width would mix.
    let even = c.stride > 1 || c.out_width().is_multiple_of(2);
    if !is_stem(c) || !even {
        return None;
    }
    let bytes = dtype.bytes();
    let (kernel, wide) = if c.kernel == 7 { ("conv_stem_7x7", 24) } else { ("conv_stem_3x3", 10) };
    let pitch = pitch(c, bytes, c.out_width() - 1, wide, 24);
    let weights = bytes * STEM_OUTPUTS * 3 * c.kernel * c.kernel;
    let shared = |run: usize| weights + 4 * (STEM_OUTPUTS + run * TILE) + rows_seen(c, run) * pitch;
    // Aim at three blocks per multiprocessor; otherwise take one tile per block if that fits at all.
    let run = [STEM_TILES, STEM_TILES / 2, STEM_TILES / 4, 1].into_iter().find(|&run| shared(run) <= on.shared / 3);
    let run = run.or((shared(1) <= on.shared).then_some(1))?;
    let tiles = (c.batch * c.out_height() * c.out_width()).div_ceil(TILE);
    let grid = [tiles.div_ceil(run) as u32, c.outputs.div_ceil(STEM_OUTPUTS) as u32, 1];
    Some(Stem { launch: Launch { kernel, grid, block: [128, 1, 1], shared: shared(run) as u32 }, run, pitch })
}

/// Rows of dy per block of the weight gradient, by the shape alone: about 396 blocks (three on each of 132 multiprocessors), each with 512 to
/// 8192 pixels.
fn stem_run(c: &Conv) -> usize {
    let at_least = 512usize.div_ceil(c.out_width());
    (c.batch * c.out_height()).div_ceil(396).clamp(at_least, (8192 / c.out_width()).max(at_least))
}

/// Partial sums that the kernel of [`stem_weights`] writes; 0 if no kernel fits this shape.
pub fn stem_parts(c: &Conv) -> usize {
    if is_stem(c) { (c.batch * c.out_height()).div_ceil(stem_run(c)) } else { 0 }
}

/// The launch of a first convolution's weight gradient, from `conv_stem_bwd_w.cu`. `None`: no kernel fits this shape.
pub fn stem_weights(on: &Capabilities, dtype: Dtype, c: &Conv) -> Option<Stem> {
    if !is_stem(c) {
        return None;
    }
    let bytes = dtype.bytes();
    // As in `conv_stem_bwd_w.cu`: columns per step, rows of dy and of x in shared memory, values of a window, parities of columns.
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

/// Largest head of attention, columns: more would not fit into registers.
pub const LARGEST_HEAD: usize = 128;

/// Self-attention of `images` images with `tokens` tokens each, in `heads` heads of `head` columns.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub images: usize,
    pub tokens: usize,
    pub heads: usize,
    pub head: usize,
}

/// Kernels for few tokens, which hold a whole head in shared memory: those of `attention_short.cu` and `attention_bwd_short.cu`.
struct Short {
    /// Most tokens.
    tokens: usize,
    /// Most warps of the forward kernel.
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
/// Columns of a head in those kernels, zero-padded.
const SHORT_HEAD: usize = 64;

impl Attention {
    /// Strips of 16 tokens, one warp's work.
    fn strips(&self) -> usize {
        self.tokens.div_ceil(16)
    }
    /// The kernels for few tokens, if some fit. They take heads that are multiples of 16 bytes and fill more than half of the padded columns.
    fn short(&self, bytes: usize) -> Option<&'static Short> {
        let takes = (SHORT_HEAD / 2 + 1..=SHORT_HEAD).contains(&self.head) && self.head.is_multiple_of(16 / bytes);
        SHORT.iter().find(|short| takes && self.tokens <= short.tokens)
    }
    /// One block per head with all tokens in shared memory; `None` if the device's blocks may not use that much.
    fn by_heads(&self, on: &Capabilities, kernel: &'static str, warps: usize, shared: usize) -> Option<Launch> {
        let grid = [(self.images * self.heads) as u32, 1, 1];
        (shared <= on.shared).then_some(Launch { kernel, grid, block: [32 * warps as u32, 1, 1], shared: shared as u32 })
    }
    /// Blocks of a head's rows, 16 rows per warp: as few blocks as eight warps each allow (four in f32), all of one size. `names` are the
    /// kernels for heads of up to 32, 64 and 128 columns. In shared memory lie `stay` tiles of the block's own rows, and two slots of two
    /// tiles that stream through, with `beside` bytes for each of their rows. The counterpart of `attention.cuh`.
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
        let slabs = warps * 16 * (64 / bytes + 8) * 4; // [warps, 16, BK + 8] f32, to transpose the results
        let slots = (self.tokens.div_ceil(columns).min(2) * slot).max(slabs);
        let grid = [(self.images * self.heads * strips.div_ceil(warps)) as u32, 1, 1];
        let shared = (stay * warps * 16 * padded * bytes + slots) as u32;
        Launch { kernel, grid, block: [32 * warps as u32, 1, 1], shared }
    }
}

/// The launch of attention: the kernel for few tokens, with the strips of queries spread evenly over its warps, else the one for any number.
pub fn attention(on: &Capabilities, dtype: Dtype, a: &Attention) -> Launch {
    let short = a.short(dtype.bytes()).and_then(|short| {
        let (strips, bytes) = (a.strips(), 3 * short.tokens * SHORT_HEAD * dtype.bytes());
        a.by_heads(on, short.forward, strips.div_ceil(strips.div_ceil(short.warps)), bytes)
    });
    short.unwrap_or_else(|| a.by_strips(dtype, ["attention_fwd_32", "attention_fwd_64", "attention_fwd_128"], 1, 0))
}

/// The launch of attention's gradient for few tokens, if a kernel fits: one warp per strip. Shared memory holds four tiles, two f32 per
/// query, and the gradients of all scores.
pub fn attention_back(on: &Capabilities, dtype: Dtype, a: &Attention) -> Option<Launch> {
    let bytes = dtype.bytes();
    let &Short { tokens, back, .. } = a.short(bytes)?;
    a.by_heads(on, back?, a.strips(), tokens * (4 * SHORT_HEAD * bytes + 8 + tokens * bytes))
}

/// The two launches of attention's gradient for any number of tokens: dq (and delta) first, then dk and dv, which read delta.
pub fn attention_back_long(dtype: Dtype, a: &Attention) -> [Launch; 2] {
    [
        a.by_strips(dtype, ["attention_bwd_q_32", "attention_bwd_q_64", "attention_bwd_q_128"], 2, 0),
        a.by_strips(dtype, ["attention_bwd_kv_32", "attention_bwd_kv_64", "attention_bwd_kv_128"], 2, 8),
    ]
}
