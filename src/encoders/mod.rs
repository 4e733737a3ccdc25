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

/// The first layers of a ResNet.
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

/// The position embeddings of a ViT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Positions {
    Learned,
    /// Fixed sines and cosines of the row and the column (He et al. 2022, Chen et al. 2021).
    Sincos,
}

/// The part of an encoder's output that is its representation.
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

/// eps of layer norms in timm and MAE; Hugging Face's ViTs have 1e-12.
pub const NORM_EPS: f32 = 1e-6;

/// The initialisers of a ViT's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Truncated normal, .02.
    Timm,
    /// Uniform after Glorot and Bengio (2010) for every matrix, the patch embedding's too.
    Mae,
    /// The same with queries, keys and values as matrices of their own.
    MoCoV3,
    /// Normal, .02. This is PyTorch's `trunc_normal_` with its default bounds -2 and 2, which are 100 standard deviations.
    Dino,
}

/// The settings of an encoder.
#[derive(Clone, Copy, Debug)]
pub struct EncoderConfig {
    pub stem: Stem,
    /// Height and width of a ViT's patches in pixels.
    pub patch: usize,
    pub positions: Positions,
    /// Side of the images for whose patches positions are stored, pixels. Images of another size interpolate them.
    pub size: usize,
    /// Heads of a ViT's attention; 0: its authors' number, 64 columns per head in the ViTs for ImageNet.
    pub heads: usize,
    /// eps of the layer norms.
    pub norm_eps: f32,
    /// Stochastic depth in training: the rate in the last block, and the identity of its random numbers.
    pub drop: Option<(f32, Drop)>,
    /// ResNets: the scale of the last norm in each residual block starts at 0, so that the block starts as the identity (Goyal et al. 2017).
    pub zero_init_residual: bool,
    /// Of ViTs.
    pub start: Start,
    /// Freeze the patch embedding (MoCo v3, section 4).
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
    /// Records images `[n, h, w, 3]` to the last map `[n, h', w', width]`, or to tokens `[n, 1 + patches, width]`.
    fn map(&self, s: &mut Scope, config: &EncoderConfig, images: Var) -> Var;
    /// Records the output of `map` to features `[n, width]`.
    fn pool(&self, s: &mut Scope, map: Var) -> Var {
        s.average_pool(map)
    }
    /// Records images `[n, h, w, 3]` to features `[n, width]`, equal to `pool` of `map`. An encoder may leave out work that `pool` does not need.
    fn features(&self, s: &mut Scope, config: &EncoderConfig, images: Var) -> Var {
        let map = self.map(s, config, images);
        self.pool(s, map)
    }
    /// Records the output of `map` to its mean over positions `[n, width]`.
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
    /// Its name and the settings that it uses.
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
    /// This network for views numbered from `first` on. Random numbers (stochastic depth) depend on a view's number.
    pub fn with_first_view(&self, first: usize) -> Network {
        let drop = self.config.drop.map(|(rate, drop)| (rate, Drop { view: first as u32, ..drop }));
        Network { config: EncoderConfig { drop, ..self.config }, ..*self }
    }
    /// Records images `[n, h, w, 3]` to features `[n, width]`.
    pub fn features(&self, s: &mut Scope, images: Var) -> Var {
        self.encoder.features(s, &self.config, images)
    }
    /// Records images `[n, h, w, 3]` to the last map, or to all tokens, and taps the whole output of every layer.
    pub fn map(&self, s: &mut Scope, images: Var) -> Var {
        self.encoder.map(s, &self.config, images)
    }
    /// Records images `[n, h, w, 3]` to the representation that `features` names.
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
