//! The one integration test binary.

mod augment;
mod conv;
mod golden;
mod ops;
mod table;
