//! The one integration test binary.

mod augment;
mod golden;
mod ops;
