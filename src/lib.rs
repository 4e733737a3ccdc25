//! Per-sample memorization scores of self-supervised encoders (SSLMem, Wang et al., ICLR 2024).

pub mod cmd;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod files;
pub mod ops;
pub mod random;
pub mod program;
pub mod progress;
pub mod report;
pub mod schedule;
pub mod split;
pub mod stats;
pub mod table;
pub mod tape;
pub mod tensors;
pub mod var;
pub mod view;
pub mod weights;

pub mod encoders;
pub mod loader;
pub mod methods;
pub mod progress;
pub mod score;
pub mod train;
pub use error::{Error, Result};
