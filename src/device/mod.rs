//! (to be written)

pub mod conv;
pub mod product;
