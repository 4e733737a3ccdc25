//! Runs the CUDA kernels of `kernels/` on the CPU, for tests: with every access checked, under any schedule, and counted.
//!
//! The kernels are compiled by g++ with the instrumentation of its thread sanitizer, whose calls go to this crate. Each CUDA thread
//! is a coroutine; blocks run one after the other. Found, with thread, block and line of the kernel:
//!
//! - accesses out of bounds, misaligned, through null, to bytes that hold no value, writes through `const` parameters;
//! - races on shared memory (the last accesses to every byte against what barriers order, so one run of any schedule shows them),
//!   reads of uninitialised shared memory, data used before the wait for its asynchronous copy;
//! - two blocks that touch the same bytes of global memory, one of them writing, other than by atomics; two threads of a block where
//!   the first has written and no barrier lies between;
//! - barriers and collectives in divergent code, deadlocks, loops without end;
//! - signed overflow, wrong shifts, indices outside arrays, too much shared memory, sizes beyond `__launch_bounds__`.
//!
//! To look into a kernel: `EMULATOR_OPT=0 cargo test --no-run`, then gdb with `break conv.cu:77 if ...` and `bt`, which goes through
//! the coroutine. A message names the order, the arrivals and the seed, which repeat the run exactly.
//!
//! Not seen: memory order between blocks, a read of global memory that another thread of the block overwrites without a barrier, and
//! anything that makes no wrong access, such as a fragment in the wrong order: that is for comparing numbers.

mod atomics;
mod barrier;
mod copy;
mod counts;
mod fault;
mod hooks;
mod hopper;
mod launch;
mod machine;
mod marks;
mod matrix;
mod memory;
mod order;
mod race;
mod registry;
mod report;
mod sched;
mod shared;
mod warp;

pub use counts::{Access, LaunchCounts, SiteCounts};
pub use hopper::TensorMap;
pub use registry::kernels;

use machine::Machine;
use sched::Stack;
use std::cell::RefCell;

/// Bytes of shared memory that one block may use, by architecture.
pub const SHARED_SM80: usize = 163 * 1024;
pub const SHARED_SM86: usize = 99 * 1024;
pub const SHARED_SM90: usize = 227 * 1024;

/// Which of the threads that can run is next; blocks run first to last, or last to first with `Reverse`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Order {
    InOrder,
    Reverse,
    /// Any, and a thread may lose the processor at any access to memory.
    Random,
}

/// When asynchronous data arrive: at once, as late as it may be, or either.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Arrivals {
    Early,
    Late,
    Random,
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub order: Order,
    pub arrivals: Arrivals,
    pub seed: u64,
    /// Check what is ordered before what. Off only to be faster.
    pub race: bool,
    /// Count accesses, for `take_counts`.
    pub counts: bool,
    /// Bytes of shared memory that one block may use.
    pub shared_limit: usize,
    /// Kernels that have a variant with this bug planted run it.
    pub bug: Option<&'static str>,
    /// Memory accesses of a block after which its loop is called endless.
    pub steps: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            order: Order::InOrder,
            arrivals: Arrivals::Late,
            seed: 1,
            race: true,
            counts: false,
            shared_limit: SHARED_SM90,
            bug: None,
            steps: 1 << 32,
        }
    }
}

impl Options {
    /// Four schedules that between them show what depends on one.
    pub fn schedules() -> [Options; 4] {
        let with = |order, arrivals, seed| Options { order, arrivals, seed, ..Options::default() };
        [
            with(Order::InOrder, Arrivals::Late, 1),
            with(Order::Reverse, Arrivals::Early, 1),
            with(Order::Random, Arrivals::Random, 1),
            with(Order::Random, Arrivals::Random, 2),
        ]
    }

    fn first_pause(&self) -> u64 {
        if self.order == Order::Random { 7 } else { self.steps }
    }
}

/// A device of its own: memory, and launches one at a time.
pub struct Emulator {
    machine: RefCell<Box<Machine>>,
    /// Stacks of CUDA threads, kept for the next block.
    stacks: RefCell<Vec<Stack>>,
}

impl Emulator {
    pub fn new(options: Options) -> Emulator {
        fault::install();
        Emulator { machine: RefCell::new(Box::new(Machine::new(options))), stacks: RefCell::default() }
    }

    /// Other options from the next launch on.
    pub fn set(&self, options: Options) {
        self.machine.borrow_mut().options = options;
    }

    /// Memory for `bytes`, between red zones; its address, a multiple of 256. It holds no value (and all ones) until it is written.
    pub fn alloc(&self, bytes: usize) -> u64 {
        self.machine.borrow_mut().memory.alloc(bytes) as u64
    }

    pub fn free(&self, address: u64) {
        self.machine.borrow_mut().memory.free(address as usize);
    }

    pub fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), String> {
        self.machine.borrow_mut().memory.upload(to as usize, bytes)
    }

    pub fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), String> {
        self.machine.borrow_mut().memory.download(from as usize, bytes)
    }

    /// Runs a kernel to its end or its first error. `words` has one word per parameter: an address (0 is null) or the bits of an
    /// `int`, `u32` or `float`; of a tensor map, the address of a `TensorMap`.
    pub fn launch(&self, kernel: &str, bf16: bool, grid: [u32; 3], block: [u32; 3], shared: u32, words: &[u64]) -> Result<(), String> {
        let launch = launch::Launch { kernel, bf16, grid, block, shared: shared as usize, words };
        launch::run(&mut self.machine.borrow_mut(), &mut self.stacks.borrow_mut(), &launch)
    }

    /// The counts of the launches since the last call, with `Options::counts`.
    pub fn take_counts(&self) -> Vec<LaunchCounts> {
        std::mem::take(&mut self.machine.borrow_mut().counter.finished)
    }
}
