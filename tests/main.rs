//! The one integration test binary.

mod augment;
mod cli;
mod config;
mod conv;
mod data;
mod device;
mod files;
mod gate;
mod golden;
mod gpu_script;
mod layers;
mod learn;
mod ops;
mod report;
mod split;
mod stats;
mod table;
