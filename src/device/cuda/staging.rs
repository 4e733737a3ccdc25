//! Uploads that overlap with the work before them: in pieces, through pinned memory and a stream of their own.

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result};
use std::cell::RefCell;
use std::sync::Arc;

/// Bytes of a piece: a tenth of a millisecond on the bus, long enough to hide what starting it takes.
const PIECE: usize = 4 << 20;
/// The most pieces on their way: a batch of 256 photographs of 600 kB fits, so that the next one travels while a step runs.
const MOST: usize = 40;

type Result<T> = std::result::Result<T, DriverError>;

/// A ring of pieces between the host and the destination.
pub struct Staging {
    context: Arc<CudaContext>,
    /// Carries what the host sends.
    copy: Arc<CudaStream>,
    ring: RefCell<Ring>,
}

#[derive(Default)]
struct Ring {
    slots: Vec<Slot>,
    /// The slot that was used longest ago.
    next: usize,
}

/// Room for one piece on both sides.
struct Slot {
    pinned: *mut u8, // [PIECE]
    device: u64,     // [PIECE]
    /// The piece is on the device: the pinned side is free.
    arrived: CudaEvent,
    /// The piece is where it belongs: the device side is free.
    taken: CudaEvent,
}

impl Staging {
    pub fn new(context: &Arc<CudaContext>) -> Result<Staging> {
        Ok(Staging { context: context.clone(), copy: context.new_stream()?, ring: RefCell::default() })
    }

    /// Copies `bytes` to address `to`, ordered after the work already on `stream` and before later work. Returns when the host may reuse
    /// `bytes`.
    pub fn upload(&self, stream: &CudaStream, to: u64, bytes: &[u8]) -> Result<()> {
        self.context.bind_to_thread()?;
        let mut ring = self.ring.borrow_mut();
        for (at, piece) in (to..).step_by(PIECE).zip(bytes.chunks(PIECE)) {
            let slot = ring.free(&self.context)?;
            // Both waits are over at once where the slot is new.
            slot.arrived.synchronize()?;
            self.copy.wait(&slot.taken)?;
            // SAFETY: a piece is no longer than a slot, whose pinned side nobody reads after `arrived`.
            let pinned = unsafe {
                std::ptr::copy_nonoverlapping(piece.as_ptr(), slot.pinned, piece.len());
                std::slice::from_raw_parts(slot.pinned, piece.len())
            };
            // SAFETY: the pinned side is not written before `arrived`; the device side is free after `taken`.
            unsafe { result::memcpy_htod_async(slot.device, pinned, self.copy.cu_stream()) }?;
            slot.arrived.record(&self.copy)?;
            stream.wait(&slot.arrived)?;
            // SAFETY: the caller's destination has room for the bytes, the slot for a piece.
            unsafe { result::memcpy_dtod_async(at, slot.device, piece.len(), stream.cu_stream()) }?;
            slot.taken.record(stream)?;
        }
        Ok(())
    }
}

impl Ring {
    /// The next slot in turn; a new one while that is busy and there may be more.
    fn free(&mut self, context: &Arc<CudaContext>) -> Result<&Slot> {
        let idle = match self.slots.get(self.next) {
            Some(slot) => slot.taken.try_is_complete()?,
            None => false,
        };
        if !idle && self.slots.len() < MOST {
            self.slots.insert(self.next, Slot::new(context)?);
        }
        let at = self.next;
        self.next = (at + 1) % self.slots.len();
        Ok(&self.slots[at])
    }
}

impl Slot {
    fn new(context: &Arc<CudaContext>) -> Result<Slot> {
        let (arrived, taken) = (context.new_event(None)?, context.new_event(None)?);
        // SAFETY: both are freed in `drop`, and nothing is read before it was written. No flags: write-combined memory
        // would be slow for a host that reads back.
        let device = unsafe { result::malloc_sync(PIECE) }?;
        let pinned = unsafe { result::malloc_host(PIECE, 0) };
        match pinned {
            Ok(pinned) => Ok(Slot { pinned: pinned.cast(), device, arrived, taken }),
            Err(error) => {
                // SAFETY: allocated above and never used.
                unsafe { result::free_sync(device) }?;
                Err(error)
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`; freeing waits for copies under way. What fails here has failed before.
        unsafe {
            let _ = result::free_sync(self.device);
            let _ = result::free_host(self.pinned.cast());
        }
    }
}
