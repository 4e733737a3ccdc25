//! Configs beside a file of weights: timm's `config.json`, and Hugging Face's `config.json` and `preprocessor_config.json`.
//!
//! Every key that changes features is read or refused; `sslmem convert` names keys in no list here.

use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Largest config in bytes.
const LARGEST: u64 = 1 << 20;

/// Settings from the configs beside a file of weights.
#[derive(Default)]
pub struct Settings {
    /// The network: `heads`, `norm_eps`.
    pub encoder: BTreeMap<&'static str, String>,
    /// Its images: `size` (pixels), `resize` (pixels of the short side, or `whole`), `interpolation`, `mean` and `std` (as [f32; 3]).
    pub images: BTreeMap<&'static str, String>,
    /// Reason why the network is not one of those here, although its tensors fit.
    pub refused: Option<String>,
    /// Reason why images cannot be resized here as in its training.
    pub unclear: Option<String>,
    /// Unknown keys.
    pub unknown: Vec<String>,
}

/// Treatment of a key.
#[derive(Clone, Copy)]
enum Key {
    Read,
    /// Ignored: it does not change features, or the tensors show it.
    Free,
    /// Refused unless it is one of these, as JSON.
    Is(&'static [&'static str]),
}
use Key::{Free, Is, Read as Used};

/// Keys of Hugging Face's `config.json`. `hidden_act` depends on the family, see [`activation`].
const HUGGING_FACE: &[(&str, Key)] = &[
    ("model_type", Used),
    ("hidden_act", Used),
    ("num_attention_heads", Used),
    ("layer_norm_eps", Used),
    ("num_channels", Is(&["3"])),
    ("qkv_bias", Is(&["true"])),
    ("downsample_in_bottleneck", Is(&["false"])),
    ("downsample_in_first_stage", Is(&["false"])),
    ("use_swiglu_ffn", Is(&["false"])),
    ("num_register_tokens", Is(&["0"])),
    ("hidden_size", Free),
    ("num_hidden_layers", Free),
    ("intermediate_size", Free),
    ("mlp_ratio", Free),
    ("image_size", Free),
    ("patch_size", Free),
    ("layerscale_value", Free),
    ("embedding_size", Free),
    ("hidden_sizes", Free),
    ("depths", Free),
    ("layer_type", Free),
    ("architectures", Free),
    ("id2label", Free),
    ("label2id", Free),
    ("num_labels", Free),
    ("problem_type", Free),
    ("initializer_range", Free),
    ("hidden_dropout_prob", Free),
    ("attention_probs_dropout_prob", Free),
    ("drop_path_rate", Free),
    ("encoder_stride", Free),
    ("pooler_act", Free),
    ("pooler_output_size", Free),
    ("use_mask_token", Free),
    ("apply_layernorm", Free),
    ("reshape_hidden_states", Free),
    ("out_features", Free),
    ("out_indices", Free),
    ("stage_names", Free),
    ("mask_ratio", Free),
    ("norm_pix_loss", Free),
    ("decoder_hidden_size", Free),
    ("decoder_intermediate_size", Free),
    ("decoder_num_attention_heads", Free),
    ("decoder_num_hidden_layers", Free),
    ("torch_dtype", Free),
    ("dtype", Free),
    ("transformers_version", Free),
    ("_name_or_path", Free),
    // Keys of other networks. Their tensors may look like ours, so only the key tells them apart.
    ("use_absolute_position_embeddings", Is(&["true"])),
    ("use_relative_position_bias", Is(&["false"])),
    ("use_shared_relative_position_bias", Is(&["false"])),
    ("use_mean_pooling", Is(&["false"])),
    ("attention_bias", Is(&["true"])),
    ("rope_theta", Is(&["null"])),
    ("rope_parameters", Is(&["null"])),
    ("use_gated_mlp", Is(&["false"])),
    ("groups", Is(&["1"])),
    ("width_per_group", Is(&["64"])),
    ("output_stride", Is(&["null", "32"])),
    ("global_padding", Is(&["null"])),
];

/// Keys of timm's `config.json`.
const TIMM: &[(&str, Key)] = &[
    ("architecture", Used),
    ("pretrained_cfg", Used),
    ("model_args", Used),
    ("global_pool", Is(&["\"avg\"", "\"token\"", "\"\""])),
    ("num_classes", Free),
    ("num_features", Free),
    ("label_names", Free),
    ("label_descriptions", Free),
];

/// Keys of its `model_args`. A key in no list changes the network and is refused.
const TIMM_ARGS: &[(&str, Key)] = &[
    ("num_heads", Used),
    ("in_chans", Is(&["3"])),
    ("img_size", Free),
    ("patch_size", Free),
    ("embed_dim", Free),
    ("depth", Free),
    ("mlp_ratio", Free),
    ("init_values", Free),
    ("num_classes", Free),
    ("dynamic_img_size", Free),
    ("drop_rate", Free),
    ("drop_path_rate", Free),
    ("global_pool", Is(&["\"avg\"", "\"token\"", "\"\""])),
];

/// Keys of its `pretrained_cfg`. All others are ignored: they state where the weights come from.
const TIMM_IMAGES: [&str; 6] = ["input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std"];

/// Keys of Hugging Face's `preprocessor_config.json`.
const PREPROCESSOR: &[(&str, Key)] = &[
    ("image_processor_type", Used),
    ("feature_extractor_type", Used),
    ("do_resize", Is(&["true"])),
    ("size", Used),
    ("resample", Used),
    ("do_center_crop", Used),
    ("crop_size", Used),
    ("crop_pct", Used),
    ("do_rescale", Is(&["true"])),
    ("rescale_factor", Used),
    ("do_normalize", Used),
    ("image_mean", Used),
    ("image_std", Used),
    ("do_convert_rgb", Free),
    ("do_flip_channel_order", Is(&["false"])),
    ("do_pad", Is(&["false", "null"])),
    ("processor_class", Free),
    ("data_format", Free),
    ("input_data_format", Free),
    ("default_to_square", Free),
    ("return_tensors", Free),
    ("device", Free),
    ("disable_grouping", Free),
];

/// Architectures of timm that are known here. Names and tensors alone do not tell them from timm's variants.
fn known(architecture: &str) -> bool {
    let resnets = ["resnet18", "resnet34", "resnet50", "wide_resnet50_2", "tv_resnet34", "tv_resnet50", "gluon_resnet18_v1b"];
    let resnets = resnets.into_iter().chain(["gluon_resnet34_v1b", "gluon_resnet50_v1b", "ssl_resnet18", "ssl_resnet50", "swsl_resnet18"]);
    if resnets.chain(["swsl_resnet50"]).any(|name| name == architecture) {
        return true;
    }
    let Some((family, form)) = architecture.split_once("_patch") else { return false };
    let families = ["vit_tiny", "vit_small", "vit_base", "deit_tiny", "deit_small", "deit_base"];
    let Some((patch, of)) = form.split_once('_') else { return false };
    let of = ["_in21k", "_dino", "_sam", "_miil", "_miil_in21k"].iter().find_map(|end| of.strip_suffix(end)).unwrap_or(of);
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    families.contains(&family) && number(patch) && (number(of) || of == "dinov2")
}

/// Reads the configs beside `weights`. Missing files and files that are not JSON give no settings.
pub fn settings(weights: &Path) -> Settings {
    let mut found = Settings::default();
    if let Some(config) = read(&weights.with_file_name("config.json")) {
        if config.get("architecture").is_some() || config.get("pretrained_cfg").is_some() {
            found.timm(&config);
        } else {
            found.hugging_face(&config);
        }
    }
    if let Some(config) = read(&weights.with_file_name("preprocessor_config.json")) {
        found.preprocessor(&config);
    }
    found
}

fn read(path: &Path) -> Option<Value> {
    let mut text = vec![];
    crate::files::open(path).ok()?.take(LARGEST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok().filter(Value::is_object)
}

impl Settings {
    /// Compares the keys of an object with a list, and notes refused and unknown ones.
    fn hold(&mut self, file: &str, object: &Value, keys: &[(&str, Key)]) -> Option<String> {
        let mut wrong = None;
        for (name, value) in object.as_object().into_iter().flatten() {
            match keys.iter().find(|(known, _)| known == name) {
                Some((_, Is(values))) if !values.contains(&value.to_string().as_str()) => {
                    wrong.get_or_insert(format!("{file} says {name} {value}; {} is known here", values.join(" or ")));
                }
                Some(_) => (),
                None => self.unknown.push(format!("{name} of {file}")),
            }
        }
        wrong
    }

    fn refuse(&mut self, why: Option<String>) {
        self.refused = self.refused.take().or(why);
    }

    fn timm(&mut self, config: &Value) {
        let wrong = self.hold("config.json", config, TIMM);
        self.refuse(wrong);
        if let Some(architecture) = config.get("architecture").and_then(Value::as_str)
            && !known(architecture.split('.').next().unwrap_or_default())
        {
            let what = format!("is a `{architecture}` by its config.json, which is not known here");
            self.refuse(Some(format!("{what} (resnet18, 34, 50, wide_resnet50_2 and vit or deit tiny, small, base are)")));
        }
        if let Some(args) = config.get("model_args") {
            let before = self.unknown.len();
            let wrong = self.hold("model_args in config.json", args, TIMM_ARGS);
            self.refuse(wrong);
            let unknown = self.unknown.split_off(before);
            self.refuse(unknown.first().map(|name| format!("was built with {name}, which is not known here")));
            self.encoder.extend(args.get("num_heads").and_then(Value::as_u64).map(|heads| ("heads", heads.to_string())));
        }
        let Some(images) = config.get("pretrained_cfg") else { return };
        let of = |key: &str| images.get(key).filter(|value| !value.is_null());
        if !TIMM_IMAGES.iter().any(|key| of(key).is_some()) {
            return;
        }
        // Absent keys have timm's defaults (timm/data/config.py, resolve_data_config; timm/data/constants.py).
        let mean = of("mean").map_or(Some([0.485, 0.456, 0.406]), three);
        let std = of("std").map_or(Some([0.229, 0.224, 0.225]), three);
        let interpolation = of("interpolation").map_or(Some("bicubic"), Value::as_str);
        let share = of("crop_pct").map_or(Some(0.875), Value::as_f64).filter(|share| *share > 0.1 && *share <= 1.0);
        let mode = of("crop_mode").map_or(Some("center"), Value::as_str);
        self.statistics(mean.zip(std));
        let size = of("input_size").map_or(Some(224), pixels);
        let resize = match (size, share, mode) {
            (Some(size), Some(share), Some("center")) => Some((size as f64 / share).floor().to_string()),
            (Some(_), Some(1.0), Some("squash")) => Some("whole".to_string()),
            (Some(size), Some(share), Some("squash")) => Some(format!("whole:{}", (size as f64 / share).floor())),
            _ => None,
        };
        self.sized("pretrained_cfg in config.json", size, resize, interpolation);
    }

    fn hugging_face(&mut self, config: &Value) {
        let wrong = self.hold("config.json", config, HUGGING_FACE);
        self.refuse(wrong);
        let family = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        self.refuse(config.get("hidden_act").and_then(|act| activation(family, act)));
        self.encoder.extend(config.get("num_attention_heads").and_then(Value::as_u64).map(|heads| ("heads", heads.to_string())));
        let eps = config.get("layer_norm_eps").and_then(Value::as_f64).map(|eps| eps as f32);
        // Absent keys have the default of the family; DINOv2's is timm's.
        let usual = ["vit", "vit_mae", "vit_msn", "deit"].contains(&family).then_some(1e-12);
        self.encoder.extend(eps.or(usual).map(|eps| ("norm_eps", format!("{eps:?}"))));
    }

    fn preprocessor(&mut self, config: &Value) {
        let file = "preprocessor_config.json";
        let of = |key: &str| config.get(key).filter(|value| !value.is_null());
        let wrong = self.hold(file, config, PREPROCESSOR);
        self.unclear = self.unclear.take().or(wrong);
        let no = |key: &str| of(key).and_then(Value::as_bool) == Some(false);
        if no("do_normalize") {
            self.statistics(Some(([0.0; 3], [1.0; 3])));
        } else if let (Some(mean), Some(std)) = (of("image_mean"), of("image_std")) {
            self.statistics(three(mean).zip(three(std)));
        }
        if of("rescale_factor").and_then(Value::as_f64).is_some_and(|factor| (factor * 255.0 - 1.0).abs() > 1e-6) {
            self.unclear = Some(format!("{file} rescales pixels by another factor than 1/255"));
        }
        let kind = of("image_processor_type").or(of("feature_extractor_type")).and_then(Value::as_str).unwrap_or_default();
        let kind = ["Fast", "Pil"].iter().find_map(|end| kind.strip_suffix(end)).unwrap_or(kind);
        let kind = ["ImageProcessor", "FeatureExtractor"].iter().find_map(|end| kind.strip_suffix(end)).unwrap_or(kind);
        let Some(size) = of("size") else { return };
        let short = size.get("shortest_edge").and_then(pixels).or(size.as_u64().filter(|_| kind != "ViT").map(|s| s as usize));
        let square = if short.is_none() { pixels(size) } else { None };
        let cropped = of("crop_size").filter(|_| of("do_center_crop").and_then(Value::as_bool) == Some(true)).map(pixels);
        // transformers, models/convnext/image_processing_convnext.py: below 384 the short side is size / crop_pct, and the middle is cut out.
        let share = of("crop_pct").and_then(Value::as_f64).filter(|share| kind == "ConvNext" && *share > 0.1 && *share <= 1.0);
        let (size, resize) = match (short, square, cropped, share) {
            (Some(short), _, None, Some(share)) if short < 384 => (Some(short), Some(((short as f64 / share) as usize).to_string())),
            (Some(short), _, None, Some(_)) => (Some(short), Some("whole".to_string())),
            (Some(short), _, Some(Some(size)), None) => (Some(size), Some(short.to_string())),
            (None, Some(square), None, None) => (Some(square), Some("whole".to_string())),
            (None, Some(square), Some(Some(size)), None) if size == square => (Some(square), Some("whole".to_string())),
            (None, Some(square), Some(Some(size)), None) => (Some(size), Some(format!("whole:{square}"))),
            (short, ..) => (short, None),
        };
        let interpolation = match of("resample").and_then(Value::as_u64) {
            Some(2) => Some("bilinear"),
            Some(3) => Some("bicubic"),
            Some(_) => None,
            // Without the key, only the ViTs' own preprocessor is bilinear among the families here.
            None => Some(if kind == "ViT" { "bilinear" } else { "bicubic" }),
        };
        self.sized(file, size, resize, interpolation);
    }

    fn statistics(&mut self, said: Option<([f32; 3], [f32; 3])>) {
        if let Some((mean, std)) = said.filter(|(_, std)| std.iter().all(|s| *s > 0.0)) {
            self.images.extend([("mean", format!("{mean:?}")), ("std", format!("{std:?}"))]);
        }
    }

    /// One unknown key of the resizing makes the whole of it unclear.
    fn sized(&mut self, file: &str, size: Option<usize>, resize: Option<String>, interpolation: Option<&str>) {
        self.images.extend(size.map(|size| ("size", size.to_string())));
        match (resize, interpolation.filter(|name| ["bilinear", "bicubic"].contains(name))) {
            (Some(resize), Some(interpolation)) => {
                self.images.extend([("resize", resize), ("interpolation", interpolation.to_string())]);
            }
            _ => self.unclear = Some(format!("{file} resizes images in a way that is not known here")),
        }
    }
}

/// Reason why an activation differs from that of the networks here.
fn activation(family: &str, act: &Value) -> Option<String> {
    let known: &[&str] = if family == "resnet" { &["relu"] } else { &["gelu", "gelu_python"] };
    let said = act.as_str().unwrap_or("of another kind");
    (!known.contains(&said)).then(|| format!("has the activation `{said}` by its config.json; those here have {}", known[0]))
}

fn three(list: &Value) -> Option<[f32; 3]> {
    let values: Option<Vec<f32>> = list.as_array()?.iter().map(|v| v.as_f64().map(|v| v as f32).filter(|v| v.is_finite())).collect();
    <[f32; 3]>::try_from(values?).ok()
}

/// [3, 224, 224], {"height": 224, "width": 224}, {"shortest_edge": 224}, or 224; `None` if it is no square.
fn pixels(size: &Value) -> Option<usize> {
    let list = || match &size.as_array()?[..] {
        [_, height, width] if height == width => height.as_u64(),
        _ => None,
    };
    let square = || size.get("height").filter(|height| size.get("width") == Some(height))?.as_u64();
    let pixels = size.as_u64().or_else(list).or_else(square);
    pixels.filter(|p| (1..=4096).contains(p)).map(|p| p as usize)
}
