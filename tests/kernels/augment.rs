//! The augmentation kernel on the emulator: draws equal to the CPU's bit for bit, views equal to rounding, for any memory and schedule.

use crate::emulated::Emulated;
use crate::view::picture;
use emulator::{Access, Emulator, Options, SHARED_SM86, SHARED_SM90, SiteCounts};
use sslmem::device::Device;
use sslmem::ops::augment::numbers;
use sslmem::random::{Purpose, Stream, philox};
use sslmem::tape::{Mode, Tape};
use sslmem::var::Dtype;
use sslmem::view::{Blur, Crop, Interpolation, Jitter, POLICIES, Solarize, View, policy};
use sslmem::weights::Weights;

/// Heights and widths: single pixels, lines, smaller and larger than the views, and rows of any number of bytes.
const SIZES: [[usize; 2]; 10] = [[1, 1], [1, 37], [53, 2], [9, 7], [24, 24], [33, 40], [61, 80], [3, 211], [130, 31], [25, 23]];

fn upload(e: &Emulator, words: &[u32]) -> u64 {
    let address = e.alloc(4 * words.len());
    e.upload(address, bytemuck::cast_slice(words)).unwrap();
    address
}

fn download(e: &Emulator, address: u64, n: usize) -> Vec<u32> {
    let mut words = vec![0u32; n];
    e.download(address, bytemuck::cast_slice_mut(&mut words)).unwrap();
    words
}

#[test]
fn words_of_a_stream_are_those_of_the_cpu() {
    if crate::emulated::missing() {
        return;
    }
    let e = Emulator::new(Options::default());
    let counter = [0xDEAD_BEEF, 17, 123_456, 9, (Purpose::Score as u32) << 24 | 5];
    let blocks: Vec<u32> = (0..2000u32).map(|i| i.wrapping_mul(if i < 1000 { 1 } else { 0x9E37_79B9 })).collect();
    let (out, from, key) = (e.alloc(16 * blocks.len()), upload(&e, &blocks), upload(&e, &counter));
    e.launch("philox_words", false, [32, 1, 1], [64, 1, 1], 0, &[out, from, key, blocks.len() as u64]).unwrap();
    let [k0, k1, sample, epoch, view] = counter;
    let expected: Vec<u32> = blocks.iter().flat_map(|b| philox([*b, sample, epoch, view], [k0, k1])).collect();
    assert_eq!(download(&e, out, 4 * blocks.len()), expected);
}

/// The CPU's draw in the words of `Drawn` in kernels/draw.cuh.
fn expected(view: &View, seed: u64, sample: u32, v: u32, [height, width]: [usize; 2]) -> Vec<u32> {
    let d = view.draw(&mut Stream::new(seed, Purpose::Train, 3, sample, v), height, width);
    let strength = view.jitter.as_ref().filter(|_| d.jitter).map_or([0.0; 4], |j| [j.brightness, j.contrast, j.saturation, j.hue]);
    let steps: Vec<u32> = d.order.iter().map(|t| *t as u32).filter(|t| strength[*t as usize] > 0.0).collect();
    let before = steps.iter().take_while(|t| **t != 1).count();
    let kernel = view.blur.as_ref().filter(|_| d.sigma > 0.0).map_or(0, |b| b.width(d.sigma));
    let kernel = if kernel == 1 { 0 } else { kernel }; // nothing to blur
    let threshold = view.solarize.as_ref().filter(|_| d.solarize).map_or(f32::INFINITY, |s| s.threshold);
    let mut words = vec![d.top, d.left, d.height, d.width, d.flip as u32, d.gray as u32];
    words.extend((0..4).map(|i| steps.get(i).copied().unwrap_or(0)));
    words.extend([steps.len() as u32, before as u32]);
    words.extend([d.brightness, d.contrast, d.saturation, d.hue, d.sigma].map(f32::to_bits));
    words.extend([kernel as u32, threshold.to_bits()]);
    words
}

/// Everything at once, with a blur whose width is drawn too.
fn busy(size: usize) -> View {
    View {
        interpolation: Interpolation::Bicubic,
        flip: 0.5,
        gray: 0.2,
        jitter: Some(Jitter { brightness: 0.8, contrast: 0.8, saturation: 0.8, hue: 0.2, p: 0.9 }),
        blur: Some(Blur { sigma: [0.1, 1.5], kernel: None, p: 0.6 }),
        solarize: Some(Solarize { threshold: 0.5, p: 0.4 }),
        ..policy("simclr", size).unwrap()
    }
}

#[test]
fn draws_are_those_of_the_cpu_bit_for_bit() {
    if crate::emulated::missing() {
        return;
    }
    let e = Emulator::new(Options::default());
    let some = View { jitter: Some(Jitter { brightness: 0.0, contrast: 1.5, saturation: 0.0, hue: 0.5, p: 1.0 }), ..busy(32) };
    let narrow = View { crop: Crop::Random { scale: [0.5, 0.5], ratio: [100.0, 200.0] }, ..busy(32) };
    let views = POLICIES.iter().map(|(_, make)| make(64)).chain([busy(32), some, narrow]);
    let n = 150;
    for (sample, view) in views.enumerate() {
        let from = upload(&e, &numbers(&view));
        for [height, width] in SIZES {
            let (sample, seed) = (sample as u32 * 1000 + height as u32, 0x1234_5678_9ABC_DEF0u64);
            let out = e.alloc(4 * 19 * n);
            let purpose = (Purpose::Train as u64) << 24;
            let words = [out, from, seed & 0xFFFF_FFFF, seed >> 32, purpose, 3, sample as u64, height as u64, width as u64];
            e.launch("draw_views", false, [n as u32, 1, 1], [32, 1, 1], 0, &words).unwrap();
            let got = download(&e, out, 19 * n);
            for (v, got) in got.chunks_exact(19).enumerate() {
                assert_eq!(got, expected(&view, seed, sample, v as u32, [height, width]), "view {v} of {height} x {width}: {view:?}");
            }
        }
    }
}

/// One view per policy of images of these sizes, in this order.
fn views(device: Device, policies: &[View], images: &[[usize; 2]]) -> sslmem::Result<Vec<f32>> {
    let mut tape = Tape::new(Mode::Eval);
    let largest = images.iter().map(|[h, w]| h * w * 3 + 3).max().unwrap();
    let batch = tape.batch(images.len(), largest);
    let y = tape.augment(batch, policies.to_vec(), 0, 5, Purpose::Score);
    tape.keep(y);
    let mut program = tape.compile(&mut Weights::on(device, 0))?;
    let (mut pixels, mut table, mut keys) = (vec![], vec![], vec![]);
    for [height, width] in images {
        pixels.extend(vec![77; (height + width) % 4]); // images begin anywhere
        table.extend([pixels.len() as u32, *height as u32, *width as u32]);
        keys.extend([2, (1000 * height + width) as u32]);
        pixels.extend(picture(*height, *width));
    }
    program.write(batch.pixels, &pixels)?;
    program.write(batch.table, &table)?;
    program.write(batch.keys, &keys)?;
    program.run()?;
    program.read(y)
}

fn emulated(dtype: Dtype, shared_limit: usize, options: Options) -> Device {
    Device::Gpu(Emulated::new(dtype, Options { shared_limit, ..options }))
}

/// Largest difference in units of the image's range, and the share of values beyond `limit`.
fn difference(policies: &[View], wanted: &[f32], got: &[f32], limit: f32) -> (f32, f32) {
    assert_eq!(wanted.len(), got.len());
    let std = |view: &View| view.std.iter().fold(0.0, |a: f32, b| a.max(*b));
    let each = wanted.len() / policies.len();
    let distance = |(i, (a, b)): (usize, (&f32, &f32))| {
        let d = (a - b).abs() * std(&policies[i / each]);
        if d.is_nan() { f32::INFINITY } else { d }
    };
    let all: Vec<f32> = wanted.iter().zip(got).enumerate().map(distance).collect();
    (all.iter().fold(0.0, |a: f32, b| a.max(*b)), all.iter().filter(|d| **d > limit).count() as f32 / all.len() as f32)
}

/// Every named policy, and those that ask for what no named one does, for views of a size.
fn policies(size: usize) -> Vec<View> {
    let whole = View { crop: Crop::Whole, ..busy(size) };
    let center = View { crop: Crop::Center { resize: size + 5 }, gray: 1.0, ..busy(size) };
    let square = View { crop: Crop::Square { resize: size + 7 }, ..busy(size) };
    let half = View { flip: 1.0, blur: Some(Blur { sigma: [1.0, 2.0], kernel: Some(2 * (size / 2) - 1), p: 1.0 }), ..busy(size) };
    POLICIES.iter().map(|(_, make)| make(size)).chain([busy(size), whole, center, square, half]).collect()
}

/// Views of all policies on a device whose activations are `dtype`, against the CPU's. bf16 may be off by its own rounding besides, half a unit
/// of its eight bits, and by what is left of the 16 bits in which pixels wait for a contrast: 1.5e-5, which brightness, contrast and saturation
/// may each enlarge 1.8 times. Solarizing makes a jump at its threshold: few values that rounding takes to the other side are off by all of it.
pub fn agrees(size: usize, device: Device, dtype: Dtype) {
    let all = policies(size);
    let wanted = views(Device::Cpu, &all, &SIZES).unwrap();
    let got = views(device, &all, &SIZES).unwrap();
    let (rounding, bound) = if dtype == Dtype::Bf16 { (1.0 / 256.0, 1e-4) } else { (0.0, 1e-5) };
    let each = wanted.len() / all.len();
    for (policy, view) in all.iter().enumerate() {
        let std = view.std.iter().fold(0.0, |a: f32, b| a.max(*b));
        let jump = view.solarize.as_ref().map_or(0.0, |s| (2.0 * s.threshold - 1.0).abs());
        let off = |i: usize| {
            let off = ((wanted[i] - got[i]).abs() - rounding * wanted[i].abs()) * std;
            if off.is_nan() { f32::INFINITY } else { off }
        };
        let range = policy * each..(policy + 1) * each;
        let worst = range.clone().max_by(|&a, &b| off(a).total_cmp(&off(b))).unwrap();
        let jumped = range.filter(|&i| off(i) > bound).count();
        let words = format!(
            "{dtype:?} views of {size} pixels, policy {policy}: off by {:.1e} of the image's range, {} for {}; {jumped} of {each} values",
            off(worst),
            got[worst],
            wanted[worst]
        );
        // Differences count by the largest of the channels' deviations, the jump by its own.
        assert!(off(worst) <= bound + jump * 1.05 && jumped * 10_000 <= each, "{words}");
    }
}

fn equals_the_cpu(size: usize, shared: usize, options: Options) {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        agrees(size, emulated(dtype, shared, options), dtype);
    }
}

#[test]
fn small_views_equal_the_cpu_s() {
    if crate::emulated::missing() {
        return;
    }
    for size in [7, 16, 24, 96] {
        equals_the_cpu(size, SHARED_SM90, Options::default());
    }
    // A blur whose kernel is one pixel wide changes nothing and has no room in shared memory.
    let view = policy("simclr_imagenet", 16).unwrap();
    let blur = view.blur.map(|b| Blur { p: 1.0, ..b });
    assert_eq!(blur.as_ref().and_then(|b| b.kernel), Some(1));
    let view = [View { blur, ..view }];
    let wanted = views(Device::Cpu, &view, &SIZES).unwrap();
    let got = views(emulated(Dtype::F32, SHARED_SM90, Options::default()), &view, &SIZES).unwrap();
    let (worst, _) = difference(&view, &wanted, &got, 1e-5);
    assert!(worst <= 1e-5, "off by {worst}");
}

/// Little memory: strips of few rows, source rows in pieces, and tiles of few columns.
#[test]
fn views_in_strips_and_tiles_equal_the_cpu_s() {
    if crate::emulated::missing() {
        return;
    }
    for shared in [4096, 7000, 12_000] {
        equals_the_cpu(21, shared, Options::default());
    }
}

/// A threshold other than a half makes a jump: values that rounding takes to its other side are wrong by the whole jump, and few.
#[test]
fn a_solarized_jump_is_missed_by_few_values() {
    if crate::emulated::missing() {
        return;
    }
    let view = View { solarize: Some(Solarize { threshold: 0.3, p: 1.0 }), ..busy(24) };
    let all = [view, View { crop: Crop::Whole, ..view }];
    let wanted = views(Device::Cpu, &all, &SIZES).unwrap();
    let got = views(emulated(Dtype::F32, SHARED_SM90, Options::default()), &all, &SIZES).unwrap();
    let (worst, share) = difference(&all, &wanted, &got, 1e-5);
    assert!(worst <= 0.4 + 1e-5 && share <= 1e-4, "{share} of the values differ, by up to {worst}");
}

#[test]
fn views_do_not_depend_on_schedule_batch_and_order() {
    if crate::emulated::missing() {
        return;
    }
    let all = [busy(20), policy("simclr", 20).unwrap(), View { crop: Crop::Whole, ..busy(20) }];
    let images = &SIZES[2..7];
    for (dtype, shared) in [(Dtype::F32, 6000), (Dtype::Bf16, SHARED_SM86)] {
        let bits = |options: Options, images: &[[usize; 2]]| -> Vec<u32> {
            views(emulated(dtype, shared, options), &all, images).unwrap().into_iter().map(f32::to_bits).collect()
        };
        let [first, rest @ ..] = Options::schedules();
        let expected = bits(first, images);
        for schedule in rest {
            assert!(bits(schedule, images) == expected, "{schedule:?} gives other bits");
        }
        let values = all[0].len();
        let row = |from: &[u32], n: usize, v: usize, i: usize| from[(v * n + i) * values..][..values].to_vec();
        let reversed: Vec<[usize; 2]> = images.iter().rev().copied().collect();
        let (turned, alone) = (bits(first, &reversed), bits(first, &images[3..4]));
        for v in 0..all.len() {
            for i in 0..5 {
                assert!(row(&expected, 5, v, i) == row(&turned, 5, v, 4 - i), "the order of the batch shows");
            }
            assert!(row(&expected, 5, v, 3) == row(&alone, 1, v, 0), "the batch shows");
        }
    }
}

/// What ImageNet asks for: views of 224 pixels of a photo, in strips, on the smallest and the largest card.
#[test]
fn large_views_equal_the_cpu_s() {
    if crate::emulated::missing() {
        return;
    }
    let always = View { blur: Some(Blur { sigma: [0.5, 2.0], kernel: Some(23), p: 1.0 }), ..policy("simclr_imagenet", 224).unwrap() };
    let all = [View { jitter: always.jitter.map(|j| Jitter { p: 1.0, ..j }), ..always }, policy("simclr", 224).unwrap()];
    for (shared, image) in [(SHARED_SM86, [375, 500]), (SHARED_SM90, [1500, 1000])] {
        let wanted = views(Device::Cpu, &all, &[image]).unwrap();
        let got = views(emulated(Dtype::F32, shared, Options::default()), &all, &[image]).unwrap();
        let (worst, _) = difference(&all, &wanted, &got, 1e-5);
        println!("views of {image:?} in {shared} bytes: {worst:.1e}");
        assert!(worst <= 1e-5, "{image:?} in {shared} bytes differs by {worst}");
    }
}

/// The heaviest view of SimCLR's recipe on ImageNet, and the same without blur. A multiprocessor serves one pass over the banks of shared
/// memory or one line of 128 bytes in a clock: that many clocks a view takes at least. A million views per second on a card of 132 at
/// 1.98 GHz leave 260,000. `cargo test --release a_view_of_224 -- --nocapture` prints the tables.
#[test]
fn a_view_of_224_pixels_asks_little_of_memory() {
    if crate::emulated::missing() {
        return;
    }
    let view = policy("simclr_imagenet", 224).unwrap();
    let (jitter, blur) = (view.jitter.map(|j| Jitter { p: 1.0, ..j }), view.blur.map(|b| Blur { p: 1.0, ..b }));
    let mut clocks = vec![];
    for (name, view) in [("blurred", View { jitter, blur, ..view }), ("sharp", View { jitter, blur: None, ..view })] {
        let gpu = Emulated::new(Dtype::Bf16, Options { counts: true, race: false, ..Options::default() });
        let out = views(Device::Gpu(gpu.clone()), &[view], &[[375, 500]]).unwrap().len() as u64;
        let launches = gpu.take_counts();
        let [launch] = &launches[..] else { panic!("one kernel makes the views, not {}", launches.len()) };
        let shared = |s: &SiteCounts| matches!(s.access, Access::SharedLoad | Access::SharedStore);
        let passes: u64 = launch.sites.iter().map(|s| if shared(s) { s.passes } else { s.passes.div_ceil(4).max(s.requests) }).sum();
        println!("{name}: {passes} passes\n{launch}");
        assert_eq!(launch.unique_written, 2 * out);
        assert!(launch.written <= 4 * out, "{name}: pixels wait in the output at most once, but {} bytes are written", launch.written);
        clocks.push(passes);
    }
    assert!(clocks.iter().sum::<u64>() / 2 < 260_000, "half of the views are blurred; they take {clocks:?} clocks, and the others");
}

#[test]
fn a_blur_that_fits_no_shared_memory_is_refused() {
    if crate::emulated::missing() {
        return;
    }
    let wide = View { blur: Some(Blur { sigma: [80.0, 100.0], kernel: Some(799), p: 1.0 }), ..busy(400) };
    let error = views(emulated(Dtype::F32, 8192, Options::default()), &[wide], &SIZES[..1]).unwrap_err().to_string();
    assert!(error.contains("a blur of 799 pixels on views of 400 pixels needs more shared memory"), "{error}");
}
