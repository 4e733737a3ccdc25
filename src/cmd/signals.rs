//! Signals: the first asks the work to stop and keep its results, the second ends the process.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::{Error, Result};

/// The system's number of "a file grew beyond the limit" on Linux and macOS. With somebody to hear it, writing fails instead of the process.
const SIGXFSZ: i32 = 25;

static SIGNAL: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// A file that grows beyond the limit of the shell is a failed write from here on, not the end of the process.
pub fn bear_limits() {
    let _ = flag::register(SIGXFSZ, Arc::default()); // ignored on systems without it
}

/// Hears the signals from here on: for work that asks whether one has come.
///
/// # Errors
/// The system refuses.
pub fn watch() -> Result<()> {
    let signal = SIGNAL.get_or_init(Arc::default);
    let again = Arc::new(AtomicBool::new(false));
    for number in [SIGINT, SIGTERM] {
        // In this order: the first signal must find the flag unset, and then set it.
        let heard = flag::register_conditional_shutdown(number, 128 + number, again.clone())
            .and_then(|_| flag::register(number, again.clone()))
            .and_then(|_| flag::register_usize(number, signal.clone(), number as usize));
        heard.map_err(|e| Error::config(format!("signals cannot be heard ({e})"), "report this"))?;
    }
    Ok(())
}

/// Whether one has come.
pub fn stopped() -> bool {
    SIGNAL.get().is_some_and(|signal| signal.load(Ordering::Relaxed) != 0)
}

/// What the process returns: as a shell says of one that a signal ended.
pub fn status() -> u8 {
    SIGNAL.get().map_or(1, |signal| 128 + signal.load(Ordering::Relaxed) as u8)
}
