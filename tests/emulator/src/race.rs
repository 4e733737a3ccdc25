//! Races on shared memory: the last accesses to each byte, held against what is ordered before what.

use crate::order::{Agent, Clocks};
use crate::shared::ARENA;

/// Clock of a cp.async that has not been waited for: ordered before nothing, its own thread included.
pub const PENDING: u32 = u32::MAX;

const NOBODY: u16 = u16::MAX;
const SPLIT: u16 = u16::MAX - 1;

/// The last write of a word (or byte) and two reads since. A third unordered read replaces one of them.
#[derive(Clone, Copy)]
struct Cell {
    write_clock: u32,
    read_clocks: [u32; 2],
    writer: u16,
    readers: [u16; 2],
}

const EMPTY: Cell = Cell { write_clock: 0, read_clocks: [0; 2], writer: NOBODY, readers: [NOBODY; 2] };

pub enum Conflict {
    Uninitialised,
    /// Written by ordinary stores without a fence for the reader, which is of the async proxy.
    Unfenced {
        writer: usize,
    },
    Race {
        other: usize,
        wrote: bool,
    },
}

pub struct Race {
    pub on: bool,
    pub clocks: Clocks,
    /// Per word of the arena; a word with `SPLIT` for its writer has its state in `bytes`.
    words: Vec<Cell>,
    bytes: Vec<Cell>,
    /// One bit per byte of the arena: has been written in this block.
    initialised: Vec<u64>,
}

impl Race {
    pub fn new() -> Race {
        Race { on: true, clocks: Clocks::new(), words: vec![EMPTY; ARENA / 4], bytes: vec![], initialised: vec![0; ARENA / 64] }
    }

    /// A new block, after one that had `used` bytes of the arena in use.
    pub fn begin(&mut self, threads: usize, used: usize) {
        self.clocks.begin(threads);
        self.initialised[..used.div_ceil(64)].fill(0);
    }

    /// An access to shared memory: checks it against the accesses before it and records it.
    pub fn access(&mut self, offset: usize, bytes: usize, write: bool, agent: Agent) -> Result<(), Conflict> {
        if write {
            set_bits(&mut self.initialised, offset, bytes);
        } else if !all_bits(&self.initialised, offset, bytes) {
            return Err(Conflict::Uninitialised);
        }
        if !self.on {
            return Ok(());
        }
        let end = offset + bytes;
        let mut at = offset;
        while at < end {
            let whole = at.is_multiple_of(4) && at + 4 <= end;
            let word = &mut self.words[at / 4];
            if whole && (word.writer != SPLIT || join(word, &self.bytes[at..at + 4], &self.clocks)) {
                word.step(write, agent, &self.clocks)?;
                at += 4;
                continue;
            }
            self.split(at / 4);
            let stop = end.min(at / 4 * 4 + 4);
            for byte in &mut self.bytes[at..stop] {
                byte.step(write, agent, &self.clocks)?;
            }
            if whole && write {
                self.words[at / 4] = self.bytes[at];
            }
            at = stop;
        }
        Ok(())
    }

    fn split(&mut self, word: usize) {
        let cell = self.words[word];
        if cell.writer == SPLIT {
            return;
        }
        if self.bytes.is_empty() {
            self.bytes.resize(ARENA, EMPTY);
        }
        self.bytes[word * 4..word * 4 + 4].fill(cell);
        self.words[word].writer = SPLIT;
    }

    /// A cp.async of `thread` has been waited for: from here it is an ordinary write.
    pub fn complete(&mut self, offset: usize, bytes: usize, thread: usize) {
        let clock = self.clocks.of(thread);
        for word in offset / 4..(offset + bytes).div_ceil(4) {
            let cells = match self.words[word].writer {
                SPLIT => &mut self.bytes[word * 4..word * 4 + 4],
                _ => &mut self.words[word..word + 1],
            };
            for cell in cells.iter_mut().filter(|c| c.writer as usize == thread && c.write_clock == PENDING) {
                cell.write_clock = clock;
            }
        }
    }

    /// A read by the async proxy: an ordinary write of this block must lie before the last fence of its thread.
    pub fn fenced(&self, offset: usize, fences: &[u32]) -> Result<(), Conflict> {
        let word = self.words[offset / 4];
        let cell = if word.writer == SPLIT { self.bytes[offset] } else { word };
        let writer = cell.writer as usize;
        // Before its first fence a thread has fenced nothing of this block.
        let fence = fences.get(writer).copied().unwrap_or(self.clocks.start);
        if self.clocks.is_thread(writer) && cell.write_clock > fence {
            return Err(Conflict::Unfenced { writer });
        }
        Ok(())
    }
}

impl Cell {
    /// An access: an error if it is not ordered after those it must be ordered after.
    #[inline(always)]
    fn step(&mut self, write: bool, agent: Agent, clocks: &Clocks) -> Result<(), Conflict> {
        let me = agent.number as u16;
        let own = self.writer == me && (self.write_clock != PENDING || agent.clock == PENDING);
        if !own && self.writer != NOBODY && !clocks.before(self.writer as usize, self.write_clock, agent.view) {
            return Err(Conflict::Race { other: self.writer as usize, wrote: true });
        }
        if write {
            for i in 0..2 {
                if !self.may_go(i, me, agent, clocks) {
                    return Err(Conflict::Race { other: self.readers[i] as usize, wrote: false });
                }
            }
            *self = Cell { write_clock: agent.clock, writer: me, ..EMPTY };
            return Ok(());
        }
        let i = match self.readers[0] {
            reader if reader == me || reader == NOBODY => 0,
            _ if self.may_go(1, me, agent, clocks) => 1,
            _ if self.may_go(0, me, agent, clocks) => 0,
            _ => agent.number & 1,
        };
        self.readers[i] = me;
        self.read_clocks[i] = agent.clock;
        Ok(())
    }

    /// Whether a reader is none, oneself, or ordered before.
    #[inline(always)]
    fn may_go(&self, i: usize, me: u16, agent: Agent, clocks: &Clocks) -> bool {
        let reader = self.readers[i];
        reader == NOBODY || reader == me || clocks.before(reader as usize, self.read_clocks[i], agent.view)
    }

    /// Whether all in it is ordered before everything that comes.
    fn is_old(&self, clocks: &Clocks) -> bool {
        [self.write_clock, self.read_clocks[0], self.read_clocks[1]].iter().all(|&c| clocks.is_old(c))
    }
}

/// A split word whose bytes hold nothing that can still be raced with is one word again, last written by the last writer of its bytes;
/// false if it must stay split.
fn join(word: &mut Cell, bytes: &[Cell], clocks: &Clocks) -> bool {
    if !bytes.iter().all(|b| b.is_old(clocks)) {
        return false;
    }
    let last = bytes.iter().max_by_key(|b| b.write_clock).expect("a word has bytes");
    *word = Cell { write_clock: last.write_clock, writer: last.writer, ..EMPTY };
    true
}

/// Sets `count` bits from bit `from`.
pub fn set_bits(bits: &mut [u64], from: usize, count: usize) {
    let mut at = from;
    while at < from + count {
        let run = (64 - at % 64).min(from + count - at);
        bits[at / 64] |= (u64::MAX >> (64 - run)) << (at % 64);
        at += run;
    }
}

/// Whether `count` bits from bit `from` are all set.
pub fn all_bits(bits: &[u64], from: usize, count: usize) -> bool {
    let mut at = from;
    while at < from + count {
        let run = (64 - at % 64).min(from + count - at);
        let mask = (u64::MAX >> (64 - run)) << (at % 64);
        if bits[at / 64] & mask != mask {
            return false;
        }
        at += run;
    }
    true
}
