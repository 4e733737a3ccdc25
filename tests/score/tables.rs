//! Outputs of a scoring pass: a table per layer, tables for NumPy, the page of both ends; and images of any size.

use std::fs;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{command, done, encoders, fails, network, photos};
use sslmem::data::{Image, Source};
use sslmem::device::Device;
use sslmem::encoders::Features;
use sslmem::error::Result;
use sslmem::ops::alignment::Pairs;
use sslmem::progress::Silent;
use sslmem::score::{EncoderFile, Layer, Protocol, score};
use sslmem::split::Subset;
use sslmem::table;
use sslmem::view::policy;

#[test]
fn several_layers_in_one_pass_are_each_alone() {
    let folder = encoders();
    let f = folder.path();
    let layers = ["pooled", "map", "layer2.0"];
    done(command(f, "synthetic:50", "all.parquet", &["--layers", "pooled,map,layer2.0"]));
    for layer in layers {
        done(command(f, "synthetic:50", &format!("{layer}.parquet"), &["--layers", layer]));
        let (one, all) = (fs::read(f.join(format!("{layer}.parquet"))), fs::read(f.join(format!("all.{layer}.parquet"))));
        assert!(one.unwrap() == all.unwrap(), "{layer} is another in company");
    }
    assert!(!f.join("all.parquet").exists());
    fails(command(f, "synthetic:50", "x.parquet", &["--layers", "pooled,pooled"]), 2, &["the layer `pooled` is named twice"]);
    fails(
        command(f, "synthetic:50", "x.parquet", &["--layers", "pooled,layer9"]),
        2,
        &["resnet8 has no layer `layer9`; choose one of pooled"],
    );
}

#[test]
fn tables_for_numpy_hold_the_same() {
    let folder = encoders();
    let f = folder.path();
    done(command(f, "synthetic:50", "s.npy", &[]));
    done(command(f, "synthetic:50", "s2.csv", &[]));
    let (bytes, rows) = (fs::read(f.join("s.npy")).unwrap(), table::read(f.join("s2.csv")).unwrap());
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\0");
    let head = 10 + u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let text = std::str::from_utf8(&bytes[10..head]).unwrap();
    assert!(head.is_multiple_of(64) && text.ends_with('\n') && text.contains("'shape': (60,), }"), "{text}");
    assert!(text.starts_with("{'descr': [('index', '<u4'), ('id', '|S11'), ('label', '<i8'), ('subset', '|S3'), ('align_f', '<f8'), "));
    let width = 4 + 11 + 8 + 3 + 7 * 8;
    assert_eq!(bytes.len(), head + 60 * width);
    for (row, bytes) in rows.iter().zip(bytes[head..].chunks_exact(width)) {
        assert_eq!(bytes[..4], row.index.to_le_bytes());
        assert!(bytes[4..15].starts_with(row.id.as_bytes()));
        let numbers: Vec<f64> = bytes[26..].chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect();
        assert!(numbers.iter().zip(row.numbers()).all(|(a, b)| *a == b || a.is_nan() && b.is_nan()));
    }
}

/// Images so large that a batch's budget holds one of them or a few.
struct Large;

impl Source for Large {
    fn len(&self) -> usize {
        9
    }
    fn train_len(&self) -> usize {
        9
    }
    fn id(&self, index: usize) -> String {
        index.to_string()
    }
    fn label(&self, _: usize) -> Option<u32> {
        None
    }
    fn classes(&self) -> &[String] {
        &[]
    }
    fn digest(&self) -> &str {
        "large"
    }
    fn largest(&self) -> usize {
        panic!("scoring does not ask for the largest image")
    }
    fn image(&self, index: usize) -> Result<Image> {
        let (height, width) = if index % 4 == 1 { (3000, 3000) } else { (900 + index, 1100) };
        let pixels = (0..height * width * 3).map(|i| ((i / 911) * 31 + i % 256 * index) as u8).collect();
        Ok(Image { height, width, pixels })
    }
}

#[test]
fn images_larger_than_a_batch_has_room_for_are_scored_alike() {
    let folder = encoders();
    let paths = ["f", "g"].map(|name| folder.path().join(format!("{name}.safetensors")));
    let samples: Vec<(u32, Subset)> = (0..9).map(|i| (i, Subset::Candidate)).collect();
    let run = |batch: usize| {
        let [view, original] = ["score", "original"].map(|name| policy(name, 32).unwrap());
        let protocol = Protocol { views: 2, pairs: Pairs::All, layers: vec![Layer::Output(Features::Pooled)], seed: 0, batch };
        let side = |i: usize| EncoderFile { path: &paths[i], network: network(), view, original, classifier: None };
        let rows = score(side(0), side(1), &protocol, &Large, &samples, &Device::Cpu, &mut Silent).unwrap();
        rows.iter().map(|row| (row.index, row.align_f.to_bits(), row.align_g.to_bits())).collect::<Vec<_>>()
    };
    let one = run(1);
    assert_eq!(one.len(), 9);
    assert!(run(3) == one && run(16) == one);
}

#[test]
fn both_ends_of_a_table_are_listed_and_shown() {
    let folder = encoders();
    let f = folder.path();
    photos(f, 12, &[3]);
    done(command(f, "folder:photos", "s.csv", &["--max-bad", "0.1"]));
    let top = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sslmem"));
        command.current_dir(f).args(["top", "--scores", "s.csv", "--data", "folder:photos"]).args(more);
        command
    };
    let (most, _) = done(top(&["-k", "3"]));
    let (least, _) = done(top(&["-k", "3", "--least", "--out", "least.html"]));
    let mut rows = table::read(f.join("s.csv")).unwrap();
    rows.sort_by(|a, b| b.delta.total_cmp(&a.delta));
    let listed = |text: &str| text.lines().take(3).map(|l| l.rsplit(' ').next().unwrap().to_string()).collect::<Vec<_>>();
    assert_eq!(listed(&most), [&rows[0].id[..], &rows[1].id, &rows[2].id]);
    assert_eq!(listed(&least), [&rows[10].id[..], &rows[9].id, &rows[8].id]);
    let page = fs::read_to_string(f.join("s.top.html")).unwrap();
    assert_eq!(page.matches("data:image/png").count(), 6);
    assert!(page.contains("samples/s over 12 samples") && page.contains("the JPEG is cut short"));
    fails(top(&["-k", "3"]), 2, &["s.top.html exists already"]);
}

/// The pictures of a page are upright if the table's manifest says that the images were turned.
#[test]
fn pages_show_images_as_they_were_scored() {
    let folder = encoders();
    let f = folder.path();
    let data = format!("folder:{}/tests/golden/exif", env!("CARGO_MANIFEST_DIR"));
    for (exif, upright) in [("ignore", 0), ("turn", 8)] {
        let table = format!("{exif}.csv");
        done(command(f, &data, &table, &["--set", &format!("data.exif={exif}")]));
        let sslmem = |args: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_sslmem"));
            command.current_dir(f).args(args).args(["--data", &data, "--out", "page.html", "--force"]);
            done(command);
            fs::read_to_string(f.join("page.html")).unwrap()
        };
        let top = sslmem(&["top", "--scores", &table, "-k", "16"]);
        let report = sslmem(&["report", &table]);
        // Of 16 files of 14 x 9, half lie on their side.
        assert_eq!(narrow(&top), upright, "{exif}: every image is at one of the ends");
        assert_eq!(narrow(&report) > 0, upright > 0, "{exif}");
    }
}

/// How many pictures of 9 x 14 are on a page.
fn narrow(page: &str) -> usize {
    let pictures = page.split("data:image/png;base64,").skip(1).map(|rest| rest.split('"').next().unwrap());
    pictures.filter(|p| image::load_from_memory(&STANDARD.decode(p).unwrap()).unwrap().width() == 9).count()
}
