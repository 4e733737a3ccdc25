//! The types that both sides of the device seam share: a variable, its shape, its element type.

/// A variable: a place in memory, decided when the network is recorded. An index into the tape's slots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Var(pub(crate) u32);

impl Var {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The type of an element.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dtype {
    /// An activation, while the network is recorded: it becomes f32 on the CPU, f32 or bf16 on a GPU.
    Activation,
    F32,
    Bf16,
    U8,
    U32,
}

impl Dtype {
    /// The type on a device whose activations are `dtype`.
    pub fn with(self, dtype: Dtype) -> Dtype {
        if self == Dtype::Activation { dtype } else { self }
    }
    /// # Panics
    /// For `Activation`, which has no size before it is known where the program runs.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::Activation => panic!("the size of an activation depends on the device"),
            Dtype::F32 | Dtype::U32 => 4,
            Dtype::Bf16 => 2,
            Dtype::U8 => 1,
        }
    }
    /// The name of the type in safetensors.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Activation => "ACTIVATION",
            Dtype::F32 => "F32",
            Dtype::Bf16 => "BF16",
            Dtype::U8 => "U8",
            Dtype::U32 => "U32",
        }
    }
}

/// One to four extents of a contiguous row-major block, channels last. Every shape is also `rows x cols`: cols is the last extent, rows the
/// product of the others. A batch of images `[n, h, w, c]` is n h w rows of c.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    dims: [usize; 4],
    rank: usize,
}

impl Shape {
    /// # Panics
    /// There is no extent, or there are more than four.
    pub fn new(extents: &[usize]) -> Shape {
        assert!((1..=4).contains(&extents.len()), "a shape has one to four extents, not {extents:?}");
        let mut dims = [1; 4];
        dims[..extents.len()].copy_from_slice(extents);
        Shape { dims, rank: extents.len() }
    }
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn cols(&self) -> usize {
        self.dims[self.rank - 1]
    }
    /// This shape with another last extent.
    pub fn with_cols(mut self, cols: usize) -> Shape {
        self.dims[self.rank - 1] = cols;
        self
    }
    pub fn rows(&self) -> usize {
        self.dims[..self.rank - 1].iter().product()
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(extents: [usize; N]) -> Shape {
        Shape::new(&extents)
    }
}

impl From<&[usize]> for Shape {
    fn from(extents: &[usize]) -> Shape {
        Shape::new(extents)
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}
