use proptest::prelude::*;
use ringlet_driver::wire::split::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, need_event};

use super::*;
use crate::virtio::memory::scatter;
use crate::virtio::testing::Ring;

const SIZE: u16 = 8;
const TABLE: u64 = BUFFERS + 0x10_0000;

struct Pair {
    ring: Ring,
    queue: SplitQueue,
    ram: GuestRam,
    pieces: Vec<Piece>,
}

impl Pair {
    fn new(direction: Direction, event_idx: bool) -> Self {
        Self::sized(SIZE, direction, Mode { event_idx, ..MODE })
    }

    fn sized(size: u16, direction: Direction, mode: Mode) -> Self {
        let ram = GuestRam::new(32).unwrap();
        let ring = Ring::new(&ram, place(0, size));
        let queue = SplitQueue::new(&Memory::new(ram.clone()), &place(0, size), direction, mode).unwrap();
        Self { ring, queue, ram, pieces: Vec::new() }
    }

    fn take(&mut self) -> Result<Option<Chain>, Fault> {
        self.pieces.clear();
        self.queue.take(&mut self.pieces)
    }

    fn bytes(&self) -> Vec<u8> {
        let frame = scatter(&self.pieces);
        let mut bytes = vec![0; frame.len()];
        frame.read(0, &mut bytes);
        bytes
    }

    fn entry(&self, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        self.ring.descriptor_at(TABLE, index, Descriptor { address, length, flags, next });
    }
}

#[test]
fn verify_2_7_5_chains_are_followed_in_order() {
    let mut pair = Pair::new(Direction::FromGuest, false);
    assert_eq!(pair.take(), Ok(None));
    pair.ram.write(BUFFERS, b"one two three").unwrap();
    pair.ring.descriptor(5, BUFFERS, 4, DESC_F_NEXT, 0);
    pair.ring.descriptor(0, BUFFERS + 4, 0, DESC_F_NEXT, 7);
    pair.ring.descriptor(7, BUFFERS + 8, 5, 0, 99);
    pair.ring.offer(5);
    assert_eq!(
        pair.take(),
        Ok(Some(Chain { id: 5, descriptors: 1, pieces: 2, bytes: 9 })),
        "an empty buffer is no piece"
    );
    assert_eq!(pair.bytes(), b"one three");
    assert_eq!(pair.take(), Ok(None));
}

#[test]
fn verify_2_7_5_3_indirect_tables() {
    let mut pair = Pair::new(Direction::ToGuest, false);
    pair.entry(0, BUFFERS + 10, 10, DESC_F_WRITE | DESC_F_NEXT, 2);
    pair.entry(2, BUFFERS + 30, 3, DESC_F_WRITE, 0);
    // After an ordinary descriptor, as the specification allows; WRITE on the table itself means nothing.
    pair.ring.descriptor(0, BUFFERS, 1, DESC_F_WRITE | DESC_F_NEXT, 1);
    pair.ring.descriptor(1, TABLE, 48, DESC_F_INDIRECT | DESC_F_WRITE, 0);
    pair.ring.offer(0);
    assert_eq!(pair.take(), Ok(Some(Chain { id: 0, descriptors: 1, pieces: 3, bytes: 14 })));
}

#[test]
fn each_broken_rule_has_its_fault() {
    type Case = (fn(&mut Pair), Fault);
    let outside = |address, length| Fault::Outside(OutOfRange { address, length });
    let cases: [Case; 14] = [
        (|pair| pair.ring.set_available(SIZE + 1), Fault::AvailableIndex { from: 0, to: 9, size: 8 }),
        (|pair| pair.ring.set_available(u16::MAX), Fault::AvailableIndex { from: 0, to: 65535, size: 8 }),
        (|pair| pair.ring.offer(8), Fault::DescriptorIndex { index: 8, length: 8 }),
        (
            |pair| {
                pair.ring.descriptor(0, BUFFERS, 1, DESC_F_NEXT, 8);
                pair.ring.offer(0);
            },
            Fault::DescriptorIndex { index: 8, length: 8 },
        ),
        (
            |pair| {
                pair.ring.descriptor(0, BUFFERS, 1, DESC_F_NEXT, 1);
                pair.ring.descriptor(1, BUFFERS, 1, DESC_F_NEXT, 0);
                pair.ring.offer(0);
            },
            Fault::Endless(8),
        ),
        (
            |pair| {
                pair.ring.descriptor(0, END - 1, 2, 0, 0);
                pair.ring.offer(0);
            },
            outside(END - 1, 2),
        ),
        (
            |pair| {
                pair.ring.descriptor(0, u64::MAX - 1, 2, 0, 0);
                pair.ring.offer(0);
            },
            outside(u64::MAX - 1, 2),
        ),
        (
            |pair| {
                pair.ring.descriptor(0, BUFFERS, 2, DESC_F_WRITE, 0);
                pair.ring.offer(0);
            },
            Fault::Direction,
        ),
        (
            |pair| {
                pair.ring.descriptor(0, TABLE, 16, DESC_F_INDIRECT | DESC_F_NEXT, 0);
                pair.ring.offer(0);
            },
            Fault::Indirect,
        ),
        (
            |pair| {
                pair.entry(0, TABLE, 16, DESC_F_INDIRECT, 0);
                pair.ring.descriptor(0, TABLE, 16, DESC_F_INDIRECT, 0);
                pair.ring.offer(0);
            },
            Fault::Indirect,
        ),
        (
            |pair| {
                pair.ring.descriptor(0, TABLE, 24, DESC_F_INDIRECT, 0);
                pair.ring.offer(0);
            },
            Fault::IndirectLength(24),
        ),
        (
            |pair| {
                pair.ring.descriptor(0, TABLE, 16 * 1024, DESC_F_INDIRECT, 0);
                pair.ring.offer(0);
            },
            Fault::IndirectLength(16 * 1024),
        ),
        (
            |pair| {
                pair.ring.descriptor(0, TABLE + 4, 16, DESC_F_INDIRECT, 0);
                pair.ring.offer(0);
            },
            Fault::IndirectUnaligned(TABLE + 4),
        ),
        (
            |pair| {
                pair.ring.descriptor(0, END - 16, 32, DESC_F_INDIRECT, 0);
                pair.ring.offer(0);
            },
            outside(END - 16, 32),
        ),
    ];
    for (number, (break_it, fault)) in cases.into_iter().enumerate() {
        let mut pair = Pair::new(Direction::FromGuest, false);
        break_it(&mut pair);
        assert_eq!(pair.take(), Err(fault), "case {number}");
    }
    let mut pair = Pair::sized(SIZE, Direction::FromGuest, Mode { event_idx: true, indirect: false, ..MODE });
    pair.ring.descriptor(0, TABLE, 16, DESC_F_INDIRECT, 0);
    pair.ring.offer(0);
    assert_eq!(pair.take(), Err(Fault::Indirect), "it was not negotiated");
}

#[test]
fn verify_2_7_8_used_buffers_appear_at_once_and_in_all_positions() {
    let mut pair = Pair::new(Direction::FromGuest, false);
    for index in 0..SIZE {
        pair.ring.descriptor(index, BUFFERS, u32::from(index) + 1, 0, 0);
    }
    let mut position = 0_u16;
    for round in 0..70_000_u32 / 4 {
        let heads: [u16; 4] = std::array::from_fn(|nth| (round as u16 * 3 + nth as u16) % SIZE);
        for head in heads {
            pair.ring.offer(head);
        }
        let chains = heads.map(|head| {
            let chain = pair.take().unwrap().unwrap();
            assert_eq!((chain.id, chain.bytes), (head, usize::from(head) + 1));
            chain
        });
        for chain in chains {
            let written = 100 + u32::from(chain.id);
            pair.queue.used(chain, written);
        }
        assert_eq!(pair.ring.used_index(), position, "nothing shows before it is published");
        assert_eq!(pair.queue.publish(), 4);
        for head in heads {
            assert_eq!(pair.ring.used(position), (head.into(), 100 + u32::from(head)));
            position = position.wrapping_add(1);
        }
        assert_eq!(pair.ring.used_index(), position);
        assert_eq!(pair.queue.publish(), 0);
    }
}

#[test]
fn verify_2_7_7_and_2_7_10_flags_suppress_notifications() {
    let mut pair = Pair::new(Direction::FromGuest, false);
    assert_eq!(pair.ring.used_flags(), 1, "at first the device looks by itself");
    assert_eq!(pair.queue.listen(), Ok(false));
    assert_eq!(pair.ring.used_flags(), 0);
    pair.queue.quieten();
    assert_eq!(pair.ring.used_flags(), 1);
    pair.ring.descriptor(0, BUFFERS, 1, 0, 0);
    for (flags, due) in [(0, true), (1, false), (0, true)] {
        pair.ring.set_flags(flags);
        pair.ring.offer(0);
        assert_eq!(pair.queue.listen(), Ok(true), "work that came before the wish was seen");
        let chain = pair.take().unwrap().unwrap();
        pair.queue.used(chain, 0);
        assert!(!pair.queue.interrupt_due(), "nothing was published");
        pair.queue.publish();
        assert_eq!(pair.queue.interrupt_due(), due);
        assert!(!pair.queue.interrupt_due(), "once is enough");
    }
}

#[test]
fn verify_2_7_9_a_batch_in_order_is_one_entry() {
    let mut pair = Pair::sized(SIZE, Direction::FromGuest, Mode { in_order: true, ..MODE });
    for index in 0..SIZE {
        pair.ring.descriptor(index, BUFFERS, 1, 0, 0);
    }
    let untouched = (0xdead_u32, 0xbeef_u32);
    for batch in [3_u16, 1, 8, 5, 8] {
        let first = pair.ring.available;
        for slot in 0..SIZE {
            let at = pair.ring.place.device + 4 + 8 * u64::from(slot);
            pair.ram.write(at, &untouched.0.to_le_bytes()).unwrap();
            pair.ram.write(at + 4, &untouched.1.to_le_bytes()).unwrap();
        }
        (0..batch).for_each(|nth| pair.ring.offer(first.wrapping_add(nth) % SIZE));
        while let Some(chain) = pair.take().unwrap() {
            pair.queue.used(chain, 0);
        }
        assert_eq!(pair.queue.publish(), batch);
        assert_eq!(pair.ring.used_index(), first + batch);
        let last = first.wrapping_add(batch - 1) % SIZE;
        assert_eq!(pair.ring.used(first), (last.into(), 0));
        for behind in 1..SIZE {
            assert_eq!(pair.ring.used(first + behind), untouched, "work that is skipped");
        }
    }
    // What the device writes has a length of its own each time.
    let mut pair = Pair::sized(SIZE, Direction::ToGuest, Mode { in_order: true, ..MODE });
    for index in 0..2 {
        pair.ring.descriptor(index, BUFFERS, 8, DESC_F_WRITE, 0);
        pair.ring.offer(index);
        let chain = pair.take().unwrap().unwrap();
        pair.queue.used(chain, 5 + u32::from(index));
    }
    pair.queue.publish();
    assert_eq!([pair.ring.used(0), pair.ring.used(1)], [(0, 5), (1, 6)]);
}

#[test]
fn a_bad_index_shows_while_listening() {
    let mut pair = Pair::new(Direction::FromGuest, true);
    pair.ring.set_available(100);
    assert!(matches!(pair.queue.listen(), Err(Fault::AvailableIndex { .. })));
}

proptest! {
    /// Whatever lies in the rings and tables: chains end, are bounded, and lie in memory; nothing panics.
    #[test]
    fn a_hostile_guest_gets_a_fault_or_memory_of_its_own(
        seed in proptest::collection::vec((0_u64..0x2100_0000, 0_u32..5000, 0_u16..8, 0_u16..10), 1..24),
        table in proptest::collection::vec((0_u64..0x2100_0000, 0_u32..5000, 0_u16..8, 0_u16..10), 1..24),
        heads in proptest::collection::vec(0_u16..9, 0..8),
        jump in prop_oneof![4 => Just(0_u16), 1 => any::<u16>()],
        to_guest: bool,
        indirect: bool,
    ) {
        let direction = if to_guest { Direction::ToGuest } else { Direction::FromGuest };
        let mut pair = Pair::sized(SIZE, direction, Mode { event_idx: true, indirect, ..MODE });
        for (index, (address, length, flags, next)) in seed.iter().enumerate() {
            // Every third address is the table's, so that indirection is met.
            let address = if address % 3 == 0 { TABLE } else { *address };
            pair.ring.descriptor(index as u16 % SIZE, address, *length, *flags, *next);
        }
        for (index, (address, length, flags, next)) in table.iter().enumerate() {
            pair.entry(index as u16, *address, *length, *flags, *next);
        }
        heads.iter().for_each(|&head| pair.ring.offer(head));
        pair.ring.set_available(pair.ring.available.wrapping_add(jump));
        let mut taken = 0;
        while let Ok(Some(chain)) = pair.take() {
            taken += 1;
            prop_assert!(taken <= usize::from(SIZE));
            prop_assert!(chain.pieces <= usize::from(MAX_PIECES) && chain.pieces == pair.pieces.len());
            prop_assert_eq!(chain.bytes, pair.pieces.iter().map(Piece::len).sum::<usize>());
            let start = pair.ram.host_start() as usize;
            for piece in scatter(&pair.pieces).pieces() {
                let at = piece.iov_base as usize;
                prop_assert!(at >= start && at + piece.iov_len <= start + END as usize);
            }
            pair.queue.used(chain, 0);
        }
        prop_assert_eq!(usize::from(pair.queue.publish()), taken);
    }

    /// EVENT_IDX both ways, against the specification's own words.
    #[test]
    fn verify_event_indices(steps in proptest::collection::vec((0_u16..=8, 0_u16..12, any::<bool>()), 1..200)) {
        let mut pair = Pair::new(Direction::FromGuest, true);
        pair.ring.descriptor(0, BUFFERS, 1, 0, 0);
        let (mut position, mut listened) = (0_u16, None);
        for (count, ahead, listen) in steps {
            let event = position.wrapping_add(ahead).wrapping_sub(2);
            pair.ring.set_used_event(event);
            let before = pair.ring.available;
            (0..count).for_each(|_| pair.ring.offer(0));
            if let Some(at) = listened.take() {
                prop_assert_eq!(need_event(at, pair.ring.available, before), count > 0, "the doorbell asked for");
            }
            while let Some(chain) = pair.take().unwrap() {
                pair.queue.used(chain, 0);
            }
            pair.queue.publish();
            let passed = (0..count).any(|step| position.wrapping_add(step) == event);
            prop_assert_eq!(pair.queue.interrupt_due(), passed);
            position = position.wrapping_add(count);
            if listen {
                prop_assert_eq!(pair.queue.listen(), Ok(false));
                listened = Some(pair.ring.avail_event());
                prop_assert_eq!(pair.ring.avail_event(), position);
            }
        }
    }
}
