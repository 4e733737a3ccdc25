//! The one integration test binary.

mod augment;
mod augment_gpu;
mod cli;
mod config;
mod conv;
mod counts;
mod cuda;
mod data;
mod device;
mod emulated;
mod files;
mod gate;
mod golden;
mod kernels;
mod layers;
mod learn;
mod learn_gpu;
mod ops;
mod report;
mod split;
mod stats;
mod table;
