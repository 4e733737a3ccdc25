//! __syncthreads and the named barriers.

use crate::machine::{Machine, Waiting, expect, machine, wait};
use crate::report::Site;
use std::ffi::c_char;

#[derive(Default)]
pub struct Barrier {
    /// Threads that have come, and how many it takes.
    arrived: usize,
    wanted: usize,
    /// Those of them that wait, and the site of the first of each warp.
    waiting: Vec<usize>,
    sites: Vec<(usize, Site)>,
    /// Everything that those who came are ordered after.
    clocks: Vec<u32>,
}

impl Barrier {
    pub fn describe(&self, id: u32, site: Site) -> String {
        let name = if id == 0 { "__syncthreads".into() } else { format!("bar.sync {id}") };
        format!("wait in {name} at {site} ({} of {} arrived)", self.arrived, self.wanted)
    }
}

#[unsafe(no_mangle)]
extern "C" fn emu_barrier(id: u32, threads: u32, waits: u32, file: *const c_char, line: u32) {
    let site = Site::new(file, line);
    let complete = expect(machine().arrive(id, threads as usize, waits == 1, site));
    if waits == 1 && !complete {
        wait(Waiting::Barrier(id), site);
    }
}

impl Machine {
    /// A thread comes to a barrier; true if it was the last one.
    fn arrive(&mut self, id: u32, wanted: usize, waits: bool, site: Site) -> Result<bool, String> {
        if id > 15 || !wanted.is_multiple_of(32) {
            return Err(format!("bar.sync {id}, {wanted} at {site}: barriers are 0 to 15, their threads a multiple of 32"));
        }
        let all = self.threads();
        let wanted = if wanted == 0 { all } else { wanted };
        let thread = self.block.current;
        let barrier = &mut self.block.barriers[id as usize];
        if barrier.arrived > 0 && barrier.wanted != wanted {
            return Err(format!("barrier {id}: {wanted} threads expected here, {} by those that came before, at {site}", barrier.wanted));
        }
        match barrier.sites.iter().find(|s| s.0 == thread / 32) {
            Some((_, other)) if other.line != site.line => {
                return Err(format!("barrier {id} in divergent code: thread {thread} is at {site}, others of its warp at {other}"));
            }
            Some(_) => {}
            None => barrier.sites.push((thread / 32, site)),
        }
        barrier.wanted = wanted;
        barrier.arrived += 1;
        if waits {
            barrier.waiting.push(thread);
        }
        let complete = barrier.arrived == wanted;
        // What __syncthreads orders needs no list: it orders everything.
        if self.race.on && (id > 0 || wanted < all) {
            self.race.clocks.tell(thread, &mut barrier.clocks);
            self.race.clocks.tick(thread);
        }
        if complete {
            self.open(id as usize, wanted == all);
        }
        Ok(complete)
    }

    fn open(&mut self, id: usize, whole_block: bool) {
        let barrier = std::mem::take(&mut self.block.barriers[id]);
        self.counter.barrier(whole_block);
        if whole_block && barrier.waiting.len() == barrier.wanted {
            self.race.clocks.order_block();
        }
        for &thread in &barrier.waiting {
            if self.race.on && !barrier.clocks.is_empty() {
                self.race.clocks.learn(thread, &barrier.clocks);
            }
            if thread != self.block.current {
                self.wake(thread);
            }
        }
    }
}
