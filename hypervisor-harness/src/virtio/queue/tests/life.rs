//! Both formats against one model: whatever a driver that keeps to the rules offers, it gets back once, in order, with the
//! length that was written, however the ring wraps.

use std::collections::VecDeque;

use proptest::prelude::*;
use ringlet_driver::wire::split::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor};

use super::*;
use crate::virtio::memory::scatter;
use crate::virtio::testing::{PackedRing, Ring};

/// Where the tables of lists are, one for each id.
const TABLES: u64 = BUFFERS + 0x10_0000;

/// A driver that keeps to the rules, of either format.
trait Driver {
    type Queue: DeviceQueue;
    fn new(ram: &GuestRam, place: Place) -> Self;
    fn offer(&mut self, id: u16, pieces: &[(u64, u32)], write: bool, indirect: bool);
    /// What was used since the last call, as a driver in order or not reads it: ids and lengths; without a length for what
    /// was passed over.
    fn reap(&mut self, outstanding: &VecDeque<(u16, u16)>, in_order: bool) -> Vec<(u16, Option<u32>)>;
}

struct Split {
    ring: Ring,
    next_descriptor: u16,
    reaped: u16,
    heads: VecDeque<(u16, u16)>,
}

impl Driver for Split {
    type Queue = SplitQueue;

    fn new(ram: &GuestRam, place: Place) -> Self {
        Self { ring: Ring::new(ram, place), next_descriptor: 0, reaped: 0, heads: VecDeque::new() }
    }

    fn offer(&mut self, id: u16, pieces: &[(u64, u32)], write: bool, indirect: bool) {
        let write = if write { DESC_F_WRITE } else { 0 };
        let size = self.ring.place.size;
        let head = self.next_descriptor;
        let (table, modulus, start) = if indirect {
            (TABLES + 0x100 * u64::from(id), u16::MAX, 0)
        } else {
            (self.ring.place.descriptors, size, head)
        };
        for (nth, &(address, length)) in (0..).zip(pieces) {
            let more = if usize::from(nth) + 1 < pieces.len() { DESC_F_NEXT } else { 0 };
            let descriptor = Descriptor { address, length, flags: write | more, next: (start + nth + 1) % modulus };
            self.ring.descriptor_at(table, (start + nth) % modulus, descriptor);
        }
        let taken = if indirect { 1 } else { pieces.len() as u16 };
        if indirect {
            self.ring.descriptor(head, table, 16 * pieces.len() as u32, DESC_F_INDIRECT, 0);
        }
        self.next_descriptor = (head + taken) % size;
        self.heads.push_back((head, id));
        self.ring.offer(head);
    }

    fn reap(&mut self, _: &VecDeque<(u16, u16)>, in_order: bool) -> Vec<(u16, Option<u32>)> {
        let mut got = Vec::new();
        while self.reaped != self.ring.used_index() {
            let (head, length) = self.ring.used(self.reaped);
            loop {
                let (next, id) = self.heads.pop_front().expect("no more than was offered");
                self.reaped = self.reaped.wrapping_add(1);
                let last = u32::from(next) == head;
                assert!(last || in_order, "{next} was passed over");
                got.push((id, last.then_some(length)));
                if last {
                    break;
                }
            }
        }
        got
    }
}

impl Driver for PackedRing {
    type Queue = PackedQueue;

    fn new(ram: &GuestRam, place: Place) -> Self {
        Self::new(ram, place)
    }

    fn offer(&mut self, id: u16, pieces: &[(u64, u32)], write: bool, indirect: bool) {
        if indirect {
            self.offer_indirect(id, TABLES + 0x100 * u64::from(id), pieces, write);
        } else {
            self.offer(id, pieces, write);
        }
    }

    fn reap(&mut self, outstanding: &VecDeque<(u16, u16)>, in_order: bool) -> Vec<(u16, Option<u32>)> {
        let mut got = Vec::new();
        let mut outstanding = outstanding.iter();
        while let Some(used) = self.peek() {
            loop {
                let &(id, descriptors) = outstanding.next().expect("no more than was offered");
                self.skip(descriptors);
                let last = id == used.id;
                assert!(last || in_order, "{id} was passed over");
                got.push((id, last.then_some(used.length)));
                if last {
                    break;
                }
            }
        }
        got
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// The driver offers a list of so many pieces.
    Offer {
        pieces: usize,
        indirect: bool,
    },
    /// The device takes so many chains.
    Take(usize),
    /// It gives back so many.
    Use(usize),
    Publish,
    /// The queue stops and goes on, with what was not given back.
    Resume,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1_usize..4, any::<bool>()).prop_map(|(pieces, indirect)| Step::Offer { pieces, indirect }),
        3 => (1_usize..5).prop_map(Step::Take),
        3 => (1_usize..5).prop_map(Step::Use),
        3 => Just(Step::Publish),
        1 => Just(Step::Resume),
    ];
    proptest::collection::vec(step, 1..300)
}

fn live<D: Driver>(size: u16, direction: Direction, in_order: bool, steps: &[Step]) {
    let ram = GuestRam::new(32).unwrap();
    let (memory, place) = (Memory::new(ram.clone()), place(0, size));
    let mut driver = D::new(&ram, place);
    let mode = Mode { in_order, ..MODE };
    let mut queue = D::Queue::new(&memory, &place, direction, mode).unwrap();
    let write = direction == Direction::ToGuest;
    // Ids and descriptors of what the driver has offered and not got back; what was given back and not published.
    let mut outstanding: VecDeque<(u16, u16)> = VecDeque::new();
    let mut given: VecDeque<(u16, u32)> = VecDeque::new();
    let mut held = VecDeque::new();
    let (mut next_id, mut to_take) = (0_u16, 0_usize);
    for step in steps {
        match *step {
            Step::Offer { pieces, indirect } => {
                let descriptors = if indirect { 1 } else { pieces as u16 };
                let free = size - outstanding.iter().map(|(_, descriptors)| descriptors).sum::<u16>();
                if descriptors > free {
                    continue;
                }
                let id = next_id % 64;
                next_id += 1;
                let list: Vec<_> = (0..pieces as u64)
                    .map(|nth| (BUFFERS + u64::from(id) * 0x100 + nth * 8, 1 + u32::from(id)))
                    .collect();
                driver.offer(id, &list, write, indirect);
                outstanding.push_back((id, descriptors));
                to_take += 1;
            }
            Step::Take(count) => {
                for _ in 0..count {
                    let mut pieces = Vec::new();
                    let chain = queue.take(&mut pieces).unwrap();
                    assert_eq!(chain.is_some(), to_take > 0);
                    let Some(chain) = chain else { break };
                    let (id, _) = outstanding[outstanding.len() - to_take];
                    to_take -= 1;
                    assert_eq!(chain.bytes, chain.pieces * (1 + usize::from(id)));
                    let first = scatter(&pieces).pieces()[0].iov_base as usize - ram.host_start() as usize;
                    assert_eq!(first as u64, BUFFERS + u64::from(id) * 0x100);
                    held.push_back((id, chain));
                }
            }
            Step::Use(count) => {
                for _ in 0..count {
                    let Some((id, chain)) = held.pop_front() else { break };
                    let written = if write { chain.bytes as u32 - 1 } else { 0 };
                    queue.used(chain, written);
                    given.push_back((id, written));
                }
            }
            Step::Publish | Step::Resume => {
                assert_eq!(driver.reap(&outstanding, in_order), [], "nothing shows before it is published");
                assert_eq!(usize::from(queue.publish()), given.len());
                let got = driver.reap(&outstanding, in_order);
                assert_eq!(got.len(), given.len());
                for ((id, length), (given, written)) in got.into_iter().zip(given.drain(..)) {
                    assert_eq!((id, length.unwrap_or(written)), (given, written));
                    assert!(length.is_some() || !write, "what is passed over would count as full");
                    outstanding.pop_front();
                }
                if matches!(step, Step::Publish) {
                    continue;
                }
                // What was taken and not given back is taken again by the next one.
                to_take += held.drain(..).count();
                let position = queue.position();
                queue = D::Queue::new(&memory, &place, direction, mode).unwrap();
                queue.start_at(position).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn split_queues_live_by_the_model(power in 0_u32..5, to_guest: bool, in_order: bool, steps in steps()) {
        let direction = if to_guest { Direction::ToGuest } else { Direction::FromGuest };
        live::<Split>(1 << power, direction, in_order, &steps);
    }

    #[test]
    fn packed_queues_live_by_the_model(size in 1_u16..20, to_guest: bool, in_order: bool, steps in steps()) {
        let direction = if to_guest { Direction::ToGuest } else { Direction::FromGuest };
        live::<PackedRing>(size, direction, in_order, &steps);
    }
}
