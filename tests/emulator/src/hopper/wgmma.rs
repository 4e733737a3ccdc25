//! wgmma: the matrix product of a warpgroup, asynchronous, its operands in shared memory by descriptor or in registers.

use crate::Arrivals;
use crate::machine::{Machine, Waiting, expect, machine};
use crate::matrix::pair;
use crate::order::{Agent, MBARRIERS, View};
use crate::report::Site;
use std::collections::VecDeque;

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    d: *mut f32,
    /// Registers of A, or null.
    a: *const [u32; 4],
    desc_a: u64,
    desc_b: u64,
    n: u32,
    scale_d: u32,
    trans_a: u32,
    trans_b: u32,
}

#[derive(Default)]
pub struct Warpgroup {
    /// Issued and not carried out.
    queue: VecDeque<Product>,
}

struct Product {
    clock: u32,
    /// Per thread: its accumulators and its registers of A.
    lanes: Vec<(*mut f32, [u32; 4])>,
    args: Args,
    site: Site,
    /// What all threads of the warpgroup were ordered after.
    clocks: Vec<u32>,
}

/// An operand in shared memory: rows are those of A, or the columns of B.
struct Operand {
    descriptor: u64,
    rows: usize,
    /// Consecutive rows, not consecutive k, lie beside each other.
    transposed: bool,
}

impl Operand {
    /// Shared address of element (row, k), by the canonical layouts of the PTX manual.
    fn address(&self, row: usize, k: usize) -> usize {
        let field = |at: u32| ((self.descriptor >> at & 0x3fff) << 4) as usize;
        let (start, leading, stride) = (field(0), field(16), field(32));
        let mode = (self.descriptor >> 62) as usize;
        let width = [16, 128, 64, 32][mode];
        let linear = match (self.transposed, mode) {
            (false, 0) => start + row / 8 * stride + k / 8 * leading + row % 8 * 16 + k % 8 * 2,
            (false, _) => start + row / 8 * stride + row % 8 * width + k * 2,
            (true, _) => {
                let atom = width / 2;
                let (across, along) = if mode == 0 { (stride, leading) } else { (leading, stride) };
                start + row / atom * across + row % atom * 2 + k / 8 * along + k % 8 * width
            }
        };
        linear ^ (linear >> 7 & [0, 7, 3, 1][mode]) << 4
    }
}

impl Machine {
    /// A thread of a warpgroup came to a wgmma; true if it was the last of the 128.
    pub fn warpgroup_arrives(&mut self, number: usize) -> Result<bool, String> {
        let base = number * 128;
        if base + 128 > self.threads() {
            return Err("wgmma by an incomplete warpgroup".into());
        }
        if (0..4).any(|w| self.block.warps[base / 32 + w].arrived != u32::MAX) {
            return Ok(false);
        }
        self.warpgroup_agrees(number)?;
        let call = |thread: usize| self.block.warps[thread / 32].calls[thread % 32];
        // SAFETY: all 128 threads wait in wgmma with these arguments on their stacks.
        let args = |thread: usize| unsafe { *(call(thread).args as *const Args) };
        let lanes = (base..base + 128).map(|t| {
            let Args { d, a, .. } = args(t);
            // SAFETY: as above; `a` is null or has 4 registers.
            (d, unsafe { a.as_ref() }.copied().unwrap_or_default())
        });
        let (lanes, first, site) = (lanes.collect(), args(base), call(base).site);
        let agent = self.threads() + MBARRIERS + number;
        self.race.clocks.tick(agent);
        let product =
            Product { clock: self.race.clocks.of(agent), lanes, args: first, site, clocks: self.race.clocks.common(base..base + 128) };
        self.counter.mma(64 * first.n as u64 * 16);
        for thread in base..base + 128 {
            self.block.threads[thread].hopper.wgmma = product.clock;
            if thread != self.block.current {
                self.wake(thread);
            }
        }
        (0..4).for_each(|w| self.block.warps[base / 32 + w].arrived = 0);
        if self.options.arrivals == Arrivals::Early {
            self.multiply(number, &product)?;
        } else {
            self.block.hopper.warpgroups[number].queue.push_back(product);
        }
        self.thread().waiting = Waiting::No;
        Ok(true)
    }

    fn warpgroup_agrees(&self, number: usize) -> Result<(), String> {
        let base = number * 128;
        let call = |thread: usize| self.block.warps[thread / 32].calls[thread % 32];
        // SAFETY: only read if the thread waits in wgmma, with these arguments on its stack.
        let args = |thread: usize| unsafe { *(call(thread).args as *const Args) };
        let first = call(base);
        for thread in base..base + 128 {
            let other = call(thread);
            if other.op != first.op || other.site.line != first.site.line {
                let (a, b) = (&self.block.warps[base / 32], &self.block.warps[thread / 32]);
                let (a, b) = (a.describe(0), b.describe(thread % 32));
                return Err(format!("warpgroup {number} diverged: thread {base} would {a}, thread {thread} would {b}"));
            }
            let (a, b) = (args(base), args(thread));
            if (a.desc_a, a.desc_b, a.scale_d) != (b.desc_a, b.desc_b, b.scale_d) {
                return Err(format!("wgmma: descriptors or scale-d differ between threads {base} and {thread} at {}", first.site));
            }
        }
        Ok(())
    }

    /// An operand as a matrix of rows x 16, read in pieces of 16 bytes.
    fn operand(&mut self, agent: Agent, operand: &Operand, site: Site) -> Result<Vec<[f32; 16]>, String> {
        let mut matrix = vec![[0.0; 16]; operand.rows];
        for piece in 0..operand.rows * 2 {
            let (row, k) = if operand.transposed { (piece / 16 * 8, piece % 16) } else { (piece / 2, piece % 2 * 8) };
            let address = operand.address(row, k);
            let at = self.shared.at(address as u32, 16, 16, "wgmma operand").map_err(|e| format!("{e}, at {site}"))?;
            let offset = Machine::offset(address as u32);
            let access = self.race.access(offset, 16, false, agent);
            let fenced = (offset..offset + 16).step_by(4).try_for_each(|o| self.race.fenced(o, &self.block.hopper.fences));
            access.and(fenced).map_err(|c| self.conflict(c, offset, 16, false, &format!("wgmma at {site}")))?;
            // SAFETY: 16 aligned bytes of the block's shared memory.
            let values = unsafe { *(at as *const [u32; 4]) };
            for (i, value) in values.into_iter().flat_map(pair).enumerate() {
                let (row, k) = if operand.transposed { (row + i, k) } else { (row, k + i) };
                matrix[row][k] = value;
            }
        }
        Ok(matrix)
    }

    fn multiply(&mut self, number: usize, product: &Product) -> Result<(), String> {
        let Product { args, lanes, site, .. } = product;
        let agent = Agent { number: self.threads() + MBARRIERS + number, clock: product.clock, view: View::Clocks(&product.clocks) };
        let n = args.n as usize;
        let b = self.operand(agent, &Operand { descriptor: args.desc_b, rows: n, transposed: args.trans_b != 0 }, *site)?;
        let a = match args.a.is_null() {
            true => self.operand(agent, &Operand { descriptor: args.desc_a, rows: 64, transposed: args.trans_a != 0 }, *site)?,
            false => from_registers(lanes),
        };
        let mut by_k = vec![0f32; 16 * n];
        for (column, values) in b.iter().enumerate() {
            (0..16).for_each(|k| by_k[k * n + column] = values[k]);
        }
        for (row, values) in a.iter().enumerate() {
            let first_lane = row / 16 * 32 + row % 8 * 4;
            let half = row % 16 / 8 * 2;
            // SAFETY: every lane has n / 2 accumulators, on the stack of a thread that may not return before it has waited.
            let place = |column: usize| unsafe { lanes[first_lane + column % 8 / 2].0.add(column / 8 * 4 + half + column % 2) };
            let mut sums = vec![0f32; n];
            if args.scale_d != 0 {
                // SAFETY: as above.
                sums.iter_mut().enumerate().for_each(|(c, sum)| *sum = unsafe { *place(c) });
            }
            for (&x, ys) in values.iter().zip(by_k.chunks(n)) {
                sums.iter_mut().zip(ys).for_each(|(sum, y)| *sum += x * y);
            }
            // SAFETY: as above.
            sums.iter().enumerate().for_each(|(c, &sum)| unsafe { *place(c) = sum });
        }
        Ok(())
    }

    /// The running thread waits until at most its last `n` groups are under way.
    fn wait_wgmma(&mut self, n: usize) -> Result<(), String> {
        let number = self.block.current / 128;
        let hopper = &mut self.thread().hopper;
        let Some(done) = hopper.wgmma_groups.len().checked_sub(n + 1) else { return Ok(()) };
        let upto = hopper.wgmma_groups[done];
        hopper.wgmma_groups.drain(..=done);
        while let Some(product) = self.block.hopper.warpgroups[number].queue.pop_front_if(|p| p.clock <= upto) {
            self.multiply(number, &product)?;
        }
        let mut clocks = vec![0; self.race.clocks.agents()];
        clocks[self.threads() + MBARRIERS + number] = upto;
        self.race.clocks.learn(self.block.current, &clocks);
        Ok(())
    }
}

/// A from the registers of four warps of 16 rows.
fn from_registers(lanes: &[(*mut f32, [u32; 4])]) -> Vec<[f32; 16]> {
    let mut a = vec![[0.0; 16]; 64];
    for (thread, (_, registers)) in lanes.iter().enumerate() {
        let (g, q) = (thread / 32 * 16 + thread % 32 / 4, thread % 4 * 2);
        for (i, &register) in registers.iter().enumerate() {
            let (row, k) = (g + i % 2 * 8, q + i / 2 * 8);
            [a[row][k], a[row][k + 1]] = pair(register);
        }
    }
    a
}

#[unsafe(no_mangle)]
extern "C" fn emu_wgmma_commit() {
    let hopper = &mut machine().thread().hopper;
    hopper.wgmma_groups.push_back(hopper.wgmma);
}

#[unsafe(no_mangle)]
extern "C" fn emu_wgmma_wait(n: u32) {
    expect(machine().wait_wgmma(n as usize))
}
