//! Memory for decoded images: a budget for the whole process, and a check that the system really has the memory.

use std::sync::{Condvar, Mutex, PoisonError};

/// The process's budget for images that are being decoded or wait in a batch.
pub static DECODING: Budget = Budget::new(1 << 30);

/// A budget that lends bytes. A request above the capacity is served alone, when nothing else is lent.
pub struct Budget {
    capacity: u64,
    lent: Mutex<u64>,
    given_back: Condvar,
}

impl Budget {
    pub const fn new(capacity: u64) -> Budget {
        Budget { capacity, lent: Mutex::new(0), given_back: Condvar::new() }
    }

    /// Capacity in bytes.
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

    /// Lends `bytes` as soon as there is room. The caller must hold no loan that only it can return, or it may wait for itself.
    pub fn wait(&'static self, bytes: u64) -> Loan {
        let lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lent = self.given_back.wait_while(lent, |lent| !self.fits(*lent, bytes)).unwrap_or_else(PoisonError::into_inner);
        *lent = lent.saturating_add(bytes);
        Loan { budget: self, bytes }
    }
}

/// Bytes lent by a budget, returned on drop.
pub struct Loan {
    budget: &'static Budget,
    bytes: u64,
}

impl Loan {
    /// Returns all but `bytes`: an image needs more memory while it is decoded than afterwards.
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

/// Memory that the last trial reservation found, less the pledges since.
struct Room {
    left: u64,
    at_work: usize,
}

static ROOM: Mutex<Room> = Mutex::new(Room { left: 0, at_work: 0 });
static IDLE: Condvar = Condvar::new();

/// Size of a trial reservation, if the system has so much. A large one covers many pledges, so that few wait for the next trial.
const TRIAL: u64 = 1 << 30;

/// Memory promised to a decoder, whose infallible allocations would end the process if they failed. Before it runs, a trial reservation,
/// released at once, shows that the system has the memory. A trial runs only while no pledge is held, because it could take the memory from
/// the holder. Pledged bytes count as used until the next trial, whether they were used or not.
pub struct Pledge(());

impl Pledge {
    /// Waits for other pledges to end, if needed. A holder of a pledge must not ask for another: it would wait for itself.
    ///
    /// `None` if the system does not have so many bytes.
    pub fn of(bytes: u64) -> Option<Pledge> {
        let there = |bytes: u64| usize::try_from(bytes).is_ok_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok());
        let mut room = ROOM.lock().unwrap_or_else(PoisonError::into_inner);
        room = IDLE.wait_while(room, |room| room.at_work > 0 && room.left < bytes).unwrap_or_else(PoisonError::into_inner);
        if room.at_work == 0 {
            let halves = std::iter::successors(Some(TRIAL.max(bytes)), |tried| (*tried > bytes).then(|| (tried / 2).max(bytes)));
            room.left = halves.into_iter().find(|tried| there(*tried))?;
        }
        room.left -= bytes;
        room.at_work += 1;
        Some(Pledge(()))
    }
}

impl Drop for Pledge {
    fn drop(&mut self) {
        ROOM.lock().unwrap_or_else(PoisonError::into_inner).at_work -= 1;
        IDLE.notify_all();
    }
}

/// Reserves `more` bytes at the end of a vector, if that leaves the pledged memory free.
pub fn reserve(bytes: &mut Vec<u8>, more: usize) -> Option<()> {
    let _pledge = Pledge::of((bytes.len() + more) as u64)?;
    bytes.try_reserve_exact(more).ok()
}
