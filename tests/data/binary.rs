//! SVHN, STL-10 and MNIST: files of other programs are read correctly, damaged ones are refused in a sentence.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use sslmem::data::{self, OnBadImage, Source};
use tempfile::TempDir;

fn open(spec: &str) -> sslmem::Result<Box<dyn Source>> {
    data::open(spec, OnBadImage::Fail)
}

fn message(spec: &str) -> String {
    match open(spec) {
        Ok(_) => panic!("{spec} must be refused"),
        Err(error) => error.to_string(),
    }
}

fn golden(name: &str) -> String {
    format!("{}/tests/golden/svhn/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What tests/golden/mat.py says that sample `n` is.
fn check_svhn_sample(source: &dyn Source, index: usize, n: usize) {
    let image = source.image(index).unwrap();
    assert_eq!((image.height, image.width), (32, 32));
    for (at, &value) in image.pixels.iter().enumerate() {
        let (row, column, colour) = (at / 96, at / 3 % 32, at % 3);
        assert_eq!(value as usize, (row * 7 + column * 3 + colour * 50 + n * 11) % 256, "sample {n}, {row} {column} {colour}");
    }
    assert_eq!(source.label(index), Some(((n + 1) % 10) as u32), "sample {n}: label 10 is the digit 0");
}

#[test]
fn svhn_as_scipy_writes_it() {
    let mut digests = vec![];
    for folder in ["plain", "compressed"] {
        let source = open(&format!("svhn:{}", golden(folder))).unwrap();
        assert_eq!((source.name(), source.len(), source.train_len(), source.largest()), ("svhn", 6, 4, 3072));
        (0..6).for_each(|index| check_svhn_sample(&*source, index, [6, 7, 8, 9, 0, 1][index]));
        assert_eq!((source.id(3), source.id(4)), ("train/00003".into(), "test/00000".into()));
        assert_eq!(source.classes()[3], "3");
        digests.push(source.digest().to_string());
    }
    assert_eq!(digests[0], digests[1], "the same samples have the same digest, however they are stored");
}

#[test]
fn svhn_extra_follows_the_training_part_when_it_is_asked_for() {
    let folder = TempDir::new().unwrap();
    for (from, to) in [("plain/train", "train"), ("plain/test", "extra"), ("compressed/test", "test")] {
        fs::copy(golden(&format!("{from}_32x32.mat")), folder.path().join(format!("{to}_32x32.mat"))).unwrap();
    }
    let spec = format!("svhn:{}", folder.path().display());
    assert_eq!(open(&spec).unwrap().len(), 6);
    let source = open(&format!("{spec}+extra")).unwrap();
    assert_eq!((source.len(), source.train_len()), (8, 6));
    assert_eq!((source.id(5), source.id(6)), ("extra/00001".into(), "test/00000".into()));
    check_svhn_sample(&*source, 5, 1);
    fs::remove_file(folder.path().join("extra_32x32.mat")).unwrap();
    assert!(message(&format!("{spec}+extra")).contains("extra_32x32.mat: no such file"));
}

/// SVHN with `bytes` as its training file.
fn svhn_says(bytes: &[u8]) -> String {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("train_32x32.mat"), bytes).unwrap();
    fs::copy(golden("plain/test_32x32.mat"), folder.path().join("test_32x32.mat")).unwrap();
    let said = message(&format!("svhn:{}", folder.path().display()));
    assert!(said.contains("train_32x32.mat: ") && !said.contains('\n'), "{said}");
    said
}

#[test]
fn every_cut_and_every_lie_of_a_mat_file_is_refused() {
    for name in ["plain", "compressed"] {
        let whole = fs::read(golden(&format!("{name}/train_32x32.mat"))).unwrap();
        for cut in [0, 1, 127, 128, 131, 135, 136, 150, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
            svhn_says(&whole[..cut]);
        }
    }
    let whole = fs::read(golden("plain/train_32x32.mat")).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        svhn_says(&changed)
    };
    assert!(with(126, b"MI").contains("no MATLAB file"));
    assert!(with(124, &[1, 0, b'M', b'I']).contains("big-endian"));
    assert!(with(124, &[0, 2]).contains("HDF5"));
    assert!(with(132, &u32::MAX.to_le_bytes()).contains("cut short"), "a matrix of 4 GB in a file of 12 kB");
    // In the first matrix the class stands at 144, the dimensions at 160, the name at 180, the values' type and size at 184.
    assert!(with(160, &64u32.to_le_bytes()).contains("do not fill its dimensions [64, 32, 3, 4]"));
    assert!(with(160, &u32::MAX.to_le_bytes()).contains("do not fill"));
    assert!(with(188, &u32::MAX.to_le_bytes()).contains("where at most"), "{}", with(188, &u32::MAX.to_le_bytes()));
    assert!(with(184, &[5]).contains("do not fill"), "bytes that claim to be words");
    assert!(with(144, &[4]).contains("no array of real numbers"), "a text is no array");
    assert!(with(180, b"x").contains("no variable `X`"));
    let last = whole.len() - 4;
    assert!(with(last, &[11]).contains("has label 11 at sample 0"), "{}", with(last, &[11]));
}

/// A compressed element around `inner`.
fn deflated(inner: &[u8]) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(vec![], Compression::best());
    packed.write_all(inner).unwrap();
    let packed = packed.finish().unwrap();
    [&15u32.to_le_bytes()[..], &(packed.len() as u32).to_le_bytes(), &packed].concat()
}

#[test]
fn a_compressed_element_may_not_hold_more_than_it_announces() {
    let whole = fs::read(golden("plain/train_32x32.mat")).unwrap();
    let (header, x) = (&whole[..128], &whole[128..][..8 + u32::from_le_bytes(whole[132..136].try_into().unwrap()) as usize]);
    let said = svhn_says(&[header, &deflated(x)].concat());
    assert!(said.contains("no variable `y`"), "the element itself is good: {said}");
    // 64 MB of zeros behind the array, and an array that announces 4 GB.
    let said = svhn_says(&[header, &deflated(&[x, &vec![0; 64 << 20]].concat())].concat());
    assert!(said.contains("more in it than it announces"), "{said}");
    let said = svhn_says(&[header, &deflated(&[&x[..4], &u32::MAX.to_le_bytes(), &x[8..]].concat())].concat());
    assert!(said.contains("cannot hold them"), "{said}");
    let mut damaged = [header, &deflated(x)].concat();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert!(svhn_says(&damaged).contains("damaged"), "the checksum at the end is looked at");
}

fn idx(magic: u32, dims: &[u32], bytes: &[u8]) -> Vec<u8> {
    let words = [&[magic], dims].concat();
    words.iter().flat_map(|word| word.to_be_bytes()).chain(bytes.iter().copied()).collect()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(vec![], Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// MNIST with three training and two test images, sample n of part p filled with 100 p + n but for pixel (1, 2).
fn write_mnist(folder: &Path, packed: bool) {
    for (part, (name, count)) in [("train", 3u32), ("t10k", 2)].into_iter().enumerate() {
        let mut pixels: Vec<u8> = (0..count).flat_map(|n| [100 * part as u8 + n as u8; 784]).collect();
        (0..count as usize).for_each(|n| pixels[n * 784 + 28 + 2] = 255);
        let labels: Vec<u8> = (0..count as u8).map(|n| 9 - n).collect();
        for (kind, bytes) in [("images-idx3", idx(0x803, &[count, 28, 28], &pixels)), ("labels-idx1", idx(0x801, &[count], &labels))] {
            let (ending, bytes) = if packed { (".gz", gz(&bytes)) } else { ("", bytes) };
            fs::write(folder.join(format!("{name}-{kind}-ubyte{ending}")), bytes).unwrap();
        }
    }
}

#[test]
fn mnist_plain_and_gzipped() {
    let mut digests = vec![];
    for packed in [false, true] {
        let folder = TempDir::new().unwrap();
        let inner = folder.path().join("MNIST/raw");
        let at = if packed { inner.as_path() } else { folder.path() };
        fs::create_dir_all(at).unwrap();
        write_mnist(at, packed);
        let source = open(&format!("mnist:{}", folder.path().display())).unwrap();
        assert_eq!((source.len(), source.train_len(), source.largest(), source.name()), (5, 3, 2352, "mnist"));
        let image = source.image(4).unwrap();
        assert_eq!((image.height, image.width, &image.pixels[..3]), (28, 28, &[101; 3][..]));
        assert_eq!(image.pixels[(28 + 2) * 3..][..4], [255, 255, 255, 101]);
        assert_eq!((source.label(0), source.label(4), source.id(4)), (Some(9), Some(8), "test/00001".into()));
        digests.push(source.digest().to_string());
    }
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn damaged_mnist_is_refused() {
    let folder = TempDir::new().unwrap();
    let spec = format!("mnist:{}", folder.path().display());
    assert!(message(&spec).contains("sslmem fetch mnist"), "{}", message(&spec));
    write_mnist(folder.path(), false);
    let refused = |name: &str, bytes: &[u8], want: &str| {
        let path = folder.path().join(name);
        let before = fs::read(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let said = message(&spec);
        assert!(said.contains(want) && said.contains(name) && !said.contains('\n'), "{said}");
        fs::write(&path, before).unwrap();
    };
    let images = "train-images-idx3-ubyte";
    refused(images, &idx(0x801, &[3], &[0; 3]), "begins with 0x00000801");
    refused(images, &[0, 0], "cut short");
    refused(images, &idx(0x803, &[3, 28, 28], &[0; 2351]), "announces 3 items but holds fewer");
    refused(images, &idx(0x803, &[u32::MAX, 28, 28], &[0; 2352]), "holds fewer");
    refused(images, &idx(0x803, &[3, 28, 28], &[0; 2353]), "holds more");
    refused(images, &idx(0x803, &[3, 32, 28], &[0; 3 * 32 * 28]), "side of 32 pixels");
    refused(images, &idx(0x803, &[0, 28, 28], &[]), "announces 0 items");
    refused("train-labels-idx1-ubyte", &idx(0x801, &[2], &[1; 2]), "has 2 labels");
    refused("t10k-labels-idx1-ubyte", &idx(0x801, &[2], &[1, 10]), "has label 10 at sample 1");

    fs::remove_file(folder.path().join(images)).unwrap();
    let whole = gz(&idx(0x803, &[3, 28, 28], &[7; 2352]));
    let packed = folder.path().join(format!("{images}.gz"));
    fs::write(&packed, &whole[..whole.len() - 6]).unwrap();
    assert!(message(&spec).contains("cut short or damaged"), "{}", message(&spec));
    // A bomb: three images are announced, 64 MB come; no more than one byte of them is unpacked.
    fs::write(&packed, gz(&idx(0x803, &[3, 28, 28], &vec![0; 64 << 20]))).unwrap();
    assert!(message(&spec).contains("holds more"), "{}", message(&spec));
}

const STL: usize = 3 * 96 * 96;

#[test]
fn stl10_with_and_without_its_unlabelled_images() {
    let folder = TempDir::new().unwrap();
    let inner = folder.path().join("stl10_binary");
    fs::create_dir(&inner).unwrap();
    let spec = format!("stl10:{}", folder.path().display());
    let empty = |name: &str, length: usize| fs::File::create(inner.join(name)).unwrap().set_len(length as u64).unwrap();
    empty("train_X.bin", 5_000 * STL);
    fs::write(inner.join("train_y.bin"), (0..5_000).map(|n| (n % 10 + 1) as u8).collect::<Vec<u8>>()).unwrap();
    // One test image that is not black: element (row, column, colour) at colour * 96 * 96 + column * 96 + row.
    let mut pixels = vec![0; STL];
    pixels[2 * 9216 + 5 * 96 + 7] = 99;
    fs::write(inner.join("test_X.bin"), &pixels).unwrap();
    fs::File::options().write(true).open(inner.join("test_X.bin")).unwrap().set_len(8_000 * STL as u64).unwrap();
    fs::write(inner.join("test_y.bin"), [10; 8_000]).unwrap();

    let source = open(&spec).unwrap();
    assert_eq!((source.len(), source.train_len(), source.largest(), source.name()), (13_000, 5_000, STL, "stl10"));
    assert_eq!((source.label(11), source.label(5_000), source.classes()[9].as_str()), (Some(1), Some(9), "truck"));
    let image = source.image(5_000).unwrap();
    assert_eq!((image.height, image.width, image.pixels[(7 * 96 + 5) * 3 + 2]), (96, 96, 99));
    assert_eq!(image.pixels.iter().filter(|&&value| value != 0).count(), 1);
    assert!(source.image(12_999).unwrap().pixels.iter().all(|&value| value == 0));

    empty("unlabeled_X.bin", 100_000 * STL);
    let more = open(&spec).unwrap();
    assert_eq!((more.len(), more.train_len()), (113_000, 105_000));
    assert_eq!((more.label(4_999).is_some(), more.label(5_000), more.label(105_000)), (true, None, Some(9)));
    assert_eq!((more.id(5_000), more.id(105_000)), ("unlabeled/00000".into(), "test/00000".into()));
    assert_eq!(more.image(105_000).unwrap(), image);
    assert_ne!(more.digest(), source.digest());

    empty("unlabeled_X.bin", 99_999 * STL);
    assert!(message(&spec).contains("unlabeled_X.bin: has 2764772352 bytes where 2764800000 belong"), "{}", message(&spec));
    fs::remove_file(inner.join("unlabeled_X.bin")).unwrap();
    fs::write(inner.join("test_y.bin"), [0; 8_000]).unwrap();
    assert!(message(&spec).contains("test_y.bin: has label 0 at sample 0"), "{}", message(&spec));
    fs::write(inner.join("test_y.bin"), [1; 7_999]).unwrap();
    assert!(message(&spec).contains("test_y.bin: has 7999 bytes"), "{}", message(&spec));
    fs::remove_file(inner.join("train_y.bin")).unwrap();
    assert!(message(&spec).contains("train_y.bin: no such file"), "{}", message(&spec));
}
