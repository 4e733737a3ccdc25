//! What can go wrong for a user, each with one sentence that says what, where and what to do.

use std::path::{Path, PathBuf};

/// An error that a user can meet. Bugs of ours panic; everything else is one of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file or folder.
    #[error("cannot {action} {}: {}", shown(path), plain(source))]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// A file was read but its content is not what it should be.
    #[error("{}: {what}", shown(path))]
    Format { path: PathBuf, what: String },
    /// Something that was asked for cannot be done; `remedy` says what to ask for instead.
    #[error("{what}; {remedy}")]
    Config { what: String, remedy: String },
    /// Numbers went wrong while computing (NaN, collapse).
    #[error("{what}; {remedy}")]
    Diverged { what: String, remedy: String },
    /// Another process is at work in this place.
    #[error("{what}; {remedy}")]
    Busy { what: String, remedy: String },
    /// The work was asked to end before it was done; `what` says what is kept.
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
    /// The same, said of the file that asked for it.
    pub fn of(self, path: &Path) -> Error {
        match self {
            Error::Config { what, remedy } => Error::Config { what: format!("{}: {what}", shown(path)), remedy },
            other => other,
        }
    }
    /// What the process returns: 2 when the request itself was wrong, else 1.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Error::Config { .. }) { 2 } else { 1 }
    }
}

/// The reason without the number that `std::io::Error` appends.
pub(crate) fn plain(source: &std::io::Error) -> String {
    let text = source.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// Characters of a reason at most.
const LONGEST: usize = 1000;

/// A path on one line: its names may hold line breaks and commands to a terminal.
fn shown(path: &Path) -> String {
    visible(&path.display().to_string()).replace('\n', "\\n")
}

/// Text for a terminal: what it would take for a command is shown as an escape, line breaks stay.
pub fn visible(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    if text.chars().any(|c| c.is_control() && c != '\n') { text.chars().map(shown).collect() } else { text.to_string() }
}

/// A name or a reason on one line of at most 1,000 characters. Reasons quote names that stand in files, which may hold anything: line breaks,
/// commands to a terminal, a megabyte.
pub fn line(text: String) -> String {
    if text.len() <= LONGEST && !text.contains(char::is_control) {
        return text;
    }
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let cut = if text.chars().nth(LONGEST).is_some() { "..." } else { "" };
    text.chars().take(LONGEST).map(shown).collect::<String>() + cut
}
