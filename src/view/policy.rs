//! The policies that have a name.

use super::{Blur, Crop, Interpolation, Jitter, View};

/// Mean and standard deviation of the channels of CIFAR-10's training images.
pub const CIFAR10: [[f32; 3]; 2] = [[0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]];
/// Those of ImageNet, as torchvision's weights expect them.
pub const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];
/// Values in [-1, 1].
pub const HALF: [[f32; 3]; 2] = [[0.5; 3], [0.5; 3]];
/// Values in [0, 1]: no normalisation.
pub const UNIT: [[f32; 3]; 2] = [[0.0; 3], [1.0; 3]];

/// Makes a policy for views of a size in pixels.
pub type Make = fn(usize) -> View;

/// Every named policy. `View::normalized` changes mean and std.
pub const POLICIES: &[(&str, Make)] = &[
    ("original", original),
    ("original_imagenet", original_imagenet),
    ("score", score),
    ("simclr", simclr),
    ("simclr_reference", simclr_reference),
    ("simclr_imagenet", simclr_imagenet),
];

/// The named policy for views of this size.
pub fn policy(name: &str, size: usize) -> Option<View> {
    POLICIES.iter().find(|(known, _)| *known == name).map(|(_, make)| make(size))
}

/// No augmentation: the short side resized to the size, the middle cut out. CIFAR stays as it is.
fn original(size: usize) -> View {
    plain(size, Crop::Center { resize: size }, CIFAR10)
}

/// No augmentation, torchvision's evaluation: short side 256 for a size of 224, the middle cut out.
fn original_imagenet(size: usize) -> View {
    plain(size, Crop::Center { resize: size * 8 / 7 }, IMAGENET)
}

/// The views that SSLMem scores with (released code of Wang et al. 2024, `memorization_scores.py`),
/// jittered in [0, 1] before the normalisation and not after it as there.
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

fn plain(size: usize, crop: Crop, [mean, std]: [[f32; 3]; 2]) -> View {
    let interpolation = Interpolation::Bilinear;
    View { size, interpolation, flip: 0.0, gray: 0.0, mean, std, crop, jitter: None, blur: None, solarize: None }
}

/// RandomResizedCrop with torchvision's aspect ratios.
fn random(smallest: f32) -> Crop {
    Crop::Random { scale: [smallest, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }
}

fn jitter(strength: f32, hue: f32) -> Option<Jitter> {
    Some(Jitter { brightness: strength, contrast: strength, saturation: strength, hue, p: 0.8 })
}
