//! Per-sample memorization scores of self-supervised encoders (SSLMem, Wang et al., ICLR 2024).
//!
//! Two encoders are trained: f has seen an image, g has not. The image's score is how much closer f maps its augmented views together
//! than g does. The `sslmem` program is a command line over this library.
//!
//! ```
//! use sslmem::config::Layers;
//! use sslmem::device::Device;
//! use sslmem::progress::Silent;
//! use sslmem::run::{Run, Which};
//!
//! # fn main() -> sslmem::Result<()> {
//! # let folder = std::env::temp_dir().join(format!("sslmem-doc-{}", std::process::id()));
//! let recipe = Layers::presets(&["demo"])?.set("train.epochs", "1")?.set("optim.warmup_epochs", "0")?.set("score.views", "2")?.resolve()?;
//! let run = Run::open(recipe, &folder, None, Device::Cpu)?; // opens the data, draws the split
//! run.train(Which::Both, &mut Silent)?; // f and g; a run that was stopped goes on here
//! let rows = run.score(&mut Silent)?; // a `Row` for each sample
//! assert!(rows.iter().any(|row| row.score > 0.0));
//! # drop(run);
//! # std::fs::remove_dir_all(&folder).ok();
//! # Ok(())
//! # }
//! ```
//!
//! # Where to start
//!
//! | to | see |
//! |---|---|
//! | train, score and report in one folder | [`run::Run`] |
//! | score with two checkpoints | [`config::Request::encoder`] for each file, then [`score::Job`] (files, resumes) or [`score::score`] (in memory) |
//! | write or read features | [`score::Embed`], [`score::Embedding`] |
//! | probe encoders | [`probe::Probing`] |
//! | read somebody's weights | [`checkpoint::Checkpoint`], [`weights::Weights`] |
//! | say what a run depends on | [`config::Recipe`], made of [`config::Layers`] |
//! | open data, or bring your own | [`data::open`], [`data::Source`], [`run::Run::on`] |
//! | train one encoder, also with a loss of your own | [`train::Job`], [`train::train()`] |
//! | put pieces of work together that resume | [`stage::Stage`] |
//! | add a loss | [`methods::Method`] |
//! | read and write score tables | [`table::Row`], [`manifest::scored`], [`table::write()`] |
//! | test and summarise them | [`stats`] |
//! | record a network of your own | [`tape::Tape`], [`tape::Scope`], [`program::Program`] |
//!
//! `examples/` has programs to start from: `score`, `train`, `own_method`, `own_data`.
//!
//! # Conventions
//!
//! - Images are `[n, height, width, channels]`, contiguous; a map is rows x channels. There are no strides.
//! - A user's mistake is an [`Error`], one sentence with its remedy. A caller's mistake while recording a network, such as a wrong shape,
//!   panics and names the layer.
//! - The library does not print; implement [`progress::Progress`] to hear of progress.
//! - The same recipe on the same data and device gives the same bytes, for any number of threads.

pub mod checkpoint;
pub mod cmd;
pub mod config;
pub mod data;
pub mod device;
pub mod encoders;
pub mod error;
pub mod fetch;
pub mod files;
pub mod init;
pub mod loader;
pub mod manifest;
pub mod methods;
pub mod ops;
mod parquet_pages;
pub mod probe;
pub mod program;
pub mod progress;
pub mod random;
pub mod report;
pub mod run;
pub mod schedule;
pub mod score;
pub mod split;
pub mod stage;
pub mod stats;
pub mod table;
pub mod tape;
pub mod tensors;
pub mod train;
pub mod var;
pub mod view;
pub mod weights;

pub use error::{Error, Result};
