//! The checksums and the segmentation that a device does not do, in software.
//!
//! A frame that came in with a partial checksum, or as a super-frame of up to 64 KiB, may have to go out through a device
//! that was not granted CSUM, or HOST_TSO, HOST_USO or HOST_UFO. [`check`] says whether a frame's header is to be believed,
//! [`finish_checksum`] completes a checksum in place, and a [`Segmenter`] cuts a super-frame into frames, one at a time and
//! into memory of the caller: TCP into segments, UDP into datagrams or IP fragments. Nothing is allocated. [`coalesced`] makes
//! super-frames of what a device with RSC_EXT has put together.
//!
//! Frames may lie in several pieces: everything here reads them through [`Bytes`]. Only their headers must be contiguous.
//! Tunnels are not looked into where frames come in. A frame that was put into one since then, which its header says by
//! [`NetHdr::ENCAPSULATED`], is cut into segments of which each is in the tunnel.

mod bytes;
mod check;
mod coalesced;
mod fragment;
mod headers;
mod segment;
#[cfg(test)]
mod tests;
mod tunnel;

pub use bytes::{Bytes, BytesMut};
pub use check::{Invalid, check, check_exact};
pub use coalesced::{Coalesced, coalesced};
pub use headers::{Headers, MAX_HEADERS, Network, Transport};
pub use segment::{Finish, Segmenter, Unsegmentable};

#[cfg(doc)]
use crate::wire::NetHdr;

/// The sum that completes a partial checksum (virtio 1.3, section 5.1.6.2): over everything from `start` to the end of the
/// frame, in which the checksum field itself holds the sum of the pseudo-header. The result is to be stored, big-endian, at
/// `start + offset`.
///
/// For UDP (checksum field at offset 6) a result of 0 is given as 0xffff, since 0 there means "no checksum" (RFC 768).
#[must_use]
pub fn finish_checksum(frame: &(impl Bytes + ?Sized), start: u16, offset: u16) -> u16 {
    finished(bytes::sum(frame, usize::from(start)..frame.len()), offset)
}

/// The checksum that a sum makes.
fn finished(sum: u64, offset: u16) -> u16 {
    let sum = !bytes::fold(sum);
    if sum == 0 && offset == headers::UDP_CHECKSUM { 0xffff } else { sum }
}
