//! ResNets (He et al. 2015) as torchvision builds them: stride in the 3x3 of a bottleneck, names alike.

use super::{Encoder, EncoderConfig, Stem};
use crate::init::Init;
use crate::ops::conv::Filter;
use crate::tape::Scope;
use crate::var::Var;

#[derive(Clone, Copy, PartialEq)]
enum Block {
    /// Two 3x3.
    Basic,
    /// 1x1, 3x3, 1x1 to four times the width; `widen` multiplies the inner width (Wide ResNet).
    Bottleneck { widen: usize },
}

pub struct ResNet {
    name: &'static str,
    block: Block,
    /// Blocks per stage; each stage after the first halves the map and doubles the width.
    depths: &'static [usize],
    /// Width of the first stage.
    base: usize,
    shortcut: Shortcut,
}

/// The shortcut of a block that changes the shape (He et al. 2015, section 4.1).
#[derive(Clone, Copy, PartialEq)]
enum Shortcut {
    /// Option A: every other pixel, and zeros for the new channels.
    Plain,
    /// Option B: a 1x1 convolution.
    Convolved,
}

const fn basic(name: &'static str, depths: &'static [usize], base: usize, shortcut: Shortcut) -> ResNet {
    ResNet { name, block: Block::Basic, depths, base, shortcut }
}

const fn bottleneck(name: &'static str, depths: &'static [usize], widen: usize) -> ResNet {
    ResNet { name, block: Block::Bottleneck { widen }, depths, base: 64, shortcut: Shortcut::Convolved }
}

/// Three stages of one block, for laptops: 0.08 million weights.
pub static RESNET8: ResNet = basic("resnet8", &[1, 1, 1], 16, Shortcut::Convolved);
pub static RESNET18: ResNet = basic("resnet18", &[2, 2, 2, 2], 64, Shortcut::Convolved);
pub static RESNET34: ResNet = basic("resnet34", &[3, 4, 6, 3], 64, Shortcut::Convolved);
pub static RESNET50: ResNet = bottleneck("resnet50", &[3, 4, 6, 3], 1);
pub static WIDE_RESNET50_2: ResNet = bottleneck("wide_resnet50_2", &[3, 4, 6, 3], 2);
/// Those of He et al. for CIFAR-10 (section 4.2): 0.27 to 0.85 million weights.
pub static RESNET20: ResNet = basic("resnet20", &[3, 3, 3], 16, Shortcut::Plain);
pub static RESNET32: ResNet = basic("resnet32", &[5, 5, 5], 16, Shortcut::Plain);
pub static RESNET44: ResNet = basic("resnet44", &[7, 7, 7], 16, Shortcut::Plain);
pub static RESNET56: ResNet = basic("resnet56", &[9, 9, 9], 16, Shortcut::Plain);

impl Block {
    fn expansion(self) -> usize {
        if self == Block::Basic { 1 } else { 4 }
    }
}

impl Encoder for ResNet {
    fn name(&self) -> &'static str {
        self.name
    }
    fn about(&self) -> String {
        format!("{} features, {} blocks", self.width(), self.depths.iter().sum::<usize>())
    }
    fn width(&self) -> usize {
        (self.base << (self.depths.len() - 1)) * self.block.expansion()
    }
    fn map(&self, s: &mut Scope, config: &EncoderConfig, images: Var) -> Var {
        let mut x = match config.stem {
            Stem::Cifar => s.conv_norm(["conv1", "bn1"], images, Filter::same(self.base, 3, 1), None, true),
            Stem::CifarWide => s.conv_norm(["conv1", "bn1"], images, Filter { pad: 2, ..Filter::same(self.base, 3, 1) }, None, true),
            Stem::Imagenet => {
                let x = s.conv_norm(["conv1", "bn1"], images, Filter::same(self.base, 7, 2), None, true);
                s.max_pool(x, 3)
            }
        };
        for (stage, &depth) in self.depths.iter().enumerate() {
            for i in 0..depth {
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                let mut s = s.at(format!("layer{}", stage + 1));
                x = self.block(&mut s.at(i), config, x, self.base << stage, stride);
                s.at(i).tap(x);
            }
        }
        x
    }
}

impl ResNet {
    fn block(&self, s: &mut Scope, config: &EncoderConfig, x: Var, width: usize, stride: usize) -> Var {
        let out = width * self.block.expansion();
        let same = stride == 1 && s.shape(x).cols() == out;
        let shortcut = match self.shortcut {
            _ if same => x,
            Shortcut::Plain => s.shortcut(x),
            Shortcut::Convolved => s.conv_norm(["downsample.0", "downsample.1"], x, Filter::same(out, 1, stride), None, false),
        };
        let (y, last) = match self.block {
            Block::Basic => {
                let h = s.conv_norm(["conv1", "bn1"], x, Filter::same(width, 3, stride), None, true);
                (s.conv_norm(["conv2", "bn2"], h, Filter::same(out, 3, 1), Some(shortcut), true), "bn2")
            }
            Block::Bottleneck { widen } => {
                let h = s.conv_norm(["conv1", "bn1"], x, Filter::same(width * widen, 1, 1), None, true);
                let h = s.conv_norm(["conv2", "bn2"], h, Filter::same(width * widen, 3, stride), None, true);
                (s.conv_norm(["conv3", "bn3"], h, Filter::same(out, 1, 1), Some(shortcut), true), "bn3")
            }
        };
        end_block(s, config, last, out);
        y
    }
}

/// Zeroes the scale of the norm `last` of a residual block at the start, if the settings ask for it.
pub(super) fn end_block(s: &mut Scope, config: &EncoderConfig, last: &str, width: usize) {
    if config.zero_init_residual {
        let scale = s.at(last).param("weight", [width], Init::Constant(1.0));
        s.tape().start(scale, Init::Constant(0.0));
    }
}
