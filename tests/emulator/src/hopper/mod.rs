//! What sm_90a adds: mbarriers, TMA and wgmma.

mod mbarrier;
mod tma;
mod wgmma;

pub use tma::TensorMap;

use crate::machine::{expect, machine};
use mbarrier::Mbarrier;
use std::collections::VecDeque;
use tma::Transfer;
use wgmma::Warpgroup;

/// The state of a block.
#[derive(Default)]
pub struct BlockHopper {
    mbarriers: Vec<Mbarrier>,
    /// Loads that have not arrived.
    loads: VecDeque<Transfer>,
    warpgroups: Vec<Warpgroup>,
    /// By thread: its clock at its last fence.proxy.async.
    fences: Vec<u32>,
}

impl BlockHopper {
    pub fn new(threads: usize) -> BlockHopper {
        let warpgroups = (0..threads.div_ceil(128)).map(|_| Warpgroup::default()).collect();
        BlockHopper { warpgroups, ..BlockHopper::default() }
    }

    pub fn mbarrier_address(&self, number: usize) -> u32 {
        self.mbarriers[number].address
    }
}

/// The state of a thread.
#[derive(Default)]
pub struct ThreadHopper {
    /// TMA stores that have not been waited for, with their groups.
    stores: VecDeque<(u32, Transfer)>,
    store_groups: u32,
    /// The last wgmma, and the last of each committed group.
    wgmma: u32,
    wgmma_groups: VecDeque<u32>,
}

/// A thread ends: its stores happen.
pub fn finish() {
    expect(machine().wait_stores(|_, _| true));
}

#[unsafe(no_mangle)]
extern "C" fn emu_fence_proxy_async() {
    let machine = machine();
    let (threads, thread) = (machine.threads(), machine.block.current);
    // Before its first fence a thread has fenced what other blocks did.
    let start = machine.race.clocks.start;
    machine.block.hopper.fences.resize(threads, start);
    machine.block.hopper.fences[thread] = machine.race.clocks.of(thread);
    machine.race.clocks.tick(thread);
}
