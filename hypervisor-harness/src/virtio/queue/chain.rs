//! Walking a descriptor chain: what the formats have in common, and the split virtqueue's (virtio 1.3, sections 2.7.5 and
//! 2.7.5.3).

use std::sync::atomic::Ordering;

use ringlet_driver::wire::split::{self as layout, Descriptor};

use super::{Direction, Fault, Mode};
use crate::virtio::memory::{Area, Memory, Piece, Words};

/// The most buffers in one chain: one less than `readv` and `writev` take, which leaves one for a header. The specification
/// allows no more than the queue's size; Linux goes beyond that with indirect tables in small queues, so it is not
/// insisted upon.
pub const MAX_PIECES: u16 = 1023;

/// What the chains of one queue have in common.
#[derive(Debug)]
pub(super) struct Walker<A> {
    pub(super) memory: Memory,
    pub(super) table: A,
    pub(super) size: u16,
    pub(super) direction: Direction,
    pub(super) mode: Mode,
}

impl<A: Words> Walker<A> {
    /// Whether chains are given back in batches, one entry for all of them.
    #[inline]
    pub(super) fn batches(&self) -> bool {
        self.mode.in_order && self.direction == Direction::FromGuest
    }

    /// Appends the chain that begins at `head` to `pieces`; empty buffers are left out. Returns the number of pieces and of
    /// bytes. Each descriptor is read once.
    ///
    /// # Errors
    /// If the chain breaks a rule; some pieces may have been appended then.
    #[inline(always)]
    pub(super) fn walk(&self, head: u16, pieces: &mut Vec<Piece>) -> Result<(usize, usize), Fault> {
        let before = pieces.len();
        let mut bytes = 0;
        let mut index = head;
        // A chain that visits a descriptor twice runs in a circle; a longer one than the table must do so.
        for _ in 0..self.size {
            let descriptor = descriptor(&self.table, self.size, index)?;
            if descriptor.flags & layout::DESC_F_INDIRECT != 0 {
                // A table may follow ordinary descriptors, but only as the last one (section 2.7.5.3.1).
                if !self.mode.indirect || descriptor.flags & layout::DESC_F_NEXT != 0 {
                    return Err(Fault::Indirect);
                }
                bytes += self.indirect(&descriptor, before, pieces)?;
                return Ok((pieces.len() - before, bytes));
            }
            let writable = descriptor.flags & layout::DESC_F_WRITE != 0;
            bytes += self.buffer(descriptor.address, descriptor.length, writable, before, pieces)?;
            if descriptor.flags & layout::DESC_F_NEXT == 0 {
                return Ok((pieces.len() - before, bytes));
            }
            index = descriptor.next;
        }
        Err(Fault::Endless(self.size))
    }

    /// One table of descriptors, to which an ordinary descriptor refers.
    fn indirect(&self, refers: &Descriptor, before: usize, pieces: &mut Vec<Piece>) -> Result<usize, Fault> {
        let (table, count) = self.table_at(refers.address, refers.length)?;
        let mut bytes = 0;
        let mut index = 0;
        for _ in 0..count {
            let descriptor = descriptor(&table, count, index)?;
            if descriptor.flags & layout::DESC_F_INDIRECT != 0 {
                return Err(Fault::Indirect);
            }
            let writable = descriptor.flags & layout::DESC_F_WRITE != 0;
            bytes += self.buffer(descriptor.address, descriptor.length, writable, before, pieces)?;
            if descriptor.flags & layout::DESC_F_NEXT == 0 {
                return Ok(bytes);
            }
            index = descriptor.next;
        }
        Err(Fault::Endless(count))
    }

    /// An indirect table of `length` bytes, and how many descriptors it has.
    pub(super) fn table_at(&self, address: u64, length: u32) -> Result<(Area, u16), Fault> {
        let count = length / layout::DESC_LEN as u32;
        if count == 0 || !length.is_multiple_of(layout::DESC_LEN as u32) || count > u32::from(MAX_PIECES) {
            return Err(Fault::IndirectLength(length));
        }
        // The specification asks for no alignment; but drivers keep to that of a 64-bit word at least, and the loads need it.
        if !address.is_multiple_of(size_of::<u64>() as u64) {
            return Err(Fault::IndirectUnaligned(address));
        }
        Ok((self.memory.area(address, length as usize)?, count as u16))
    }

    /// One buffer, for the device to write or to read. Returns its length.
    #[inline]
    pub(super) fn buffer(
        &self,
        address: u64,
        length: u32,
        writable: bool,
        before: usize,
        pieces: &mut Vec<Piece>,
    ) -> Result<usize, Fault> {
        if writable != (self.direction == Direction::ToGuest) {
            return Err(Fault::Direction);
        }
        let piece = self.memory.piece(address, length)?;
        if !piece.is_empty() {
            if pieces.len() - before >= usize::from(MAX_PIECES) {
                return Err(Fault::Endless(MAX_PIECES));
            }
            pieces.push(piece);
        }
        Ok(piece.len())
    }
}

/// Reads a descriptor of a table of `length`.
#[inline]
fn descriptor(table: &impl Words, length: u16, index: u16) -> Result<Descriptor, Fault> {
    if index >= length {
        return Err(Fault::DescriptorIndex { index, length });
    }
    let at = usize::from(index) * layout::DESC_LEN;
    let mut bytes = [0; layout::DESC_LEN];
    bytes[..8].copy_from_slice(&table.load64(at, Ordering::Relaxed).to_le_bytes());
    bytes[8..].copy_from_slice(&table.load64(at + 8, Ordering::Relaxed).to_le_bytes());
    Ok(Descriptor::parse(&bytes))
}
