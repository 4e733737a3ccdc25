//! Concatenation along the rows, as PyTorch's `cat` with `dim=0`.

use super::Case;
use crate::device::{Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope, Tape};
use crate::var::Var;

impl Scope<'_> {
    /// y = the rows of all parts, one after the other: `[rows, cols]` each to `[all rows, cols]`. A single part is returned as it is.
    ///
    /// Gradient: each part gets its rows of dy. Kernels: `concat_rows.cu`.
    ///
    /// # Panics
    /// There is no part, or they differ in `cols`.
    pub fn concat_rows(&mut self, parts: &[Var]) -> Var {
        if let &[one] = parts {
            return one;
        }
        assert!(!parts.is_empty(), "{}: there are no rows to put below each other", self.path());
        let cols = self.shape(parts[0]).cols();
        let rows: Vec<usize> = parts.iter().map(|p| self.shape(*p).rows()).collect();
        assert!(parts.iter().all(|p| self.shape(*p).cols() == cols), "{}: rows below each other have one width", self.path());
        let y = self.tape.var([rows.iter().sum(), cols]);
        let parts: Vec<Var> = parts.to_vec();
        let lens: Vec<usize> = rows.iter().map(|r| r * cols).collect();
        let back = (parts.clone(), lens.clone());
        self.record(&parts.clone(), y, Forward { y, parts, lens }, move |t: &mut Tape, dy| {
            let mut first = 0;
            for (x, len) in back.0.into_iter().zip(back.1) {
                if let Some(dx) = t.gradient_of(x) {
                    t.no_grad(Backward { dx, dy, first, len });
                }
                first += len;
            }
        })
    }
}

/// Values of a block of 256 threads with eight each.
const BLOCK: usize = 2048;

struct Forward {
    y: Var,           // [all rows, cols]
    parts: Vec<Var>,  // [rows, cols] each
    lens: Vec<usize>, // rows * cols of each
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "concat_rows_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y], &self.parts)
    }
    fn cpu(&self, m: &Host) {
        let mut y = m.f_mut(self.y);
        let mut rest = &mut y[..];
        for (part, &len) in self.parts.iter().zip(&self.lens) {
            let (here, after) = rest.split_at_mut(len);
            here.copy_from_slice(&m.f(*part));
            rest = after;
        }
    }
    fn gpu(&self, g: &Gpu) {
        let mut first = 0;
        for (part, &len) in self.parts.iter().zip(&self.lens) {
            let launch = Launch::blocks("concat_rows_fwd", len.div_ceil(BLOCK));
            g.launch(&launch, &[self.y.into(), (*part).into(), first.into(), len.into()]);
            first += len;
        }
    }
    fn cost(&self, element: u64) -> Cost {
        Cost { flops: 0, bytes: 2 * element * self.lens.iter().sum::<usize>() as u64 }
    }
}

struct Backward {
    dx: Grad, // [rows, cols]
    dy: Var,  // [all rows, cols]
    first: usize,
    len: usize,
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "concat_rows_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        let (dy, add) = (m.f(self.dy), self.dx.add);
        let mut dx = m.f_mut(self.dx.var);
        dx.iter_mut().zip(&dy[self.first..]).for_each(|(d, g)| *d = if add { *d + g } else { *g });
    }
    fn gpu(&self, g: &Gpu) {
        let args = [self.dx.var.into(), self.dy.into(), self.dx.add.into(), self.first.into(), self.len.into()];
        g.launch(&Launch::blocks("concat_rows_bwd", self.len.div_ceil(BLOCK)), &args);
    }
    fn cost(&self, element: u64) -> Cost {
        Cost { flops: 0, bytes: (2 + self.dx.add as u64) * element * self.len as u64 }
    }
}

pub static CASES: &[Case] = &[
    Case { name: "concat_rows/ragged", mode: Mode::Train, inputs: &[&[3, 5], &[7, 5]], build: |s, x| s.concat_rows(x) },
    Case { name: "concat_rows/three", mode: Mode::Train, inputs: &[&[40, 64], &[8, 64], &[16, 64]], build: |s, x| s.concat_rows(x) },
];
