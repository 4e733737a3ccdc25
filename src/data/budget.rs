//! Memory that decoded images share, whoever decodes them: what they may take, and what the system has for them.

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

/// What the system was found to have when nobody was at work, and what of it is not promised yet.
struct Room {
    left: u64,
    at_work: usize,
}

static ROOM: Mutex<Room> = Mutex::new(Room { left: 0, at_work: 0 });
static IDLE: Condvar = Condvar::new();

/// Bytes that the system is asked for, if it has them, so that few must wait for the next time.
const TRIAL: u64 = 1 << 30;

/// Memory for somebody who cannot be refused any: the process ends where an infallible allocation fails, and decoders make such. So the system
/// is asked before, by a reservation that is given back at once. That is only done while nobody is at work who holds a pledge: it would be
/// what takes the room away. What is promised is not promised again, whether it was taken or not, until the system is asked anew.
pub struct Pledge(());

impl Pledge {
    /// Waits until others have done with theirs, if need be. Who holds a pledge may not ask for another.
    ///
    /// `None`: the system does not have so many bytes.
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

/// Makes room for `more` bytes behind those that are there, if that leaves what was pledged.
pub fn reserve(bytes: &mut Vec<u8>, more: usize) -> Option<()> {
    let _pledge = Pledge::of((bytes.len() + more) as u64)?;
    bytes.try_reserve_exact(more).ok()
}
