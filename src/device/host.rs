//! The CPU's memory: one checked buffer per variable.

use crate::var::{Dtype, Shape, Var};
use bytemuck::{Pod, Zeroable};
use std::cell::{Ref, RefCell, RefMut};
use std::rc::Rc;

/// One cache line: buffers are made of them so that every element type is aligned for vector loads.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A block of bytes, aligned to 64.
pub struct Buffer(Vec<Line>);

/// A buffer that several programs (and the weights) share.
pub type Cell = Rc<RefCell<Buffer>>;

impl Buffer {
    /// Zeroed room for `bytes`.
    pub fn new(bytes: usize) -> Buffer {
        Buffer(bytemuck::zeroed_vec(bytes.div_ceil(64)))
    }
    pub fn cell(bytes: usize) -> Cell {
        Rc::new(RefCell::new(Buffer::new(bytes)))
    }
    /// The first `len` elements.
    pub fn slice<T: Pod>(&self, len: usize) -> &[T] {
        &bytemuck::cast_slice(&self.0)[..len]
    }
    pub fn slice_mut<T: Pod>(&mut self, len: usize) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.0)[..len]
    }
}

/// What a call sees of a program on the CPU. Borrowing a variable that the same call already borrows the
/// other way panics: a call's outputs and inputs are never the same memory.
pub struct Host {
    places: Vec<Place>, // by variable
}

pub(crate) struct Place {
    pub cell: Cell,
    pub shape: Shape,
    pub dtype: Dtype,
}

impl Host {
    pub(crate) fn new(places: Vec<Place>) -> Host {
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
    pub fn f(&self, v: Var) -> Ref<'_, [f32]> {
        let place = self.place(v, Dtype::F32);
        Ref::map(place.cell.borrow(), |b| b.slice(place.shape.len()))
    }
    pub fn f_mut(&self, v: Var) -> RefMut<'_, [f32]> {
        let place = self.place(v, Dtype::F32);
        RefMut::map(place.cell.borrow_mut(), |b| b.slice_mut(place.shape.len()))
    }
    pub fn u(&self, v: Var) -> Ref<'_, [u32]> {
        let place = self.place(v, Dtype::U32);
        Ref::map(place.cell.borrow(), |b| b.slice(place.shape.len()))
    }
    pub fn u_mut(&self, v: Var) -> RefMut<'_, [u32]> {
        let place = self.place(v, Dtype::U32);
        RefMut::map(place.cell.borrow_mut(), |b| b.slice_mut(place.shape.len()))
    }
    pub fn bytes(&self, v: Var) -> Ref<'_, [u8]> {
        let place = self.place(v, Dtype::U8);
        Ref::map(place.cell.borrow(), |b| b.slice(place.shape.len()))
    }
    pub(crate) fn read<T: Pod>(&self, v: Var) -> Vec<T> {
        let place = &self.places[v.index()];
        assert_eq!(place.dtype.bytes(), size_of::<T>(), "{v:?} holds {:?}", place.dtype);
        place.cell.borrow().slice(place.shape.len()).to_vec()
    }
    pub(crate) fn write<T: Pod>(&self, v: Var, data: &[T]) {
        let place = &self.places[v.index()];
        assert_eq!(place.dtype.bytes(), size_of::<T>(), "{v:?} holds {:?}", place.dtype);
        assert!(data.len() <= place.shape.len(), "{v:?} has room for {} elements, not {}", place.shape.len(), data.len());
        place.cell.borrow_mut().slice_mut(data.len()).copy_from_slice(data);
    }
}
