//! Pools of DMA buffers, and frames that own them.
//!
//! A [`Pool`] is memory cut into buffers of one size, shared with the device once and for good. A [`Frame`] is one Ethernet
//! frame in one buffer or in a chain of them. It is moved, never copied: into a ring, out of it, from the receive side to the
//! transmit side. When it is dropped its buffers are free again. Nothing is allocated after the pool is made.
//!
//! ```text
//! one buffer:   |<-------- HEADROOM ------->|<------- HEAD_CAPACITY ------->|
//!               |  room for prepend()  |hdr | Ethernet frame ...            |
//! ```
//! The room in front of a frame holds the 12 bytes of [`NetHdr`] when a device is given the buffer, so
//! that header and frame are one descriptor. The header that [`Frame::header`] tells is kept apart, in memory that no device
//! can write: what was checked once stays checked.
//!
//! A pool belongs to one thread, and so do its frames: nothing here takes a lock.

mod frame;
mod pool;
mod region;
#[cfg(test)]
mod tests;

pub use frame::{Frame, Full};
pub use pool::{Pool, PoolError};
pub(crate) use region::Region;

use crate::wire::NetHdr;

/// Room in front of the frame in its first buffer, in bytes: two cache lines for headers that [`Frame::prepend`] adds, and the 12
/// bytes of the virtio-net header.
///
/// That header begins a cache line, which the Ethernet, IPv4, and TCP or UDP headers fill: whoever forwards a frame by these touches
/// one line of it, and the others stay with the device, which has written them and will read them.
pub const HEADROOM: usize = 128 + NetHdr::LEN;

/// Bytes of a frame that lie in its first buffer, unless something was prepended.
pub const HEAD_CAPACITY: usize = 2112 - NetHdr::LEN;

/// Distance of buffers in memory, in bytes: an odd number of cache lines, so that the first lines of the buffers are spread over all
/// sets of a cache.
pub const STRIDE: usize = HEADROOM + HEAD_CAPACITY;

/// Where the header lies in a buffer that is given to the device, and where data begins in every buffer of a frame but the
/// first: the device fills each buffer from here on.
pub(crate) const DEVICE_START: usize = HEADROOM - NetHdr::LEN;

/// Bytes of a buffer that the device may fill, the header included.
pub(crate) const DEVICE_CAPACITY: usize = STRIDE - DEVICE_START;

/// The most buffers a frame may have that goes to or comes from a device: enough for 64 KiB however they lie, with a few
/// partly filled.
pub const MAX_SEGMENTS: usize = 40;

const _: () = assert!(STRIDE % 128 == 64 && STRIDE <= u16::MAX as usize && DEVICE_START.is_multiple_of(64));
const _: () = assert!(MAX_SEGMENTS * DEVICE_CAPACITY > crate::wire::MAX_GSO_FRAME + NetHdr::LEN);
