//! The one integration test binary.

mod augment;
mod conv;
mod data;
mod golden;
mod layers;
mod learn;
mod ops;
mod report;
mod split;
mod stats;
mod table;
