use proptest::prelude::*;
use ringlet_driver::wire::packed::{
    DESC_F_AVAIL, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_USED, DESC_F_WRITE, DESC_LEN, Descriptor, EVENT_DESC,
    EVENT_DISABLE, EVENT_ENABLE, Event, MAX_QUEUE_SIZE, Position,
};

use super::*;
use crate::virtio::memory::scatter;
use crate::virtio::testing::PackedRing;

const SIZE: u16 = 8;
const TABLE: u64 = BUFFERS + 0x10_0000;

struct Pair {
    ring: PackedRing,
    queue: PackedQueue,
    ram: GuestRam,
    pieces: Vec<Piece>,
}

impl Pair {
    fn new(size: u16, direction: Direction, mode: Mode) -> Self {
        let ram = GuestRam::new(32).unwrap();
        // The areas of the largest ring do not overlap either.
        let place = Place { size, descriptors: 0x10_0000, driver: 0x1f_0000, device: 0x1f_0004 };
        let ring = PackedRing::new(&ram, place);
        let queue = PackedQueue::new(&Memory::new(ram.clone()), &place, direction, mode).unwrap();
        Self { ring, queue, ram, pieces: Vec::new() }
    }

    fn take(&mut self) -> Result<Option<Chain>, Fault> {
        self.pieces.clear();
        self.queue.take(&mut self.pieces)
    }

    fn chain(&mut self) -> Chain {
        self.take().unwrap().unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        let frame = scatter(&self.pieces);
        let mut bytes = vec![0; frame.len()];
        frame.read(0, &mut bytes);
        bytes
    }
}

#[test]
fn verify_2_8_6_a_list_is_followed_and_its_last_id_counts() {
    let mut pair = Pair::new(SIZE, Direction::FromGuest, MODE);
    assert_eq!(pair.take(), Ok(None));
    pair.ram.write(BUFFERS, b"one two three").unwrap();
    pair.ring.offer(5, &[(BUFFERS, 4), (BUFFERS + 4, 0), (BUFFERS + 8, 5)], false);
    assert_eq!(pair.take(), Ok(Some(Chain { id: 5, descriptors: 3, pieces: 2, bytes: 9 })));
    assert_eq!(pair.bytes(), b"one three");
    assert_eq!(pair.take(), Ok(None));
}

#[test]
fn verify_2_8_7_in_a_table_all_descriptors_count_and_only_write_means_anything() {
    let mut pair = Pair::new(SIZE, Direction::ToGuest, MODE);
    pair.ring.offer_indirect(9, TABLE, &[(BUFFERS + 10, 10), (BUFFERS + 30, 3)], true);
    assert_eq!(pair.take(), Ok(Some(Chain { id: 9, descriptors: 1, pieces: 2, bytes: 13 })));
    // What would be a nested table in a split ring is a buffer here.
    let flags = DESC_F_WRITE | DESC_F_INDIRECT | DESC_F_AVAIL;
    pair.ring.descriptor_at(TABLE, 0, Descriptor { address: BUFFERS, length: 16, id: 0, flags });
    pair.ring.offer_one(TABLE, DESC_LEN as u32, 1, DESC_F_INDIRECT | DESC_F_WRITE);
    assert_eq!(pair.take(), Ok(Some(Chain { id: 1, descriptors: 1, pieces: 1, bytes: 16 })));
}

/// As `vring_desc_init_indirect_packed` and `virtqueue_enqueue_xmit_packed` of DPDK leave them.
#[test]
fn in_a_table_to_be_read_write_means_nothing() {
    let offer = |pair: &mut Pair, flags: [u16; 3]| {
        for (index, flags) in (0..).zip(flags) {
            let (address, length) = (BUFFERS + 0x1000 * u64::from(index), 10 + u32::from(index));
            pair.ring.descriptor_at(TABLE, index, Descriptor { address, length, id: index, flags });
        }
        pair.ring.offer_one(TABLE, 3 * DESC_LEN as u32, 0, DESC_F_INDIRECT);
    };
    for flags in [[DESC_F_WRITE, DESC_F_NEXT | DESC_F_AVAIL, DESC_F_AVAIL], [DESC_F_WRITE, DESC_F_WRITE, 0]] {
        let mut pair = Pair::new(SIZE, Direction::FromGuest, MODE);
        offer(&mut pair, flags);
        assert_eq!(pair.take(), Ok(Some(Chain { id: 0, descriptors: 1, pieces: 3, bytes: 33 })));
        // In the ring itself it does.
        pair.ring.offer_one(BUFFERS, 10, 0, DESC_F_WRITE);
        assert_eq!(pair.take(), Err(Fault::Direction));
    }
    // And what is not to be written is not written.
    let mut pair = Pair::new(SIZE, Direction::ToGuest, MODE);
    offer(&mut pair, [DESC_F_WRITE, 0, DESC_F_WRITE]);
    assert_eq!(pair.take(), Err(Fault::Direction));
}

#[test]
fn each_broken_rule_has_its_fault() {
    type Case = (fn(&mut Pair), Fault);
    let outside = |address, length| Fault::Outside(OutOfRange { address, length });
    let cases: [Case; 12] = [
        (|pair| pair.ring.offer_one(END - 1, 2, 0, 0), outside(END - 1, 2)),
        (|pair| pair.ring.offer_one(u64::MAX - 1, 2, 0, 0), outside(u64::MAX - 1, 2)),
        (|pair| pair.ring.offer_one(0, u32::MAX, 0, 0), outside(0, u32::MAX as usize)),
        (|pair| pair.ring.offer_one(BUFFERS, 2, 0, DESC_F_WRITE), Fault::Direction),
        // Round and round: there is no end to it.
        (|pair| (0..SIZE).for_each(|_| pair.ring.offer_one(BUFFERS, 1, 0, DESC_F_NEXT)), Fault::Endless(SIZE)),
        (|pair| pair.ring.offer_one(TABLE, 16, 0, DESC_F_INDIRECT | DESC_F_NEXT), Fault::Indirect),
        (
            |pair| {
                pair.ring.offer_one(BUFFERS, 1, 0, DESC_F_NEXT);
                pair.ring.offer_one(TABLE, 16, 0, DESC_F_INDIRECT);
            },
            Fault::Indirect,
        ),
        (|pair| pair.ring.offer_one(TABLE, 24, 0, DESC_F_INDIRECT), Fault::IndirectLength(24)),
        (|pair| pair.ring.offer_one(TABLE, 0, 0, DESC_F_INDIRECT), Fault::IndirectLength(0)),
        (|pair| pair.ring.offer_one(TABLE, 16 << 10, 0, DESC_F_INDIRECT), Fault::IndirectLength(16 << 10)),
        (|pair| pair.ring.offer_one(TABLE + 4, 16, 0, DESC_F_INDIRECT), Fault::IndirectUnaligned(TABLE + 4)),
        (|pair| pair.ring.offer_one(END - 16, 32, 0, DESC_F_INDIRECT), outside(END - 16, 32)),
    ];
    for (number, (break_it, fault)) in cases.into_iter().enumerate() {
        let mut pair = Pair::new(SIZE, Direction::FromGuest, MODE);
        break_it(&mut pair);
        assert_eq!(pair.take(), Err(fault), "case {number}");
    }
    let mut pair = Pair::new(SIZE, Direction::FromGuest, Mode { indirect: false, ..MODE });
    pair.ring.offer_one(TABLE, 16, 0, DESC_F_INDIRECT);
    assert_eq!(pair.take(), Err(Fault::Indirect), "it was not negotiated");
}

#[test]
fn a_driver_that_runs_ahead_of_the_device_is_stopped() {
    let mut pair = Pair::new(4, Direction::FromGuest, MODE);
    (0..4).for_each(|id| pair.ring.offer_one(BUFFERS, 1, id, 0));
    (0..4).for_each(|_| assert_eq!(pair.chain().bytes, 1));
    assert_eq!(pair.take(), Ok(None));
    // The first descriptor anew, though it was not given back.
    pair.ring.offer_one(BUFFERS, 1, 0, 0);
    assert_eq!(pair.take(), Err(Fault::Overrun(4)));
    assert_eq!(pair.queue.waiting(), Err(Fault::Overrun(4)));
    // A list that reaches into what the device still has.
    let mut pair = Pair::new(4, Direction::FromGuest, MODE);
    (0..2).for_each(|id| pair.ring.offer_one(BUFFERS, 1, id, 0));
    (0..2).for_each(|_| assert_eq!(pair.chain().bytes, 1));
    pair.ring.offer(7, &[(BUFFERS, 1); 3], false);
    assert_eq!(pair.take(), Err(Fault::Endless(4)));
}

#[test]
fn verify_2_8_used_buffers_appear_at_once_in_rings_of_any_size() {
    for size in [1, 2, 3, 7, 8, 100, 1000, MAX_QUEUE_SIZE - 1, MAX_QUEUE_SIZE] {
        let mut pair = Pair::new(size, Direction::ToGuest, MODE);
        let per_round = size.min(5);
        for round in 0..(u32::from(size) * 5 / u32::from(per_round) + 3) {
            for nth in 0..per_round {
                pair.ring.offer_one(
                    BUFFERS,
                    10 + u32::from(nth),
                    (round as u16).wrapping_mul(7).wrapping_add(nth),
                    DESC_F_WRITE,
                );
            }
            let chains: Vec<_> = (0..per_round).map(|_| pair.chain()).collect();
            assert_eq!(pair.take(), Ok(None));
            for (nth, chain) in chains.into_iter().enumerate() {
                pair.queue.used(chain, 100 + nth as u32);
            }
            assert_eq!(pair.ring.peek(), None, "nothing shows before it is published");
            assert_eq!(pair.queue.publish(), per_round);
            for nth in 0..per_round {
                let used = pair.ring.peek().unwrap();
                assert_eq!(
                    (used.id, used.length),
                    ((round as u16).wrapping_mul(7).wrapping_add(nth), 100 + u32::from(nth))
                );
                assert_eq!(used.flags & DESC_F_WRITE, DESC_F_WRITE, "the length counts");
                pair.ring.skip(1);
            }
            assert_eq!(pair.ring.peek(), None);
            assert_eq!(pair.queue.publish(), 0);
        }
    }
}

#[test]
fn verify_2_8_12_a_batch_in_order_is_one_descriptor() {
    let mut pair = Pair::new(7, Direction::FromGuest, Mode { in_order: true, ..MODE });
    let mut id = 0;
    for batch in [3_u16, 1, 7, 5, 7, 2] {
        let first = pair.ring.used;
        for _ in 0..batch {
            pair.ring.offer_one(BUFFERS, 1, id, 0);
            id += 1;
        }
        let before: Vec<_> = (0..7).map(|index| pair.ring.read(index)).collect();
        while let Some(chain) = pair.take().unwrap() {
            pair.queue.used(chain, 0);
        }
        assert_eq!(pair.queue.publish(), batch);
        for index in (0..7).filter(|index| *index != first.index) {
            assert_eq!(pair.ring.read(index), before[usize::from(index)], "work that is skipped");
        }
        assert_eq!(pair.ring.peek().map(|used| used.id), Some(id - 1));
        pair.ring.skip(batch);
        assert_eq!(pair.ring.peek(), None);
    }
}

#[test]
fn verify_2_8_14_notifications_are_suppressed_by_flag() {
    let mut pair = Pair::new(3, Direction::FromGuest, MODE);
    assert_eq!(pair.ring.device_event().flags, EVENT_DISABLE, "at first the device looks by itself");
    assert_eq!(pair.queue.listen(), Ok(false));
    assert_eq!(pair.ring.device_event().flags, EVENT_ENABLE);
    pair.queue.quieten();
    assert_eq!(pair.ring.device_event().flags, EVENT_DISABLE);
    // What is reserved without EVENT_IDX must not lose a notification.
    for (flags, due) in [(EVENT_ENABLE, true), (EVENT_DISABLE, false), (EVENT_DESC, true), (3, true), (0, true)] {
        pair.ring.set_event(Event { position: Position { index: 9, wrap: false }, flags });
        pair.ring.offer_one(BUFFERS, 1, 0, 0);
        assert_eq!(pair.queue.listen(), Ok(true), "work that came before the wish was seen");
        let chain = pair.chain();
        pair.queue.used(chain, 0);
        assert!(!pair.queue.interrupt_due(), "nothing was published");
        pair.queue.publish();
        assert_eq!(pair.queue.interrupt_due(), due, "{flags}");
        assert!(!pair.queue.interrupt_due(), "once is enough");
        pair.ring.skip(1);
    }
}

#[test]
fn a_queue_goes_on_where_another_one_stopped() {
    for in_order in [false, true] {
        let mode = Mode { in_order, ..MODE };
        let mut pair = Pair::new(5, Direction::FromGuest, mode);
        for id in 0..4 {
            pair.ring.offer_one(BUFFERS, 1 + u32::from(id), id, 0);
        }
        let first = pair.chain();
        assert_eq!(pair.chain().bytes, 2);
        pair.queue.used(first, 0);
        pair.queue.publish();
        pair.ring.skip(1);
        let position = pair.queue.position();
        assert_eq!(position, 0x8001_8001);
        let mut other =
            PackedQueue::new(&Memory::new(pair.ram.clone()), &pair.ring.place, Direction::FromGuest, mode).unwrap();
        assert_eq!(other.start_at(5), Ok(()), "avail means nothing where the device works in order");
        assert_eq!(other.start_at(5 << 16), Err(Misplaced::Position { index: 5, size: 5 }));
        other.start_at(position).unwrap();
        pair.queue = other;
        let lengths: Vec<_> = std::iter::from_fn(|| {
            let chain = pair.take().unwrap()?;
            let bytes = chain.bytes;
            pair.queue.used(chain, 0);
            Some(bytes)
        })
        .collect();
        assert_eq!(lengths, [2, 3, 4], "what was taken and not given back is taken again");
        pair.queue.publish();
        assert_eq!(pair.ring.peek().map(|used| used.id), Some(if in_order { 3 } else { 1 }));
    }
}

proptest! {
    /// Whatever lies in the ring and the tables: chains end, are bounded, and lie in memory; nothing panics.
    #[test]
    fn a_hostile_guest_gets_a_fault_or_memory_of_its_own(
        size in 1_u16..12,
        writes in proptest::collection::vec(
            (0_u16..12, 0_u64..0x2100_0000, 0_u32..5000, any::<u16>(), 0_u16..8, any::<bool>()), 1..60),
        table in proptest::collection::vec((0_u64..0x2100_0000, 0_u32..5000, any::<u16>()), 1..24),
        to_guest: bool,
        indirect: bool,
        in_order: bool,
    ) {
        let direction = if to_guest { Direction::ToGuest } else { Direction::FromGuest };
        let mut pair = Pair::new(size, direction, Mode { indirect, in_order, event_idx: true });
        for (index, (address, length, flags)) in table.iter().enumerate() {
            let descriptor = Descriptor { address: *address, length: *length, id: 0, flags: *flags };
            pair.ring.descriptor_at(TABLE, index as u16, descriptor);
        }
        let mut held = std::collections::VecDeque::new();
        let start = pair.ram.host_start() as usize;
        for (index, address, length, id, flags, wrap) in writes {
            let address = if address % 3 == 0 { TABLE } else { address };
            // Mostly such as would be available in one round or the next.
            let available = match id % 8 { 0 => id & (DESC_F_AVAIL | DESC_F_USED), _ if wrap => DESC_F_AVAIL, _ => DESC_F_USED };
            pair.ring.descriptor(index % size, Descriptor { address, length, id, flags: flags | available });
            for _ in 0..=size {
                let Ok(Some(chain)) = pair.take() else { break };
                prop_assert!(chain.pieces <= usize::from(MAX_PIECES) && chain.pieces == pair.pieces.len());
                prop_assert_eq!(chain.bytes, pair.pieces.iter().map(Piece::len).sum::<usize>());
                for piece in scatter(&pair.pieces).pieces() {
                    let at = piece.iov_base as usize;
                    prop_assert!(at >= start && at + piece.iov_len <= start + END as usize);
                }
                held.push_back(chain);
            }
            let descriptors: u16 = held.iter().map(|chain| chain.descriptors).sum();
            prop_assert!(descriptors <= size);
            if id % 3 == 0 {
                while let Some(chain) = held.pop_front() {
                    pair.queue.used(chain, length);
                }
                pair.queue.publish();
                pair.queue.interrupt_due();
                let _ = pair.queue.listen();
            }
        }
    }

    /// EVENT_IDX both ways, against the specification's own words.
    #[test]
    fn verify_2_8_10_event_positions(
        size in 1_u16..12,
        steps in proptest::collection::vec((0_u16..12, 0_u16..12, any::<bool>(), any::<bool>()), 1..200),
    ) {
        let mut pair = Pair::new(size, Direction::FromGuest, Mode { event_idx: true, ..MODE });
        let mut listened = None;
        for (count, ahead, wrap, listen) in steps {
            let count = count % (size + 1);
            let old = pair.ring.used;
            let event = Position { index: ahead % size, wrap };
            pair.ring.set_event(Event { position: event, flags: EVENT_DESC });
            let before = pair.ring.next;
            (0..count).for_each(|id| pair.ring.offer_one(BUFFERS, 1, id, 0));
            if let Some(event) = listened.take() {
                let Event { position, flags } = event;
                prop_assert_eq!(flags, EVENT_DESC);
                let asked = (0..count).any(|step| before.advanced(step, size) == position);
                prop_assert_eq!(asked, count > 0, "the doorbell asked for");
            }
            while let Some(chain) = pair.take().unwrap() {
                pair.queue.used(chain, 0);
            }
            pair.queue.publish();
            pair.ring.skip(count);
            let passed = (0..count).any(|step| old.advanced(step, size) == event);
            prop_assert_eq!(pair.queue.interrupt_due(), passed);
            if listen {
                prop_assert_eq!(pair.queue.listen(), Ok(false));
                listened = Some(pair.ring.device_event());
            } else {
                pair.queue.quieten();
                prop_assert_eq!(pair.ring.device_event().flags, EVENT_DISABLE);
            }
        }
    }
}
