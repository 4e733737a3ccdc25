//! Atomic operations on integers, and the end of loops that spin on them.

use crate::machine::{Machine, Space, expect, machine};
use crate::memory::Use;
use crate::sched::pause;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Atomics a block may execute.
const LIMIT: u64 = 1 << 24;

/// An endless loop is an error.
pub fn check_steps(machine: &Machine) {
    if machine.block.steps > machine.options.steps {
        crate::machine::fail(format!("this block has made {} memory accesses: an endless loop?", machine.block.steps));
    }
}

fn check(address: usize, bytes: usize) {
    let machine = machine();
    machine.block.steps += 1;
    machine.block.atomics += 1;
    if machine.block.atomics > LIMIT {
        crate::machine::fail("this block has executed 16 million atomics: a spin loop that nothing ends?".into());
    }
    // A thread that spins gives way now and then, whatever the order.
    if machine.block.steps >= machine.block.pause_at || machine.block.atomics.is_multiple_of(1024) {
        pause();
    }
    expect(crate::machine::machine().atomic(address, bytes));
}

impl Machine {
    fn atomic(&mut self, address: usize, bytes: usize) -> Result<(), String> {
        self.counter.atomic();
        match self.space(address) {
            Space::Stack => Ok(()),
            Space::Shared(offset) if self.shared.holds(offset, bytes) => Ok(()),
            Space::Shared(offset) => Err(format!("atomic update outside the block's shared memory (offset {offset})")),
            Space::Global => self.global(address, bytes, Use::Atomic),
        }
    }
}

fn at32(address: usize) -> &'static AtomicU32 {
    check(address, 4);
    // SAFETY: checked to lie in memory of the kernel, which lives until the launch has ended; alignment is checked by g++'s hooks.
    unsafe { &*(address as *const AtomicU32) }
}

fn at64(address: usize) -> &'static AtomicU64 {
    check(address, 8);
    // SAFETY: as in `at32`.
    unsafe { &*(address as *const AtomicU64) }
}

#[unsafe(no_mangle)]
extern "C" fn __tsan_atomic32_fetch_add(address: usize, value: u32, _: i32) -> u32 {
    at32(address).fetch_add(value, Relaxed)
}

#[unsafe(no_mangle)]
extern "C" fn __tsan_atomic64_fetch_add(address: usize, value: u64, _: i32) -> u64 {
    at64(address).fetch_add(value, Relaxed)
}

#[unsafe(no_mangle)]
extern "C" fn __tsan_atomic32_fetch_or(address: usize, value: u32, _: i32) -> u32 {
    at32(address).fetch_or(value, Relaxed)
}

#[unsafe(no_mangle)]
extern "C" fn __tsan_atomic32_fetch_and(address: usize, value: u32, _: i32) -> u32 {
    at32(address).fetch_and(value, Relaxed)
}

#[unsafe(no_mangle)]
extern "C" fn __tsan_atomic32_exchange(address: usize, value: u32, _: i32) -> u32 {
    at32(address).swap(value, Relaxed)
}

#[unsafe(no_mangle)]
extern "C" fn __tsan_atomic32_load(address: usize, _: i32) -> u32 {
    at32(address).load(Relaxed)
}

#[unsafe(no_mangle)]
extern "C" fn __tsan_atomic32_compare_exchange_strong(address: usize, expected: *mut u32, value: u32, _: i32, _: i32) -> i32 {
    // SAFETY: `expected` is a local of the kernel.
    let old = unsafe { &mut *expected };
    match at32(address).compare_exchange(*old, value, Relaxed, Relaxed) {
        Ok(_) => 1,
        Err(now) => {
            *old = now;
            0
        }
    }
}
