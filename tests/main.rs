//! The one integration test binary.

mod augment;
mod card;
mod cli;
mod config;
mod conformance;
mod conv;
mod curves;
mod data;
mod device;
mod emulated;
mod files;
mod gate;
mod golden;
mod gpu_script;
mod kernels;
mod layers;
mod learn;
mod ops;
mod report;
mod split;
mod stats;
mod table;
