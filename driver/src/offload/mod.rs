//! The checksums and the segmentation that a device does not do, in software.
//!
//! A frame that came in with a partial checksum, or as a super-frame of up to 64 KiB, may have to go out through a device
//! that was not granted CSUM or HOST_TSO. [`check`] says whether a frame's header is to be believed, [`finish_checksum`]
//! completes a checksum in place, and a [`Segmenter`] cuts a super-frame into frames, one at a time and into memory of the
//! caller: nothing is allocated.
//!
//! Frames may lie in several pieces: everything here reads them through [`Bytes`]. Only their headers must be contiguous.

mod bytes;
mod check;
mod headers;
mod segment;
#[cfg(test)]
mod tests;

pub use bytes::Bytes;
pub use check::{Invalid, check};
pub use headers::{Headers, MAX_HEADERS, Network, Transport};
pub use segment::{Finish, Segmenter, Unsegmentable};

/// The sum that completes a partial checksum (virtio 1.3, section 5.1.6.2): over everything from `start` to the end of the
/// frame, in which the checksum field itself holds the sum of the pseudo-header. The result is to be stored, big-endian, at
/// `start + offset`.
///
/// For UDP (checksum field at offset 6) a result of 0 is given as 0xffff, since 0 there means "no checksum" (RFC 768).
#[must_use]
pub fn finish_checksum(frame: &(impl Bytes + ?Sized), start: u16, offset: u16) -> u16 {
    let sum = !bytes::fold(bytes::sum(frame, usize::from(start)..frame.len()));
    if sum == 0 && offset == headers::UDP_CHECKSUM { 0xffff } else { sum }
}
