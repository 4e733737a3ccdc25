//! What is ordered before what: the clocks of all agents of a block, and how far each thread is ordered after each of them.
//!
//! The scheme is that of FastTrack (Flanagan and Freund, PLDI 2009). Every agent (a thread, an mbarrier's loads, a warpgroup's wgmma)
//! has a clock. A barrier of the whole block orders everything, so it only raises `floor`; what a thread knows beyond the floor is
//! kept for its warp (`__syncwarp`) or, once something else orders, for all agents.

/// Agents besides threads: mbarriers (their loads), then warpgroups (their wgmma).
pub const MBARRIERS: usize = 40;
pub const WARPGROUPS: usize = 8;
pub const OTHERS: usize = MBARRIERS + WARPGROUPS;

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

pub struct Clocks {
    threads: usize,
    /// The last clock of the blocks before this one.
    pub start: u32,
    /// Everything at or before this clock is ordered before everything that comes.
    floor: u32,
    /// The same for the other agents.
    floors: [u32; OTHERS],
    /// Own clocks of all agents.
    own: Vec<u32>,
    beyond: Vec<Beyond>,
}

impl Clocks {
    pub fn new() -> Clocks {
        Clocks { threads: 0, start: 0, floor: 0, floors: [0; OTHERS], own: vec![], beyond: vec![] }
    }

    /// A new block: its clocks go on where the last block's ended, so that what that one did is old.
    pub fn begin(&mut self, threads: usize) {
        self.floor = self.own.iter().copied().max().unwrap_or(0);
        self.start = self.floor;
        self.floors = [self.floor; OTHERS];
        self.threads = threads;
        self.own.clear();
        self.own.resize(threads, self.floor + 1);
        self.own.resize(threads + OTHERS, self.floor);
        self.beyond.clear();
        self.beyond.resize_with(threads, Beyond::default);
    }

    pub fn is_thread(&self, agent: usize) -> bool {
        agent < self.threads
    }

    pub fn agents(&self) -> usize {
        self.own.len()
    }

    #[inline(always)]
    pub fn of(&self, agent: usize) -> u32 {
        self.own[agent]
    }

    /// Whether an access at `clock`, whoever made it, is ordered before everything that comes.
    #[inline(always)]
    pub fn is_old(&self, clock: u32) -> bool {
        clock <= self.floor
    }

    /// Whether an access of `agent` at `clock` is ordered before what is done with `view`.
    #[inline(always)]
    pub fn before(&self, agent: usize, clock: u32, view: View) -> bool {
        clock <= self.floor || clock <= self.known(view, agent)
    }

    /// How far `view` is ordered after `agent`.
    #[inline(never)]
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

    /// Everything `thread` is ordered after, itself included, joined into `clocks`.
    pub fn tell(&self, thread: usize, clocks: &mut Vec<u32>) {
        clocks.resize(self.threads + OTHERS, 0);
        for (agent, clock) in clocks.iter_mut().enumerate() {
            *clock = (*clock).max(self.known(View::Thread(thread), agent));
        }
        clocks[thread] = clocks[thread].max(self.own[thread]);
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
        self.own[agent] += 1;
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
        self.floor = self.own[..self.threads].iter().copied().max().unwrap_or(0);
        self.own[..self.threads].fill(self.floor + 1);
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
                joined[t - base] = self.own[t];
            }
            for &t in &lanes {
                match &mut self.beyond[t] {
                    Beyond::Warp(clocks) => **clocks = joined,
                    other => *other = Beyond::Warp(Box::new(joined)),
                }
            }
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
}
