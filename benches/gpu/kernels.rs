//! Every op by itself at the sizes of real training: matrix products, the convolutions of ResNets, losses, optimizers, distances.

use crate::programs::{ADAM, fill, input};
use crate::{Bench, Job};
use sslmem::error::Result;
use sslmem::init::Init;
use sslmem::ops::alignment::Pairs;
use sslmem::ops::conv::Filter;
use sslmem::ops::dino_loss::DinoLoss;
use sslmem::ops::optimize::{Algorithm, Gradients, LarsVariant, ParamGroup};
use sslmem::schedule::Schedule;
use sslmem::tape::{Mode, Scope, Tape};
use sslmem::var::{Dtype, Var};
use sslmem::weights::Weights;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The shapes that our kernels, cuBLASLt and PyTorch (`benches/rival_gpu.py`) are measured on: one list, so that every number has its counterpart.
#[derive(serde::Deserialize)]
pub struct Shapes {
    /// Rows, inputs, outputs, the most telling first: how close to the card, then the layers of a ViT-B/16 for 256 images (of attention
    /// the last, the first and the second of the MLP, queries with keys and values).
    pub linear: Vec<[usize; 3]>,
    conv: BTreeMap<String, Convolutions>,
    attention: Attention,
}

/// Each different convolution of a network, without a ResNet-50's strided shortcuts of the later stages.
#[derive(serde::Deserialize)]
struct Convolutions {
    batch: usize,
    /// Height and width, channels in and out, kernel, stride.
    layers: Vec<[usize; 5]>,
}

/// Images, tokens, heads, columns of a head.
#[derive(serde::Deserialize)]
struct Attention {
    /// With its gradient.
    train: [usize; 4],
    /// At the batch of `infer/vit_base`.
    infer: [usize; 4],
}

pub static SHAPES: LazyLock<Shapes> = LazyLock::new(|| serde_json::from_str(include_str!("shapes.json")).expect("has these fields"));

pub const JOBS: &[Job] = &[
    ("linear", linear),
    ("conv/resnet18", |bench| convolutions(bench, "resnet18")),
    ("conv/resnet50", |bench| convolutions(bench, "resnet50")),
    ("alignment", alignment),
    ("nt_xent", nt_xent),
    ("transformer", transformer),
    ("losses", |bench| bench.ops(LOSSES)),
    ("optimize", optimize),
];

/// Shapes of what an op reads.
type Inputs = &'static [&'static [usize]];

/// An op with its gradient, at a real size and at one to go through the motions.
pub struct Op {
    name: &'static str,
    inputs: Inputs,
    tiny: Inputs,
    build: fn(&mut Scope, &[Var]) -> Var,
}

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
        build: |s, x| s.barlow_twins_loss(x[0], x[1], 0.0051, 0.024),
    },
    Op {
        name: "vicreg/2048x8192",
        inputs: &[&[2048, 8192], &[2048, 8192]],
        tiny: &[&[16, 32], &[16, 32]],
        build: |s, x| s.vicreg_loss(x[0], x[1], [25.0, 25.0, 1.0]),
    },
    Op {
        name: "cross_entropy/1024x1000",
        inputs: &[&[1024, 1000]],
        tiny: &[&[8, 10]],
        build: |s, x| {
            let (n, classes) = (s.shape(x[0]).rows(), s.shape(x[0]).cols());
            let labels = s.tape().words([n], (0..n).map(|i| (i % classes) as u32).collect());
            s.cross_entropy(x[0], labels).loss
        },
    },
    // Ten crops of a student, two views of its teacher.
    Op {
        name: "dino/640x65536",
        inputs: &[&[640, 65536], &[128, 65536]],
        tiny: &[&[10, 64], &[2, 64]],
        build: |s, x| {
            s.tape().stop_gradient(x[1]);
            let schedule = Schedule::new(s.tape(), &[[0.0, 0.0, 0.0, 0.04]]);
            s.dino_loss(x[0], x[1], &DinoLoss { student_temperature: 0.1, center_momentum: 0.9, schedule }).loss
        },
    },
];

impl Bench {
    fn ops(&self, ops: &[Op]) -> Result<()> {
        ops.iter().try_for_each(|op| self.op(op.name, if self.tiny { op.tiny } else { op.inputs }, op.build))
    }
    /// An op with its gradient.
    fn op(&self, case: &str, shapes: &[&[usize]], build: impl Fn(&mut Scope, &[Var]) -> Var) -> Result<()> {
        self.in_time()?;
        let mut tape = Tape::new(Mode::Train);
        let inputs: Vec<Var> = shapes.iter().map(|dims| input(&mut tape, dims)).collect();
        inputs.iter().for_each(|x| tape.require_grad(*x));
        let y = build(&mut tape.root().at("op"), &inputs);
        let shape = tape.shape(y);
        let dy = tape.fixed_like(y);
        tape.seed(y, dy);
        tape.reverse();
        let mut program = tape.compile(&mut Weights::on(self.device.clone(), 0))?;
        let filled = inputs.iter().copied().zip(shapes.iter().map(|dims| dims.iter().product()));
        fill(&mut program, &filled.chain([(dy, shape.len())]).collect::<Vec<_>>())?;
        self.calls(case, program)
    }
}

/// The ops of a ViT that are no matrix products: attention and layer norm.
fn transformer(bench: &Bench) -> Result<()> {
    let case = |[images, tokens, heads, head]: [usize; 4]| format!("{images}x{tokens}x{heads}x{head}");
    let size = |[images, tokens, heads, head]: [usize; 4]| [bench.size(images, 1), bench.size(tokens, 5), heads * head];
    let Attention { train, infer } = SHAPES.attention;
    let ([images, tokens, width], heads) = (size(train), train[2]);
    bench.op(&case(train), &[&[images, tokens, 3 * width]], |s, x| s.attention(x[0], heads))?;
    let norm = format!("{}x{}x{}", train[0], train[1], width);
    bench.op(&norm, &[&[images, tokens, width]], |s, x| s.layer_norm(x[0], 1e-6, false))?;
    bench.in_time()?;
    let ([images, tokens, width], heads) = (size(infer), infer[2]);
    let mut tape = Tape::new(Mode::Eval);
    let qkv = input(&mut tape, &[images, tokens, 3 * width]);
    let y = tape.root().attention(qkv, heads);
    tape.keep(y);
    let mut program = tape.compile(&mut Weights::on(bench.device.clone(), 0))?;
    fill(&mut program, &[(qkv, images * tokens * 3 * width)])?;
    bench.calls(&case(infer), program)
}

fn linear(bench: &Bench) -> Result<()> {
    for [rows, inputs, outputs] in SHAPES.linear.iter().copied() {
        bench.in_time()?;
        let case = format!("{rows}x{inputs}x{outputs}");
        let [rows, inputs, outputs] = [rows, inputs, outputs].map(|n| bench.size(n, 24));
        let mut tape = Tape::new(Mode::Train);
        let (x, dy) = (input(&mut tape, &[rows, inputs]), input(&mut tape, &[rows, outputs]));
        tape.require_grad(x);
        let y = tape.root().linear(x, outputs, false);
        tape.seed(y, dy);
        tape.reverse();
        let mut program = tape.compile(&mut Weights::on(bench.device.clone(), 0))?;
        fill(&mut program, &[(x, rows * inputs), (dy, rows * outputs)])?;
        bench.calls(&case, program)?;
    }
    Ok(())
}

fn convolutions(bench: &Bench, net: &str) -> Result<()> {
    let Convolutions { batch, layers } = &SHAPES.conv[net];
    for &[side, channels, outputs, kernel, stride] in &layers[..bench.size(layers.len(), 2)] {
        bench.in_time()?;
        let case = format!("{net}/{side}x{side}x{channels}-{outputs}k{kernel}s{stride}");
        let (batch, side) = (bench.size(*batch, 2), bench.size(side, 8));
        let [channels, outputs] = [channels, outputs].map(|n| if n == 3 { 3 } else { bench.size(n, 16) });
        let mut tape = Tape::new(Mode::Train);
        let x = input(&mut tape, &[batch, side, side, channels]);
        if channels != 3 {
            tape.require_grad(x);
        }
        let y = tape.root().conv_norm(["conv", "bn"], x, Filter::same(outputs, kernel, stride), None, true);
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

fn nt_xent(bench: &Bench) -> Result<()> {
    for views in [1024, 8192] {
        let rows = bench.size(views, 32);
        let mut tape = Tape::new(Mode::Train);
        let z = input(&mut tape, &[rows, 128]);
        tape.require_grad(z);
        let loss = tape.root().nt_xent(z, 0.5);
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
        ("sgd", Algorithm::Sgd { momentum: 0.9 }),
        ("adam", ADAM),
        ("lars", Algorithm::Lars { momentum: 0.9, trust: 1e-3, variant: LarsVariant::Plain }),
    ];
    for (name, algorithm) in rules {
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
        let schedule = Schedule::new(&mut tape, &[[1e-3, 1e-4, 0.0, 0.0]]);
        tape.optimize(Gradients::of(&tape), algorithm, &|_, _| ParamGroup::default(), schedule);
        let mut program = tape.compile(&mut Weights::on(bench.device.clone(), 0))?;
        fill(&mut program, &gradients)?;
        bench.calls(name, program)?;
    }
    Ok(())
}
