//! Virtqueues (virtio 1.3, section 2.6), on which nothing the device writes is trusted.
//!
//! A buffer goes in with a token, which is whatever owns the buffer's memory, and the token comes back out when the device has
//! used it: there are no indices to mix up. Everything that has to be known of a buffer in flight is kept where the device cannot
//! write, and what it does write is checked against that. The first lie breaks the ring, for good: the device is to be reset.
//!
//! [`Split`] is the split virtqueue, [`Packed`] the packed one; [`Virtqueue`] is what both have to offer, so that the packet path
//! is compiled once for each format and chosen when the features are agreed.

mod area;
#[cfg(test)]
mod interleavings;
mod packed;
mod slot;
mod split;
#[cfg(test)]
mod stress;
#[cfg(test)]
mod tests;

use virtio_drivers::PhysAddr;

use self::area::Dma;

use crate::features::Features;

/// A split virtqueue: descriptor table, available ring and used ring (section 2.7).
pub type Split<H, T> = split::Ring<Dma<H>, T>;

/// A packed virtqueue: one ring of descriptors, which both sides write (section 2.8).
pub type Packed<H, T> = packed::Ring<Dma<H>, T>;

/// A lie of the device (or a bug in it). The ring gives nothing out any more; reset the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The used index went further than there are buffers in flight.
    #[error("the device says it used {claimed} buffers, but has {outstanding}")]
    UsedIndex {
        /// How many buffers the device says it used.
        claimed: u16,
        /// How many it has.
        outstanding: u16,
    },
    /// A used buffer has an id that the queue does not have.
    #[error("the device used buffer {0}, which the queue does not have")]
    Id(u32),
    /// A used buffer is one that the device does not have.
    #[error("the device used buffer {0}, which it does not have")]
    NotOutstanding(u16),
    /// The device says that it wrote more than a buffer holds.
    #[error("the device says it wrote {written} bytes into a buffer of {capacity}")]
    Length {
        /// Bytes that the device says it wrote.
        written: u32,
        /// Bytes that it may write.
        capacity: u32,
    },
    /// A received frame is shorter than the header before it.
    #[error("the device says it wrote {0} bytes, which is less than a header")]
    Runt(u32),
    /// The device says that a frame lies in no buffers, or in more than it has given back.
    #[error("the device says that a frame lies in {claimed} buffers, but gave {given}")]
    NumBuffers {
        /// Buffers that the device says the frame lies in.
        claimed: u16,
        /// Buffers that there were.
        given: u16,
    },
}

/// Who accesses a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The device reads it.
    DeviceReads,
    /// The device writes it.
    DeviceWrites,
}

/// A buffer that the device has used.
#[derive(Debug)]
pub struct Used<T> {
    /// What was given with it.
    pub token: T,
    /// Bytes that the device says it wrote, at most those that it may write. Means nothing if it only reads the buffer.
    pub written: u32,
}

/// Address and length in bytes of a piece of a buffer, as the device knows it.
pub type Segment = (PhysAddr, u32);

/// What the packet path asks of a virtqueue, whatever its format. `T` owns the memory of a buffer.
pub trait Virtqueue<T>: Sized {
    /// The greatest size up to `most` that a queue of this format may have; nothing if there is none.
    fn size_within(most: u16) -> Option<u16>;

    /// A queue of `size` descriptors. With INDIRECT_DESC in `features`, buffers of up to `max_segments` segments take one
    /// descriptor each; with EVENT_IDX notifications are suppressed by position; with IN_ORDER what can be known beforehand is not
    /// read.
    ///
    /// Nothing if there is no DMA memory.
    ///
    /// # Panics
    /// If a queue of this format cannot have that size; see [`Virtqueue::size_within`].
    ///
    /// # Safety
    /// Once the device has been told of the queue, the queue must not be dropped before the device is reset: dropping frees
    /// the memory that the device accesses, and that of every buffer.
    #[must_use]
    unsafe fn new(size: u16, max_segments: usize, features: Features) -> Option<Self>;

    /// Addresses of descriptor area, driver area and device area (section 2.6).
    fn areas(&self) -> [PhysAddr; 3];

    /// Where the driver will make the next buffer available, as a doorbell with NOTIFICATION_DATA tells it (section 2.9).
    fn position(&self) -> u16;

    /// How many descriptors the queue has.
    fn size(&self) -> u16;

    /// How many buffers the device has, or has used without their being taken.
    fn outstanding(&self) -> u16;

    /// How many buffers of one segment can be added.
    fn room(&self) -> u16;

    /// Adds a buffer of one segment. The device does not see it before [`Virtqueue::publish`].
    ///
    /// # Errors
    /// Gives the token back if there is no room, or if the ring is broken.
    ///
    /// # Safety
    /// The device must be allowed to access the segment until the token comes back or the ring is dropped.
    unsafe fn add(&mut self, segment: Segment, access: Access, token: T) -> Result<(), T>;

    /// Adds a buffer of several segments, all for the same access.
    ///
    /// # Errors
    /// Gives the token back if there is no room, if there are more segments than can ever be added, or if the ring is broken.
    ///
    /// # Safety
    /// As for [`Virtqueue::add`], for each segment; and there must be `count` of them.
    unsafe fn add_chain(
        &mut self,
        segments: impl Iterator<Item = Segment>,
        count: usize,
        access: Access,
        token: T,
    ) -> Result<(), T>;

    /// Shows the device what was added. Whether it wants to be told by the doorbell.
    #[must_use = "the device sleeps until its doorbell is rung"]
    fn publish(&mut self) -> bool;

    /// Takes the next buffer that the device has used.
    ///
    /// # Errors
    /// If the device lied, now or earlier.
    fn take(&mut self) -> Result<Option<Used<T>>, RingError>;

    /// Asks for an interrupt when the device has used another `after` + 1 buffers. Whether that has happened already, in which
    /// case there may be no interrupt.
    ///
    /// Without EVENT_IDX `after` does not count: any used buffer interrupts. A packed ring counts descriptors instead of buffers,
    /// so that the interrupt comes early if buffers have several.
    #[must_use = "if buffers have been used already, there may be no interrupt for them"]
    fn enable_interrupts(&mut self, after: u16) -> bool;

    /// Asks for no interrupts. One may be under way, or come all the same.
    fn disable_interrupts(&mut self);

    /// What the device lied about, if it did.
    fn broken(&self) -> Option<RingError>;

    /// Breaks the ring: the caller has found a lie in what the device wrote elsewhere.
    fn break_by(&mut self, error: RingError);

    /// Makes the ring as it was when new, broken or not, and gives every buffer back that the device had, in no particular order.
    /// The device is to be told of the queue again.
    ///
    /// # Safety
    /// The device must have been reset, or this queue of it, so that it accesses neither the queue nor its buffers.
    unsafe fn reset(&mut self, give: impl FnMut(T));
}
