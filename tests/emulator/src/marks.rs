//! Who has touched a byte of global memory in this launch: blocks must not depend on each other, nor threads on luck.
//!
//! Blocks are numbered over all launches, so marks of earlier launches are simply old and nothing is ever cleared.

use crate::memory::Who;
use crate::order::{Clocks, View};

#[derive(Clone, Copy, Default)]
struct Mark {
    /// The block that wrote; numbers before the launch's first are old.
    writer: u32,
    /// The thread that wrote, and its clock.
    thread: u32,
    clock: u32,
    /// The block that read.
    reader: u32,
}

/// Marks of one allocation, made at the first checked access.
pub struct Marks {
    /// Bytes of the allocation.
    size: usize,
    /// Per word of 4 bytes; a word with the number `split` for its writer has its marks in `bytes`.
    words: Vec<Mark>,
    bytes: Vec<Mark>,
}

/// The numbers of a launch: its blocks from `first`, then one that says "split", then one that says "several blocks".
#[derive(Clone, Copy, Default)]
pub struct Numbers {
    first: u32,
    split: u32,
    several: u32,
    grid: [u32; 3],
}

impl Numbers {
    /// The numbers of the launch after this one.
    pub fn next(&self, grid: [u32; 3]) -> Result<Numbers, String> {
        let first = self.several + 1;
        let blocks = grid.iter().map(|&n| n as u64).product::<u64>();
        let split = u32::try_from(first as u64 + blocks).ok().filter(|&s| s < u32::MAX - 1);
        let split = split.ok_or("this emulator has run 4 billion blocks: make a new one")?;
        Ok(Numbers { first, split, several: split + 1, grid })
    }

    pub fn block(&self, index: u32) -> u32 {
        self.first + index
    }

    fn name(&self, block: u32) -> String {
        let (index, [x, y, _]) = (block - self.first, self.grid);
        format!("block ({},{},{})", index % x, index / x % y, index / x / y)
    }

    fn is_old(&self, block: u32) -> bool {
        block < self.first
    }
}

impl Marks {
    pub fn new(size: usize) -> Marks {
        Marks { size, words: vec![], bytes: vec![] }
    }

    #[inline(always)]
    pub fn read(&mut self, offset: usize, bytes: usize, who: Who, numbers: &Numbers, clocks: &Clocks) -> Result<(), String> {
        self.each(offset, bytes, who, numbers, |mark| {
            not_mine(mark, who, numbers, clocks)?;
            let only_me = numbers.is_old(mark.reader) || mark.reader == who.block;
            mark.reader = if only_me { who.block } else { numbers.several };
            Ok(())
        })
    }

    #[inline(always)]
    pub fn write(&mut self, offset: usize, bytes: usize, who: Who, numbers: &Numbers, clocks: &Clocks) -> Result<(), String> {
        self.each(offset, bytes, who, numbers, |mark| {
            not_mine(mark, who, numbers, clocks)?;
            if mark.reader == numbers.several {
                return Err("several blocks read in this launch".into());
            }
            if !numbers.is_old(mark.reader) && mark.reader != who.block {
                return Err(format!("{} read in this launch", numbers.name(mark.reader)));
            }
            *mark = Mark { writer: who.block, thread: who.thread as u32, clock: who.clock, reader: mark.reader };
            Ok(())
        })
    }

    #[inline(always)]
    fn each(
        &mut self,
        offset: usize,
        bytes: usize,
        who: Who,
        numbers: &Numbers,
        check: impl Fn(&mut Mark) -> Result<(), String>,
    ) -> Result<(), String> {
        if self.words.is_empty() {
            self.words.resize(self.size.div_ceil(4), Mark::default());
        }
        let end = offset + bytes;
        let mut at = offset;
        while at < end {
            let whole = at.is_multiple_of(4) && at + 4 <= end;
            let word = &mut self.words[at / 4];
            if whole && word.writer != numbers.split {
                check(word)?;
                at += 4;
                continue;
            }
            if word.writer != numbers.split {
                if self.bytes.is_empty() {
                    self.bytes.resize(self.size.next_multiple_of(4), Mark::default());
                }
                self.bytes[at / 4 * 4..at / 4 * 4 + 4].fill(*word);
                word.writer = numbers.split;
            }
            let stop = end.min(at / 4 * 4 + 4);
            for mark in &mut self.bytes[at..stop] {
                check(mark)?;
            }
            // A whole word that one block's thread has written is one word again.
            let by_me = |m: &Mark| m.writer == who.block && m.clock == who.clock && m.thread as usize == who.thread;
            if whole && self.bytes[at..stop].iter().all(by_me) {
                self.words[at / 4] = self.bytes[at];
            }
            at = stop;
        }
        Ok(())
    }
}

/// An error if another block wrote in this launch, or a thread of this block that is not ordered before this one.
#[inline(always)]
fn not_mine(mark: &Mark, who: Who, numbers: &Numbers, clocks: &Clocks) -> Result<(), String> {
    if numbers.is_old(mark.writer) {
        return Ok(());
    }
    if mark.writer != who.block {
        return Err(format!("{} wrote in this launch", numbers.name(mark.writer)));
    }
    let (me, other) = (who.thread, mark.thread as usize);
    if me != other && !clocks.before(other, mark.clock, View::Thread(me)) {
        return Err(format!("thread {} of the same block wrote without a barrier since", mark.thread));
    }
    Ok(())
}
