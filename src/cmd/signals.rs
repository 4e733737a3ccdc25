//! Signals: the first asks the work to stop and keep its results, the second ends the process.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::{Error, Result};

/// SIGXFSZ on Linux and macOS: a file grew beyond the shell's limit. If it is caught, the write fails instead of the process.
const SIGXFSZ: i32 = 25;

static SIGNAL: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// From here on a file that grows beyond the shell's limit is a failed write, not the end of the process.
pub fn bear_limits() {
    let _ = flag::register(SIGXFSZ, Arc::default()); // ignored on systems without it
}

/// Catches the signals from here on, for work that checks for them.
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

/// Whether a signal was caught.
pub fn stopped() -> bool {
    SIGNAL.get().is_some_and(|signal| signal.load(Ordering::Relaxed) != 0)
}

/// The exit status, as in a shell: 128 plus the signal's number.
pub fn status() -> u8 {
    SIGNAL.get().map_or(1, |signal| 128 + signal.load(Ordering::Relaxed) as u8)
}
