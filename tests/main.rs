//! The one integration test binary.

mod stats;
