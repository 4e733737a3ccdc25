//! ResNets (He et al. 2015) as torchvision builds them: stride in the 3x3 of a bottleneck, names alike.

use super::{Encoder, Form, Stem};
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
}

/// Three stages of one block, for laptops: 0.08 million weights.
pub static RESNET8: ResNet = ResNet { name: "resnet8", block: Block::Basic, depths: &[1, 1, 1], base: 16 };
pub static RESNET18: ResNet = ResNet { name: "resnet18", block: Block::Basic, depths: &[2, 2, 2, 2], base: 64 };
pub static RESNET34: ResNet = ResNet { name: "resnet34", block: Block::Basic, depths: &[3, 4, 6, 3], base: 64 };
pub static RESNET50: ResNet = ResNet { name: "resnet50", block: Block::Bottleneck { widen: 1 }, depths: &[3, 4, 6, 3], base: 64 };
pub static WIDE_RESNET50_2: ResNet =
    ResNet { name: "wide_resnet50_2", block: Block::Bottleneck { widen: 2 }, depths: &[3, 4, 6, 3], base: 64 };

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
    fn map(&self, s: &mut Scope, form: &Form, images: Var) -> Var {
        let mut x = match form.stem {
            Stem::Cifar => s.conv_norm(["conv1", "bn1"], images, filter(self.base, 3, 1), None, true),
            Stem::Imagenet => {
                let x = s.conv_norm(["conv1", "bn1"], images, filter(self.base, 7, 2), None, true);
                s.max_pool(x, 3)
            }
        };
        for (stage, &depth) in self.depths.iter().enumerate() {
            for i in 0..depth {
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                let mut s = s.at(format!("layer{}", stage + 1));
                x = self.block(&mut s.at(i), x, self.base << stage, stride);
                s.at(i).tap(x);
            }
        }
        x
    }
}

impl ResNet {
    fn block(&self, s: &mut Scope, x: Var, width: usize, stride: usize) -> Var {
        let out = width * self.block.expansion();
        let same = stride == 1 && s.shape(x).cols() == out;
        let shortcut = if same { x } else { s.conv_norm(["downsample.0", "downsample.1"], x, filter(out, 1, stride), None, false) };
        match self.block {
            Block::Basic => {
                let h = s.conv_norm(["conv1", "bn1"], x, filter(width, 3, stride), None, true);
                s.conv_norm(["conv2", "bn2"], h, filter(out, 3, 1), Some(shortcut), true)
            }
            Block::Bottleneck { widen } => {
                let h = s.conv_norm(["conv1", "bn1"], x, filter(width * widen, 1, 1), None, true);
                let h = s.conv_norm(["conv2", "bn2"], h, filter(width * widen, 3, stride), None, true);
                s.conv_norm(["conv3", "bn3"], h, filter(out, 1, 1), Some(shortcut), true)
            }
        }
    }
}

fn filter(outputs: usize, kernel: usize, stride: usize) -> Filter {
    Filter { outputs, kernel, stride }
}
