//! The seam to a GPU: what a driver must do, and the launch of a call through it.
//!
//! Nothing here knows a driver. A card's driver is one implementation of [`Queue`]; running the kernel
//! sources on the CPU, in tests, is another.

use super::host::Place;
use super::signature::{self, Kind, MAP};
use crate::error::{Error, Result};
use crate::var::{Dtype, Var};
use bytemuck::Pod;
use std::cell::RefCell;
use std::rc::Rc;

/// What a driver must do. Work is done in the order it is given.
pub trait Queue {
    /// What activations are here: [`Dtype::F32`] or [`Dtype::Bf16`], the `T` of the kernels.
    fn real(&self) -> Dtype;
    /// Bytes of shared memory that one block may use.
    fn shared(&self) -> usize;
    /// Which kernels multiply here. Without a default: a queue around another one that forgot to ask it would choose other kernels.
    fn products(&self) -> Products;
    fn multiprocessors(&self) -> usize;
    /// A map of a matrix at this address, in bf16, from which boxes of 64 columns are copied to rows of 128 bytes, swizzled by as many.
    fn map(&self, address: u64, matrix: &Matrix) -> Result<[u64; MAP]>;
    /// What computes, for people and manifests.
    fn name(&self) -> String {
        "a GPU".into()
    }
    /// Memory for `bytes`, aligned to 256 bytes; its address. What it holds is not defined.
    fn alloc(&self, bytes: usize) -> Result<u64>;
    fn free(&self, address: u64);
    /// `to` may lie inside an allocation.
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()>;
    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()>;
    /// Start a kernel. Addresses, integers and floats stand in `words` as their bits, one per parameter; a map is [`MAP`] words.
    fn launch(&self, launch: &Launch, words: &[u64]) -> Result<()>;
    /// Make everything that `work` launches one thing that can be replayed; `None`: replay by working again.
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Replay>>;
    /// Seconds that `work` takes by the device's own clock, from its first launch to the end of its last.
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64>;
}

/// Which of the kernels that make the same product are launched: those that suit the device, or those that a test or a comparison wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Products {
    /// The kernels of the files `*_hopper.cu` run here, and are to.
    pub hopper: bool,
    /// Of them those that fetch by TMA, where a product is one of plain matrices.
    pub tma: bool,
    /// Blocks of 128 x 256 from which on these are taken: fewer leave multiprocessors of a large card idle.
    pub wide: usize,
    /// Where wgmma multiplies, also the terms of a sum from which on. On an H200 sums of 3,072 and 8,192 terms were 8 and 6 % faster that way,
    /// those of 2,304 no different, those of 768 and 1,024 5 and 8 % slower.
    pub deep: usize,
}

impl Products {
    /// The kernels of all cards.
    pub const PORTABLE: Products = Products { hopper: false, tma: false, wide: 128, deep: 2048 };
    /// Those for Hopper where there are such; by copies of all threads, which a card has been seen to do right.
    pub const HOPPER: Products = Products { hopper: true, ..Products::PORTABLE };
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

/// A matrix that is copied by TMA, box by box.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matrix {
    pub rows: usize,
    /// A multiple of eight.
    pub columns: usize,
    /// Rows of a box, at most 256.
    pub high: usize,
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    Var(Var),
    /// The address of an element of a variable.
    Part(Var, usize),
    /// A map of the matrix that begins at an element of a variable.
    Map(Var, usize, Matrix),
    /// A pointer to nothing, for what is optional.
    None,
    I32(i32),
    U32(u32),
    F32(f32),
}

impl From<Var> for Arg {
    fn from(v: Var) -> Arg {
        Arg::Var(v)
    }
}

impl From<Option<Var>> for Arg {
    fn from(v: Option<Var>) -> Arg {
        v.map_or(Arg::None, Arg::Var)
    }
}

/// A size of a shape. Shapes are refused long before one does not fit.
impl From<usize> for Arg {
    fn from(n: usize) -> Arg {
        Arg::I32(i32::try_from(n).expect("a size below 2^31"))
    }
}

impl From<bool> for Arg {
    fn from(b: bool) -> Arg {
        Arg::I32(b as i32)
    }
}

impl From<u32> for Arg {
    fn from(n: u32) -> Arg {
        Arg::U32(n)
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Arg {
        Arg::F32(x)
    }
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

    /// What activations are here.
    pub fn real(&self) -> Dtype {
        self.queue.real()
    }
    /// Bytes of shared memory that one block may use.
    pub fn shared(&self) -> usize {
        self.queue.shared()
    }
    /// Which kernels multiply here.
    pub fn products(&self) -> Products {
        self.queue.products()
    }
    pub fn multiprocessors(&self) -> usize {
        self.queue.multiprocessors()
    }
    /// Where a variable lies. Addresses do not change while the program lives.
    pub fn address(&self, v: Var) -> u64 {
        self.places[v.index()].cell.borrow().address()
    }
    /// Fill a variable from [`Call::prepare`](crate::tape::Call::prepare).
    pub fn write<T: Pod>(&self, to: Var, data: &[T]) {
        if let Err(error) = self.places[to.index()].write(data) {
            self.fail(error);
        }
    }

    /// Launch a kernel with the variables' addresses in place of the variables.
    pub fn launch(&self, launch: &Launch, args: &[Arg]) {
        if self.failed.borrow().is_some() {
            return;
        }
        let kind = |arg: &Arg| match *arg {
            Arg::Var(v) | Arg::Part(v, _) => Kind::Pointer(self.places[v.index()].dtype),
            Arg::Map(..) => Kind::Map,
            Arg::None => Kind::Null,
            Arg::I32(_) => Kind::I32,
            Arg::U32(_) => Kind::U32,
            Arg::F32(_) => Kind::F32,
        };
        let part = |v: Var, element: usize| self.address(v) + (element * self.places[v.index()].dtype.bytes()) as u64;
        let words = |arg: &Arg| {
            Ok(vec![match *arg {
                Arg::Var(v) => self.address(v),
                Arg::Part(v, element) => part(v, element),
                Arg::Map(v, element, matrix) => return Ok(self.queue.map(part(v, element), &matrix)?.to_vec()),
                Arg::None => 0,
                Arg::I32(i) => i as u32 as u64,
                Arg::U32(u) => u as u64,
                Arg::F32(f) => f.to_bits() as u64,
            }])
        };
        let kinds: Vec<Kind> = args.iter().map(kind).collect();
        let words = args.iter().map(words).collect::<Result<Vec<_>>>().map(|words| words.concat());
        let done = signature::check(launch, self.real(), &kinds).and_then(|()| self.queue.launch(launch, &words?));
        if let Err(error) = done {
            self.fail(error);
        }
    }

    /// A call has no kernel yet.
    pub(crate) fn missing(&self, name: &str) {
        self.fail(Error::config(format!("`{name}` has no GPU kernel in this version"), "run on the CPU"));
    }

    /// A launch cannot be made. The first such error counts.
    pub(crate) fn fail(&self, error: Error) {
        self.failed.borrow_mut().get_or_insert(error);
    }

    /// What went wrong since the last time, if anything did.
    pub(crate) fn finish(&self) -> Result<()> {
        self.failed.borrow_mut().take().map_or(Ok(()), Err)
    }

    pub(crate) fn queue(&self) -> &dyn Queue {
        &*self.queue
    }
}
