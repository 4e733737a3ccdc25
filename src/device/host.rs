//! The CPU's memory: one checked buffer per variable.

use super::{Device, GpuDevice};
use crate::error::{Error, Result};
use crate::var::{Dtype, Shape, Var};
use bytemuck::Pod;
use std::any::TypeId;
use std::cell::{Ref, RefCell, RefMut};
use std::rc::Rc;

/// Bytes of a cache line: buffers begin at one, so that every element type is aligned for vector loads.
const LINE: usize = 64;

/// A block of memory: on the host aligned to 64 bytes, or somewhere on a GPU.
pub enum Buffer {
    Host(Lines),
    Gpu { device: Rc<dyn GpuDevice>, address: u64 },
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Buffer::Gpu { device, address } = self {
            device.free(*address);
        }
    }
}

/// Host memory in whole cache lines. A byte Vec, not an aligned type: `vec![0u8; n]` uses calloc, so untouched pages cost no memory.
pub struct Lines {
    bytes: Vec<u8>,
    /// First byte that is aligned to [`LINE`].
    start: usize,
    /// Most bytes that a growing buffer may hold; 0: the size is fixed.
    room: usize,
}

impl Lines {
    /// An empty buffer that may grow to `room` bytes; each write allocates what it needs.
    fn growing(room: usize) -> Lines {
        Lines { room, ..Lines::new(0) }
    }
    /// Allocates memory for `bytes` if there is less. The old contents are lost, because a write replaces them.
    fn grow(&mut self, bytes: usize) -> Result<()> {
        if bytes > self.end() - self.start && bytes <= self.room {
            let mut larger = vec![];
            let needed = bytes.next_multiple_of(LINE) + LINE;
            larger.try_reserve_exact(needed).map_err(|_| {
                let what = format!("the images of one batch need {} MiB of memory, which cannot be had", bytes >> 20);
                Error::config(what, "lower the batch")
            })?;
            larger.resize(needed, 0);
            *self = Lines { start: larger.as_ptr().align_offset(LINE), bytes: larger, room: self.room };
        }
        Ok(())
    }
    fn new(bytes: usize) -> Lines {
        let bytes = vec![0; bytes.next_multiple_of(LINE) + LINE];
        let start = bytes.as_ptr().align_offset(LINE);
        Lines { bytes, start, room: 0 }
    }
    fn end(&self) -> usize {
        self.start + self.bytes.len() - LINE
    }
}

/// A buffer that several programs (and the weights) share.
pub type SharedBuffer = Rc<RefCell<Buffer>>;

impl Buffer {
    /// Room for `bytes`: zeroed on the host, undefined on a GPU.
    pub fn new(device: &Device, bytes: usize) -> Result<Buffer> {
        Ok(match device {
            Device::Cpu => Buffer::Host(Lines::new(bytes)),
            Device::Gpu(gpu) => Buffer::Gpu { device: gpu.clone(), address: gpu.alloc(bytes)? },
        })
    }
    pub fn shared(device: &Device, bytes: usize) -> Result<SharedBuffer> {
        Ok(Rc::new(RefCell::new(Buffer::new(device, bytes)?)))
    }
    /// Like [`Buffer::shared`], but on the host it allocates only what is written. Untouched pages cost no memory, yet they count against
    /// limits of a process (`ulimit -v`).
    pub fn growing(device: &Device, bytes: usize) -> Result<SharedBuffer> {
        match device {
            Device::Cpu => Ok(Rc::new(RefCell::new(Buffer::Host(Lines::growing(bytes))))),
            Device::Gpu(_) => Buffer::shared(device, bytes),
        }
    }
    /// A copy of the first `len` elements.
    pub fn get<T: Pod>(&self, len: usize) -> Result<Vec<T>> {
        match self {
            Buffer::Host(_) => Ok(self.slice(len).to_vec()),
            Buffer::Gpu { device, address } => {
                let mut values = vec![T::zeroed(); len];
                device.download(*address, bytemuck::cast_slice_mut(&mut values))?;
                Ok(values)
            }
        }
    }
    /// Overwrites the first `values.len()` elements.
    pub fn set<T: Pod>(&mut self, values: &[T]) -> Result<()> {
        match self {
            Buffer::Host(lines) => {
                lines.grow(size_of_val(values))?;
                self.slice_mut(values.len()).copy_from_slice(values);
                Ok(())
            }
            Buffer::Gpu { device, address } => device.upload(*address, bytemuck::cast_slice(values)),
        }
    }
    /// Bytes that are allocated.
    fn held(&self) -> usize {
        match self {
            Buffer::Host(lines) => lines.end() - lines.start,
            Buffer::Gpu { .. } => panic!("a CPU call met memory of a GPU"),
        }
    }
    /// The first `len` elements of host memory.
    fn slice<T: Pod>(&self, len: usize) -> &[T] {
        match self {
            Buffer::Host(lines) => &bytemuck::cast_slice(&lines.bytes[lines.start..lines.end()])[..len],
            Buffer::Gpu { .. } => panic!("a CPU call met memory of a GPU"),
        }
    }
    fn slice_mut<T: Pod>(&mut self, len: usize) -> &mut [T] {
        match self {
            Buffer::Host(lines) => {
                let end = lines.end();
                &mut bytemuck::cast_slice_mut(&mut lines.bytes[lines.start..end])[..len]
            }
            Buffer::Gpu { .. } => panic!("a CPU call met memory of a GPU"),
        }
    }
    pub(crate) fn address(&self) -> u64 {
        match self {
            Buffer::Host(_) => panic!("a GPU call met memory of the host"),
            Buffer::Gpu { address, .. } => *address,
        }
    }
}

/// A program's variables on the CPU, as its calls see them. Each accessor returns all elements of a variable in row-major order, as many as
/// its [`Shape`] has.
///
/// # Panics
/// All accessors panic if the variable has another type, or if the same call already borrows it the other way: a call's outputs and
/// inputs are never the same memory.
pub struct Host {
    places: Rc<Vec<Place>>, // by variable
}

pub(crate) struct Place {
    pub buffer: SharedBuffer,
    pub shape: Shape,
    pub dtype: Dtype,
}

impl Host {
    pub(crate) fn new(places: Rc<Vec<Place>>) -> Host {
        Host { places }
    }
    fn place(&self, v: Var, dtype: Dtype) -> &Place {
        let place = &self.places[v.index()];
        assert_eq!(place.dtype, dtype, "{v:?} holds {:?}", place.dtype);
        place
    }
    pub fn shape(&self, v: Var) -> Shape {
        self.places[v.index()].shape
    }
    /// Reads an f32 variable: `[shape.len()]`.
    pub fn f(&self, v: Var) -> Ref<'_, [f32]> {
        let place = self.place(v, Dtype::F32);
        Ref::map(place.buffer.borrow(), |b| b.slice(place.shape.len()))
    }
    /// Writes an f32 variable: `[shape.len()]`.
    pub fn f_mut(&self, v: Var) -> RefMut<'_, [f32]> {
        let place = self.place(v, Dtype::F32);
        RefMut::map(place.buffer.borrow_mut(), |b| b.slice_mut(place.shape.len()))
    }
    /// Reads a u32 variable: `[shape.len()]`.
    pub fn u(&self, v: Var) -> Ref<'_, [u32]> {
        let place = self.place(v, Dtype::U32);
        Ref::map(place.buffer.borrow(), |b| b.slice(place.shape.len()))
    }
    /// Writes a u32 variable: `[shape.len()]`.
    pub fn u_mut(&self, v: Var) -> RefMut<'_, [u32]> {
        let place = self.place(v, Dtype::U32);
        RefMut::map(place.buffer.borrow_mut(), |b| b.slice_mut(place.shape.len()))
    }
    /// Reads a u8 variable: `[shape.len()]`, or the bytes written so far of a growing buffer.
    pub fn bytes(&self, v: Var) -> Ref<'_, [u8]> {
        let place = self.place(v, Dtype::U8);
        Ref::map(place.buffer.borrow(), |b| b.slice(place.shape.len().min(b.held())))
    }
}

impl Place {
    /// All elements; bf16 on the device becomes f32.
    ///
    /// # Panics
    /// T is not the variable's type.
    pub fn read<T: Pod>(&self) -> Result<Vec<T>> {
        let (len, buffer) = (self.shape.len(), self.buffer.borrow());
        if self.dtype == Dtype::Bf16 {
            assert!(TypeId::of::<T>() == TypeId::of::<f32>(), "activations are read as f32");
            let bits: Vec<u16> = buffer.get(len)?;
            return Ok(bytemuck::cast_vec(bits.into_iter().map(|b| f32::from_bits((b as u32) << 16)).collect::<Vec<f32>>()));
        }
        assert_eq!(self.dtype.bytes(), size_of::<T>(), "elements are {:?}", self.dtype);
        buffer.get(len)
    }
    /// Writes the first `data.len()` elements; f32 becomes bf16 where the device has that.
    ///
    /// # Panics
    /// T is not the variable's type, or `data` is longer than the variable.
    pub fn write<T: Pod>(&self, data: &[T]) -> Result<()> {
        assert!(data.len() <= self.shape.len(), "there is room for {} elements, not {}", self.shape.len(), data.len());
        if self.dtype == Dtype::Bf16 {
            assert!(TypeId::of::<T>() == TypeId::of::<f32>(), "activations are written as f32");
            let bits: Vec<u16> = bytemuck::cast_slice(data).iter().map(|v| round_to_bf16(*v)).collect();
            return self.buffer.borrow_mut().set(&bits);
        }
        assert_eq!(self.dtype.bytes(), size_of::<T>(), "elements are {:?}", self.dtype);
        self.buffer.borrow_mut().set(data)
    }
}

/// Rounds to nearest, ties to even; a NaN stays a NaN.
fn round_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) as u16 }
}
