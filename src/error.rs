//! Errors for users: each is one sentence with what, where and what to do.

use std::path::{Path, PathBuf};

/// An error that a user can meet. Bugs panic; everything else is one of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file or folder.
    #[error("cannot {action} {}: {}", shown(path), plain(source))]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// The content of a file is wrong.
    #[error("{}: {what}", shown(path))]
    Format { path: PathBuf, what: String },
    /// A request cannot be carried out; `remedy` says what to request instead.
    #[error("{what}; {remedy}")]
    Config { what: String, remedy: String },
    /// A computation failed numerically (NaN, collapse).
    #[error("{what}; {remedy}")]
    Diverged { what: String, remedy: String },
    /// Another process works in this place.
    #[error("{what}; {remedy}")]
    Busy { what: String, remedy: String },
    /// The user stopped the work; `what` says what is kept.
    #[error("{what}")]
    Stopped { what: String },
    /// A GPU, its driver or the compiler of its kernels failed while it was in use.
    #[error("{what}; {remedy}")]
    Device { what: String, remedy: String },
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { action, path, source }
    }
    pub fn format(path: impl AsRef<Path>, what: impl Into<String>) -> Error {
        Error::Format { path: path.as_ref().to_path_buf(), what: line(what.into()) }
    }
    pub fn config(what: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Config { what: what.into(), remedy: remedy.into() }
    }
    pub fn diverged(what: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Diverged { what: what.into(), remedy: remedy.into() }
    }
    pub fn busy(what: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Busy { what: what.into(), remedy: remedy.into() }
    }
    pub fn stopped(what: impl Into<String>) -> Error {
        Error::Stopped { what: what.into() }
    }
    pub fn device(what: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Device { what: what.into(), remedy: remedy.into() }
    }
    /// The same error, attributed to the file that made the request.
    pub fn of(self, path: &Path) -> Error {
        match self {
            Error::Config { what, remedy } => Error::Config { what: format!("{}: {what}", shown(path)), remedy },
            other => other,
        }
    }
    /// Exit status: 2 if the request itself was wrong, else 1.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Error::Config { .. }) { 2 } else { 1 }
    }
}

/// The reason without the number that `std::io::Error` appends.
pub(crate) fn plain(source: &std::io::Error) -> String {
    let text = source.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// Longest reason in characters.
const LONGEST: usize = 1000;

/// A path on one line, with line breaks and terminal commands in names escaped.
fn shown(path: &Path) -> String {
    visible(&path.display().to_string()).replace('\n', "\\n")
}

/// Text for a terminal: commands to the terminal are escaped, line breaks stay.
pub fn visible(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    if text.chars().any(|c| c.is_control() && c != '\n') { text.chars().map(shown).collect() } else { text.to_string() }
}

/// A name or a reason on one line of at most 1,000 characters. Reasons quote names from files, which may hold anything: line breaks,
/// terminal commands, a megabyte.
pub fn line(text: String) -> String {
    if text.len() <= LONGEST && !text.contains(char::is_control) {
        return text;
    }
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let cut = if text.chars().nth(LONGEST).is_some() { "..." } else { "" };
    text.chars().take(LONGEST).map(shown).collect::<String>() + cut
}
