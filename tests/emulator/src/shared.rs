//! The shared memory of a block: one arena, dynamic memory first, then the static arrays with gaps between them.

use std::alloc::{Layout, alloc};
use std::ffi::c_void;

/// Bytes of the arena: what 18-bit matrix descriptors reach, less the first KB.
pub const ARENA: usize = 255 * 1024;
/// Shared address of the arena's first byte; the GPU reserves the first KB too, so address 0 is never valid.
pub const BASE: usize = 1024;
/// Bytes of static shared memory that a kernel may have.
pub const STATIC_LIMIT: usize = 48 * 1024;
const GAP: usize = 128;

struct Array {
    key: *const c_void,
    from: usize,
    to: usize,
    name: String,
}

pub struct Shared {
    /// Host address of the arena.
    pub base: usize,
    pub dynamic: usize,
    arrays: Vec<Array>,
    /// The array that the last access fell into.
    last: usize,
    static_bytes: usize,
    /// Bytes of the arena that the block has in use.
    pub used: usize,
}

impl Shared {
    pub fn new() -> Shared {
        let layout = Layout::from_size_align(ARENA, 4096).unwrap();
        // SAFETY: the layout has a size; the arena lives as long as the process may use it, and is freed in `drop`.
        let base = unsafe { alloc(layout) };
        assert!(!base.is_null(), "no memory for the shared memory of a block");
        Shared { base: base as usize, dynamic: 0, arrays: vec![], last: 0, static_bytes: 0, used: 0 }
    }

    /// A new block: everything is NaN again.
    pub fn begin(&mut self, dynamic: usize) {
        self.used = dynamic;
        // SAFETY: the launch has checked that `dynamic` bytes fit.
        unsafe { std::ptr::write_bytes(self.base as *mut u8, 0xff, dynamic) };
        self.dynamic = dynamic;
        self.arrays.clear();
        self.last = 0;
        self.static_bytes = 0;
    }

    /// The offset of the static array of `key`, made at its first use.
    pub fn array(&mut self, key: *const c_void, bytes: usize, name: &str, limit: usize) -> Result<usize, String> {
        if let Some(array) = self.arrays.iter().find(|a| a.key == key) {
            return Ok(array.from);
        }
        let end = self.arrays.last().map_or(self.dynamic, |a| a.to);
        let from = if end == 0 { 0 } else { (end + GAP).next_multiple_of(128) };
        self.static_bytes += bytes.next_multiple_of(128);
        if self.static_bytes > STATIC_LIMIT {
            return Err(format!("{} bytes of static shared memory with `{name}`: a kernel may have {STATIC_LIMIT}", self.static_bytes));
        }
        if self.static_bytes + self.dynamic > limit || from + bytes > ARENA {
            let all = self.static_bytes + self.dynamic;
            return Err(format!("{all} bytes of shared memory with `{name}`: a block may have {limit} here"));
        }
        self.used = from + bytes;
        // SAFETY: the array lies inside the arena.
        unsafe { std::ptr::write_bytes((self.base + from) as *mut u8, 0xff, bytes) };
        self.arrays.push(Array { key, from, to: from + bytes, name: name.into() });
        Ok(from)
    }

    /// Bytes of the block that runs, or ran last.
    pub fn in_use(&self) -> usize {
        self.dynamic + self.static_bytes
    }

    /// Whether the bytes lie in the dynamic memory or in one array.
    #[inline(always)]
    pub fn holds(&mut self, offset: usize, bytes: usize) -> bool {
        let end = offset.saturating_add(bytes);
        if end <= self.dynamic {
            return true;
        }
        if self.arrays.get(self.last).is_some_and(|a| offset >= a.from && end <= a.to) {
            return true;
        }
        let found = self.arrays.iter().position(|a| offset >= a.from && end <= a.to);
        self.last = found.unwrap_or(self.last);
        found.is_some()
    }

    /// What a byte of the arena is called in messages.
    pub fn name(&self, offset: usize) -> String {
        match self.arrays.iter().find(|a| offset >= a.from && offset < a.to) {
            Some(a) => format!("{}+{}", a.name, offset - a.from),
            None => format!("dynamic shared memory+{offset}"),
        }
    }

    /// The host address of `bytes` at a shared address, if they are in the block's memory and aligned.
    pub fn at(&mut self, address: u32, bytes: usize, align: usize, what: &str) -> Result<usize, String> {
        let offset = (address as usize).wrapping_sub(BASE);
        if !(address as usize).is_multiple_of(align) {
            return Err(format!("{what}: the shared address {address:#x} is not a multiple of {align}"));
        }
        if !self.holds(offset, bytes) {
            return Err(format!("{what}: {bytes} bytes at the shared address {address:#x} are outside the block's shared memory"));
        }
        Ok(self.base + offset)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and nothing runs any more.
        unsafe { std::alloc::dealloc(self.base as *mut u8, Layout::from_size_align(ARENA, 4096).unwrap()) };
    }
}
