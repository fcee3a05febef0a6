//! The device's side of a virtqueue.
//!
//! [`DeviceQueue`] is what a device is written against: it takes chains that the driver made available, and gives them
//! back used. Each ring format is a type of its own, so that the packet path is compiled once for each of them;
//! [`SplitQueue`] and [`PackedQueue`].
//!
//! Nothing the driver writes is trusted. A driver that breaks the rules gets a [`Fault`], which ends the use of the queue
//! until a reset; it can make its own device stop, and nothing else.

mod chain;
mod packed;
mod split;
#[cfg(test)]
mod tests;

pub use chain::MAX_PIECES;
pub use packed::PackedQueue;
pub use split::SplitQueue;

use ringlet_driver::features::Features;
use ringlet_driver::wire::{packed as packed_layout, split as split_layout};

use super::memory::{Memory, Piece};
use crate::vmm::memory::OutOfRange;

/// Which way the bytes of a queue go. A queue of a network device goes one way only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The driver sends: the device reads all buffers.
    FromGuest,
    /// The driver receives: the device writes all buffers.
    ToGuest,
}

/// Where the driver has put a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The number of descriptors.
    pub size: u16,
    /// Guest-physical address of the descriptor area: the table, or the packed ring.
    pub descriptors: u64,
    /// Guest-physical address of the driver area: the available ring, or what the driver wants to be told of.
    pub driver: u64,
    /// Guest-physical address of the device area: the used ring, or what the device wants to be told of.
    pub device: u64,
}

impl Place {
    /// Checks the size and the areas of a split queue (virtio 1.3, section 2.7) or of a `packed` one (section 2.8), which may
    /// be of any size.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self, memory: &Memory, greatest: u16, packed: bool) -> Result<(), Misplaced> {
        let Self { size, descriptors, driver, device } = *self;
        if size == 0 || size > greatest || !packed && !size.is_power_of_two() {
            return Err(Misplaced::Size { size, greatest, packed });
        }
        let areas = if packed {
            [
                ("descriptor ring", descriptors, packed_layout::DESC_ALIGN, packed_layout::ring_len(size)),
                ("driver event suppression structure", driver, packed_layout::EVENT_ALIGN, packed_layout::EVENT_LEN),
                ("device event suppression structure", device, packed_layout::EVENT_ALIGN, packed_layout::EVENT_LEN),
            ]
        } else {
            [
                ("descriptor table", descriptors, split_layout::DESC_ALIGN, split_layout::table_len(size)),
                ("available ring", driver, split_layout::AVAIL_ALIGN, split_layout::avail_len(size)),
                ("used ring", device, split_layout::USED_ALIGN, split_layout::used_len(size)),
            ]
        };
        for (area, address, align, length) in areas {
            if !address.is_multiple_of(align as u64) {
                return Err(Misplaced::Unaligned { area, address, align });
            }
            memory.area(address, length).map_err(|source| Misplaced::Outside { area, source })?;
        }
        Ok(())
    }
}

/// A queue cannot be where, or as large as, the driver wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misplaced {
    /// None, too large, or not a power of two in a split ring.
    #[error("{size} descriptors: must be {}, {greatest} at most", if *packed { "1 or more" } else { "a power of two" })]
    Size {
        /// What the driver wants.
        size: u16,
        /// The most there can be.
        greatest: u16,
        /// Whether the ring is packed.
        packed: bool,
    },
    /// A queue is to go on from a place that it does not have.
    #[error("position {index} in a ring of {size}")]
    Position {
        /// Where it is to go on.
        index: u16,
        /// The ring's size.
        size: u16,
    },
    /// An area is not aligned.
    #[error("the {area} at {address:#x} is not aligned to {align} bytes")]
    Unaligned {
        /// Which one.
        area: &'static str,
        /// Where it is.
        address: u64,
        /// What it must be a multiple of.
        align: usize,
    },
    /// An area is not in RAM.
    #[error("the {area}: {source}")]
    Outside {
        /// Which one.
        area: &'static str,
        /// Where it is.
        source: OutOfRange,
    },
}

/// The features that change how a queue works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// EVENT_IDX: notifications are suppressed by index instead of by flag.
    pub event_idx: bool,
    /// INDIRECT_DESC: a descriptor may refer to a table of descriptors.
    pub indirect: bool,
    /// IN_ORDER: chains that the device only reads are given back all at once, by one entry for the last of them. Chains that
    /// it writes are given back one by one all the same, since what is passed over counts as written to its end.
    pub in_order: bool,
}

impl From<Features> for Mode {
    fn from(features: Features) -> Self {
        Self {
            event_idx: features.contains(Features::EVENT_IDX),
            indirect: features.contains(Features::INDIRECT_DESC),
            in_order: features.contains(Features::IN_ORDER),
        }
    }
}

/// A descriptor chain that the driver has made available and the device has taken. It is given back by
/// [`DeviceQueue::used`]; until then the driver keeps away from its buffers.
#[derive(Debug, PartialEq, Eq)]
pub struct Chain {
    /// By what the driver knows it: the index of the chain's first descriptor, or the buffer's id in a packed ring.
    id: u16,
    /// How many places of the ring it takes: one of the available ring, or all its descriptors in a packed ring.
    descriptors: u16,
    /// How many pieces it has.
    pub pieces: usize,
    /// How many bytes these have together.
    pub bytes: usize,
}

/// One queue in use, whatever the format of its ring.
///
/// Nothing of what the device writes is read back: the guest can change it.
pub trait DeviceQueue: Sized + Send {
    /// Begins to use a queue, from its first position on. At first the device looks for chains by itself, as after
    /// [`DeviceQueue::quieten`].
    ///
    /// # Errors
    /// If the queue cannot be where the driver wants it.
    fn new(memory: &Memory, place: &Place, direction: Direction, mode: Mode) -> Result<Self, Misplaced>;

    /// The number of descriptors.
    fn size(&self) -> u16;

    /// Whether a chain can be taken: what [`DeviceQueue::take`] would find.
    ///
    /// # Errors
    /// If the driver has broken the rules; the queue is not to be used any more then.
    fn waiting(&mut self) -> Result<bool, Fault>;

    /// Takes the next chain that the driver has made available and appends its buffers to `pieces`.
    ///
    /// # Errors
    /// If the driver has broken the rules; the queue is not to be used any more then.
    fn take(&mut self, pieces: &mut Vec<Piece>) -> Result<Option<Chain>, Fault>;

    /// Gives a chain back, of whose bytes the device has written the first `written`. Chains are given back in the order
    /// in which they were taken. The driver does not see it before [`DeviceQueue::publish`], so that the buffers of one
    /// frame appear all at once.
    fn used(&mut self, chain: Chain, written: u32);

    /// Shows the driver all chains given back so far, at once. Returns how many were new.
    fn publish(&mut self) -> u16;

    /// Whether the driver wants an interrupt for what was published since this was last asked.
    fn interrupt_due(&mut self) -> bool;

    /// Asks the driver for a doorbell when it next makes a chain available. Returns whether it has made some available
    /// already: then no doorbell comes for these, and the device must look again.
    ///
    /// # Errors
    /// If the driver has broken the rules; the queue is not to be used any more then.
    fn listen(&mut self) -> Result<bool, Fault>;

    /// Tells the driver that no doorbells are needed: the device looks by itself.
    fn quieten(&mut self);

    /// Where the queue stands, as vhost-user tells it (`VHOST_USER_GET_VRING_BASE`): the first chain that was not given
    /// back. What was taken and not given back is taken again by whoever goes on from there; what was given back has to be
    /// published first.
    fn position(&self) -> u32;

    /// Goes on from a position that [`DeviceQueue::position`] has given, of this queue or of another one in the same place.
    /// To be called before anything else.
    ///
    /// # Errors
    /// If there is no such position.
    fn start_at(&mut self, position: u32) -> Result<(), Misplaced>;
}

/// The driver has broken the rules. The device needs a reset (virtio 1.3, section 2.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The available index has moved by more than the queue holds.
    #[error("the available index moved from {from} to {to}, in a queue of {size}")]
    AvailableIndex {
        /// Where it was when the device last looked.
        from: u16,
        /// Where it is.
        to: u16,
        /// The queue's size.
        size: u16,
    },
    /// More descriptors of a packed ring are available than it has.
    #[error("more descriptors available than a ring of {0} has")]
    Overrun(u16),
    /// A descriptor index is not in the table.
    #[error("descriptor {index} of a table of {length}")]
    DescriptorIndex {
        /// The index.
        index: u16,
        /// The table's length.
        length: u16,
    },
    /// A chain has more descriptors than the table, so that it runs in a circle, or more than a device takes.
    #[error("a chain of more than {0} descriptors")]
    Endless(u16),
    /// An indirect descriptor where INDIRECT_DESC was not negotiated, or inside an indirect table, or with NEXT set.
    #[error("an indirect descriptor where none may be")]
    Indirect,
    /// An indirect table is empty, too long, or no multiple of 16 bytes long.
    #[error("an indirect table of {0} bytes")]
    IndirectLength(u32),
    /// An indirect table is not aligned.
    #[error("an indirect table at {0:#x}, which is not aligned to 8 bytes")]
    IndirectUnaligned(u64),
    /// A buffer or an indirect table is not in RAM.
    #[error(transparent)]
    Outside(#[from] OutOfRange),
    /// A buffer for the device to read in a queue that it writes, or the other way round.
    #[error("a buffer of the wrong direction")]
    Direction,
    /// A receive buffer that does not hold a frame's header.
    #[error("a receive buffer of {0} bytes")]
    ReceiveBuffer(usize),
}
