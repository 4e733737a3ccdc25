//! A GPU lost during a job: finished blocks stay, and the job resumes on another one.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::rc::Rc;

use super::{encoders, network};
use sslmem::data::{self, OnBadImage};
use sslmem::device::signature::MAP;
use sslmem::device::{Capabilities, Device, GpuDevice, Launch, Matrix, Replay};
use sslmem::encoders::Features;
use sslmem::error::{Error, Result};
use sslmem::ops::alignment::Pairs;
use sslmem::progress::Silent;
use sslmem::score::{BLOCK, EncoderFile, Job, JobReport, Layer, Protocol, Task};
use sslmem::split::Subset;
use sslmem::var::Dtype;
use sslmem::view::policy;

/// A device without memory, on which all numbers are 0, until it has launched as many kernels as it is going to.
struct Mortal {
    next: Cell<u64>,
    launched: Cell<usize>,
    last: usize,
}

impl Mortal {
    fn new(last: usize) -> Rc<Mortal> {
        Rc::new(Mortal { next: Cell::new(0), launched: Cell::new(0), last })
    }
}

impl GpuDevice for Mortal {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::portable((8, 0), 1, 96 << 10)
    }
    fn map(&self, _: u64, _: &Matrix) -> Result<[u64; MAP]> {
        unreachable!("no kernel for Hopper is chosen")
    }
    fn alloc(&self, bytes: usize) -> Result<u64> {
        Ok(self.next.replace(self.next.get() + bytes.next_multiple_of(256) as u64) + 256)
    }
    fn free(&self, _: u64) {}
    fn upload(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn download(&self, _: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }
    fn launch(&self, _: &Launch, _: &[u64]) -> Result<()> {
        if self.launched.replace(self.launched.get() + 1) == self.last {
            return Err(Error::device("the GPU has fallen off the bus", "look into the system's log"));
        }
        Ok(())
    }
    fn capture(&self, _: &mut dyn FnMut() -> Result<()>) -> Result<Option<Replay>> {
        Ok(None)
    }
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        work().map(|()| 0.0)
    }
}

fn score(encoders: &Path, out: &Path, device: &Rc<Mortal>) -> Result<JobReport> {
    let paths = ["f", "g"].map(|name| encoders.join(format!("{name}.safetensors")));
    let [view, original] = ["score", "original"].map(|name| policy(name, 16).unwrap());
    let layers = vec![Layer::Output(Features::Pooled)];
    let protocol = Protocol { views: 1, pairs: Pairs::Original, layers, seed: 0, batch: BLOCK / 4 };
    let source = data::open(&format!("synthetic:{}@0", 2 * BLOCK), OnBadImage::Fail).unwrap();
    let samples: Vec<(u32, Subset)> = (0..BLOCK as u32 * 3 / 2).map(|i| (i, Subset::Candidate)).collect();
    let side = |i: usize| EncoderFile { path: &paths[i], network: network(), view, original, classifier: None };
    let device = Device::Gpu(device.clone());
    let task = Task { device: &device, ..Task::new(side(0), side(1), &protocol, &*source) };
    Job::new(task, &samples, out, serde_json::Value::Null)?.score(&mut Silent)
}

#[test]
fn a_lost_gpu_leaves_what_it_has_scored() {
    let folder = encoders();
    let path = |name: &str| folder.path().join(name);
    let whole = Mortal::new(usize::MAX);
    let rows = score(folder.path(), &path("whole.csv"), &whole).unwrap().rows;
    let all = whole.launched.get();
    // Five sixths of the work: the first block is done, the second is not.
    let error = score(folder.path(), &path("parts.csv"), &Mortal::new(all * 5 / 6)).err().unwrap().to_string();
    assert!(error.contains("the GPU has fallen off the bus"), "{error}");
    assert!(!path("parts.csv").exists());
    let rest = Mortal::new(usize::MAX);
    assert_eq!(score(folder.path(), &path("parts.csv"), &rest).unwrap().rows, rows);
    assert!(rest.launched.get() < all / 2, "{} launches for the rest of {all}", rest.launched.get());
    assert!(fs::read(path("parts.csv")).unwrap() == fs::read(path("whole.csv")).unwrap());
}
