//! The recipes that have a name.

use super::{Data, Encoder, Method, Normalize, Optim, Order, Policy, Recipe, Score, Split, Train, nearest};
use crate::data::OnBadImage;
use crate::encoders::Stem;
use crate::error::{Error, Result};
use crate::methods::Projector;
use crate::ops::alignment::Pairs;
use crate::score::Features;
use crate::split::Size;

/// A recipe with a name.
pub struct Preset {
    pub name: &'static str,
    pub about: &'static str,
    pub recipe: fn() -> Recipe,
}

/// The preset that a recipe starts from when none is named.
pub const DEFAULT: &str = "reference";

/// Every preset.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "reference",
        about: "SimCLR, ResNet-18, 100 epochs of CIFAR-10: the recipe with published loss and accuracy (github.com/dkobak/simclr-cifar10)",
        recipe: reference,
    },
    Preset {
        name: "paper",
        about: "SimCLR, ResNet-50, 500 epochs of CIFAR-10 as in the released code of SSLMem (the paper says 600), three pairs",
        recipe: paper,
    },
    Preset {
        name: "cifar_small",
        about: "300 images of CIFAR-10 and a small encoder: memorization one can see within an hour on two cores",
        recipe: cifar_small,
    },
    Preset { name: "demo", about: "a procedural data set and a small encoder: minutes on two cores, no files needed", recipe: demo },
];

/// The preset of this name.
///
/// # Errors
/// There is none; the error names the nearest one.
pub fn preset(name: &str) -> Result<Recipe> {
    let names = || PRESETS.iter().map(|preset| preset.name);
    let found = PRESETS.iter().find(|preset| preset.name == name);
    found.map(|preset| (preset.recipe)()).ok_or_else(|| {
        let remedy = match nearest(name, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("choose one of {}", names().collect::<Vec<_>>().join(", ")),
        };
        Error::config(format!("there is no preset `{name}`"), remedy)
    })
}

impl Default for Recipe {
    fn default() -> Recipe {
        reference()
    }
}

/// The reference keeps the last, smaller batch of an epoch; here it is dropped (one batch of 79).
fn reference() -> Recipe {
    Recipe {
        seed: 0,
        pairs: 1,
        data: Data { source: "cifar10:data/cifar10".into(), on_bad_image: OnBadImage::Fail },
        split: Split {
            shared: Size::Fraction(0.8),
            candidate: Size::Fraction(0.1),
            independent: Size::Fraction(0.1),
            external: Size::Candidates,
            order: Order::Ordered,
        },
        encoder: Encoder { arch: "resnet18".into(), stem: Stem::Cifar, size: 32, normalize: Normalize::Unit },
        method: Method {
            name: "simclr".into(),
            temperature: 0.5,
            projector: Projector::Reference,
            view: Policy::Named("simclr_reference".into()),
        },
        optim: Optim {
            name: "sgd".into(),
            lr: 0.06,
            lr_scaling: "linear".into(),
            warmup_epochs: 0.0,
            schedule: "cosine".into(),
            weight_decay: 5e-4,
            momentum: 0.9,
            betas: [0.9, 0.999],
            eps: 1e-8,
            trust: 0.001,
        },
        train: Train { epochs: 100, batch: 512 },
        score: Score { views: 5, pairs: Pairs::All, features: Features::Pooled, batch: 32, view: Policy::Named("score".into()) },
    }
}

/// The score is the paper's text (every pair of views, the whole map); `score.pairs = "original"` is its code.
fn paper() -> Recipe {
    let base = reference();
    Recipe {
        pairs: 3,
        encoder: Encoder { arch: "resnet50".into(), normalize: Normalize::Cifar10, ..base.encoder },
        method: Method { projector: Projector::Paper, view: Policy::Named("simclr".into()), ..base.method },
        optim: Optim {
            name: "adam".into(),
            lr: 1e-3,
            lr_scaling: "none".into(),
            schedule: "constant".into(),
            weight_decay: 1e-6,
            ..base.optim
        },
        train: Train { epochs: 500, batch: 512 },
        score: Score { features: Features::Map, ..base.score },
        ..base
    }
}

/// Chosen on one pair of encoders (seed 0): 180 + 60 images are few enough for this encoder to memorise within
/// 400 epochs, 60 candidates are enough to see it, and 20 views, drawn as in training, make the noise of a score
/// smaller than the effect. With 2,000 images and 60 epochs there is next to nothing to see.
fn cifar_small() -> Recipe {
    let base = small();
    Recipe {
        pairs: 3,
        split: Split {
            shared: Size::Count(180),
            candidate: Size::Count(60),
            independent: Size::Count(60),
            external: Size::Count(300),
            ..base.split
        },
        train: Train { epochs: 400, batch: 60 },
        ..base
    }
}

/// Few images for both encoders, as many candidates as those allow, small views: what a pair memorises of 120
/// images in 1,000 epochs shows clearly, in minutes.
fn demo() -> Recipe {
    let base = small();
    Recipe {
        data: Data { source: "synthetic:1000".into(), ..base.data },
        split: Split {
            shared: Size::Count(40),
            candidate: Size::Count(80),
            independent: Size::Count(80),
            external: Size::Count(200),
            ..base.split
        },
        encoder: Encoder { size: 16, ..base.encoder },
        train: Train { epochs: 1000, batch: 60 },
        ..base
    }
}

/// What a machine without a GPU can train.
fn small() -> Recipe {
    let base = reference();
    Recipe {
        encoder: Encoder { arch: "resnet8".into(), normalize: Normalize::Cifar10, ..base.encoder },
        optim: Optim { name: "adamw".into(), lr: 2e-3, lr_scaling: "none".into(), warmup_epochs: 5.0, weight_decay: 1e-6, ..base.optim },
        score: Score { views: 20, view: Policy::Named("simclr_reference".into()), ..base.score },
        ..base
    }
}
