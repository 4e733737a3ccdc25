//! A device whose cache is cold whenever it takes the time: between two calls of a real step the caches hold something else.

use sslmem::device::signature::MAP;
use sslmem::device::{Capabilities, GpuDevice, Launch, Matrix, Replay};
use sslmem::error::Result;
use sslmem::var::Dtype;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Like the device inside, except that [`GpuDevice::time`] first copies memory that is larger than any cache.
pub struct Cold {
    inner: Rc<dyn GpuDevice>,
    buffers: [u64; 2],
    bytes: usize,
    /// The kernels that were launched since they were last asked for.
    launched: RefCell<BTreeSet<&'static str>>,
}

impl Cold {
    pub fn new(inner: Rc<dyn GpuDevice>, bytes: usize) -> Result<Cold> {
        let buffers = [inner.alloc(bytes)?, inner.alloc(bytes)?];
        inner.upload(buffers[0], &vec![1; bytes])?;
        Ok(Cold { inner, buffers, bytes, launched: RefCell::default() })
    }
    /// The names of the kernels launched since the last time, so that a number says what was measured.
    pub fn take_launched(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.launched.borrow_mut()).into_iter().collect()
    }
}

impl Drop for Cold {
    fn drop(&mut self) {
        self.buffers.iter().for_each(|&address| self.inner.free(address));
    }
}

impl GpuDevice for Cold {
    fn dtype(&self) -> Dtype {
        self.inner.dtype()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
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
        self.launched.borrow_mut().insert(launch.kernel);
        self.inner.launch(launch, words)
    }
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Replay>> {
        self.inner.capture(work)
    }
    /// While the card copies, the host gets ahead: the time of a short kernel holds no wait for its launch.
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        let [from, to] = self.buffers;
        self.inner.launch(&copy(self.bytes), &[to, from, self.bytes as u64 / 16])?;
        self.inner.time(work)
    }
}

/// A copy of so many bytes, by a grid that fills any card.
pub fn copy(bytes: usize) -> Launch {
    let grid = (bytes / 16).div_ceil(256 * 4).clamp(1, 4096) as u32;
    Launch { kernel: "measure_copy", grid: [grid, 1, 1], block: [256, 1, 1], shared: 0 }
}
