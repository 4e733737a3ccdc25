//! The networks that are scored: images in, features out. Parameter names are torchvision's, so that its
//! weights load by name.

mod heads;
mod resnet;

pub use heads::mlp;

use crate::error::{Error, Result};
use crate::tape::Scope;
use crate::var::Var;

/// How a network begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 3x3, stride 1, no max-pool: for 32x32 images.
    Cifar,
    /// 7x7, stride 2, max-pool: torchvision's.
    Imagenet,
}

pub trait Encoder: Sync {
    fn name(&self) -> &'static str;
    /// Length of a feature vector.
    fn width(&self) -> usize;
    /// images [n, h, w, 3] to the last map [n, h', w', width].
    fn map(&self, s: &mut Scope, stem: Stem, images: Var) -> Var;
    /// images [n, h, w, 3] to features [n, width]: the mean over the last map.
    fn features(&self, s: &mut Scope, stem: Stem, images: Var) -> Var {
        let map = self.map(s, stem, images);
        s.average_pool(map)
    }
}

/// Every encoder that `--arch` knows.
pub static ENCODERS: &[&dyn Encoder] =
    &[&resnet::RESNET8, &resnet::RESNET18, &resnet::RESNET34, &resnet::RESNET50, &resnet::WIDE_RESNET50_2];

/// The encoder called `name`.
pub fn find(name: &str) -> Result<&'static dyn Encoder> {
    let names: Vec<&str> = ENCODERS.iter().map(|e| e.name()).collect();
    let found = ENCODERS.iter().find(|e| e.name() == name);
    found.copied().ok_or_else(|| Error::config(format!("there is no encoder `{name}`"), format!("choose one of {}", names.join(", "))))
}
