//! The networks that are scored: images in, features out. Parameter names are torchvision's and timm's, so that
//! their weights load by name.

mod heads;
mod resnet;
mod resnet9;
mod vit;

pub use heads::{CLASSIFIER, Last, MlpHead};
pub use vit::{Block, Vit, glorot, sine_cosine};

use crate::error::{Error, Result};
use crate::ops::drop_path::Drop;
use crate::tape::Scope;
use crate::var::Var;
use serde::{Deserialize, Serialize};

/// How a ResNet begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 3x3, stride 1, no max-pool: for 32x32 images.
    Cifar,
    /// The same padded by 2, so that 32x32 images make maps of 34x34: solo-learn's for CIFAR (solo/methods/base.py).
    #[serde(rename = "cifar_wide")]
    CifarWide,
    /// 7x7, stride 2, max-pool: torchvision's.
    Imagenet,
}

/// What a ViT adds to its tokens to tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Positions {
    Learned,
    /// Fixed sines and cosines of the row and the column (He et al. 2022, Chen et al. 2021).
    Sincos,
}

/// What of an encoder's output is its representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Features {
    /// A vector: the mean over a ResNet's last map, a ViT's class token.
    Pooled,
    /// The mean over the last map, or over the patch tokens.
    Mean,
    /// The whole last map, or all tokens in their order, as in the paper (49 x 2048 of a ResNet-50, 257 x 192 of a
    /// ViT-Tiny).
    Map,
}

/// What layer norms add to the variance in timm and MAE; Hugging Face's ViTs have 1e-12.
pub const NORM_EPS: f32 = 1e-6;

/// How the weights of a ViT start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Truncated normal, .02.
    Timm,
    /// Uniform after Glorot and Bengio (2010) for every matrix, the patch embedding's too.
    Mae,
    /// The same with queries, keys and values as matrices of their own.
    MoCoV3,
    /// Normal, .02: what PyTorch's `trunc_normal_` is that cuts at -2 and 2, hundred standard deviations.
    Dino,
}

/// How a network is built for its images.
#[derive(Clone, Copy, Debug)]
pub struct EncoderConfig {
    pub stem: Stem,
    /// Height and width of a ViT's patches in pixels.
    pub patch: usize,
    pub positions: Positions,
    /// Height and width of the images whose patches have positions; images of another size interpolate them.
    pub size: usize,
    /// Of a ViT's attention; 0: as its authors have, 64 columns to a head in the ViTs of ImageNet.
    pub heads: usize,
    /// What layer norm adds to the variance.
    pub norm_eps: f32,
    /// Leave out branches of residual blocks while training: the rate in the last block, and who draws.
    pub drop: Option<(f32, Drop)>,
    /// Of ResNets: the scale of the last norm in each residual block starts at 0, so that the block starts as nothing (Goyal et al. 2017).
    pub zero_init_residual: bool,
    /// Of ViTs.
    pub start: Start,
    /// Do not train the patch embedding (MoCo v3, section 4).
    pub frozen_patches: bool,
}

impl EncoderConfig {
    /// For images of this size: the CIFAR stem, patches of 4, learned positions, timm's eps.
    pub fn of(size: usize) -> EncoderConfig {
        let (stem, positions, norm_eps, start) = (Stem::Cifar, Positions::Learned, NORM_EPS, Start::Timm);
        let (zero_init_residual, frozen_patches) = (false, false);
        EncoderConfig { stem, patch: 4, positions, size, heads: 0, norm_eps, drop: None, zero_init_residual, start, frozen_patches }
    }
}

pub trait Encoder: Sync {
    fn name(&self) -> &'static str;
    fn about(&self) -> String;
    /// Length of a feature vector.
    fn width(&self) -> usize;
    /// Refuses a configuration that this network cannot have, for images of `size` pixels.
    fn check(&self, _form: &EncoderConfig, _size: usize) -> Result<()> {
        Ok(())
    }
    /// images [n, h, w, 3] to the last map [n, h', w', width], or to tokens [n, 1 + patches, width].
    fn map(&self, s: &mut Scope, config: &EncoderConfig, images: Var) -> Var;
    /// What `map` made, to features [n, width].
    fn pool(&self, s: &mut Scope, map: Var) -> Var {
        s.average_pool(map)
    }
    /// images [n, h, w, 3] to features [n, width]: what `pool` makes of the map, by no more work than that takes.
    fn features(&self, s: &mut Scope, config: &EncoderConfig, images: Var) -> Var {
        let map = self.map(s, config, images);
        self.pool(s, map)
    }
    /// What `map` made, to its mean over places [n, width].
    fn mean(&self, s: &mut Scope, map: Var) -> Var {
        self.pool(s, map)
    }
    /// The ViT that this is, for what needs single patches.
    fn vit(&self) -> Option<&Vit> {
        None
    }
}

/// An encoder and how it is built.
#[derive(Clone, Copy)]
pub struct Network {
    pub encoder: &'static dyn Encoder,
    pub config: EncoderConfig,
}

impl Network {
    /// Its name and what of its configuration it uses.
    pub fn describe(&self) -> String {
        let EncoderConfig { stem, patch, size, norm_eps, .. } = self.config;
        match self.encoder.vit() {
            Some(vit) => {
                let heads = vit.heads_of(&self.config);
                format!("{} (patches of {patch}, {heads} heads, positions of {size} pixels, norm eps {norm_eps:e})", self.encoder.name())
            }
            None => {
                let stem = match stem {
                    Stem::Cifar => "3x3",
                    Stem::CifarWide => "3x3 padded by 2",
                    Stem::Imagenet => "7x7",
                };
                format!("{} (stem {stem})", self.encoder.name())
            }
        }
    }
    /// The same for views of which the first has this number: what is drawn for a view depends on it.
    pub fn with_first_view(&self, first: usize) -> Network {
        let drop = self.config.drop.map(|(rate, drop)| (rate, Drop { view: first as u32, ..drop }));
        Network { config: EncoderConfig { drop, ..self.config }, ..*self }
    }
    /// images [n, h, w, 3] to features [n, width].
    pub fn features(&self, s: &mut Scope, images: Var) -> Var {
        self.encoder.features(s, &self.config, images)
    }
    /// images [n, h, w, 3] to the last map, or to all tokens; on the way every layer is tapped whole.
    pub fn map(&self, s: &mut Scope, images: Var) -> Var {
        self.encoder.map(s, &self.config, images)
    }
    /// images [n, h, w, 3] to the representation that is asked for.
    pub fn represent(&self, s: &mut Scope, images: Var, features: Features) -> Var {
        match features {
            Features::Pooled => self.features(s, images),
            Features::Mean => {
                let map = self.map(s, images);
                self.encoder.mean(s, map)
            }
            Features::Map => self.map(s, images),
        }
    }
}

/// Every encoder that `--arch` knows.
pub static ENCODERS: &[&dyn Encoder] = &[
    &resnet::RESNET8,
    &resnet9::ResNet9,
    &resnet::RESNET18,
    &resnet::RESNET20,
    &resnet::RESNET32,
    &resnet::RESNET34,
    &resnet::RESNET44,
    &resnet::RESNET50,
    &resnet::RESNET56,
    &resnet::WIDE_RESNET50_2,
    &vit::NANO,
    &vit::TINY,
    &vit::SMALL,
    &vit::BASE,
];

/// The encoder called `name`.
pub fn find(name: &str) -> Result<&'static dyn Encoder> {
    let names: Vec<&str> = ENCODERS.iter().map(|e| e.name()).collect();
    let found = ENCODERS.iter().find(|e| e.name() == name);
    found.copied().ok_or_else(|| Error::config(format!("there is no encoder `{name}`"), format!("choose one of {}", names.join(", "))))
}
