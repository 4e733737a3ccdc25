//! Translates other libraries' names of an encoder's tensors into ours, which are torchvision's and timm's.

/// The library whose names a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// torchvision, and libraries that call the downsampling `shortcut`.
    Resnet,
    /// A torchvision ResNet as an nn.Sequential of its children: convolution, norm, modules without weights, stages.
    Numbered {
        /// Index of the first stage in the nn.Sequential.
        first: usize,
    },
    /// ResNets of Hugging Face's transformers.
    HfResnet,
    /// ResNet-9 of Wang et al. 2024.
    Resnet9,
    /// ViTs of timm, MAE, DINO and MoCo v3.
    Timm,
    /// ViTs of Hugging Face's transformers: the names in its files, and the module names since version 5.
    HfVit,
    /// ViTs of torchvision.
    TorchvisionVit,
}

/// Every dialect with its anchors: names that only its encoders have. The first anchor occurs once per encoder.
pub const ANCHORS: &[(Dialect, &[&str])] = &[
    (Dialect::Resnet, &["conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight"]),
    (Dialect::Resnet9, &["conv1.weight", "bn1.running_mean", "conv8.weight", "bn8.running_mean"]),
    (Dialect::Numbered { first: 2 }, &["0.weight", "1.running_mean", "2.0.conv1.weight"]),
    (Dialect::Numbered { first: 3 }, &["0.weight", "1.running_mean", "3.0.conv1.weight"]),
    (Dialect::Numbered { first: 4 }, &["0.weight", "1.running_mean", "4.0.conv1.weight"]),
    (Dialect::HfResnet, &["embedder.embedder.convolution.weight", "encoder.stages.0.layers.0.layer.0.convolution.weight"]),
    (Dialect::Timm, &["patch_embed.proj.weight", "norm.weight"]),
    (Dialect::Timm, &["patch_embed.proj.weight", "cls_token"]),
    (Dialect::HfVit, &["embeddings.patch_embeddings.projection.weight", "embeddings.cls_token"]),
    (Dialect::TorchvisionVit, &["conv_proj.weight", "class_token"]),
];

/// Our name. For queries, keys or values also which third of that tensor this is.
pub fn ours(dialect: Dialect, name: &str) -> Option<(String, Option<usize>)> {
    match dialect {
        Dialect::Resnet | Dialect::Resnet9 => Some((name.replace(".shortcut.", ".downsample."), None)),
        Dialect::Numbered { first } => {
            let (number, rest) = name.split_once('.')?;
            let name = match number.parse::<usize>().ok()? {
                0 => format!("conv1.{rest}"),
                1 => format!("bn1.{rest}"),
                n => format!("layer{}.{}", n.checked_sub(first)? + 1, rest.replace(".shortcut.", ".downsample.")),
            };
            Some((name, None))
        }
        Dialect::HfResnet => hf_resnet(name).map(|name| (name, None)),
        Dialect::Timm => Some((unchunked(name).unwrap_or_else(|| name.to_string()), None)),
        Dialect::HfVit => hf_vit(name),
        Dialect::TorchvisionVit => torchvision_vit(name).map(|name| (name, None)),
    }
}

/// DINOv2 may store its blocks in chunks, with global block numbers: blocks.0.3 is blocks.3.
fn unchunked(name: &str) -> Option<String> {
    let (group, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    (number(group) && number(rest.split('.').next()?)).then(|| format!("blocks.{rest}"))
}

fn hf_resnet(name: &str) -> Option<String> {
    let part = |rest: &str, conv: &str, norm: &str| {
        let conv_of = rest.strip_prefix("convolution.").map(|rest| format!("{conv}.{rest}"));
        conv_of.or_else(|| rest.strip_prefix("normalization.").map(|rest| format!("{norm}.{rest}")))
    };
    if let Some(rest) = name.strip_prefix("embedder.embedder.") {
        return part(rest, "conv1", "bn1");
    }
    let (stage, rest) = name.strip_prefix("encoder.stages.")?.split_once('.')?;
    let (block, rest) = rest.strip_prefix("layers.")?.split_once('.')?;
    let at = format!("layer{}.{block}", stage.parse::<usize>().ok()?.checked_add(1)?);
    if let Some(rest) = rest.strip_prefix("shortcut.") {
        return part(rest, &format!("{at}.downsample.0"), &format!("{at}.downsample.1"));
    }
    let (layer, rest) = rest.strip_prefix("layer.")?.split_once('.')?;
    let layer = layer.parse::<usize>().ok()?.checked_add(1)?;
    part(rest, &format!("{at}.conv{layer}"), &format!("{at}.bn{layer}"))
}

/// `name` with its first matching prefix replaced.
fn renamed(name: &str, pairs: &[(&str, &str)]) -> Option<String> {
    pairs.iter().find_map(|(theirs, ours)| Some(format!("{ours}{}", name.strip_prefix(theirs)?)))
}

fn hf_vit(name: &str) -> Option<(String, Option<usize>)> {
    let outside = [
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
        ("layernorm.", "norm."),
    ];
    if let Some(name) = renamed(name, &outside) {
        return Some((name, None));
    }
    let (block, rest) = name.strip_prefix("encoder.layer.").or(name.strip_prefix("layers."))?.split_once('.')?;
    let thirds = [["attention.query.", "q_proj."], ["attention.key.", "k_proj."], ["attention.value.", "v_proj."]];
    let thirds = thirds.iter().enumerate().find_map(|(i, names)| {
        let rest = rest.strip_prefix("attention.")?;
        let rest = names.iter().find_map(|name| rest.strip_prefix(name))?;
        Some((format!("blocks.{block}.attn.qkv.{rest}"), Some(i)))
    });
    if thirds.is_some() {
        return thirds;
    }
    let inside = [
        ("layernorm_before.", "norm1."),
        ("layernorm_after.", "norm2."),
        ("norm1.", "norm1."),
        ("norm2.", "norm2."),
        ("attention.output.dense.", "attn.proj."),
        ("attention.o_proj.", "attn.proj."),
        ("intermediate.dense.", "mlp.fc1."),
        ("output.dense.", "mlp.fc2."),
        ("mlp.fc", "mlp.fc"),
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("layer_scale2.lambda1", "ls2.gamma"),
    ];
    renamed(rest, &inside).map(|rest| (format!("blocks.{block}.{rest}"), None))
}

fn torchvision_vit(name: &str) -> Option<String> {
    let outside = [
        ("class_token", "cls_token"),
        ("encoder.pos_embedding", "pos_embed"),
        ("conv_proj.", "patch_embed.proj."),
        ("encoder.ln.", "norm."),
    ];
    if let Some(name) = renamed(name, &outside) {
        return Some(name);
    }
    let (block, rest) = name.strip_prefix("encoder.layers.encoder_layer_")?.split_once('.')?;
    let inside = [
        ("ln_1.", "norm1."),
        ("ln_2.", "norm2."),
        ("self_attention.in_proj_", "attn.qkv."),
        ("self_attention.out_proj.", "attn.proj."),
        ("mlp.0.", "mlp.fc1."),
        ("mlp.linear_1.", "mlp.fc1."),
        ("mlp.3.", "mlp.fc2."),
        ("mlp.linear_2.", "mlp.fc2."),
    ];
    renamed(rest, &inside).map(|rest| format!("blocks.{block}.{rest}"))
}
