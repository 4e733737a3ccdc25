//! The ops between images and sequences of tokens: patches, class token and positions, and MAE's mask tokens.

pub mod patches;
mod positions;
pub mod sequence;
pub mod unmask;
