//! Counting what a launch asks of memory: exact numbers that no schedule changes, so that tests may hold them.
//!
//! A site is a line and column of a kernel (with the lines it is inlined into), the kind of access and its size. The lanes of a warp
//! that execute a site for the k-th time since the last barrier of the whole block make one request, as they would on a GPU whose
//! warps run together. Where lanes of a warp take different numbers of turns between two barriers this is an approximation.

use crate::launch::Launch;
use crate::machine::machine;
use crate::report::{Site, kernel_lines};
use std::collections::{HashMap, VecDeque};
use std::fmt;

/// Bytes that global memory moves at least.
const SECTOR: u64 = 32;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Access {
    GlobalLoad,
    GlobalStore,
    /// The source of a cp.async.
    CopyFrom,
    SharedLoad,
    SharedStore,
    /// The destination of a cp.async.
    CopyTo,
    Ldmatrix,
    /// A transfer of TMA.
    BulkLoad,
    BulkStore,
}

impl Access {
    fn is_global(self) -> bool {
        matches!(self, Access::GlobalLoad | Access::GlobalStore | Access::CopyFrom)
    }

    fn name(self) -> &'static str {
        match self {
            Access::GlobalLoad => "global load",
            Access::GlobalStore => "global store",
            Access::CopyFrom => "copy from",
            Access::SharedLoad => "shared load",
            Access::SharedStore => "shared store",
            Access::CopyTo => "copy to",
            Access::Ldmatrix => "ldmatrix",
            Access::BulkLoad => "TMA load",
            Access::BulkStore => "TMA store",
        }
    }
}

/// What one site did in a launch.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteCounts {
    /// Where: `x.cu:12:5`; for a line inlined into another, `prelude.cuh:3:9 < x.cu:12:5`.
    pub place: String,
    pub access: Access,
    /// Bytes of one lane.
    pub size: usize,
    /// Requests of warps.
    pub requests: u64,
    /// Bytes of all lanes.
    pub bytes: u64,
    /// Of global memory the sectors of 32 bytes, of shared memory the passes over the banks, that the requests take.
    pub passes: u64,
    /// The fewest that the same requests could take: of global memory the distinct bytes over 32, each request rounded up; of shared
    /// memory one for each 32, 16 or 8 lanes of 4, 8 or 16 bytes.
    pub ideal: u64,
}

/// What a launch did.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchCounts {
    pub kernel: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of shared memory of a block, static arrays included.
    pub shared: usize,
    pub sites: Vec<SiteCounts>,
    /// Instructions of mma.sync and wgmma, counted per warp or warpgroup, and the multiplications and additions in them.
    pub mma: u64,
    pub mma_flops: u64,
    /// Bytes that lanes read from and wrote to global memory, copies included, and how many different bytes these were.
    pub read: u64,
    pub written: u64,
    pub unique_read: u64,
    pub unique_written: u64,
    /// Bytes that cp.async read.
    pub copied: u64,
    /// Barriers that opened, summed over blocks; those of the whole block.
    pub barriers: u64,
    pub shuffles: u64,
    pub atomics: u64,
}

impl LaunchCounts {
    /// The sites whose place holds `part`.
    pub fn at<'a>(&'a self, part: &'a str) -> impl Iterator<Item = &'a SiteCounts> {
        self.sites.iter().filter(move |s| s.place.contains(part))
    }
}

impl fmt::Display for LaunchCounts {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let LaunchCounts { kernel, grid, block, shared, .. } = self;
        writeln!(f, "{kernel}: grid {grid:?}, block {block:?}, {shared} bytes of shared memory")?;
        writeln!(f, "  global memory: {} bytes read ({} distinct, {} by cp.async)", self.read, self.unique_read, self.copied)?;
        writeln!(f, "                 {} bytes written ({} distinct)", self.written, self.unique_written)?;
        writeln!(f, "  {} matrix instructions, {} FLOP in them", self.mma, self.mma_flops)?;
        writeln!(f, "  {} barriers, {} shuffles of warps, {} atomics of threads", self.barriers, self.shuffles, self.atomics)?;
        writeln!(f, "  {:<13} {:>4} {:>10} {:>12} {:>11} {:>6}  place", "access", "size", "requests", "bytes", "per request", "ideal")?;
        for s in &self.sites {
            let per_request = s.passes as f64 / s.requests.max(1) as f64;
            let ideal = s.ideal as f64 / s.requests.max(1) as f64;
            let SiteCounts { size, requests, bytes, place, .. } = s;
            writeln!(f, "  {:<13} {size:>4} {requests:>10} {bytes:>12} {per_request:>11.2} {ideal:>6.2}  {place}", s.access.name())?;
        }
        write!(f, "  per request: sectors of 32 bytes of global memory, passes over the banks of shared memory")
    }
}

#[derive(Clone)]
struct Request {
    /// Lanes that came here, and those of them that touched memory.
    arrived: u32,
    active: u32,
    addresses: [u64; 32],
}

/// The requests of one site by one warp that are not complete.
#[derive(Default)]
struct Open {
    /// Requests that were complete and are gone.
    gone: usize,
    requests: VecDeque<Request>,
    /// How often each lane has come since the last barrier.
    turns: [usize; 32],
}

struct OpenSite {
    counts: SiteCounts,
    warps: Vec<Open>,
}

/// Which bytes were touched: a mask per sector.
type Touched = HashMap<u64, u32>;

#[derive(Default)]
pub struct Counter {
    on: bool,
    pub finished: Vec<LaunchCounts>,
    sites: Vec<OpenSite>,
    /// Sites by what identifies them at once: the return address or the address of the file name and the line.
    by_caller: HashMap<(usize, Access, usize), usize>,
    read: Touched,
    written: Touched,
    mma: u64,
    macs: u64,
    barriers: u64,
    shuffles: u64,
    atomics: u64,
}

impl Counter {
    pub fn begin(&mut self, on: bool) {
        let finished = std::mem::take(&mut self.finished);
        *self = Counter { on, finished, ..Counter::default() };
    }

    pub fn mma(&mut self, macs: u64) {
        self.mma += 1;
        self.macs += macs;
    }

    /// A barrier opened. Requests start anew: before it, all lanes have done all they will.
    pub fn barrier(&mut self, whole_block: bool) {
        if whole_block {
            self.barriers += 1;
            self.end_block();
        }
    }

    pub fn shuffle(&mut self) {
        self.shuffles += 1;
    }

    pub fn atomic(&mut self) {
        self.atomics += 1;
    }

    #[inline(never)]
    pub fn global(&mut self, from: usize, thread: usize, address: usize, bytes: usize, write: bool) {
        let access = if write { Access::GlobalStore } else { Access::GlobalLoad };
        let site = self.site_of_code(from, access, bytes);
        self.record(site, thread, Some(address as u64));
    }

    #[inline(never)]
    pub fn shared(&mut self, from: usize, thread: usize, offset: usize, bytes: usize, write: bool) {
        let access = if write { Access::SharedStore } else { Access::SharedLoad };
        let site = self.site_of_code(from, access, bytes);
        self.record(site, thread, Some(offset as u64));
    }

    /// `from`: address and valid bytes; `to`: offset and bytes.
    pub fn cp_async(&mut self, site: Site, thread: usize, from: (usize, usize), to: (usize, usize)) {
        let source = self.site_of_line(site, Access::CopyFrom, to.1);
        self.record(source, thread, (from.1 > 0).then_some(from.0 as u64));
        let destination = self.site_of_line(site, Access::CopyTo, to.1);
        self.record(destination, thread, Some(to.0 as u64));
    }

    /// `offsets`: of the rows of all its matrices.
    pub fn ldmatrix(&mut self, site: Site, offsets: &[usize]) {
        let site = self.site_of_line(site, Access::Ldmatrix, 16);
        let counts = &mut self.sites[site].counts;
        counts.requests += 1;
        counts.bytes += offsets.len() as u64 * 16;
        let rows: Vec<u64> = offsets.iter().map(|&o| o as u64).collect();
        counts.passes += rows.chunks(8).map(|matrix| passes(matrix, 16)).sum::<u64>();
        counts.ideal += rows.len() as u64 / 8;
    }

    /// A whole transfer of TMA, which has no bank conflicts and whole sectors.
    pub fn bulk(&mut self, site: Site, load: bool, bytes: usize) {
        let site = self.site_of_line(site, if load { Access::BulkLoad } else { Access::BulkStore }, bytes);
        let counts = &mut self.sites[site].counts;
        counts.requests += 1;
        counts.bytes += bytes as u64;
        counts.passes += bytes as u64 / SECTOR;
        counts.ideal += bytes as u64 / SECTOR;
    }

    fn site_of_code(&mut self, from: usize, access: Access, size: usize) -> usize {
        self.site((from, access, size), || {
            let thread = machine().thread().yielder;
            // The debug information is read on the stack of the scheduler, which is large.
            // SAFETY: the yielder of the coroutine that we are in.
            let lines = unsafe { (*thread).on_parent_stack(|| kernel_lines(&[from - 1])) };
            lines.join(" < ")
        })
    }

    fn site_of_line(&mut self, site: Site, access: Access, size: usize) -> usize {
        self.site((site.key(), access, size), || site.to_string())
    }

    fn site(&mut self, caller: (usize, Access, usize), place: impl FnOnce() -> String) -> usize {
        if let Some(&site) = self.by_caller.get(&caller) {
            return site;
        }
        let (_, access, size) = caller;
        let place = place();
        let known = self.sites.iter().position(|s| s.counts.place == place && s.counts.access == access && s.counts.size == size);
        let site = known.unwrap_or_else(|| {
            let counts = SiteCounts { place, access, size, requests: 0, bytes: 0, passes: 0, ideal: 0 };
            self.sites.push(OpenSite { counts, warps: vec![] });
            self.sites.len() - 1
        });
        self.by_caller.insert(caller, site);
        site
    }

    /// A lane's turn at a site, with what it touched there.
    fn record(&mut self, site: usize, thread: usize, address: Option<u64>) {
        let warps = &mut self.sites[site].warps;
        if warps.len() <= thread / 32 {
            warps.resize_with(thread / 32 + 1, Open::default);
        }
        let (warp, lane) = (&mut warps[thread / 32], thread % 32);
        let turn = warp.turns[lane] - warp.gone;
        warp.turns[lane] += 1;
        if warp.requests.len() == turn {
            warp.requests.push_back(Request { arrived: 0, active: 0, addresses: [0; 32] });
        }
        let request = &mut warp.requests[turn];
        request.arrived |= 1 << lane;
        if let Some(address) = address {
            request.active |= 1 << lane;
            request.addresses[lane] = address;
        }
        // The k-th requests complete in order, so at most the first one is complete.
        if warp.requests[0].arrived == u32::MAX {
            let request = warp.requests.pop_front().expect("one was there");
            warp.gone += 1;
            self.close(site, &request);
        }
    }

    fn close(&mut self, site: usize, request: &Request) {
        let counts = &mut self.sites[site].counts;
        let (size, access) = (counts.size as u64, counts.access);
        let lanes = (0..32).filter(|l| request.active >> l & 1 == 1);
        let addresses: Vec<u64> = lanes.clone().map(|l| request.addresses[l]).collect();
        if addresses.is_empty() {
            return;
        }
        counts.requests += 1;
        counts.bytes += addresses.len() as u64 * size;
        if access.is_global() {
            let touched = sectors(&addresses, size);
            let distinct: u64 = touched.iter().map(|t| t.1.count_ones() as u64).sum();
            counts.passes += touched.len() as u64;
            counts.ideal += distinct.div_ceil(SECTOR);
            let all = if access == Access::GlobalStore { &mut self.written } else { &mut self.read };
            touched.iter().for_each(|&(sector, mask)| *all.entry(sector).or_default() |= mask);
            return;
        }
        // A pass serves 32 lanes of up to 4 bytes, 16 of 8, 8 of 16.
        let group = 32 / (size.max(4) / 4) as usize;
        for first in (0..32).step_by(group) {
            let part: Vec<u64> = lanes.clone().filter(|l| (first..first + group).contains(l)).map(|l| request.addresses[l]).collect();
            counts.passes += passes(&part, size);
            counts.ideal += !part.is_empty() as u64;
        }
    }

    /// Closes what is open: some lanes have not come and will not.
    pub fn end_block(&mut self) {
        for site in 0..self.sites.len() {
            for warp in 0..self.sites[site].warps.len() {
                let open = std::mem::take(&mut self.sites[site].warps[warp]);
                open.requests.iter().for_each(|r| self.close(site, r));
            }
        }
    }

    /// The launch is over.
    pub fn end(&mut self, kernel: &str, launch: &Launch, shared: usize) {
        if !self.on {
            return;
        }
        let mut sites: Vec<SiteCounts> = std::mem::take(&mut self.sites).into_iter().map(|s| s.counts).collect();
        sites.sort_by(|a, b| (&a.place, a.access, a.size).cmp(&(&b.place, b.access, b.size)));
        let bytes = |is: fn(Access) -> bool| sites.iter().filter(|s| is(s.access)).map(|s| s.bytes).sum();
        let distinct = |touched: &Touched| touched.values().map(|m| m.count_ones() as u64).sum();
        self.finished.push(LaunchCounts {
            kernel: kernel.into(),
            grid: launch.grid,
            block: launch.block,
            shared,
            mma: self.mma,
            mma_flops: self.macs * 2,
            read: bytes(|a| matches!(a, Access::GlobalLoad | Access::CopyFrom | Access::BulkLoad)),
            written: bytes(|a| matches!(a, Access::GlobalStore | Access::BulkStore)),
            unique_read: distinct(&self.read),
            unique_written: distinct(&self.written),
            copied: bytes(|a| a == Access::CopyFrom),
            barriers: self.barriers,
            shuffles: self.shuffles,
            atomics: self.atomics,
            sites,
        });
    }
}

/// The sectors that lanes of `size` bytes touch, each with a bit per byte touched. `size` is a power of 2 that divides the addresses.
fn sectors(addresses: &[u64], size: u64) -> Vec<(u64, u32)> {
    let mask = |a: u64| (((1u64 << size) - 1) as u32) << (a % SECTOR);
    let mut touched: Vec<(u64, u32)> = addresses.iter().map(|&a| (a / SECTOR, mask(a))).collect();
    touched.sort_unstable();
    touched.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        kept.1 |= if same { next.1 } else { 0 };
        same
    });
    touched
}

/// The passes over the 32 banks of 4 bytes that lanes of `size` bytes take together: each bank gives one word a pass.
fn passes(addresses: &[u64], size: u64) -> u64 {
    let mut words: Vec<u64> = addresses.iter().flat_map(|a| a / 4..(a + size).div_ceil(4)).collect();
    words.sort_unstable();
    words.dedup();
    let mut banks = [0; 32];
    words.iter().for_each(|w| banks[(w % 32) as usize] += 1);
    banks.into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_are_told_apart_and_bytes_counted_once() {
        assert_eq!(sectors(&[64, 68, 64, 96], 4), [(2, 0xff), (3, 0xf)]);
        assert_eq!(sectors(&[16], 16), [(0, 0xffff_0000)]);
    }

    #[test]
    fn passes_count_conflicts_and_not_broadcasts() {
        let column: Vec<u64> = (0..32).map(|l| l * 128).collect();
        let row: Vec<u64> = (0..32).map(|l| l * 4).collect();
        assert_eq!(passes(&row, 4), 1);
        assert_eq!(passes(&column, 4), 32);
        assert_eq!(passes(&[64; 32], 4), 1);
        assert_eq!(passes(&(0..8).map(|l| l * 80).collect::<Vec<_>>(), 16), 1);
        assert_eq!(passes(&(0..8).map(|l| l * 64).collect::<Vec<_>>(), 16), 4);
    }
}
