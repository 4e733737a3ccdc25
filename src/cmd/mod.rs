//! The command line: one file per verb. The only code that prints.

mod args;
mod bench;
mod convert;
mod demo;
mod device;
mod doctor;
mod embed;
mod encoder;
mod fetch;
mod merge;
mod pack;
mod probe;
mod progress;
mod report;
mod run;
mod score;
mod show;
mod signals;
mod split;
mod top;
mod train;

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::Path;

use clap::{Args, Parser, Subcommand};

use crate::error::{Error, Result};
use crate::manifest::Trust;
use crate::progress::Progress;

/// Measures how much self-supervised encoders memorize single training images (SSLMem, ICLR 2024).
#[derive(Parser)]
#[command(name = "sslmem", version, max_term_width = 110, disable_help_subcommand = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    global: Global,
}

/// What every verb takes.
#[derive(Args)]
struct Global {
    /// Threads to compute with [default: one per core]; results do not depend on it
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), help_heading = "Everywhere")]
    threads: Option<u16>,
    /// Seed of everything random [default: the recipe's]
    #[arg(long, global = true, value_name = "N", help_heading = "Everywhere")]
    seed: Option<u64>,
    /// Where to compute: cpu, cuda (the first GPU), cuda:N, or auto (a GPU if one can be used)
    #[arg(long, global = true, value_name = "WHERE", default_value = "cpu", help_heading = "Everywhere")]
    device: device::Choice,
    /// What activations are on a GPU; weights, statistics and losses are f32
    #[arg(long, global = true, value_name = "TYPE", help_heading = "Everywhere")]
    precision: Option<device::Precision>,
    /// No progress on stderr
    #[arg(long, global = true, help_heading = "Everywhere")]
    quiet: bool,
}

#[derive(Subcommand)]
enum Verb {
    Run(run::Verb),
    Demo(demo::Verb),
    Split(split::Verb),
    Train(train::Verb),
    Score(score::Verb),
    Merge(merge::Verb),
    Top(top::Verb),
    Bench(bench::Verb),
    Embed(embed::Verb),
    Probe(probe::Verb),
    Convert(convert::Verb),
    Report(report::Verb),
    Fetch(fetch::Verb),
    Pack(pack::Verb),
    Show(show::Verb),
    Doctor(doctor::Verb),
}

/// Runs the program and returns its exit status: 0 done, 1 failed, 2 misuse. A reader that went away
/// (`sslmem show recipe | head -1`) is no failure.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody may be listening, which is not worth a word to nobody.
            let _ = error.print();
            return error.exit_code() as u8;
        }
    };
    match dispatch(cli) {
        Ok(()) => 0,
        Err(Error::Stopped { what }) => {
            let _ = writeln!(std::io::stderr(), "stopped: {what}");
            signals::status()
        }
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::BrokenPipe => 0,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            error.exit_code()
        }
    }
}

fn dispatch(cli: Cli) -> Result<()> {
    let Cli { verb, global } = cli;
    signals::bear_limits();
    if let Some(threads) = global.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global();
        pool.map_err(|error| Error::config(format!("cannot start {threads} threads: {error}"), "choose fewer"))?;
    }
    match verb {
        Verb::Run(verb) => run::run(verb, &global),
        Verb::Demo(verb) => demo::run(verb, &global),
        Verb::Split(verb) => split::run(verb, &global),
        Verb::Train(verb) => train::run(verb, &global),
        Verb::Score(verb) => score::run(verb, &global),
        Verb::Merge(verb) => merge::run(verb, &global),
        Verb::Top(verb) => top::run(verb),
        Verb::Bench(verb) => bench::run(verb, &global),
        Verb::Embed(verb) => embed::run(verb, &global),
        Verb::Probe(verb) => probe::run(verb, &global),
        Verb::Convert(verb) => convert::run(verb),
        Verb::Report(verb) => report::run(verb),
        Verb::Fetch(verb) => fetch::run(verb, &global),
        Verb::Pack(verb) => pack::run(verb, &global),
        Verb::Show(verb) => show::run(verb, &global),
        Verb::Doctor(verb) => doctor::run(verb),
    }
}

impl Global {
    /// Who listens to long work.
    fn progress(&self) -> Box<dyn Progress> {
        progress::heard(self.quiet)
    }
}

/// Results go to standard output.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(Error::io("write to", "standard output"))
}

/// What `--unverified` means.
fn trust(unverified: bool) -> Trust {
    if unverified { Trust::Unverified } else { Trust::Verified }
}

/// A file that would be replaced needs `--force`.
fn keep(path: &Path, force: bool) -> Result<()> {
    if path.exists() && !force {
        return Err(Error::config(format!("{} exists already", path.display()), "choose another name, or replace it with --force"));
    }
    Ok(())
}
