//! The seam to a GPU: the trait [`GpuDevice`], and launches through it.
//!
//! A CUDA card is one implementation of [`GpuDevice`]. The emulator of the tests, which runs the kernel sources on the CPU, is another.

use super::capabilities::Capabilities;
use super::host::Place;
use super::signature::{self, ArgKind, MAP, Param, Struct};
use crate::error::{Error, Result};
use crate::var::{Dtype, Var};
use bytemuck::Pod;
use std::cell::RefCell;
use std::rc::Rc;

/// A GPU: memory, copies, launches, capture. Work is done in the order in which it is given.
pub trait GpuDevice {
    /// The type of activations, `T` of the kernels: [`Dtype::F32`] or [`Dtype::Bf16`].
    fn dtype(&self) -> Dtype;
    /// The properties by which kernels are chosen. There is no default, because a wrapper around another device that forgot to forward it
    /// would choose other kernels.
    fn capabilities(&self) -> Capabilities;
    /// A tensor map (`CUtensorMap`) of a bf16 matrix at this address: boxes of 64 columns, copied to rows of 128 bytes with the 128-byte
    /// swizzle.
    ///
    /// # Errors
    /// The driver refuses the map, or the device has no TMA.
    fn map(&self, address: u64, matrix: &Matrix) -> Result<[u64; MAP]>;
    /// The device's name, for people and manifests.
    fn name(&self) -> String {
        "a GPU".into()
    }
    /// Allocates `bytes`, aligned to 256 bytes, and returns the address. The contents are undefined.
    ///
    /// # Errors
    /// The device has too little memory.
    fn alloc(&self, bytes: usize) -> Result<u64>;
    /// Frees an allocation.
    fn free(&self, address: u64);
    /// Copies host memory to `to`, which may lie inside an allocation.
    ///
    /// # Errors
    /// The copy, or work before it, failed.
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()>;
    /// Copies device memory to the host, after all work before it.
    ///
    /// # Errors
    /// The copy, or work before it, failed.
    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()>;
    /// Starts a kernel. `words` are the parameters: one word with the bits of each address, integer or float, [`MAP`] words for a tensor map,
    /// as many as it fills for a structure.
    ///
    /// # Errors
    /// The kernel does not compile, or the driver refuses the launch.
    fn launch(&self, launch: &Launch, words: &[u64]) -> Result<()>;
    /// Captures everything that `work` launches as one graph. `None`: the device has no graphs, so the caller repeats the work.
    ///
    /// # Errors
    /// `work` failed, or did something that a graph cannot hold (an allocation, a copy, a first launch).
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Replay>>;
    /// Seconds of `work` by the device's own clock, from its first launch to the end of its last.
    ///
    /// # Errors
    /// `work` failed.
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64>;
}

/// Launches everything that [`GpuDevice::capture`] captured.
pub type Replay = Box<dyn Fn() -> Result<()>>;

/// A kernel and its launch configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    pub kernel: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, bytes. Its layout stands where the kernel declares `SHARED_DYN`.
    pub shared: u32,
}

/// A row-major matrix that TMA copies in boxes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matrix {
    pub rows: usize,
    /// A multiple of eight.
    pub columns: usize,
    /// Rows of a box, at most 256; a box has 64 columns.
    pub high: usize,
}

/// One argument of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    Var(Var),
    /// The address of an element of a variable.
    Element(Var, usize),
    /// A tensor map of the matrix that begins at an element of a variable.
    Map(Var, usize, Matrix),
    /// A null pointer, for an optional operand.
    None,
    I32(i32),
    U32(u32),
    F32(f32),
    /// A structure by value: its name and its fields, as `by_value!` makes them.
    Struct(&'static str, Vec<(&'static str, Arg)>),
}

/// Declares a structure that kernels take by value, and its conversion to an [`Arg`]. A launch compares names and kinds of the fields with
/// those in the kernel's source, so host and kernel cannot drift apart.
macro_rules! by_value {
    ($(#[$about:meta])* $visible:vis struct $name:ident { $($(#[$note:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy)]
        $visible struct $name { $($(#[$note])* $field: $kind,)* }

        impl From<$name> for $crate::device::Arg {
            fn from(of: $name) -> $crate::device::Arg {
                $crate::device::Arg::Struct(stringify!($name), vec![$((stringify!($field), of.$field.into()),)*])
            }
        }
    };
}
pub(crate) use by_value;

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

/// A size of a shape. Shapes of 2^31 and more are refused long before.
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

impl From<i32> for Arg {
    fn from(n: i32) -> Arg {
        Arg::I32(n)
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Arg {
        Arg::F32(x)
    }
}

/// A program's variables and device, as its calls see them on a GPU. Methods do not return errors: the first one is kept until the program
/// reports it.
pub struct Gpu {
    device: Rc<dyn GpuDevice>,
    places: Rc<Vec<Place>>,
    failed: RefCell<Option<Error>>,
}

impl Gpu {
    pub(crate) fn new(device: Rc<dyn GpuDevice>, places: Rc<Vec<Place>>) -> Gpu {
        Gpu { device, places, failed: RefCell::new(None) }
    }

    /// The type of activations.
    pub fn dtype(&self) -> Dtype {
        self.device.dtype()
    }
    /// The properties by which kernels are chosen.
    pub fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }
    /// The address of a variable. It does not change while the program lives.
    pub fn address(&self, v: Var) -> u64 {
        self.places[v.index()].buffer.borrow().address()
    }
    /// Writes the first elements of a variable, from [`Call::prepare`](crate::tape::Call::prepare).
    ///
    /// # Panics
    /// T is not the variable's type, or `data` is longer.
    pub fn write<T: Pod>(&self, to: Var, data: &[T]) {
        if let Err(error) = self.places[to.index()].write(data) {
            self.fail(error);
        }
    }

    /// Launches a kernel, with addresses in place of variables. Arguments that do not match its signature are an error.
    pub fn launch(&self, launch: &Launch, args: &[Arg]) {
        if self.failed.borrow().is_some() {
            return;
        }
        let kinds: Vec<ArgKind> = args.iter().map(|arg| self.kind(arg)).collect();
        let words = args.iter().map(|arg| self.words(arg)).collect::<Result<Vec<_>>>().map(|words| words.concat());
        let done = signature::check(launch, self.dtype(), &kinds).and_then(|()| self.device.launch(launch, &words?));
        if let Err(error) = done {
            self.fail(error);
        }
    }

    fn kind(&self, arg: &Arg) -> ArgKind {
        match arg {
            Arg::Var(v) | Arg::Element(v, _) => ArgKind::Pointer(self.places[v.index()].dtype),
            Arg::Map(..) => ArgKind::Map,
            Arg::None => ArgKind::Null,
            Arg::I32(_) => ArgKind::I32,
            Arg::U32(_) => ArgKind::U32,
            Arg::F32(_) => ArgKind::F32,
            Arg::Struct(name, fields) => {
                let param = |(name, arg): &(&'static str, Arg)| Param { name, kind: self.kind(arg), constant: false };
                ArgKind::Struct(Struct { name, fields: fields.iter().map(param).collect() })
            }
        }
    }

    fn words(&self, arg: &Arg) -> Result<Vec<u64>> {
        let part = |v: Var, element: usize| self.address(v) + (element * self.places[v.index()].dtype.bytes()) as u64;
        Ok(match *arg {
            Arg::Var(v) => vec![self.address(v)],
            Arg::Element(v, element) => vec![part(v, element)],
            Arg::Map(v, element, matrix) => self.device.map(part(v, element), &matrix)?.to_vec(),
            Arg::None => vec![0],
            Arg::I32(i) => vec![i as u32 as u64],
            Arg::U32(u) => vec![u as u64],
            Arg::F32(f) => vec![f.to_bits() as u64],
            Arg::Struct(name, ref fields) => {
                let ArgKind::Struct(of) = self.kind(arg) else { unreachable!("the kind of `{name}`") };
                let (layout, words) = of.layout();
                let mut bytes = vec![0; 8 * words];
                for ((first, size), (_, field)) in layout.into_iter().zip(fields) {
                    bytes[first..first + size].copy_from_slice(&self.words(field)?[0].to_le_bytes()[..size]);
                }
                bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect()
            }
        })
    }

    /// A call has no kernel yet.
    pub(crate) fn missing(&self, name: &str) {
        self.fail(Error::config(format!("`{name}` has no GPU kernel in this version"), "run on the CPU"));
    }

    /// Records an error; the first one counts.
    pub(crate) fn fail(&self, error: Error) {
        self.failed.borrow_mut().get_or_insert(error);
    }

    /// Returns and clears the recorded error.
    pub(crate) fn finish(&self) -> Result<()> {
        self.failed.borrow_mut().take().map_or(Ok(()), Err)
    }

    pub(crate) fn device(&self) -> &dyn GpuDevice {
        &*self.device
    }
}
