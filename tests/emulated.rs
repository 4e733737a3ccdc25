//! A GPU made of the emulator: the kernels run on the CPU, every access checked.

use emulator::{Emulator, LaunchCounts, Options, TensorMap};
use sslmem::device::signature::{self, ArgKind, MAP, Param};
use sslmem::device::{Capabilities, GpuDevice, Launch, Matrix, Replay};
use sslmem::error::{Error, Result};
use sslmem::var::Dtype;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

/// Whether there is no emulator, because no C++ compiler was there when it was built. CI has one.
pub fn missing() -> bool {
    let missing = emulator::kernels().is_empty();
    assert!(!missing || std::env::var("CI").as_deref() != Ok("true"), "CI needs g++");
    if missing {
        println!("skipped: kernels run on the CPU where there is g++");
    }
    missing
}

/// Launches with their arguments, in order.
type Graph = Vec<(Launch, Vec<u64>)>;

pub struct Emulated {
    emulator: Rc<Emulator>,
    dtype: Dtype,
    capabilities: Capabilities,
    /// The launches of the graph that is being made.
    captured: RefCell<Option<Graph>>,
}

impl Emulated {
    /// A device whose activations are `dtype`.
    pub fn new(dtype: Dtype, options: Options) -> Rc<Emulated> {
        Emulated::choosing(dtype, options, |own| own)
    }
    /// A device in bf16 that chooses the kernels for Hopper whose threads copy.
    pub fn hopper(options: Options) -> Rc<Emulated> {
        Emulated::choosing(Dtype::Bf16, options, |own| Capabilities { wgmma: true, ..own })
    }
    /// A device that chooses those that fetch by TMA as well.
    pub fn tma(options: Options) -> Rc<Emulated> {
        Emulated::choosing(Dtype::Bf16, options, |own| Capabilities { wgmma: true, tma: true, ..own })
    }
    /// A device that chooses kernels by changed capabilities. It has few multiprocessors, so that blocks have several tiles.
    pub fn choosing(dtype: Dtype, options: Options, change: impl FnOnce(Capabilities) -> Capabilities) -> Rc<Emulated> {
        let capabilities = change(Capabilities::portable((9, 0), 2, options.shared_limit));
        Rc::new(Emulated { emulator: Rc::new(Emulator::new(options)), dtype, capabilities, captured: RefCell::default() })
    }
    fn not_capturing(&self, what: &str) -> Result<()> {
        match *self.captured.borrow() {
            Some(_) => Err(found(format!("{what} while a graph is made"))),
            None => Ok(()),
        }
    }
    /// What was counted since the last time, if the options ask for counts.
    pub fn take_counts(&self) -> Vec<LaunchCounts> {
        self.emulator.take_counts()
    }
}

/// The emulator's message, which says what, where and in which thread.
fn found(message: String) -> Error {
    Error::config(message, "mend the kernel")
}

fn start(emulator: &Emulator, dtype: Dtype, l: &Launch, words: &[u64]) -> Result<()> {
    // Here maps and structures are given by their addresses, a map by one of a multiple of 64.
    let signature = signature::find(l.kernel).expect("a kernel");
    let (firsts, _) = signature.words();
    let map = |first: usize| TensorMap::from_words(words[first..first + MAP].try_into().expect("a map"));
    let maps: Vec<Option<TensorMap>> =
        signature.params.iter().zip(&firsts).map(|(param, &first)| (param.kind == ArgKind::Map).then(|| map(first))).collect();
    let word = |((param, &first), map): ((&Param, &usize), &Option<TensorMap>)| match (&param.kind, map) {
        (_, Some(map)) => std::ptr::from_ref(map) as u64,
        (ArgKind::Struct(_), _) => std::ptr::from_ref(&words[first]) as u64,
        _ => words[first],
    };
    let words: Vec<u64> = signature.params.iter().zip(&firsts).zip(&maps).map(word).collect();
    emulator.launch(l.kernel, dtype == Dtype::Bf16, l.grid, l.block, l.shared, &words).map_err(found)
}

impl GpuDevice for Emulated {
    fn name(&self) -> String {
        "emulator".into()
    }
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }
    fn map(&self, address: u64, matrix: &Matrix) -> Result<[u64; MAP]> {
        let (dims, high) = ([matrix.columns as u32, matrix.rows as u32], matrix.high as u32);
        TensorMap::tiled(address, 2, &dims, &[2 * matrix.columns as u64], &[64, high], 128).map(|map| map.words()).map_err(found)
    }
    fn alloc(&self, bytes: usize) -> Result<u64> {
        self.not_capturing("memory is asked for")?;
        Ok(self.emulator.alloc(bytes))
    }
    fn free(&self, address: u64) {
        self.emulator.free(address);
    }
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.not_capturing("an upload")?;
        self.emulator.upload(to, bytes).map_err(found)
    }
    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.not_capturing("a download")?;
        self.emulator.download(from, bytes).map_err(found)
    }
    fn launch(&self, launch: &Launch, words: &[u64]) -> Result<()> {
        if let Some(captured) = &mut *self.captured.borrow_mut() {
            captured.push((launch.clone(), words.to_vec()));
            return Ok(());
        }
        start(&self.emulator, self.dtype, launch, words)
    }
    /// As a driver does it: what is launched meanwhile runs when the graph does, with the arguments of now.
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Replay>> {
        *self.captured.borrow_mut() = Some(vec![]);
        let worked = work();
        let captured = self.captured.take().unwrap_or_default();
        worked?;
        let (emulator, dtype) = (self.emulator.clone(), self.dtype);
        Ok(Some(Box::new(move || captured.iter().try_for_each(|(launch, words)| start(&emulator, dtype, launch, words)))))
    }
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        let start = Instant::now();
        work()?;
        Ok(start.elapsed().as_secs_f64())
    }
}
