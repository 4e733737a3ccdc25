//! cp.async: copies from global to shared memory that arrive between their issue and the wait for their group.

use crate::machine::{Machine, expect, machine};
use crate::memory::Use;
use crate::order::{Agent, View};
use crate::race::PENDING;
use crate::report::Site;
use std::collections::VecDeque;
use std::ffi::c_char;

/// The copies of one thread that have not been waited for.
#[derive(Default)]
pub struct Copies {
    queue: VecDeque<Copy>,
    /// Groups committed so far.
    groups: u32,
}

#[derive(Clone, Copy)]
struct Copy {
    /// Offset in the arena.
    to: usize,
    from: usize,
    bytes: usize,
    /// The rest is filled with zeros.
    valid: usize,
    group: u32,
    arrived: bool,
}

#[unsafe(no_mangle)]
extern "C" fn emu_cp_async(to: u32, from: usize, bytes: u32, valid: u32, file: *const c_char, line: u32) {
    expect(machine().start_copy(to, from, bytes as usize, valid as usize, Site::new(file, line)))
}

#[unsafe(no_mangle)]
extern "C" fn emu_cp_commit() {
    machine().thread().copies.groups += 1;
}

#[unsafe(no_mangle)]
extern "C" fn emu_cp_wait(n: u32) {
    machine().wait_copies(|group, groups| group + n < groups);
}

/// A thread ends: its copies arrive.
pub fn finish() {
    machine().wait_copies(|_, _| true);
}

impl Machine {
    fn start_copy(&mut self, to: u32, from: usize, bytes: usize, valid: usize, site: Site) -> Result<(), String> {
        let at = |e: String| format!("{e}, at {site}");
        self.shared.at(to, bytes, bytes, "cp.async").map_err(at)?;
        let offset = Machine::offset(to);
        if valid > 0 {
            if !from.is_multiple_of(bytes) {
                return Err(at(format!("cp.async: the source {from:#x} is not a multiple of {bytes}")));
            }
            self.global(from, valid, Use::Read).map_err(|e| at(format!("cp.async: {e}")))?;
        }
        if self.options.counts {
            self.counter.cp_async(site, self.block.current, (from, valid), (offset, bytes));
        }
        let thread = self.block.current;
        let agent = Agent { number: thread, clock: PENDING, view: View::Thread(thread) };
        if let Err(conflict) = self.race.access(offset, bytes, true, agent) {
            return Err(self.conflict(conflict, offset, bytes, true, "cp.async"));
        }
        let arrived = self.arrives_early();
        let copies = &mut self.block.threads[thread].copies;
        let copy = Copy { to: offset, from, bytes, valid, group: copies.groups, arrived };
        copies.queue.push_back(copy);
        if arrived {
            self.carry_out(copy);
        }
        Ok(())
    }

    /// The first copies of the running thread, as long as their group (of so many) is waited for, are there.
    fn wait_copies(&mut self, waited_for: impl Fn(u32, u32) -> bool) {
        let thread = self.block.current;
        loop {
            let copies = &mut self.block.threads[thread].copies;
            let Some(&copy) = copies.queue.front() else { return };
            if !waited_for(copy.group, copies.groups) {
                return;
            }
            copies.queue.pop_front();
            self.race.complete(copy.to, copy.bytes, thread);
            if !copy.arrived {
                self.carry_out(copy);
            }
        }
    }

    fn carry_out(&mut self, copy: Copy) {
        let to = (self.shared.base + copy.to) as *mut u8;
        // SAFETY: both ranges were checked when the copy was issued, and allocations live until the launch has ended.
        unsafe {
            std::ptr::copy_nonoverlapping(copy.from as *const u8, to, copy.valid);
            std::ptr::write_bytes(to.add(copy.valid), 0, copy.bytes - copy.valid);
        }
    }
}
