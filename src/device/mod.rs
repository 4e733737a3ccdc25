//! Where programs run. The CPU is the default and the definition of correct; a GPU is whatever implements
//! [`Queue`].

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

pub use gpu::{Arg, Gpu, Launch, Matrix, Products, Queue, Replay};
pub(crate) use host::Place;
pub use host::{Buffer, Cell, Host};
pub(crate) use rows::{THREADS, chunk};

use std::rc::Rc;

/// The two kinds of machine in one binary.
#[derive(Clone, Default)]
pub enum Device {
    #[default]
    Cpu,
    Gpu(Rc<dyn Queue>),
}

impl Device {
    /// What computes, for people and manifests.
    pub fn name(&self) -> String {
        match self {
            Device::Cpu => format!("cpu ({})", std::env::consts::ARCH),
            Device::Gpu(queue) => queue.name(),
        }
    }
}

/// Bytes of memory that can still be used, where the system tells.
pub fn available_memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kb| kb * 1024)
}
