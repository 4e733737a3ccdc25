//! The one integration test binary.

mod conv;
