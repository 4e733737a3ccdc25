//! Labels in JSON files, also as Python writes them.

use serde_json::Value;

use super::labels::Label;

/// Keys of a sample's label.
const KEYS: [&str; 2] = ["label", "cls"];

/// The label in a sample's metadata, if any: a whole number, also as text or with a decimal point, or a class name.
///
/// # Errors
/// The value is no label, or the text is no JSON that Python would read.
pub fn label(bytes: &[u8]) -> Result<Option<Label>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "this is not text (UTF-8)")?;
    let value: Value =
        serde_json::from_str(&strict(text.trim_start_matches('\u{FEFF}'))).map_err(|error| format!("this is not JSON ({error})"))?;
    match KEYS.iter().find_map(|key| value.get(key)) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(Label::flag(*flag))),
        Some(Value::String(text)) => Label::text(text),
        Some(Value::Number(number)) => match number.as_i64() {
            Some(whole) => Label::whole(whole),
            None => Label::real(number.as_f64().unwrap_or(f64::INFINITY)),
        },
        Some(_) => Err("it is a list or an object".into()),
    }
}

/// Standard JSON of a text that Python may have written: NaN, Infinity and -Infinity become null, halves of surrogate pairs become U+FFFD.
fn strict(text: &str) -> String {
    let (mut out, mut rest, mut inside) = (String::with_capacity(text.len()), text, false);
    while let Some(first) = rest.chars().next() {
        let mut length = first.len_utf8();
        if inside && first == '\\' {
            // One escape, or two that form a surrogate pair.
            length = match (half(rest), rest.get(6..).and_then(half)) {
                (Some(0xD800..0xDC00), Some(0xDC00..0xE000)) => 12,
                (Some(0xD800..0xE000), _) => {
                    out.push_str("\\ufffd");
                    rest = &rest[6..];
                    continue;
                }
                _ => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            };
        } else if first == '"' {
            inside = !inside;
        } else if !inside && let Some(word) = ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| rest.starts_with(word)) {
            out.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out
}

/// The number of an escape `\uXXXX` at the beginning.
fn half(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u32::from_str_radix(digits, 16).ok()
}
