//! The device on packed rings, with batches in order, and with queues that are reset under load.

use ringlet_driver::wire::packed::{EVENT_DISABLE, EVENT_ENABLE, Event, Position};

use super::*;
use crate::virtio::testing::{PackedRing, place};

const PACKED: Features = Features::RING_PACKED.union(Features::MRG_RXBUF).union(Features::RING_RESET);

/// A guest with packed rings of this size, at work.
fn packed(features: Features, size: u16) -> (Guest, [PackedRing; 2]) {
    let mut guest = Guest::new();
    assert!(guest.negotiate(PACKED | features | Features::VERSION_1));
    let rings = [RECEIVE, TRANSMIT].map(|queue| {
        let ring = PackedRing::new(&guest.ram, place(queue, size));
        assert!(guest.set_queue(queue, ring.place));
        ring
    });
    guest.store(register::STATUS, 15);
    assert_eq!(guest.load(register::STATUS), 15);
    (guest, rings)
}

fn transmit_buffer(id: u16) -> u64 {
    BUFFERS + 0x10_0000 + u64::from(id) * 0x1000
}

fn receive_buffer(id: u16) -> u64 {
    BUFFERS + u64::from(id) * 0x4000
}

#[test]
fn frames_pass_over_packed_rings_of_any_size() {
    for (in_order, size) in [(false, 3), (false, 7), (true, 7), (true, 8)] {
        let mut features = Features::EVENT_IDX | Features::INDIRECT_DESC;
        features.set(Features::IN_ORDER, in_order);
        let (mut guest, [mut receive, mut transmit]) = packed(features, size);
        for round in 0..40_u16 {
            let ids = [0, 1, 2];
            for id in ids {
                let bytes = frame(plain(), 60 + usize::from(round), id as u8);
                guest.ram.write(transmit_buffer(id), &bytes).unwrap();
                if id == 1 {
                    let pieces = [(transmit_buffer(id), 12), (transmit_buffer(id) + 12, bytes.len() as u32 - 12)];
                    transmit.offer_indirect(id, BUFFERS + 0x20_0000, &pieces, false);
                } else {
                    transmit.offer(id, &[(transmit_buffer(id), bytes.len() as u32)], false);
                }
                receive.offer(id, &[(receive_buffer(id), 100)], true);
                guest.wire.state().waiting.push_back(frame(plain(), 60, 30 + id as u8));
            }
            guest.turn();
            let sent = std::mem::take(&mut guest.wire.state().sent);
            assert_eq!(sent, ids.map(|id| frame(plain(), 60 + usize::from(round), id as u8)));
            // In order, one descriptor stands for all three.
            let reported: &[u16] = if in_order { &[2] } else { &ids };
            for &id in reported {
                let used = transmit.peek().unwrap();
                assert_eq!((used.id, used.length), (id, 0));
                transmit.skip(if in_order { 3 } else { 1 });
            }
            for id in ids {
                assert_eq!(receive.peek().map(|used| (used.id, used.length)), Some((id, 72)));
                receive.skip(1);
                let mut bytes = vec![0; 72];
                guest.ram.read(receive_buffer(id), &mut bytes).unwrap();
                assert_eq!(bytes, delivered(frame(plain(), 60, 30 + id as u8), 1));
            }
            assert_eq!((transmit.peek(), receive.peek()), (None, None));
        }
        assert_eq!(guest.said(), Vec::<String>::new());
    }
}

#[test]
fn a_large_frame_lies_in_several_buffers_of_a_packed_ring() {
    let (mut guest, [mut receive, _]) = packed(Features::IN_ORDER, 5);
    let large = frame(plain(), 500, 3);
    guest.wire.state().waiting.push_back(large.clone());
    receive.offer(0, &[(receive_buffer(0), 100), (receive_buffer(0) + 100, 100)], true);
    receive.offer(1, &[(receive_buffer(1), 200)], true);
    assert!(guest.turn().starved);
    assert_eq!(receive.peek(), None, "half a frame is not shown");
    receive.offer(2, &[(receive_buffer(2), 200)], true);
    assert_eq!(guest.turn().moved, 1);
    let mut bytes = Vec::new();
    for (id, descriptors, length) in [(0, 2, 200), (1, 1, 200), (2, 1, 112)] {
        let used = receive.peek().unwrap();
        assert_eq!((used.id, used.length), (id, length), "full buffers are told of one by one too");
        receive.skip(descriptors);
        let mut part = vec![0; length as usize];
        guest.ram.read(receive_buffer(id), &mut part).unwrap();
        bytes.extend(part);
    }
    assert_eq!(bytes, delivered(large, 3));
}

#[test]
fn notifications_over_packed_rings_are_suppressed_both_ways() {
    let (mut guest, [_, mut transmit]) = packed(Features::EVENT_IDX, 4);
    let bytes = frame(plain(), 60, 0);
    guest.ram.write(transmit_buffer(0), &bytes).unwrap();
    let at = |index| Event { position: Position { index, wrap: true }, flags: 2 };
    let rows = [(at(1), false), (at(1), true), (at(1), false), (Event { flags: EVENT_DISABLE, ..at(3) }, false)];
    for (event, due) in rows {
        transmit.set_event(event);
        transmit.offer(0, &[(transmit_buffer(0), bytes.len() as u32)], false);
        guest.turn();
        assert_eq!(guest.interrupted(), due, "{event:?}");
    }
    let net = &mut guest.registers.registers.control().net;
    assert_eq!(transmit.device_event().flags, EVENT_DISABLE);
    assert!(!net.listen(false));
    assert_eq!(transmit.device_event(), Event { position: transmit.next, flags: 2 });
    net.quieten();
    assert_eq!(transmit.device_event().flags, EVENT_DISABLE);
    assert_ne!(EVENT_DISABLE, EVENT_ENABLE);
}

#[test]
fn verify_2_6_1_a_packed_queue_is_reset_under_load_and_brought_back_elsewhere() {
    let (mut guest, [mut receive, mut transmit]) = packed(Features::IN_ORDER, 8);
    let bytes = frame(plain(), 60, 1);
    guest.ram.write(transmit_buffer(0), &bytes).unwrap();
    let mut seen = 0;
    for round in 0..20_u16 {
        // Some frames are done, one waits for room, some were not even looked at.
        for id in 0..4 {
            transmit.offer(id, &[(transmit_buffer(0), bytes.len() as u32)], false);
        }
        guest.turn();
        seen += 4;
        guest.wire.state().full = true;
        transmit.offer(4, &[(transmit_buffer(0), bytes.len() as u32)], false);
        guest.turn();
        transmit.offer(5, &[(transmit_buffer(0), bytes.len() as u32)], false);
        guest.store(register::QUEUE_SEL, TRANSMIT as u32);
        guest.store(register::QUEUE_RESET, 1);
        assert_eq!((guest.load(register::QUEUE_RESET), guest.load(register::QUEUE_READY)), (0, 0));
        let before: Vec<_> = (0..transmit.place.size).map(|index| transmit.read(index)).collect();
        // The other queue goes on meanwhile; this one's memory is left alone.
        guest.wire.state().full = false;
        guest.wire.state().waiting.push_back(frame(plain(), 60, 9));
        receive.offer(0, &[(receive_buffer(0), 100)], true);
        guest.turn();
        assert_eq!(receive.peek().map(|used| used.id), Some(0));
        receive.skip(1);
        let after: Vec<_> = (0..transmit.place.size).map(|index| transmit.read(index)).collect();
        assert_eq!(before, after);
        assert_eq!(guest.wire.state().sent.len(), seen, "what was in hand is gone with the queue");
        let base = place(TRANSMIT, 0).descriptors + 0x1000 * u64::from(round % 3);
        let elsewhere = Place { size: 5 + round, descriptors: base, driver: base + 0x800, device: base + 0x804 };
        transmit = PackedRing::new(&guest.ram, elsewhere);
        assert!(guest.set_queue(TRANSMIT, elsewhere));
    }
    assert_eq!((guest.counters().resets, guest.counters().faults, guest.counters().misuses), (1, 0, 0));
}

#[test]
fn a_fault_in_a_packed_ring_is_a_fault_like_any_other() {
    let (mut guest, [_, mut transmit]) = packed(Features::empty(), 8);
    transmit.offer_one(u64::MAX, 60, 0, 0);
    guest.turn();
    assert!(guest.shared.needs_reset());
    let (mut guest, [mut receive, _]) = packed(Features::empty(), 8);
    receive.offer(0, &[(receive_buffer(0), 11)], true);
    guest.wire.state().waiting.push_back(frame(plain(), 60, 9));
    guest.turn();
    assert!(guest.shared.needs_reset(), "no room for a header");
}

#[test]
fn without_the_feature_a_ring_of_three_is_none() {
    let mut guest = Guest::new();
    assert!(guest.negotiate(Features::VERSION_1));
    assert!(!guest.set_queue(TRANSMIT, place(TRANSMIT, 3)));
    assert_eq!(guest.counters().misuses, 1);
}
