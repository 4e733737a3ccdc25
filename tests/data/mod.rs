//! Data sets: rows, their order, and errors.

mod binary;
mod decode;
mod memory;
mod rows;
mod shards;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgb, Rgba};
use sslmem::data::{self, Cifar, DATASETS, Folder, OnBadImage, SampleKind, Source, Synthetic};
use tempfile::TempDir;

/// Real data beside the checkout; without it the test is skipped, but not where everything must run.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new("../shared/data").join(name);
    if path.is_dir() {
        return Some(path);
    }
    assert!(std::env::var("CI").is_err(), "{} is missing", path.display());
    eprintln!("skipped: no real data in {}", path.display());
    None
}

fn open(spec: &str) -> sslmem::Result<Box<dyn Source>> {
    data::open(spec, OnBadImage::Fail)
}

fn message(spec: &str) -> String {
    match open(spec) {
        Ok(_) => panic!("{spec} must be refused"),
        Err(error) => error.to_string(),
    }
}

fn png(path: &Path, image: impl Into<DynamicImage>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image.into().save_with_format(path, ImageFormat::Png).unwrap();
}

fn grey(value: u8) -> ImageBuffer<Luma<u8>, Vec<u8>> {
    ImageBuffer::from_pixel(3, 2, Luma([value]))
}

fn jpeg(side: u32) -> Vec<u8> {
    let picture = ImageBuffer::from_fn(side, side, |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, (x * y) as u8]));
    let mut bytes = Vec::new();
    DynamicImage::from(picture).write_to(&mut std::io::Cursor::new(&mut bytes), ImageFormat::Jpeg).unwrap();
    bytes
}

#[test]
fn real_cifar10_is_read_as_published() {
    let Some(folder) = shared("cifar10") else { return };
    let source = open(&format!("cifar10:{}", folder.display())).unwrap();
    assert_eq!((source.len(), source.train_len(), source.largest()), (60_000, 50_000, 3072));
    assert_eq!(source.name(), "cifar10");
    let labels: Vec<u32> = (0..10).map(|i| source.label(i).unwrap()).collect();
    assert_eq!(labels, [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]);
    assert_eq!((source.label(50_000), source.label(50_001)), (Some(3), Some(8)));
    assert_eq!(source.classes()[6], "frog");
    assert_eq!((source.id(42), source.id(50_007)), ("train/00042".into(), "test/00007".into()));
    let mut sums = [0u64; 3];
    for index in 0..50_000 {
        let image = source.image(index).unwrap();
        assert_eq!((image.height, image.width, image.pixels.len()), (32, 32, 3072));
        for pixel in image.pixels.chunks_exact(3) {
            (0..3).for_each(|c| sums[c] += pixel[c] as u64);
        }
    }
    for (sum, mean) in sums.into_iter().zip([0.4914, 0.4822, 0.4465]) {
        let found = sum as f64 / (50_000.0 * 1024.0 * 255.0);
        assert!((found - mean).abs() < 5e-5, "channel mean {found}, published {mean}");
    }
    // The frog's first pixels, as torchvision shows them.
    assert_eq!(source.image(0).unwrap().pixels[..6], [59, 62, 63, 43, 46, 45]);
}

#[test]
fn a_damaged_cifar_is_refused() {
    let folder = TempDir::new().unwrap();
    let spec = format!("cifar10:{}", folder.path().display());
    let missing = message(&spec);
    assert!(missing.contains("data_batch_1.bin") && missing.contains("no such file"), "{missing}");

    fs::write(folder.path().join("data_batch_1"), "pickle").unwrap();
    assert!(message(&spec).contains("Python version"), "{}", message(&spec));

    let names = ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"];
    for name in names {
        fs::File::create(folder.path().join(name)).unwrap().set_len(30_730_000).unwrap();
    }
    let source = open(&spec).unwrap();
    assert_eq!((source.len(), source.classes()[9].as_str()), (60_000, "9"));

    let mut bytes = vec![0; 30_730_000];
    bytes[3073 * 7] = 10;
    fs::write(folder.path().join("data_batch_3.bin"), &bytes).unwrap();
    let label = message(&spec);
    assert!(label.contains("data_batch_3.bin") && label.contains("record 7 has label 10"), "{label}");

    fs::write(folder.path().join("data_batch_3.bin"), &bytes[..30_729_999]).unwrap();
    let short = message(&spec);
    assert!(short.contains("data_batch_3.bin") && short.contains("30729999 bytes"), "{short}");
}

#[test]
fn cifar100_has_its_fine_labels() {
    let folder = TempDir::new().unwrap();
    let inner = folder.path().join("cifar-100-binary");
    fs::create_dir(&inner).unwrap();
    fs::File::create(inner.join("train.bin")).unwrap().set_len(50_000 * 3074).unwrap();
    let mut test = vec![0; 10_000 * 3074];
    test[3074..3074 + 4].copy_from_slice(&[19, 99, 200, 201]);
    test[3074 + 2 + 1024] = 7;
    fs::write(inner.join("test.bin"), &test).unwrap();
    let names: Vec<String> = (0..100).map(|n| format!("class{n}")).collect();
    fs::write(inner.join("fine_label_names.txt"), names.join("\n") + "\n\n").unwrap();
    let source = Cifar::cifar100(folder.path()).unwrap();
    assert_eq!((source.len(), source.train_len(), source.name()), (60_000, 50_000, "cifar100"));
    assert_eq!((source.label(50_000), source.label(50_001)), (Some(0), Some(99)));
    assert_eq!(source.image(50_001).unwrap().pixels[..6], [200, 7, 0, 201, 0, 0]);
    assert_eq!(source.classes()[99], "class99");

    fs::write(inner.join("fine_label_names.txt"), "apple").unwrap();
    let error = Cifar::cifar100(folder.path()).err().unwrap().to_string();
    assert!(error.contains("1 class names where 100 belong"), "{error}");
}

#[test]
fn every_real_photograph_is_read() {
    let Some(folder) = shared("imagenet-sample") else { return };
    let source = data::open(&format!("folder:{}", folder.display()), OnBadImage::Skip).unwrap();
    assert_eq!((source.len(), source.train_len()), (250, 250));
    assert!(source.skipped().is_empty() && source.classes().is_empty() && source.label(0).is_none());
    assert_eq!(source.id(0), "n01440764_tench.JPEG");
    let (mut greys, mut largest) = (0, 0);
    for index in 0..source.len() {
        let image = source.image(index).unwrap();
        assert_eq!(image.pixels.len(), image.height * image.width * 3);
        largest = largest.max(image.pixels.len());
        greys += image.pixels.chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2]) as usize;
    }
    assert_eq!(source.largest(), largest);
    assert!((1..20).contains(&greys), "{greys} grey photographs");
}

#[test]
fn classes_parts_and_order_are_torchvisions() {
    let folder = TempDir::new().unwrap();
    let at = |path: &str| folder.path().join(path);
    for (path, value) in [("train/cat/b.png", 1), ("train/cat/B.PNG", 2), ("train/cat/a/z.png", 3), ("train/cat/a-b/c.png", 4)] {
        png(&at(path), grey(value));
    }
    png(&at("train/ant/x.png"), grey(5));
    png(&at("val/cat/y.png"), grey(6));
    png(&at("val/dog/y.png"), grey(7));
    png(&at("elsewhere/y.png"), grey(8));
    fs::write(at("train/cat/notes.txt"), "no image").unwrap();
    fs::write(at("train/cat/._b.png"), "a resource fork").unwrap();
    let source = Folder::open(folder.path()).unwrap();
    let ids: Vec<String> = (0..source.len()).map(|i| source.id(i)).collect();
    let order = [
        "train/ant/x.png",
        "train/cat/B.PNG",
        "train/cat/b.png",
        "train/cat/a/z.png",
        "train/cat/a-b/c.png",
        "val/cat/y.png",
        "val/dog/y.png",
    ];
    // `a` comes before `a-b` although `a/` would not: folders are compared as wholes.
    assert_eq!(ids, order);
    assert_eq!(source.train_len(), 5);
    assert_eq!(source.classes(), ["ant", "cat", "dog"]);
    let labels: Vec<u32> = (0..source.len()).map(|i| source.label(i).unwrap()).collect();
    assert_eq!(labels, [0, 1, 1, 1, 1, 1, 2]);
    assert_eq!(source.image(1).unwrap().pixels, [2; 18]);

    let before = source.digest().to_string();
    assert_eq!(skipping(folder.path()).unwrap().digest(), before);
    // The digest is of names, lengths and classes, not of content.
    let length = fs::metadata(at("train/cat/b.png")).unwrap().len();
    fs::write(at("train/cat/b.png"), vec![0; length as usize]).unwrap();
    assert_eq!(Folder::open(folder.path()).unwrap().digest(), before);
    png(&at("train/cat/b.png"), ImageBuffer::from_fn(30, 20, |x, y| Luma([(x * y) as u8])));
    assert_ne!(Folder::open(folder.path()).unwrap().digest(), before);
    png(&at("train/cat/b.png"), grey(2));
    assert_eq!(Folder::open(folder.path()).unwrap().digest(), before);
    fs::rename(at("train/ant"), at("train/bee")).unwrap();
    assert_ne!(Folder::open(folder.path()).unwrap().digest(), before);
    fs::rename(at("train/bee"), at("train/ant")).unwrap();

    png(&at("train/loose.png"), grey(1));
    let error = message(&format!("folder:{}", folder.path().display()));
    assert!(error.contains("train/loose.png") && error.contains("beside folders"), "{error}");
}

#[test]
fn pixels_are_what_convert_rgb_makes_of_them() {
    let folder = TempDir::new().unwrap();
    let at = |path: &str| folder.path().join(path);
    png(&at("1.png"), grey(77));
    png(&at("2.png"), ImageBuffer::from_pixel(1, 1, LumaA([9u8, 3])));
    png(&at("3.png"), ImageBuffer::from_pixel(1, 1, Rgba([200u8, 100, 50, 0])));
    png(&at("4.png"), ImageBuffer::from_pixel(1, 1, Luma([0x12FFu16])));
    png(&at("5.png"), ImageBuffer::from_pixel(1, 1, Rgb([0x00FFu16, 0x8000, 0xFFFF])));
    png(&at("6.png"), ImageBuffer::from_pixel(1, 1, Rgba([0x0A00u16, 0x0BFF, 0x0C80, 0])));
    // A PNG under another name is still a PNG.
    fs::rename(at("6.png"), at("6.jpg")).unwrap();
    let source = Folder::open(folder.path()).unwrap();
    let pixels: Vec<Vec<u8>> = (0..6).map(|i| source.image(i).unwrap().pixels).collect();
    assert_eq!(pixels[0], [77; 18]);
    assert_eq!(pixels[1..], [[9, 9, 9], [200, 100, 50], [0x12; 3], [0, 0x80, 0xFF], [10, 11, 12]].map(Vec::from));
    assert_eq!(source.largest(), 18);
}

/// An EXIF block that says "turned by a quarter" changes nothing.
#[test]
fn exif_orientation_is_not_applied() {
    let folder = TempDir::new().unwrap();
    let picture = ImageBuffer::from_fn(16, 8, |x, _| Luma([(x * 15) as u8]));
    let mut plain = Vec::new();
    DynamicImage::from(picture).write_to(&mut std::io::Cursor::new(&mut plain), ImageFormat::Jpeg).unwrap();
    let exif = b"Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut turned = plain[..2].to_vec();
    turned.extend([0xFF, 0xE1, 0, exif.len() as u8 + 2]);
    turned.extend(exif);
    turned.extend(&plain[2..]);
    fs::write(folder.path().join("a.jpg"), plain).unwrap();
    fs::write(folder.path().join("b.jpg"), turned).unwrap();
    let source = Folder::open(folder.path()).unwrap();
    assert_eq!(source.image(0).unwrap(), source.image(1).unwrap());
    assert_eq!(source.image(1).unwrap().width, 16);
}

#[test]
fn bad_images_fail_by_name_or_are_skipped() {
    let folder = TempDir::new().unwrap();
    let at = |path: &str| folder.path().join(path);
    let whole = jpeg(64);
    fs::write(at("1.jpg"), &whole).unwrap();
    fs::write(at("2.jpg"), &whole[..whole.len() - 100]).unwrap();
    let source = Folder::open(folder.path()).unwrap();
    let error = source.image(1).err().unwrap().to_string();
    assert!(error.contains("2.jpg") && error.contains("cut short"), "{error}");

    png(&at("3.png"), ImageBuffer::from_fn(64, 64, |x, y| Luma([((x * 31) ^ (y * 17)) as u8])));
    let cut = fs::read(at("3.png")).unwrap();
    fs::write(at("3.png"), &cut[..cut.len() / 2]).unwrap();
    fs::write(at("4.bmp"), "no image at all").unwrap();
    fs::write(at("5.webp"), "").unwrap();
    // Opening reads nothing; the largest of those that have a size is the room for each.
    let source = Folder::open(folder.path()).unwrap();
    assert_eq!((source.len(), source.largest()), (5, 64 * 64 * 3));
    let error = source.image(3).err().unwrap().to_string();
    assert!(error.contains("4.bmp") && !error.contains('\n'), "{error}");

    let source = skipping(folder.path()).unwrap();
    assert_eq!((source.len(), source.id(0).as_str()), (1, "1.jpg"));
    let skipped: Vec<&str> = source.skipped().iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(skipped, ["2.jpg", "3.png", "4.bmp", "5.webp"]);
    assert!(source.skipped().iter().all(|(_, why)| !why.is_empty() && !why.contains('\n')), "{:?}", source.skipped());

    fs::remove_file(at("1.jpg")).unwrap();
    let error = skipping(folder.path()).err().unwrap().to_string();
    assert!(error.contains("4 cannot"), "{error}");
}

/// A folder without the images that cannot be decoded.
fn skipping(folder: &Path) -> sslmem::error::Result<Box<dyn Source>> {
    data::open(&format!("folder:{}", folder.display()), OnBadImage::Skip)
}

/// Damaged in any place, a file is an image or an error, never a panic.
#[test]
fn damaged_files_never_panic() {
    let picture = DynamicImage::from(ImageBuffer::from_fn(24, 24, |x, y| Rgb([(x * 9) as u8, (y * 7) as u8, (x ^ y) as u8])));
    use ImageFormat::{Bmp, Gif, Jpeg, Png, Pnm, Tga, Tiff, WebP};
    let mut stream = sslmem::random::Stream::new(5, sslmem::random::Purpose::Statistics, 0, 0, 0);
    for format in [Bmp, Gif, Jpeg, Png, Pnm, Tga, Tiff, WebP] {
        let folder = TempDir::new().unwrap();
        let mut whole = Vec::new();
        picture.write_to(&mut std::io::Cursor::new(&mut whole), format).unwrap();
        let ending = format.extensions_str()[0];
        for trial in 0..150 {
            let mut bytes = whole.clone();
            for _ in 0..1 + stream.below(4) {
                let reach = if stream.below(2) == 0 { bytes.len().min(64) } else { bytes.len() };
                bytes[stream.below(reach as u32) as usize] = stream.bits() as u8;
            }
            if stream.below(4) == 0 {
                bytes.truncate(stream.below(bytes.len() as u32) as usize);
            }
            fs::write(folder.path().join(format!("{trial:03}.{ending}")), bytes).unwrap();
        }
        fs::write(folder.path().join(format!("999.{ending}")), &whole).unwrap();
        let names: Vec<String> = (0..150).chain([999]).map(|trial| format!("{trial:03}.{ending}\n")).collect();
        fs::write(folder.path().join("list"), names.concat()).unwrap();
        let source = data::open(&format!("list:{}", folder.path().join("list").display()), OnBadImage::Skip).unwrap();
        assert_eq!(source.len() + source.skipped().len(), 151);
        assert!((0..source.len()).all(|i| source.image(i).is_ok()));
    }
}

#[test]
fn unknown_data_is_answered_with_help() {
    for dataset in &DATASETS {
        assert!(dataset.example.starts_with(&format!("{}:", dataset.name)), "{}", dataset.example);
    }
    assert!(message("cifar-10:x").contains("did you mean `cifar10`"));
    assert!(message("Folder:x").contains("did you mean `folder`"));
    assert!(message("imagenet21k:x").contains("`synthetic:1000@7`"));
    assert!(message("cifar10").contains("`cifar10:data/cifar10`"));
    let folder = TempDir::new().unwrap();
    let path = folder.path().display().to_string();
    assert!(message(&path).contains(&format!("`folder:{path}`")));
    assert!(message(&format!("folder:{path}")).contains("no image"));
    for name in ["folder", "cifar10", "cifar100"] {
        let error = message(&format!("{name}:{path}/nowhere"));
        assert!(error.contains("nowhere") && error.contains("no such file"), "{error}");
    }
    for text in ["0", "x", "10@", "@3", "-4", "99999999999999999999"] {
        assert!(message(&format!("synthetic:{text}")).contains("synthetic"), "{text}");
    }
    assert_eq!("skip".parse::<OnBadImage>().unwrap(), OnBadImage::Skip);
    assert!("drop".parse::<OnBadImage>().is_err());
}

#[test]
fn synthetic_images_are_a_function_of_seed_and_place() {
    let source = open("synthetic:1000@7").unwrap();
    assert_eq!((source.len(), source.train_len(), source.largest()), (1200, 1000, 3072));
    assert_eq!((source.id(42), source.id(1003)), ("train/00042".into(), "test/00003".into()));
    let again = Synthetic::new(1000, 7).unwrap();
    let larger = Synthetic::new(2000, 7).unwrap();
    let other = Synthetic::new(1000, 8).unwrap();
    assert_eq!(source.digest(), again.digest());
    assert!(source.digest() != larger.digest() && source.digest() != other.digest());
    let mut seen = HashSet::new();
    for index in 0..1200 {
        let image = source.image(index).unwrap();
        assert_eq!(image, again.image(index).unwrap());
        let place = if index < 1000 { index } else { index + 1000 };
        assert_eq!(image, larger.image(place).unwrap());
        assert_eq!((source.label(index), source.truth(index)), (larger.label(place), larger.truth(place)));
        assert_ne!(image, other.image(index).unwrap());
        assert!(seen.insert(image.pixels), "sample {index} occurs twice");
    }
    // When this changes on purpose, the generation in the digest must change with it.
    let mut pixels = blake3::Hasher::new();
    for index in 0..200 {
        pixels.update(&source.image(index).unwrap().pixels);
    }
    assert_eq!(&pixels.finalize().to_hex()[..16], "72b48aefc53d4e5d");
}

#[test]
fn synthetic_truth_has_its_shares_everywhere() {
    let source = Synthetic::new(5000, 3).unwrap();
    let count = |from: usize, to: usize, kind: SampleKind| (from..to).filter(|&i| source.kind(i) == kind).count();
    for start in (0..5000).step_by(500) {
        assert_eq!(count(start, start + 500, SampleKind::Atypical), 20);
        assert_eq!(count(start, start + 500, SampleKind::Rare), 40);
    }
    assert_eq!(count(5000, 6000, SampleKind::Atypical), 40);
    let mut classes = [0; 8];
    (0..5000).for_each(|i| classes[source.label(i).unwrap() as usize] += 1);
    assert!(classes.iter().all(|n| (500..750).contains(n)), "{classes:?}");
    assert_eq!(source.classes().len(), 8);
}

/// Planted images are what they are called: by their colours alone the nearest other image is far away for
/// atypical ones and close for common ones.
#[test]
fn synthetic_oddities_are_odd() {
    let source = Synthetic::new(1000, 1).unwrap();
    let colours: Vec<[f64; 64]> = (0..1000)
        .map(|i| {
            let mut bins = [0.0; 64];
            for p in source.image(i).unwrap().pixels.chunks_exact(3) {
                bins[(p[0] >> 6) as usize * 16 + (p[1] >> 6) as usize * 4 + (p[2] >> 6) as usize] += 1.0 / 1024.0;
            }
            bins
        })
        .collect();
    let mut nearest: [Vec<f64>; 3] = Default::default();
    for (i, a) in colours.iter().enumerate() {
        let apart = |b: &[f64; 64]| a.iter().zip(b).map(|(x, y)| (x - y).abs()).sum::<f64>();
        let distance = colours.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, b)| apart(b)).fold(f64::MAX, f64::min);
        nearest[source.kind(i) as usize].push(distance);
    }
    let median = |kind: SampleKind| {
        let mut values = nearest[kind as usize].clone();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (common, rare, atypical) = (median(SampleKind::Common), median(SampleKind::Rare), median(SampleKind::Atypical));
    assert!(common < rare && rare < atypical && atypical > 1.5 * common, "{common} {rare} {atypical}");
}
