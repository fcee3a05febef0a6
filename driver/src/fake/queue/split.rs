//! The device's side of a split virtqueue (virtio 1.3, section 2.7).

use std::format;
use std::vec::Vec;

use virtio_drivers::PhysAddr;

use super::chain::check;
use super::{Broken, Chain, Report};
use crate::fake::hal;
use crate::ring::Access;
use crate::wire::split::{
    self, AVAIL_ENTRY_LEN, AVAIL_F_NO_INTERRUPT, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_LEN, Descriptor,
    RING_ENTRIES, RING_FLAGS, RING_INDEX, USED_ENTRY_LEN, USED_F_NO_NOTIFY, need_event,
};

#[derive(Debug)]
pub(super) struct Split {
    size: u16,
    descriptors: PhysAddr,
    driver: PhysAddr,
    device: PhysAddr,
    /// Up to where buffers were taken from the available ring.
    taken: u16,
    /// The used index.
    used: u16,
    /// The used index when it was last decided whether to interrupt.
    signalled: u16,
}

impl Split {
    pub(super) fn new(size: u16, [descriptors, driver, device]: [PhysAddr; 3]) -> Self {
        assert!(size.is_power_of_two() && size <= split::MAX_QUEUE_SIZE, "a split queue of {size}");
        assert_eq!((descriptors % 16, driver % 2, device % 4), (0, 0, 0), "the areas of a queue are not aligned");
        let mut queue = Self { size, descriptors, driver, device, taken: 0, used: 0, signalled: 0 };
        // A test may let the indices begin elsewhere.
        queue.taken = queue.avail_index();
        (queue.used, queue.signalled) = (queue.taken, queue.taken);
        queue.write16(queue.device + RING_INDEX as u64, queue.used);
        queue
    }

    fn read16(&self, address: PhysAddr) -> u16 {
        let mut bytes = [0; 2];
        hal::read(address, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    fn write16(&self, address: PhysAddr, value: u16) {
        hal::write(address, &value.to_le_bytes());
    }

    fn avail_index(&self) -> u16 {
        self.read16(self.driver + RING_INDEX as u64)
    }

    pub(super) fn is_available(&self) -> bool {
        self.avail_index() != self.taken
    }

    /// The next available buffer.
    pub(super) fn look(&self, access: Access, indirect_allowed: bool) -> Result<Chain, Broken> {
        let count = self.avail_index().wrapping_sub(self.taken);
        if count > self.size {
            return Err(format!("the driver moved the available index by {count} in a queue of {}", self.size));
        }
        let entry = usize::from(self.taken & (self.size - 1)) * AVAIL_ENTRY_LEN;
        let id = self.read16(self.driver + (RING_ENTRIES + entry) as u64);
        if id >= self.size {
            return Err(format!("the driver made descriptor {id} available in a queue of {}", self.size));
        }
        let first = self.descriptor(self.descriptors, id);
        let writable = access == Access::DeviceWrites;
        let segments = if first.flags & DESC_F_INDIRECT != 0 {
            let (length, rest) = (first.length as usize / DESC_LEN, first.length as usize % DESC_LEN);
            let there = hal::is_shared(first.address, first.length as usize);
            if !indirect_allowed || !there || first.flags != DESC_F_INDIRECT || length == 0 || rest != 0 {
                return Err(format!("an indirect descriptor that may not be: {first:?}"));
            }
            self.walk(first.address, length, 0, writable)?
        } else {
            self.walk(self.descriptors, usize::from(self.size), id, writable)?
        };
        Ok(Chain { id, segments, writable, position: self.taken, descriptors: 1 })
    }

    pub(super) fn take(&mut self, _: &Chain) {
        self.taken = self.taken.wrapping_add(1);
    }

    pub(super) fn untake(&mut self, position: u16) {
        self.taken = position;
    }

    fn descriptor(&self, table: PhysAddr, position: u16) -> Descriptor {
        let mut bytes = [0; DESC_LEN];
        hal::read(table + u64::from(position) * DESC_LEN as u64, &mut bytes);
        Descriptor::parse(&bytes)
    }

    fn walk(&self, table: PhysAddr, length: usize, first: u16, writes: bool) -> Result<Vec<(PhysAddr, u32)>, Broken> {
        let mut segments = Vec::new();
        let mut position = first;
        loop {
            if usize::from(position) >= length {
                return Err(format!("descriptor {position} in a table of {length}"));
            }
            if segments.len() >= usize::from(self.size) {
                return Err("a chain that is longer than the queue, or does not end".into());
            }
            let descriptor = self.descriptor(table, position);
            let for_writing = descriptor.flags & DESC_F_WRITE != 0;
            let wrong = descriptor.flags & DESC_F_INDIRECT != 0 || for_writing != writes;
            check(wrong, descriptor.length, &descriptor)?;
            segments.push((descriptor.address, descriptor.length));
            if descriptor.flags & DESC_F_NEXT == 0 {
                return Ok(segments);
            }
            position = descriptor.next;
        }
    }

    /// Writes an entry of the used ring for each batch, where the first of its buffers would have its own.
    pub(super) fn show(&mut self, batches: &[&[Report]]) {
        for batch in batches {
            let Some(last) = batch.last() else { continue };
            let entry = usize::from(self.used & (self.size - 1)) * USED_ENTRY_LEN;
            let mut bytes = [0; USED_ENTRY_LEN];
            bytes[..4].copy_from_slice(&last.id.to_le_bytes());
            bytes[4..].copy_from_slice(&last.written.to_le_bytes());
            hal::write(self.device + (RING_ENTRIES + entry) as u64, &bytes);
            self.used = self.used.wrapping_add(batch.len() as u16);
        }
    }

    pub(super) fn jump(&mut self, count: u16) {
        self.used = self.used.wrapping_add(count);
    }

    pub(super) fn interrupt_due(&mut self, event_idx: bool) -> bool {
        let (old, new) = (self.signalled, self.used);
        self.write16(self.device + RING_INDEX as u64, new);
        self.signalled = new;
        if old == new {
            false
        } else if event_idx {
            need_event(self.read16(self.driver + split::used_event(self.size) as u64), new, old)
        } else {
            self.read16(self.driver + RING_FLAGS as u64) & AVAIL_F_NO_INTERRUPT == 0
        }
    }

    pub(super) fn want_doorbell(&mut self, wanted: bool, event_idx: bool) {
        if event_idx {
            let event = if wanted { self.taken } else { self.taken.wrapping_sub(1) };
            self.write16(self.device + split::avail_event(self.size) as u64, event);
        } else {
            self.write16(self.device + RING_FLAGS as u64, if wanted { 0 } else { USED_F_NO_NOTIFY });
        }
    }

    pub(super) fn check_position(&self, told: u16) {
        let (told, there) = (told.wrapping_sub(self.taken), self.avail_index().wrapping_sub(self.taken));
        assert!(told <= there, "the doorbell told of {told} buffers where there are {there}");
    }

    pub(super) fn scribble(&mut self, offset: usize, bytes: &[u8]) {
        let length = split::used_len(self.size);
        if offset < length {
            hal::write(self.device + offset as u64, &bytes[..bytes.len().min(length - offset)]);
        }
    }
}
