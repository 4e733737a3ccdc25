//! The command line: one file per verb. The only code that prints.

mod args;
mod bench;
mod convert;
mod demo;
mod device;
mod doctor;
mod embed;
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
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;

use clap::{Args, Parser, Subcommand};

use crate::error::{Error, Result, visible};
use crate::files::{self, Lock};
use crate::manifest::Trust;
use crate::progress::Progress;

/// Most threads per core: with more they wait for each other longer than they compute.
const PER_CORE: usize = 64;

/// Measures how much self-supervised encoders memorize single training images (SSLMem, ICLR 2024).
#[derive(Parser)]
#[command(name = "sslmem", version, max_term_width = 110, arg_required_else_help = true)]
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
    #[arg(long, global = true, value_name = "N", allow_negative_numbers = true, value_parser = args::whole::<u64>, help_heading = "Everywhere")]
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

/// Runs the program and returns its exit status: 0 done, 1 failed, 2 misuse. A closed pipe (`sslmem show recipe | head -1`) is no failure.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // If stdout or stderr is closed, there is nobody to tell.
            let _ = if error.use_stderr() { misuse(&error) } else { error.print() };
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
            let _ = writeln!(std::io::stderr(), "error: {}", visible(&error.to_string()));
            error.exit_code()
        }
    }
}

/// Prints the error of a command line, in our words if clap's would show Rust's types.
fn misuse(error: &clap::Error) -> std::io::Result<()> {
    let mut err = std::io::stderr();
    let text = if err.is_terminal() { error.render().ansi().to_string() } else { error.render().to_string() };
    let text = text.replace("invalid digit found in string", "a whole number belongs there");
    let text = text.replace("number too large to fit in target type", "the number is too large");
    write!(err, "{}", text.replace("cannot parse integer from empty string", "a whole number belongs there"))
}

fn dispatch(cli: Cli) -> Result<()> {
    let Cli { verb, global } = cli;
    signals::bear_limits();
    if let Some(threads) = global.threads {
        let most = PER_CORE * std::thread::available_parallelism().map_or(1, usize::from);
        if usize::from(threads) > most {
            global.progress().line(&format!("--threads {threads} is more than {PER_CORE} for each core; {most} are used"));
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(most.min(threads.into())).build_global();
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
    /// The progress display of long work.
    fn progress(&self) -> Box<dyn Progress> {
        progress::heard(self.quiet)
    }
}

/// Prints results to standard output. Terminal commands in them are escaped, because names come from files.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(visible(text).as_bytes()).and_then(|()| out.flush());
    written.map_err(Error::io("write to", "standard output"))
}

/// Prints a warning, also with --quiet.
fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "warning: {}", visible(text)); // a closed stderr is no reason to stop
}

/// What `--unverified` means.
fn trust(unverified: bool) -> Trust {
    if unverified { Trust::Unverified } else { Trust::Verified }
}

/// Prepares the place of an output: checks that it is writable and that an existing file may be replaced, locks it against other processes,
/// and removes unfinished files of killed ones.
fn reserve(path: &Path, force: bool) -> Result<Lock> {
    files::check_writable(path)?;
    let lock = Lock::output(path)?;
    lock.warning().iter().for_each(|text| warn(text));
    keep(path, force)?;
    Ok(lock)
}

/// Refuses to replace a file without `--force`.
fn keep(path: &Path, force: bool) -> Result<()> {
    if force { Ok(()) } else { files::spare([path]) }
}
