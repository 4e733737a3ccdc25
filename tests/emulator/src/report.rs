//! Places in kernel sources, and how an error names them.

use std::ffi::{CStr, c_char};
use std::fmt;

/// A line of a kernel, as the compiler's builtins give it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Site {
    file: *const c_char,
    pub line: u32,
}

impl Site {
    pub const NONE: Site = Site { file: std::ptr::null(), line: 0 };

    pub fn new(file: *const c_char, line: u32) -> Site {
        Site { file, line }
    }

    /// A number that only this line of this unit has.
    pub fn key(&self) -> usize {
        (self.file as usize).rotate_left(20) ^ self.line as usize
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.file.is_null() {
            return write!(f, "an unknown place");
        }
        // SAFETY: a non-null `file` is a string literal of a compiled kernel.
        let path = unsafe { CStr::from_ptr(self.file) }.to_string_lossy();
        write!(f, "{}:{}", base_name(&path), self.line)
    }
}

pub fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The return addresses of the callers, innermost first; cheap, resolved later.
pub fn trace() -> Vec<usize> {
    let mut addresses = vec![];
    backtrace::trace(|frame| {
        addresses.push(frame.ip() as usize);
        addresses.len() < 64
    });
    addresses
}

/// The lines of kernels among return addresses, innermost first, inlined functions included.
pub fn kernel_lines(addresses: &[usize]) -> Vec<String> {
    let mut lines = vec![];
    for &address in addresses {
        backtrace::resolve(address as *mut _, |symbol| {
            let Some(path) = symbol.filename().and_then(|f| f.to_str()) else { return };
            if !(path.ends_with(".cu") || path.ends_with(".cuh")) {
                return;
            }
            let column = symbol.colno().map_or(String::new(), |c| format!(":{c}"));
            lines.push(format!("{}:{}{column}", base_name(path), symbol.lineno().unwrap_or(0)));
        });
    }
    lines
}

/// Thread numbers as ranges: 0-31,64.
pub fn ranges(numbers: &[usize]) -> String {
    let mut parts = vec![];
    let mut rest = numbers;
    while let Some(&first) = rest.first() {
        let run = (0..rest.len()).take_while(|&i| rest[i] == first + i).count();
        parts.push(if run == 1 { first.to_string() } else { format!("{first}-{}", first + run - 1) });
        rest = &rest[run..];
    }
    if parts.len() > 8 {
        parts.truncate(8);
        parts.push("...".into());
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    #[test]
    fn ranges_join_neighbours() {
        assert_eq!(super::ranges(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(super::ranges(&[]), "");
    }
}
