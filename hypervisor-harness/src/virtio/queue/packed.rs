//! The packed virtqueue (virtio 1.3, section 2.8), as the device sees it.

use std::sync::atomic::Ordering;

use ringlet_driver::wire::packed::{self as layout, Descriptor, Event, Position};

use super::chain::Walker;
use super::{Chain, DeviceQueue, Direction, Fault, Misplaced, Mode, Place};
use crate::virtio::memory::{Area, Memory, Piece, Words};

/// A packed virtqueue in use, in guest memory.
pub type PackedQueue = Packed<Area>;

/// A packed virtqueue in use, in memory of any kind.
#[derive(Debug)]
pub struct Packed<A> {
    walker: Walker<A>,
    /// What the driver wants to be told of.
    driver_event: A,
    /// What the device wants to be told of.
    device_event: A,
    /// The next descriptor to take.
    next: Position,
    /// Descriptors taken and not given back.
    outstanding: u16,
    /// Where the next used descriptor goes.
    written: Position,
    /// Where the first used descriptor goes that the driver does not see yet.
    published: Position,
    /// That descriptor's length, id and flags, held back until all behind it are there; with IN_ORDER, in a queue that the
    /// device only reads, the one descriptor that stands for all of them.
    withheld: u64,
    /// Chains given back and not published.
    unpublished: u16,
    /// Descriptors published since an interrupt was last decided upon.
    undecided: u16,
    /// The driver was told that no doorbells are needed.
    quiet: bool,
}

impl<A: Words> Packed<A> {
    /// The head of a chain at the next position, if the driver has made one available there: its second word.
    #[inline(always)]
    fn head(&self) -> Result<Option<u64>, Fault> {
        // Acquire: the rest of the chain was written before its first descriptor's flags.
        let tail = self.walker.table.load64(at(self.next) + layout::DESC_LENGTH, Ordering::Acquire);
        if !self.next.is_available((tail >> 48) as u16) {
            return Ok(None);
        }
        // Everything here is the device's, and yet something new is said to be available.
        if self.outstanding == self.size() {
            return Err(Fault::Overrun(self.size()));
        }
        Ok(Some(tail))
    }

    /// The chain whose head has been read. The descriptors behind the head are read once each, and need not be looked at for
    /// being available: they are if the head is.
    #[inline(always)]
    fn walk(&self, tail: u64, pieces: &mut Vec<Piece>) -> Result<Chain, Fault> {
        let before = pieces.len();
        let mut descriptor = Descriptor::from_words(self.walker.table.load64(at(self.next), Ordering::Relaxed), tail);
        let mut chain = Chain { id: descriptor.id, descriptors: 1, pieces: 0, bytes: 0 };
        if descriptor.flags & layout::DESC_F_INDIRECT != 0 {
            // A list consists of one table, or of descriptors of the ring, but not of both (section 2.8.8).
            if !self.walker.mode.indirect || descriptor.flags & layout::DESC_F_NEXT != 0 {
                return Err(Fault::Indirect);
            }
            chain.bytes = self.indirect(&descriptor, before, pieces)?;
            chain.pieces = pieces.len() - before;
            return Ok(chain);
        }
        let mut position = self.next;
        loop {
            chain.bytes += self.buffer(&descriptor, before, pieces)?;
            if descriptor.flags & layout::DESC_F_NEXT == 0 {
                break;
            }
            if chain.descriptors + self.outstanding >= self.size() {
                return Err(Fault::Endless(self.size()));
            }
            position = position.advanced(1, self.size());
            let offset = at(position);
            let address = self.walker.table.load64(offset, Ordering::Relaxed);
            let tail = self.walker.table.load64(offset + layout::DESC_LENGTH, Ordering::Relaxed);
            descriptor = Descriptor::from_words(address, tail);
            if descriptor.flags & layout::DESC_F_INDIRECT != 0 {
                return Err(Fault::Indirect);
            }
            chain.descriptors += 1;
        }
        // The id counts in the last descriptor (section 2.8.6).
        chain.id = descriptor.id;
        chain.pieces = pieces.len() - before;
        Ok(chain)
    }

    /// A table of descriptors, all of which count, in their order; of their flags only WRITE means anything (section 2.8.7).
    ///
    /// Not even WRITE does in a queue that the device only reads: the queue says which way the bytes go, and nothing can come of
    /// believing it. DPDK's driver, up to the newest version looked at (26.11-rc0), leaves WRITE set for the header of each frame
    /// of several mbufs that it sends (`vring_desc_init_indirect_packed` sets it everywhere, once), and for one of the others
    /// where its place in the table happens to be the table's own in the ring.
    fn indirect(&self, refers: &Descriptor, before: usize, pieces: &mut Vec<Piece>) -> Result<usize, Fault> {
        let (table, count) = self.walker.table_at(refers.address, refers.length)?;
        let mut bytes = 0;
        for index in 0..usize::from(count) {
            let offset = index * layout::DESC_LEN;
            let address = table.load64(offset, Ordering::Relaxed);
            let tail = table.load64(offset + layout::DESC_LENGTH, Ordering::Relaxed);
            let mut descriptor = Descriptor::from_words(address, tail);
            if self.walker.direction == Direction::FromGuest {
                descriptor.flags &= !layout::DESC_F_WRITE;
            }
            bytes += self.buffer(&descriptor, before, pieces)?;
        }
        Ok(bytes)
    }

    #[inline]
    fn buffer(&self, descriptor: &Descriptor, before: usize, pieces: &mut Vec<Piece>) -> Result<usize, Fault> {
        let writable = descriptor.flags & layout::DESC_F_WRITE != 0;
        self.walker.buffer(descriptor.address, descriptor.length, writable, before, pieces)
    }
}

impl<A: Words> DeviceQueue for Packed<A> {
    fn new(memory: &Memory, place: &Place, direction: Direction, mode: Mode) -> Result<Self, Misplaced> {
        place.check(memory, layout::MAX_QUEUE_SIZE, true)?;
        let area = |name, address, length| {
            A::find(memory, address, length).map_err(|source| Misplaced::Outside { area: name, source })
        };
        let table = area("descriptor ring", place.descriptors, layout::ring_len(place.size))?;
        let mut queue = Self {
            walker: Walker { memory: memory.clone(), table, size: place.size, direction, mode },
            driver_event: area("driver event suppression structure", place.driver, layout::EVENT_LEN)?,
            device_event: area("device event suppression structure", place.device, layout::EVENT_LEN)?,
            next: Position::START,
            outstanding: 0,
            written: Position::START,
            published: Position::START,
            withheld: 0,
            unpublished: 0,
            undecided: 0,
            quiet: false,
        };
        queue.quieten();
        Ok(queue)
    }

    #[inline]
    fn size(&self) -> u16 {
        self.walker.size
    }

    #[inline]
    fn waiting(&mut self) -> Result<bool, Fault> {
        Ok(self.head()?.is_some())
    }

    // Always: a chain that is returned through memory is written in parts and read as a whole, which takes longer than all else.
    #[inline(always)]
    fn take(&mut self, pieces: &mut Vec<Piece>) -> Result<Option<Chain>, Fault> {
        let Some(tail) = self.head()? else { return Ok(None) };
        let chain = self.walk(tail, pieces)?;
        self.next = self.next.advanced(chain.descriptors, self.size());
        self.outstanding += chain.descriptors;
        Ok(Some(chain))
    }

    #[inline]
    fn used(&mut self, chain: Chain, written: u32) {
        let reads = self.walker.direction == Direction::FromGuest;
        let batched = self.walker.batches();
        // With WRITE the length counts.
        let kind = if reads { 0 } else { layout::DESC_F_WRITE };
        // The position of a batch is its first chain's, its id is its last one's (section 2.8.12).
        let position = if batched { self.published } else { self.written };
        let tail = Descriptor { address: 0, length: written, id: chain.id, flags: kind | position.used() }.tail();
        if batched || self.unpublished == 0 {
            self.withheld = tail;
        } else {
            // The driver does not look here before it has seen the first one.
            self.walker.table.store64(at(position) + layout::DESC_LENGTH, tail, Ordering::Relaxed);
        }
        self.written = self.written.advanced(chain.descriptors, self.size());
        self.outstanding -= chain.descriptors;
        self.undecided = self.undecided.saturating_add(chain.descriptors);
        self.unpublished += 1;
    }

    #[inline]
    fn publish(&mut self) -> u16 {
        let new = std::mem::take(&mut self.unpublished);
        if new != 0 {
            // Release: the descriptors behind this one, and the buffers' bytes, are there before it says so.
            let offset = at(self.published) + layout::DESC_LENGTH;
            self.walker.table.store64(offset, self.withheld, Ordering::Release);
            self.published = self.written;
        }
        new
    }

    #[inline]
    fn interrupt_due(&mut self) -> bool {
        if self.unpublished != 0 || self.undecided == 0 {
            return false;
        }
        let count = std::mem::take(&mut self.undecided);
        // The used descriptor must be visible before the driver's wish is read, or both sides could miss the other's last
        // word.
        A::fence();
        let event = Event::parse(self.driver_event.load32(0, Ordering::Relaxed));
        if event.flags == layout::EVENT_DESC && !self.walker.mode.event_idx {
            // Reserved: rather one interrupt too many than a driver that waits for ever.
            return true;
        }
        event.is_due(self.published, count.min(self.size()), self.size())
    }

    fn listen(&mut self) -> Result<bool, Fault> {
        let flags = if self.walker.mode.event_idx { layout::EVENT_DESC } else { layout::EVENT_ENABLE };
        // One store, so that the driver sees the position that goes with the flags.
        self.device_event.store32(0, Event { position: self.next, flags }.word(), Ordering::Relaxed);
        self.quiet = false;
        // The wish must be visible before the descriptor is read; see `interrupt_due`.
        A::fence();
        self.waiting()
    }

    #[inline]
    fn quieten(&mut self) {
        if !self.quiet {
            self.quiet = true;
            let event = Event { position: Position::START, flags: layout::EVENT_DISABLE };
            self.device_event.store32(0, event.word(), Ordering::Relaxed);
        }
    }

    fn position(&self) -> u32 {
        // Chains are given back in the order in which they were taken, so that whoever goes on from here finds those that
        // were not given back as the driver has made them available.
        u32::from(self.published.bits()) | u32::from(self.published.bits()) << 16
    }

    fn start_at(&mut self, position: u32) -> Result<(), Misplaced> {
        let position = Position::parse((position >> 16) as u16);
        if position.index >= self.size() {
            return Err(Misplaced::Position { index: position.index, size: self.size() });
        }
        (self.next, self.written, self.published) = (position, position, position);
        Ok(())
    }
}

/// The offset of a descriptor in its ring.
#[inline]
fn at(position: Position) -> usize {
    usize::from(position.index) * layout::DESC_LEN
}
