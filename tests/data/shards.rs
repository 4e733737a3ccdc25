//! WebDataset, Parquet, lists and packs: agreement with other readers, broken files, cached indices.

use std::fs;

use md5::{Digest, Md5};
use rayon::prelude::*;
use sslmem::data::pack::{self, Content};
use sslmem::data::{self, Folder, Image, List, OnBadImage, Pack, Parquet, Source, WebDataset};
use sslmem::progress::Silent;
use sslmem::random::{Purpose, Stream};
use sslmem::view::{Interpolation, Resize, Scratch, View, render};
use tempfile::TempDir;

const GOLDEN: &str = "tests/golden/shards";

fn open(spec: &str) -> sslmem::Result<Box<dyn Source>> {
    data::open(spec, OnBadImage::Fail)
}

fn message(outcome: sslmem::Result<impl Sized>) -> String {
    let error = outcome.err().expect("must be refused").to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

fn md5(image: &Image) -> String {
    Md5::digest(&image.pixels).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares ids, labels and pixels with what another library has read, and returns them.
fn same_as_golden(source: &dyn Source, kind: &str) {
    let text = fs::read_to_string(format!("{GOLDEN}/shards.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let golden = golden[kind].as_array().unwrap();
    assert_eq!(source.len(), golden.len());
    for (index, want) in golden.iter().enumerate() {
        let id = format!("{}/{}", want[0].as_str().unwrap(), want[1].as_str().unwrap());
        assert_eq!(source.id(index), id);
        assert_eq!(source.label(index).map(u64::from), want[2].as_u64(), "{id}");
        match want[3].as_str() {
            Some(digest) => assert_eq!(md5(&source.image(index).unwrap()), digest, "{id}"),
            None => assert!(message(source.image(index)).contains("row 2: there is no image"), "{id}"),
        }
    }
}

const TARS: &str = "tests/golden/shards/wds-{000000..000001}.tar,tests/golden/shards/{gnu,ustar}.tar";

#[test]
fn webdataset_is_what_its_library_reads() {
    let cache = TempDir::new().unwrap();
    let source = WebDataset::open(TARS, Some(cache.path())).unwrap();
    same_as_golden(&source, "webdataset");
    assert_eq!((source.name(), source.train_len(), source.classes().len()), ("webdataset", 11, 10));
    let largest = (0..source.len()).map(|index| source.image(index).unwrap().pixels.len()).max().unwrap();
    assert_eq!(source.largest(), largest);
    assert_eq!(source.file(0).unwrap().unwrap()[..2], [0xFF, 0xD8]);

    // The second opening takes the indices; a broken one is made again.
    let indices: Vec<_> = fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(indices.len(), 4);
    let again = WebDataset::open(TARS, Some(cache.path())).unwrap();
    assert_eq!((again.digest(), again.len()), (source.digest(), source.len()));
    let whole = fs::read(&indices[0]).unwrap();
    let mut broken = whole.clone();
    broken[60] ^= 1;
    for bytes in [&broken[..], &whole[..40], b""] {
        fs::write(&indices[0], bytes).unwrap();
        let again = WebDataset::open(TARS, Some(cache.path())).unwrap();
        assert_eq!(again.digest(), source.digest());
        assert_eq!(fs::read(&indices[0]).unwrap(), whole);
    }
    let bare = WebDataset::open(TARS, None).unwrap();
    assert_eq!(bare.digest(), source.digest());
    same_as_golden(&bare, "webdataset");
}

#[test]
fn an_index_is_of_one_state_of_one_file() {
    let (folder, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let path = folder.path().join("a.tar");
    let open = || WebDataset::open(path.to_str().unwrap(), Some(cache.path())).unwrap();
    fs::copy(format!("{GOLDEN}/wds-000000.tar"), &path).unwrap();
    let before = open();
    // Another content of the same length, at another time.
    fs::copy(format!("{GOLDEN}/wds-000001.tar"), &path).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(5)).unwrap();
    let after = open();
    assert_eq!((before.len(), after.len()), (4, 3));
    assert_ne!(before.digest(), after.digest());
    assert_eq!(after.id(0).chars().last(), Some('4'));
    // Opened again, the index is read and not written.
    let place = fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap().path();
    let time = fs::metadata(&place).unwrap().modified().unwrap();
    open();
    assert_eq!(fs::metadata(&place).unwrap().modified().unwrap(), time);
}

#[test]
fn patterns_name_their_files_in_order() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    for name in ["t-008.tar", "t-009.tar", "t-010.tar", "t-011.tar", "other.tar"] {
        fs::copy(format!("{GOLDEN}/wds-000000.tar"), at(name)).unwrap();
    }
    let shards = |pattern: &str| {
        let source = WebDataset::open(pattern, None).unwrap();
        let names: Vec<String> = (0..source.len()).step_by(4).map(|i| source.id(i).split('/').next().unwrap().into()).collect();
        names.join(" ")
    };
    assert_eq!(shards(&at("t-{008..011}.tar")), "t-008 t-009 t-010 t-011");
    assert_eq!(shards(&at("t-{011..009}.tar")), "t-011 t-010 t-009");
    assert_eq!(shards(&at("{other,t-0{08,10}}.tar")), "other t-008 t-010");
    assert_eq!(shards(&at("t-*.tar")), "t-008 t-009 t-010 t-011");
    assert_eq!(shards(&at("t-?1*.tar")), "t-010 t-011");
    assert_eq!(shards(&at("")), "other t-008 t-009 t-010 t-011");
    assert_eq!(shards(&format!("{},{}", at("t-010.tar"), at("t-008.tar"))), "t-010 t-008");
    fs::copy(at("other.tar"), at("{a,b}.tar")).unwrap();
    assert_eq!(shards(&at("{a,b}.tar")), "{a,b}");

    let refused = |pattern: &str| message(WebDataset::open(pattern, None));
    assert!(refused(&at("u-*.tar")).contains("means no file"));
    assert!(refused(&at("t-{008..012}.tar")).contains("t-012.tar: no such file"));
    assert!(refused(&at("t-{0..4294967295}.tar")).contains("more than 1048576 files"));
    assert!(refused(&at("{0..1000}{0..1000}{0..1000}")).contains("more than 1048576 files"));
    assert!(refused(&format!("{0},{0}", at("other.tar"))).contains("two files that are called `other`"));
}

/// A tar file of plain members.
pub fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn broken_tar_files_are_named_with_the_place() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("s.tar");
    let refused = |bytes: &[u8], want: &str| {
        fs::write(&path, bytes).unwrap();
        let said = message(WebDataset::open(path.to_str().unwrap(), None));
        assert!(said.contains(want) && said.contains("s.tar"), "{want}: {said}");
    };
    let whole = fs::read(format!("{GOLDEN}/wds-000000.tar")).unwrap();
    refused(&whole[..1536], "cut short");
    refused(&whole[..700], "cut short");
    refused(b"", "cut short");
    let mut damaged = whole.clone();
    damaged[1024 + 3] ^= 1;
    refused(&damaged, "no tar header at offset 1024");
    refused(&[&[0x1F, 0x8B][..], &[7; 600]].concat(), "compressed (gzip)");
    refused(&tar(&[("a.jpg", b"1"), ("a.jpg", b"2")]), "two members that end in .jpg");
    // The size of a member that reaches beyond all limits, in both ways to write it.
    for size in [&b"77777777777\0"[..], &[0x80, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]] {
        let mut huge = tar(&[("a.jpg", b"1")]);
        huge[124..136].copy_from_slice(size);
        huge[148..156].fill(b' ');
        let sum: u32 = huge[..512].iter().map(|&byte| byte as u32).sum();
        huge[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        refused(&huge, "cut short: the member at offset 0");
    }
    fs::write(&path, tar(&[("a.txt", b"1")])).unwrap();
    assert!(message(WebDataset::open(path.to_str().unwrap(), None)).contains("no image"));
    // The first dot behind the last slash ends the key. Samples in pieces are two; the second has no image.
    let jpeg = fs::read("tests/golden/jpeg/grey.jpg").unwrap();
    fs::write(&path, tar(&[("d.x/a.b.jpg", b"1"), ("d.x/a.JPG", &jpeg), ("c.cls", b"3"), ("d.x/a.cls", b"1"), (".jpg", b"1")])).unwrap();
    let source = WebDataset::open(path.to_str().unwrap(), None).unwrap();
    assert_eq!((source.len(), source.id(0).as_str(), source.label(0)), (1, "s/d.x/a", None));
    assert_eq!(source.left_out().len(), 1, "a.b.jpg");
    assert_eq!(source.image(0).unwrap().width, 50);

    // A bad image is met by name, or left out.
    fs::write(&path, tar(&[("a.jpg", b"bad"), ("b.jpg", &jpeg), ("c.jpg", &jpeg)])).unwrap();
    let source = WebDataset::open(path.to_str().unwrap(), None).unwrap();
    assert!(message(source.image(0)).contains("s.tar: a.jpg: "));
    let kept = data::open(&format!("webdataset:{}", path.display()), OnBadImage::Skip).unwrap();
    assert_eq!((kept.len(), kept.train_len(), kept.id(0).as_str(), kept.skipped().len()), (2, 2, "s/b", 1));
    assert_ne!(kept.digest(), source.digest());
    assert_eq!(kept.largest(), source.largest());
}

#[test]
fn parquet_is_what_pyarrow_reads() {
    let source = Parquet::open(&format!("{GOLDEN}/hf-*.parquet")).unwrap();
    same_as_golden(&source, "parquet");
    assert_eq!((source.name(), source.classes().len(), source.classes()[6].as_str()), ("parquet", 7, "class 6"));
    let sizes = (0..source.len()).filter_map(|index| source.image(index).ok()).map(|image| image.pixels.len());
    assert_eq!(source.largest(), sizes.max().unwrap());
    // From many threads, in any order.
    let alone: Vec<String> = (0..8).map(|index| md5(&source.image(index).unwrap())).collect();
    (0..400usize).into_par_iter().for_each(|n| assert_eq!(md5(&source.image(n * 5 % 8).unwrap()), alone[n * 5 % 8]));
    let swapped = Parquet::open(&format!("{GOLDEN}/hf-{{1,0}}.parquet")).unwrap();
    assert_eq!(swapped.id(0), "hf-1/000000");
    assert_ne!(swapped.digest(), source.digest());
    for (codec, name) in [("gzip", "GZIP"), ("brotli", "BROTLI"), ("lz4", "LZ4_RAW")] {
        let refused = message(Parquet::open(&format!("{GOLDEN}/{codec}.parquet")));
        let said = format!("{codec}.parquet: the column `image.bytes` is compressed with {name}, for which there is no decoder here");
        assert!(refused.contains(&said), "{refused}");
    }
}

#[test]
fn lists_name_paths_and_labels() {
    let folder = TempDir::new().unwrap();
    let image = fs::canonicalize("tests/golden/jpeg/grey.jpg").unwrap();
    fs::create_dir(folder.path().join("in")).unwrap();
    for name in ["a.jpg", "in/b, c.jpg", "d 1,5.jpg"] {
        fs::copy(&image, folder.path().join(name)).unwrap();
    }
    let list = folder.path().join("list.txt");
    fs::write(&list, format!("# candidates\n\na.jpg\t4\r\nin/b, c.jpg , 2\nd 1,5.jpg\n{}\t-1\n", image.display())).unwrap();
    let source = List::open(&list).unwrap();
    let found: Vec<_> = (0..source.len()).map(|index| (source.id(index), source.label(index))).collect();
    let path = image.display().to_string();
    let want = [("a.jpg", Some(4)), ("in/b, c.jpg", Some(2)), ("d 1,5.jpg", None), (&path[..], None)];
    assert_eq!(found, want.map(|(id, label)| (id.to_string(), label)));
    assert_eq!((source.classes().len(), source.largest(), source.train_len()), (5, 31 * 50 * 3, 4));
    assert_eq!(source.image(3).unwrap(), source.image(0).unwrap());

    let refused = |text: &str, want: &str| {
        fs::write(&list, text).unwrap();
        let said = message(open(&format!("list:{}", list.display())));
        assert!(said.contains(want) && said.contains("list.txt"), "{want}: {said}");
    };
    refused("a.jpg\nb.jpg", "line 2: b.jpg: no such file");
    refused("a.jpg,9999999", "line 1: the label 9999999 is no number of a class");
    refused("\n\nin", "line 3: in is not a file");
    refused("# nothing\n", "lists no image");
    refused("\t3", "line 1: ");
}

fn half(image: Image, side: usize) -> Result<Image, String> {
    sslmem::view::resized(image, side)
}

#[test]
fn packs_hold_what_was_packed() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let original = Folder::open("tests/golden/jpeg").unwrap();
    let written = pack::write(&original, &at("o.pack"), Content::Files, &mut Silent).unwrap();
    assert_eq!(fs::metadata(at("o.pack")).unwrap().len(), written);
    let packed = Pack::open(at("o.pack")).unwrap();
    assert_eq!((packed.len(), packed.largest(), packed.name()), (original.len(), original.largest(), "packed"));
    for index in 0..packed.len() {
        assert_eq!(packed.id(index), original.id(index));
        assert_eq!(packed.image(index).unwrap(), original.image(index).unwrap());
        assert_eq!(packed.file(index).unwrap(), original.file(index).unwrap());
    }
    let labelled = WebDataset::open(TARS, None).unwrap();
    for name in ["p.pack", "again.pack"] {
        pack::write(&labelled, &at(name), Content::Pixels { side: 7, resize: &half }, &mut Silent).unwrap();
    }
    assert_eq!(fs::read(at("p.pack")).unwrap(), fs::read(at("again.pack")).unwrap());
    let packed = open(&format!("packed:{}", at("p.pack").display())).unwrap();
    assert_eq!(packed.classes(), labelled.classes());
    for index in 0..packed.len() {
        assert_eq!((packed.id(index), packed.label(index)), (labelled.id(index), labelled.label(index)));
        let image = packed.image(index).unwrap();
        assert_eq!(image, half(labelled.image(index).unwrap(), 7).unwrap());
        assert_eq!(image.height.min(image.width), 7);
    }
    // A pack of a pack of files is possible, of a pack of pixels not.
    let refused = message(pack::write(packed.as_ref(), &at("q.pack"), Content::Files, &mut Silent));
    assert!(refused.contains("--size") && !at("q.pack").exists(), "{refused}");
    assert!(fs::read_dir(folder.path()).unwrap().count() == 3, "nothing unfinished is left");

    // Damage in a record is met by name, damage anywhere else when the pack is opened.
    let whole = fs::read(at("o.pack")).unwrap();
    let mut bytes = whole.clone();
    bytes[20] ^= 1;
    fs::write(at("o.pack"), &bytes).unwrap();
    let source = Pack::open(at("o.pack")).unwrap();
    let said = message(source.image(0));
    assert!(said.contains("cmyk.jpg: the record is damaged"), "{said}");
    for at_byte in [0, whole.len() - 1, whole.len() - 20, whole.len() - 60, whole.len() - 100] {
        let mut bytes = whole.clone();
        bytes[at_byte] ^= 1;
        fs::write(at("o.pack"), &bytes).unwrap();
        assert!(message(Pack::open(at("o.pack"))).contains("o.pack"));
    }
    for length in [0, 10, whole.len() / 2, whole.len() - 1] {
        fs::write(at("o.pack"), &whole[..length]).unwrap();
        assert!(message(Pack::open(at("o.pack"))).contains("sslmem pack"));
    }
}

#[test]
fn resizing_is_pillows_byte_for_byte() {
    let image = data::decode(&fs::read("tests/golden/jpeg/rgb_444.jpg").unwrap(), "").unwrap();
    let golden = fs::read("tests/golden/resized.bin").unwrap();
    let mut at = 0;
    for (side, height, width) in [(24, 24, 35), (60, 60, 89)] {
        let resized = half(image.clone(), side).unwrap();
        assert_eq!((resized.height, resized.width), (height, width));
        let length = height * width * 3;
        assert!(resized.pixels == golden[at..at + length], "{side}, bilinear");
        // The middle of the bicubic one, as an encoder sees it.
        let view = View::plain(side, Resize::Short(side), Interpolation::Bicubic, [[0.0; 3], [1.0; 3]]);
        let mut seen = vec![0.0; view.len()];
        let drawn = view.draw(&mut Stream::new(0, Purpose::Score, 0, 0, 0), image.height, image.width);
        render(&view, &drawn, &image.pixels, image.height, image.width, &mut seen, &mut Scratch::default());
        let left = ((width - side) as f64 / 2.0).round_ties_even() as usize;
        let row = |y: usize| &golden[at + length + (y * width + left) * 3..][..side * 3];
        let want: Vec<u8> = (0..side).flat_map(row).copied().collect();
        assert!(seen.iter().map(|v| (v * 255.0).round() as u8).eq(want), "{side}, bicubic");
        at += 2 * length;
    }
    assert_eq!(at, golden.len());
    let strip = Image { height: 1, width: 60_000, pixels: vec![0; 180_000] };
    assert!(half(strip, 224).unwrap_err().contains("512 MiB"));
}
