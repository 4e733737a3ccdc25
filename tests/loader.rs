//! The loader: results do not depend on the memory that images may take.

use sslmem::data::{Budget, Content, Image, OnBadImage, Source};
use sslmem::device::Device;
use sslmem::error::{Error, Result};
use sslmem::loader::{Feed, room, stream_within};
use sslmem::random::Purpose;
use sslmem::tape::{Mode, Tape};
use sslmem::view::policy;
use sslmem::weights::Weights;

/// Images of 1 x 1 to 41 x 41 pixels, of which every seventh cannot be decoded, that ask for four times the memory of their pixels.
struct Pictures;

impl Source for Pictures {
    fn len(&self) -> usize {
        200
    }
    fn train_len(&self) -> usize {
        200
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
        ""
    }
    fn largest(&self) -> usize {
        41 * 41 * 3
    }
    fn image(&self, index: usize) -> Result<Image> {
        self.image_within(index, &mut |_| true).map(|image| image.expect("it was admitted").0)
    }
    fn image_within(&self, index: usize, admit: &mut dyn FnMut(u64) -> bool) -> Result<Option<(Image, Option<blake3::Hash>)>> {
        let side = 1 + index * 17 % 41;
        let bytes = (side * side * 3) as u64;
        if !admit(4 * bytes) {
            return Ok(None);
        }
        if index % 7 == 3 {
            return Err(Error::format("x", format!("image {index} is bad")));
        }
        let pixels = (0..bytes).map(|n| (n as usize * 31 + index) as u8).collect();
        Ok(Some((Image { height: side, width: side, pixels }, None)))
    }
}

type Rows = Vec<(usize, Vec<u32>)>;

/// The views of all good images by place, and the places of the bad ones.
fn views(budget: u64) -> (Rows, Vec<usize>) {
    let budget: &'static Budget = Box::leak(Box::new(Budget::new(budget)));
    let mut tape = Tape::new(Mode::Eval);
    let batch = tape.batch_of(8, room(8, &Device::Cpu));
    let x = tape.augment(batch, vec![policy("score", 8).unwrap()], 0, 5, Purpose::Score);
    tape.keep(x);
    let mut program = tape.compile(&mut Weights::on(Device::Cpu, 0)).unwrap();
    let (mut rows, mut bad) = (vec![], vec![]);
    let samples: Vec<u32> = (0..200).collect();
    let feed = Feed { batch, source: &Pictures, samples: &samples, on_bad: OnBadImage::Skip };
    let times = stream_within(budget, &mut program, &feed, |program, part| {
        let values: Vec<f32> = program.read(x)?;
        let row = |i: usize| values[i * 8 * 8 * 3..][..8 * 8 * 3].iter().map(|v| v.to_bits()).collect();
        rows.extend(part.places.iter().enumerate().map(|(i, &place)| (place, row(i))));
        bad.extend(part.bad.iter().map(|bad| bad.place));
        Ok(())
    });
    times.unwrap();
    // Everything that was lent came back.
    assert!(budget.ask(u64::MAX).is_some());
    (rows, bad)
}

#[test]
fn rows_do_not_depend_on_memory() {
    let (rows, bad) = views(u64::MAX);
    assert_eq!(rows.len() + bad.len(), 200);
    assert!(rows.is_sorted_by_key(|(place, _)| *place) && bad.iter().all(|place| place % 7 == 3));
    // From less than any image needs to enough for some.
    for budget in [0, 1, 5_000, 20_000, 60_000, 1 << 20] {
        assert_eq!(views(budget), (rows.clone(), bad.clone()), "{budget} bytes");
    }
}

/// The loan of a large image waits for the others, one that fits beside them does not.
#[test]
fn what_is_larger_than_the_budget_goes_alone() {
    static ROOM: Budget = Budget::new(100);
    let (first, mut second) = (ROOM.ask(60).unwrap(), ROOM.ask(40).unwrap());
    assert!(ROOM.ask(1).is_none());
    second.keep(10);
    assert!(ROOM.ask(31).is_none());
    drop(ROOM.ask(30).unwrap());
    let waiting = std::thread::spawn(|| ROOM.wait(1000));
    drop(second);
    assert!(!waiting.is_finished() && ROOM.ask(41).is_none());
    drop(first);
    let large = waiting.join().unwrap();
    assert!(ROOM.ask(1).is_none());
    drop(large);
    assert!(ROOM.ask(1).is_some());
}

/// Files that the system refuses with a code.
struct Refused(i32);

impl Source for Refused {
    fn len(&self) -> usize {
        100
    }
    fn train_len(&self) -> usize {
        100
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
        ""
    }
    fn largest(&self) -> usize {
        3
    }
    fn image(&self, _: usize) -> Result<Image> {
        unreachable!("nobody decodes")
    }
    fn file(&self, index: usize) -> Result<Option<Vec<u8>>> {
        let refused = std::io::Error::from_raw_os_error(self.0);
        if index < 90 { Ok(Some(vec![index as u8])) } else { Err(Error::io("read", format!("{index}.png"))(refused)) }
    }
}

/// The digest of files spread over a data set must not depend on a disk that failed while it was made; a file that is gone is part of it.
#[cfg(target_os = "linux")]
#[test]
fn a_failing_disk_is_no_content() {
    let (all, few): (Vec<u32>, Vec<u32>) = ((0..100).collect(), (0..90).collect());
    let of = |code: i32, samples: &[u32]| Content::sampled(&Refused(code), samples);
    let [eio, enoent, eacces] = [5, 2, 13];
    assert!(matches!(of(eio, &all), Err(Error::Io { .. })));
    assert!(of(eio, &few).unwrap().is_some());
    assert_eq!(of(enoent, &all).unwrap(), of(eacces, &all).unwrap());
}
