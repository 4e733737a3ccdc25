//! Which access happens before which: clocks of threads and the last accesses to each byte of shared memory.
//!
//! The scheme is FastTrack's (Flanagan and Freund, PLDI 2009). Every agent (a thread, an mbarrier's loads, a warpgroup's wgmma)
//! has a clock, a thread knows how far it is ordered after each other agent, and an access must be ordered after the last write
//! and, if it writes, after the last reads. A barrier of the whole block orders everything, so it only raises `floor`; what a
//! thread knows beyond the floor is kept for its warp (`__syncwarp`) or, once something else orders, for all agents.

use crate::shared::ARENA;

/// Agents besides threads: mbarriers (their loads), then warpgroups (their wgmma).
pub const MBARRIERS: usize = 40;
pub const WARPGROUPS: usize = 8;
pub const OTHERS: usize = MBARRIERS + WARPGROUPS;

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

#[derive(Default)]
enum Beyond {
    #[default]
    Nothing,
    /// Of the 32 threads of the own warp.
    Warp(Box<[u32; 32]>),
    /// Of all agents.
    All(Vec<u32>),
}

/// Who accesses, at which own clock, and what it is ordered after.
#[derive(Clone, Copy)]
pub struct Agent<'a> {
    pub number: usize,
    pub clock: u32,
    pub view: View<'a>,
}

#[derive(Clone, Copy)]
pub enum View<'a> {
    /// What a thread knows now.
    Thread(usize),
    /// A list over all agents.
    Clocks(&'a [u32]),
}

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
    threads: usize,
    start: u32,
    /// Everything at or before this clock is ordered before everything that comes.
    floor: u32,
    /// The same for the other agents.
    floors: [u32; OTHERS],
    /// Own clocks of all agents.
    pub clocks: Vec<u32>,
    beyond: Vec<Beyond>,
    /// Per word of the arena; a word with `SPLIT` for its writer has its state in `bytes`.
    words: Vec<Cell>,
    bytes: Vec<Cell>,
    /// One bit per byte of the arena: has been written in this block.
    initialised: Vec<u64>,
}

impl Race {
    pub fn new() -> Race {
        Race {
            on: true,
            threads: 0,
            start: 0,
            floor: 0,
            floors: [0; OTHERS],
            clocks: vec![],
            beyond: vec![],
            words: vec![EMPTY; ARENA / 4],
            bytes: vec![],
            initialised: vec![0; ARENA / 64],
        }
    }

    /// A new block: its clocks go on where the last block's ended, so the cells need no clearing.
    pub fn begin(&mut self, threads: usize, used: usize) {
        self.floor = self.clocks.iter().copied().max().unwrap_or(0);
        self.start = self.floor;
        self.floors = [self.floor; OTHERS];
        self.threads = threads;
        self.clocks.clear();
        self.clocks.resize(threads, self.floor + 1);
        self.clocks.resize(threads + OTHERS, self.floor);
        self.beyond.clear();
        self.beyond.resize_with(threads, Beyond::default);
        self.initialised[..used.div_ceil(64)].fill(0);
    }

    /// The last clock of the blocks before this one.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// How far `view` is ordered after `agent`.
    fn known(&self, view: View, agent: usize) -> u32 {
        let floor = if agent < self.threads { self.floor } else { self.floors[agent - self.threads] };
        match view {
            View::Clocks(clocks) => clocks[agent],
            View::Thread(thread) => match &self.beyond[thread] {
                Beyond::Nothing => floor,
                Beyond::Warp(clocks) if agent < self.threads && agent / 32 == thread / 32 => clocks[agent % 32],
                Beyond::Warp(_) => floor,
                Beyond::All(clocks) => clocks[agent],
            },
        }
    }

    /// Whether an access of `agent` at `clock` is ordered before what `thread` does now. Agents of earlier blocks always are.
    pub fn ordered(&self, thread: usize, agent: usize, clock: u32) -> bool {
        agent == thread || clock <= self.floor || clock <= self.known(View::Thread(thread), agent)
    }

    fn after(&self, view: View, agent: u16, clock: u32) -> bool {
        clock <= self.floor || clock <= self.known(view, agent as usize)
    }

    /// Everything `thread` is ordered after, itself included, joined into `clocks`.
    pub fn tell(&self, thread: usize, clocks: &mut Vec<u32>) {
        clocks.resize(self.threads + OTHERS, 0);
        for (agent, clock) in clocks.iter_mut().enumerate() {
            *clock = (*clock).max(self.known(View::Thread(thread), agent));
        }
        clocks[thread] = clocks[thread].max(self.clocks[thread]);
    }

    /// `thread` is now ordered after `clocks` as well.
    pub fn learn(&mut self, thread: usize, clocks: &[u32]) {
        let mut all = vec![];
        self.tell(thread, &mut all);
        for (mine, new) in all.iter_mut().zip(clocks) {
            *mine = (*mine).max(*new);
        }
        self.beyond[thread] = Beyond::All(all);
    }

    /// `agent` begins a new stretch: what it does from now on is not covered by what it has told.
    pub fn tick(&mut self, agent: usize) {
        self.clocks[agent] += 1;
    }

    /// A barrier of the whole block.
    pub fn order_block(&mut self) {
        for thread in 0..self.threads {
            if let Beyond::All(clocks) = &self.beyond[thread] {
                for (floor, clock) in self.floors.iter_mut().zip(&clocks[self.threads..]) {
                    *floor = (*floor).max(*clock);
                }
            }
            self.beyond[thread] = Beyond::Nothing;
        }
        self.floor = self.clocks[..self.threads].iter().copied().max().unwrap_or(0);
        self.clocks[..self.threads].fill(self.floor + 1);
    }

    /// `__syncwarp` by the lanes of `mask` of the warp that starts at thread `base`.
    pub fn order_warp(&mut self, base: usize, mask: u32) {
        let lanes: Vec<usize> = (0..32).filter(|l| mask >> l & 1 == 1).map(|l| base + l).collect();
        if lanes.iter().any(|&t| matches!(self.beyond[t], Beyond::All(_))) {
            let mut joined = vec![];
            lanes.iter().for_each(|&t| self.tell(t, &mut joined));
            lanes.iter().for_each(|&t| self.learn(t, &joined));
        } else {
            let mut joined = [self.floor; 32];
            for &t in &lanes {
                if let Beyond::Warp(clocks) = &self.beyond[t] {
                    joined.iter_mut().zip(clocks.iter()).for_each(|(j, c)| *j = (*j).max(*c));
                }
                joined[t - base] = self.clocks[t];
            }
            lanes.iter().for_each(|&t| self.beyond[t] = Beyond::Warp(Box::new(joined)));
        }
        lanes.iter().for_each(|&t| self.tick(t));
    }

    /// The clocks that all of `threads` are ordered after.
    pub fn common(&self, threads: std::ops::Range<usize>) -> Vec<u32> {
        let mut common = vec![u32::MAX; self.threads + OTHERS];
        for thread in threads {
            let mut own = vec![];
            self.tell(thread, &mut own);
            common.iter_mut().zip(&own).for_each(|(c, o)| *c = (*c).min(*o));
        }
        common
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
            if whole && self.words[at / 4].writer != SPLIT {
                self.words[at / 4] = self.step(self.words[at / 4], write, agent)?;
                at += 4;
                continue;
            }
            self.split(at / 4);
            let stop = end.min(at / 4 * 4 + 4);
            for byte in at..stop {
                self.bytes[byte] = self.step(self.bytes[byte], write, agent)?;
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

    /// A cell after an access, if the access is ordered after those in it.
    #[inline(always)]
    fn step(&self, mut cell: Cell, write: bool, agent: Agent) -> Result<Cell, Conflict> {
        let me = agent.number as u16;
        let own = cell.writer == me && (cell.write_clock != PENDING || agent.clock == PENDING);
        if cell.writer != NOBODY && !own && !self.after(agent.view, cell.writer, cell.write_clock) {
            return Err(Conflict::Race { other: cell.writer as usize, wrote: true });
        }
        let free =
            |i: usize| cell.readers[i] == NOBODY || cell.readers[i] == me || self.after(agent.view, cell.readers[i], cell.read_clocks[i]);
        if write {
            if let Some(i) = (0..2).find(|&i| !free(i)) {
                return Err(Conflict::Race { other: cell.readers[i] as usize, wrote: false });
            }
            return Ok(Cell { write_clock: agent.clock, writer: me, ..EMPTY });
        }
        let i = if free(0) {
            0
        } else if free(1) {
            1
        } else {
            agent.number & 1
        };
        cell.readers[i] = me;
        cell.read_clocks[i] = agent.clock;
        Ok(cell)
    }

    /// A cp.async of `thread` has been waited for: from here it is an ordinary write.
    pub fn complete(&mut self, offset: usize, bytes: usize, thread: usize) {
        let clock = self.clocks[thread];
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
        let fence = fences.get(writer).copied().unwrap_or(self.start);
        if writer < self.threads && cell.write_clock > fence {
            return Err(Conflict::Unfenced { writer });
        }
        Ok(())
    }
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
