//! Memory that decoded images share, whoever decodes them.

use std::sync::{Condvar, Mutex, PoisonError};

/// So many bytes for images that are being decoded, and for those that wait to be computed with, in the whole process.
pub static DECODING: Budget = Budget::new(1 << 30);

/// Bytes that are lent. What is larger than all of them goes alone: it waits until nothing else is lent.
pub struct Budget {
    capacity: u64,
    lent: Mutex<u64>,
    given_back: Condvar,
}

impl Budget {
    pub const fn new(capacity: u64) -> Budget {
        Budget { capacity, lent: Mutex::new(0), given_back: Condvar::new() }
    }

    /// Bytes in all.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    fn fits(&self, lent: u64, bytes: u64) -> bool {
        lent == 0 || lent.saturating_add(bytes) <= self.capacity
    }

    /// Lends `bytes` if there is room for them now.
    pub fn ask(&'static self, bytes: u64) -> Option<Loan> {
        let mut lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        self.fits(*lent, bytes).then(|| {
            *lent = lent.saturating_add(bytes);
            Loan { budget: self, bytes }
        })
    }

    /// Lends `bytes` as soon as there is room. Who waits here may hold no loan that only it can give back.
    pub fn wait(&'static self, bytes: u64) -> Loan {
        let lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lent = self.given_back.wait_while(lent, |lent| !self.fits(*lent, bytes)).unwrap_or_else(PoisonError::into_inner);
        *lent = lent.saturating_add(bytes);
        Loan { budget: self, bytes }
    }
}

/// Bytes of a budget, given back when this is dropped.
pub struct Loan {
    budget: &'static Budget,
    bytes: u64,
}

impl Loan {
    /// Gives back all but `bytes`: an image needs more while it is decoded than afterwards.
    pub fn keep(&mut self, bytes: u64) {
        let mut lent = self.budget.lent.lock().unwrap_or_else(PoisonError::into_inner);
        *lent -= self.bytes.saturating_sub(bytes);
        self.bytes = self.bytes.min(bytes);
        drop(lent);
        self.budget.given_back.notify_all();
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.keep(0);
    }
}
