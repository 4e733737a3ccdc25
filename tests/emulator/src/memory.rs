//! Global memory: allocations with red zones, which bytes of them hold a value, and who may touch them in a launch.

use crate::marks::{Marks, Numbers};
use crate::race::{Race, all_bits, set_bits};
use std::alloc::{Layout, alloc, dealloc};

const ALIGN: usize = 256;

/// One block's thread, as the checks of global memory see it.
#[derive(Clone, Copy)]
pub struct Who {
    pub thread: usize,
    pub clock: u32,
    /// Number of the block among all blocks of all launches.
    pub block: u32,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Use {
    Read,
    Write,
    Atomic,
}

impl Use {
    pub fn verb(self) -> &'static str {
        match self {
            Use::Read => "read",
            Use::Write => "write",
            Use::Atomic => "atomic update",
        }
    }
}

pub struct Allocation {
    pub start: usize,
    pub bytes: usize,
    /// One bit per byte: uploaded, or written by a kernel.
    initialised: Vec<u64>,
    /// The launch in which only `const` parameters point here.
    read_only_in: u32,
    marks: Marks,
}

impl Allocation {
    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes.next_multiple_of(ALIGN) + 2 * ALIGN, ALIGN).expect("an allocation that no machine has")
    }

    fn holds(&self, address: usize, bytes: usize) -> bool {
        address >= self.start && address.saturating_add(bytes) <= self.start + self.bytes
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: `start` lies one red zone into memory that was allocated with this layout.
        unsafe { dealloc((self.start - ALIGN) as *mut u8, Allocation::layout(self.bytes)) };
    }
}

#[derive(Default)]
pub struct Memory {
    /// By address.
    allocations: Vec<Allocation>,
    /// The allocation of the last access.
    last: usize,
    launch: u32,
    pub numbers: Numbers,
}

impl Memory {
    pub fn alloc(&mut self, bytes: usize) -> usize {
        let layout = Allocation::layout(bytes);
        // SAFETY: the layout has a size.
        let zone = unsafe { alloc(layout) };
        assert!(!zone.is_null(), "no memory for an allocation of {bytes} bytes");
        // SAFETY: `layout.size()` bytes were allocated.
        unsafe { std::ptr::write_bytes(zone, 0xff, layout.size()) };
        let start = zone as usize + ALIGN;
        let at = self.allocations.partition_point(|a| a.start < start);
        let allocation = Allocation { start, bytes, initialised: vec![0; bytes.div_ceil(64)], read_only_in: 0, marks: Marks::new(bytes) };
        self.allocations.insert(at, allocation);
        start
    }

    pub fn free(&mut self, address: usize) {
        let at = self.allocations.iter().position(|a| a.start == address);
        self.allocations.remove(at.unwrap_or_else(|| panic!("free of {address:#x}, which alloc did not return")));
        self.last = 0;
    }

    /// The allocation that holds these bytes. One past the end counts for 0 bytes.
    fn find(&self, address: usize, bytes: usize) -> Option<usize> {
        let at = self.allocations.partition_point(|a| a.start <= address).checked_sub(1)?;
        self.allocations[at].holds(address, bytes).then_some(at)
    }

    pub fn upload(&mut self, to: usize, bytes: &[u8]) -> Result<(), String> {
        let at = self.find(to, bytes.len()).ok_or_else(|| self.outside("upload", to, bytes.len()))?;
        let allocation = &mut self.allocations[at];
        set_bits(&mut allocation.initialised, to - allocation.start, bytes.len());
        // SAFETY: the bytes lie inside an allocation.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    pub fn download(&self, from: usize, bytes: &mut [u8]) -> Result<(), String> {
        self.find(from, bytes.len()).ok_or_else(|| self.outside("download", from, bytes.len()))?;
        // SAFETY: the bytes lie inside an allocation.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// A new launch; what its parameters (name, address, only read) point to must exist.
    pub fn begin(&mut self, pointers: &[(&str, usize, bool)], grid: [u32; 3]) -> Result<(), String> {
        self.launch += 1;
        self.numbers = self.numbers.next(grid)?;
        for read_only in [true, false] {
            for &(name, address, _) in pointers.iter().filter(|p| p.2 == read_only) {
                let at = self.find(address, 0).ok_or_else(|| self.outside(&format!("parameter `{name}` points to memory"), address, 0))?;
                self.allocations[at].read_only_in = if read_only { self.launch } else { 0 };
            }
        }
        Ok(())
    }

    /// An access by a kernel: checked, and recorded for the checks of later ones.
    #[inline(always)]
    pub fn access(&mut self, address: usize, bytes: usize, how: Use, who: Who, race: &Race) -> Result<(), String> {
        if !self.allocations.get(self.last).is_some_and(|a| a.holds(address, bytes)) {
            self.last = self.find(address, bytes).ok_or_else(|| self.outside(how.verb(), address, bytes))?;
        }
        let allocation = &mut self.allocations[self.last];
        let offset = address - allocation.start;
        if how != Use::Write && !all_bits(&allocation.initialised, offset, bytes) {
            return Err(self.describe(&format!("{} of {bytes} bytes that hold no value yet", how.verb()), offset));
        }
        if how == Use::Read {
            // What no one writes in this launch needs no marks.
            if race.on && allocation.read_only_in != self.launch {
                let conflict = allocation.marks.read(offset, bytes, who, &self.numbers, &race.clocks);
                return conflict.map_err(|c| self.describe(&format!("race in global memory: read of {bytes} bytes that {c}"), offset));
            }
            return Ok(());
        }
        if allocation.read_only_in == self.launch {
            return Err(self
                .describe(&format!("{} of {bytes} bytes that only `const` parameters point to: they are read-only", how.verb()), offset));
        }
        set_bits(&mut allocation.initialised, offset, bytes);
        if race.on && how == Use::Write {
            let conflict = allocation.marks.write(offset, bytes, who, &self.numbers, &race.clocks);
            return conflict.map_err(|c| self.describe(&format!("race in global memory: write of {bytes} bytes that {c}"), offset));
        }
        Ok(())
    }

    /// A message about a byte of the allocation of the last access.
    #[cold]
    fn describe(&self, what: &str, offset: usize) -> String {
        let a = &self.allocations[self.last];
        format!("{what}: byte {offset} of the allocation {:#x} of {} bytes", a.start, a.bytes)
    }

    #[cold]
    fn outside(&self, what: &str, address: usize, bytes: usize) -> String {
        let distance =
            |a: &Allocation| if address < a.start { a.start - address } else { (address + bytes).saturating_sub(a.start + a.bytes) };
        let near = self.allocations.iter().min_by_key(|a| distance(a));
        let near = match near {
            Some(a) if address < a.start && distance(a) < 1 << 30 => {
                format!(", {} bytes before the allocation {:#x} of {} bytes", a.start - address, a.start, a.bytes)
            }
            Some(a) if distance(a) < 1 << 30 => {
                let end = a.start + a.bytes;
                let past = address as i64 - end as i64;
                format!(", {past} bytes past the end of the allocation {:#x} of {} bytes", a.start, a.bytes)
            }
            _ => String::new(),
        };
        format!("{what}: {bytes} bytes at {address:#x} are out of bounds{near}")
    }
}
