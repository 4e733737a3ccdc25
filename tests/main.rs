//! The one integration test binary.

mod augment;
