//! Files are whole or absent, and nothing is left beside them.

use std::fs;
use std::io::Write;

use sslmem::files::{self, Writer};

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
