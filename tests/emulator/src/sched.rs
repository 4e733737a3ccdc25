//! Running a block: every CUDA thread is a coroutine, one runs at a time, and who is next is the order under test.

use crate::Order;
use crate::machine::{Failure, Machine, STACK, Waiting, machine as current_machine, set_machine, suspend};
use crate::report::{kernel_lines, ranges};
use crate::{atomics, copy, hopper};
use corosensei::stack::{DefaultStack, Stack as _, StackPointer};
use corosensei::{Coroutine, CoroutineResult, Yielder};

/// A small generator (xorshift), one per block.
#[derive(Default)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }
}

/// The threads that can run, as bits.
#[derive(Default)]
pub struct Ready {
    bits: Vec<u64>,
    threads: usize,
    /// The next choice is random whatever the order: a thread that spins must not be the first choice again.
    pub shuffle: bool,
}

impl Ready {
    pub fn all(threads: usize) -> Ready {
        let mut ready = Ready { bits: vec![0; threads.div_ceil(64)], threads, shuffle: false };
        (0..threads).for_each(|t| ready.insert(t));
        ready
    }

    pub fn insert(&mut self, thread: usize) {
        self.bits[thread / 64] |= 1 << (thread % 64);
    }

    pub fn remove(&mut self, thread: usize) {
        self.bits[thread / 64] &= !(1 << (thread % 64));
    }

    /// Adds the lanes of `mask` of the warp whose first thread is `base`.
    pub fn insert_lanes(&mut self, base: usize, mask: u32) {
        self.bits[base / 64] |= (mask as u64) << (base % 64);
    }

    fn next(&mut self, order: Order, random: &mut Random) -> Option<usize> {
        let words = self.bits.len();
        let lowest = |i: usize| i * 64 + self.bits[i].trailing_zeros() as usize;
        let order = if std::mem::take(&mut self.shuffle) { Order::Random } else { order };
        match order {
            Order::InOrder => (0..words).find(|&i| self.bits[i] != 0).map(lowest),
            Order::Reverse => (0..words).rev().find(|&i| self.bits[i] != 0).map(|i| i * 64 + 63 - self.bits[i].leading_zeros() as usize),
            Order::Random => {
                let start = random.next() as usize % self.threads;
                let above = self.bits[start / 64] & (u64::MAX << (start % 64));
                if above != 0 {
                    return Some(start / 64 * 64 + above.trailing_zeros() as usize);
                }
                (1..=words).map(|k| (start / 64 + k) % words).find(|&i| self.bits[i] != 0).map(lowest)
            }
        }
    }
}

/// What a thread does when it is resumed: run on, or only note where it is.
pub enum Resume {
    Run,
    Trace,
}

/// A stack whose top is shifted, or the hot lines of all threads would fall into the same few sets of the cache.
pub struct Stack {
    stack: DefaultStack,
    shift: usize,
}

// SAFETY: both ends lie inside a stack that is one, and the shift keeps the alignment of 16 bytes.
unsafe impl corosensei::stack::Stack for Stack {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.stack.base().get() - self.shift).unwrap()
    }

    fn limit(&self) -> StackPointer {
        self.stack.limit()
    }
}

impl Stack {
    pub fn new(number: usize) -> Stack {
        let stack = DefaultStack::new(STACK).expect("no memory for the stack of a CUDA thread");
        Stack { stack, shift: number % 61 * 320 }
    }
}

type Fiber = Coroutine<Resume, (), (), Stack>;
pub type Entry = unsafe extern "C" fn(words: *const u64);

/// Looks at the machine between two runs of fibers.
fn with<R>(machine: *mut Machine, look: impl FnOnce(&mut Machine) -> R) -> R {
    // SAFETY: the machine outlives the launch, and hooks hold references to it only while a fiber runs, which now none does.
    look(unsafe { &mut *machine })
}

/// Runs the block that `machine.begin` prepared to its end or to its first error.
pub fn run_block(machine: *mut Machine, entry: Entry, words: &[u64], stacks: &mut Vec<Stack>) -> Result<(), String> {
    let threads = with(machine, |m| m.threads());
    let mut fibers: Vec<Fiber> = (0..threads).map(|t| fiber(machine, t, entry, words.as_ptr(), stacks)).collect();
    set_machine(machine);
    while let Some(thread) = with(machine, Machine::next) {
        if let CoroutineResult::Return(()) = fibers[thread].resume(Resume::Run) {
            with(machine, |m| m.block.ready.remove(thread));
        }
    }
    let result = match with(machine, |m| m.block.failure.take()) {
        Some(failure) => Err(with(machine, |m| m.describe(failure))),
        None if with(machine, |m| m.block.alive) > 0 => Err(deadlock(machine, &mut fibers)),
        None => Ok(()),
    };
    set_machine(std::ptr::null_mut());
    for mut fiber in fibers {
        if !fiber.done() {
            // SAFETY: a kernel owns nothing that would have to be dropped, and hooks drop what they own before they suspend.
            unsafe { fiber.force_reset() };
        }
        stacks.push(fiber.into_stack());
    }
    result
}

fn fiber(machine: *mut Machine, thread: usize, entry: Entry, words: *const u64, stacks: &mut Vec<Stack>) -> Fiber {
    let stack = stacks.pop().unwrap_or_else(|| Stack::new(thread));
    with(machine, |m| m.block.threads[thread].stack = stack.base().get());
    Coroutine::with_stack(stack, move |yielder: &Yielder<Resume, ()>, _| {
        current_machine().thread().yielder = yielder;
        // SAFETY: the words are the arguments of this kernel, checked against its parameters, and outlive the block.
        unsafe { entry(words) };
        exit();
    })
}

/// The end of a thread: what it has started happens, and its warp need not wait for it.
fn exit() {
    copy::finish();
    hopper::finish();
    let block = &mut current_machine().block;
    block.threads[block.current].waiting = Waiting::Exited;
    block.alive -= 1;
}

/// Nothing can run: who waits where, one trace per kind of waiting.
fn deadlock(machine: *mut Machine, fibers: &mut [Fiber]) -> String {
    let (block, groups) = with(machine, |m| (m.block.index, m.waiting_groups()));
    let mut message = format!("deadlock in block {block}:");
    for (what, threads) in &groups {
        message += &format!("\n  threads {} {what}", ranges(threads));
        let first = threads[0];
        if !fibers[first].started() || fibers[first].done() {
            continue;
        }
        with(machine, |m| m.set_current(first));
        fibers[first].resume(Resume::Trace);
        let trace = with(machine, |m| std::mem::take(&mut m.block.threads[first].trace));
        kernel_lines(&trace).iter().for_each(|l| message += &format!("\n      at {l}"));
    }
    message
}

impl Machine {
    /// The thread to run next; none if the block has ended, failed, or cannot go on.
    fn next(&mut self) -> Option<usize> {
        loop {
            if self.block.failure.is_some() {
                return None;
            }
            self.maybe_load();
            match self.block.ready.next(self.options.order, &mut self.block.random) {
                Some(thread) => {
                    self.set_current(thread);
                    return Some(thread);
                }
                None if self.load_one() => {}
                None => return None,
            }
        }
    }

    /// The error of a thread, with the lines of kernels that led to it.
    fn describe(&self, failure: Failure) -> String {
        let thread = self.block.threads[failure.thread].index;
        let lines: String = kernel_lines(&failure.trace).iter().map(|l| format!("\n      at {l}")).collect();
        format!("{}\n    by thread {thread} of block {}{lines}", failure.message, self.block.index)
    }

    /// Threads by what they wait for.
    fn waiting_groups(&self) -> Vec<(String, Vec<usize>)> {
        let mut groups: Vec<(String, Vec<usize>)> = vec![];
        for (number, thread) in self.block.threads.iter().enumerate() {
            let what = match thread.waiting {
                Waiting::No => "can run".into(),
                Waiting::Exited => "have exited".into(),
                Waiting::Collective => self.block.warps[number / 32].describe(number % 32),
                Waiting::Barrier(id) => self.block.barriers[id as usize].describe(id, thread.site),
                Waiting::Mbarrier(address, parity) => self.describe_mbarrier(address, parity, thread.site),
            };
            match groups.iter_mut().find(|g| g.0 == what) {
                Some(group) => group.1.push(number),
                None => groups.push((what, vec![number])),
            }
        }
        groups
    }
}

/// Called at memory accesses: the running thread lets others run, if it has had its share.
#[cold]
#[inline(never)]
pub fn pause() {
    let machine = current_machine();
    atomics::check_steps(machine);
    let block = &mut machine.block;
    block.ready.shuffle = true;
    block.pause_at = match machine.options.order {
        Order::Random => block.steps + 1 + block.random.next() % 64,
        _ => machine.options.steps,
    };
    suspend();
}
