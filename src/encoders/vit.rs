//! Vision transformers (Dosovitskiy et al. 2021) with timm's names: class token, pre-norm blocks, a norm at the end.

use super::{Encoder, EncoderConfig, Positions, Start};
use crate::error::{Error, Result};
use crate::init::Init;
use crate::ops::choose::LARGEST_HEAD;
use crate::ops::drop_path::Drop;
use crate::ops::linear::{Dense, Epilogue};
use crate::ops::mask::Masking;
use crate::tape::{Mode, Scope};
use crate::var::{Dtype, Shape, Var};

pub struct Vit {
    name: &'static str,
    pub width: usize,
    pub depth: usize,
    pub heads: usize,
}

/// For laptops: 0.2 million weights.
pub static NANO: Vit = Vit { name: "vit_nano", width: 64, depth: 4, heads: 2 };
pub static TINY: Vit = Vit { name: "vit_tiny", width: 192, depth: 12, heads: 3 };
pub static SMALL: Vit = Vit { name: "vit_small", width: 384, depth: 12, heads: 6 };
pub static BASE: Vit = Vit { name: "vit_base", width: 768, depth: 12, heads: 12 };

impl Encoder for Vit {
    fn name(&self) -> &'static str {
        self.name
    }
    fn about(&self) -> String {
        format!("{} features, {} blocks of {} heads, a class token", self.width, self.depth, self.heads)
    }
    fn width(&self) -> usize {
        self.width
    }
    fn check(&self, config: &EncoderConfig, size: usize) -> Result<()> {
        let heads = self.heads_of(config);
        if !self.width.is_multiple_of(heads) {
            let what = format!("{heads} heads do not divide the width {} of {}", self.width, self.name);
            return Err(Error::config(
                what,
                format!("choose encoder.heads as a divisor of {}, or 0 for the usual {}", self.width, self.heads),
            ));
        }
        if self.width / heads > LARGEST_HEAD {
            let what =
                format!("{heads} heads of {} columns each are more than the {LARGEST_HEAD} that there are kernels for", self.width / heads);
            return Err(Error::config(what, "choose more heads"));
        }
        for (what, size) in [("images", size), ("the images with positions", config.size)] {
            if config.patch == 0 || !size.is_multiple_of(config.patch) {
                let what = format!("patches of {} pixels do not divide {what} of {size}", config.patch);
                return Err(Error::config(
                    what,
                    "choose encoder.patch as a divisor of encoder.size, such as 2, 4 or 8 of 32, or 16 of 224",
                ));
            }
        }
        Ok(())
    }
    fn map(&self, s: &mut Scope, config: &EncoderConfig, images: Var) -> Var {
        self.tokens(s, config, images, None)
    }
    /// After its attention the last block computes the class token alone, because features need nothing else: 6 % less work in twelve
    /// blocks, the same numbers.
    fn features(&self, s: &mut Scope, config: &EncoderConfig, images: Var) -> Var {
        let x = self.embed(s, config, images, None);
        let class = self.blocks(s, config, x, true);
        self.pool(s, class)
    }
    fn pool(&self, s: &mut Scope, map: Var) -> Var {
        s.tokens_mean(map, 0..1)
    }
    fn mean(&self, s: &mut Scope, map: Var) -> Var {
        let tokens = s.shape(map).dims()[1];
        s.tokens_mean(map, 1..tokens)
    }
    fn vit(&self) -> Option<&Vit> {
        Some(self)
    }
}

impl Vit {
    /// Heads of a block in this configuration.
    pub fn heads_of(&self, config: &EncoderConfig) -> usize {
        if config.heads == 0 { self.heads } else { config.heads }
    }

    /// Records images `[n, h, w, 3]` to tokens `[n, 1 + patches, width]`, the class token first. With `masking`, only of the patches that it
    /// keeps.
    ///
    /// # Panics
    /// images have not four dimensions, or their sides are no multiple of the patch.
    pub fn tokens(&self, s: &mut Scope, config: &EncoderConfig, images: Var, masking: Option<Masking>) -> Var {
        let x = self.embed(s, config, images, masking);
        self.blocks(s, config, x, false)
    }

    /// Records images `[n, h, w, 3]` to the input of the blocks, `[n, 1 + patches, width]`.
    fn embed(&self, s: &mut Scope, config: &EncoderConfig, images: Var, masking: Option<Masking>) -> Var {
        let &[_, high, wide, colours] = s.shape(images).dims() else { panic!("{}: a ViT wants images [n, h, w, c]", s.path()) };
        let (p, d) = (config.patch, self.width);
        let x = s.patches(images, p, masking);
        let fan = colours * p * p;
        let (patches, class) = match config.start {
            Start::Timm => (1.0 / (fan as f32).sqrt(), 1e-6),
            Start::Dino => (1.0 / (fan as f32).sqrt(), 0.02),
            Start::Mae => (glorot(fan, d), 0.02),
            Start::MoCoV3 => (glorot(fan, d), 1e-6),
        };
        let shape = Some([d, colours, p, p].into());
        let embed = Dense { outputs: d, bias: true, weight: Init::Uniform(patches), shape, epilogue: Epilogue::Nothing };
        let x = match config.frozen_patches {
            true => s.frozen("patch_embed.proj").dense(x, &embed),
            false => s.at("patch_embed.proj").dense(x, &embed),
        };
        let class = s.param("cls_token", [1, 1, d], Init::Normal(class));
        let (grid, here) = (config.size / p, [high / p, wide / p]);
        let shape = [1, 1 + grid * grid, d];
        let mut positions = match config.positions {
            Positions::Learned if config.start == Start::Dino => s.param("pos_embed", shape, Init::Normal(0.02)),
            Positions::Learned => s.param("pos_embed", shape, Init::Truncated(0.02)),
            Positions::Sincos => s.state("pos_embed", shape, Dtype::F32, Init::Table(sine_cosine)),
        };
        if here != [grid; 2] {
            positions = s.interpolate(positions, grid, here);
        }
        let x = s.sequence(x, Some(class), positions, masking);
        s.at("patch_embed").tap(x)
    }

    /// Records tokens `[n, t, width]` through all blocks and the norm: to `[n, t, width]`, or to `[n, 1, width]` for the class token alone.
    fn blocks(&self, s: &mut Scope, config: &EncoderConfig, mut x: Var, class_alone: bool) -> Var {
        for i in 0..self.depth {
            let share = i as f32 / (self.depth - 1).max(1) as f32;
            // A teacher keeps all of its branches.
            let drop = config.drop.filter(|_| s.trains()).map(|(rate, drop)| (rate * share, Drop { layer: 2 * i as u32, ..drop }));
            let class_alone = class_alone && i + 1 == self.depth;
            let block = Block { heads: self.heads_of(config), eps: config.norm_eps, start: config.start, drop, class_alone };
            x = block.record(&mut s.at(format!("blocks.{i}")), x);
        }
        let y_f32 = s.mode() == Mode::Eval;
        let x = s.at("norm").layer_norm(x, config.norm_eps, y_f32);
        s.at("norm").tap(x)
    }
}

/// x + attention(norm(x)), then x + mlp(norm(x)) with four times the width inside.
#[derive(Clone, Copy)]
pub struct Block {
    pub heads: usize,
    /// Of both layer norms.
    pub eps: f32,
    pub start: Start,
    /// Rate, and who draws for the first of the two branches.
    pub drop: Option<(f32, Drop)>,
    /// After the attention, only the class token goes on.
    pub class_alone: bool,
}

impl Block {
    /// Records the block: x `[n, t, width]` to `[n, t, width]`, or to the class token's `[n, 1, width]`.
    pub fn record(&self, s: &mut Scope, x: Var) -> Var {
        let width = s.shape(x).cols();
        let h = s.at("norm1").layer_norm(x, self.eps, false);
        let h = self.dense(
            &mut s.at("attn.qkv"),
            h,
            [3 * width, if self.start == Start::MoCoV3 { width } else { 3 * width }],
            Epilogue::Nothing,
        );
        let h = s.at("attn").attention(h, self.heads);
        let (h, x) = if self.class_alone { (s.class_token(h), s.class_token(x)) } else { (h, x) };
        let x = self.branch(s, "attn.proj", h, x, 0);
        let h = s.at("norm2").layer_norm(x, self.eps, false);
        let h = self.dense(&mut s.at("mlp.fc1"), h, [4 * width; 2], Epilogue::Gelu);
        let x = self.branch(s, "mlp.fc2", h, x, 1);
        s.tap(x)
    }
    /// `outputs`, and of how many of them at a time the start is made.
    fn dense(&self, s: &mut Scope, x: Var, [outputs, apart]: [usize; 2], epilogue: Epilogue) -> Var {
        let weight = match self.start {
            Start::Timm => Init::Truncated(0.02),
            Start::Dino => Init::Normal(0.02),
            Start::Mae | Start::MoCoV3 => Init::Uniform(glorot(s.shape(x).cols(), apart)),
        };
        s.dense(x, &Dense { outputs, bias: true, weight, shape: None, epilogue })
    }
    /// x + the last layer of a branch, which may be dropped.
    fn branch(&self, s: &mut Scope, name: &str, h: Var, x: Var, second: u32) -> Var {
        let width = s.shape(x).cols();
        match self.drop.filter(|(rate, _)| *rate > 0.0) {
            None => self.dense(&mut s.at(name), h, [width; 2], Epilogue::Add(x)),
            Some((rate, drop)) => {
                let h = self.dense(&mut s.at(name), h, [width; 2], Epilogue::Nothing);
                s.add_dropped(x, h, rate, Drop { layer: drop.layer + second, ..drop })
            }
        }
    }
}

/// Bound of the uniform initialiser of Glorot and Bengio (2010): sqrt(6 / (inputs + outputs)).
pub fn glorot(inputs: usize, outputs: usize) -> f32 {
    (6.0 / (inputs + outputs) as f32).sqrt()
}

/// Fixed positions `[1, 1 + grid * grid, width]` of a class token (zeros) and a square grid of patches, row by row (He et al. 2022). The first
/// half of the width encodes the column, the second the row; each half is sines, then cosines, with frequencies 10000^(-i / (width / 4)).
///
/// # Panics
/// `shape` has not three extents.
pub fn sine_cosine(shape: Shape) -> Vec<f32> {
    let &[_, tokens, width] = shape.dims() else { panic!("positions are [1, tokens, width], not {shape:?}") };
    let (grid, quarter) = ((tokens - 1).isqrt(), width / 4);
    let mut values = vec![0.0; width];
    for patch in 0..tokens - 1 {
        for place in [patch % grid, patch / grid] {
            let angle = |i: usize| place as f64 / 10000f64.powf(i as f64 / quarter as f64);
            values.extend((0..quarter).map(|i| angle(i).sin() as f32));
            values.extend((0..quarter).map(|i| angle(i).cos() as f32));
        }
    }
    values
}
