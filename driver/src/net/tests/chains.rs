//! Chains of buffers in a queue whose size is no multiple of theirs.

use virtio_drivers::PhysAddr;

use super::*;
use crate::ring::{Access, Segment, Used};

/// A ring that counts the chains it has no room for.
#[derive(Debug)]
struct Counting<R> {
    ring: R,
    refused: usize,
}

impl<R: Virtqueue<Frame>> Virtqueue<Frame> for Counting<R> {
    fn size_within(most: u16) -> Option<u16> {
        R::size_within(most)
    }

    unsafe fn new(size: u16, max_segments: usize, features: Features) -> Option<Self> {
        // SAFETY: the caller's promise.
        unsafe { R::new(size, max_segments, features) }.map(|ring| Self { ring, refused: 0 })
    }

    fn areas(&self) -> [PhysAddr; 3] {
        self.ring.areas()
    }

    fn position(&self) -> u16 {
        self.ring.position()
    }

    fn size(&self) -> u16 {
        self.ring.size()
    }

    fn outstanding(&self) -> u16 {
        self.ring.outstanding()
    }

    fn room(&self) -> u16 {
        self.ring.room()
    }

    unsafe fn add(&mut self, segment: Segment, access: Access, token: Frame) -> Result<(), Frame> {
        // SAFETY: the caller's promise.
        unsafe { self.ring.add(segment, access, token) }
    }

    unsafe fn add_chain(
        &mut self,
        segments: impl Iterator<Item = Segment>,
        count: usize,
        access: Access,
        token: Frame,
    ) -> Result<(), Frame> {
        // SAFETY: the caller's promise.
        unsafe { self.ring.add_chain(segments, count, access, token) }.inspect_err(|_| self.refused += 1)
    }

    fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    fn take(&mut self) -> Result<Option<Used<Frame>>, RingError> {
        self.ring.take()
    }

    fn enable_interrupts(&mut self, after: u16) -> bool {
        self.ring.enable_interrupts(after)
    }

    fn disable_interrupts(&mut self) {
        self.ring.disable_interrupts();
    }

    fn broken(&self) -> Option<RingError> {
        self.ring.broken()
    }

    fn break_by(&mut self, error: RingError) {
        self.ring.break_by(error);
    }

    unsafe fn reset(&mut self, give: impl FnMut(Frame)) {
        // SAFETY: the caller's promise.
        unsafe { self.ring.reset(give) }
    }
}

on_every_ring!(buffers_are_not_taken_for_a_chain_that_has_no_room);

fn buffers_are_not_taken_for_a_chain_that_has_no_room<R: Rings>() {
    for without in [Features::MRG_RXBUF, Features::MRG_RXBUF | Features::INDIRECT_DESC] {
        let bench = Bench::<R>::new(12_000);
        let mut device = Negotiation::begin(bench.fake.transport())
            .unwrap()
            .accept_as::<Counting<R::Ring>>(R::ALL - without, NONE, &bench.pool, Settings::default())
            .unwrap();
        let receive = device.receive();
        let posted = receive.posted();
        let per_chain = if without.contains(Features::INDIRECT_DESC) { 32 } else { 1 };
        assert_eq!(posted, usize::from(R::SIZE) / per_chain, "without {without}");
        for length in (0..3 * posted).map(|number| 60 + number) {
            assert!(bench.fake.inject(NetHdr::default(), &bytes(length)));
            assert_eq!(receive.take().unwrap().map(|frame| frame.len()), Some(length));
            receive.refill();
        }
        assert_eq!(receive.ring.refused, 0, "without {without}");
        assert!(posted - receive.posted() < 32, "without {without}: but for a few, they are posted again");
        device.close().unwrap();
        assert_eq!(bench.pool.available(), bench.pool.capacity());
    }
}
