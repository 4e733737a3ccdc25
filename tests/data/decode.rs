//! Decoding against Pillow, byte for byte, and files that are cut or lie about their size.

use std::fs;
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};
use rayon::prelude::*;
use sslmem::data::{self, Exif, Folder, Image, OnBadImage, Source};
use tempfile::TempDir;

const GOLDEN: &str = "tests/golden";

struct Golden {
    path: PathBuf,
    size: (usize, usize),
    md5: String,
}

/// What Pillow made of the files below `folder`, as tests/golden/decode.tsv has it.
fn golden(folder: &str, place: &Path) -> Vec<Golden> {
    let text = fs::read_to_string(format!("{GOLDEN}/decode.tsv")).unwrap();
    let lines = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    lines
        .filter_map(|part| {
            let name = part[0].strip_prefix(folder)?.strip_prefix('/')?;
            let size = (part[1].parse().unwrap(), part[2].parse().unwrap());
            Some(Golden { path: place.join(name), size, md5: part[3].into() })
        })
        .collect()
}

fn same_bytes(want: &Golden) -> bool {
    let name = want.path.display().to_string();
    let image = data::decode(&fs::read(&want.path).unwrap(), &name).unwrap_or_else(|why| panic!("{name}: {why}"));
    assert_eq!((image.height, image.width), want.size, "{name}");
    md5(&image) == want.md5
}

fn md5(image: &Image) -> String {
    Md5::digest(&image.pixels).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_kind_of_jpeg_has_pillows_bytes() {
    let all = golden("jpeg", &Path::new(GOLDEN).join("jpeg"));
    assert_eq!(all.len(), 20);
    let other: Vec<_> = all.iter().filter(|want| !same_bytes(want)).map(|want| &want.path).collect();
    assert!(other.is_empty(), "differ from Pillow: {other:?}");
}

#[test]
fn photographs_have_pillows_bytes() {
    let Some(folder) = crate::data::shared("imagenet-sample") else { return };
    let all = golden("imagenet-sample", &folder);
    assert_eq!(all.len(), 250);
    let other: Vec<_> = all.par_iter().filter(|want| !same_bytes(want)).map(|want| &want.path).collect();
    assert!(other.is_empty(), "differ from Pillow: {other:?}");
}

#[test]
fn cut_and_swollen_jpegs_are_refused_in_a_sentence() {
    for name in ["rgb_420.jpg", "progressive_444.jpg", "grey.jpg", "cmyk.jpg"] {
        let whole = fs::read(format!("{GOLDEN}/jpeg/{name}")).unwrap();
        for part in [3, 20, whole.len() / 3, whole.len() / 2, whole.len() - 2, whole.len() - 1] {
            let why = data::decode(&whole[..part], name).unwrap_err();
            assert!(!why.is_empty() && !why.contains('\n'), "{name} cut to {part}: {why}");
        }
        // A cut hidden behind an end-of-image marker: Pillow would show grey.
        let mut hidden = whole[..whole.len() - whole.len() / 4].to_vec();
        hidden.extend([0xFF, 0xD9]);
        let why = data::decode(&hidden, name).unwrap_err();
        assert!(why.contains("damaged") || why.contains("cut short"), "{name}: {why}");
        // The same data under a header that promises 60,000 x 8,000 and 9,000 x 9,000 pixels.
        let frame = whole.windows(2).position(|w| w[0] == 0xFF && matches!(w[1], 0xC0 | 0xC2)).unwrap();
        let arithmetic = if whole[frame + 1] == 0xC0 { 0xC9 } else { 0xCA };
        for (marker, height, width, want) in [
            (whole[frame + 1], 60_000u16, 8_000u16, "512 MiB"),
            (whole[frame + 1], 9_000, 9_000, "cannot hold"),
            (arithmetic, 9_000, 9_000, "cannot hold"),
        ] {
            let mut large = whole.clone();
            large[frame + 1] = marker;
            large[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
            large[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
            let why = data::decode(&large, name).unwrap_err();
            assert!(why.contains(want), "{name}: {why}");
        }
    }
}

/// A few bytes that claim to be a huge image are refused before memory is asked for.
#[test]
fn decompression_bombs_are_refused() {
    let folder = TempDir::new().unwrap();
    let bomb = folder.path().join("bomb.pgm");
    fs::write(&bomb, "P5 60000 60000 255\n").unwrap();
    let refused = || {
        let source = Folder::open(folder.path()).unwrap();
        assert_eq!(source.largest(), 0);
        source.image(0).err().unwrap().to_string()
    };
    let error = refused();
    assert!(error.contains("bomb.pgm") && error.contains("512 MiB"), "{error}");
    fs::File::create(&bomb).unwrap().set_len(600 << 20).unwrap();
    let error = refused();
    assert!(error.contains("bomb.pgm") && error.contains("629145600 bytes"), "{error}");
}

/// `data.exif = "turn"` gives what Pillow's exif_transpose gives, and is other data.
#[test]
fn images_are_turned_if_that_is_asked_for() {
    let open = |exif: Exif| exif.open("folder:tests/golden/exif", OnBadImage::Fail).unwrap();
    let (turned, plain) = (open(Exif::Turn), open(Exif::Ignore));
    let golden = fs::read_to_string("tests/golden/exif.tsv").unwrap();
    assert_eq!((turned.len(), golden.lines().count()), (16, 16));
    for (i, line) in golden.lines().enumerate() {
        let image = turned.image(i).unwrap();
        assert_eq!(format!("{}\t{}\t{}\t{}", turned.id(i), image.height, image.width, md5(&image)), line);
        assert_eq!(plain.image(i).unwrap().width, 14);
    }
    assert_ne!(turned.digest(), plain.digest());
}
