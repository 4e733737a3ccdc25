//! Named recipes: each is a base and its changes, a file in `presets/`.

use super::{Layers, Recipe, nearest};
use crate::error::{Error, Result};

/// A recipe with a name, or a part of one.
pub struct Preset {
    pub name: &'static str,
    /// The preset that it starts from; `None` if it only changes the presets before it on the command line.
    pub base: Option<&'static str>,
    pub about: &'static str,
    /// The keys it changes, as TOML.
    changes: &'static str,
}

/// The preset that a recipe starts from when none is named. Its file has every key.
pub const DEFAULT: &str = "reference";
const REFERENCE: &str = include_str!("presets/reference.toml");

const fn preset_of(name: &'static str, base: &'static str, changes: &'static str, about: &'static str) -> Preset {
    Preset { name, base: Some(base), about, changes }
}

const fn part(name: &'static str, changes: &'static str, about: &'static str) -> Preset {
    Preset { name, base: None, about, changes }
}

/// Every preset. A base comes before the presets made of it.
pub const PRESETS: &[Preset] = &[
    preset_of(
        "reference",
        DEFAULT,
        "",
        "SimCLR, ResNet-18, 100 epochs of CIFAR-10: the recipe with published loss and accuracy (github.com/dkobak/simclr-cifar10)",
    ),
    preset_of(
        "paper",
        DEFAULT,
        include_str!("presets/paper.toml"),
        "SimCLR, ResNet-50, 500 epochs of CIFAR-10 as in the released code of SSLMem (the paper says 600), three pairs",
    ),
    preset_of(
        "paper_mae",
        "paper",
        include_str!("presets/paper_mae.toml"),
        "SSLMem's MAE: ViT-Tiny with patches of 2, 600 epochs of CIFAR-10",
    ),
    preset_of(
        "paper_dino",
        "paper",
        include_str!("presets/paper_dino.toml"),
        "SSLMem's DINO: ViT-Tiny, the authors' head and schedules, 600 epochs of CIFAR-10 (crops for 32x32: the paper does not say)",
    ),
    preset_of("paper_dino_resnet50", "paper_dino", include_str!("presets/paper_dino_resnet50.toml"), "the same with a ResNet-50"),
    preset_of("paper_vicreg", "paper", include_str!("presets/paper_vicreg.toml"), "SSLMem's VICReg: ResNet-50, 600 epochs of CIFAR-10"),
    preset_of(
        "layermem_simsiam",
        "paper",
        include_str!("presets/layermem_simsiam.toml"),
        "SimSiam as in the follow-up on localizing memorization: 200 epochs, ResNet-18",
    ),
    preset_of(
        "simclr_imagenet",
        DEFAULT,
        include_str!("presets/simclr_imagenet.toml"),
        "SimCLR's own: ResNet-50, LARS, batch 4096, 100 epochs",
    ),
    preset_of(
        "mocov3_imagenet",
        "simclr_imagenet",
        include_str!("presets/mocov3_imagenet.toml"),
        "MoCo v3's own: ResNet-50, LARS, 300 epochs",
    ),
    preset_of("mocov3_vit_imagenet", "mocov3_imagenet", include_str!("presets/mocov3_vit_imagenet.toml"), "MoCo v3's own: ViT-S/16, AdamW"),
    preset_of("byol_imagenet", "mocov3_imagenet", include_str!("presets/byol_imagenet.toml"), "BYOL's own: ResNet-50, LARS, 1000 epochs"),
    preset_of(
        "simsiam_imagenet",
        "simclr_imagenet",
        include_str!("presets/simsiam_imagenet.toml"),
        "SimSiam's own: ResNet-50, SGD, batch 512",
    ),
    preset_of(
        "barlow_imagenet",
        "byol_imagenet",
        include_str!("presets/barlow_imagenet.toml"),
        "Barlow Twins' own: ResNet-50, LARS, batch 2048",
    ),
    preset_of(
        "vicreg_imagenet",
        "barlow_imagenet",
        include_str!("presets/vicreg_imagenet.toml"),
        "VICReg's own: ResNet-50, LARS, batch 2048",
    ),
    preset_of(
        "dino_imagenet",
        "simclr_imagenet",
        include_str!("presets/dino_imagenet.toml"),
        "DINO's own: ViT-S/16, 2 + 8 crops, 100 epochs",
    ),
    preset_of("mae_imagenet", "simclr_imagenet", include_str!("presets/mae_imagenet.toml"), "MAE's own: ViT-B/16, 800 epochs"),
    preset_of(
        "cifar_simclr",
        DEFAULT,
        include_str!("presets/cifar_simclr.toml"),
        "SimCLR on CIFAR with solo-learn's settings: ResNet-18, 1000 epochs",
    ),
    preset_of("cifar_simsiam", "cifar_simclr", include_str!("presets/cifar_simsiam.toml"), "SimSiam on CIFAR with solo-learn's settings"),
    preset_of("cifar_byol", "cifar_simclr", include_str!("presets/cifar_byol.toml"), "BYOL on CIFAR with solo-learn's settings"),
    preset_of("cifar_mocov3", "cifar_byol", include_str!("presets/cifar_mocov3.toml"), "MoCo v3 on CIFAR with solo-learn's settings"),
    preset_of(
        "cifar_barlow",
        "cifar_simclr",
        include_str!("presets/cifar_barlow.toml"),
        "Barlow Twins on CIFAR with solo-learn's settings",
    ),
    preset_of("cifar_vicreg", "cifar_simclr", include_str!("presets/cifar_vicreg.toml"), "VICReg on CIFAR with solo-learn's settings"),
    preset_of(
        "cifar_dino",
        "cifar_simclr",
        include_str!("presets/cifar_dino.toml"),
        "DINO on CIFAR with solo-learn's settings: two crops, a ResNet-18",
    ),
    preset_of(
        "cifar_mae",
        "cifar_simclr",
        include_str!("presets/cifar_mae.toml"),
        "MAE on CIFAR (github.com/IcarusWizard/MAE, on which SSLMem builds): ViT-Tiny with patches of 2, 2000 epochs",
    ),
    preset_of(
        "cifar_small",
        DEFAULT,
        include_str!("presets/cifar_small.toml"),
        "300 images of CIFAR-10 and a small encoder: memorization one can see within an hour on two cores",
    ),
    preset_of(
        "demo",
        "cifar_small",
        include_str!("presets/demo.toml"),
        "a procedural data set and a small encoder: minutes on two cores, no files needed",
    ),
    preset_of(
        "smoke",
        DEFAULT,
        include_str!("presets/smoke.toml"),
        "SimCLR and a small ResNet on 900 images of CIFAR-10 at 16 pixels: minutes on two cores",
    ),
    preset_of("smoke_simsiam", "smoke", include_str!("presets/smoke_simsiam.toml"), "the same with SimSiam"),
    preset_of("smoke_byol", "smoke", include_str!("presets/smoke_byol.toml"), "the same with BYOL"),
    preset_of("smoke_mocov3", "smoke", include_str!("presets/smoke_mocov3.toml"), "the same with MoCo v3"),
    preset_of("smoke_barlow", "smoke", include_str!("presets/smoke_barlow.toml"), "the same with Barlow Twins"),
    preset_of("smoke_vicreg", "smoke", include_str!("presets/smoke_vicreg.toml"), "the same with VICReg"),
    preset_of("smoke_dino", "smoke", include_str!("presets/smoke_dino.toml"), "the same with DINO"),
    preset_of("smoke_mae", "smoke", include_str!("presets/smoke_mae.toml"), "the same with MAE and a small ViT"),
    preset_of("smoke_supervised", "smoke", include_str!("presets/smoke_supervised.toml"), "the same with labels: cross-entropy"),
    part(
        "cifar100",
        include_str!("presets/cifar100.toml"),
        "CIFAR-100 with the paper's sizes, after another preset: --preset paper_mae --preset cifar100",
    ),
    part("svhn", include_str!("presets/svhn.toml"), "SVHN with the paper's sizes, after another preset"),
    part("stl10", include_str!("presets/stl10.toml"), "STL-10 at 32x32 with the paper's sizes, after another preset"),
    part("mnist", include_str!("presets/mnist.toml"), "MNIST with the paper's sizes, after another preset"),
    part(
        "imagenet",
        include_str!("presets/imagenet.toml"),
        "a folder of ImageNet at 224 with the paper's 95,000 images, after another preset",
    ),
];

impl Preset {
    /// These layers with this preset on top. A preset with a base replaces them.
    ///
    /// # Errors
    /// The preset is broken, which a test excludes.
    pub(super) fn over(&self, layers: Layers) -> Result<Layers> {
        let below = match self.base {
            None => layers,
            Some(_) if self.name == DEFAULT => return Layers::whole(REFERENCE),
            Some(base) => find(base)?.over(layers)?,
        };
        below.text(self.name, self.changes)
    }
}

/// The preset of this name.
///
/// # Errors
/// There is none; the error names the nearest one.
pub fn find(name: &str) -> Result<&'static Preset> {
    let names = || PRESETS.iter().map(|preset| preset.name);
    PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| {
        let remedy = match nearest(name, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("choose one of {}", names().collect::<Vec<_>>().join(", ")),
        };
        Error::config(format!("there is no preset `{name}`"), remedy)
    })
}

/// The recipe of this preset.
///
/// # Errors
/// There is no such preset.
pub fn preset(name: &str) -> Result<Recipe> {
    Layers::presets(&[name])?.resolve()
}
