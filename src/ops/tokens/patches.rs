//! The patches of images as rows of a matrix. Their product with a weight `[d, c, p, p]` is the patch embedding (Dosovitskiy et al. 2021).

use super::super::Case;
use super::super::mask::Masking;
use crate::device::{Gpu, Host, Launch, THREADS};
use crate::tape::{Call, Cost, Mode, Operands, Scope};
use crate::var::Var;
use rayon::prelude::*;

impl Scope<'_> {
    /// Copies images `[n, h, w, c]` to y `[n, patches, c * p * p]`. Columns are (channel, i, j), the order of a convolution's weight; patches
    /// go row by row over the grid. With `masking` only the patches that are seen, in the order of their noise. Images get no
    /// gradient. Kernels: `tokens.cu`.
    ///
    /// # Panics
    /// images have not four dimensions, or height or width are no multiple of `patch`.
    pub fn patches(&mut self, images: Var, patch: usize, masking: Option<Masking>) -> Var {
        let &[n, h, w, c] = self.shape(images).dims() else { panic!("{}: patches wants [n, h, w, c]", self.path()) };
        assert!(h % patch == 0 && w % patch == 0, "{}: patches of {patch} do not fill {h} x {w}", self.path());
        let grid = Grid { n, h, w, c, patch, count: masking.map_or(h / patch * (w / patch), |m| m.keep) };
        let y = self.tape.var([n, grid.count, c * patch * patch]);
        self.tape.no_grad(Forward { y, images, ids: masking.map(|m| m.ids_keep), grid });
        y
    }
}

#[derive(Clone, Copy)]
struct Grid {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    patch: usize,
    /// Patches per image that are copied.
    count: usize,
}

struct Forward {
    y: Var,           // [n, count, c * p * p]
    images: Var,      // [n, h, w, c]
    ids: Option<Var>, // [n, count] u32
    grid: Grid,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "patches_fwd"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[self.y], &[self.images]);
        o.reads.extend(self.ids);
        o
    }
    fn cpu(&self, m: &Host) {
        let Grid { h, w, c, patch: p, count, .. } = self.grid;
        let (images, ids) = (m.f(self.images), self.ids.map(|ids| m.u(ids)));
        let (images, ids) = (&*images, ids.as_deref());
        m.f_mut(self.y).par_chunks_mut(count * c * p * p).enumerate().for_each(|(n, y)| {
            let image = &images[n * h * w * c..][..h * w * c];
            for (r, y) in y.chunks_exact_mut(c * p * p).enumerate() {
                let l = ids.map_or(r, |ids| ids[n * count + r] as usize);
                let (top, left) = (l / (w / p) * p, l % (w / p) * p);
                for i in 0..p {
                    let pixels = &image[((top + i) * w + left) * c..][..p * c];
                    for (j, pixel) in pixels.chunks_exact(c).enumerate() {
                        pixel.iter().enumerate().for_each(|(k, v)| y[(k * p + i) * p + j] = *v);
                    }
                }
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let Grid { n, h, w, c, patch, count } = self.grid;
        let cols = c * patch * patch;
        let vector = 16 / g.dtype().bytes();
        let each = if cols.is_multiple_of(vector) { vector } else { 1 };
        let launch = Launch::blocks("patches_fwd", (n * count * cols / each).div_ceil(THREADS));
        let pointers = [self.y.into(), self.images.into(), self.ids.into()];
        g.launch(&launch, &[&pointers[..], &[n, h, w, c, patch, count].map(Into::into)].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let Grid { n, c, patch, count, .. } = self.grid;
        Cost { flops: 0, bytes: 2 * element * (n * count * c * patch * patch) as u64 }
    }
}

pub static CASES: &[Case] = &[
    Case { name: "patches/one", mode: Mode::Eval, inputs: &[&[1, 1, 1, 1]], build: |s, x| s.patches(x[0], 1, None) },
    Case { name: "patches/cifar", mode: Mode::Eval, inputs: &[&[2, 8, 12, 3]], build: |s, x| s.patches(x[0], 4, None) },
    Case { name: "patches/two", mode: Mode::Eval, inputs: &[&[3, 6, 4, 3]], build: |s, x| s.patches(x[0], 2, None) },
    Case { name: "patches/sixteen", mode: Mode::Eval, inputs: &[&[2, 32, 32, 3]], build: |s, x| s.patches(x[0], 16, None) },
];
