//! Refused memory: whichever allocation fails, the result is a bad image or an error in a sentence, and the process goes on.
//!
//! Rust ends a process if an infallible allocation fails, and decoders make such allocations. This binary's allocator counts the memory
//! taken and refuses requests above a limit, so that every place where it can happen is tested. It never refuses small allocations: the
//! standard library makes them everywhere.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use image::{DynamicImage, ImageFormat, RgbImage};
use sslmem::data::{Exif, OnBadImage, Source};
use sslmem::device::Device;
use sslmem::loader::{Feed, room, stream};
use sslmem::random::Purpose;
use sslmem::tape::{Mode, Tape};
use sslmem::view::policy;
use sslmem::weights::Weights;

/// Bytes of an allocation that is counted, at least.
const COUNTED: usize = 4 << 10;

/// What the process has, the most that it had, and the most that it may have.
static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
/// An allocation of so many bytes is a trial whether there is room, which is no part of the most.
const TRIAL: usize = 1 << 30;

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

impl Counting {
    /// Whether so many bytes more may be taken; then they are.
    fn take(bytes: usize) -> bool {
        if bytes < COUNTED {
            return true;
        }
        let held = HELD.fetch_add(bytes, SeqCst) + bytes;
        if held > LIMIT.load(SeqCst) {
            HELD.fetch_sub(bytes, SeqCst);
            return false;
        }
        if bytes < TRIAL {
            PEAK.fetch_max(held, SeqCst);
        }
        true
    }
    fn give_back(bytes: usize) {
        if bytes >= COUNTED {
            HELD.fetch_sub(bytes, SeqCst);
        }
    }
}

// SAFETY: the system's allocator, or null.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if Counting::take(layout.size()) { unsafe { System.alloc(layout) } } else { std::ptr::null_mut() }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if Counting::take(layout.size()) { unsafe { System.alloc_zeroed(layout) } } else { std::ptr::null_mut() }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Counting::give_back(layout.size());
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // A moved block exists twice for a moment.
        if !Counting::take(size) {
            return std::ptr::null_mut();
        }
        Counting::give_back(layout.size());
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// The variable that tells a copy of this process what to do.
const CHILD: &str = "SSLMEM_TEST_MEMORY";

/// Runs a test of this module in a process of its own, since what is refused is refused to all of a process.
fn alone(test: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &format!("data::memory::{test}"), "--nocapture", "--test-threads", "1"])
        .env(CHILD, "1")
        .env("RAYON_NUM_THREADS", "2");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{}: {said}", output.status);
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// A folder of images of all formats and kinds of pixels.
fn pictures() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/memory")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let rgb = DynamicImage::ImageRgb8(RgbImage::from_fn(700, 500, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8])));
    let kinds = [
        ("rgb8", rgb.clone()),
        ("rgba8", rgb.to_rgba8().into()),
        ("l8", rgb.to_luma8().into()),
        ("la8", rgb.to_luma_alpha8().into()),
        ("rgb16", rgb.to_rgb16().into()),
        ("rgba16", rgb.to_rgba16().into()),
        ("rgb32", rgb.to_rgb32f().into()),
    ];
    use ImageFormat::*;
    for (name, image) in &kinds {
        for format in [Png, Jpeg, WebP, Gif, Bmp, Tiff, Tga, Pnm] {
            let path = folder.path().join(format!("{name}.{}", format.extensions_str()[0]));
            // Not every format has every kind.
            if image.save_with_format(&path, format).is_err() {
                let _ = fs::remove_file(path);
            }
        }
    }
    folder
}

fn opened(folder: &Path, exif: Exif) -> Box<dyn Source> {
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "list.txt");
    names.sort();
    fs::write(folder.join("list.txt"), names.join("\n")).unwrap();
    exif.open(&format!("list:{}", folder.join("list.txt").display()), OnBadImage::Fail).unwrap()
}

/// What a decoder may take is asked for before it begins, so this must be no less than what it takes.
#[test]
fn no_decoder_takes_more_than_was_asked_for() {
    if !is_child() {
        return alone("no_decoder_takes_more_than_was_asked_for");
    }
    let folder = pictures();
    let mut wrong = vec![];
    for exif in [Exif::Ignore, Exif::Turn] {
        let source = opened(folder.path(), exif);
        assert!(source.len() > 60, "{} images", source.len());
        for index in 0..source.len() {
            let (mut asked, mut before) = (0, 0);
            let image = source.image_within(index, &mut |bytes| {
                asked = bytes as usize;
                before = HELD.load(SeqCst);
                PEAK.store(before, SeqCst);
                true
            });
            let taken = PEAK.load(SeqCst) - before;
            // Some kinds are refused by their header.
            if asked == 0 {
                continue;
            }
            let id = source.id(index);
            let taken_of = format!(
                "{exif:?} {id}: {taken} of {asked} bytes, {} pixels",
                image.ok().flatten().map_or(0, |(image, _)| image.pixels.len() / 3)
            );
            println!("{taken_of}");
            if taken > asked {
                wrong.push(taken_of);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What `work` does with this much memory beyond what is held.
fn within<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    LIMIT.store(HELD.load(SeqCst) + bytes, SeqCst);
    let done = work();
    LIMIT.store(usize::MAX, SeqCst);
    done
}

/// Every image with every share of the memory that it needs, up to all of it.
#[test]
fn an_image_without_memory_is_a_bad_one() {
    if !is_child() {
        return alone("an_image_without_memory_is_a_bad_one");
    }
    let folder = pictures();
    for exif in [Exif::Ignore, Exif::Turn] {
        let source = opened(folder.path(), exif);
        for index in 0..source.len() {
            // Some kinds are refused by their header.
            let Ok(right) = source.image(index) else { continue };
            let mut asked = 0;
            drop(source.image_within(index, &mut |bytes| {
                asked = bytes as usize;
                false
            }));
            // Files too small to be counted are no part of the limit.
            let file = Some(source.file(index).unwrap().unwrap().len()).filter(|bytes| *bytes >= COUNTED).unwrap_or(0);
            for limit in (0..16).map(|part| part * (file + asked) / 16).chain([file.saturating_sub(1), file, file + asked - 1]) {
                let error = within(limit, || source.image(index)).map(|_| ()).expect_err("it had no memory").to_string();
                let named = error.contains(&source.id(index)) && error.ends_with("MiB of memory, which cannot be had");
                assert!(named, "{limit}: {error}");
            }
            let image = within(file + asked, || source.image(index));
            assert!(image.unwrap_or_else(|error| panic!("{error}")) == right, "{}", source.id(index));
        }
    }
}

/// The loader, with every share of the memory that it takes: what cannot be decoded is named, and the others are what they were.
#[test]
fn the_loader_leaves_out_what_there_is_no_memory_for() {
    if !is_child() {
        return alone("the_loader_leaves_out_what_there_is_no_memory_for");
    }
    let folder = pictures();
    let source = opened(folder.path(), Exif::Ignore);
    let samples: Vec<u32> = (0..source.len() as u32).step_by(3).collect();
    let mut tape = Tape::new(Mode::Eval);
    // The test's own reads are too small to be counted.
    let batch = tape.batch_of(4, room(4, &Device::Cpu));
    let x = tape.augment(batch, vec![policy("score", 8).unwrap()], 0, 5, Purpose::Score);
    tape.keep(x);
    let mut program = tape.compile(&mut Weights::on(Device::Cpu, 0)).unwrap();
    let feed = Feed { batch, source: &*source, samples: &samples, on_bad: OnBadImage::Skip };
    let mut run = |limit: usize| {
        let (mut rows, mut bad) = (Vec::<(usize, Vec<u32>)>::new(), Vec::<(usize, String)>::new());
        PEAK.store(HELD.load(SeqCst), SeqCst);
        let before = HELD.load(SeqCst);
        let outcome = within(limit, || {
            stream(&mut program, &feed, |program, part| {
                let values: Vec<f32> = program.read(x)?;
                let row = |i: usize| values[i * 8 * 8 * 3..][..8 * 8 * 3].iter().map(|v| v.to_bits()).collect();
                rows.extend(part.places.iter().enumerate().map(|(i, &place)| (place, row(i))));
                bad.extend(part.bad.iter().map(|bad| (bad.place, bad.reason.clone())));
                Ok(())
            })
        });
        outcome.unwrap_or_else(|error| panic!("{limit}: {error}"));
        (rows, bad, PEAK.load(SeqCst) - before)
    };
    // The first run starts the threads, whose memory should not count.
    run(usize::MAX >> 1);
    let (right, bad, most) = run(usize::MAX >> 1);
    assert!(bad.is_empty() && right.len() == samples.len());
    let mut seen = [0; 3];
    // Limits up to one byte below the largest request, then up to more than all images take at once, which depends on the timing of
    // threads.
    let asks = |index: &u32| {
        let mut asked = 0;
        drop(source.image_within(*index as usize, &mut |bytes| {
            asked = bytes as usize;
            false
        }));
        asked
    };
    let largest = samples.iter().map(asks).max().unwrap();
    let limits = (0..=16).map(|part| part * (largest - 1) / 16).chain((1..=8).map(|part| part * (largest + most) / 4));
    for limit in limits {
        let (rows, bad, _) = run(limit);
        assert_eq!(rows.len() + bad.len(), samples.len());
        assert!(rows.iter().all(|row| right.contains(row)), "other rows");
        assert!(bad.iter().all(|(_, reason)| reason.contains("MiB of memory, which cannot be had")), "{bad:?}");
        seen[if bad.is_empty() { 2 } else { usize::from(!rows.is_empty()) }] += 1;
    }
    assert!(seen.iter().all(|count| *count > 0), "nothing, some and all: {seen:?}");
}
