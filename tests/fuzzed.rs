//! Replays the fuzzer's corpora and findings, and mutations of them, through the fuzz targets. It needs no nightly compiler.

use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use sslmem::random::{Purpose, Stream};
use std::io::Read;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

#[path = "../fuzz/targets.rs"]
mod targets;

/// Changed files that each target gets in all.
const CHANGES: usize = 4_000;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// Paths of the files in a folder, by name; none where there is no folder.
fn listed(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The files of a corpus. It lies in an archive of its name in `fuzz/corpus`; `cargo fuzz` works in a folder of that name beside it, and
/// `SSLMEM_BLESS=1` makes the archive anew of the folder.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let (folder, archive) = (fuzz().join("corpus").join(name), fuzz().join(format!("corpus/{name}.tar.gz")));
    if std::env::var_os("SSLMEM_BLESS").is_some() && folder.exists() {
        std::fs::write(&archive, packed(&folder)).unwrap();
    }
    let mut archive = tar::Archive::new(GzDecoder::new(std::fs::File::open(&archive).expect("the archive of the target's corpus")));
    let read = |mut entry: tar::Entry<_>| {
        let mut bytes = vec![];
        entry.read_to_end(&mut bytes).unwrap();
        bytes
    };
    archive.entries().unwrap().map(|entry| read(entry.unwrap())).collect()
}

/// The archive of a folder: its bytes are those of names and contents, without times, owners and permissions.
fn packed(folder: &Path) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzBuilder::new().mtime(0).write(vec![], Compression::best()));
    for path in listed(folder) {
        let bytes = std::fs::read(&path).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        archive.append_data(&mut header, path.file_name().unwrap(), &bytes[..]).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

/// Runs a target; should it panic, its bytes are kept for whoever looks into it.
fn run(name: &str, target: fn(&[u8]), bytes: &[u8]) {
    if catch_unwind(|| target(bytes)).is_err() {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.crash"));
        std::fs::write(&kept, bytes).unwrap();
        panic!("the target panicked at the bytes that now lie in {}; put them into fuzz/found/{name}", kept.display());
    }
}

fn all(name: &str, target: fn(&[u8])) {
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "the corpus of {name} is empty");
    let found = listed(&fuzz().join("found").join(name)).into_iter().map(|path| std::fs::read(path).unwrap());
    let seeds: Vec<Vec<u8>> = found.chain(corpus).collect();
    for (number, seed) in seeds.iter().enumerate() {
        run(name, target, seed);
        let mut stream = Stream::new(17, Purpose::Statistics, 0, number as u32, 0);
        for _ in 0..CHANGES / seeds.len() {
            let mut bytes = seed.clone();
            (0..1 + stream.below(4)).for_each(|_| change(&mut bytes, &seeds, &mut stream));
            run(name, target, &bytes);
        }
    }
}

/// A byte, a number at its limits, a piece of this or of another file, or the end cut off; more often near both ends, where headers and
/// tables are.
fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], stream: &mut Stream) {
    let mut below = |n: usize| stream.below(n.max(1) as u32) as usize;
    let length = bytes.len();
    let reach = [length, length.min(512)][below(2)];
    let at = below(reach);
    let at = if below(2) == 0 { at } else { length.saturating_sub(1 + at) };
    let number = [0u64, 1, 0x7F, 0xFF, 0x7FFF_FFFF, 0xFFFF_FFFF, u64::MAX / 2, u64::MAX][below(8)].to_le_bytes();
    let other = &seeds[below(seeds.len())];
    let from = below(other.len());
    match below(8) {
        0..3 if length > 0 => bytes[at] = below(256) as u8,
        3 if length > 0 => bytes[at] ^= 1 << below(8),
        4 => {
            let width = [1, 2, 4, 8][below(4)].min(length - at);
            bytes[at..at + width].copy_from_slice(&number[..width]);
        }
        5 => {
            let piece = &other[from..other.len().min(from + 1 + below(64))];
            let width = piece.len().min(length - at);
            bytes[at..at + width].copy_from_slice(&piece[..width]);
        }
        6 => drop(bytes.splice(at..at, other[from..other.len().min(from + 1 + below(64))].iter().copied())),
        _ => bytes.truncate(below(length)),
    }
}

#[test]
fn pickle() {
    all("pickle", targets::pickle);
}

#[test]
fn safetensors() {
    all("safetensors", targets::safetensors);
}

#[test]
fn tar() {
    all("tar", targets::tar);
}

#[test]
fn parquet() {
    all("parquet", targets::parquet);
}

#[test]
fn pack() {
    all("pack", targets::pack);
}

#[test]
fn jpeg() {
    all("jpeg", |bytes| drop(targets::jpeg(bytes)));
}

#[test]
fn images() {
    all("images", targets::images);
}

#[test]
fn split() {
    all("split", targets::split);
}

#[test]
fn recipe() {
    all("recipe", targets::recipe);
}

#[test]
fn csv() {
    all("csv", targets::csv);
}

#[test]
fn mat() {
    all("mat", targets::mat);
}

#[test]
fn gif() {
    all("gif", targets::gif);
}

#[test]
fn webp() {
    all("webp", targets::webp);
}

#[test]
fn tiff() {
    all("tiff", targets::tiff);
}

#[test]
fn an_archive_is_a_function_of_names_and_contents() {
    let make = |names: [&str; 2]| {
        let folder = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| std::fs::write(folder.path().join(name), name).unwrap());
        packed(folder.path())
    };
    assert_eq!(make(["b", "a"]), make(["a", "b"]));
    assert_ne!(make(["a", "b"]), make(["a", "c"]));
    let mut text = String::new();
    let mut bytes = vec![];
    GzDecoder::new(&make(["b", "a"])[..]).read_to_end(&mut bytes).unwrap();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        text += &format!("{}=", entry.path().unwrap().display());
        entry.read_to_string(&mut text).unwrap();
    }
    assert_eq!(text, "a=ab=b");
}
