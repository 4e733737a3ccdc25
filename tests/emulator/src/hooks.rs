//! What the instrumented kernels call: before each access to memory, and when the compiler's own checks fail.

use crate::machine::{Machine, Space, expect, fail, machine, machine_or_none};
use crate::memory::Use;
use crate::sched::pause;
use std::ffi::c_char;

#[unsafe(no_mangle)]
extern "C" fn emu_read(address: usize, bytes: usize, from: usize) {
    access(address, bytes, false, from);
}

#[unsafe(no_mangle)]
extern "C" fn emu_write(address: usize, bytes: usize, from: usize) {
    access(address, bytes, true, from);
}

/// A structure, word by word if it is made of words.
#[unsafe(no_mangle)]
extern "C" fn emu_range(address: usize, bytes: usize, write: i32, from: usize) {
    if matches!(machine().space(address), Space::Stack) {
        return;
    }
    let step = if address.is_multiple_of(4) && bytes.is_multiple_of(4) { 4 } else { 1 };
    (address..address + bytes).step_by(step).for_each(|a| access(a, step, write == 1, from));
}

#[inline(always)]
fn access(address: usize, bytes: usize, write: bool, from: usize) {
    let machine = machine();
    machine.block.steps += 1;
    if machine.block.steps >= machine.block.pause_at {
        pause();
    }
    if let Err(message) = machine.touch(address, bytes, write, from) {
        fail(message);
    }
}

impl Machine {
    #[inline(always)]
    fn touch(&mut self, address: usize, bytes: usize, write: bool, from: usize) -> Result<(), String> {
        match self.space(address) {
            Space::Stack => {}
            Space::Shared(offset) => {
                if !address.is_multiple_of(bytes) || !self.shared.holds(offset, bytes) {
                    return Err(self.bad_shared(offset, bytes, write));
                }
                self.shared_by(self.block.current, offset, bytes, write, if write { "store" } else { "load" })?;
                if self.options.counts {
                    self.counter.shared(from, self.block.current, offset, bytes, write);
                }
            }
            Space::Global => {
                if !write && is_constant(address) {
                    return Ok(());
                }
                let how = if write { Use::Write } else { Use::Read };
                self.global(address, bytes, how).map_err(|e| self.explain(address, how, e))?;
                if !address.is_multiple_of(bytes) {
                    return Err(format!("misaligned {} of {bytes} bytes at {address:#x} in global memory", how.verb()));
                }
                if self.options.counts {
                    self.counter.global(from, self.block.current, address, bytes, write);
                }
            }
        }
        Ok(())
    }

    #[cold]
    fn bad_shared(&self, offset: usize, bytes: usize, write: bool) -> String {
        let verb = if write { "write" } else { "read" };
        if !offset.is_multiple_of(bytes) {
            return format!("misaligned {verb} of {bytes} bytes in shared memory ({})", self.shared.name(offset));
        }
        let dynamic = self.shared.dynamic;
        format!("{verb} of {bytes} bytes outside the block's shared memory (offset {offset}; {dynamic} bytes are dynamic)")
    }

    /// Accesses near address 0 are those of a null pointer.
    #[cold]
    fn explain(&self, address: usize, how: Use, message: String) -> String {
        if address >= 1 << 20 {
            return message;
        }
        let null = match self.nulls.as_slice() {
            [] => "no parameter is null".into(),
            names => format!("null parameters: {}", names.join(", ")),
        };
        format!("{} through a null pointer (address {address:#x}; {null})", how.verb())
    }
}

/// Constant tables of kernels lie in the executable.
fn is_constant(address: usize) -> bool {
    unsafe extern "C" {
        static __executable_start: u8;
        static _end: u8;
    }
    (&raw const __executable_start as usize..&raw const _end as usize).contains(&address)
}

/// Where the compiler's checks stand in the source: file, line, column.
#[repr(C)]
pub struct Place {
    site: crate::report::Site,
}

fn undefined(what: &str, place: *const Place) {
    if machine_or_none().is_some() {
        // SAFETY: g++ passes the description of a check, which begins with its place.
        fail(format!("{what} at {}", unsafe { &(*place).site }));
    }
}

#[unsafe(no_mangle)]
extern "C" fn __ubsan_handle_type_mismatch_v1(place: *const Place, address: usize) {
    undefined(&format!("misaligned access to {address:#x}"), place);
}

#[unsafe(no_mangle)]
extern "C" fn __ubsan_handle_out_of_bounds(place: *const Place, index: usize) {
    undefined(&format!("index {} out of bounds of an array", index as i64), place);
}

#[unsafe(no_mangle)]
extern "C" fn __ubsan_handle_shift_out_of_bounds(place: *const Place, _: usize, by: usize) {
    undefined(&format!("shift by {}", by as i64), place);
}

#[unsafe(no_mangle)]
extern "C" fn __ubsan_handle_add_overflow(place: *const Place, a: usize, b: usize) {
    undefined(&format!("signed overflow in {} + {}", a as i32, b as i32), place);
}

#[unsafe(no_mangle)]
extern "C" fn __ubsan_handle_sub_overflow(place: *const Place, a: usize, b: usize) {
    undefined(&format!("signed overflow in {} - {}", a as i32, b as i32), place);
}

#[unsafe(no_mangle)]
extern "C" fn __ubsan_handle_mul_overflow(place: *const Place, a: usize, b: usize) {
    undefined(&format!("signed overflow in {} * {}", a as i32, b as i32), place);
}

#[unsafe(no_mangle)]
extern "C" fn __ubsan_handle_negate_overflow(place: *const Place, _: usize) {
    undefined("signed overflow in a negation", place);
}

#[unsafe(no_mangle)]
extern "C" fn __ubsan_handle_divrem_overflow(place: *const Place, _: usize, _: usize) {
    undefined("division by zero", place);
}

#[unsafe(no_mangle)]
extern "C" fn emu_thread() -> crate::machine::Dim {
    machine().thread().index
}

#[unsafe(no_mangle)]
extern "C" fn emu_block() -> crate::machine::Dim {
    machine().block.index
}

#[unsafe(no_mangle)]
extern "C" fn emu_block_size() -> crate::machine::Dim {
    machine().block.size
}

#[unsafe(no_mangle)]
extern "C" fn emu_grid() -> crate::machine::Dim {
    machine().block.grid
}

#[unsafe(no_mangle)]
extern "C" fn emu_shared(key: *const std::ffi::c_void, bytes: u64, name: *const c_char) -> usize {
    let machine = machine();
    // SAFETY: a string literal of a compiled kernel.
    let name = unsafe { std::ffi::CStr::from_ptr(name) }.to_string_lossy();
    machine.shared.base + expect(machine.shared.array(key, bytes as usize, &name, machine.options.shared_limit))
}

#[unsafe(no_mangle)]
extern "C" fn emu_shared_dynamic(file: *const c_char, line: u32) -> usize {
    let shared = &machine().shared;
    if shared.dynamic == 0 {
        let site = crate::report::Site::new(file, line);
        fail(format!("the kernel uses dynamic shared memory at {site}, but was launched with none"));
    }
    shared.base
}

#[unsafe(no_mangle)]
extern "C" fn emu_shared_address(pointer: usize, file: *const c_char, line: u32) -> u32 {
    match machine().space(pointer) {
        Space::Shared(offset) => (offset + crate::shared::BASE) as u32,
        _ => fail(format!("smem_u32 of a pointer that is not to shared memory at {}", crate::report::Site::new(file, line))),
    }
}
