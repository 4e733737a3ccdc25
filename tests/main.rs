//! The one integration test binary.
mod ops;
mod table;
