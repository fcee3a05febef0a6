//! The driver's side of a packed ring, which does just what it is told.

use ringlet_driver::wire::packed::{
    self as layout, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_LEN, Descriptor, Event, Position,
};

use crate::virtio::queue::Place;
use crate::vmm::GuestRam;

/// One packed ring.
#[derive(Debug, Clone)]
pub struct PackedRing {
    ram: GuestRam,
    /// Where it is.
    pub place: Place,
    /// Where the next descriptor goes.
    pub next: Position,
    /// Where the next used descriptor is to be.
    pub used: Position,
}

impl PackedRing {
    /// A zeroed ring.
    pub fn new(ram: &GuestRam, place: Place) -> Self {
        ram.zero(place.descriptors, place.descriptors + layout::ring_len(place.size) as u64).unwrap();
        ram.zero(place.driver, place.driver + 4).unwrap();
        ram.zero(place.device, place.device + 4).unwrap();
        Self { ram: ram.clone(), place, next: Position::START, used: Position::START }
    }

    /// Writes a descriptor of the ring.
    pub fn descriptor(&self, index: u16, descriptor: Descriptor) {
        self.descriptor_at(self.place.descriptors, index, descriptor);
    }

    /// Writes a descriptor of any table.
    pub fn descriptor_at(&self, table: u64, index: u16, descriptor: Descriptor) {
        self.ram.write(table + u64::from(index) * DESC_LEN as u64, &descriptor.to_bytes()).unwrap();
    }

    /// Reads a descriptor of the ring.
    pub fn read(&self, index: u16) -> Descriptor {
        let mut bytes = [0; DESC_LEN];
        self.ram.read(self.place.descriptors + u64::from(index) * DESC_LEN as u64, &mut bytes).unwrap();
        Descriptor::parse(&bytes)
    }

    /// Makes one descriptor available, with these flags besides.
    pub fn offer_one(&mut self, address: u64, length: u32, id: u16, flags: u16) {
        let flags = flags | self.next.available();
        self.descriptor(self.next.index, Descriptor { address, length, id, flags });
        self.next = self.next.advanced(1, self.place.size);
    }

    /// Makes a buffer of several pieces available, the head last.
    pub fn offer(&mut self, id: u16, pieces: &[(u64, u32)], write: bool) {
        let write = if write { DESC_F_WRITE } else { 0 };
        let end = self.next.advanced(pieces.len() as u16, self.place.size);
        for (nth, &(address, length)) in pieces.iter().enumerate().rev() {
            let position = self.next.advanced(nth as u16, self.place.size);
            let more = if nth + 1 < pieces.len() { DESC_F_NEXT } else { 0 };
            // Only the last one's id counts.
            let id = if more == 0 { id } else { !id };
            let descriptor = Descriptor { address, length, id, flags: write | more | position.available() };
            self.descriptor(position.index, descriptor);
        }
        self.next = end;
    }

    /// Makes a buffer of several pieces available, through a table at `table`.
    pub fn offer_indirect(&mut self, id: u16, table: u64, pieces: &[(u64, u32)], write: bool) {
        let write = if write { DESC_F_WRITE } else { 0 };
        for (index, &(address, length)) in (0..).zip(pieces) {
            // Nothing but WRITE means anything there.
            self.descriptor_at(table, index, Descriptor { address, length, id: 77, flags: write | DESC_F_NEXT });
        }
        self.offer_one(table, (pieces.len() * DESC_LEN) as u32, id, DESC_F_INDIRECT);
    }

    /// The used descriptor where the next one is expected, if there is one.
    pub fn peek(&self) -> Option<Descriptor> {
        Some(self.read(self.used.index)).filter(|descriptor| self.used.is_used(descriptor.flags))
    }

    /// Goes on behind a used buffer of so many descriptors.
    pub fn skip(&mut self, descriptors: u16) {
        self.used = self.used.advanced(descriptors, self.place.size);
    }

    /// Says what the driver wants to be told of.
    pub fn set_event(&self, event: Event) {
        self.ram.write(self.place.driver, &event.word().to_le_bytes()).unwrap();
    }

    /// What the device wants to be told of.
    pub fn device_event(&self) -> Event {
        let mut bytes = [0; 4];
        self.ram.read(self.place.device, &mut bytes).unwrap();
        Event::parse(u32::from_le_bytes(bytes))
    }
}
