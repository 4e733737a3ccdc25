//! The one integration test binary.

mod augment;
mod ops;
mod table;
