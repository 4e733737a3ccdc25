//! The shortcut without weights of a ResNet block that halves the map and doubles the channels (He et al. 2015, option A): every other
//! pixel, with zeros for the new channels, half of them before and half behind.

use super::Case;
use crate::device::{Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::Var;
use rayon::prelude::*;

impl Scope<'_> {
    /// y(i, j) = (0, x(2i, 2j), 0) with c / 2 zeros on each side: x `[n, h, w, c]` to y `[n, h / 2, w / 2, 2 c]`, halves rounded up. Gradient: dy's
    /// middle channels to every other pixel, 0 elsewhere. Kernels: `shortcut.cu`.
    ///
    /// # Panics
    /// x has not four dimensions, or c is odd.
    pub fn shortcut(&mut self, x: Var) -> Var {
        let &[n, h, w, c] = self.shape(x).dims() else { panic!("{}: a shortcut wants [n, h, w, c]", self.path()) };
        assert!(c % 2 == 0, "{}: the zeros beside {c} channels have no half", self.path());
        let map = Map { n, h, w, c };
        let y = self.tape.var([n, h.div_ceil(2), w.div_ceil(2), 2 * c]);
        self.record(&[x], y, Forward { y, x, map }, move |t, dy| {
            if let Some(dx) = t.gradient_of(x) {
                t.no_grad(Backward { dx, dy, map })
            }
        })
    }
}

#[derive(Clone, Copy)]
struct Map {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
}

impl Map {
    /// Height and width of the result.
    fn halves(&self) -> [usize; 2] {
        [self.h.div_ceil(2), self.w.div_ceil(2)]
    }
    /// Values of an image and of its result.
    fn values(&self) -> [usize; 2] {
        let [high, wide] = self.halves();
        [self.h * self.w * self.c, high * wide * 2 * self.c]
    }
    /// The image and the result of every pixel that stays: first value of its c, and first value that they become.
    fn pairs(self) -> impl Iterator<Item = (usize, usize)> {
        let [high, wide] = self.halves();
        let pixels = (0..high).flat_map(move |i| (0..wide).map(move |j| (i, j)));
        pixels.map(move |(i, j)| ((2 * i * self.w + 2 * j) * self.c, (i * wide + j) * 2 * self.c + self.c / 2))
    }
    fn sizes(&self) -> [crate::device::Arg; 4] {
        [self.n, self.h, self.w, self.c].map(Into::into)
    }
}

struct Forward {
    y: Var, // [n, h / 2, w / 2, 2 c]
    x: Var, // [n, h, w, c]
    map: Map,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "shortcut_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y], &[self.x])
    }
    fn cpu(&self, m: &Host) {
        let ([from, to], c, map) = (self.map.values(), self.map.c, self.map);
        let x = m.f(self.x);
        m.f_mut(self.y).par_chunks_mut(to).zip(x.par_chunks(from)).for_each(|(y, x)| {
            y.fill(0.0);
            map.pairs().for_each(|(x_at, y_at)| y[y_at..][..c].copy_from_slice(&x[x_at..][..c]));
        });
    }
    fn gpu(&self, g: &Gpu) {
        let [high, wide] = self.map.halves();
        let launch = Launch::rows(g, "shortcut_fwd", self.map.n * high * wide, 2 * self.map.c);
        g.launch(&launch, &[&[self.y.into(), self.x.into()][..], &self.map.sizes()].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let [_, to] = self.map.values();
        // Half of the result is read, all of it is written.
        Cost { flops: 0, bytes: element * (self.map.n * (to + to / 2)) as u64 }
    }
}

struct Backward {
    dx: Grad, // [n, h, w, c]
    dy: Var,  // [n, h / 2, w / 2, 2 c]
    map: Map,
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "shortcut_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        let ([from, to], c, map, add) = (self.map.values(), self.map.c, self.map, self.dx.add);
        let dy = m.f(self.dy);
        m.f_mut(self.dx.var).par_chunks_mut(from).zip(dy.par_chunks(to)).for_each(|(dx, dy)| {
            if !add {
                dx.fill(0.0);
            }
            for (x_at, y_at) in map.pairs() {
                dx[x_at..][..c].iter_mut().zip(&dy[y_at..][..c]).for_each(|(dx, dy)| *dx += dy);
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let Map { n, h, w, c } = self.map;
        // Where others have added already only the pixels that stay are touched.
        let [high, wide] = if self.dx.add { self.map.halves() } else { [h, w] };
        let launch = Launch::rows(g, "shortcut_bwd", n * high * wide, c);
        let args = [&[self.dx.var.into(), self.dy.into(), self.dx.add.into()][..], &self.map.sizes()].concat();
        g.launch(&launch, &args);
    }
    fn cost(&self, element: u64) -> Cost {
        let ([from, to], n) = (self.map.values(), self.map.n);
        let touched = if self.dx.add { to } else { from };
        Cost { flops: (n * to / 2) as u64, bytes: element * (n * (to / 2 + touched)) as u64 }
    }
}

pub static CASES: &[Case] = &[
    Case { name: "shortcut/one", mode: Mode::Train, inputs: &[&[1, 1, 1, 2]], build: |s, x| s.shortcut(x[0]) },
    Case { name: "shortcut/odd", mode: Mode::Train, inputs: &[&[2, 5, 7, 6]], build: |s, x| s.shortcut(x[0]) },
    Case { name: "shortcut/even", mode: Mode::Train, inputs: &[&[3, 8, 6, 16]], build: |s, x| s.shortcut(x[0]) },
];
