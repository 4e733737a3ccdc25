//! A wrapper of a device: it fills memory with values that expose mistakes, and can force other kernels than the device would choose.

use sslmem::device::signature::MAP;
use sslmem::device::{Capabilities, GpuDevice, Launch, Matrix, Replay};
use sslmem::error::Result;
use sslmem::var::Dtype;
use std::cell::Cell;
use std::rc::Rc;

/// What new memory holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// What the device leaves in it.
    Nothing,
    /// All ones, NaN in each type: what is read before it is written spoils the result.
    Ones,
    /// All ones and all zeros by turns: two programs find different things, as they do where others have used the memory before.
    Alternating,
}

pub struct Around {
    inner: Rc<dyn GpuDevice>,
    fill: Fill,
    capabilities: Capabilities,
    /// How often memory was asked for.
    pub allocated: Cell<usize>,
}

impl Around {
    pub fn new(inner: Rc<dyn GpuDevice>, fill: Fill) -> Rc<Around> {
        let capabilities = inner.capabilities();
        Around::choosing(inner, fill, capabilities)
    }
    /// Chooses kernels by these capabilities.
    pub fn choosing(inner: Rc<dyn GpuDevice>, fill: Fill, capabilities: Capabilities) -> Rc<Around> {
        Rc::new(Around { inner, fill, capabilities, allocated: Cell::new(0) })
    }
}

impl GpuDevice for Around {
    fn dtype(&self) -> Dtype {
        self.inner.dtype()
    }
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }
    fn map(&self, address: u64, matrix: &Matrix) -> Result<[u64; MAP]> {
        self.inner.map(address, matrix)
    }
    fn name(&self) -> String {
        self.inner.name()
    }
    fn alloc(&self, bytes: usize) -> Result<u64> {
        let address = self.inner.alloc(bytes)?;
        let turn = self.allocated.replace(self.allocated.get() + 1);
        let byte = if self.fill == Fill::Alternating && turn % 2 == 1 { 0 } else { 0xff };
        if self.fill != Fill::Nothing {
            self.inner.upload(address, &vec![byte; bytes])?;
        }
        Ok(address)
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
