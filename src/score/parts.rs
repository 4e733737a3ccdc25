//! The folder beside a table in which a job keeps its finished blocks. A `job.json` marks it as ours, and only files that jobs write are
//! removed from it.

use crate::error::{Error, Result};
use crate::files;
use crate::stage::{Existing, Found, Identity, Next};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const JOB: &str = "job.json";

pub struct Parts {
    folder: PathBuf,
}

impl Parts {
    /// The folder that belongs to a table.
    pub fn of(table: &Path) -> Parts {
        Parts { folder: files::beside(table, "parts") }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The identity of the job begun here, if any.
    ///
    /// # Errors
    /// The place holds a link, a file, or a folder with files but without a job.
    pub fn begun(&self) -> Result<Option<Identity>> {
        let remedy = "move it away, or choose another --out";
        let at = self.folder.display();
        match fs::symlink_metadata(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &self.folder)(error)),
            Ok(found) if !found.is_dir() => {
                let kind = if found.is_symlink() { "a link" } else { "no folder" };
                return Err(Error::config(format!("{at} is where the job would keep its work, and it is {kind}"), remedy));
            }
            Ok(_) => {}
        }
        let job = self.folder.join(JOB);
        if fs::symlink_metadata(&job).is_ok_and(|found| found.is_file()) {
            let text = String::from_utf8(files::read_whole(&job)?).unwrap_or_default();
            let identity = Identity::parse(&text).filter(|identity| identity.value()["sslmem"].is_string());
            return identity.map(Some).ok_or_else(|| Error::format(&job, format!("is not what scoring writes; {remedy}")));
        }
        // A process that was killed while it wrote the first file leaves an unfinished one.
        match self.names()?.into_iter().find(|name| files::unfinished(name).is_none()) {
            None => Ok(None),
            Some(name) => {
                let what = format!("{at} is where the job would keep its work, and it holds `{}`, which no job wrote", name.escape_debug());
                Err(Error::config(what, remedy))
            }
        }
    }

    /// Makes room for work with this identity. Unfinished work of the same identity stays; `existing` decides whether other work is refused
    /// or removed.
    ///
    /// # Errors
    /// As [`Parts::begun`]; the place holds other work or one of the outputs.
    pub fn claim(&self, mine: &Identity, outputs: &[PathBuf], existing: Existing) -> Result<()> {
        let found = self.begun()?.map_or(Found::Nothing, Found::Begun);
        if existing.next(&found, mine, |what| self.refused(what))? == Next::Start {
            if existing == Existing::Keep {
                files::spare(outputs)?;
            }
            self.remove()?;
        }
        Ok(())
    }

    /// The error that another job, which differs in `what`, was begun here.
    pub fn refused(&self, what: String) -> Error {
        let what = format!("{} is of another job: {what}", self.folder.display());
        Error::config(what, "go on with the same settings, choose another --out, or start again with --force")
    }

    /// # Errors
    /// The disk is full or failed.
    pub fn begin(&self, identity: &Identity) -> Result<()> {
        files::create_dir(&self.folder)?;
        files::remove_unfinished(&self.folder)?;
        files::write_whole(self.folder.join(JOB), format!("{:#}\n", identity.value()).as_bytes())
    }

    /// Removes the work of the job that [`Parts::begun`] found. Its identity goes last, so that after a kill the next process still
    /// recognises the folder. Files that no job wrote stay, and so does the folder then; returns a remark about them.
    ///
    /// # Errors
    /// The disk failed.
    pub fn remove(&self) -> Result<Option<String>> {
        if !self.folder.is_dir() {
            return Ok(None);
        }
        files::remove_unfinished(&self.folder)?;
        let (own, foreign): (Vec<_>, Vec<_>) = self.names()?.into_iter().partition(|name| is_own(name));
        for path in own.iter().map(|name| self.folder.join(name)).chain([self.folder.join(JOB)]) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io("remove", &path)(error)),
                _ => {}
            }
        }
        match foreign.iter().find(|name| *name != JOB) {
            Some(name) => Ok(Some(format!("{} stays, because no job wrote `{}` in it", self.folder.display(), name.escape_debug()))),
            None => fs::remove_dir(&self.folder).map(|()| None).map_err(Error::io("remove", &self.folder)),
        }
    }

    /// The names of all entries, sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        let list = fs::read_dir(&self.folder).map_err(Error::io("list", &self.folder))?;
        let name = |entry: std::io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        let mut names = list.map(name).collect::<std::io::Result<Vec<_>>>().map_err(Error::io("list", &self.folder))?;
        names.sort_unstable();
        Ok(names)
    }
}

/// The position of a block's first sample, from a name such as `0001024.block`.
pub fn start(name: &str, ending: &str) -> Option<usize> {
    let digits = name.strip_suffix(ending)?.strip_suffix('.')?;
    (digits.len() >= 7 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

fn is_own(name: &str) -> bool {
    start(name, "block").or(start(name, "features")).is_some()
}
