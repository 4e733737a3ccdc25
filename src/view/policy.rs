//! Named policies.

use serde::{Deserialize, Serialize};

use super::{Blur, Crop, Interpolation, Jitter, Resize, Solarize, View};

/// Mean and standard deviation of the channels of CIFAR-10's training images.
pub const CIFAR10: [[f32; 3]; 2] = [[0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]];
/// Those of ImageNet, as torchvision's weights expect them.
pub const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];
/// Those of CIFAR-100, SVHN, STL-10 and MNIST.
pub const CIFAR100: [[f32; 3]; 2] = [[0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]];
pub const SVHN: [[f32; 3]; 2] = [[0.4377, 0.4438, 0.4728], [0.1980, 0.2010, 0.1970]];
pub const STL10: [[f32; 3]; 2] = [[0.4914, 0.4823, 0.4466], [0.2470, 0.2430, 0.2610]];
pub const MNIST: [[f32; 3]; 2] = [[0.1307; 3], [0.3081; 3]];
/// CIFAR-10's in the released code of SSLMem and much other code, where the deviations are means of the deviations of single images.
pub const SSLMEM: [[f32; 3]; 2] = [[0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]];
/// Values in [-1, 1].
pub const HALF: [[f32; 3]; 2] = [[0.5; 3], [0.5; 3]];
/// Values in [0, 1]: no normalisation.
pub const UNIT: [[f32; 3]; 2] = [[0.0; 3], [1.0; 3]];

/// A kind of view: a name in [`POLICIES`], or all of its parameters.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Policy {
    Named(String),
    Own(View),
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Policy, D::Error> {
        from.deserialize_any(AnyPolicy)
    }
}

struct AnyPolicy;

impl<'de> serde::de::Visitor<'de> for AnyPolicy {
    type Value = Policy;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the name of a policy or a table with all of its parameters")
    }
    fn visit_str<E: serde::de::Error>(self, name: &str) -> std::result::Result<Policy, E> {
        Ok(Policy::Named(name.to_string()))
    }
    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> std::result::Result<Policy, A::Error> {
        View::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Policy::Own)
    }
}

/// Makes a policy for views of a size in pixels.
pub type Make = fn(usize) -> View;

/// Every named policy. `View::normalized` changes mean and std.
pub const POLICIES: &[(&str, Make)] = &[
    ("original", original),
    ("score", score),
    ("simclr", simclr),
    ("simclr_reference", simclr_reference),
    ("simclr_cifar", simclr_cifar),
    ("simclr_imagenet", simclr_imagenet),
    ("simsiam", simsiam),
    ("simsiam_cifar", simsiam_cifar),
    ("simsiam_imagenet", simsiam_imagenet),
    ("byol_1", byol_1),
    ("byol_2", byol_2),
    ("byol_imagenet_1", byol_imagenet_1),
    ("byol_imagenet_2", byol_imagenet_2),
    ("mocov3_imagenet_1", mocov3_imagenet_1),
    ("mocov3_imagenet_2", mocov3_imagenet_2),
    ("mocov3_vit_imagenet_1", mocov3_vit_imagenet_1),
    ("mocov3_vit_imagenet_2", mocov3_vit_imagenet_2),
    ("vicreg", vicreg),
    ("dino_1", dino_1),
    ("dino_2", dino_2),
    ("dino_local", dino_local),
    ("dino_imagenet_1", dino_imagenet_1),
    ("dino_imagenet_2", dino_imagenet_2),
    ("dino_imagenet_local", dino_imagenet_local),
    ("mae", mae),
    ("mae_imagenet", mae_imagenet),
    ("supervised", supervised),
];

/// The named policy for views of this size.
pub fn policy(name: &str, size: usize) -> Option<View> {
    POLICIES.iter().find(|(known, _)| *known == name).map(|(_, make)| make(size))
}

/// The views of torchvision's classifier training (references/classification/presets.py): a crop and a flip.
fn supervised(size: usize) -> View {
    View { flip: 0.5, ..plain(size, random(0.08), IMAGENET) }
}

/// No augmentation, with the default settings of recipes.
fn original(size: usize) -> View {
    View::plain(size, Resize::Auto, Interpolation::Bilinear, CIFAR10)
}

/// The views that SSLMem scores with (released code of Wang et al. 2024, `memorization_scores.py`), but jittered in [0, 1] before the
/// normalisation, not after it.
fn score(size: usize) -> View {
    View { flip: 0.5, gray: 0.2, jitter: jitter(0.8, 0.2), ..plain(size, random(0.08), CIFAR10) }
}

/// SimCLR on CIFAR-10 as in the released code of SSLMem (Wang et al. 2024): no blur.
fn simclr(size: usize) -> View {
    View { flip: 0.5, gray: 0.2, jitter: jitter(0.4, 0.1), ..plain(size, random(0.08), CIFAR10) }
}

/// SimCLR on CIFAR-10 with published accuracies (github.com/dkobak/simclr-cifar10): larger crops, fewer
/// gray views, no normalisation.
fn simclr_reference(size: usize) -> View {
    View { flip: 0.5, gray: 0.1, jitter: jitter(0.4, 0.1), ..plain(size, random(0.2), UNIT) }
}

/// SimCLR on CIFAR-10 in solo-learn: stronger jitter, and blur.
fn simclr_cifar(size: usize) -> View {
    let interpolation = Interpolation::Bicubic;
    View { interpolation, flip: 0.5, gray: 0.2, jitter: jitter(0.8, 0.2), blur: blur(0.5), ..plain(size, random(0.08), CIFAR10) }
}

/// SimCLR on ImageNet (Chen et al. 2020, appendix A and their code): bicubic, blurred half of the time
/// with a kernel of a tenth of the size.
fn simclr_imagenet(size: usize) -> View {
    View {
        interpolation: Interpolation::Bicubic,
        flip: 0.5,
        gray: 0.2,
        jitter: jitter(0.8, 0.2),
        blur: Some(Blur { sigma: [0.1, 2.0], kernel: Some(size / 20 * 2 + 1), p: 0.5 }),
        ..plain(size, random(0.08), IMAGENET)
    }
}

/// SimSiam on CIFAR-10 (Chen and He 2021, appendix D): no blur.
fn simsiam(size: usize) -> View {
    View { flip: 0.5, gray: 0.2, jitter: jitter(0.4, 0.1), ..plain(size, random(0.2), CIFAR10) }
}

/// SimSiam on CIFAR-10 in solo-learn: its views of SimCLR with weaker jitter.
fn simsiam_cifar(size: usize) -> View {
    View { jitter: jitter(0.4, 0.1), ..simclr_cifar(size) }
}

/// SimSiam on ImageNet (Chen and He 2021, their code).
fn simsiam_imagenet(size: usize) -> View {
    View { blur: blur(0.5), mean: IMAGENET[0], std: IMAGENET[1], ..simsiam(size) }
}

/// The first of BYOL's two kinds of views on CIFAR-10, as solo-learn has them for BYOL, MoCo v3, Barlow Twins and DINO: no blur.
fn byol_1(size: usize) -> View {
    let interpolation = Interpolation::Bicubic;
    View { interpolation, flip: 0.5, gray: 0.2, jitter: byol_jitter(), ..plain(size, random(0.08), CIFAR10) }
}

/// The second: a fifth is solarized.
fn byol_2(size: usize) -> View {
    View { solarize: solarize(0.2), ..byol_1(size) }
}

/// BYOL on ImageNet (Grill et al. 2020, appendix B), and so Barlow Twins and VICReg: the first view is always blurred.
fn byol_imagenet_1(size: usize) -> View {
    View { blur: blur(1.0), mean: IMAGENET[0], std: IMAGENET[1], ..byol_1(size) }
}

/// The second: seldom blurred, sometimes solarized.
fn byol_imagenet_2(size: usize) -> View {
    View { blur: blur(0.1), solarize: solarize(0.2), ..byol_imagenet_1(size) }
}

/// MoCo v3 on ImageNet with a ResNet-50 (Chen et al. 2021, their code): BYOL's with larger crops, bilinear.
fn mocov3_imagenet_1(size: usize) -> View {
    View { interpolation: Interpolation::Bilinear, crop: random(0.2), ..byol_imagenet_1(size) }
}

fn mocov3_imagenet_2(size: usize) -> View {
    View { interpolation: Interpolation::Bilinear, crop: random(0.2), ..byol_imagenet_2(size) }
}

/// MoCo v3 on ImageNet with a ViT: BYOL's, bilinear.
fn mocov3_vit_imagenet_1(size: usize) -> View {
    View { interpolation: Interpolation::Bilinear, ..byol_imagenet_1(size) }
}

fn mocov3_vit_imagenet_2(size: usize) -> View {
    View { interpolation: Interpolation::Bilinear, ..byol_imagenet_2(size) }
}

/// VICReg on CIFAR-10 (solo-learn).
fn vicreg(size: usize) -> View {
    View { crop: random(0.2), solarize: solarize(0.1), ..byol_1(size) }
}

/// DINO's global crops at CIFAR's size: no blur.
fn dino_1(size: usize) -> View {
    View { crop: random(0.4), ..byol_1(size) }
}

fn dino_2(size: usize) -> View {
    View { crop: random(0.4), ..byol_2(size) }
}

/// DINO's small crops at CIFAR's size.
fn dino_local(size: usize) -> View {
    View { crop: part(0.05, 0.4), ..byol_1(size) }
}

/// DINO on ImageNet (Caron et al. 2021, their code).
fn dino_imagenet_1(size: usize) -> View {
    View { crop: random(0.4), ..byol_imagenet_1(size) }
}

fn dino_imagenet_2(size: usize) -> View {
    View { crop: random(0.4), ..byol_imagenet_2(size) }
}

fn dino_imagenet_local(size: usize) -> View {
    View { crop: part(0.05, 0.4), blur: blur(0.5), ..byol_imagenet_1(size) }
}

/// MAE on CIFAR-10 in the released code of SSLMem: the image itself, in [-1, 1].
fn mae(size: usize) -> View {
    plain(size, Crop::Center { resize: size }, HALF)
}

/// MAE on ImageNet (He et al. 2022): crop and flip alone.
fn mae_imagenet(size: usize) -> View {
    View { interpolation: Interpolation::Bicubic, flip: 0.5, ..plain(size, random(0.2), IMAGENET) }
}

fn byol_jitter() -> Option<Jitter> {
    Some(Jitter { brightness: 0.4, contrast: 0.4, saturation: 0.2, hue: 0.1, p: 0.8 })
}

fn blur(p: f32) -> Option<Blur> {
    Some(Blur { sigma: [0.1, 2.0], kernel: None, p })
}

fn solarize(p: f32) -> Option<Solarize> {
    Some(Solarize { threshold: 128.0 / 255.0, p })
}

fn plain(size: usize, crop: Crop, [mean, std]: [[f32; 3]; 2]) -> View {
    let interpolation = Interpolation::Bilinear;
    View { size, interpolation, flip: 0.0, gray: 0.0, mean, std, crop, jitter: None, blur: None, solarize: None }
}

/// RandomResizedCrop with torchvision's aspect ratios.
fn random(smallest: f32) -> Crop {
    part(smallest, 1.0)
}

fn part(smallest: f32, largest: f32) -> Crop {
    Crop::Random { scale: [smallest, largest], ratio: [3.0 / 4.0, 4.0 / 3.0] }
}

fn jitter(strength: f32, hue: f32) -> Option<Jitter> {
    Some(Jitter { brightness: strength, contrast: strength, saturation: strength, hue, p: 0.8 })
}
