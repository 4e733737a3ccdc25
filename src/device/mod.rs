//! Where programs run. The CPU is the default and the definition of correct; a GPU is whatever implements
//! [`GpuDevice`].

mod capabilities;
pub mod conv;
pub mod cuda;
pub mod exp;
pub mod gelu;
mod gpu;
mod host;
pub mod kernels;
pub mod product;
mod rows;
pub mod signature;

pub use capabilities::Capabilities;
pub(crate) use gpu::by_value;
pub use gpu::{Arg, Gpu, GpuDevice, Launch, Matrix, Replay};
pub(crate) use host::Place;
pub use host::{Buffer, Host, SharedBuffer};
pub(crate) use rows::{THREADS, chunk};

use multiversion::{multiversion, target::match_target};
use std::rc::Rc;

/// Where a program runs. One binary holds both: a GPU is found at run time.
#[derive(Clone, Default)]
pub enum Device {
    #[default]
    Cpu,
    Gpu(Rc<dyn GpuDevice>),
}

impl Device {
    /// The device's name, for people and manifests.
    pub fn name(&self) -> String {
        match self {
            Device::Cpu => format!("cpu ({}{})", std::env::consts::ARCH, ["", ", AVX2", ", AVX-512"][instructions()]),
            Device::Gpu(gpu) => gpu.name(),
        }
    }

    /// Device and number format, for identities of results. Two devices that differ here may differ in the last digits of a result.
    pub fn arithmetic(&self) -> String {
        match self {
            Device::Cpu => format!("cpu ({})", std::env::consts::ARCH),
            Device::Gpu(gpu) => format!("{}, {}", gpu.name(), gpu.dtype().name()),
        }
    }
}

/// The instruction set of products and convolutions on this machine. Different sets give scores that differ in their last digits.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
fn instructions() -> usize {
    match_target! {
        "x86_64+avx512f" => 2,
        "x86_64+avx2+fma" => 1,
        _ => 0,
    }
}

/// Bytes of memory that can still be used, where the system tells.
pub fn available_memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kb| kb * 1024)
}
