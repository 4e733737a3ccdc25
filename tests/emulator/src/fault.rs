//! A CUDA thread whose stack runs over ends the process; this names it first.

use crate::machine::machine_or_none;
use std::io::Write;
use std::sync::Once;

/// Bytes below a stack that belong to its guard.
const GUARD: usize = 64 * 1024;

/// Installs the handler, once per process. What is not ours goes on to the handler that was there.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the structures are plain data; the handler is of the type that SA_SIGINFO asks for and runs on the alternate stack
        // that Rust gives to every thread.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            let mut old = std::mem::zeroed();
            libc::sigaction(libc::SIGSEGV, &action, &mut old);
            PREVIOUS.set(old).unwrap_or_else(|_| unreachable!("installed once"));
        }
    });
}

static PREVIOUS: std::sync::OnceLock<libc::sigaction> = std::sync::OnceLock::new();

extern "C" fn handle(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid description of the fault.
    let address = unsafe { (*info).si_addr() } as usize;
    if let Some(machine) = machine_or_none() {
        let thread = &machine.block.threads[machine.block.current];
        let bottom = machine.block.stack.wrapping_sub(crate::machine::STACK);
        let over = bottom.wrapping_sub(address) <= GUARD;
        let what = if over {
            "ran over its stack of 256 KB (an array that belongs into shared memory?)"
        } else {
            "made an access that no check saw"
        };
        // Formatting into a fixed buffer allocates nothing, which a signal handler must not.
        let mut text = [0u8; 256];
        let mut rest = &mut text[..];
        let _ = writeln!(rest, "\nthread {} of block {} {what}: address {address:#x}", thread.index, machine.block.index);
        let length = 256 - rest.len();
        // SAFETY: writes initialised bytes of a local.
        unsafe { libc::write(2, text.as_ptr().cast(), length) };
    }
    // The faulting access runs again, now with the handler that was there before.
    if let Some(previous) = PREVIOUS.get() {
        // SAFETY: restores what sigaction returned.
        unsafe { libc::sigaction(libc::SIGSEGV, previous, std::ptr::null_mut()) };
    }
}
