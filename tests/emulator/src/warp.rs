//! What the lanes of a warp do together: the last lane to arrive does it for all.

use crate::machine::{Machine, Waiting, expect, fail, machine, wait};
use crate::matrix;
use crate::report::Site;
use std::ffi::{c_char, c_void};

/// The numbers are those of `include/emulator.h`.
#[derive(Clone, Copy, PartialEq)]
#[repr(u32)]
pub enum Op {
    SyncWarp,
    Shuffle,
    Vote,
    Reduce,
    Match,
    Ldmatrix,
    Mma,
    Wgmma,
}

const OPS: [Op; 8] = [Op::SyncWarp, Op::Shuffle, Op::Vote, Op::Reduce, Op::Match, Op::Ldmatrix, Op::Mma, Op::Wgmma];

impl Op {
    pub fn name(self) -> &'static str {
        ["__syncwarp", "__shfl_sync", "a vote", "__reduce_sync", "__match_any_sync", "ldmatrix", "mma", "wgmma"][self as usize]
    }

    /// Whether all lanes must execute the very same instruction (`.aligned` in PTX).
    fn aligned(self) -> bool {
        matches!(self, Op::Ldmatrix | Op::Mma | Op::Wgmma)
    }
}

/// What one lane waits in.
#[derive(Clone, Copy)]
pub struct Call {
    pub op: Op,
    pub mask: u32,
    pub args: *mut c_void,
    pub site: Site,
}

const NO_CALL: Call = Call { op: Op::SyncWarp, mask: 0, args: std::ptr::null_mut(), site: Site::NONE };

/// The lanes of a warp that wait, and in what.
pub struct Warp {
    pub arrived: u32,
    pub calls: [Call; 32],
}

impl Default for Warp {
    fn default() -> Warp {
        Warp { arrived: 0, calls: [NO_CALL; 32] }
    }
}

impl Warp {
    pub fn describe(&self, lane: usize) -> String {
        let call = self.calls[lane];
        format!("wait in {} (mask {:08x}) at {}", call.op.name(), call.mask, call.site)
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Shuffle {
    value: u64,
    out: u64,
    mode: u32,
    by: u32,
    width: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Vote {
    value: u32,
    out: u32,
    mode: u32,
}

#[unsafe(no_mangle)]
extern "C" fn emu_collective(op: u32, mask: u32, args: *mut c_void, file: *const c_char, line: u32) {
    let call = Call { op: OPS[op as usize], mask, args, site: Site::new(file, line) };
    if !expect(machine().collective(call)) {
        wait(Waiting::Collective, call.site);
    }
}

impl Machine {
    /// A lane arrives; true if it need not wait, because it was the last.
    fn collective(&mut self, call: Call) -> Result<bool, String> {
        let thread = self.block.current;
        let (number, lane) = (thread / 32, thread % 32);
        if call.mask >> lane & 1 == 0 {
            return Err(format!("{}: lane {lane} is not in its own mask {:08x} at {}", call.op.name(), call.mask, call.site));
        }
        let warp = &mut self.block.warps[number];
        warp.calls[lane] = call;
        warp.arrived |= 1 << lane;
        if call.op == Op::Wgmma {
            return self.warpgroup_arrives(thread / 128);
        }
        // Lanes that the block does not have are ignored, as on the GPU. Lanes that have exited are not: nothing waits for ever unseen.
        let base = number * 32;
        let lanes = (self.threads() - base).min(32);
        let needed = call.mask & (u32::MAX >> (32 - lanes));
        let warp = &mut self.block.warps[number];
        if warp.arrived & needed != needed {
            return Ok(false);
        }
        warp.agree(number, lane, needed)?;
        warp.arrived &= !needed;
        self.execute(number, needed, call)?;
        let others = needed & !(1 << lane);
        for other in bits(others) {
            self.block.threads[base + other].waiting = Waiting::No;
        }
        self.block.ready.insert_lanes(base, others);
        Ok(true)
    }

    fn execute(&mut self, number: usize, lanes: u32, call: Call) -> Result<(), String> {
        let warp = &self.block.warps[number];
        match call.op {
            Op::SyncWarp => self.race.clocks.order_warp(number * 32, lanes),
            Op::Shuffle => {
                self.counter.shuffle();
                return warp.shuffle(lanes);
            }
            Op::Vote => warp.vote(lanes),
            Op::Reduce => warp.reduce(lanes),
            Op::Match => warp.match_any(lanes),
            _ if lanes != u32::MAX => return Err(format!("{} by part of a warp (mask {lanes:08x}) at {}", call.op.name(), call.site)),
            Op::Ldmatrix => return matrix::ldmatrix(self, number),
            Op::Mma => matrix::mma(self, number),
            Op::Wgmma => unreachable!("wgmma is a warpgroup's"),
        }
        Ok(())
    }
}

pub fn bits(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |i| mask >> i & 1 == 1)
}

impl Warp {
    /// All lanes must be in the same operation with the same mask.
    fn agree(&self, number: usize, last: usize, lanes: u32) -> Result<(), String> {
        let call = self.calls[last];
        for lane in bits(lanes) {
            let other = self.calls[lane];
            let same_line = !call.op.aligned() || other.site.line == call.site.line;
            if other.op != call.op || other.mask != call.mask || !same_line {
                let (a, b) = (self.describe(last), self.describe(lane));
                return Err(format!("warp {number} diverged: lane {last} would {a}, lane {lane} would {b}"));
            }
        }
        Ok(())
    }

    /// What a waiting lane passed.
    fn args<A: Copy>(&self, lane: usize) -> A {
        // SAFETY: the lane waits (or is the one that runs), so its arguments are alive on its stack, and of the type of its op.
        unsafe { *(self.calls[lane].args as *const A) }
    }

    /// What a lane gets, in the arguments that it passed.
    fn answer<A>(&self, lane: usize, args: A) {
        // SAFETY: as in `args`; the lane does not run before it is woken.
        unsafe { *(self.calls[lane].args as *mut A) = args };
    }

    fn shuffle(&self, lanes: u32) -> Result<(), String> {
        for lane in bits(lanes) {
            let args: Shuffle = self.args(lane);
            let Shuffle { mode, by, width, .. } = args;
            let (own, first) = (lane as u32, lane as u32 & !(width - 1));
            let source = match mode {
                0 => first | by & (width - 1),
                1 => own.checked_sub(by).filter(|&s| s >= first).unwrap_or(own),
                2 => own.checked_add(by).filter(|&s| s < first + width).unwrap_or(own),
                _ => Some(own ^ by).filter(|&s| s < first + width).unwrap_or(own),
            } as usize;
            if source > 31 || lanes >> source & 1 == 0 {
                let site = self.calls[lane].site;
                return Err(format!(
                    "__shfl_sync: lane {lane} reads lane {source}, which does not take part (mask {lanes:08x}), at {site}"
                ));
            }
            let out = self.args::<Shuffle>(source).value;
            self.answer(lane, Shuffle { out, ..args });
        }
        Ok(())
    }

    fn vote(&self, lanes: u32) {
        let votes = bits(lanes).fold(0, |all, lane| all | self.args::<Vote>(lane).value << lane);
        for lane in bits(lanes) {
            let args: Vote = self.args(lane);
            let out = if args.mode == 0 { votes } else { (votes == lanes) as u32 };
            self.answer(lane, Vote { out, ..args });
        }
    }

    fn reduce(&self, lanes: u32) {
        let mode = self.args::<Vote>(lanes.trailing_zeros() as usize).mode;
        let join = |a: u32, b: u32| match mode {
            0 => a.wrapping_add(b),
            1 => a.min(b),
            2 => a.max(b),
            3 => (a as i32).min(b as i32) as u32,
            _ => (a as i32).max(b as i32) as u32,
        };
        let all = bits(lanes).map(|lane| self.args::<Vote>(lane).value).reduce(join).unwrap_or(0);
        bits(lanes).for_each(|lane| self.answer(lane, Vote { out: all, ..self.args(lane) }));
    }

    fn match_any(&self, lanes: u32) {
        for lane in bits(lanes) {
            let args: Vote = self.args(lane);
            let same = bits(lanes).filter(|&other| self.args::<Vote>(other).value == args.value);
            let out = same.fold(0, |mask, other| mask | 1 << other);
            self.answer(lane, Vote { out, ..args });
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn emu_trap(what: *const c_char, file: *const c_char, line: u32) {
    // SAFETY: a string literal of a compiled kernel.
    let what = unsafe { std::ffi::CStr::from_ptr(what) }.to_string_lossy();
    fail(format!("{what} at {}", Site::new(file, line)))
}
