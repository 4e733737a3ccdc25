//! Files are whole or absent, and leave nothing beside them.

use std::fs;
use std::io::Write;

use sslmem::files::{self, Lock, Writer};

#[test]
fn a_file_appears_when_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    let names = || fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>();
    files::write_whole(&path, b"old").unwrap();
    let mut writer = Writer::create(&path).unwrap();
    writer.write_all(b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    drop(writer);
    assert_eq!(names(), ["a.txt"], "an abandoned file leaves nothing");
    let mut writer = Writer::create(&path).unwrap();
    writer.write_all(b"new").unwrap();
    writer.commit().unwrap();
    assert_eq!((fs::read(&path).unwrap().as_slice(), names()), (&b"new"[..], vec!["a.txt".to_string()]));
    files::check_writable(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new", "asking changes nothing");
    assert_eq!(files::digest_file(&path).unwrap(), blake3::hash(b"new").to_hex().as_str());
}

#[test]
fn what_a_killed_process_left_can_be_removed() {
    let folder = tempfile::tempdir().unwrap();
    std::mem::forget(Writer::create(folder.path().join("a.txt")).unwrap());
    files::write_whole(folder.path().join("b.part"), b"someone's").unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    files::remove_unfinished(folder.path()).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn places_that_take_no_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no/a.txt");
    for error in [files::check_writable(&missing).unwrap_err(), files::write_whole(&missing, b"").unwrap_err()] {
        assert_eq!(error.to_string(), format!("cannot write {}: no such file or directory", missing.display()));
        assert_eq!(error.exit_code(), 1);
    }
    let error = files::write_whole(folder.path(), b"").unwrap_err();
    assert!(error.to_string().ends_with("it is a folder; give the name of a file"), "{error}");
    #[cfg(unix)]
    {
        let error = files::write_whole("/dev/null", b"").unwrap_err();
        assert_eq!(error.to_string(), "cannot write /dev/null: it is not a regular file; give the name of a file");
        let link = folder.path().join("link");
        let target = folder.path().join("target");
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        files::write_whole(&link, b"new").unwrap();
        assert!(link.is_symlink(), "a link stays a link");
        assert_eq!(fs::read(&target).unwrap(), b"new");
    }
}

/// What a lock or a rerun finds in its way and did not write stays as it is.
#[test]
fn foreign_files_are_neither_removed_nor_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let own = [".a.txt.12.0.part", ".a.txt.99999.31.part"];
    let foreign = [".a.txt.part", ".a.txt.x.0.part", ".a.txt.12.part", ".download.part", "a.txt.12.0.part", "..12.0.part"];
    for name in own.iter().chain(&foreign).chain(&[".b.txt.12.0.part"]) {
        fs::write(path(name), name).unwrap();
    }
    files::remove_unfinished_of(&path("a.txt")).unwrap();
    assert!(own.iter().all(|name| !path(name).exists()));
    assert!(foreign.iter().chain(&[".b.txt.12.0.part"]).all(|name| path(name).exists()));
    files::remove_unfinished(folder.path()).unwrap();
    assert!(foreign.iter().all(|name| path(name).exists()) && !path(".b.txt.12.0.part").exists());

    fs::write(path("o.lock"), "my notes").unwrap();
    fs::create_dir(path("p.lock")).unwrap();
    for name in ["o", "p"] {
        let error = Lock::output(&path(name)).err().unwrap().to_string();
        assert!(error.contains(&format!("{name}.lock is in the way of the lock and was not written by sslmem")), "{error}");
    }
    assert_eq!(fs::read(path("o.lock")).unwrap(), b"my notes");
    // What a process left that was killed, also before it wrote its name.
    for left in ["process 7 on elsewhere\n3\n", "proc", ""] {
        fs::write(path("q.lock"), left).unwrap();
        let lock = Lock::output(&path("q")).unwrap();
        assert!(fs::read_to_string(path("q.lock")).unwrap().starts_with(&format!("process {}", std::process::id())));
        assert!(Lock::output(&path("q")).err().unwrap().to_string().contains("is being written by process"));
        drop(lock);
        assert!(!path("q.lock").exists());
    }
    #[cfg(unix)]
    {
        fs::write(path("victim"), "process of law").unwrap();
        for (name, to) in [("r.lock", "victim"), ("s.lock", "nowhere")] {
            std::os::unix::fs::symlink(path(to), path(name)).unwrap();
            assert!(Lock::take(path(name), folder.path()).is_err(), "{name} is a link");
        }
        assert_eq!((fs::read(path("victim")).unwrap().as_slice(), path("nowhere").exists()), (&b"process of law"[..], false));
        let error = files::write_whole(path("s.lock"), b"").unwrap_err().to_string();
        assert!(error.contains("it is a link to something that is not there"), "{error}");
    }
}
