//! The device's side of a split virtqueue (virtio 1.3, section 2.7).

use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use virtio_drivers::PhysAddr;

use super::hal;
use crate::wire::split::{
    self, AVAIL_ENTRY_LEN, AVAIL_F_NO_INTERRUPT, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_LEN, Descriptor,
    RING_ENTRIES, RING_FLAGS, RING_INDEX, USED_ENTRY_LEN, USED_F_NO_NOTIFY, need_event,
};

/// A queue as the device sees it.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) size: u16,
    descriptors: PhysAddr,
    driver: PhysAddr,
    device: PhysAddr,
    /// Up to where buffers were taken from the available ring.
    taken: u16,
    /// The used index.
    used: u16,
    /// The used index when it was last decided whether to interrupt.
    signalled: u16,
    /// The device has broken the rules itself, and must not complain any more.
    pub(crate) hostile: bool,
}

/// A chain of descriptors: its first one, and the pieces.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    pub(crate) id: u16,
    pub(crate) segments: Vec<(PhysAddr, u32)>,
}

impl Chain {
    pub(crate) fn capacity(&self) -> usize {
        self.segments.iter().map(|&(_, length)| length as usize).sum()
    }

    pub(crate) fn read(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
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

impl Queue {
    pub(crate) fn new(size: u16, [descriptors, driver, device]: [PhysAddr; 3]) -> Self {
        assert!(size.is_power_of_two() && size <= split::MAX_QUEUE_SIZE, "a queue of {size}");
        assert_eq!((descriptors % 16, driver % 2, device % 4), (0, 0, 0), "the areas of a queue are not aligned");
        let mut queue = Self { size, descriptors, driver, device, ..Self::default() };
        // A test may let the indices begin elsewhere.
        queue.taken = queue.avail_index();
        (queue.used, queue.signalled) = (queue.taken, queue.taken);
        queue.write16(queue.device + RING_INDEX as u64, queue.used);
        queue
    }

    /// Whether the driver has set it up.
    pub(crate) fn ready(&self) -> bool {
        self.size != 0
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

    /// How many buffers there are to be taken.
    pub(crate) fn available(&self) -> u16 {
        let count = self.avail_index().wrapping_sub(self.taken);
        assert!(count <= self.size, "the driver moved the available index by {count} in a queue of {}", self.size);
        count
    }

    /// Takes the next available buffer, whose pieces must all be for the device to write, or all to read.
    ///
    /// # Panics
    /// If the driver broke a rule, unless the device did so first: then there is no buffer to be taken.
    pub(crate) fn take(&mut self, device_writes: bool, indirect_allowed: bool) -> Option<Chain> {
        if self.available() == 0 {
            return None;
        }
        match self.look(device_writes, indirect_allowed) {
            Ok(chain) => {
                self.taken = self.taken.wrapping_add(1);
                Some(chain)
            }
            Err(_) if self.hostile => None,
            Err(broken) => panic!("{broken}"),
        }
    }

    fn look(&self, device_writes: bool, indirect_allowed: bool) -> Result<Chain, String> {
        let entry = usize::from(self.taken & (self.size - 1)) * AVAIL_ENTRY_LEN;
        let id = self.read16(self.driver + (RING_ENTRIES + entry) as u64);
        if id >= self.size {
            return Err(format!("the driver made descriptor {id} available in a queue of {}", self.size));
        }
        let first = self.descriptor(self.descriptors, id);
        let segments = if first.flags & DESC_F_INDIRECT != 0 {
            let (length, rest) = (first.length as usize / DESC_LEN, first.length as usize % DESC_LEN);
            if !indirect_allowed || first.flags != DESC_F_INDIRECT || length == 0 || rest != 0 {
                return Err(format!("an indirect descriptor that may not be: {first:?}"));
            }
            self.walk(first.address, length, 0, device_writes)?
        } else {
            self.walk(self.descriptors, usize::from(self.size), id, device_writes)?
        };
        Ok(Chain { id, segments })
    }

    fn descriptor(&self, table: PhysAddr, position: u16) -> Descriptor {
        let mut bytes = [0; DESC_LEN];
        hal::read(table + u64::from(position) * DESC_LEN as u64, &mut bytes);
        Descriptor::parse(&bytes)
    }

    fn walk(&self, table: PhysAddr, length: usize, first: u16, writes: bool) -> Result<Vec<(PhysAddr, u32)>, String> {
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
            if descriptor.flags & DESC_F_INDIRECT != 0 || for_writing != writes || descriptor.length == 0 {
                return Err(format!("a descriptor that may not be: {descriptor:?}"));
            }
            segments.push((descriptor.address, descriptor.length));
            if descriptor.flags & DESC_F_NEXT == 0 {
                return Ok(segments);
            }
            position = descriptor.next;
        }
    }

    /// Puts an entry into the used ring; [`Queue::publish`] shows it.
    pub(crate) fn give_back(&mut self, id: u32, written: u32) {
        let entry = usize::from(self.used & (self.size - 1)) * USED_ENTRY_LEN;
        let mut bytes = vec![];
        bytes.extend(id.to_le_bytes());
        bytes.extend(written.to_le_bytes());
        hal::write(self.device + (RING_ENTRIES + entry) as u64, &bytes);
        self.used = self.used.wrapping_add(1);
    }

    /// Takes back what was taken last: the frame did not fit after all.
    pub(crate) fn untake(&mut self, count: u16) {
        self.taken = self.taken.wrapping_sub(count);
    }

    /// Moves the used index on without an entry for it.
    pub(crate) fn jump(&mut self, count: u16) {
        self.used = self.used.wrapping_add(count);
    }

    /// Shows what was used. Whether the driver wants an interrupt.
    pub(crate) fn publish(&mut self, event_idx: bool) -> bool {
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

    /// Asks for a doorbell with the next buffer, or for none.
    pub(crate) fn want_doorbell(&mut self, wanted: bool, event_idx: bool) {
        if event_idx {
            let event = if wanted { self.taken } else { self.taken.wrapping_sub(1) };
            self.write16(self.device + split::avail_event(self.size) as u64, event);
        } else {
            self.write16(self.device + RING_FLAGS as u64, if wanted { 0 } else { USED_F_NO_NOTIFY });
        }
    }

    /// Writes into the buffer at `index` of the available ring whatever is wanted, if there is one for the device to write.
    pub(crate) fn scribble_buffer(&mut self, index: u16, indirect_allowed: bool, bytes: &[u8]) {
        let ahead = self.avail_index().wrapping_sub(index);
        if ahead == 0 || ahead > self.available() {
            return;
        }
        self.hostile = true;
        let taken = core::mem::replace(&mut self.taken, index);
        if let Some(chain) = self.take(true, indirect_allowed) {
            chain.write(bytes);
        }
        self.taken = taken;
    }

    /// Writes into the used ring whatever is wanted, as far as it goes.
    pub(crate) fn scribble(&mut self, offset: usize, bytes: &[u8]) {
        self.hostile = true;
        let length = split::used_len(self.size);
        if offset < length {
            hal::write(self.device + offset as u64, &bytes[..bytes.len().min(length - offset)]);
        }
    }
}
