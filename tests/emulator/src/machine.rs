//! The state of a running block, which hooks and intrinsics work on, and the way they end in an error.

use crate::barrier::Barrier;
use crate::copy::Copies;
use crate::counts::Counter;
use crate::hopper::{BlockHopper, ThreadHopper};
use crate::memory::{Memory, Use, Who};
use crate::order::{Agent, MBARRIERS, View};
use crate::race::{Conflict, Race};
use crate::report::{Site, trace};
use crate::sched::{Random, Ready, Resume};
use crate::shared::{ARENA, BASE, Shared};
use crate::warp::Warp;
use crate::{Arrivals, Options};
use corosensei::Yielder;
use std::cell::Cell;

/// Bytes of a CUDA thread's stack.
pub const STACK: usize = 256 * 1024;

/// Three sizes or indices, as CUDA passes them.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq)]
pub struct Dim {
    pub x: u32,
    pub y: u32,
    pub z: u32,
}

impl From<[u32; 3]> for Dim {
    fn from([x, y, z]: [u32; 3]) -> Dim {
        Dim { x, y, z }
    }
}

impl std::fmt::Display for Dim {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "({},{},{})", self.x, self.y, self.z)
    }
}

impl Dim {
    /// The `i`-th index of a box of this size, x fastest.
    pub fn nth(self, i: u32) -> Dim {
        Dim { x: i % self.x, y: i / self.x % self.y, z: i / self.x / self.y }
    }

    pub fn count(self) -> u64 {
        self.x as u64 * self.y as u64 * self.z as u64
    }
}

#[derive(Clone, Copy, PartialEq)]
pub enum Waiting {
    No,
    Collective,
    Barrier(u32),
    /// Address and parity.
    Mbarrier(u32, u32),
    Exited,
}

pub struct Thread {
    pub index: Dim,
    pub yielder: *const Yielder<Resume, ()>,
    /// The highest address of its stack.
    pub stack: usize,
    pub waiting: Waiting,
    /// Where it waits.
    pub site: Site,
    pub copies: Copies,
    pub hopper: ThreadHopper,
    /// Return addresses, taken when a deadlock is reported.
    pub trace: Vec<usize>,
}

impl Thread {
    fn new(index: Dim) -> Thread {
        Thread {
            index,
            yielder: std::ptr::null(),
            stack: 0,
            waiting: Waiting::No,
            site: Site::NONE,
            copies: Copies::default(),
            hopper: ThreadHopper::default(),
            trace: vec![],
        }
    }
}

/// What went wrong first: the message and the return addresses of the thread that did it.
pub struct Failure {
    pub message: String,
    pub thread: usize,
    pub trace: Vec<usize>,
}

/// The block that runs.
#[derive(Default)]
pub struct Block {
    pub index: Dim,
    pub grid: Dim,
    pub size: Dim,
    /// Its number among all blocks of all launches.
    pub number: u32,
    pub threads: Vec<Thread>,
    /// The thread that runs, and the highest address of its stack.
    pub current: usize,
    pub stack: usize,
    pub alive: usize,
    pub ready: Ready,
    pub warps: Vec<Warp>,
    pub barriers: Vec<Barrier>,
    pub hopper: BlockHopper,
    pub random: Random,
    /// Memory accesses so far, and at how many the running thread must let another run.
    pub steps: u64,
    pub pause_at: u64,
    pub atomics: u64,
    pub failure: Option<Failure>,
}

pub struct Machine {
    pub options: Options,
    pub memory: Memory,
    pub shared: Shared,
    pub race: Race,
    pub counter: Counter,
    pub block: Block,
    /// Parameters of the launch that are null pointers.
    pub nulls: Vec<&'static str>,
}

thread_local! {
    /// The machine that runs a launch on this OS thread.
    static MACHINE: Cell<*mut Machine> = const { Cell::new(std::ptr::null_mut()) };
}

pub fn set_machine(machine: *mut Machine) {
    MACHINE.set(machine);
}

/// The machine whose kernel calls us. No reference to it may be alive when a thread suspends.
#[inline(always)]
pub fn machine() -> &'static mut Machine {
    // SAFETY: kernels, and so the hooks that call this, run only inside `run_block`, which set the pointer and keeps the machine
    // alive; everything is on one OS thread, and callers drop the reference before they suspend.
    unsafe { &mut *MACHINE.get() }
}

pub fn machine_or_none() -> Option<&'static mut Machine> {
    // SAFETY: as in `machine`.
    unsafe { MACHINE.get().as_mut() }
}

/// Gives the processor away until the scheduler resumes this thread.
pub fn suspend() {
    let yielder = machine().thread().yielder;
    // SAFETY: the yielder lives as long as the coroutine that we are in.
    while let Resume::Trace = unsafe { (*yielder).suspend(()) } {
        machine().thread().trace = trace();
    }
}

/// Suspends until something wakes the thread.
pub fn wait(waiting: Waiting, site: Site) {
    let block = &mut machine().block;
    let thread = &mut block.threads[block.current];
    (thread.waiting, thread.site) = (waiting, site);
    block.ready.remove(block.current);
    suspend();
}

/// Ends the launch with an error of the running thread, which never runs again.
#[cold]
pub fn fail(message: String) -> ! {
    let block = &mut machine().block;
    if block.failure.is_none() {
        block.failure = Some(Failure { message, thread: block.current, trace: trace() });
    }
    block.ready.remove(block.current);
    loop {
        suspend();
    }
}

/// The value, or the end of the launch.
#[inline(always)]
pub fn expect<V>(result: Result<V, String>) -> V {
    match result {
        Ok(value) => value,
        Err(message) => fail(message),
    }
}

impl Machine {
    pub fn new(options: Options) -> Machine {
        Machine {
            options,
            memory: Memory::default(),
            shared: Shared::new(),
            race: Race::new(),
            counter: Counter::default(),
            block: Block::default(),
            nulls: vec![],
        }
    }

    /// Makes everything ready for one block.
    pub fn begin(&mut self, grid: Dim, size: Dim, dynamic: usize, index: u32) {
        let threads = size.count() as usize;
        self.race.on = self.options.race;
        self.race.begin(threads, self.shared.used);
        self.shared.begin(dynamic);
        let seed = self.options.seed.wrapping_add(index as u64 + 1);
        self.block = Block {
            index: grid.nth(index),
            grid,
            size,
            number: self.memory.numbers.block(index),
            threads: (0..threads).map(|t| Thread::new(size.nth(t as u32))).collect(),
            current: 0,
            alive: threads,
            ready: Ready::all(threads),
            warps: (0..threads.div_ceil(32)).map(|_| Warp::default()).collect(),
            barriers: (0..16).map(|_| Barrier::default()).collect(),
            hopper: BlockHopper::new(threads),
            random: Random::new(seed),
            pause_at: self.options.first_pause(),
            ..Block::default()
        };
    }

    pub fn thread(&mut self) -> &mut Thread {
        &mut self.block.threads[self.block.current]
    }

    pub fn set_current(&mut self, thread: usize) {
        self.block.current = thread;
        self.block.stack = self.block.threads[thread].stack;
    }

    pub fn wake(&mut self, thread: usize) {
        self.block.threads[thread].waiting = Waiting::No;
        self.block.ready.insert(thread);
    }

    pub fn threads(&self) -> usize {
        self.block.threads.len()
    }

    pub fn who(&self) -> Who {
        let thread = self.block.current;
        Who { thread, clock: self.race.clocks.of(thread), block: self.block.number }
    }

    /// A global access of an emulated instruction or of the instrumented code.
    #[inline(always)]
    pub fn global(&mut self, address: usize, bytes: usize, how: Use) -> Result<(), String> {
        let who = self.who();
        self.memory.access(address, bytes, how, who, &self.race)
    }

    /// An access of a thread to shared memory, which it may make.
    #[inline(always)]
    pub fn shared_by(&mut self, thread: usize, offset: usize, bytes: usize, write: bool, what: &str) -> Result<(), String> {
        let agent = Agent { number: thread, clock: self.race.clocks.of(thread), view: View::Thread(thread) };
        match self.race.access(offset, bytes, write, agent) {
            Ok(()) => Ok(()),
            Err(conflict) => Err(self.conflict(conflict, offset, bytes, write, what)),
        }
    }

    /// Whether something asynchronous happens at once.
    pub fn arrives_early(&mut self) -> bool {
        match self.options.arrivals {
            Arrivals::Early => true,
            Arrivals::Late => false,
            Arrivals::Random => self.block.random.next() & 1 == 0,
        }
    }

    #[cold]
    pub fn conflict(&self, conflict: Conflict, offset: usize, bytes: usize, write: bool, what: &str) -> String {
        let name = self.shared.name(offset);
        match conflict {
            Conflict::Uninitialised => format!("{what}: read of {bytes} bytes of uninitialised shared memory ({name})"),
            Conflict::Unfenced { writer } => {
                let by = self.agent(writer);
                format!("{what}: shared memory ({name}) was written with ordinary stores by {by} without a fence.proxy.async after them")
            }
            Conflict::Race { other, wrote } => {
                let (this, that) = (if write { "write" } else { "read" }, if wrote { "write" } else { "read" });
                let by = self.agent(other);
                format!("{what}: race on {bytes} bytes of shared memory ({name}): the {this} is not ordered after the {that} by {by}")
            }
        }
    }

    fn agent(&self, number: usize) -> String {
        let threads = self.threads();
        if number < threads {
            format!("thread {number}")
        } else if number < threads + MBARRIERS {
            format!("a TMA load on mbarrier {:#x}", self.block.hopper.mbarrier_address(number - threads))
        } else {
            format!("a wgmma of warpgroup {}", number - threads - MBARRIERS)
        }
    }

    /// The offset in the arena of a shared address that was checked.
    pub fn offset(address: u32) -> usize {
        address as usize - BASE
    }

    /// Where an address lies.
    #[inline(always)]
    pub fn space(&self, address: usize) -> Space {
        let offset = address.wrapping_sub(self.shared.base);
        if offset < ARENA {
            return Space::Shared(offset);
        }
        let below = self.block.stack.wrapping_sub(address);
        if below <= STACK { Space::Stack } else { Space::Global }
    }
}

#[derive(Clone, Copy)]
pub enum Space {
    /// Offset in the arena.
    Shared(usize),
    Stack,
    Global,
}
