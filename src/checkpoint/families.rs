//! Recognises a network by the shapes of its tensors, and lists the names and shapes that it must have. A test compares this with the
//! encoders themselves, which the layer of this module may not use.

use super::pickle::Fault;
use std::collections::BTreeMap;

/// Our names to shapes.
pub type Shapes = BTreeMap<String, Vec<usize>>;

struct Resnet {
    arch: &'static str,
    bottleneck: bool,
    depths: &'static [usize],
    base: usize,
    /// Ratio of a bottleneck's inner width to the stage's width.
    widen: usize,
    /// Shortcuts without weights (option A of He et al.).
    plain: bool,
}

const RESNETS: &[Resnet] = &[
    Resnet { arch: "resnet8", bottleneck: false, depths: &[1, 1, 1], base: 16, widen: 1, plain: false },
    Resnet { arch: "resnet18", bottleneck: false, depths: &[2, 2, 2, 2], base: 64, widen: 1, plain: false },
    Resnet { arch: "resnet20", bottleneck: false, depths: &[3, 3, 3], base: 16, widen: 1, plain: true },
    Resnet { arch: "resnet32", bottleneck: false, depths: &[5, 5, 5], base: 16, widen: 1, plain: true },
    Resnet { arch: "resnet34", bottleneck: false, depths: &[3, 4, 6, 3], base: 64, widen: 1, plain: false },
    Resnet { arch: "resnet44", bottleneck: false, depths: &[7, 7, 7], base: 16, widen: 1, plain: true },
    Resnet { arch: "resnet50", bottleneck: true, depths: &[3, 4, 6, 3], base: 64, widen: 1, plain: false },
    Resnet { arch: "resnet56", bottleneck: false, depths: &[9, 9, 9], base: 16, widen: 1, plain: true },
    Resnet { arch: "wide_resnet50_2", bottleneck: true, depths: &[3, 4, 6, 3], base: 64, widen: 2, plain: false },
];

/// (arch, width, blocks, heads).
const VITS: &[(&str, usize, usize, usize)] =
    &[("vit_nano", 64, 4, 2), ("vit_tiny", 192, 12, 3), ("vit_small", 384, 12, 6), ("vit_base", 768, 12, 12)];

/// (inputs, outputs) of the eight convolutions of a ResNet-9.
const RESNET9: [(usize, usize); 8] = [(3, 32), (32, 64), (64, 64), (64, 64), (64, 128), (128, 256), (256, 256), (256, 256)];

/// A network with its configuration.
pub struct Net {
    pub arch: &'static str,
    /// ResNets: height of the first kernel, 3 or 7.
    pub stem: Option<usize>,
    /// ViTs: (pixels, patches) along a side of a patch and of the grid.
    pub grid: Option<(usize, usize)>,
    /// Of a ViT.
    pub heads: Option<usize>,
}

impl Net {
    /// Every tensor that it must have.
    pub fn expected(&self) -> Shapes {
        expected(self.arch, self.stem.unwrap_or(3), self.grid.unwrap_or((1, 1))).unwrap_or_default()
    }
}

/// The network with these tensors, as far as shapes tell.
pub fn recognise(shapes: &Shapes) -> Result<Net, Fault> {
    if shapes.contains_key("patch_embed.proj.weight") {
        return vit(shapes);
    }
    if shapes.contains_key("conv8.weight") {
        return Ok(Net { arch: "resnet9", stem: None, grid: None, heads: None });
    }
    resnet(shapes)
}

fn shape<'a>(shapes: &'a Shapes, name: &str) -> &'a [usize] {
    shapes.get(name).map(Vec::as_slice).unwrap_or_default()
}

fn resnet(shapes: &Shapes) -> Result<Net, Fault> {
    let &[base, colours, kernel, _] = shape(shapes, "conv1.weight") else {
        return Err("has a conv1.weight that is no convolution".into());
    };
    if colours != 3 {
        return Err(format!("has an encoder for images of {colours} channels; those here have 3"));
    }
    let block = |stage: usize, block: usize| shapes.contains_key(&format!("layer{stage}.{block}.conv1.weight"));
    let stages = (1..10).take_while(|stage| block(*stage, 0)).count();
    let depths: Vec<usize> = (1..=stages).map(|stage| (0..).take_while(|b| block(stage, *b)).count()).collect();
    let bottleneck = shapes.contains_key("layer1.0.conv3.weight");
    let inner = shape(shapes, "layer1.0.conv1.weight").first().copied().unwrap_or(0);
    let widen = if bottleneck { inner / base.max(1) } else { 1 };
    let plain = !shapes.contains_key("layer2.0.downsample.0.weight");
    let same = |r: &&Resnet| (r.bottleneck, r.depths, r.base, r.widen, r.plain) == (bottleneck, &depths[..], base, widen, plain);
    if let Some(found) = RESNETS.iter().find(same) {
        if kernel != 3 && kernel != 7 {
            return Err(format!("begins with a convolution of {kernel}x{kernel}; those of the ResNets here are 3x3 or 7x7"));
        }
        return Ok(Net { arch: found.arch, stem: Some(kernel), grid: None, heads: None });
    }
    let names: Vec<&str> = RESNETS.iter().map(|r| r.arch).collect();
    let (kind, shortcut) = (if bottleneck { "bottlenecks" } else { "basic blocks" }, if plain { "without" } else { "with" });
    let what = format!("holds a ResNet with stages of {depths:?} {kind}, {base} channels at first and shortcuts {shortcut} weights");
    Err(format!("{what}, which is not one of {}", names.join(", ")))
}

fn vit(shapes: &Shapes) -> Result<Net, Fault> {
    let &[width, 3, patch, across] = shape(shapes, "patch_embed.proj.weight") else {
        return Err("has patches that are no convolution of three colours; only such ViTs are known here".into());
    };
    let depth = (0..).take_while(|i| shapes.contains_key(&format!("blocks.{i}.norm1.weight"))).count();
    if depth == 0 {
        return Err("cuts images into patches and is no ViT (it has no blocks.0.norm1), such as a Swin; only ViTs are known here".into());
    }
    if !shapes.contains_key("blocks.0.attn.qkv.bias") && shapes.contains_key("blocks.0.attn.qkv.weight") {
        return Err("holds a ViT whose queries, keys and values have no bias; those here have one".into());
    }
    let Some((arch, _, _, heads)) = VITS.iter().find(|(_, w, d, _)| (*w, *d) == (width, depth)) else {
        let names: Vec<String> = VITS.iter().map(|(name, w, d, _)| format!("{name} ({w}, {d})")).collect();
        return Err(format!("holds a ViT of width {width} and {depth} blocks, which is not one of {}", names.join(", ")));
    };
    if ["reg_token", "register_tokens"].iter().any(|name| shapes.contains_key(*name)) {
        return Err("holds a ViT with register tokens, which those here do not have; take the one without".into());
    }
    if shapes.contains_key("fc_norm.weight") || shapes.contains_key("norm_pre.weight") {
        return Err("holds a ViT with its norms at other places (fc_norm or norm_pre); those here have one after the last block".into());
    }
    if !shapes.contains_key("cls_token") {
        return Err("holds a ViT without a class token; those here have one".into());
    }
    let tokens = match shape(shapes, "pos_embed") {
        [1, tokens, _] => *tokens,
        _ => return Err("holds a ViT without positions of its tokens (pos_embed); those here add them once, at the start".into()),
    };
    let grid = tokens.saturating_sub(1).isqrt();
    if grid == 0 || grid * grid + 1 != tokens || patch != across || patch == 0 {
        let what = format!("holds a ViT with {tokens} positions and patches of {patch}x{across}");
        return Err(format!("{what}; those here have a class token and a square of square patches"));
    }
    Ok(Net { arch, stem: None, grid: Some((patch, grid)), heads: Some(*heads) })
}

/// Every tensor of an encoder with its shape. `kernel` is the height of a ResNet's first kernel; `patch` is the pixels along a side of a
/// ViT's patch, `grid` the patches along a side. `None` for an unknown encoder.
pub fn expected(arch: &str, kernel: usize, (patch, grid): (usize, usize)) -> Option<Shapes> {
    let mut list = Shapes::new();
    if let Some((_, width, depth, _)) = VITS.iter().find(|v| v.0 == arch) {
        let w = *width;
        list.insert("cls_token".into(), vec![1, 1, w]);
        list.insert("pos_embed".into(), vec![1, 1 + grid * grid, w]);
        let mut dense = |name: String, shape: Vec<usize>| {
            list.insert(format!("{name}.bias"), vec![shape[0]]);
            list.insert(format!("{name}.weight"), shape);
        };
        dense("patch_embed.proj".into(), vec![w, 3, patch, patch]);
        for i in 0..*depth {
            let at = |name: &str| format!("blocks.{i}.{name}");
            dense(at("norm1"), vec![w]);
            dense(at("attn.qkv"), vec![3 * w, w]);
            dense(at("attn.proj"), vec![w, w]);
            dense(at("norm2"), vec![w]);
            dense(at("mlp.fc1"), vec![4 * w, w]);
            dense(at("mlp.fc2"), vec![w, 4 * w]);
        }
        dense("norm".into(), vec![w]);
        return Some(list);
    }
    let mut conv_norm = |conv: String, norm: String, [inputs, outputs, kernel]: [usize; 3]| {
        list.insert(format!("{conv}.weight"), vec![outputs, inputs, kernel, kernel]);
        for part in ["weight", "bias", "running_mean", "running_var"] {
            list.insert(format!("{norm}.{part}"), vec![outputs]);
        }
    };
    if arch == "resnet9" {
        for (i, (inputs, outputs)) in (1..).zip(RESNET9) {
            conv_norm(format!("conv{i}"), format!("bn{i}"), [inputs, outputs, 3]);
        }
        return Some(list);
    }
    let r = RESNETS.iter().find(|r| r.arch == arch)?;
    conv_norm("conv1".into(), "bn1".into(), [3, r.base, kernel]);
    let mut inputs = r.base;
    for (stage, &depth) in r.depths.iter().enumerate() {
        let width = r.base << stage;
        let outputs = if r.bottleneck { 4 * width } else { width };
        for block in 0..depth {
            let mut part = |name: &str, norm: &str, shape| {
                conv_norm(format!("layer{}.{block}.{name}", stage + 1), format!("layer{}.{block}.{norm}", stage + 1), shape)
            };
            if inputs != outputs && !r.plain {
                part("downsample.0", "downsample.1", [inputs, outputs, 1]);
            }
            if r.bottleneck {
                part("conv1", "bn1", [inputs, width * r.widen, 1]);
                part("conv2", "bn2", [width * r.widen, width * r.widen, 3]);
                part("conv3", "bn3", [width * r.widen, outputs, 1]);
            } else {
                part("conv1", "bn1", [inputs, width, 3]);
                part("conv2", "bn2", [width, outputs, 3]);
            }
            inputs = outputs;
        }
    }
    Some(list)
}

/// Are these fixed sines and cosines, [1 + grid * grid, width]? MAE's have the column in their first half, as in [`crate::encoders`], MoCo v3's
/// the row.
pub fn sine_cosine(values: &[f32], width: usize, grid: usize) -> bool {
    let quarter = width / 4;
    let class = values.iter().take(width).all(|v| *v == 0.0);
    let is = |places: fn(usize, usize) -> [usize; 2]| {
        values.chunks_exact(width).skip(1).enumerate().all(|(patch, row)| {
            places(patch / grid, patch % grid).iter().zip(row.chunks_exact(2 * quarter)).all(|(place, half)| {
                (0..quarter).all(|i| {
                    let (sine, cosine) = (*place as f64 / 10000f64.powf(i as f64 / quarter as f64)).sin_cos();
                    (half[i] as f64 - sine).abs() < 1e-4 && (half[quarter + i] as f64 - cosine).abs() < 1e-4
                })
            })
        })
    };
    class && (is(|row, column| [column, row]) || is(|row, column| [row, column]))
}
