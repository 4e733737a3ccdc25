//! Every op by itself at the sizes of real training: matrix products, the convolutions of ResNets, losses, optimizers, distances.

use crate::programs::{ADAM, fill, input};
use crate::{Bench, Job};
use sslmem::error::Result;
use sslmem::ops::alignment::Pairs;
use sslmem::ops::conv::Filter;
use sslmem::ops::distill::Distill;
use sslmem::ops::optimize::{Dialect, Rule, Treat};
use sslmem::schedule::Schedule;
use sslmem::tape::{Mode, Scope, Tape};
use sslmem::var::{Dtype, Var};
use sslmem::weights::{Init, Weights};

pub const JOBS: &[Job] = &[
    ("linear", linear),
    ("conv/resnet18", |bench| convolutions(bench, "resnet18", 1024, RESNET18)),
    ("conv/resnet50", |bench| convolutions(bench, "resnet50", 128, RESNET50)),
    ("alignment", alignment),
    ("contrast", contrast),
    ("transformer", |bench| bench.ops(TRANSFORMER)),
    ("losses", |bench| bench.ops(LOSSES)),
    ("optimize", optimize),
];

/// Shapes of what an op reads.
type Shapes = &'static [&'static [usize]];

/// An op with its gradient, at a real size and at one to go through the motions.
pub struct Op {
    name: &'static str,
    inputs: Shapes,
    tiny: Shapes,
    build: fn(&mut Scope, &[Var]) -> Var,
}

/// What a ViT-B/16 does between its products, for 64 images.
const TRANSFORMER: &[Op] = &[
    Op { name: "64x197x12x64", inputs: &[&[64, 197, 3 * 768]], tiny: &[&[1, 5, 3 * 768]], build: |s, x| s.attention(x[0], 12) },
    Op { name: "64x197x768", inputs: &[&[64, 197, 768]], tiny: &[&[1, 5, 768]], build: |s, x| s.layer_norm(x[0], 1e-6, false) },
];

/// The losses at the sizes of their authors' recipes.
const LOSSES: &[Op] = &[
    Op {
        name: "mocov3/4096x256",
        inputs: &[&[4096, 256], &[4096, 256]],
        tiny: &[&[16, 32], &[16, 32]],
        build: |s, x| s.info_nce(x[0], x[1], 0.2),
    },
    Op { name: "simsiam/512x2048", inputs: &[&[512, 2048], &[512, 2048]], tiny: &[&[8, 32], &[8, 32]], build: |s, x| s.cosine(x[0], x[1]) },
    Op {
        name: "barlow/2048x8192",
        inputs: &[&[2048, 8192], &[2048, 8192]],
        tiny: &[&[16, 32], &[16, 32]],
        build: |s, x| s.decorrelate(x[0], x[1], 0.0051, 0.024),
    },
    Op {
        name: "vicreg/2048x8192",
        inputs: &[&[2048, 8192], &[2048, 8192]],
        tiny: &[&[16, 32], &[16, 32]],
        build: |s, x| s.variance_covariance(x[0], x[1], [25.0, 25.0, 1.0]),
    },
    // Ten crops of a student, two views of its teacher.
    Op {
        name: "dino/640x65536",
        inputs: &[&[640, 65536], &[128, 65536]],
        tiny: &[&[10, 64], &[2, 64]],
        build: |s, x| {
            s.tape().ignore(x[1]);
            let when = Schedule::new(s.tape(), &[[0.0, 0.0, 0.0, 0.04]]);
            s.distill(x[0], x[1], &Distill { student_temperature: 0.1, center_momentum: 0.9, when }).loss
        },
    },
];

impl Bench {
    fn ops(&self, ops: &[Op]) -> Result<()> {
        for op in ops {
            self.in_time()?;
            let shapes = if self.tiny { op.tiny } else { op.inputs };
            let mut tape = Tape::new(Mode::Train);
            let inputs: Vec<Var> = shapes.iter().map(|dims| input(&mut tape, dims)).collect();
            inputs.iter().for_each(|x| tape.want(*x));
            let y = (op.build)(&mut tape.root().at("op"), &inputs);
            let shape = tape.shape(y);
            let dy = tape.fixed_like(y);
            tape.seed(y, dy);
            tape.reverse();
            let mut program = tape.compile(&mut Weights::on(self.device.clone(), 0))?;
            let filled = inputs.iter().copied().zip(shapes.iter().map(|dims| dims.iter().product()));
            fill(&mut program, &filled.chain([(dy, shape.len())]).collect::<Vec<_>>())?;
            self.calls(op.name, program)?;
        }
        Ok(())
    }
}

/// Rows, inputs, outputs: how close to the card, and the shapes of a transformer's layers.
fn linear(bench: &Bench) -> Result<()> {
    for [rows, inputs, outputs] in [[8192, 8192, 8192], [4096, 4096, 4096], [50_176, 768, 768], [50_432, 768, 3072]] {
        bench.in_time()?;
        let case = format!("{rows}x{inputs}x{outputs}");
        let [rows, inputs, outputs] = [rows, inputs, outputs].map(|n| bench.size(n, 24));
        let mut tape = Tape::new(Mode::Train);
        let (x, dy) = (input(&mut tape, &[rows, inputs]), input(&mut tape, &[rows, outputs]));
        tape.want(x);
        let y = tape.root().linear(x, outputs, false);
        tape.seed(y, dy);
        tape.reverse();
        let mut program = tape.compile(&mut Weights::on(bench.device.clone(), 0))?;
        fill(&mut program, &[(x, rows * inputs), (dy, rows * outputs)])?;
        bench.calls(&case, program)?;
    }
    Ok(())
}

/// Height and width, channels in and out, kernel, stride: each different convolution of a ResNet-18 for 32 x 32 images.
const RESNET18: &[[usize; 5]] = &[
    [32, 3, 64, 3, 1],
    [32, 64, 64, 3, 1],
    [32, 64, 128, 3, 2],
    [32, 64, 128, 1, 2],
    [16, 128, 128, 3, 1],
    [16, 128, 256, 3, 2],
    [8, 256, 256, 3, 1],
    [8, 256, 512, 3, 2],
    [4, 512, 512, 3, 1],
];

/// Those of a ResNet-50 for 224 x 224 images, without the strided shortcuts of the later stages.
const RESNET50: &[[usize; 5]] = &[
    [224, 3, 64, 7, 2],
    [56, 64, 64, 1, 1],
    [56, 64, 64, 3, 1],
    [56, 64, 256, 1, 1],
    [56, 256, 64, 1, 1],
    [56, 256, 512, 1, 2],
    [56, 128, 128, 3, 2],
    [28, 128, 128, 3, 1],
    [28, 128, 512, 1, 1],
    [28, 512, 128, 1, 1],
    [14, 256, 256, 3, 1],
    [14, 256, 1024, 1, 1],
    [14, 1024, 256, 1, 1],
    [7, 512, 512, 3, 1],
    [7, 512, 2048, 1, 1],
    [7, 2048, 512, 1, 1],
];

fn convolutions(bench: &Bench, net: &str, batch: usize, layers: &[[usize; 5]]) -> Result<()> {
    for &[side, channels, outputs, kernel, stride] in &layers[..bench.size(layers.len(), 2)] {
        bench.in_time()?;
        let case = format!("{net}/{side}x{side}x{channels}-{outputs}k{kernel}s{stride}");
        let (batch, side) = (bench.size(batch, 2), bench.size(side, 8));
        let [channels, outputs] = [channels, outputs].map(|n| if n == 3 { 3 } else { bench.size(n, 16) });
        let mut tape = Tape::new(Mode::Train);
        let x = input(&mut tape, &[batch, side, side, channels]);
        if channels != 3 {
            tape.want(x);
        }
        let y = tape.root().conv_norm(["conv", "bn"], x, Filter { outputs, kernel, stride }, None, true);
        let shape = tape.shape(y);
        let dy = input(&mut tape, shape.dims());
        tape.seed(y, dy);
        tape.reverse();
        let mut program = tape.compile(&mut Weights::on(bench.device.clone(), 0))?;
        fill(&mut program, &[(x, batch * side * side * channels), (dy, shape.len())])?;
        bench.calls(&case, program)?;
    }
    Ok(())
}

fn alignment(bench: &Bench) -> Result<()> {
    for width in [512, 2048] {
        let (samples, cols) = (bench.size(65_536 * 512 / width, 3), bench.size(width, 40));
        let mut tape = Tape::new(Mode::Eval);
        let x = input(&mut tape, &[5 * samples, cols]);
        let y = tape.root().alignment(x, 5, Pairs::All);
        tape.keep(y);
        let mut program = tape.compile(&mut Weights::on(bench.device.clone(), 0))?;
        fill(&mut program, &[(x, 5 * samples * cols)])?;
        bench.calls(&format!("5x{width}"), program)?;
    }
    Ok(())
}

fn contrast(bench: &Bench) -> Result<()> {
    for views in [1024, 8192] {
        let rows = bench.size(views, 32);
        let mut tape = Tape::new(Mode::Train);
        let z = input(&mut tape, &[rows, 128]);
        tape.want(z);
        let loss = tape.root().contrast(z, 0.5);
        tape.backward(loss);
        let mut program = tape.compile(&mut Weights::on(bench.device.clone(), 0))?;
        fill(&mut program, &[(z, rows * 128)])?;
        bench.calls(&format!("{views}x128"), program)?;
    }
    Ok(())
}

/// About the tensors of a ResNet-50: 25 million weights in matrices, and many short vectors.
fn optimize(bench: &Bench) -> Result<()> {
    let rules = [
        ("sgd", Rule::Sgd { momentum: 0.9 }),
        ("adam", ADAM),
        ("lars", Rule::Lars { momentum: 0.9, trust: 1e-3, dialect: Dialect::Plain }),
    ];
    for (name, rule) in rules {
        let mut tape = Tape::new(Mode::Train);
        let side = bench.size(1024, 20);
        let shapes = std::iter::repeat_n(vec![side, side], bench.size(24, 2))
            .chain(std::iter::repeat_n(vec![bench.size(512, 7)], bench.size(106, 3)));
        let mut gradients = vec![];
        for (i, shape) in shapes.enumerate() {
            let w = tape.root().param(&format!("w{i}"), &shape[..], Init::Uniform(0.05));
            let g = tape.fixed(&shape[..], Dtype::F32);
            tape.seed(w, g);
            gradients.push((g, shape.iter().product()));
        }
        let when = Schedule::new(&mut tape, &[[1e-3, 1e-4, 0.0, 0.0]]);
        tape.optimize(rule, 0.0, &|_, _| Treat::default(), when);
        let mut program = tape.compile(&mut Weights::on(bench.device.clone(), 0))?;
        fill(&mut program, &gradients)?;
        bench.calls(name, program)?;
    }
    Ok(())
}
