//! The seam to a GPU: five functions that a driver must have, and the launch of a call through them.
//!
//! Nothing here knows a driver. A card's driver is one implementation of [`Queue`]; running the kernel
//! sources on the CPU, in tests, is another.

use super::host::Place;
use crate::error::{Error, Result};
use crate::var::Var;
use std::cell::RefCell;
use std::rc::Rc;

/// What a driver must do. Work is done in the order it is given.
pub trait Queue {
    /// Zeroed memory for `bytes`; its address.
    fn alloc(&self, bytes: usize) -> Result<u64>;
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()>;
    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()>;
    /// Start a kernel. Addresses, integers and floats stand in `words` as their bits, one per parameter.
    fn launch(&self, launch: &Launch, words: &[u64]) -> Result<()>;
    /// Make everything that `work` launches one thing that can be replayed; `None`: replay by working again.
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Replay>>;
}

/// What [`Queue::capture`] made of a list of launches.
pub type Replay = Box<dyn Fn() -> Result<()>>;

/// Which kernel, and how many threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    pub kernel: &'static str,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared: u32,
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    Var(Var),
    I32(i32),
    F32(f32),
}

/// What a call sees of a program on a GPU. The first error sticks until the program reports it.
pub struct Gpu {
    queue: Rc<dyn Queue>,
    places: Rc<Vec<Place>>,
    failed: RefCell<Option<Error>>,
}

impl Gpu {
    pub(crate) fn new(queue: Rc<dyn Queue>, places: Rc<Vec<Place>>) -> Gpu {
        Gpu { queue, places, failed: RefCell::new(None) }
    }

    /// Launch a kernel with the variables' addresses in place of the variables.
    pub fn launch(&self, launch: &Launch, args: &[Arg]) {
        if self.failed.borrow().is_some() {
            return;
        }
        let word = |arg: &Arg| match *arg {
            Arg::Var(v) => self.places[v.index()].cell.borrow().address(),
            Arg::I32(i) => i as u32 as u64,
            Arg::F32(f) => f.to_bits() as u64,
        };
        if let Err(error) = self.queue.launch(launch, &args.iter().map(word).collect::<Vec<_>>()) {
            self.fail(error);
        }
    }

    /// A call has no kernel yet.
    pub(crate) fn missing(&self, name: &str) {
        self.fail(Error::config(format!("`{name}` has no GPU kernel in this version"), "run on the CPU"));
    }

    fn fail(&self, error: Error) {
        self.failed.borrow_mut().get_or_insert(error);
    }

    /// What went wrong since the last time, if anything did.
    pub(crate) fn finish(&self) -> Result<()> {
        self.failed.borrow_mut().take().map_or(Ok(()), Err)
    }
}
