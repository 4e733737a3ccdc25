//! What lies beside a file of weights: timm's `config.json`, and `config.json` and `preprocessor_config.json` of Hugging Face.

use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Bytes that are read of such a file at most.
const LARGEST: u64 = 1 << 20;

/// What they say of the images that an encoder was trained on: `mean`, `std` (as [f32; 3]), `size` (pixels), `interpolation`,
/// `crop_pct`; and of the encoder: `heads`, `stride_first` ("true" where a bottleneck's first convolution has the stride). What is
/// not there or has another form is left out.
pub fn settings(weights: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut put = |key: &str, value: Option<String>| found.extend(value.map(|value| (key.to_string(), value)));
    for file in ["config.json", "preprocessor_config.json"] {
        let Some(json) = read(&weights.with_file_name(file)) else { continue };
        let of = json.get("pretrained_cfg").unwrap_or(&json);
        let first = |keys: [&str; 2]| keys.iter().find_map(|key| of.get(*key));
        put("mean", first(["mean", "image_mean"]).and_then(three));
        put("std", first(["std", "image_std"]).and_then(three));
        put("size", first(["input_size", "crop_size"]).or(of.get("size")).and_then(pixels));
        let resample = of.get("resample").and_then(Value::as_u64).map(|filter| match filter {
            2 => "bilinear".to_string(),
            3 => "bicubic".to_string(),
            other => other.to_string(),
        });
        put("interpolation", of.get("interpolation").and_then(Value::as_str).map(String::from).or(resample));
        put("crop_pct", of.get("crop_pct").and_then(Value::as_f64).map(|share| share.to_string()));
        put("heads", json.get("num_attention_heads").and_then(Value::as_u64).map(|heads| heads.to_string()));
        put("stride_first", json.get("downsample_in_bottleneck").and_then(Value::as_bool).map(|first| first.to_string()));
    }
    found
}

fn read(path: &Path) -> Option<Value> {
    let mut text = vec![];
    crate::files::open(path).ok()?.take(LARGEST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn three(list: &Value) -> Option<String> {
    let values: Option<Vec<f32>> = list.as_array()?.iter().map(|v| v.as_f64().map(|v| v as f32).filter(|v| v.is_finite())).collect();
    <[f32; 3]>::try_from(values?).ok().map(|values| format!("{values:?}"))
}

/// [3, 224, 224], {"height": 224, "width": 224}, {"shortest_edge": 224}, or 224.
fn pixels(size: &Value) -> Option<String> {
    let named = || size.get("height").or(size.get("shortest_edge"));
    let pixels = size.as_u64().or_else(|| size.as_array()?.last()?.as_u64()).or_else(|| named()?.as_u64());
    pixels.filter(|p| (1..=4096).contains(p)).map(|p| p.to_string())
}
