//! What the card can do at best, measured with the plainest kernels: the numbers that others are divided by.

use crate::cold::copy;
use crate::{Bench, Job, Line};
use sslmem::device::{GpuDevice, Launch};
use sslmem::error::Result;
use sslmem::tape::Cost;

pub const JOBS: &[Job] =
    &[("ceiling/copy", memory), ("ceiling/l2", cache), ("ceiling/mma", matrix), ("ceiling/upload", upload), ("ceiling/launch", gap)];

/// Memory of the card for the time of a measurement.
struct Memory<'q> {
    gpu: &'q dyn GpuDevice,
    address: u64,
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        self.gpu.free(self.address);
    }
}

fn memory_of(bench: &Bench, bytes: usize) -> Result<Memory<'_>> {
    let memory = Memory { gpu: &*bench.gpu, address: bench.gpu.alloc(bytes)? };
    // Made once for 4 MiB: a card waits while the host makes noise.
    let noise: Vec<u8> = (0..bytes.min(4 << 20) as u32 / 4).flat_map(|i| i.wrapping_mul(2654435761).to_le_bytes()).collect();
    for at in (0..bytes).step_by(4 << 20) {
        bench.gpu.upload(memory.address + at as u64, &noise[..noise.len().min(bytes - at)])?;
    }
    Ok(memory)
}

fn blocks(kernel: &'static str, grid: usize) -> Launch {
    Launch { kernel, grid: [grid as u32, 1, 1], block: [256, 1, 1], shared: 0 }
}

fn memory(bench: &Bench) -> Result<()> {
    let bytes = bench.size(1 << 30, 1 << 12);
    let (from, to) = (memory_of(bench, bytes)?, memory_of(bench, bytes)?);
    let seconds = bench.seconds(|| bench.gpu.launch(&copy(bytes), &[to.address, from.address, bytes as u64 / 16]))?;
    let cost = Cost { flops: 0, bytes: 2 * bytes as u64 };
    bench.tell(Line { unit: "GB/s", value: cost.bytes as f64 / seconds / 1e9, ..Line::kernel("ceiling/copy", seconds, cost) });
    Ok(())
}

/// 16 MB: about the L1 caches together, less than the half of an H100's L2 that is near a multiprocessor.
fn cache(bench: &Bench) -> Result<()> {
    let (bytes, passes, grid) = (bench.size(16_000_000, 1 << 12), bench.size(32, 2), bench.size(2048, 1));
    let (from, out) = (memory_of(bench, bytes)?, memory_of(bench, 4 * 256 * grid)?);
    let words = [out.address, from.address, bytes as u64 / 16, passes as u64];
    let seconds = bench.seconds(|| bench.gpu.launch(&blocks("measure_read", grid), &words))?;
    bench.tell(Line::new("ceiling/l2", (bytes * passes) as f64 / seconds / 1e9, "GB/s"));
    Ok(())
}

/// The rate of `mma.sync`, and on a Hopper card that of `wgmma`.
fn matrix(bench: &Bench) -> Result<()> {
    let (grid, rounds) = (bench.size(132 * 16, 1), bench.size(4096, 2));
    let out = memory_of(bench, 4 * 256 * grid)?;
    let seconds = bench.seconds(|| bench.gpu.launch(&blocks("measure_mma", grid), &[out.address, rounds as u64]))?;
    let flops = (grid * 8 * rounds) as f64 * 32768.0;
    bench.tell(Line::new("ceiling/mma_sync", flops / seconds / 1e12, "TFLOP/s"));
    if bench.gpu.capabilities().wgmma {
        let launch = Launch { shared: 32 << 10, ..blocks("measure_wgmma", grid) };
        let seconds = bench.seconds(|| bench.gpu.launch(&launch, &[out.address, rounds as u64 / 2]))?;
        bench.tell(Line::new("ceiling/wgmma", (grid * (rounds / 2)) as f64 * 2097152.0 / seconds / 1e12, "TFLOP/s"));
    }
    Ok(())
}

fn upload(bench: &Bench) -> Result<()> {
    let bytes = bench.size(256 << 20, 1 << 12);
    let to = memory_of(bench, bytes)?;
    let data = vec![1u8; bytes];
    let seconds = bench.seconds(|| bench.gpu.upload(to.address, &data))?;
    bench.tell(Line::new("ceiling/upload", bytes as f64 / seconds / 1e9, "GB/s"));
    Ok(())
}

/// From one kernel of a graph to the next, when there is nothing to do.
fn gap(bench: &Bench) -> Result<()> {
    let nodes = bench.size(1000, 10);
    let idle = memory_of(bench, 16)?;
    let launch = || bench.gpu.launch(&blocks("measure_copy", 1), &[idle.address, idle.address, 0]);
    launch()?;
    let mut all = || (0..nodes).try_for_each(|_| launch());
    let Some(replay) = bench.gpu.capture(&mut all)? else { return Ok(()) };
    bench.tell(Line::new("ceiling/launch", bench.seconds(replay)? / nodes as f64 * 1e6, "us/kernel"));
    Ok(())
}
