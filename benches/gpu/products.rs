//! The kernels that make the same product, side by side on one card: what decides which of them a card should choose.

use crate::around::{Around, Fill};
use crate::programs::{fill, input};
use crate::{Bench, Job, Line};
use sslmem::device::{Capabilities, Device};
use sslmem::error::Result;
use sslmem::init::Init;
use sslmem::ops::conv::Filter;
use sslmem::ops::linear::{Dense, Epilogue};
use sslmem::tape::{Cost, Mode, Scope, Tape};
use sslmem::var::Var;
use sslmem::weights::Weights;

pub const JOBS: &[Job] = &[("products", products)];

/// A layer in evaluation: its input at a real size and at one to go through the motions.
struct Layer {
    name: &'static str,
    input: &'static [usize],
    tiny: &'static [usize],
    build: fn(&mut Scope, Var) -> Var,
}

fn dense(s: &mut Scope, x: Var, outputs: usize, epilogue: Epilogue) -> Var {
    s.at("fc").dense(x, &Dense { outputs, bias: false, weight: Init::Normal(0.02), shape: None, epilogue })
}

fn conv(s: &mut Scope, x: Var, outputs: usize, kernel: usize, stride: usize) -> Var {
    s.conv_norm(["conv", "bn"], x, Filter::same(outputs, kernel, stride), None, true)
}

const LAYERS: &[Layer] = &[
    Layer { name: "8192x8192x8192", input: &[8192, 8192], tiny: &[24, 32], build: |s, x| dense(s, x, 8192, Epilogue::Nothing) },
    Layer { name: "50432x768x3072 gelu", input: &[50432, 768], tiny: &[24, 32], build: |s, x| dense(s, x, 3072, Epilogue::Gelu) },
    Layer { name: "50432x3072x768", input: &[50432, 3072], tiny: &[24, 32], build: |s, x| dense(s, x, 768, Epilogue::Nothing) },
    Layer { name: "50432x768x768", input: &[50432, 768], tiny: &[24, 32], build: |s, x| dense(s, x, 768, Epilogue::Nothing) },
    Layer { name: "3x3 14x14x256", input: &[256, 14, 14, 256], tiny: &[2, 4, 4, 16], build: |s, x| conv(s, x, 256, 3, 1) },
    Layer { name: "3x3 28x28x128", input: &[256, 28, 28, 128], tiny: &[2, 4, 4, 16], build: |s, x| conv(s, x, 128, 3, 1) },
    Layer { name: "1x1 56x56x64-256", input: &[256, 56, 56, 64], tiny: &[2, 4, 4, 16], build: |s, x| conv(s, x, 256, 1, 1) },
    Layer { name: "1x1 14x14x1024-256", input: &[256, 14, 14, 1024], tiny: &[2, 4, 4, 16], build: |s, x| conv(s, x, 256, 1, 1) },
];

fn products(bench: &Bench) -> Result<()> {
    let own = bench.gpu.capabilities();
    let with = |wgmma, tma, wide| Capabilities { wgmma, tma, wide, deep: wide, ..own };
    let all = [
        ("by TMA", with(true, true, usize::MAX)),
        ("hopper 128x128", with(true, false, usize::MAX)),
        ("hopper 128x256", with(true, false, 0)),
        ("portable 128x128", with(false, false, usize::MAX)),
        ("portable 128x256", with(false, false, 0)),
    ];
    let variants: Vec<_> = all.into_iter().filter(|(_, chosen)| own.wgmma || !chosen.wgmma).collect();
    for layer in LAYERS {
        let dims = if bench.tiny { layer.tiny } else { layer.input };
        for &(variant, chosen) in &variants {
            bench.in_time()?;
            let gpu = Around::choosing(bench.gpu.clone(), Fill::Nothing, chosen);
            let mut tape = Tape::new(Mode::Eval);
            let x = input(&mut tape, dims);
            let y = (layer.build)(&mut tape.root(), x);
            tape.keep(y);
            let mut program = tape.compile(&mut Weights::on(Device::Gpu(gpu), 0))?;
            fill(&mut program, &[(x, dims.iter().product())])?;
            program.run()?;
            let i = program.calls().iter().position(|(name, _)| name.ends_with("_fwd")).expect("a layer has a product");
            let seconds = bench.seconds(|| program.run_call(i))?;
            let Cost { flops, .. } = program.profile()?.iter().find(|(name, ..)| name.ends_with("_fwd")).expect("as above").2;
            let name = format!("products/{}/{variant}", layer.name);
            bench.tell(Line {
                value: flops as f64 / seconds / 1e12,
                unit: "TFLOP/s",
                ..Line::kernel(name, seconds, Cost { flops, bytes: 0 })
            });
        }
    }
    Ok(())
}
