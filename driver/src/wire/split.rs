//! The layout of a split virtqueue (virtio 1.3, section 2.7).

use super::le16;

/// The descriptor continues in `next`.
pub const DESC_F_NEXT: u16 = 1;
/// The device writes the buffer; otherwise it reads it.
pub const DESC_F_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const DESC_F_INDIRECT: u16 = 4;

/// In the available ring's flags: the driver needs no interrupts. Unused with EVENT_IDX.
pub const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// In the used ring's flags: the device needs no doorbells. Unused with EVENT_IDX.
pub const USED_F_NO_NOTIFY: u16 = 1;

/// The greatest queue size.
pub const MAX_QUEUE_SIZE: u16 = 32768;

/// Alignment of the descriptor table.
pub const DESC_ALIGN: usize = 16;
/// Alignment of the available ring.
pub const AVAIL_ALIGN: usize = 2;
/// Alignment of the used ring.
pub const USED_ALIGN: usize = 4;

/// Length of a descriptor.
pub const DESC_LEN: usize = 16;
/// Length of an entry of the available ring.
pub const AVAIL_ENTRY_LEN: usize = 2;
/// Length of an entry of the used ring.
pub const USED_ENTRY_LEN: usize = 8;

/// Offset of the flags in either ring.
pub const RING_FLAGS: usize = 0;
/// Offset of the index in either ring.
pub const RING_INDEX: usize = 2;
/// Offset of the entries in either ring.
pub const RING_ENTRIES: usize = 4;

/// Length in bytes of the descriptor table of a queue of `size`.
#[must_use]
pub const fn table_len(size: u16) -> usize {
    DESC_LEN * size as usize
}

/// Offset of `used_event` in the available ring of a queue of `size`.
#[must_use]
pub const fn used_event(size: u16) -> usize {
    RING_ENTRIES + AVAIL_ENTRY_LEN * size as usize
}

/// Length in bytes of the available ring, `used_event` included.
#[must_use]
pub const fn avail_len(size: u16) -> usize {
    used_event(size) + 2
}

/// Offset of `avail_event` in the used ring of a queue of `size`.
#[must_use]
pub const fn avail_event(size: u16) -> usize {
    RING_ENTRIES + USED_ENTRY_LEN * size as usize
}

/// Length in bytes of the used ring, `avail_event` included.
#[must_use]
pub const fn used_len(size: u16) -> usize {
    avail_event(size) + 2
}

/// Whether moving a ring's index from `old` to `new` passes the other side's event index, so that it wants a notification
/// (virtio 1.3, section 2.7.10; indices are modulo 2<sup>16</sup>).
#[inline]
#[must_use]
pub const fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// One descriptor (section 2.7.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Descriptor {
    /// Guest-physical address of the buffer.
    pub address: u64,
    /// Its length in bytes.
    pub length: u32,
    /// [`DESC_F_NEXT`], [`DESC_F_WRITE`] and [`DESC_F_INDIRECT`].
    pub flags: u16,
    /// The next descriptor of the chain, with [`DESC_F_NEXT`].
    pub next: u16,
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
            flags: le16(bytes, 12),
            next: le16(bytes, 14),
        }
    }

    /// Makes the 16 bytes.
    #[inline]
    #[must_use]
    pub fn to_bytes(&self) -> [u8; DESC_LEN] {
        let [low, high] = self.to_words();
        let mut bytes = [0; DESC_LEN];
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..].copy_from_slice(&high.to_le_bytes());
        bytes
    }

    /// The descriptor as two numbers, each to be stored as a little-endian 64-bit word.
    #[inline]
    #[must_use]
    pub const fn to_words(&self) -> [u64; 2] {
        [self.address, self.length as u64 | (self.flags as u64) << 32 | (self.next as u64) << 48]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn areas_are_as_long_as_section_2_7_says() {
        for size in [1, 2, 256, 1024, 32768] {
            assert_eq!(table_len(size), 16 * usize::from(size));
            assert_eq!(avail_len(size), 6 + 2 * usize::from(size));
            assert_eq!(used_len(size), 6 + 8 * usize::from(size));
        }
    }

    proptest! {
        #[test]
        fn a_descriptor_survives_its_bytes(bytes: [u8; 16]) {
            prop_assert_eq!(Descriptor::parse(&bytes).to_bytes(), bytes);
        }

        /// Section 2.7.10 in its plain meaning: a notification is due if one of the positions `old .. new` is the event's.
        #[test]
        fn need_event_is_due_when_the_event_position_is_passed(old: u16, added in 0_u16..=32768, event: u16) {
            let passed = (0..added).any(|step| old.wrapping_add(step) == event);
            prop_assert_eq!(need_event(event, old.wrapping_add(added), old), passed);
        }
    }
}
