//! A launch: its arguments against the kernel's parameters, its sizes against the limits, then block after block.

use crate::machine::{Dim, Machine};
use crate::race::Race;
use crate::registry::{Kernel, Kind, find};
use crate::sched::{Stack, run_block};
use crate::shared::ARENA;
use crate::{Options, Order};

/// Limits of every architecture the kernels are built for.
const THREADS: u64 = 1024;
const BLOCK: [u32; 3] = [1024, 1024, 64];
const GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];

pub struct Launch<'a> {
    pub kernel: &'a str,
    pub bf16: bool,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: usize,
    /// One per parameter.
    pub words: &'a [u64],
}

pub fn run(machine: &mut Machine, stacks: &mut Vec<Stack>, launch: &Launch) -> Result<(), String> {
    let Options { order, arrivals, seed, .. } = machine.options;
    let kind = if launch.bf16 { "bf16" } else { "f32" };
    run_all(machine, stacks, launch).map_err(|e| format!("{} ({kind}) [{order:?}, {arrivals:?}, seed {seed}]: {e}", launch.kernel))
}

fn run_all(machine: &mut Machine, stacks: &mut Vec<Stack>, launch: &Launch) -> Result<(), String> {
    let planted = machine.options.bug.and_then(|bug| find(&format!("{}__{bug}", launch.kernel), launch.bf16).ok());
    let kernel = planted.map_or_else(|| find(launch.kernel, launch.bf16), Ok)?;
    check_sizes(launch, kernel, machine.options.shared_limit)?;
    let pointers = pointers(kernel, launch.words)?;
    machine.nulls = pointers.iter().filter(|p| p.1 == 0).map(|p| p.0).collect();
    let pointers: Vec<_> = pointers.into_iter().filter(|p| p.1 != 0).collect();
    machine.memory.begin(&pointers, launch.grid)?;
    machine.counter.begin(machine.options.counts);
    let (grid, size) = (Dim::from(launch.grid), Dim::from(launch.block));
    let blocks = grid.count() as u32;
    for i in 0..blocks {
        let index = if machine.options.order == Order::Reverse { blocks - 1 - i } else { i };
        machine.begin(grid, size, launch.shared, index);
        let result = run_block(machine, kernel.entry, launch.words, stacks);
        machine.counter.end_block();
        if let Err(error) = result {
            // What a block that was stopped half-way leaves is not the next launch's.
            machine.race = Race::new();
            return Err(error);
        }
    }
    machine.counter.end(kernel.name, launch, machine.shared.in_use());
    Ok(())
}

fn check_sizes(launch: &Launch, kernel: &Kernel, shared_limit: usize) -> Result<(), String> {
    let Launch { grid, block, shared, .. } = *launch;
    let threads = Dim::from(block).count();
    if (0..3).any(|i| block[i] == 0 || block[i] > BLOCK[i]) || threads > THREADS {
        return Err(format!("a block of {block:?} threads: each axis must be 1 to {BLOCK:?}, all together at most {THREADS}"));
    }
    // SAFETY: returns a constant.
    let bounds = unsafe { (kernel.bounds)() };
    if threads > bounds as u64 {
        return Err(format!("a block of {threads} threads, but the kernel's __launch_bounds__ is {bounds}"));
    }
    if (0..3).any(|i| grid[i] == 0 || grid[i] > GRID[i]) {
        return Err(format!("a grid of {grid:?} blocks: each axis must be 1 to {GRID:?}"));
    }
    if shared > shared_limit.min(ARENA) {
        return Err(format!("{shared} bytes of dynamic shared memory: a block may have {shared_limit} here"));
    }
    Ok(())
}

/// Name, address and whether it is `const`, of each pointer among the arguments.
fn pointers(kernel: &'static Kernel, words: &[u64]) -> Result<Vec<(&'static str, usize, bool)>, String> {
    if kernel.params.len() != words.len() {
        let names: Vec<&str> = kernel.params.iter().map(|p| p.name).collect();
        return Err(format!("{} arguments for {} parameters ({})", words.len(), names.len(), names.join(", ")));
    }
    let mut pointers = vec![];
    for (param, &word) in kernel.params.iter().zip(words) {
        match param.kind {
            Kind::In => pointers.push((param.name, word as usize, true)),
            Kind::Out => pointers.push((param.name, word as usize, false)),
            Kind::Value if word > u32::MAX as u64 => return Err(format!("parameter `{}` takes 32 bits, not {word:#x}", param.name)),
            Kind::Value => {}
            Kind::Map if word == 0 || word % 64 != 0 => {
                return Err(format!("parameter `{}` is a tensor map: its word is the map's address, not {word:#x}", param.name));
            }
            Kind::Map => {}
            Kind::Struct(_) if word == 0 || word % 8 != 0 => {
                return Err(format!("parameter `{}` is a structure: its word is the structure's address, not {word:#x}", param.name));
            }
            Kind::Struct(members) => {
                for &(name, at, constant) in members {
                    // SAFETY: the caller gives the address of a structure of this kernel, which the compiler lays out alike.
                    pointers.push((name, unsafe { *((word as usize + at) as *const usize) }, constant));
                }
            }
        }
    }
    Ok(pointers)
}
