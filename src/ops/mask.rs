//! Which patches of an image a network sees.

use crate::var::Var;

/// A choice of patches for every image.
#[derive(Clone, Copy)]
pub struct Chosen {
    pub ids: Var,   // [n, keep] u32: the patches that are seen
    pub place: Var, // [n, L] u32: the rank of each patch; it is seen if that is below `keep`
    pub keep: usize,
}
