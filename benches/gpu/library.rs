//! cuBLASLt on the products that ours are measured on: what a user of the vendor's library gets on the same card, in the same run.

use crate::kernels::SHAPES;
use crate::{Bench, Line, median};
use cudarc::cublaslt::{CudaBlasLT, Matmul, MatmulConfig, sys};
use cudarc::driver::{CudaContext, sys::CUevent_flags};
use half::bf16;
use sslmem::error::{Error, Result};
use sslmem::tape::Cost;
use std::fmt::Debug;

pub const JOBS: &[crate::Job] = &[("cublaslt", products)];

/// Bytes that are copied before each product. They empty the caches, as for ours, and while the card copies (some half a
/// millisecond) the host asks the library which kernel to take and launches it: the product's time holds no wait for the host.
const FLUSHED: usize = 1 << 30;

fn failed(error: impl Debug) -> Error {
    Error::device(format!("cuBLASLt failed: {error:?}"), "leave it out with --only")
}

/// y = x wᵀ, each call by itself with cold caches, median, as for `linear_fwd` of `kernels.rs`.
fn products(bench: &Bench) -> Result<()> {
    // SAFETY: only tries to open the library, as using it would.
    let missing = bench.size(0, 1) == 1 || !unsafe { sys::is_culib_present() };
    if missing {
        eprintln!("skipped: cuBLASLt is not to be found as libcublasLt.so; benches/gpu.sh looks for it");
        return Ok(());
    }
    let context = CudaContext::new(0).map_err(failed)?;
    // SAFETY: all of this context's work is in one stream, so nothing needs to wait for an event.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().map_err(failed)?;
    let library = CudaBlasLT::new(stream.clone()).map_err(failed)?;
    let most = |len: fn([usize; 3]) -> usize| SHAPES.linear.iter().map(|shape| len(*shape)).max().unwrap_or(0);
    let noise = |n: usize| (0..n as u32).map(|i| bf16::from_f32((i.wrapping_mul(2654435761) >> 8) as f32 / (1 << 23) as f32 - 1.0));
    let upload = |n: usize| stream.clone_htod(&noise(n).collect::<Vec<_>>()).map_err(failed);
    let (x, w) = (upload(most(|[rows, inputs, _]| rows * inputs))?, upload(most(|[_, inputs, outputs]| inputs * outputs))?);
    let mut y = stream.alloc_zeros::<bf16>(most(|[rows, _, outputs]| rows * outputs)).map_err(failed)?;
    let from = stream.alloc_zeros::<u8>(FLUSHED).map_err(failed)?;
    let mut to = stream.alloc_zeros::<u8>(FLUSHED).map_err(failed)?;
    for [rows, inputs, outputs] in SHAPES.linear.iter().copied() {
        bench.in_time()?;
        // The library counts by columns, so y [rows, outputs] by rows is its transpose: yᵀ = w xᵀ.
        let config = MatmulConfig {
            transa: true,
            transb: false,
            transc: false,
            m: outputs as u64,
            n: rows as u64,
            k: inputs as u64,
            alpha: 1.0,
            lda: inputs as i64,
            ldb: inputs as i64,
            beta: 0.0,
            ldc: outputs as i64,
            stride_a: None,
            stride_b: None,
            stride_c: None,
            stride_bias: None,
            batch_size: None,
        };
        let mut run = || -> Result<f64> {
            stream.memcpy_dtod(&from, &mut to).map_err(failed)?;
            let start = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(failed)?;
            // SAFETY: the three matrices are at least as large as the configuration says.
            unsafe { library.matmul(config, &w, &x, &mut y, None, None) }.map_err(failed)?;
            let end = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(failed)?;
            end.synchronize().map_err(failed)?;
            Ok(start.elapsed_ms(&end).map_err(failed)? as f64 / 1000.0)
        };
        (0..3).try_for_each(|_| run().map(|_| ()))?;
        let seconds = median((0..25).map(|_| run()).collect::<Result<Vec<f64>>>()?);
        let (flops, numbers) = (2 * rows * inputs * outputs, rows * inputs + inputs * outputs + rows * outputs);
        let cost = Cost { flops: flops as u64, bytes: 2 * numbers as u64 };
        let line = Line::kernel(format!("cublaslt/{rows}x{inputs}x{outputs}"), seconds, cost);
        bench.tell(Line { unit: "TFLOP/s", value: flops as f64 / seconds / 1e12, ..line });
    }
    Ok(())
}
