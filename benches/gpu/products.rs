//! The kernels that make the same product, side by side on one card: what decides which of them a card should choose.

use crate::programs::{fill, input};
use crate::{Bench, Job, Line};
use sslmem::device::signature::MAP;
use sslmem::device::{Device, Launch, Matrix, Products, Queue, Replay};
use sslmem::error::Result;
use sslmem::ops::conv::Filter;
use sslmem::ops::linear::{After, Dense};
use sslmem::tape::{Cost, Mode, Scope, Tape};
use sslmem::var::{Dtype, Var};
use sslmem::weights::{Init, Weights};
use std::rc::Rc;

pub const JOBS: &[Job] = &[("products", products)];

/// A card that multiplies by kernels that are named, not chosen.
struct Choosing {
    inner: Rc<dyn Queue>,
    products: Products,
}

impl Queue for Choosing {
    fn real(&self) -> Dtype {
        self.inner.real()
    }
    fn shared(&self) -> usize {
        self.inner.shared()
    }
    fn products(&self) -> Products {
        self.products
    }
    fn multiprocessors(&self) -> usize {
        self.inner.multiprocessors()
    }
    fn map(&self, address: u64, matrix: &Matrix) -> Result<[u64; MAP]> {
        self.inner.map(address, matrix)
    }
    fn name(&self) -> String {
        self.inner.name()
    }
    fn alloc(&self, bytes: usize) -> Result<u64> {
        self.inner.alloc(bytes)
    }
    fn free(&self, address: u64) {
        self.inner.free(address)
    }
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.inner.upload(to, bytes)
    }
    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.inner.download(from, bytes)
    }
    fn launch(&self, launch: &Launch, words: &[u64]) -> Result<()> {
        self.inner.launch(launch, words)
    }
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Replay>> {
        self.inner.capture(work)
    }
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        self.inner.time(work)
    }
}

/// A layer in evaluation: its input at a real size and at one to go through the motions.
struct Layer {
    name: &'static str,
    input: &'static [usize],
    tiny: &'static [usize],
    build: fn(&mut Scope, Var) -> Var,
}

fn dense(s: &mut Scope, x: Var, outputs: usize, after: After) -> Var {
    s.at("fc").dense(x, &Dense { outputs, bias: false, weight: Init::Normal(0.02), shape: None, after })
}

fn conv(s: &mut Scope, x: Var, outputs: usize, kernel: usize, stride: usize) -> Var {
    s.conv_norm(["conv", "bn"], x, Filter { outputs, kernel, stride }, None, true)
}

const LAYERS: &[Layer] = &[
    Layer { name: "8192x8192x8192", input: &[8192, 8192], tiny: &[24, 32], build: |s, x| dense(s, x, 8192, After::Nothing) },
    Layer { name: "50432x768x3072 gelu", input: &[50432, 768], tiny: &[24, 32], build: |s, x| dense(s, x, 3072, After::Gelu) },
    Layer { name: "50432x3072x768", input: &[50432, 3072], tiny: &[24, 32], build: |s, x| dense(s, x, 768, After::Nothing) },
    Layer { name: "50432x768x768", input: &[50432, 768], tiny: &[24, 32], build: |s, x| dense(s, x, 768, After::Nothing) },
    Layer { name: "3x3 14x14x256", input: &[256, 14, 14, 256], tiny: &[2, 4, 4, 16], build: |s, x| conv(s, x, 256, 3, 1) },
    Layer { name: "3x3 28x28x128", input: &[256, 28, 28, 128], tiny: &[2, 4, 4, 16], build: |s, x| conv(s, x, 128, 3, 1) },
    Layer { name: "1x1 56x56x64-256", input: &[256, 56, 56, 64], tiny: &[2, 4, 4, 16], build: |s, x| conv(s, x, 256, 1, 1) },
    Layer { name: "1x1 14x14x1024-256", input: &[256, 14, 14, 1024], tiny: &[2, 4, 4, 16], build: |s, x| conv(s, x, 256, 1, 1) },
];

fn products(bench: &Bench) -> Result<()> {
    let with = |hopper, tma, wide| Products { hopper, tma, wide, wide_hopper: wide };
    let all = [
        ("by TMA", with(true, true, usize::MAX)),
        ("hopper 128x128", with(true, false, usize::MAX)),
        ("hopper 128x256", with(true, false, 0)),
        ("portable 128x128", with(false, false, usize::MAX)),
        ("portable 128x256", with(false, false, 0)),
    ];
    let own = bench.queue.products();
    // Where the kernels are others than the program's, they are those for Hopper: the rest was measured without the label.
    let variants: Vec<_> = all.into_iter().filter(|(_, p)| if p.hopper { own.hopper } else { bench.label.is_empty() }).collect();
    for layer in LAYERS {
        let dims = if bench.tiny { layer.tiny } else { layer.input };
        for &(variant, products) in &variants {
            bench.in_time()?;
            let queue = Rc::new(Choosing { inner: bench.queue.clone(), products });
            let mut tape = Tape::new(Mode::Eval);
            let x = input(&mut tape, dims);
            let y = (layer.build)(&mut tape.root(), x);
            tape.keep(y);
            let mut program = tape.compile(&mut Weights::on(Device::Gpu(queue), 0))?;
            fill(&mut program, &[(x, dims.iter().product())])?;
            program.run()?;
            let i = program.calls().iter().position(|(name, _)| name.ends_with("_fwd")).expect("a layer has a product");
            let seconds = bench.seconds(|| program.run_call(i))?;
            let Cost { flops, .. } = program.profile()?.iter().find(|(name, ..)| name.ends_with("_fwd")).expect("as above").2;
            let name = format!("products/{}/{variant}{}", layer.name, bench.label);
            bench.tell(Line {
                value: flops as f64 / seconds / 1e12,
                unit: "TFLOP/s",
                ..Line::kernel(name, seconds, Cost { flops, bytes: 0 })
            });
        }
    }
    Ok(())
}
