//! The seam to a GPU: what a driver must do, and the launch of a call through it.
//!
//! Nothing here knows a driver. A card's driver is one implementation of [`GpuDevice`]; running the kernel
//! sources on the CPU, in tests, is another.

use super::capabilities::Capabilities;
use super::host::Place;
use super::signature::{self, ArgKind, MAP, Param, Struct};
use crate::error::{Error, Result};
use crate::var::{Dtype, Var};
use bytemuck::Pod;
use std::cell::RefCell;
use std::rc::Rc;

/// What a driver must do. Work is done in the order it is given.
pub trait GpuDevice {
    /// What activations are here: [`Dtype::F32`] or [`Dtype::Bf16`], the `T` of the kernels.
    fn dtype(&self) -> Dtype;
    /// What it can do. Without a default: a device around another one that forgot to ask it would choose other kernels.
    fn capabilities(&self) -> Capabilities;
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
    /// Start a kernel. Addresses, integers and floats stand in `words` as their bits, one per parameter; a map is [`MAP`] words,
    /// a structure as many as it fills.
    fn launch(&self, launch: &Launch, words: &[u64]) -> Result<()>;
    /// Make everything that `work` launches one thing that can be replayed; `None`: replay by working again.
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Replay>>;
    /// Seconds that `work` takes by the device's own clock, from its first launch to the end of its last.
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64>;
}

/// What [`GpuDevice::capture`] made of a list of launches.
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
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    Var(Var),
    /// The address of an element of a variable.
    Element(Var, usize),
    /// A map of the matrix that begins at an element of a variable.
    Map(Var, usize, Matrix),
    /// A pointer to nothing, for what is optional.
    None,
    I32(i32),
    U32(u32),
    F32(f32),
    /// A structure by value: its name and its fields, as `by_value!` makes them.
    Struct(&'static str, Vec<(&'static str, Arg)>),
}

/// Declares a structure that kernels take by value, with the fields that it has in the text of the kernels, and makes it an [`Arg`]. Its
/// layout follows from the fields; a launch compares their names and kinds with those of the kernel.
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

/// What a call sees of a program on a GPU. The first error sticks until the program reports it.
pub struct Gpu {
    device: Rc<dyn GpuDevice>,
    places: Rc<Vec<Place>>,
    failed: RefCell<Option<Error>>,
}

impl Gpu {
    pub(crate) fn new(device: Rc<dyn GpuDevice>, places: Rc<Vec<Place>>) -> Gpu {
        Gpu { device, places, failed: RefCell::new(None) }
    }

    /// What activations are here.
    pub fn dtype(&self) -> Dtype {
        self.device.dtype()
    }
    /// What the device can do.
    pub fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }
    /// Where a variable lies. Addresses do not change while the program lives.
    pub fn address(&self, v: Var) -> u64 {
        self.places[v.index()].buffer.borrow().address()
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

    /// A launch cannot be made. The first such error counts.
    pub(crate) fn fail(&self, error: Error) {
        self.failed.borrow_mut().get_or_insert(error);
    }

    /// What went wrong since the last time, if anything did.
    pub(crate) fn finish(&self) -> Result<()> {
        self.failed.borrow_mut().take().map_or(Ok(()), Err)
    }

    pub(crate) fn device(&self) -> &dyn GpuDevice {
        &*self.device
    }
}
