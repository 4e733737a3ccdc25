//! The one integration test binary.

mod augment;
mod cli;
mod config;
mod conv;
mod data;
mod device;
mod emulated;
mod files;
mod gate;
mod golden;
mod kernels;
mod kernels_traffic;
mod kernels_update;
mod layers;
mod learn;
mod ops;
mod report;
mod split;
mod stats;
mod table;
