//! Atomic files (written beside their place, then renamed into it) and locks that keep a second process out.

use std::fs::{self, File, TryLockError};
use std::io::{BufWriter, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result, plain};

/// The environment variable with the path of the cache folder.
pub const CACHE: &str = "SSLMEM_CACHE";

/// Ending of an unfinished file's name.
const PART: &str = ".part";

/// A file that appears under its name when [`Writer::commit`] returns. Dropped before that, it leaves nothing behind.
pub struct Writer {
    file: BufWriter<File>,
    part: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl Writer {
    /// Opens an unfinished file in the folder of `path`. An existing file at `path` stays until `commit`.
    ///
    /// # Errors
    /// The folder is missing or not writable, or `path` is something other than a regular file.
    pub fn create(path: impl AsRef<Path>) -> Result<Writer> {
        let path = target(path.as_ref())?;
        let part = part(&path)?;
        let file = File::options().write(true).create_new(true).open(&part).map_err(Error::io("write", &path))?;
        Ok(Writer { file: BufWriter::new(file), part, path, committed: false })
    }

    /// Syncs the content to the disk and renames the file.
    ///
    /// # Errors
    /// The disk is full or failed; then the file under the name is what it was before.
    pub fn commit(mut self) -> Result<()> {
        self.file.flush().map_err(Error::io("write", &self.path))?;
        self.file.get_ref().sync_all().map_err(Error::io("write", &self.path))?;
        fs::rename(&self.part, &self.path).map_err(Error::io("write", &self.path))?;
        self.committed = true;
        settle(&self.path);
        Ok(())
    }

    /// Opens the content written so far for reading.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub fn written(&mut self) -> Result<File> {
        self.file.flush().map_err(Error::io("write", &self.path))?;
        File::open(&self.part).map_err(Error::io("read", &self.part))
    }

    /// The name the file will have.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// Writes a file so that a reader sees all of `bytes` or what was there before.
///
/// # Errors
/// As [`Writer::create`] and [`Writer::commit`].
pub fn write_whole(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let mut writer = Writer::create(path)?;
    writer.write_all(bytes).map_err(Error::io("write", &writer.path))?;
    writer.commit()
}

/// Opens a file to read. Pipes and devices are refused, because reading one may wait for ever or never end.
///
/// # Errors
/// It is missing, not readable, or something other than a regular file.
pub fn open(path: impl AsRef<Path>) -> Result<File> {
    let kind = fs::metadata(&path).map_err(Error::io("read", &path))?;
    if !kind.is_file() && !kind.is_dir() {
        return Err(Error::format(path, "this is a pipe or a device, not a file; write what comes out of it to a file first"));
    }
    File::open(&path).map_err(Error::io("read", &path))
}

/// The metadata at a path, through links; `None` if nothing is there, or a link to nothing. A failed disk or a missing permission is an
/// error: taken for "no", it would let a caller overwrite or repeat work.
///
/// # Errors
/// The system cannot tell.
pub fn found(path: impl AsRef<Path>) -> Result<Option<fs::Metadata>> {
    match fs::metadata(&path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::io("read", &path)(error)),
    }
}

/// Whether there is something at a path.
///
/// # Errors
/// As [`found`].
pub fn exists(path: impl AsRef<Path>) -> Result<bool> {
    found(path).map(|found| found.is_some())
}

/// Reads a whole file.
///
/// # Errors
/// As [`open`].
pub fn read_whole(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(&path)?.read_to_end(&mut bytes).map_err(Error::io("read", &path))?;
    Ok(bytes)
}

/// Largest text files in bytes: settings, and lists with a line for each sample.
const TEXT: u64 = 64 << 20;
const LINES: u64 = 8 << 30;

/// Reads a whole file of text, at most 64 MiB.
///
/// # Errors
/// As [`open`]; it is larger, or not UTF-8.
pub fn read_text(path: impl AsRef<Path>) -> Result<String> {
    text(path.as_ref(), TEXT)
}

/// Reads a whole file of text that has a line for each sample, at most 8 GiB.
///
/// # Errors
/// As [`read_text`].
pub fn read_lines(path: impl AsRef<Path>) -> Result<String> {
    text(path.as_ref(), LINES)
}

fn text(path: &Path, most: u64) -> Result<String> {
    let file = open(path)?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    if length > most {
        return Err(Error::format(path, format!("has {length} bytes, where a text of at most {} MiB belongs", most >> 20)));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    String::from_utf8(bytes).map_err(|_| Error::format(path, "this is not a text file (UTF-8)"))
}

/// Makes a folder and the ones above it; one that exists is fine.
///
/// # Errors
/// The system refuses, or a file has that name.
pub fn create_dir(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let new = path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect::<Vec<_>>();
    fs::create_dir_all(path).map_err(Error::io("create the folder", path))?;
    new.iter().for_each(|made| settle(made));
    Ok(())
}

/// Syncs the name of a file or folder to the disk. Without this a power cut can undo its creation or renaming, and with a folder lose
/// everything written into it since. Best effort, because not every system can open a folder.
fn settle(path: &Path) {
    if let Ok(folder) = File::open(folder(path)) {
        let _ = folder.sync_all();
    }
}

/// A lock that keeps other processes out of a place. The lock is the system's and ends with the process, however that ends. The file only
/// names the process, and is removed when the lock is dropped.
pub struct Lock {
    path: PathBuf,
    /// The system holds the lock as long as this is open.
    file: File,
    /// The reason why nothing is locked, on a file system without locks.
    without: Option<String>,
}

/// First word in a lock's file. It tells our locks from other files.
const HOLDER: &str = "process ";
/// The errno EIO, which has no `ErrorKind`.
const EIO: i32 = 5;

impl Lock {
    /// Locks `path`, a file of its own beside or in `place`. On a file system without locks this succeeds with a [`Lock::warning`].
    ///
    /// # Errors
    /// Another process holds the lock; `path` is a link or a file that is no lock; it cannot be written.
    pub fn take(path: impl AsRef<Path>, place: &Path) -> Result<Lock> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let path = path.as_ref().to_path_buf();
        let text = format!("{}\n{}\n", this_process(), COUNT.fetch_add(1, Ordering::Relaxed));
        loop {
            let mut file = open_lock(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let said = fs::read_to_string(&path).unwrap_or_default();
                    let holder = said.lines().next().filter(|line| !line.is_empty()).unwrap_or("another process");
                    let what = format!("{} is being written by {holder}", place.display());
                    return Err(Error::busy(what, "wait until it has ended, or choose another --out"));
                }
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Interrupted => continue,
                Err(TryLockError::Error(error)) if error.raw_os_error() == Some(EIO) => return Err(Error::io("lock", &path)(error)),
                Err(TryLockError::Error(error)) => return Ok(Lock { path, file, without: Some(plain(&error)) }),
            }
            let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
            written.map_err(Error::io("write", &path))?;
            // The last holder may have removed the file between our opening and locking it. Then we hold a lock on a file without a name,
            // and must try again. A file that exists but cannot be read is ours (Windows denies reads of a locked file).
            let ours = match fs::read_to_string(&path) {
                Ok(found) => found == text,
                Err(error) => error.kind() != ErrorKind::NotFound,
            };
            if ours {
                return Ok(Lock { path, file, without: None });
            }
        }
    }

    /// Locks an output by a file beside it, and removes the unfinished files that killed processes left of it.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub fn output(path: &Path) -> Result<Lock> {
        let lock = Lock::take(beside(path, "lock"), path)?;
        remove_unfinished_of(path)?;
        Ok(lock)
    }

    /// A warning for the user if nothing is locked.
    pub fn warning(&self) -> Option<String> {
        let reason = self.without.as_ref()?;
        Some(format!("nothing can be locked at {} ({reason}): start nothing else with the same output", self.path.display()))
    }
}

/// Opens a lock's file: a new one, or one that a process left. It never follows a link, and never changes an existing file unless that is a
/// regular file with the text of a lock (or empty).
fn open_lock(path: &Path) -> Result<File> {
    let foreign = || {
        let what = format!("{} is in the way of the lock and was not written by sslmem", path.display());
        Error::config(what, "move it away, or choose another --out")
    };
    loop {
        match File::options().read(true).write(true).create_new(true).open(path) {
            Ok(file) => return Ok(file),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("write", path)(error)),
        }
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Err(foreign()),
            // Its holder has just ended and removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("read", path)(error)),
        }
        let file = match File::options().read(true).write(true).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened.map_err(Error::io("write", path))?,
        };
        let mut said = vec![];
        // A failed read is no foreign file: Windows denies reads of a locked one.
        let read = (&file).take(HOLDER.len() as u64).read_to_end(&mut said);
        if read.is_ok() && !HOLDER.as_bytes().starts_with(&said) {
            return Err(foreign());
        }
        return Ok(file);
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // In this order: after the unlock the file may belong to another process.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

/// The path of an output with one more ending.
pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{ending}"));
    path.with_file_name(name)
}

/// This process in the words of a lock: its id and host.
fn this_process() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let on = if host.trim().is_empty() { String::new() } else { format!(" on {}", host.trim()) };
    format!("{HOLDER}{}{on}", std::process::id())
}

/// Fails before long work instead of after it: creates and removes an unfinished file beside `path`.
///
/// # Errors
/// As [`Writer::create`].
pub fn check_writable(path: impl AsRef<Path>) -> Result<()> {
    Writer::create(path).map(drop)
}

/// Refuses paths that exist.
///
/// # Errors
/// One of the files is there.
pub fn spare(outputs: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<()> {
    for path in outputs {
        if exists(&path)? {
            let what = format!("{} exists already", path.as_ref().display());
            return Err(Error::config(what, "choose another name, or replace it with --force"));
        }
    }
    Ok(())
}

/// Removes the unfinished files that killed processes left in `folder`. Only for a folder that this process has locked.
///
/// # Errors
/// The folder cannot be listed or a file in it not removed.
pub fn remove_unfinished(folder: impl AsRef<Path>) -> Result<()> {
    remove_parts(folder.as_ref(), |_| true)
}

/// Removes the unfinished files that killed processes left of `path`. Only for a file that this process has locked.
///
/// # Errors
/// As [`remove_unfinished`]; `path` is no regular file.
pub fn remove_unfinished_of(path: &Path) -> Result<()> {
    let path = target(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    remove_parts(folder(&path), |of| of == name)
}

fn remove_parts(folder: &Path, chosen: impl Fn(&str) -> bool) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && unfinished(&entry.file_name().to_string_lossy()).is_some_and(&chosen) {
            fs::remove_file(entry.path()).map_err(Error::io("remove", entry.path()))?;
        }
    }
    Ok(())
}

/// The final name of an unfinished file, from the name that `part` gave it; `None` for any other file.
pub fn unfinished(name: &str) -> Option<&str> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (rest, count) = name.strip_prefix('.')?.strip_suffix(PART)?.rsplit_once('.')?;
    let (name, process) = rest.rsplit_once('.')?;
    (number(count) && number(process) && !name.is_empty()).then_some(name)
}

/// The cache folder, which may be deleted at any time: `SSLMEM_CACHE`, or `sslmem` in the system's folder for caches. `None` if no
/// environment variable names one.
pub fn cache_folder(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let path = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let usual = || path("XDG_CACHE_HOME").or_else(|| path("HOME").map(|home| home.join(".cache"))).map(|caches| caches.join("sslmem"));
    path(CACHE).or_else(usual)
}

/// BLAKE3 of a file's content, hexadecimal.
///
/// # Errors
/// The file is missing or not readable.
pub fn digest_file(path: impl AsRef<Path>) -> Result<String> {
    let file = open(&path)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).map_err(Error::io("read", &path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Refuses a link, a folder or a device in the place of a file that is appended to or renamed into place. Appending would write through a
/// link, and a rename would replace it.
///
/// # Errors
/// `path` is a link, a folder or a device.
pub fn check_own(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => Err(no_place(path, &found, "move it away")),
        _ => Ok(()),
    }
}

/// The error that `path` is not a regular file and nothing is written there.
fn no_place(path: &Path, found: &fs::Metadata, remedy: &str) -> Error {
    let kind = match found {
        found if found.is_symlink() => "a link",
        found if found.is_dir() => "a folder",
        _ => "not a regular file",
    };
    Error::config(format!("cannot write {}: it is {kind}", path.display()), remedy)
}

/// The file to replace: the target of a link, and never a device or a folder.
fn target(path: &Path) -> Result<PathBuf> {
    let Some(found) = found(path)? else {
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
            let what = format!("cannot write {}: it is a link to something that is not there", path.display());
            return Err(Error::config(what, "remove the link, or give another name"));
        }
        return Ok(path.to_path_buf());
    };
    if found.is_file() {
        fs::canonicalize(path).map_err(Error::io("write", path))
    } else {
        Err(no_place(path, &found, "give the name of a file"))
    }
}

/// A name in the same folder, so that the rename stays on one disk, and unique to this process and call.
fn part(path: &Path) -> Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    if path == Path::new("-") {
        return Err(Error::config("results are files, and `-` (standard output) is none", "give the name of a file"));
    }
    let Some(name) = path.file_name() else {
        return Err(Error::config(format!("cannot write {}: it names no file", path.display()), "give the name of a file"));
    };
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let unique = format!(".{}.{}.{count}{PART}", name.to_string_lossy(), std::process::id());
    Ok(folder(path).join(unique))
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
