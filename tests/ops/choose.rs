//! The kernel choices for each kind of card, recorded in `tests/golden/choices.txt`, so that a change shows in review. Sums are split alike
//! on every card, or results would differ.

use sslmem::device::conv::{Activation, Conv};
use sslmem::device::{Capabilities, Launch};
use sslmem::ops::choose::{self, Attention, EpilogueKind, Product};
use sslmem::var::Dtype;
use std::fmt::Write;

/// A large card with wgmma, a large one without, and a small one with less shared memory.
const CARDS: [(&str, Capabilities); 3] = [
    ("h100", Capabilities { wgmma: true, ..Capabilities::portable((9, 0), 132, 232_448) }),
    ("a100", Capabilities::portable((8, 0), 108, 166_912)),
    ("small", Capabilities::portable((8, 6), 28, 101_376)),
];

fn say(to: &mut String, of: &str, launch: &Launch) {
    let Launch { kernel, grid: [x, y, _], block: [threads, ..], shared } = launch;
    writeln!(to, "{of}: {kernel} {x}x{y} blocks of {threads}, {shared} bytes").unwrap();
}

/// Every choice of `make`, by type and card. wgmma multiplies bf16 alone.
fn table(make: impl Fn(&Capabilities, Dtype, &mut String)) -> String {
    let mut table = String::new();
    for (dtype, name) in [(Dtype::Bf16, "bf16"), (Dtype::F32, "f32")] {
        for (card, on) in CARDS {
            let on = Capabilities { wgmma: on.wgmma && dtype == Dtype::Bf16, ..on };
            writeln!(table, "[{card} {name}]").unwrap();
            make(&on, dtype, &mut table);
        }
    }
    table
}

/// A section of the recorded table. `SSLMEM_BLESS=1` writes it anew.
fn same(section: &str, got: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/choices.txt");
    let text = std::fs::read_to_string(&path).unwrap();
    let head = format!("# {section}\n");
    let wanted = text.split(&head).nth(1).unwrap_or_default().split("\n# ").next().unwrap();
    if std::env::var_os("SSLMEM_BLESS").is_some() {
        return std::fs::write(&path, text.replacen(&format!("{head}{wanted}"), &format!("{head}{got}"), 1)).unwrap();
    }
    let changed: Vec<_> = wanted.trim().lines().zip(got.trim().lines()).filter(|(wanted, got)| wanted != got).collect();
    assert!(changed.is_empty(), "{section}: choices have changed (recorded, now); look, then SSLMEM_BLESS=1: {changed:#?}");
    assert_eq!(wanted.trim().lines().count(), got.trim().lines().count(), "{section}: another number of choices");
}

const fn plain(rows: usize, channels: usize, outputs: usize) -> Product {
    Product { rows, outputs, channels, taps: 1, plain: true }
}

#[test]
fn products() {
    let layers = [
        ("ViT-B qkv, 128 images", plain(128 * 197, 768, 2304)),
        ("ViT-B fc2, 128 images", plain(128 * 197, 3072, 768)),
        ("ViT-B fc2, 4 images", plain(4 * 197, 3072, 768)),
        ("3x3 of 256 at 14x14, 256 images", Product { rows: 256 * 196, outputs: 256, channels: 256, taps: 9, plain: false }),
        ("1x1 to 64", plain(128 * 3136, 256, 64)),
        ("head to 1000", plain(256, 2048, 1000)),
        ("3 channels", Product { rows: 1000, outputs: 96, channels: 3, taps: 9, plain: false }),
    ];
    let choices = table(|on, dtype, to| layers.iter().for_each(|(name, p)| say(to, name, &choose::product(on, dtype, p))));
    same("products", &choices);
}

#[test]
fn products_by_tma() {
    let on = Capabilities { tma: true, ..CARDS[0].1 };
    let kind = |activation, adds, keeps| EpilogueKind { activation, adds, keeps };
    let (qkv, nothing) = (plain(128 * 197, 768, 2304), kind(Activation::Nothing, false, false));
    let chosen = |on: &Capabilities, p: Product, kind| {
        choose::by_tma(on, Dtype::Bf16, &p, kind).map(|(l, columns)| (l.kernel, l.grid[0], l.shared, columns))
    };
    assert_eq!(chosen(&CARDS[0].1, qkv, nothing), None, "off until it is asked for");
    assert_eq!(chosen(&on, qkv, nothing), Some(("linear_256", 132, 229_440, 256)));
    assert_eq!(chosen(&on, plain(788, 768, 768), nothing), Some(("linear_128", 42, 229_472, 128)));
    assert_eq!(chosen(&on, qkv, kind(Activation::Relu, true, false)).unwrap().0, "linear_256_relu_more");
    assert_eq!(chosen(&on, qkv, kind(Activation::Gelu, false, true)).unwrap().0, "linear_256_gelu_keep");
    // No kernel: a sum behind GELU, few columns, what does not come in 16 bytes, a neighbourhood.
    assert_eq!(chosen(&on, qkv, kind(Activation::Gelu, true, false)), None);
    assert_eq!(chosen(&on, plain(1000, 768, 64), nothing), None);
    assert_eq!(chosen(&on, plain(1000, 768, 100), nothing), None);
    assert_eq!(chosen(&on, Product { plain: false, ..qkv }, nothing), None);
}

const fn conv([batch, side, channels, outputs, kernel, stride]: [usize; 6]) -> Conv {
    Conv { batch, height: side, width: side, channels, outputs, kernel, stride, pad: kernel / 2 }
}

#[test]
fn gradients_of_weights() {
    let layers = [
        ("3x3 of 256 at 14x14", conv([256, 14, 256, 256, 3, 1])),
        ("3x3 of 64 at 56x56", conv([256, 56, 64, 64, 3, 1])),
        ("1x1 of 2048 at 7x7", conv([256, 7, 2048, 512, 1, 1])),
        ("ViT-B fc1", Conv::linear(128 * 197, 768, 3072)),
        ("ragged", Conv::linear(100, 35, 21)),
    ];
    let choices = table(|on, dtype, to| layers.iter().for_each(|(name, c)| say(to, name, &choose::weights(on, dtype, c))));
    same("gradients of weights", &choices);
    for (name, c) in layers {
        let parts = CARDS.map(|(_, on)| choose::weights(&on, Dtype::Bf16, &c).grid[1]);
        assert!(parts.iter().all(|p| *p as usize == choose::parts(&c)), "{name}: sums are split otherwise on another card");
    }
}

#[test]
fn first_layers() {
    let layers = [
        ("7x7 at 224", conv([256, 224, 3, 64, 7, 2])),
        ("7x7 at 600", conv([32, 600, 3, 64, 7, 2])),
        ("3x3 at 32", conv([256, 32, 3, 64, 3, 1])),
        ("3x3 at 31", conv([256, 31, 3, 64, 3, 1])),
        ("5x5 at 32", conv([256, 32, 3, 64, 5, 1])),
    ];
    let say_stem = |to: &mut String, name: &str, stem: Option<choose::Stem>| match stem {
        Some(stem) => say(to, &format!("{name}, run {}, pitch {}", stem.run, stem.pitch), &stem.launch),
        None => writeln!(to, "{name}: none").unwrap(),
    };
    let choices = table(|on, dtype, to| {
        for (name, c) in &layers {
            say_stem(to, name, choose::stem(on, dtype, c));
            say_stem(to, &format!("{name}, weights"), choose::stem_weights(on, dtype, c));
        }
    });
    same("first layers", &choices);
}

#[test]
fn attention() {
    let shapes = [
        ("ViT-B/16 at 224", Attention { images: 128, tokens: 197, heads: 12, head: 64 }),
        ("ViT-S/14 at 224", Attention { images: 64, tokens: 257, heads: 6, head: 64 }),
        ("65 tokens", Attention { images: 256, tokens: 65, heads: 3, head: 64 }),
        ("577 tokens", Attention { images: 16, tokens: 577, heads: 12, head: 64 }),
        ("heads of 32", Attention { images: 16, tokens: 197, heads: 12, head: 32 }),
        ("heads of 80", Attention { images: 16, tokens: 257, heads: 16, head: 80 }),
    ];
    let choices = table(|on, dtype, to| {
        for (name, a) in &shapes {
            say(to, name, &choose::attention(on, dtype, a));
            match choose::attention_back(on, dtype, a) {
                Some(launch) => say(to, &format!("{name}, back"), &launch),
                None => choose::attention_back_long(dtype, a).iter().for_each(|l| say(to, &format!("{name}, back"), l)),
            }
        }
    });
    same("attention", &choices);
}
