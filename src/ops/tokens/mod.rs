//! Between images and sequences of tokens: patches, the class token and positions, and the tokens that a masked image lacks.

pub mod patches;
mod positions;
pub mod sequence;
pub mod unmask;
