//! Position embeddings of one patch grid, resampled to another: bicubic and antialiased as in timm's `resample_abs_pos_embed` (PyTorch's
//! `interpolate` with `antialias`). The class token's position stays as it is.

use super::Case;
use crate::device::{Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::Var;
use crate::view::resampling;
use rayon::prelude::*;

impl Scope<'_> {
    /// y = M x, with the weights M of a bicubic resize: x `[1, 1 + grid * grid, d]` of a square grid to y `[1, 1 + high * wide, d]`, f32. Row 0,
    /// the class token, is copied. Gradient: dx = Mᵀ dy. Kernels: `interpolate.cu`.
    ///
    /// # Panics
    /// x has not three dimensions, or not 1 + grid * grid tokens.
    pub fn interpolate(&mut self, x: Var, grid: usize, [high, wide]: [usize; 2]) -> Var {
        let &[_, tokens, cols] = self.shape(x).dims() else { panic!("{}: positions are [1, tokens, d]", self.path()) };
        assert_eq!(tokens, 1 + grid * grid, "{}: positions of a class token and of {grid} x {grid} patches", self.path());
        let (rows, columns) = (resampling(grid, high), resampling(grid, wide));
        let weight = |o: usize, i: usize| rows[o / wide * grid + i / grid] * columns[o % wide * grid + i % grid];
        let mut matrix = vec![0.0; (1 + high * wide) * tokens];
        matrix[0] = 1.0;
        for o in 0..high * wide {
            (0..grid * grid).for_each(|i| matrix[(1 + o) * tokens + 1 + i] = weight(o, i));
        }
        let size = InterpolateSize { outputs: 1 + high * wide, inputs: tokens, cols };
        let t = &mut *self.tape;
        let matrix = t.constant([size.outputs, size.inputs], matrix);
        let y = t.f32([1, size.outputs, cols]);
        self.record(&[x], y, Forward { y, x, matrix, size }, move |t, dy| {
            if let Some(dx) = t.gradient_of(x) {
                t.no_grad(Backward { dx, dy, matrix, size })
            }
        })
    }
}

#[derive(Clone, Copy)]
struct InterpolateSize {
    outputs: usize,
    inputs: usize,
    cols: usize,
}

impl InterpolateSize {
    fn cost(&self) -> Cost {
        let InterpolateSize { outputs, inputs, cols } = *self;
        Cost { flops: 2 * (outputs * inputs * cols) as u64, bytes: 4 * (outputs * inputs + (outputs + inputs) * cols) as u64 }
    }
}

struct Forward {
    y: Var,      // [outputs, cols] f32
    x: Var,      // [inputs, cols] f32
    matrix: Var, // [outputs, inputs] f32
    size: InterpolateSize,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "interpolate_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y], &[self.x, self.matrix])
    }
    fn cpu(&self, m: &Host) {
        let (x, matrix, InterpolateSize { inputs, cols, .. }) = (m.f(self.x), m.f(self.matrix), self.size);
        let x = &*x;
        m.f_mut(self.y).par_chunks_mut(cols).zip(matrix.par_chunks(inputs)).for_each(|(y, weights)| {
            y.fill(0.0);
            for (i, w) in weights.iter().enumerate().filter(|(_, w)| **w != 0.0) {
                y.iter_mut().zip(&x[i * cols..]).for_each(|(y, x)| *y += w * x);
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let InterpolateSize { outputs, inputs, cols } = self.size;
        let launch =
            Launch { kernel: "interpolate_fwd", grid: [cols.div_ceil(64) as u32, outputs as u32, 1], block: [64, 1, 1], shared: 0 };
        g.launch(&launch, &[self.y.into(), self.x.into(), self.matrix.into(), outputs.into(), inputs.into(), cols.into()]);
    }
    fn cost(&self, _: u64) -> Cost {
        self.size.cost()
    }
}

struct Backward {
    dx: Grad,    // [inputs, cols] f32
    dy: Var,     // [outputs, cols] f32
    matrix: Var, // [outputs, inputs] f32
    size: InterpolateSize,
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "interpolate_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy, self.matrix]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        let (dy, matrix, add, InterpolateSize { outputs, inputs, cols }) = (m.f(self.dy), m.f(self.matrix), self.dx.add, self.size);
        let (dy, matrix) = (&*dy, &*matrix);
        m.f_mut(self.dx.var).par_chunks_mut(cols).enumerate().for_each(|(i, dx)| {
            if !add {
                dx.fill(0.0);
            }
            for (o, w) in (0..outputs).map(|o| (o, matrix[o * inputs + i])).filter(|(_, w)| *w != 0.0) {
                dx.iter_mut().zip(&dy[o * cols..]).for_each(|(dx, dy)| *dx += w * dy);
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let InterpolateSize { outputs, inputs, cols } = self.size;
        let launch = Launch { kernel: "interpolate_bwd", grid: [cols.div_ceil(64) as u32, inputs as u32, 1], block: [64, 1, 1], shared: 0 };
        let args = [self.dx.var.into(), self.dy.into(), self.matrix.into(), self.dx.add.into(), outputs.into(), inputs.into(), cols.into()];
        g.launch(&launch, &args);
    }
    fn cost(&self, _: u64) -> Cost {
        self.size.cost()
    }
}

/// Positions are weights: f32 everywhere.
fn case(s: &mut Scope, grid: usize, to: [usize; 2], cols: usize) -> Var {
    let x = s.param("pos_embed", [1, 1 + grid * grid, cols], crate::init::Init::Normal(1.0));
    s.interpolate(x, grid, to)
}

pub static CASES: &[Case] = &[
    Case { name: "interpolate/larger", mode: Mode::Train, inputs: &[], build: |s, _| case(s, 3, [5, 4], 7) },
    Case { name: "interpolate/smaller", mode: Mode::Train, inputs: &[], build: |s, _| case(s, 8, [4, 4], 192) },
];
