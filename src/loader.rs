//! Loads batches: decodes images of a source on all threads and lays them one after the other in a program's batch.

use crate::data::{Budget, DECODING, Image, LIMIT, Loan, OnBadImage, Source, reserve};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::augment::{Batch, NO_LABEL};
use crate::program::{Plan, Program};
use rayon::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Most bytes of pixels in a batch, per sample and in all. A batch of larger images is closed early.
const USUAL: usize = 4 << 20;
const BUDGET: usize = 256 << 20;
/// Batches decoded ahead of the program.
const AHEAD: usize = 2;
/// Bytes beyond the last pixel that a kernel reads.
const BEYOND: usize = 16;

/// A sample that cannot be decoded.
pub struct Bad {
    /// Its place in the list of samples.
    pub place: usize,
    pub reason: String,
    /// The BLAKE3 digest of its file, if that can be read.
    pub content: Option<blake3::Hash>,
}

/// The decoded images of a batch.
#[derive(Default)]
struct Images {
    pixels: Vec<u8>,                     // one image after the other
    table: Vec<u32>,                     // [n, 3]: offset, height, width
    keys: Vec<u32>,                      // [n, 2]: epoch, sample
    labels: Vec<u32>,                    // [n]
    places: Vec<usize>,                  // [n], in the list of samples
    bad: Vec<Bad>,                       // samples between these places that cannot be decoded
    contents: Vec<Option<blake3::Hash>>, // [n] of a stream, see [`Source::image_within`]
    loans: Vec<Loan>,                    // for the pixels
}

impl Images {
    /// Adds `image`, the decoded `sample` of `source`.
    fn push(&mut self, image: Image, source: &dyn Source, epoch: u32, sample: u32, place: usize) -> Result<()> {
        let offset = u32::try_from(self.pixels.len());
        let offset = offset.map_err(|_| Error::config("the images of one batch are more than 4 GiB", "lower the batch"))?;
        self.table.extend([offset, image.height as u32, image.width as u32]);
        self.keys.extend([epoch, sample]);
        self.labels.push(source.label(sample as usize).unwrap_or(NO_LABEL));
        if self.pixels.is_empty() {
            self.pixels = image.pixels; // a large image is not copied
        } else if self.makes_room(&image) {
            self.pixels.extend_from_slice(&image.pixels);
        } else {
            let what = format!("the images of a batch need {} MiB of memory, which cannot be had", (self.pixels.len() >> 20) + 1);
            return Err(Error::config(what, "lower the batch"));
        }
        self.places.push(place);
        Ok(())
    }

    /// Reserves memory for another image behind the others; false if there is none.
    fn makes_room(&mut self, image: &Image) -> bool {
        let (there, more) = (self.pixels.len(), image.pixels.len());
        // Doubles the buffer while memory allows, so that images are not moved for each new one.
        let grows = there > 0 && self.pixels.capacity() < there + more;
        !grows || reserve(&mut self.pixels, more.max(there)).is_some() || reserve(&mut self.pixels, more).is_some()
    }

    /// Fills up a short batch by repeating its last sample, because a program runs batches of one size.
    fn put(&self, program: &mut Program, batch: &Batch) -> Result<()> {
        let (mut table, mut keys, mut labels) = (self.table.clone(), self.keys.clone(), self.labels.clone());
        for _ in self.places.len()..batch.n {
            table.extend_from_within(table.len() - 3..);
            keys.extend_from_within(keys.len() - 2..);
            labels.extend_from_within(labels.len() - 1..);
        }
        program.write(batch.pixels, &self.pixels)?;
        program.write(batch.table, &table)?;
        program.write(batch.keys, &keys)?;
        batch.labels.map_or(Ok(()), |to| program.write(to, &labels))
    }

    fn is_empty(&self) -> bool {
        self.places.is_empty() && self.bad.is_empty()
    }
}

/// Decodes `samples` into `batch`, keyed for `epoch`. A short list repeats its last sample; the caller ignores the tail.
pub fn load(program: &mut Program, batch: &Batch, source: &dyn Source, samples: &[u32], epoch: u32) -> Result<()> {
    let images: Vec<Image> = samples.par_iter().map(|&i| source.image(i as usize)).collect::<Result<_>>()?;
    let mut laid = Images::default();
    for (place, (image, &sample)) in images.into_iter().zip(samples).enumerate() {
        laid.push(image, source, epoch, sample, place)?;
    }
    laid.put(program, batch)
}

/// Bytes of pixels for a batch of `n` streamed samples on `device`, for [`crate::tape::Tape::batch_of`]. It does not ask the source for its
/// largest image, because that may mean opening every file.
///
/// On the CPU there is room for the largest image that any source decodes, because untouched pages of a buffer take no memory. On a GPU
/// they do, so there is room for images of usual size.
pub fn room(n: usize, device: &Device) -> usize {
    match device {
        Device::Cpu => LIMIT as usize + BEYOND,
        Device::Gpu(_) => n.saturating_mul(USUAL).min(LIMIT as usize) + BEYOND,
    }
}

/// A plan that counts the pixels likely to be touched, not all of [`room`].
pub fn expected(plan: Plan, batch: &Batch) -> Plan {
    let untouched = batch.capacity.saturating_sub(batch.n.saturating_mul(USUAL).min(BUDGET));
    Plan { fixed: plan.fixed.saturating_sub(untouched), ..plan }
}

/// The time of a stream, seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// Decoding, summed over threads; most of it overlaps with the program.
    pub decode: f64,
    /// The program, from its input to its results.
    pub compute: f64,
    /// The program waited for images.
    pub wait: f64,
}

/// Samples to stream through a program.
pub struct Feed<'a> {
    pub batch: Batch,
    pub source: &'a dyn Source,
    pub samples: &'a [u32],
    pub on_bad: OnBadImage,
}

/// A part of a feed's samples, by their places in its list, in their order.
pub struct BatchPart<'a> {
    /// Samples that the program has just run on, at most a batch.
    pub places: &'a [usize],
    /// Samples that cannot be decoded.
    pub bad: &'a [Bad],
    /// By place: the BLAKE3 digest of the decoded file, if the sample is a file.
    pub contents: &'a [Option<blake3::Hash>],
}

/// Runs `program` on all samples, a batch at a time, and hands each part to `take`, which reads the results. A thread decodes at most
/// `AHEAD` batches ahead of the program. So memory grows neither with the number of samples nor (beyond one image) with their size.
///
/// # Errors
/// An image that cannot be read and, with [`OnBadImage::Fail`], one that cannot be decoded, after `take` got all before it.
pub fn stream(program: &mut Program, feed: &Feed, take: impl FnMut(&Program, &BatchPart) -> Result<()>) -> Result<Times> {
    stream_within(&DECODING, program, feed, take)
}

/// [`stream`] with a memory budget of its own for images; the results do not depend on it.
///
/// # Errors
/// As [`stream`].
pub fn stream_within(
    room: &'static Budget,
    program: &mut Program,
    feed: &Feed,
    mut take: impl FnMut(&Program, &BatchPart) -> Result<()>,
) -> Result<Times> {
    let mut times = Times::default();
    let decoding = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let (queue, batches): (_, Receiver<Result<Images>>) = sync_channel(AHEAD);
        scope.spawn(|| produce(feed, room, queue, &decoding));
        loop {
            let start = Instant::now();
            // An error means that the decoding thread has ended and closed its end of the queue.
            let Ok(images) = batches.recv() else { return Ok(()) };
            times.wait += start.elapsed().as_secs_f64();
            let (images, start) = (images?, Instant::now());
            if !images.places.is_empty() {
                images.put(program, &feed.batch)?;
                program.run()?;
            }
            take(program, &BatchPart { places: &images.places, bad: &images.bad, contents: &images.contents })?;
            times.compute += start.elapsed().as_secs_f64();
        }
    })?;
    times.decode = Duration::from_nanos(decoding.into_inner()).as_secs_f64();
    Ok(times)
}

/// Decodes the feed's samples into batches. Ends early when the receiver is gone.
fn produce(feed: &Feed, room: &'static Budget, queue: SyncSender<Result<Images>>, decoding: &AtomicU64) {
    let mut open = Images::default();
    if let Err(error) = fill(feed, room, &queue, decoding, &mut open) {
        // Samples before the error are still delivered.
        if open.is_empty() || queue.send(Ok(std::mem::take(&mut open))).is_ok() {
            let _ = queue.send(Err(error));
        }
    } else if !open.is_empty() {
        let _ = queue.send(Ok(open));
    }
}

/// The outcome of asking for an image.
enum Asked {
    Decoded(Image, Option<blake3::Hash>, Option<Loan>),
    /// There is no memory for it now.
    Later,
}

/// Decodes a sample if `lend` lends the memory; returns the bytes that it needs, too.
fn ask(source: &dyn Source, sample: u32, lend: impl FnOnce(u64) -> Option<Loan>) -> (u64, Result<Asked>) {
    let (mut lend, mut loan, mut wanted) = (Some(lend), None, 0);
    let image = source.image_within(sample as usize, &mut |bytes| {
        wanted = bytes;
        loan = lend.take().and_then(|lend| lend(bytes));
        loan.is_some()
    });
    let asked = image.map(|image| match image {
        Some((image, content)) => {
            loan.iter_mut().for_each(|loan: &mut Loan| loan.keep(image.pixels.len() as u64));
            Asked::Decoded(image, content, loan)
        }
        None => Asked::Later,
    });
    (wanted, asked)
}

fn fill(feed: &Feed, room: &'static Budget, queue: &SyncSender<Result<Images>>, decoding: &AtomicU64, open: &mut Images) -> Result<()> {
    let &Feed { batch, source, samples, on_bad } = feed;
    let capacity = batch.capacity - BEYOND;
    let budget = batch.n.saturating_mul(USUAL).min(BUDGET).min(capacity);
    let most = 4 * rayon::current_num_threads();
    let decode = |sample: &u32| {
        let start = Instant::now();
        let asked = ask(source, *sample, |bytes| room.ask(bytes));
        decoding.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        asked
    };
    let (mut at, mut largest) = (0, USUAL as u64);
    while at < samples.len() {
        // As many at once as fit into memory if all were as large as the largest of the last ones.
        let some = &samples[at..][..((room.capacity() / largest) as usize).clamp(1, most).min(samples.len() - at)];
        let mut asked: Vec<_> = some.par_iter().map(decode).collect();
        largest = asked.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0).max(USUAL as u64);
        // Samples behind one that found no memory return their loans and are asked again, so that order is kept.
        let ready = asked.iter().position(|(_, asked)| matches!(asked, Ok(Asked::Later))).unwrap_or(asked.len());
        let bytes = asked.get(ready).map(|(bytes, _)| *bytes);
        asked.truncate(ready);
        if let (true, Some(bytes)) = (asked.is_empty(), bytes) {
            // The program returns the loans of its batches, but not those of the open batch, for which we would wait ourselves.
            let beside = bytes.saturating_add(budget as u64) <= room.capacity();
            if !beside && !open.is_empty() && queue.send(Ok(std::mem::take(open))).is_err() {
                return Ok(());
            }
            let loan = room.wait(bytes);
            asked.push(ask(source, samples[at], |_| Some(loan)));
        }
        for (_, asked) in asked {
            let (image, content, loan) = match asked {
                Ok(Asked::Decoded(image, content, loan)) => (image, content, loan),
                Ok(Asked::Later) => unreachable!("it was lent what it asked for"),
                Err(Error::Format { what, .. }) if on_bad == OnBadImage::Skip => {
                    // Read again, because a failed decode returns no digest.
                    let content = source.content(samples[at] as usize).ok().flatten();
                    open.bad.push(Bad { place: at, reason: what, content });
                    at += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if image.pixels.len() > capacity {
                return Err(too_large(&image, source, samples[at], capacity));
            }
            // Without memory for the next image the batch ends here. Results do not depend on where a batch ends.
            let full = open.places.len() == batch.n || open.pixels.len() + image.pixels.len() > budget || !open.makes_room(&image);
            if full && !open.places.is_empty() && queue.send(Ok(std::mem::take(open))).is_err() {
                return Ok(());
            }
            open.push(image, source, 0, samples[at], at)?;
            open.contents.push(content);
            open.loans.extend(loan);
            at += 1;
        }
    }
    Ok(())
}

fn too_large(image: &Image, source: &dyn Source, sample: u32, capacity: usize) -> Error {
    let (id, bytes) = (source.id(sample as usize), image.pixels.len());
    let what = format!("{id} has {} x {} pixels, for which a batch has no room ({} MiB)", image.width, image.height, capacity >> 20);
    Error::config(what, format!("choose a batch of at least {}, or leave the image out", bytes.div_ceil(USUAL)))
}
