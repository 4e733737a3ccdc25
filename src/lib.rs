//! Per-sample memorization scores of self-supervised encoders (SSLMem, Wang et al., ICLR 2024).

pub mod checkpoint;
pub mod cmd;
pub mod config;
pub mod data;
pub mod device;
pub mod encoders;
pub mod error;
pub mod fetch;
pub mod files;
pub mod loader;
pub mod manifest;
pub mod methods;
pub mod ops;
mod pages;
pub mod probe;
pub mod program;
pub mod progress;
pub mod random;
pub mod report;
pub mod run;
pub mod schedule;
pub mod score;
pub mod split;
pub mod stats;
pub mod table;
pub mod tape;
pub mod tensors;
pub mod train;
pub mod var;
pub mod view;
pub mod weights;

pub use error::{Error, Result};
