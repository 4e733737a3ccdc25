//! The distances that the alignment loss averages (Wang et al. 2024, Eq. 1): for each sample, the l2 distance between the
//! unit-length representations of pairs of its views.

use super::Case;
use super::reduce::{inverse_or_zero, sum_of};
use crate::device::{Gpu, Host, Launch};
use crate::tape::{Call, Cost, Mode, Operands, Scope};
use crate::var::{Dtype, Var};
use rayon::prelude::*;
use std::rc::Rc;

/// Which pairs of views count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pairs {
    /// Every pair of the K views (the paper's Eq. 1).
    All,
    /// View 0, which is the image itself, against each other view (the released code).
    Original,
}

impl Pairs {
    /// The pairs of `views` views, in the order of the columns that [`Scope::alignment`] writes.
    pub fn list(self, views: usize) -> Vec<(usize, usize)> {
        match self {
            Pairs::All => (0..views).flat_map(|a| (a + 1..views).map(move |b| (a, b))).collect(),
            Pairs::Original => (1..views).map(|b| (0, b)).collect(),
        }
    }
}

impl Scope<'_> {
    /// y_ip = |x_a / |x_a| - x_b / |x_b||, where (a, b) is pair p of the views of sample i (Wang et al. 2024, Eq. 1).
    ///
    /// x is `[views * n, ..]`, where row v * n + i is view v of sample i; y is `[n, pairs]` f32, in 0 to 2. Rows are flattened, so an
    /// un-pooled map counts whole. Differences are taken directly: the usual sqrt(2 - 2 cos) loses all digits for views that are
    /// close, which are the ones that matter. No gradient: it measures. Kernels: `alignment.cu`.
    ///
    /// # Panics
    /// The rows of x are no multiple of `views`, or there are more than 65,535 views.
    pub fn alignment(&mut self, x: Var, views: usize, pairs: Pairs) -> Var {
        self.alignment_of(x, views, &pairs.list(views))
    }

    /// [`Scope::alignment`] for a list of pairs of views.
    ///
    /// # Panics
    /// As [`Scope::alignment`].
    pub fn alignment_of(&mut self, x: Var, views: usize, pairs: &[(usize, usize)]) -> Var {
        let shape = self.shape(x);
        let n = shape.dims()[0] / views;
        assert_eq!(n * views, shape.dims()[0], "{}: {:?} does not hold {views} views of each sample", self.path(), shape);
        let cols = shape.len() / (n * views);
        assert!(views < 1 << 16, "{}: {views} views of a sample are too many", self.path());
        let pairs: Rc<[(usize, usize)]> = pairs.into();
        let t = &mut *self.tape;
        let x_f32 = t.slots[x.index()].dtype == Dtype::F32;
        let y = t.f32([n, pairs.len()]);
        let inverse = t.scratch([views * n], Dtype::F32);
        let table = t.fixed([pairs.len()], Dtype::U32);
        let table = t.gpu_only(table);
        t.no_grad(Forward { y, x, n, views, cols, pairs, x_f32, inverse, table });
        y
    }
}

struct Forward {
    y: Var, // [n, pairs]
    x: Var, // [views * n, cols]
    n: usize,
    views: usize,
    cols: usize,
    pairs: Rc<[(usize, usize)]>,
    /// x is f32 on every device.
    x_f32: bool,
    inverse: Var, // [views * n]: 1 / length, on a GPU if the views do not fit into shared memory
    table: Var,   // [pairs] u32: a << 16 | b
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "alignment_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y, self.inverse], &[self.x, self.table])
    }
    fn cpu(&self, m: &Host) {
        let (x, n, cols, views, pairs) = (m.f(self.x), self.n, self.cols, self.views, &self.pairs[..]);
        let x = &*x;
        m.f_mut(self.y).par_chunks_mut(pairs.len()).enumerate().for_each(|(i, y)| {
            let row = |v: usize| &x[(v * n + i) * cols..][..cols];
            let inverse: Vec<f32> = (0..views).map(|v| inverse_or_zero(row(v))).collect();
            for (y, &(a, b)) in y.iter_mut().zip(pairs) {
                let (sa, sb) = (inverse[a], inverse[b]);
                *y = sum_of([row(a), row(b)], |[a, b]| (a * sa - b * sb).powi(2)).sqrt() as f32;
            }
        });
    }
    fn prepare(&self, g: &Gpu) {
        g.write(self.table, &self.pairs.iter().map(|&(a, b)| (a << 16 | b) as u32).collect::<Vec<_>>());
    }
    /// Views that fit into shared memory are read from global memory once. Otherwise the lengths come first, in a launch of their own.
    fn gpu(&self, g: &Gpu) {
        let Forward { y, x, n, views, cols, inverse, table, .. } = *self;
        let kernel = |activations: &'static str, f32: &'static str| if self.x_f32 { f32 } else { activations };
        let (count, kept) = (self.pairs.len(), views * cols.next_multiple_of(4) * 4);
        if kept <= g.capabilities().shared {
            let launch = Launch { shared: kept as u32, ..Launch::blocks(kernel("alignment_fwd", "alignment_fwd_f32"), n) };
            return g.launch(&launch, &[y.into(), x.into(), table.into(), n.into(), views.into(), cols.into(), count.into()]);
        }
        let launch = Launch::blocks(kernel("alignment_lengths", "alignment_lengths_f32"), (views * n).div_ceil(8));
        g.launch(&launch, &[inverse.into(), x.into(), (views * n).into(), cols.into()]);
        let launch = Launch::blocks(kernel("alignment_wide", "alignment_wide_f32"), n * count.div_ceil(32));
        g.launch(&launch, &[y.into(), x.into(), inverse.into(), table.into(), n.into(), cols.into(), count.into()]);
    }
    fn cost(&self, element: u64) -> Cost {
        let (all, size) = ((self.n * self.cols) as u64, if self.x_f32 { 4 } else { element });
        Cost { flops: all * (2 * self.views + 5 * self.pairs.len()) as u64, bytes: size * all * self.views as u64 }
    }
}

pub static CASES: &[Case] = &[
    Case { name: "alignment/two_views", mode: Mode::Eval, inputs: &[&[2, 5]], build: |s, x| s.alignment(x[0], 2, Pairs::All) },
    Case { name: "alignment/five_views", mode: Mode::Eval, inputs: &[&[35, 40]], build: |s, x| s.alignment(x[0], 5, Pairs::All) },
    Case {
        name: "alignment/features",
        mode: Mode::Eval,
        inputs: &[&[10, 2, 2, 24]],
        build: |s, x| {
            let features = s.average_pool(x[0]);
            s.alignment(features, 5, Pairs::All)
        },
    },
    // Too large for shared memory.
    Case { name: "alignment/large", mode: Mode::Eval, inputs: &[&[16, 9, 1000]], build: |s, x| s.alignment(x[0], 8, Pairs::All) },
    Case { name: "alignment/large_ragged", mode: Mode::Eval, inputs: &[&[7, 8401]], build: |s, x| s.alignment(x[0], 7, Pairs::Original) },
    Case {
        name: "alignment/large_features",
        mode: Mode::Eval,
        inputs: &[&[62, 1, 1, 2002]],
        build: |s, x| {
            let features = s.average_pool(x[0]);
            s.alignment(features, 31, Pairs::Original)
        },
    },
    Case { name: "alignment/original", mode: Mode::Eval, inputs: &[&[9, 3, 3, 7]], build: |s, x| s.alignment(x[0], 3, Pairs::Original) },
];
