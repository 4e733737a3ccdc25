//! A GPU made of the emulator: the kernels run on the CPU, every access checked.

use emulator::{Emulator, LaunchCounts, Options, TensorMap};
use sslmem::device::signature::{self, Kind, MAP};
use sslmem::device::{Launch, Matrix, Queue, Replay};
use sslmem::error::{Error, Result};
use sslmem::var::Dtype;
use std::rc::Rc;
use std::time::Instant;

pub struct Emulated {
    emulator: Emulator,
    real: Dtype,
    shared: usize,
    hopper: bool,
    tma: bool,
}

impl Emulated {
    /// A device whose activations are `real`.
    pub fn new(real: Dtype, options: Options) -> Rc<Emulated> {
        Rc::new(Emulated { emulator: Emulator::new(options), real, shared: options.shared_limit, hopper: false, tma: false })
    }
    /// A device in bf16 that chooses the kernels for Hopper.
    pub fn hopper(options: Options) -> Rc<Emulated> {
        Rc::new(Emulated { emulator: Emulator::new(options), real: Dtype::Bf16, shared: options.shared_limit, hopper: true, tma: false })
    }
    /// A device that chooses those that fetch by TMA as well.
    pub fn tma(options: Options) -> Rc<Emulated> {
        Rc::new(Emulated { emulator: Emulator::new(options), real: Dtype::Bf16, shared: options.shared_limit, hopper: true, tma: true })
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

impl Queue for Emulated {
    fn name(&self) -> String {
        "emulator".into()
    }
    fn real(&self) -> Dtype {
        self.real
    }
    fn shared(&self) -> usize {
        self.shared
    }
    fn hopper(&self) -> bool {
        self.hopper
    }
    fn tma(&self) -> bool {
        self.tma
    }
    /// Few, so that blocks have several tiles.
    fn multiprocessors(&self) -> usize {
        2
    }
    fn map(&self, address: u64, matrix: &Matrix) -> Result<[u64; MAP]> {
        let (dims, high) = ([matrix.columns as u32, matrix.rows as u32], matrix.high as u32);
        TensorMap::tiled(address, 2, &dims, &[2 * matrix.columns as u64], &[64, high], 128).map(|map| map.words()).map_err(found)
    }
    fn alloc(&self, bytes: usize) -> Result<u64> {
        Ok(self.emulator.alloc(bytes))
    }
    fn free(&self, address: u64) {
        self.emulator.free(address);
    }
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.emulator.upload(to, bytes).map_err(found)
    }
    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.emulator.download(from, bytes).map_err(found)
    }
    fn launch(&self, l: &Launch, words: &[u64]) -> Result<()> {
        // Here a map is given by its address.
        let signature = signature::find(l.kernel).expect("a kernel");
        let (firsts, _) = signature.words();
        let map = |&first: &usize| TensorMap::from_words(words[first..first + MAP].try_into().expect("a map"));
        let is_map = |at: usize| signature.params[at].kind == Kind::Map;
        let maps: Vec<(usize, TensorMap)> =
            firsts.iter().enumerate().filter(|(at, _)| is_map(*at)).map(|(at, first)| (at, map(first))).collect();
        let mut words: Vec<u64> = firsts.iter().map(|&first| words[first]).collect();
        maps.iter().for_each(|(at, map)| words[*at] = std::ptr::from_ref(map) as u64);
        self.emulator.launch(l.kernel, self.real == Dtype::Bf16, l.grid, l.block, l.shared, &words).map_err(found)
    }
    fn capture(&self, _: &mut dyn FnMut() -> Result<()>) -> Result<Option<Replay>> {
        Ok(None)
    }
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        let start = Instant::now();
        work()?;
        Ok(start.elapsed().as_secs_f64())
    }
}
