//! TMA: boxes of a tensor between global and shared memory, with swizzle and zeros outside.

use crate::Arrivals;
use crate::machine::{Failure, Machine, expect, machine};
use crate::memory::{Use, Who};
use crate::order::{Agent, View};
use crate::report::Site;
use std::ffi::c_char;

/// What a CUtensorMap says, in the same 128 bytes.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct TensorMap {
    magic: u32,
    /// Bytes of an element.
    element: u32,
    rank: u32,
    /// Bytes of a swizzle row: 0, 32, 64 or 128.
    swizzle: u32,
    base: u64,
    dims: [u32; 5],
    box_dims: [u32; 5],
    /// Bytes, of dimensions 1 and up.
    strides: [u64; 4],
    _pad: [u64; 4],
}

const MAGIC: u32 = 0x7e50_4a99;

impl TensorMap {
    /// Dimensions and box innermost first, strides in bytes from dimension 1 on. The limits are those of cuTensorMapEncodeTiled.
    pub fn tiled(base: u64, element: u32, dims: &[u32], strides: &[u64], box_dims: &[u32], swizzle: u32) -> Result<TensorMap, String> {
        let rank = dims.len();
        if !(1..=5).contains(&rank) || box_dims.len() != rank || strides.len() + 1 != rank {
            return Err(format!("a tensor map of {rank} dimensions, box {box_dims:?}, strides {strides:?}"));
        }
        if box_dims.iter().any(|b| !(1..=256).contains(b)) {
            return Err(format!("a box of {box_dims:?}: each axis must be 1 to 256"));
        }
        if !base.is_multiple_of(16) || strides.iter().any(|s| !s.is_multiple_of(16)) {
            return Err(format!("a tensor map at {base:#x} with strides {strides:?}: all must be multiples of 16"));
        }
        let inner = box_dims[0] * element;
        if !inner.is_multiple_of(16) || ![0, 32, 64, 128].contains(&swizzle) || swizzle > 0 && inner > swizzle {
            return Err(format!("rows of {inner} bytes with swizzle {swizzle}"));
        }
        let mut map = TensorMap {
            magic: MAGIC,
            element,
            rank: rank as u32,
            swizzle,
            base,
            dims: [1; 5],
            box_dims: [1; 5],
            strides: [0; 4],
            _pad: [0; 4],
        };
        map.dims[..rank].copy_from_slice(dims);
        map.box_dims[..rank].copy_from_slice(box_dims);
        map.strides[..rank - 1].copy_from_slice(strides);
        Ok(map)
    }

    /// The 128 bytes, as a kernel takes them.
    pub fn words(&self) -> [u64; 16] {
        // SAFETY: as many bytes, all of them in fields.
        unsafe { std::mem::transmute(*self) }
    }

    /// The map of such words, of which a kernel says whether it is one.
    pub fn from_words(words: &[u64; 16]) -> TensorMap {
        // SAFETY: as many bytes, any of which its integers may have.
        unsafe { std::mem::transmute(*words) }
    }

    /// Bytes of a box.
    fn bytes(&self) -> usize {
        self.box_dims.iter().product::<u32>() as usize * self.element as usize
    }

    /// Where byte `linear` of a box at shared address `start` lies: bits 4 to 6 are XORed with those above.
    fn swizzled(&self, start: usize) -> usize {
        let mask = (self.swizzle as usize / 16).saturating_sub(1);
        start ^ (start >> 7 & mask) << 4
    }
}

/// A transfer that was issued.
#[derive(Clone)]
pub struct Transfer {
    load: bool,
    shared: u32,
    map: TensorMap,
    /// The mbarrier that a load completes on.
    bar: u32,
    at: [i32; 5],
    site: Site,
    who: Who,
    /// What a load's writes are ordered after, and themselves.
    clocks: Vec<u32>,
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
extern "C" fn emu_tma(
    load: u32,
    shared: u32,
    map: *const TensorMap,
    bar: u32,
    c0: i32,
    c1: i32,
    c2: i32,
    c3: i32,
    c4: i32,
    file: *const c_char,
    line: u32,
) {
    let machine = machine();
    // SAFETY: the kernel's parameter, which the launch has copied to its stack.
    let map = unsafe { *map };
    let (at, site, who) = ([c0, c1, c2, c3, c4], Site::new(file, line), machine.who());
    expect(machine.issue(Transfer { load: load == 1, shared, map, bar, at, site, who, clocks: vec![] }))
}

#[unsafe(no_mangle)]
extern "C" fn emu_bulk_commit() {
    machine().thread().hopper.store_groups += 1;
}

#[unsafe(no_mangle)]
extern "C" fn emu_bulk_wait(n: u32) {
    expect(machine().wait_stores(|group, groups| group + n < groups))
}

impl Machine {
    fn issue(&mut self, mut transfer: Transfer) -> Result<(), String> {
        let Transfer { shared, map, bar, site, load, .. } = transfer;
        if map.magic != MAGIC {
            return Err(format!("TMA: not a tensor map at {site}"));
        }
        let align = if map.swizzle == 0 { 128 } else { map.swizzle as usize * 8 };
        self.shared.at(shared, map.bytes(), align, "TMA").map_err(|e| format!("{e}, at {site}"))?;
        let (offset, bytes, thread) = (Machine::offset(shared), map.bytes(), self.block.current);
        if !load {
            let fenced = (offset..offset + bytes).step_by(4).try_for_each(|o| self.race.fenced(o, &self.block.hopper.fences));
            fenced.map_err(|c| self.conflict(c, offset, bytes, false, &format!("TMA store at {site}")))?;
            self.shared_by(thread, offset, bytes, false, "TMA store")?;
            let group = self.block.threads[thread].hopper.store_groups;
            self.block.threads[thread].hopper.stores.push_back((group, transfer));
            return if self.options.arrivals == Arrivals::Early { self.wait_stores(|_, _| true) } else { Ok(()) };
        }
        let number = self.threads() + self.mbarrier_number(bar, "TMA load", site)?;
        self.race.clocks.tick(number);
        let clock = self.race.clocks.of(number);
        // The write may happen from now on.
        if let Err(conflict) = self.race.access(offset, bytes, true, Agent { number, clock, view: View::Thread(thread) }) {
            return Err(self.conflict(conflict, offset, bytes, true, "TMA load"));
        }
        self.race.clocks.tell(thread, &mut transfer.clocks);
        transfer.clocks[number] = clock;
        if self.options.arrivals == Arrivals::Early {
            return self.carry_out_transfer(&transfer);
        }
        self.block.hopper.loads.push_back(transfer);
        Ok(())
    }

    /// The first stores of the running thread, as long as their group (of so many) is waited for, happen.
    pub fn wait_stores(&mut self, waited_for: impl Fn(u32, u32) -> bool) -> Result<(), String> {
        loop {
            let hopper = &mut self.thread().hopper;
            let groups = hopper.store_groups;
            let Some((_, store)) = hopper.stores.pop_front_if(|s| waited_for(s.0, groups)) else { return Ok(()) };
            self.carry_out_transfer(&store)?;
        }
    }

    /// With random arrivals, a load may arrive at any moment.
    pub fn maybe_load(&mut self) {
        let loads = self.block.hopper.loads.len();
        if loads > 0 && self.options.arrivals == Arrivals::Random && self.block.random.next().is_multiple_of(8) {
            self.load_one();
        }
    }

    /// One load arrives; false if there is none.
    pub fn load_one(&mut self) -> bool {
        let loads = self.block.hopper.loads.len();
        if loads == 0 {
            return false;
        }
        let index = if self.options.arrivals == Arrivals::Random { self.block.random.next() as usize % loads } else { 0 };
        let load = self.block.hopper.loads.remove(index).expect("index is below the length");
        if let Err(message) = self.carry_out_transfer(&load) {
            self.block.failure.get_or_insert(Failure { message, thread: load.who.thread, trace: vec![] });
        }
        true
    }

    fn carry_out_transfer(&mut self, t: &Transfer) -> Result<(), String> {
        let map = &t.map;
        let row = map.box_dims[0] as usize * map.element as usize;
        let rows = map.box_dims[1..].iter().product::<u32>();
        for r in 0..rows {
            let mut rest = r;
            let (mut inside, mut global) = (true, map.base as i64);
            for d in 1..5 {
                let at = t.at[d] as i64 + (rest % map.box_dims[d]) as i64;
                rest /= map.box_dims[d];
                inside &= at >= 0 && at < map.dims[d] as i64;
                global += at * map.strides[d - 1] as i64;
            }
            for chunk in (0..row).step_by(16) {
                let shared = map.swizzled(t.shared as usize + r as usize * row + chunk);
                let at = self.shared.base + Machine::offset(shared as u32);
                for byte in (0..16).step_by(map.element as usize) {
                    let column = t.at[0] as i64 + ((chunk + byte) / map.element as usize) as i64;
                    let inside = inside && column >= 0 && column < map.dims[0] as i64;
                    let address = (global + column * map.element as i64) as usize;
                    self.move_element(t, inside.then_some(address), at + byte)?;
                }
            }
        }
        if self.options.counts {
            self.counter.bulk(t.site, t.load, map.bytes());
        }
        if t.load { self.complete_bytes(t.bar, map.bytes(), &t.clocks, t.site) } else { Ok(()) }
    }

    /// One element of a transfer; `global` is none outside the tensor.
    fn move_element(&mut self, t: &Transfer, global: Option<usize>, shared: usize) -> Result<(), String> {
        let bytes = t.map.element as usize;
        if let Some(address) = global {
            let how = if t.load { Use::Read } else { Use::Write };
            let check = self.memory.access(address, bytes, how, t.who, &self.race);
            check.map_err(|e| format!("TMA: {e}, issued by thread {} at {}", t.who.thread, t.site))?;
        }
        let shared = shared as *mut u8;
        // SAFETY: the box lies in the block's shared memory and the element in an allocation, both checked.
        unsafe {
            match global {
                Some(address) if t.load => std::ptr::copy_nonoverlapping(address as *const u8, shared, bytes),
                Some(address) => std::ptr::copy_nonoverlapping(shared, address as *mut u8, bytes),
                None if t.load => std::ptr::write_bytes(shared, 0, bytes),
                None => {}
            }
        }
        Ok(())
    }
}
