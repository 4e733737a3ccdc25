//! `sslmem demo`: the whole program on procedural images, in minutes.

use std::path::PathBuf;

use clap::Args;

use super::Global;
use super::args::{Flags, Origin};
use super::run::{finish, open};
use crate::error::Result;

/// Train, score and report on procedural images: minutes, and no files needed
#[derive(Args)]
#[command(after_help = "Example:\n  sslmem demo --out runs/demo")]
pub struct Verb {
    /// Folder for everything that is made
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    out: PathBuf,
}

pub fn run(verb: Verb, global: &Global) -> Result<()> {
    let origin = Origin { preset: vec!["demo".into()], ..Origin::default() };
    // The device first, so that a missing one leaves no files behind.
    let device = global.device()?;
    finish(open(&verb.out, &origin, &Flags::default().seed(global), true, None, device)?, global)
}
