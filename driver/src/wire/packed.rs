//! The layout of a packed virtqueue (virtio 1.3, section 2.8).
//!
//! Driver and device go round one ring of descriptors, each with a wrap counter of its own that begins at 1 and is turned over
//! at the end of the ring. A descriptor is available when its two flag bits [`DESC_F_AVAIL`] and [`DESC_F_USED`] differ and the first
//! equals the driver's counter; it is used when they are alike and equal the device's.

use super::le16;

/// The buffer continues in the next descriptor of the ring.
pub const DESC_F_NEXT: u16 = 1;
/// The device writes the buffer; otherwise it reads it. In a used descriptor: `length` counts.
pub const DESC_F_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const DESC_F_INDIRECT: u16 = 4;
/// Set to the driver's wrap counter when made available, and to the device's when used.
pub const DESC_F_AVAIL: u16 = 1 << 7;
/// Set to the opposite of the driver's wrap counter when made available, and to the device's when used.
pub const DESC_F_USED: u16 = 1 << 15;

/// The greatest queue size. Any from 1 on will do.
pub const MAX_QUEUE_SIZE: u16 = 32768;

/// Alignment of the descriptor ring.
pub const DESC_ALIGN: usize = 16;
/// Alignment of the event suppression structures.
pub const EVENT_ALIGN: usize = 4;

/// Length of a descriptor.
pub const DESC_LEN: usize = 16;
/// Length of an event suppression structure.
pub const EVENT_LEN: usize = 4;

/// Offset of buffer id and flags in a descriptor, as one little-endian 64-bit word with the length: see [`Descriptor`].
pub const DESC_LENGTH: usize = 8;
/// Offset of the flags in a descriptor.
pub const DESC_FLAGS: usize = 14;

/// In the flags of an event suppression structure: every buffer is to be notified of.
pub const EVENT_ENABLE: u16 = 0;
/// None is.
pub const EVENT_DISABLE: u16 = 1;
/// The one at the structure's position is; only with EVENT_IDX.
pub const EVENT_DESC: u16 = 2;

/// Length in bytes of the descriptor ring of a queue of `size`.
#[must_use]
pub const fn ring_len(size: u16) -> usize {
    DESC_LEN * size as usize
}

/// A position in the ring with the wrap counter that goes with it, as an event suppression structure or a doorbell tells it:
/// the descriptor's index in bits 0 to 14, the counter in bit 15.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Index of the descriptor, below the size of the queue.
    pub index: u16,
    /// The wrap counter.
    pub wrap: bool,
}

impl Position {
    /// Where either side begins.
    pub const START: Self = Self { index: 0, wrap: true };

    /// From the 16 bits.
    #[inline]
    #[must_use]
    pub const fn parse(bits: u16) -> Self {
        Self { index: bits & 0x7fff, wrap: bits & 0x8000 != 0 }
    }

    /// The 16 bits.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.index | (self.wrap as u16) << 15
    }

    /// The position `count` descriptors further in a ring of `size`. `count` must be at most `size`.
    #[inline]
    #[must_use]
    pub const fn advanced(self, count: u16, size: u16) -> Self {
        let index = self.index as u32 + count as u32;
        if index >= size as u32 {
            Self { index: (index - size as u32) as u16, wrap: !self.wrap }
        } else {
            Self { index: index as u16, wrap: self.wrap }
        }
    }

    /// The flag bits by which a driver makes the descriptor here available.
    #[inline]
    #[must_use]
    pub const fn available(self) -> u16 {
        if self.wrap { DESC_F_AVAIL } else { DESC_F_USED }
    }

    /// Whether a descriptor here with these flags is available.
    #[inline]
    #[must_use]
    pub const fn is_available(self, flags: u16) -> bool {
        flags & (DESC_F_AVAIL | DESC_F_USED) == self.available()
    }

    /// The flag bits by which a device makes the descriptor here used.
    #[inline]
    #[must_use]
    pub const fn used(self) -> u16 {
        if self.wrap { DESC_F_AVAIL | DESC_F_USED } else { 0 }
    }

    /// Whether a descriptor here with these flags is used.
    #[inline]
    #[must_use]
    pub const fn is_used(self, flags: u16) -> bool {
        flags & (DESC_F_AVAIL | DESC_F_USED) == self.used()
    }
}

/// Whether moving by `count` descriptors to `new`, in a ring of `size`, passes the position `event`, so that the other side wants
/// a notification (section 2.8.10). `count` must be at most `size`; a position outside of the ring is never passed.
#[inline]
#[must_use]
pub const fn need_event(event: Position, new: Position, count: u16, size: u16) -> bool {
    if event.index >= size {
        return false;
    }
    // How far the event lies behind `new`: in this round, or in the one before.
    let behind = if event.wrap == new.wrap {
        new.index as i32 - event.index as i32
    } else {
        new.index as i32 + size as i32 - event.index as i32
    };
    0 < behind && behind <= count as i32
}

/// One descriptor (section 2.8.13), on the ring or in an indirect table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Descriptor {
    /// Guest-physical address of the buffer.
    pub address: u64,
    /// Its length in bytes; of a used descriptor, the number of bytes that were written.
    pub length: u32,
    /// The buffer's id: counts in the last descriptor of a buffer, and in a used one.
    pub id: u16,
    /// [`DESC_F_NEXT`], [`DESC_F_WRITE`], [`DESC_F_INDIRECT`], [`DESC_F_AVAIL`] and [`DESC_F_USED`].
    pub flags: u16,
}

impl Descriptor {
    /// Reads the 16 bytes.
    #[inline]
    #[must_use]
    pub fn parse(bytes: &[u8; DESC_LEN]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *bytes;
        Self {
            address: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            length: u32::from_le_bytes([i, j, k, l]),
            id: le16(bytes, 12),
            flags: le16(bytes, 14),
        }
    }

    /// Makes the 16 bytes.
    #[inline]
    #[must_use]
    pub fn to_bytes(&self) -> [u8; DESC_LEN] {
        let mut bytes = [0; DESC_LEN];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..].copy_from_slice(&self.tail().to_le_bytes());
        bytes
    }

    /// Length, id and flags as one number, to be stored as a little-endian 64-bit word.
    #[inline]
    #[must_use]
    pub const fn tail(&self) -> u64 {
        self.length as u64 | (self.id as u64) << 32 | (self.flags as u64) << 48
    }

    /// The descriptor with this address and this [`Descriptor::tail`].
    #[inline]
    #[must_use]
    pub const fn from_words(address: u64, tail: u64) -> Self {
        Self { address, length: tail as u32, id: (tail >> 32) as u16, flags: (tail >> 48) as u16 }
    }
}

/// An event suppression structure (section 2.8.14): what one side wants to be notified of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Where, with [`EVENT_DESC`].
    pub position: Position,
    /// [`EVENT_ENABLE`], [`EVENT_DISABLE`] or [`EVENT_DESC`]; the upper 14 bits are reserved.
    pub flags: u16,
}

impl Event {
    /// From the structure as one little-endian 32-bit word.
    #[inline]
    #[must_use]
    pub const fn parse(word: u32) -> Self {
        Self { position: Position::parse(word as u16), flags: (word >> 16) as u16 & 3 }
    }

    /// The structure as one number, to be stored as a little-endian 32-bit word.
    #[inline]
    #[must_use]
    pub const fn word(self) -> u32 {
        self.position.bits() as u32 | (self.flags as u32) << 16
    }

    /// Whether the side that wrote this wants to be notified when the other has moved by `count` descriptors to `new` in a
    /// ring of `size`. Reserved flags count as wanting everything, lest a notification be lost.
    #[inline]
    #[must_use]
    pub const fn is_due(self, new: Position, count: u16, size: u16) -> bool {
        match self.flags {
            EVENT_DISABLE => false,
            EVENT_DESC => need_event(self.position, new, count, size),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_fresh_ring_holds_nothing_available_and_nothing_used() {
        assert!(!Position::START.is_available(0) && !Position::START.is_used(0));
        let second = Position { wrap: false, ..Position::START };
        assert!(!second.is_available(Position::START.used()) && !second.is_used(Position::START.available()));
    }

    proptest! {
        #[test]
        fn a_descriptor_survives_its_bytes(bytes: [u8; 16]) {
            let descriptor = Descriptor::parse(&bytes);
            prop_assert_eq!(descriptor.to_bytes(), bytes);
            prop_assert_eq!(Descriptor::from_words(descriptor.address, descriptor.tail()), descriptor);
        }

        #[test]
        fn an_event_survives_its_word(word: u32) {
            prop_assert_eq!(Event::parse(word).word(), word & 0x0003_ffff);
        }

        #[test]
        fn steps_add_up(size in 1..=MAX_QUEUE_SIZE, index: u16, wrap: bool, count: u16) {
            let (start, count) = (Position { index: index % size, wrap }, count % (size + 1));
            let one_by_one = (0..count).fold(start, |position, _| position.advanced(1, size));
            prop_assert_eq!(start.advanced(count, size), one_by_one);
            prop_assert_eq!(Position::parse(start.bits()), start);
        }

        /// Section 2.8.10 in its plain meaning: a notification is due if one of the positions passed is the event's.
        #[test]
        fn need_event_is_due_when_the_event_position_is_passed(
            size in prop_oneof![1..9_u16, Just(MAX_QUEUE_SIZE)],
            index: u16,
            wrap: bool,
            count: u16,
            event: (u16, bool),
        ) {
            let (old, count) = (Position { index: index % size, wrap }, count % (size + 1));
            let event = Position { index: event.0 % size, wrap: event.1 };
            let passed = (0..count).any(|step| old.advanced(step, size) == event);
            prop_assert_eq!(need_event(event, old.advanced(count, size), count, size), passed);
        }
    }
}
