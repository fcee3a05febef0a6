//! What is known of each buffer in flight, out of the device's reach.

use alloc::boxed::Box;

use super::Access;

/// The capacity of a buffer that the device only reads: what it says that it wrote does not count. Some say anything, which
/// does no harm.
const READ_ONLY: u32 = u32::MAX;

/// What is known of a buffer: in a split ring, of the one that begins with a descriptor; in a packed ring, of the one with an id.
#[derive(Debug)]
pub(super) struct Slot<T> {
    /// There while the device has the buffer.
    pub(super) token: Option<T>,
    /// Bytes that the device may write into the buffer, or [`READ_ONLY`].
    pub(super) capacity: u32,
    /// The next descriptor of the chain (split), or the next free descriptor or id. With IN_ORDER that is known; then it is the
    /// available index at which the buffer lies (split).
    pub(super) next: u16,
    /// How many descriptors the buffer takes.
    pub(super) descriptors: u16,
}

impl<T> Slot<T> {
    /// Slots for a queue of `size`, all free and linked in order.
    pub(super) fn all(size: u16) -> Box<[Self]> {
        (0..size).map(|id| Self { token: None, capacity: 0, next: (id + 1) % size, descriptors: 0 }).collect()
    }

    /// Makes all slots of a queue as [`Slot::all`] does, and gives out the tokens that were in them.
    pub(super) fn free_all(slots: &mut [Self], mut give: impl FnMut(T)) {
        let size = slots.len();
        for (id, slot) in slots.iter_mut().enumerate() {
            // A queue has no more than 32768.
            slot.next = ((id + 1) % size) as u16;
            slot.token.take().into_iter().for_each(&mut give);
        }
    }

    /// Whether the device cannot have written `written` bytes into the buffer.
    #[inline]
    pub(super) fn is_exceeded_by(&self, written: u32) -> bool {
        written > self.capacity
    }

    /// Whether the device only reads the buffer.
    #[inline]
    pub(super) fn is_read_only(&self) -> bool {
        self.capacity == READ_ONLY
    }
}

/// How much the device may write into a buffer of `length` bytes.
#[inline]
pub(super) fn capacity(access: Access, length: u64) -> u32 {
    match access {
        Access::DeviceReads => READ_ONLY,
        // No device can say that it wrote more.
        Access::DeviceWrites => u32::try_from(length).unwrap_or(u32::MAX).min(READ_ONLY - 1),
    }
}
