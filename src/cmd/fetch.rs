//! `sslmem fetch`: download a data set.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Global, print, signals};
use crate::error::Result;
use crate::fetch;

/// Download a data set
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sslmem fetch cifar10\n  sslmem fetch svhn --to /data/svhn\n\nData sets: cifar10, cifar100, svhn, svhn-extra, stl10, mnist. A download that was stopped goes on with the same command."
)]
pub struct Verb {
    /// Which data set
    #[arg(value_name = "NAME")]
    name: String,
    /// Folder for its files [default: data/NAME]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Address of another server's folder with the same files
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
}

pub fn run(verb: Verb, global: &Global) -> Result<()> {
    let set = fetch::find(&verb.name)?;
    let to = verb.to.unwrap_or_else(|| Path::new("data").join(set.folder));
    signals::watch()?;
    fetch::fetch(set, verb.mirror.as_deref(), &to, global.progress().as_mut())?;
    let [before, after] = set.spec;
    print(&format!("{before}{}{after}\n", to.display()))
}
