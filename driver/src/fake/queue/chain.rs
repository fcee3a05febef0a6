//! A buffer, as the device sees it.

use std::format;
use std::vec::Vec;

use virtio_drivers::PhysAddr;

use super::Broken;
use crate::fake::hal;

/// A chain of descriptors: how the device calls it, and its pieces.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    /// Split: the index of the first descriptor. Packed: the buffer id.
    pub(crate) id: u16,
    /// Address and length of each piece.
    pub(crate) segments: Vec<(PhysAddr, u32)>,
    /// Whether the device writes it.
    pub(super) writable: bool,
    /// Where it was taken: a position of the available ring, or of the descriptor ring with its wrap counter.
    pub(super) position: u16,
    /// How many descriptors of the ring it takes (packed).
    pub(super) descriptors: u16,
}

impl Chain {
    pub(crate) fn capacity(&self) -> usize {
        self.segments.iter().map(|&(_, length)| length as usize).sum()
    }

    /// Whether all of it lies in memory that the driver has shared.
    pub(super) fn is_shared(&self) -> bool {
        self.segments.iter().all(|&(address, length)| hal::is_shared(address, length as usize))
    }

    pub(crate) fn read(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.capacity());
        for &(address, length) in &self.segments {
            let start = bytes.len();
            bytes.resize(start + length as usize, 0);
            hal::read(address, &mut bytes[start..]);
        }
        bytes
    }

    /// Writes from the start of the chain, as much as fits. How much that was.
    pub(crate) fn write(&self, mut bytes: &[u8]) -> usize {
        let mut written = 0;
        for &(address, length) in &self.segments {
            let here = bytes.len().min(length as usize);
            hal::write(address, &bytes[..here]);
            bytes = &bytes[here..];
            written += here;
        }
        written
    }
}

/// Checks what both formats demand of a descriptor that is no table: all pieces are for reading, or all for writing, and none
/// is empty (a rule of this driver, not of the specification).
pub(super) fn check(wrong: bool, length: u32, descriptor: &dyn core::fmt::Debug) -> Result<(), Broken> {
    if wrong || length == 0 { Err(format!("a descriptor that may not be: {descriptor:?}")) } else { Ok(()) }
}
