//! Rows, labels, pixels and left-out entries as in each format's own library, on inputs that once went wrong.

use std::fs;
use std::path::Path;

use sslmem::data::{self, Exif, Folder, Image, List, OnBadImage, Parquet, Reading, Source, WebDataset};
use tempfile::TempDir;

use super::shards::tar;

const CASES: &str = "tests/golden/cases";

fn png(value: u8) -> Vec<u8> {
    let picture = image::GrayImage::from_pixel(3, 2, image::Luma([value]));
    let mut bytes = Vec::new();
    image::DynamicImage::from(picture).write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    bytes
}

/// A WebDataset of one tar file `s.tar`, which is there as long as this.
struct Shard {
    source: WebDataset,
    _folder: TempDir,
}

impl std::ops::Deref for Shard {
    type Target = WebDataset;
    fn deref(&self) -> &WebDataset {
        &self.source
    }
}

fn shard(members: &[(&str, &[u8])]) -> Shard {
    opened(tar(members))
}

fn opened(bytes: Vec<u8>) -> Shard {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("s.tar");
    fs::write(&path, bytes).unwrap();
    Shard { source: WebDataset::open(path.to_str().unwrap(), None).unwrap(), _folder: folder }
}

/// Ids, first pixels and the classes of labels, for all samples.
fn rows(source: &dyn Source) -> Vec<(String, u8, Option<String>)> {
    let class = |label: u32| source.classes().get(label as usize).cloned().unwrap_or_default();
    let row = |i: usize| (source.id(i), source.image(i).unwrap().pixels[0], source.label(i).map(class));
    (0..source.len()).map(row).collect()
}

fn row(id: &str, pixel: u8, class: Option<&str>) -> (String, u8, Option<String>) {
    (id.into(), pixel, class.map(String::from))
}

fn names(left_out: &[(String, String)]) -> Vec<&str> {
    left_out.iter().map(|(name, _)| &name[..]).collect()
}

#[test]
fn every_image_of_a_tar_file_is_a_sample_or_is_named() {
    let [a, b, c] = [1, 2, 3].map(png);
    // Dots in names: the webdataset library has one sample with the images 01.png and 02.png; here each is a sample.
    let dots = shard(&[
        ("IMG_2020.01.png", &a),
        ("IMG_2020.01.cls", b"1"),
        ("IMG_2020.02.png", &b),
        ("IMG_2020.02.cls", b"2"),
        ("plain.png", &c),
        ("plain.cls", b"0"),
    ]);
    assert_eq!(rows(&dots.source), [row("s/IMG_2020.01", 1, Some("1")), row("s/IMG_2020.02", 2, Some("2")), row("s/plain", 3, Some("0"))]);
    assert!(dots.left_out().is_empty());
    let one = shard(&[("d.x/St. Bernard 1.png", &a), ("d.x/St. Bernard 2.PNG", &b)]);
    assert_eq!(rows(&one.source), [row("s/d.x/St. Bernard 1", 1, None), row("s/d.x/St. Bernard 2", 2, None)]);
    // Each view has the label of the key, unless it has its own.
    let views = shard(&[("a.left.png", &a), ("a.right.png", &b), ("a.cls", b"1"), ("a.right.json", b"{\"label\": 0}"), ("b.png", &c)]);
    assert_eq!(rows(&views.source), [row("s/a.left", 1, Some("1")), row("s/a.right", 2, Some("0")), row("s/b", 3, None)]);
    // Beside an image with a plain ending the others are left out by name.
    let masks = shard(&[("a.mask.png", &b), ("a.png", &a), ("a.JPEG", &c), ("a.txt", b"x")]);
    assert_eq!(rows(&masks.source), [row("s/a", 1, None)]);
    assert_eq!(names(masks.left_out()), ["a.mask.png", "a.JPEG"]);
    assert!(masks.left_out()[0].1.contains("another image, a.png"), "{:?}", masks.left_out());
    // Many are only counted.
    let (mut members, mut text) = (vec![("a.png".to_string(), a.clone())], vec![]);
    members.extend((0..150).map(|n| (format!("a.{n}.png"), b.clone())));
    members.iter().for_each(|(name, bytes)| text.push((&name[..], &bytes[..])));
    let many = shard(&text);
    assert_eq!((many.len(), many.left_out().len()), (1, 101));
    assert_eq!(many.left_out()[100], ("s".into(), "and 50 more like these".into()));
    assert_eq!(data::open("synthetic:20@1", OnBadImage::Fail).unwrap().left_out().len(), 0);
}

#[test]
fn links_in_tar_files_are_named() {
    let mut builder = tar::Builder::new(Vec::new());
    let image = png(1);
    for (name, kind) in [("a.png", tar::EntryType::Regular), ("b.png", tar::EntryType::Link), ("c.png", tar::EntryType::Symlink)] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        match kind.is_file() {
            true => {
                header.set_size(image.len() as u64);
                builder.append_data(&mut header, name, &image[..]).unwrap();
            }
            false => {
                header.set_size(0);
                builder.append_link(&mut header, name, "a.png").unwrap();
            }
        }
    }
    let source = opened(builder.into_inner().unwrap());
    assert_eq!(rows(&source.source), [row("s/a", 1, None)]);
    assert_eq!(names(source.left_out()), ["b.png", "c.png"]);
    assert!(source.left_out()[0].1.contains("--hard-dereference"));
}

#[test]
fn metadata_that_nobody_asked_for_never_stops_an_image() {
    let image = png(9);
    let label = |name: &str, bytes: &[u8]| {
        let source = shard(&[("a.png", &image), (name, bytes)]);
        let [(_, 9, class)] = &rows(&source.source)[..] else { panic!("{name}") };
        (class.clone(), source.left_out().len())
    };
    let some = |class: &str, words: usize| (Some(class.to_string()), words);
    // JSON that Python writes and reads.
    assert_eq!(label("a.json", b"{\"label\": 1, \"similarity\": NaN}"), some("1", 0));
    assert_eq!(label("a.json", b"{\"caption\": \"NaN \\\\\\\" Infinity\", \"w\": [-Infinity, Infinity, NaN], \"cls\": 2}"), some("2", 0));
    assert_eq!(label("a.json", b"{\"caption\": \"x\", \"w\": -Infinity}"), (None, 0));
    assert_eq!(label("a.json", "\u{FEFF}{\"label\":1}".as_bytes()), some("1", 0));
    assert_eq!(label("a.json", b"{\"t\": \"\\ud83d\", \"u\": \"\\ud83d\\ude00\", \"v\": \"\\udc00\\ud83dx\", \"label\": 3}"), some("3", 0));
    // Labels of every kind.
    assert_eq!(label("a.json", b"{\"label\": \"7\"}"), some("7", 0));
    assert_eq!(label("a.json", b"{\"label\": 7.0}"), some("7", 0));
    assert_eq!(label("a.json", b"{\"label\": -100}"), (None, 0));
    assert_eq!(label("a.json", b"{\"label\": null}"), (None, 0));
    assert_eq!(label("a.json", b"{\"label\": true}"), some("True", 0));
    assert_eq!(label("a.json", b"{\"label\": \"cat\"}"), some("cat", 0));
    assert_eq!(label("a.cls", b"cat\n"), some("cat", 0));
    assert_eq!(label("a.cls", b" 4\n"), some("4", 0));
    assert_eq!(label("a.cls", b"-1"), (None, 0));
    assert_eq!(label("a.cls", b""), (None, 0));
    // Unreadable labels are reported.
    for (name, bytes) in [
        ("a.json", &b"{\"label\": 1700000000}"[..]),
        ("a.json", b"{\"label\": 7.5}"),
        ("a.json", b"{\"label\": [1, 2]}"),
        ("a.json", b"{\"label\":1,\"t\":\"\xE9\"}"),
        ("a.json", b"{\"label\":1"),
        ("a.json", b""),
        ("a.cls", b"99999999"),
        ("a.cls", b"\xFF"),
        ("a.cls", &[b'1'; (1 << 20) + 1]),
    ] {
        assert_eq!(label(name, bytes), (None, 1), "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(30)]));
    }
    // Names are sorted; if one label is a name, numbers are names, too.
    let mixed = shard(&[("a.png", &image), ("a.cls", b"owl"), ("b.png", &image), ("b.cls", b"12"), ("c.png", &image), ("c.cls", b"cat")]);
    assert_eq!(mixed.classes(), ["12", "cat", "owl"]);
    assert_eq!([0, 1, 2].map(|i| mixed.label(i)), [Some(2), Some(0), Some(1)]);
}

fn parquet(name: &str) -> Parquet {
    Parquet::open(&format!("{CASES}/{name}.parquet")).unwrap()
}

#[test]
fn parquet_labels_and_columns_are_what_the_file_says() {
    let classes =
        |source: &Parquet| rows(source).into_iter().map(|(_, _, class)| class.unwrap_or("-".into())).collect::<Vec<_>>().join(" ");
    let text = parquet("label_str");
    assert_eq!((classes(&text), text.classes().join(" ")), ("cat dog cat owl".into(), "cat dog owl".into()));
    assert_eq!(classes(&parquet("label_dict")), "a b a c");
    assert_eq!(classes(&parquet("label_bool")), "True False True False");
    assert_eq!(classes(&parquet("label_m100")), "- 1 2 3");
    for name in ["col_jpg", "col_png"] {
        let said = parquet(name);
        assert_eq!((classes(&said), said.classes().len()), ("a b c d".into(), 4), "{name}");
    }
    // Labels without a name break nothing.
    let short = parquet("names_short");
    assert_eq!(([0, 1, 2, 3].map(|i| short.label(i)), short.classes().len()), ([Some(0), Some(1), Some(2), Some(3)], 2));
    let lengths = parquet("delta_len");
    assert_eq!(classes(&lengths), "0 1 2 3");
    for index in 0..4 {
        assert_eq!(lengths.image(index).unwrap(), text.image(index).unwrap());
    }
    assert_eq!(classes(&parquet("target")), "- - - -");
    // Found by content, without a usual name or a declaration.
    let unsaid = parquet("unsaid");
    assert_eq!(classes(&unsaid), "0 1 2 3");
    assert_eq!(unsaid.image(2).unwrap(), text.image(2).unwrap());
    assert_eq!(names(unsaid.left_out()), ["second"]);
    // A column of images of another type is an error on opening; a column of labels of another type only loses the labels.
    let refused = Parquet::open(&format!("{CASES}/image_int.parquet")).err().unwrap().to_string();
    assert!(refused.contains("`image` does not hold bytes of image files (INT64)"), "{refused}");
    let lists = parquet("label_list");
    assert_eq!((classes(&lists), names(lists.left_out())), ("- - - -".into(), vec!["label.list.element"]));
    let large = parquet("label_large");
    assert_eq!((classes(&large), large.left_out().len()), ("- 1 2 -".into(), 2), "{:?}", large.left_out());
}

#[test]
fn folders_hold_what_image_folder_reads() {
    let folder = TempDir::new().unwrap();
    let class = folder.path().join("c");
    fs::create_dir(&class).unwrap();
    let endings = [
        "a.png", "b.gif", "c.jfif", "d.JPEG", "e.tga", "f.tif", "g.webp", "h.bmp", "i.ppm", "j.pbm", "k.jpe", "l.txt", "m.ico", "n.pgm",
        "o.PnG", "p.tiff", "q.jpg",
    ];
    endings.iter().for_each(|name| fs::write(class.join(name), png(1)).unwrap());
    let source = Folder::open(folder.path()).unwrap();
    let ids: Vec<String> = (0..source.len()).map(|i| source.id(i)).collect();
    assert_eq!(ids.join(" "), "c/a.png c/d.JPEG c/f.tif c/g.webp c/h.bmp c/i.ppm c/n.pgm c/o.PnG c/p.tiff c/q.jpg");
    assert_eq!(names(source.left_out()), ["c/b.gif", "c/c.jfif", "c/e.tga", "c/j.pbm", "c/k.jpe"]);
    assert!((0..source.len()).all(|i| source.label(i) == Some(0)));
    // Flat as well, and in words where nothing else is there.
    let flat = TempDir::new().unwrap();
    fs::write(flat.path().join("x.gif"), png(1)).unwrap();
    let error = Folder::open(flat.path()).err().unwrap().to_string();
    assert!(
        error.contains(".jpg .jpeg .png") && error.contains("1 files have endings of other images, which a `list:` can name"),
        "{error}"
    );
    fs::write(flat.path().join("x.png"), png(1)).unwrap();
    assert_eq!(names(Folder::open(flat.path()).unwrap().left_out()), ["x.gif"]);
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_are_bad_images_and_circles_are_refused() {
    use std::os::unix::fs::symlink;
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("a.png"), png(1)).unwrap();
    symlink("nowhere", at("b.png")).unwrap();
    symlink("nowhere", at("no_image")).unwrap();
    fs::write(at("c.png"), png(2)).unwrap();
    let source = Folder::open(folder.path()).unwrap();
    assert_eq!((source.len(), source.largest()), (3, 18));
    let error = source.image(1).err().unwrap().to_string();
    assert!(error.contains("b.png: the file cannot be read: no such file"), "{error}");
    let kept = data::open(&format!("folder:{}", folder.path().display()), OnBadImage::Skip).unwrap();
    assert_eq!((kept.len(), names(kept.skipped())), (2, vec!["b.png"]));

    let folder = TempDir::new().unwrap();
    fs::create_dir_all(folder.path().join("c/d")).unwrap();
    fs::write(folder.path().join("c/a.png"), png(1)).unwrap();
    symlink("..", folder.path().join("c/d/e")).unwrap();
    let error = Folder::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("c/d/e: is a link to a folder above it"), "{error}");
    // Two links a level to the next level are 2^26 folders.
    let folder = TempDir::new().unwrap();
    for level in 0..26 {
        let here = folder.path().join(format!("{level:02}"));
        fs::create_dir(&here).unwrap();
        ["a", "b"].iter().for_each(|name| symlink(format!("../{:02}", level + 1), here.join(name)).unwrap());
    }
    fs::create_dir(folder.path().join("26")).unwrap();
    let error = Folder::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("folders that are reached through links"), "{error}");
}

#[test]
fn odd_images_have_pillows_bytes() {
    let mut met = 0;
    for entry in fs::read_dir(Path::new(CASES).join("images")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".npy") {
            continue;
        }
        let npy = fs::read(path.with_file_name(format!("{name}.right.npy"))).unwrap();
        let head = 10 + u16::from_le_bytes([npy[8], npy[9]]) as usize;
        let Image { height, width, pixels } = data::decode(&fs::read(&path).unwrap(), name).unwrap_or_else(|what| panic!("{name}: {what}"));
        let shape = format!("({height}, {width}, 3)");
        assert!(String::from_utf8_lossy(&npy[..head]).contains(&shape), "{name} is {shape}");
        assert_eq!(pixels, npy[head..], "{name}");
        met += 1;
    }
    assert_eq!(met, 8);
}

/// Another content at the same place, of the same length and age, does not get the ids and labels of the old one.
#[test]
fn a_tar_file_that_was_exchanged_is_noticed() {
    let (folder, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let path = folder.path().join("s.tar");
    let names: Vec<String> = (0..40).map(|n| format!("{n:02}.png")).collect();
    let images: Vec<Vec<u8>> = (0..40).map(png).collect();
    let members: Vec<(&str, &[u8])> = names.iter().zip(&images).map(|(name, image)| (&name[..], &image[..])).collect();
    let reversed: Vec<(&str, &[u8])> = members.iter().rev().copied().collect();
    let write = |members: &[(&str, &[u8])]| {
        let bytes = tar(members);
        // The same file, length and time, so that only the content differs.
        let file = fs::File::options().write(true).create(true).truncate(false).open(&path).unwrap();
        std::io::Write::write_all(&mut &file, &bytes).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(5)).unwrap();
        bytes.len()
    };
    let length = write(&members);
    let open = || WebDataset::open(path.to_str().unwrap(), Some(cache.path())).unwrap();
    let before = open();
    assert_eq!(write(&reversed), length);
    let after = open();
    assert_eq!(after.id(0), "s/39");
    assert_eq!(after.image(0).unwrap().pixels[0], 39);
    assert_ne!(before.digest(), after.digest());
    // Exchanged while it is in use: an error even if bad images are skipped, and the index is removed.
    let error = before.image(0).err().unwrap();
    assert!(
        matches!(error, sslmem::error::Error::Io { .. }) && error.to_string().contains("it was changed after it was looked through"),
        "{error}"
    );
    assert!(before.file(0).is_err());
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
    // A few members that changed places are noticed when they are read.
    let mut swapped = reversed.clone();
    swapped.swap(7, 8);
    open();
    write(&swapped);
    let stale = open();
    assert!(stale.image(7).is_err());
    assert_eq!(open().id(7), "s/31");
}

#[test]
fn pixels_that_are_too_many_are_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    image::GrayImage::new(40, 30).save(at("large.png")).unwrap();
    image::GrayImage::new(30, 20).save(at("small.png")).unwrap();
    let spec = format!("folder:{}", folder.path().display());
    let reading = Reading { on_bad: OnBadImage::Fail, exif: Exif::Ignore, max_pixels: 1199 };
    let source = reading.open(&spec).unwrap();
    let error = source.image(0).err().unwrap().to_string();
    assert_eq!(error, "large.png: the image has 40 x 30 pixels, more than data.max_pixels allows (1199)");
    let kept = Reading { on_bad: OnBadImage::Skip, ..reading }.open(&spec).unwrap();
    assert_eq!((kept.len(), kept.id(0).as_str(), names(kept.skipped())), (1, "small.png", vec!["large.png"]));
    assert_eq!(Reading { max_pixels: 1200, ..reading }.open(&spec).unwrap().image(0).unwrap().width, 40);
}

/// `Image.new("RGB", (13300, 13300)).save("b.webp", lossless=True, method=0)` and a GIF of one colour.
#[test]
fn a_few_bytes_do_not_become_hundreds_of_megabytes() {
    let webp = b"RIFF\x1a\0\0\0WEBPVP8L\x0e\0\0\0/\xf3\xf3\xfc\x0c\x07\x10\x11\xfd\x0fDD\xff\x03";
    let gif = b"GIF89a\xf4\x33\xf4\x33\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\xf4\x33\xf4\x33\0\x02\x02D\x01\0;";
    for (bytes, name) in [(&webp[..], "b.webp"), (gif, "b.gif")] {
        let error = data::decode(bytes, name).unwrap_err();
        assert!(error.contains("bytes cannot hold 133"), "{name}: {error}");
    }
    // A small image of one colour is one.
    let mut small = Vec::new();
    image::DynamicImage::new_rgb8(1000, 1000).write_to(&mut std::io::Cursor::new(&mut small), image::ImageFormat::WebP).unwrap();
    assert!(small.len() < 500, "{} bytes", small.len());
    assert_eq!(data::decode(&small, "").unwrap().pixels, vec![0; 3_000_000]);
}

#[test]
fn lists_know_classes_by_name() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("a.gif"), png(1)).unwrap();
    let list = folder.path().join("list.txt");
    fs::write(&list, "a.gif\tsnow leopard\na.gif\tant\na.gif\n").unwrap();
    let source = List::open(&list).unwrap();
    assert_eq!(source.classes(), ["ant", "snow leopard"]);
    assert_eq!([0, 1, 2].map(|i| source.label(i)), [Some(1), Some(0), None]);
}
