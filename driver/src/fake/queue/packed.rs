//! The device's side of a packed virtqueue (virtio 1.3, section 2.8).

use std::format;
use std::vec::Vec;

use virtio_drivers::PhysAddr;

use super::chain::check;
use super::{Broken, Chain, Report};
use crate::fake::hal;
use crate::ring::Access;
use crate::wire::packed::{
    DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_LEN, DESC_LENGTH, Descriptor, EVENT_DESC, EVENT_DISABLE,
    EVENT_ENABLE, EVENT_LEN, Event, MAX_QUEUE_SIZE, Position, ring_len,
};

#[derive(Debug)]
pub(super) struct Packed {
    size: u16,
    ring: PhysAddr,
    driver: PhysAddr,
    device: PhysAddr,
    /// Up to where buffers were taken.
    taken: Position,
    /// Where the next used descriptor is written.
    used: Position,
    /// Descriptors that were used since it was last decided whether to interrupt.
    unsignalled: u16,
}

impl Packed {
    pub(super) fn new(size: u16, [ring, driver, device]: [PhysAddr; 3]) -> Self {
        assert!((1..=MAX_QUEUE_SIZE).contains(&size), "a packed queue of {size}");
        assert_eq!((ring % 16, driver % 4, device % 4), (0, 0, 0), "the areas of a queue are not aligned");
        Self { size, ring, driver, device, taken: Position::START, used: Position::START, unsignalled: 0 }
    }

    fn descriptor(&self, table: PhysAddr, index: u16) -> Descriptor {
        let mut bytes = [0; DESC_LEN];
        hal::read(table + u64::from(index) * DESC_LEN as u64, &mut bytes);
        Descriptor::parse(&bytes)
    }

    fn event(&self, area: PhysAddr) -> Event {
        let mut bytes = [0; EVENT_LEN];
        hal::read(area, &mut bytes);
        Event::parse(u32::from_le_bytes(bytes))
    }

    pub(super) fn is_available(&self) -> bool {
        self.taken.is_available(self.descriptor(self.ring, self.taken.index).flags)
    }

    /// The next available buffer.
    pub(super) fn look(&self, access: Access, indirect_allowed: bool) -> Result<Chain, Broken> {
        let writable = access == Access::DeviceWrites;
        let first = self.descriptor(self.ring, self.taken.index);
        let position = self.taken.bits();
        if first.flags & DESC_F_INDIRECT != 0 {
            let (length, rest) = (first.length as usize / DESC_LEN, first.length as usize % DESC_LEN);
            let alone = first.flags & (DESC_F_NEXT | DESC_F_WRITE) == 0;
            let there = hal::is_shared(first.address, first.length as usize);
            if !indirect_allowed || !alone || !there || length == 0 || rest != 0 || length > usize::from(self.size) {
                return Err(format!("an indirect descriptor that may not be: {first:?}"));
            }
            let mut segments = Vec::new();
            for index in 0..length as u16 {
                let descriptor = self.descriptor(first.address, index);
                // Nothing but DESC_F_WRITE may be set in a table (section 2.8.7).
                let flags = if writable { DESC_F_WRITE } else { 0 };
                check(descriptor.flags != flags, descriptor.length, &descriptor)?;
                segments.push((descriptor.address, descriptor.length));
            }
            return Ok(Chain { id: first.id, segments, writable, position, descriptors: 1 });
        }
        let mut segments = Vec::new();
        let mut here = self.taken;
        loop {
            let descriptor = self.descriptor(self.ring, here.index);
            let for_writing = descriptor.flags & DESC_F_WRITE != 0;
            let wrong = descriptor.flags & DESC_F_INDIRECT != 0 || for_writing != writable;
            // All of a chain is available when the first one is (section 2.8.6).
            check(wrong || !here.is_available(descriptor.flags), descriptor.length, &descriptor)?;
            segments.push((descriptor.address, descriptor.length));
            here = here.advanced(1, self.size);
            if descriptor.flags & DESC_F_NEXT == 0 {
                let descriptors = segments.len() as u16;
                return Ok(Chain { id: descriptor.id, segments, writable, position, descriptors });
            }
            if segments.len() >= usize::from(self.size) {
                return Err("a chain that is longer than the queue, or does not end".into());
            }
        }
    }

    pub(super) fn take(&mut self, chain: &Chain) {
        self.taken = self.taken.advanced(chain.descriptors, self.size);
    }

    pub(super) fn untake(&mut self, position: u16) {
        self.taken = Position::parse(position);
    }

    /// Writes a used descriptor for each batch, where the first of its buffers would have its own; the first of all is written
    /// last.
    pub(super) fn show(&mut self, batches: &[&[Report]]) {
        let mut writes = Vec::new();
        for batch in batches {
            let Some(last) = batch.last() else { continue };
            let wrote = if last.chain.writable && last.written > 0 { DESC_F_WRITE } else { 0 };
            let flags = self.used.used() | wrote;
            writes.push((self.used, Descriptor { address: 0, length: last.written, id: last.id as u16, flags }));
            let descriptors = batch.iter().map(|report| report.chain.descriptors).sum();
            self.advance(descriptors);
        }
        for (position, descriptor) in writes.into_iter().rev() {
            self.write_used(position, descriptor);
        }
    }

    fn write_used(&self, position: Position, descriptor: Descriptor) {
        // The address is left alone.
        let place = self.ring + (usize::from(position.index) * DESC_LEN + DESC_LENGTH) as u64;
        hal::write(place, &descriptor.tail().to_le_bytes());
    }

    fn advance(&mut self, descriptors: u16) {
        // A device that lies can come further than there are descriptors.
        let descriptors = descriptors % (self.size + 1);
        self.used = self.used.advanced(descriptors, self.size);
        self.unsignalled = self.unsignalled.saturating_add(descriptors).min(self.size);
    }

    /// Makes the next `count` descriptors used, whatever they are.
    pub(super) fn jump(&mut self, count: u16) {
        for _ in 0..count.min(self.size) {
            let there = self.descriptor(self.ring, self.used.index);
            self.write_used(self.used, Descriptor { flags: self.used.used(), ..there });
            self.advance(1);
        }
    }

    pub(super) fn interrupt_due(&mut self, event_idx: bool) -> bool {
        let count = core::mem::take(&mut self.unsignalled);
        let event = self.event(self.driver);
        assert!(event_idx || event.flags != EVENT_DESC, "a position was asked for without EVENT_IDX");
        count > 0 && event.is_due(self.used, count, self.size)
    }

    pub(super) fn want_doorbell(&mut self, wanted: bool, event_idx: bool) {
        let flags = match (wanted, event_idx) {
            (false, _) => EVENT_DISABLE,
            (true, false) => EVENT_ENABLE,
            (true, true) => EVENT_DESC,
        };
        hal::write(self.device, &Event { position: self.taken, flags }.word().to_le_bytes());
    }

    pub(super) fn check_position(&self, told: u16) {
        let told = Position::parse(told);
        let available = |position: Position| position.is_available(self.descriptor(self.ring, position.index).flags);
        let mut here = self.taken;
        for _ in 0..self.size {
            if here == told || !available(here) {
                break;
            }
            here = here.advanced(1, self.size);
        }
        assert_eq!(here, told, "the doorbell told of another place than where buffers end");
    }

    /// The descriptor ring, but for addresses, and behind it what the device says of doorbells.
    pub(super) fn scribble(&mut self, offset: usize, bytes: &[u8]) {
        let length = ring_len(self.size);
        for (offset, byte) in (offset..).zip(bytes) {
            if offset < length {
                // The driver never reads an address again: a device that changes one fools nobody but itself.
                if offset % DESC_LEN >= DESC_LENGTH {
                    hal::write(self.ring + offset as u64, &[*byte]);
                }
            } else if offset - length < EVENT_LEN {
                hal::write(self.device + (offset - length) as u64, &[*byte]);
            }
        }
    }
}
