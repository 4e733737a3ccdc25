//! The progress seam: long work reports, and the listener decides what to show.

use crate::error::{Error, Result};

/// A listener. The library reports to it; the command line shows it.
pub trait Progress {
    /// A piece of work of `total` units begins; the piece before it, if any, has ended.
    fn start(&mut self, what: &str, total: u64, unit: &str);
    /// `n` more units are done. `note` is a remark such as `loss 4.812`, often empty.
    fn advance(&mut self, n: u64, note: &str);
    /// The piece of work has ended.
    fn done(&mut self);
    /// A line that stays on the screen.
    fn line(&mut self, text: &str);
    /// A warning, to be shown even if progress is not.
    fn warning(&mut self, text: &str) {
        self.line(text);
    }
    /// Whether the work should stop now and keep its results.
    fn stopped(&self) -> bool {
        false
    }
    /// An error if work that keeps nothing should stop; `what` names it.
    ///
    /// # Errors
    /// The user asked to stop.
    fn go_on(&self, what: &str) -> Result<()> {
        if !self.stopped() {
            return Ok(());
        }
        Err(Error::stopped(format!("{what} was not finished and nothing of it is kept; the same command begins again")))
    }
}

/// Ignores all reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&mut self, _: &str, _: u64, _: &str) {}
    fn advance(&mut self, _: u64, _: &str) {}
    fn done(&mut self) {}
    fn line(&mut self, _: &str) {}
}
