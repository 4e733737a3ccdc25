//! The programs that both benchmarks time, CPU and GPU, on any device.

use sslmem::config::Recipe;
use sslmem::data::Source;
use sslmem::device::Device;
use sslmem::encoders::{self, EncoderConfig, Features, Stem};
use sslmem::error::Result;
use sslmem::methods::{self, Context};
use sslmem::ops::alignment::Pairs;
use sslmem::ops::augment::Batch;
use sslmem::ops::optimize::{Algorithm, Gradients, ParamGroup};
use sslmem::program::Program;
use sslmem::progress::Silent;
use sslmem::random::Purpose;
use sslmem::schedule::Schedule;
use sslmem::score::{EncoderFile, Layer, Protocol, score};
use sslmem::split::Subset;
use sslmem::tape::{Mode, Tape};
use sslmem::var::{Dtype, Var};
use sslmem::view::{View, policy};
use sslmem::weights::Weights;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A network with its input.
#[derive(Clone, Copy)]
pub struct Network {
    pub arch: &'static str,
    pub stem: Stem,
    /// Of a ViT.
    pub patch: usize,
    /// Height and width of an image.
    pub size: usize,
    /// Images, or views, per run.
    pub batch: usize,
}

impl Network {
    pub fn built(&self) -> Result<encoders::Network> {
        let config = EncoderConfig { stem: self.stem, patch: self.patch, ..EncoderConfig::of(self.size) };
        Ok(encoders::Network { encoder: encoders::find(self.arch)?, config })
    }
}

pub const ADAM: Algorithm = Algorithm::Adam { betas: [0.9, 0.999], eps: 1e-8, decoupled: false };

/// Values in [-0.5, 0.5) with no pattern that a matrix product could meet.
pub fn values(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| (i.wrapping_mul(2654435761) >> 8) as f32 / (1 << 24) as f32 - 0.5).collect()
}

pub fn view(name: &str, size: usize) -> View {
    policy(name, size).expect("is in the table")
}

/// An activation that is there before the program runs; fill it with [`fill`].
pub fn input(tape: &mut Tape, dims: &[usize]) -> Var {
    tape.fixed(dims, Dtype::Activation)
}

pub fn fill(program: &mut Program, inputs: &[(Var, usize)]) -> Result<()> {
    let longest = inputs.iter().map(|(_, len)| *len).max().unwrap_or(0);
    let data = values(longest);
    inputs.iter().try_for_each(|&(v, len)| program.write(v, &data[..len]))
}

pub fn inference(device: &Device, n: Network) -> Result<Program> {
    let mut tape = Tape::new(Mode::Eval);
    let x = input(&mut tape, &[n.batch, n.size, n.size, 3]);
    let y = n.built()?.features(&mut tape.root().at("encoder"), x);
    tape.keep(y);
    let mut program = tape.compile(&mut Weights::on(device.clone(), 0))?;
    fill(&mut program, &[(x, n.batch * n.size * n.size * 3)])?;
    Ok(program)
}

/// From views [2 * samples, size, size, 3] to changed weights: SimCLR with Adam, for at most 100,000 steps.
pub fn record_training(tape: &mut Tape, n: Network, views: Var) -> Result<()> {
    let (schedule, batch) = (Schedule::new(tape, &vec![[1e-3, 1e-6, 0.0, 0.0]; 100_000]), tape.batch(1, 3));
    let options = Recipe::default().method;
    let context = Context { network: n.built()?, options: &options, schedule, batch, classes: 0, seed: 0 };
    let recorded = methods::find("simclr")?.loss(&mut tape.root(), &context, &[views]);
    tape.backward(recorded.loss);
    tape.optimize(Gradients::of(tape), ADAM, &|_, _| ParamGroup::default(), schedule);
    let log = tape.fixed([1, 1], Dtype::F32);
    tape.log_step(schedule, log, &[recorded.loss]);
    Ok(())
}

/// One step whose views are there already, as they are for the rival.
pub fn training(device: &Device, n: Network) -> Result<Program> {
    let mut tape = Tape::new(Mode::Train);
    let views = input(&mut tape, &[n.batch, n.size, n.size, 3]);
    record_training(&mut tape, n, views)?;
    let mut program = tape.compile(&mut Weights::on(device.clone(), 0))?;
    fill(&mut program, &[(views, n.batch * n.size * n.size * 3)])?;
    Ok(program)
}

/// `n` views of one image of this size.
pub fn augmentation(device: &Device, policy: &str, size: usize, n: usize, [h, w]: [usize; 2]) -> Result<Program> {
    let mut tape = Tape::new(Mode::Eval);
    let batch: Batch = tape.batch(n, h * w * 3);
    let y = tape.augment(batch, vec![view(policy, size)], 0, 0, Purpose::Train);
    tape.keep(y);
    let mut program = tape.compile(&mut Weights::on(device.clone(), 0))?;
    let pixels: Vec<u8> = (0..n * h * w * 3).map(|i| (i * 7919 % 251) as u8).collect();
    let table: Vec<u32> = (0..n).flat_map(|i| [(i * h * w * 3) as u32, h as u32, w as u32]).collect();
    let keys: Vec<u32> = (0..n).flat_map(|i| [0, i as u32]).collect();
    program.write(batch.pixels, &pixels)?;
    program.write(batch.table, &table)?;
    program.write(batch.keys, &keys)?;
    Ok(program)
}

/// Two untrained encoders in files, to be scored with five views.
pub struct Scoring {
    device: Device,
    paths: [PathBuf; 2],
    network: Network,
    protocol: Protocol,
}

impl Scoring {
    pub fn new(device: &Device, folder: &Path, n: Network) -> Result<Scoring> {
        let paths = ["f", "g"].map(|name| folder.join(format!("{}-{name}.safetensors", n.arch)));
        for (seed, path) in paths.iter().enumerate() {
            let mut tape = Tape::new(Mode::Eval);
            let x = input(&mut tape, &[1, n.size, n.size, 3]);
            n.built()?.features(&mut tape.root().at("encoder"), x);
            let mut weights = Weights::new(seed as u64);
            tape.compile(&mut weights)?;
            weights.save(path, "encoder.", &BTreeMap::new())?;
        }
        let protocol = Protocol { views: 5, pairs: Pairs::All, layers: vec![Layer::Output(Features::Pooled)], seed: 0, batch: n.batch };
        Ok(Scoring { device: device.clone(), paths, network: n, protocol })
    }
    /// From the source's images to two alignment losses for each of `count` samples.
    pub fn run(&self, source: &dyn Source, count: usize) -> Result<()> {
        let network = self.network.built()?;
        let [view, original] = ["score", "original"].map(|name| view(name, self.network.size));
        let side = |i: usize| EncoderFile { path: &self.paths[i], network, view, original, classifier: None };
        let samples: Vec<(u32, Subset)> = (0..count as u32).map(|i| (i, Subset::Candidate)).collect();
        score(side(0), side(1), &self.protocol, source, &samples, &self.device, &mut Silent).map(|_| ())
    }
}
