//! The loss of MAE (He et al. 2022): the mean squared error of the pixels of hidden patches.

use super::mask::Masking;
use super::{Case, scaled_sum};
use crate::device::{Arg, Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::{Dtype, Var};
use rayon::prelude::*;

impl Scope<'_> {
    /// y `[1]` = mean over hidden patches of mean((pred - target)^2) (He et al. 2022, section 3).
    ///
    /// pred is `[n, 1 + L, patch * patch * c]`, its columns are (i, j, channel), token 0 is ignored; images are `[n, h, w, c]`, L patches
    /// row by row. With `normalize` the target is each patch, standardised by its own mean and its standard deviation sqrt(var + 1e-6), var
    /// unbiased. Gradient: 2 (pred - target) / count for hidden patches, 0 elsewhere, to pred only. Kernels: `mae_loss.cu`.
    ///
    /// # Panics
    /// images have not four dimensions, or pred or `masking` do not fit patches of this size.
    pub fn mae_loss(&mut self, pred: Var, images: Var, masking: Masking, patch: usize, normalize: bool) -> Var {
        let (shape, image) = (self.shape(pred), self.shape(images));
        let &[n, height, width, channels] = image.dims() else { panic!("{}: {image:?} are no images", self.path()) };
        let size = MaeSize { n, height, width, channels, patch, keep: masking.keep, normalize };
        let fits = shape.dims() == [n, 1 + size.patches(), size.cols()] && masking.keep < size.patches() && size.cols() > 1;
        assert!(fits, "{}: {shape:?} does not predict patches of {patch} pixels of {image:?}", self.path());
        let t = &mut *self.tape;
        let (loss, saved) = (t.f32([1]), t.f32([n * size.patches(), 2]));
        let losses = t.scratch([n * size.patches()], Dtype::F32);
        let place = masking.ids_restore;
        let call = Forward { loss, saved, losses, pred, images, place, size };
        self.record(&[pred], loss, call, move |t, dloss| {
            if let Some(dpred) = t.gradient_of(pred) {
                t.no_grad(Backward { dpred, dloss, pred, images, saved, place, size })
            }
        })
    }
}

#[derive(Clone, Copy)]
struct MaeSize {
    n: usize,
    height: usize,
    width: usize,
    channels: usize,
    patch: usize,
    /// Visible patches, which do not count.
    keep: usize,
    normalize: bool,
}

impl MaeSize {
    fn patches(&self) -> usize {
        (self.height / self.patch) * (self.width / self.patch)
    }
    /// Values of a patch.
    fn cols(&self) -> usize {
        self.patch * self.patch * self.channels
    }
    fn hidden(&self) -> usize {
        self.n * (self.patches() - self.keep)
    }
    /// The pixels of patch `at` (counted over all images) in the order of pred's columns.
    fn target<'a>(&self, images: &'a [f32], at: usize) -> impl Iterator<Item = &'a f32> + Clone {
        let (across, run) = (self.width / self.patch, self.patch * self.channels);
        let (image, patch) = (at / self.patches(), at % self.patches());
        let first = (image * self.height + patch / across * self.patch) * self.width + patch % across * self.patch;
        let (first, line) = (first * self.channels, self.width * self.channels);
        (0..self.patch).flat_map(move |i| &images[first + i * line..][..run])
    }
    /// Row of pred of patch `at`.
    fn row(&self, at: usize) -> usize {
        at + at / self.patches() + 1
    }
    fn args(&self) -> [Arg; 7] {
        let MaeSize { n, height, width, channels, patch, keep, normalize } = *self;
        [n.into(), height.into(), width.into(), channels.into(), patch.into(), keep.into(), normalize.into()]
    }
}

struct Forward {
    loss: Var,   // [1]
    saved: Var,  // [n * L, 2]: mean and 1/std of a hidden patch
    losses: Var, // [n * L], on a GPU
    pred: Var,   // [n, 1 + L, cols]
    images: Var, // [n, height, width, channels]
    place: Var,  // [n, L] u32
    size: MaeSize,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "mae_loss_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.loss, self.saved, self.losses], &[self.pred, self.images, self.place])
    }
    fn cpu(&self, m: &Host) {
        let (size, cols) = (self.size, self.size.cols());
        let (pred, images, place) = (m.f(self.pred), m.f(self.images), m.u(self.place));
        let (pred, images, place) = (&*pred, &*images, &*place);
        let losses: Vec<f64> = m
            .f_mut(self.saved)
            .par_chunks_mut(2)
            .enumerate()
            .map(|(at, saved)| {
                saved.copy_from_slice(&[0.0, 1.0]);
                if (place[at] as usize) < size.keep {
                    return 0.0;
                }
                let target = size.target(images, at);
                if size.normalize {
                    let mean = target.clone().map(|v| *v as f64).sum::<f64>() / cols as f64;
                    let squares: f64 = target.clone().map(|v| (*v as f64 - mean).powi(2)).sum();
                    let std = (squares / (cols - 1) as f64 + 1e-6).sqrt();
                    saved.copy_from_slice(&[mean as f32, (1.0 / std) as f32]);
                }
                let row = &pred[size.row(at) * cols..][..cols];
                let errors = row.iter().zip(target).map(|(p, t)| p - (t - saved[0]) * saved[1]);
                errors.map(|e| (e * e) as f64).sum::<f64>() / cols as f64
            })
            .collect();
        m.f_mut(self.loss)[0] = (losses.iter().sum::<f64>() / size.hidden() as f64) as f32;
    }
    fn gpu(&self, g: &Gpu) {
        let patches = self.size.n * self.size.patches();
        let args = [self.losses.into(), self.saved.into(), self.pred.into(), self.images.into(), self.place.into()];
        g.launch(&Launch::blocks("mae_loss_fwd", patches.div_ceil(8)), &[&args[..], &self.size.args()].concat());
        scaled_sum::launch(g, self.loss, self.losses.into(), patches, 1.0 / self.size.hidden() as f32);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.size.hidden() * self.size.cols()) as u64;
        Cost { flops: 9 * n, bytes: 2 * element * n }
    }
}

struct Backward {
    dpred: Grad, // [n, 1 + L, cols]
    dloss: Var,  // [1]
    pred: Var,   // [n, 1 + L, cols]
    images: Var, // [n, height, width, channels]
    saved: Var,  // [n * L, 2]
    place: Var,  // [n, L] u32
    size: MaeSize,
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "mae_loss_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dloss, self.pred, self.images, self.saved, self.place]).grad(self.dpred)
    }
    fn cpu(&self, m: &Host) {
        let (size, cols, add) = (self.size, self.size.cols(), self.dpred.add);
        let (pred, images, place, saved) = (m.f(self.pred), m.f(self.images), m.u(self.place), m.f(self.saved));
        let (pred, images, place, saved) = (&*pred, &*images, &*place, &*saved);
        let scale = 2.0 * m.f(self.dloss)[0] / (size.hidden() as f32 * cols as f32);
        m.f_mut(self.dpred.var).par_chunks_mut(cols).enumerate().for_each(|(row, dpred)| {
            let (image, token) = (row / (size.patches() + 1), row % (size.patches() + 1));
            let hidden = token.checked_sub(1).map(|l| image * size.patches() + l).filter(|at| place[*at] as usize >= size.keep);
            let Some(at) = hidden else {
                return if !add {
                    dpred.fill(0.0)
                };
            };
            let row = pred[row * cols..][..cols].iter().zip(size.target(images, at));
            for (d, (p, t)) in dpred.iter_mut().zip(row) {
                let g = scale * (p - (t - saved[2 * at]) * saved[2 * at + 1]);
                *d = if add { *d + g } else { g };
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let rows = self.size.n * (self.size.patches() + 1);
        let from = [self.dloss.into(), self.pred.into(), self.images.into(), self.saved.into(), self.place.into(), self.dpred.add.into()];
        let launch = Launch::blocks("mae_loss_bwd", rows.div_ceil(8));
        g.launch(&launch, &[&[self.dpred.var.into()][..], &from, &self.size.args()[..6]].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let (n, all) = (self.size.hidden() * self.size.cols(), self.size.n * (self.size.patches() + 1) * self.size.cols());
        Cost { flops: 4 * n as u64, bytes: element * (2 * n + if self.dpred.add { 2 * n } else { all }) as u64 }
    }
}

/// Predictions of images, which are targets; every third patch is seen.
fn case(s: &mut Scope, x: &[Var], patch: usize, normalize: bool) -> Var {
    s.tape().stop_gradient(x[1]);
    let (n, patches) = (s.shape(x[0]).dims()[0], s.shape(x[0]).dims()[1] - 1);
    let keep = patches.div_ceil(3);
    let rank = |l: usize| if l.is_multiple_of(3) { l / 3 } else { keep + l - l / 3 - 1 };
    let place: Vec<u32> = (0..n * patches).map(|at| rank(at % patches) as u32).collect();
    let place = s.tape().words([n, patches], place);
    s.mae_loss(x[0], x[1], Masking { ids_keep: place, ids_restore: place, keep }, patch, normalize)
}

pub static CASES: &[Case] = &[
    Case { name: "mae_loss/one", mode: Mode::Train, inputs: &[&[1, 3, 2], &[1, 2, 1, 2]], build: |s, x| case(s, x, 1, false) },
    Case { name: "mae_loss/pixels", mode: Mode::Train, inputs: &[&[3, 7, 12], &[3, 6, 4, 3]], build: |s, x| case(s, x, 2, false) },
    Case { name: "mae_loss/normalized", mode: Mode::Train, inputs: &[&[2, 10, 48], &[2, 12, 12, 3]], build: |s, x| case(s, x, 4, true) },
];
