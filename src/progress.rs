//! How long work tells what it is doing; who listens decides what to show.

use crate::error::{Error, Result};

/// Told by the library, shown by the command line.
pub trait Progress {
    /// A piece of work of `total` units begins; the piece before it, if any, has ended.
    fn start(&mut self, what: &str, total: u64, unit: &str);
    /// `n` more units are done. `note` is what there is to say at this point (`loss 4.812`), often nothing.
    fn advance(&mut self, n: u64, note: &str);
    /// The piece of work has ended.
    fn done(&mut self);
    /// One line that stays.
    fn line(&mut self, text: &str);
    /// A line that must be seen, also by who wants no progress.
    fn warning(&mut self, text: &str) {
        self.line(text);
    }
    /// Whether the work is asked to end now, with everything kept that was done.
    fn stopped(&self) -> bool {
        false
    }
    /// For work of which nothing is kept when it ends early; `what` is what to call it.
    ///
    /// # Errors
    /// It is asked to end.
    fn go_on(&self, what: &str) -> Result<()> {
        if !self.stopped() {
            return Ok(());
        }
        Err(Error::stopped(format!("{what} was not finished and nothing of it is kept; the same command begins again")))
    }
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&mut self, _: &str, _: u64, _: &str) {}
    fn advance(&mut self, _: u64, _: &str) {}
    fn done(&mut self) {}
    fn line(&mut self, _: &str) {}
}
