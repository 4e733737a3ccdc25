//! Labels that are written as numbers.

/// Labels beyond this are no numbers of classes.
const MOST: i64 = 1 << 20;

/// A number as a label; -1 means none, as in data sets without labels for a part of their samples.
pub fn label(number: i64) -> Result<Option<u32>, String> {
    match number {
        -1 => Ok(None),
        0..MOST => Ok(Some(number as u32)),
        _ => Err(format!("label {number} is not between 0 and {}, nor -1 for none", MOST - 1)),
    }
}

/// Classes whose names nobody knows: their numbers.
pub fn numbered(labels: impl Iterator<Item = Option<u32>>) -> Vec<String> {
    let count = labels.flatten().max().map_or(0, |highest| highest + 1);
    (0..count).map(|label| label.to_string()).collect()
}
