//! cuBLASLt on the products that ours are measured on: what a user of the vendor's library gets on the same card, in the same run.

use crate::{Bench, Line};
use cudarc::cublaslt::{CudaBlasLT, Matmul, MatmulConfig, sys};
use cudarc::driver::{CudaContext, sys::CUevent_flags};
use half::bf16;
use sslmem::error::{Error, Result};
use std::fmt::Debug;

pub const JOBS: &[crate::Job] = &[("cublaslt", products)];

/// Rows, outputs and channels of y = x wᵀ, as in the jobs of `kernels.rs`.
const SIZES: [[usize; 3]; 3] = [[8192, 8192, 8192], [4096, 4096, 4096], [50_000, 768, 768]];

fn failed(error: impl Debug) -> Error {
    Error::device(format!("cuBLASLt failed: {error:?}"), "leave it out with --only")
}

fn products(bench: &Bench) -> Result<()> {
    // SAFETY: only tries to open the library, as using it would.
    let missing = bench.size(0, 1) == 1 || !unsafe { sys::is_culib_present() };
    if missing {
        eprintln!("skipped: cuBLASLt is not to be found as libcublasLt.so; benches/gpu.sh looks for it");
        return Ok(());
    }
    let context = CudaContext::new(0).map_err(failed)?;
    let stream = context.new_stream().map_err(failed)?;
    let library = CudaBlasLT::new(stream.clone()).map_err(failed)?;
    for [rows, outputs, channels] in SIZES {
        let noise = |n: usize| (0..n as u32).map(|i| bf16::from_f32((i.wrapping_mul(2654435761) >> 8) as f32 / (1 << 23) as f32 - 1.0));
        let x = stream.clone_htod(&noise(rows * channels).collect::<Vec<_>>()).map_err(failed)?;
        let w = stream.clone_htod(&noise(outputs * channels).collect::<Vec<_>>()).map_err(failed)?;
        let mut y = stream.alloc_zeros::<bf16>(rows * outputs).map_err(failed)?;
        // The library counts by columns, so y [rows, outputs] by rows is its transpose: yᵀ = w xᵀ.
        let config = || MatmulConfig {
            transa: true,
            transb: false,
            transc: false,
            m: outputs as u64,
            n: rows as u64,
            k: channels as u64,
            alpha: 1.0,
            lda: channels as i64,
            ldb: channels as i64,
            beta: 0.0,
            ldc: outputs as i64,
            stride_a: None,
            stride_b: None,
            stride_c: None,
            stride_bias: None,
            batch_size: None,
        };
        let mut run = |times: usize| -> Result<f64> {
            let start = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(failed)?;
            for _ in 0..times {
                // SAFETY: the three matrices have the sizes that the configuration says.
                unsafe { library.matmul(config(), &w, &x, &mut y, None, None) }.map_err(failed)?;
            }
            let end = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(failed)?;
            end.synchronize().map_err(failed)?;
            Ok(start.elapsed_ms(&end).map_err(failed)? as f64 / 1000.0 / times as f64)
        };
        let times = (0.03 / run(3)?).ceil().clamp(1.0, 200.0) as usize;
        let mut seconds = (0..5).map(|_| run(times)).collect::<Result<Vec<f64>>>()?;
        seconds.sort_by(f64::total_cmp);
        let flops = 2.0 * (rows * outputs * channels) as f64;
        bench.tell(Line::new(format!("cublaslt/{rows}x{outputs}x{channels}"), flops / seconds[2] / 1e12, "TFLOP/s"));
    }
    Ok(())
}
