//! The one integration test binary.

mod augment;
mod augment_gpu;
mod cli;
mod config;
mod conv;
mod data;
mod device;
mod emulated;
mod files;
mod golden;
mod layers;
mod learn;
mod ops;
mod report;
mod split;
mod stats;
mod table;
