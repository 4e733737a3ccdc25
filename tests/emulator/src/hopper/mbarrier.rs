//! mbarriers: 64 bits in shared memory, and beside them the clocks of those who arrived.

use crate::machine::{Machine, Waiting, expect, machine, wait};
use crate::order::MBARRIERS;
use crate::report::Site;
use std::ffi::c_char;

pub struct Mbarrier {
    pub address: u32,
    /// What the arrivals of this phase are ordered after, and those of the last.
    gathered: Vec<u32>,
    done: Vec<u32>,
}

/// The 64 bits: a tag of 2 that shows what is no mbarrier, the phase, then pending and expected arrivals and missing bytes.
#[derive(Clone, Copy)]
struct State {
    phase: u32,
    pending: u32,
    count: u32,
    bytes: i32,
}

impl State {
    fn from_bits(bits: u64) -> Option<State> {
        let field = |at: u32| (bits >> at & 0xf_ffff) as u32;
        let state = State { phase: (bits >> 2 & 1) as u32, pending: field(3), count: field(23), bytes: (bits as i64 >> 43) as i32 };
        (bits & 3 == 1).then_some(state)
    }

    fn bits(self) -> u64 {
        1 | (self.phase as u64) << 2 | (self.pending as u64) << 3 | (self.count as u64) << 23 | (self.bytes as i64 as u64) << 43
    }
}

#[unsafe(no_mangle)]
extern "C" fn emu_mbarrier_init(address: u32, count: u32, file: *const c_char, line: u32) {
    expect(machine().init_mbarrier(address, count, Site::new(file, line)))
}

#[unsafe(no_mangle)]
extern "C" fn emu_mbarrier_arrive(address: u32, count: u32, bytes: u32, file: *const c_char, line: u32) {
    expect(machine().arrive_at_mbarrier(address, count, bytes, Site::new(file, line)))
}

#[unsafe(no_mangle)]
extern "C" fn emu_mbarrier_wait(address: u32, parity: u32, file: *const c_char, line: u32) {
    let site = Site::new(file, line);
    while !expect(machine().phase_is_over(address, parity, site)) {
        wait(Waiting::Mbarrier(address, parity), site);
    }
}

impl Machine {
    fn init_mbarrier(&mut self, address: u32, count: u32, site: Site) -> Result<(), String> {
        let at = self.shared.at(address, 8, 8, "mbarrier.init").map_err(|e| format!("{e}, at {site}"))?;
        self.shared_by(self.block.current, Machine::offset(address), 8, true, "mbarrier.init")?;
        let mbarriers = &mut self.block.hopper.mbarriers;
        mbarriers.retain(|m| m.address != address);
        if mbarriers.len() == MBARRIERS {
            return Err(format!("more than {MBARRIERS} mbarriers in a block, at {site}"));
        }
        mbarriers.push(Mbarrier { address, gathered: vec![], done: vec![] });
        let state = State { phase: 0, pending: count, count, bytes: 0 };
        // SAFETY: 8 aligned bytes of the block's shared memory.
        unsafe { *(at as *mut u64) = state.bits() };
        Ok(())
    }

    fn mbarrier(&mut self, address: u32, what: &str, site: Site) -> Result<State, String> {
        let at = self.shared.at(address, 8, 8, what).map_err(|e| format!("{e}, at {site}"))?;
        // SAFETY: 8 aligned bytes of the block's shared memory.
        State::from_bits(unsafe { *(at as *const u64) })
            .ok_or_else(|| format!("{what}: mbarrier {address:#x} is not initialised, or was overwritten, at {site}"))
    }

    /// The number of an mbarrier that was initialised.
    pub fn mbarrier_number(&mut self, address: u32, what: &str, site: Site) -> Result<usize, String> {
        self.mbarrier(address, what, site)?;
        let number = self.block.hopper.mbarriers.iter().position(|m| m.address == address);
        number.ok_or_else(|| format!("{what}: mbarrier {address:#x} was not initialised by mbarrier.init, at {site}"))
    }

    fn arrive_at_mbarrier(&mut self, address: u32, count: u32, bytes: u32, site: Site) -> Result<(), String> {
        let number = self.mbarrier_number(address, "mbarrier.arrive", site)?;
        let mut state = self.mbarrier(address, "mbarrier.arrive", site)?;
        if state.pending < count {
            return Err(format!("mbarrier {address:#x}: more arrivals than its count of {} at {site}", state.count));
        }
        state.pending -= count;
        state.bytes += bytes as i32;
        let thread = self.block.current;
        self.race.clocks.tell(thread, &mut self.block.hopper.mbarriers[number].gathered);
        self.race.clocks.tick(thread);
        self.settle(number, state);
        Ok(())
    }

    /// `bytes` of a load whose writes are ordered as `clocks` says have arrived.
    pub fn complete_bytes(&mut self, address: u32, bytes: usize, clocks: &[u32], site: Site) -> Result<(), String> {
        let number = self.mbarrier_number(address, "TMA load", site)?;
        let mut state = self.mbarrier(address, "TMA load", site)?;
        state.bytes -= bytes as i32;
        let gathered = &mut self.block.hopper.mbarriers[number].gathered;
        gathered.resize(clocks.len(), 0);
        gathered.iter_mut().zip(clocks).for_each(|(g, c)| *g = (*g).max(*c));
        self.settle(number, state);
        Ok(())
    }

    /// Stores the state; if nothing is missing any more, the phase ends and who waits wakes.
    fn settle(&mut self, number: usize, mut state: State) {
        let mbarrier = &mut self.block.hopper.mbarriers[number];
        let address = mbarrier.address;
        let over = state.pending == 0 && state.bytes == 0;
        if over {
            state.phase ^= 1;
            state.pending = state.count;
            mbarrier.done = std::mem::take(&mut mbarrier.gathered);
        }
        let at = self.shared.base + Machine::offset(address);
        // SAFETY: `mbarrier` has checked the address.
        unsafe { *(at as *mut u64) = state.bits() };
        for thread in 0..if over { self.threads() } else { 0 } {
            if matches!(self.block.threads[thread].waiting, Waiting::Mbarrier(a, _) if a == address) {
                self.wake(thread);
            }
        }
    }

    fn phase_is_over(&mut self, address: u32, parity: u32, site: Site) -> Result<bool, String> {
        let state = self.mbarrier(address, "mbarrier.try_wait", site)?;
        if state.phase == parity & 1 {
            return Ok(false);
        }
        let number = self.mbarrier_number(address, "mbarrier.try_wait", site)?;
        let thread = self.block.current;
        self.race.clocks.learn(thread, &self.block.hopper.mbarriers[number].done);
        Ok(true)
    }

    pub fn describe_mbarrier(&self, address: u32, parity: u32, site: Site) -> String {
        let at = self.shared.base + Machine::offset(address);
        // SAFETY: a thread waits there, so the address was checked.
        let state = match State::from_bits(unsafe { *(at as *const u64) }) {
            Some(s) => format!("phase {}, {} of {} arrivals pending, {} bytes missing", s.phase, s.pending, s.count, s.bytes),
            None => "overwritten".into(),
        };
        format!("wait for mbarrier {address:#x} parity {parity} at {site} ({state})")
    }
}
