//! Images in memory, and a training step that begins with them.

use crate::programs::{Network, record_training, view};
use sslmem::data::{Image, Source};
use sslmem::device::Device;
use sslmem::error::Result;
use sslmem::loader::load;
use sslmem::ops::augment::Batch;
use sslmem::program::Program;
use sslmem::random::Purpose;
use sslmem::tape::{Mode, Tape};
use sslmem::weights::Weights;

/// Decoded images in memory.
pub struct Decoded(pub Vec<Image>);

impl Decoded {
    pub fn new(source: &dyn Source, count: usize) -> Result<Decoded> {
        Ok(Decoded((0..count).map(|i| source.image(i % source.len())).collect::<Result<_>>()?))
    }
}

impl Source for Decoded {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn train_len(&self) -> usize {
        self.0.len()
    }
    fn id(&self, index: usize) -> String {
        index.to_string()
    }
    fn label(&self, _: usize) -> Option<u32> {
        None
    }
    fn classes(&self) -> &[String] {
        &[]
    }
    fn digest(&self) -> &str {
        ""
    }
    fn largest(&self) -> usize {
        self.0.iter().map(|image| image.pixels.len()).max().unwrap_or(0)
    }
    fn image(&self, index: usize) -> Result<Image> {
        Ok(self.0[index].clone())
    }
}

/// A training step from decoded images: `n.batch` views of half as many samples.
pub struct Step {
    program: Program,
    batch: Batch,
    at: u32,
}

impl Step {
    pub fn new(device: &Device, n: Network, policy: &str, largest: usize) -> Result<Step> {
        let mut tape = Tape::new(Mode::Train);
        let batch = tape.batch(n.batch / 2, largest);
        let views = tape.augment(batch, vec![view(policy, n.size); 2], 0, 5, Purpose::Train);
        record_training(&mut tape, n, views)?;
        let program = tape.compile(&mut Weights::on(device.clone(), 3))?;
        Ok(Step { program, batch, at: 0 })
    }
    /// The next samples of the source, in its order, over and over.
    pub fn run(&mut self, source: &dyn Source) -> Result<()> {
        let (count, n) = (source.len() as u32, self.batch.n as u32);
        let ids: Vec<u32> = (0..n).map(|i| (self.at * n + i) % count).collect();
        load(&mut self.program, &self.batch, source, &ids, self.at * n / count)?;
        self.at += 1;
        self.program.run()
    }
}
