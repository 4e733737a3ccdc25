//! Data sets: decoded 8-bit images by index, from many threads, with labels and ids.

mod source;

pub use source::{Image, Source};
