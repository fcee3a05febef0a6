mod rings;

use proptest::prelude::*;
use ringlet_driver::wire::split::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor};
use ringlet_driver::wire::{NetHdr, mmio as register, status};

use super::*;
use crate::virtio::testing::{BUFFERS, Guest, RECEIVE, TRANSMIT, frame};
use crate::vmm::MmioDevice;

const PLAIN: Features = Features::EVENT_IDX;
const MERGEABLE: Features = PLAIN.union(Features::MRG_RXBUF);

fn plain() -> NetHdr {
    NetHdr::default()
}

/// What the guest has for a frame, with `num_buffers` as the device writes it.
fn delivered(mut frame: Vec<u8>, buffers: u16) -> Vec<u8> {
    frame[10..12].copy_from_slice(&buffers.to_le_bytes());
    frame
}

#[test]
fn a_mask_takes_what_depends_on_it_along() {
    let wire = crate::virtio::testing::Wire::default();
    assert_eq!(offered(&wire, Features::all()), OWN | wire.offloads());
    let without = offered(&wire, Features::all() - Features::CSUM);
    assert_eq!(offered(&wire, Features::all()) - without, Features::CSUM | Features::HOST_TSO4 | Features::HOST_TSO6);
    assert_eq!(offered(&wire, Features::empty()), Features::VERSION_1);
}

#[test]
fn frames_go_out_however_they_are_cut() {
    let mut guest = Guest::started(PLAIN | Features::CSUM, 64);
    let header = NetHdr { num_buffers: 77, hdr_len: 5, ..NetHdr::partial_checksum(34, 16) };
    let bytes = frame(header, 100, 7);
    let clean = frame(NetHdr::partial_checksum(34, 16), 100, 7);
    for (nth, cuts) in [&[][..], &[12], &[5], &[5, 7], &[5, 8], &[0, 12, 50], &[1; 20]].into_iter().enumerate() {
        guest.send(0, &bytes, cuts);
        assert_eq!(guest.turn().moved, 1);
        assert_eq!(guest.wire.state().sent.pop(), Some(clean.clone()), "{cuts:?}");
        assert_eq!(guest.rings[TRANSMIT].used(nth as u16), (0, 0));
    }
    let counters = guest.counters();
    assert_eq!((counters.from_guest.frames, counters.from_guest.bytes, counters.from_guest.dropped), (7, 700, 0));
}

#[test]
fn bad_frames_are_dropped_and_their_buffers_given_back() {
    let mut guest = Guest::started(PLAIN, 64);
    let bad = [
        frame(NetHdr::partial_checksum(34, 16), 60, 0),
        frame(NetHdr { gso_type: 1, gso_size: 100, ..plain() }, 60, 0),
        frame(plain(), 13, 0),
        frame(plain(), 1519, 0),
        vec![0; 11],
        vec![],
    ];
    for (index, bytes) in bad.iter().enumerate() {
        guest.send(index as u16, bytes, &[]);
    }
    guest.send(6, &frame(plain(), 1518, 0), &[]);
    assert_eq!(guest.turn().moved, 7);
    assert_eq!(guest.rings[TRANSMIT].used_index(), 7);
    let flow = guest.counters().from_guest;
    assert_eq!((flow.frames, flow.dropped, guest.wire.state().sent.len()), (1, 6, 1));
    assert_eq!(guest.said(), Vec::<String>::new(), "a bad frame is no reason to say anything");
}

#[test]
fn a_frame_without_room_waits_in_its_place() {
    let mut guest = Guest::started(PLAIN, 64);
    guest.wire.state().full = true;
    guest.send(0, &frame(plain(), 60, 1), &[]);
    guest.send(1, &frame(plain(), 60, 2), &[]);
    for _ in 0..3 {
        let turn = guest.turn();
        assert_eq!((turn.moved, turn.deadline.is_some()), (0, true));
    }
    guest.wire.state().full = false;
    assert_eq!(guest.turn().moved, 2);
    let sent = guest.wire.state().sent.clone();
    assert_eq!(sent, [frame(plain(), 60, 1), frame(plain(), 60, 2)]);
    assert_eq!((guest.rings[TRANSMIT].used(0), guest.rings[TRANSMIT].used(1)), ((0, 0), (1, 0)));
}

#[test]
fn a_network_that_is_gone_takes_the_link_down() {
    let mut guest = Guest::started(PLAIN, 64);
    let generation = guest.load(register::CONFIG_GENERATION);
    guest.wire.state().gone = true;
    guest.send(0, &frame(plain(), 60, 1), &[]);
    guest.turn();
    guest.send(1, &frame(plain(), 60, 1), &[]);
    guest.turn();
    assert_eq!(guest.rings[TRANSMIT].used_index(), 2);
    assert_eq!(guest.counters().from_guest.dropped, 2);
    assert_eq!(guest.load(register::INTERRUPT_STATUS) & 2, 2);
    assert_ne!(guest.load(register::CONFIG_GENERATION), generation);
    assert_eq!(guest.load(register::CONFIG + 4) >> 16, 0, "the link's status");
    assert_eq!(guest.load(register::STATUS), 15);
    assert_eq!(guest.said().len(), 1);
}

#[test]
fn an_unwilling_network_needs_a_reset() {
    let mut guest = Guest::new();
    guest.wire.state().unwilling = true;
    assert!(guest.negotiate(Features::VERSION_1));
    guest.store(register::STATUS, 15);
    assert_eq!(guest.load(register::STATUS), u32::from(15 | status::DEVICE_NEEDS_RESET));
    assert!(guest.said()[0].starts_with("the network device needs a reset: wire cannot work with version_1:"));
    guest.start(PLAIN, 64);
    guest.send(0, &frame(plain(), 60, 1), &[]);
    assert_eq!(guest.turn().moved, 1, "after a reset all is well");
}

#[test]
fn received_frames_fill_their_buffers() {
    for features in [PLAIN, MERGEABLE] {
        let mut guest = Guest::started(features, 64);
        guest.wire.state().waiting.extend([frame(plain(), 60, 1), frame(plain(), 1514, 2)]);
        let turn = guest.turn();
        assert_eq!((turn.moved, turn.starved), (0, true));
        guest.buffer(3, 2048);
        guest.buffer(4, 2048);
        assert_eq!(guest.turn().moved, 2);
        assert_eq!(guest.buffered(3, 72), delivered(frame(plain(), 60, 1), 1));
        assert_eq!(guest.buffered(4, 1526), delivered(frame(plain(), 1514, 2), 1));
        assert_eq!((guest.rings[RECEIVE].used(0), guest.rings[RECEIVE].used(1)), ((3, 72), (4, 1526)));
        let flow = guest.counters().to_guest;
        assert_eq!((flow.frames, flow.bytes, flow.dropped), (2, 1574, 0));
        assert!(guest.interrupted());
    }
}

#[test]
fn neither_direction_waits_for_the_end_of_the_other() {
    const MANY: u16 = 3 * BURST as u16 + 1;
    let mut guest = Guest::started(PLAIN, 256);
    for nth in 0..MANY {
        guest.send(nth, &frame(plain(), 60, nth as u8), &[]);
        // What comes is not looked at: one place is enough for it.
        guest.rings[RECEIVE].descriptor(nth, BUFFERS, 2048, DESC_F_WRITE, 0);
        guest.rings[RECEIVE].offer(nth);
    }
    guest.wire.state().waiting.extend((0..MANY).map(|nth| frame(plain(), 60, nth as u8)));
    for turn in 1..=3 {
        assert_eq!(guest.turn().moved, 2 * BURST);
        let counters = guest.counters();
        assert_eq!((counters.from_guest.frames, counters.to_guest.frames), (turn * BURST as u64, turn * BURST as u64));
    }
    assert_eq!(guest.turn().moved, 2);
}

#[test]
fn verify_5_1_6_4_a_large_frame_lies_in_as_many_buffers_as_it_needs() {
    let mut guest = Guest::started(MERGEABLE, 64);
    let large = frame(plain(), 5000, 3);
    guest.wire.state().waiting.push_back(large.clone());
    for index in 0..2 {
        guest.buffer(index, 2000);
    }
    assert!(guest.turn().starved, "two buffers are not enough");
    assert_eq!(guest.rings[RECEIVE].used_index(), 0, "and hold nothing that the guest can see");
    for index in 2..8 {
        guest.buffer(index, 2000);
    }
    guest.wire.state().waiting.push_back(frame(plain(), 60, 9));
    assert_eq!(guest.turn().moved, 2);
    let used: Vec<_> = (0..4).map(|position| guest.rings[RECEIVE].used(position)).collect();
    assert_eq!((guest.rings[RECEIVE].used_index(), used), (4, vec![(0, 2000), (1, 2000), (2, 1012), (3, 72)]));
    let bytes = [guest.buffered(0, 2000), guest.buffered(1, 2000), guest.buffered(2, 1012)].concat();
    assert_eq!(bytes, delivered(large, 3));
    assert_eq!(guest.buffered(3, 72), delivered(frame(plain(), 60, 9), 1));
}

#[test]
fn a_frame_that_fits_no_buffer_is_dropped() {
    let mut guest = Guest::started(PLAIN, 8);
    guest.wire.state().waiting.extend([frame(plain(), 3000, 3), frame(plain(), 60, 4)]);
    guest.buffer(0, 1526);
    guest.turn();
    assert_eq!((guest.counters().to_guest.frames, guest.counters().to_guest.dropped), (1, 1));
    assert_eq!(guest.rings[RECEIVE].used(0), (0, 72), "the buffer serves the next frame");

    // With MRG_RXBUF there could be more buffers; not, however, when the queue has no more room for any.
    let mut guest = Guest::started(MERGEABLE, 8);
    guest.wire.state().waiting.extend([frame(plain(), 3000, 3), frame(plain(), 60, 4)]);
    (0..8).for_each(|index| guest.buffer(index, 100));
    guest.turn();
    assert_eq!((guest.counters().to_guest.frames, guest.counters().to_guest.dropped), (1, 1));

    // A frame larger than any that there may be is dropped too, and does no other harm.
    let mut guest = Guest::started(MERGEABLE, 64);
    guest.wire.state().waiting.extend([frame(plain(), 70_000, 3), frame(plain(), 60, 4)]);
    (0..64).for_each(|index| guest.buffer(index, 2000));
    guest.turn();
    assert_eq!((guest.counters().to_guest.frames, guest.counters().to_guest.dropped), (1, 1));

    // Nor when they do not come.
    let mut guest = Guest::started(MERGEABLE, 8);
    guest.wire.state().waiting.extend([frame(plain(), 3000, 3), frame(plain(), 60, 4)]);
    guest.buffer(0, 100);
    assert!(guest.turn().starved);
    guest.wait(Duration::from_secs(1));
    assert!(!guest.turn().starved);
    assert_eq!((guest.counters().to_guest.frames, guest.counters().to_guest.dropped), (1, 1));
}

#[test]
fn a_guest_s_fault_stops_its_device_until_it_resets_it() {
    let mut guest = Guest::started(PLAIN, 8);
    guest.rings[TRANSMIT].descriptor(0, u64::MAX, 60, 0, 0);
    guest.rings[TRANSMIT].offer(0);
    assert_eq!(guest.turn(), Turn { moved: 0, deadline: None, starved: false });
    assert_eq!(guest.load(register::STATUS), u32::from(15 | status::DEVICE_NEEDS_RESET));
    assert_eq!(guest.load(register::INTERRUPT_STATUS), 2);
    assert!(guest.interrupted());
    let said = guest.said();
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("needs a reset: the driver broke the rules: guest-physical address 0xff"), "{said:?}");
    guest.send(0, &frame(plain(), 60, 1), &[]);
    guest.turn();
    assert_eq!((guest.rings[TRANSMIT].used_index(), guest.counters().faults), (0, 1));
    assert!(guest.wire.state().rests, "no queue is in use");
    guest.start(PLAIN, 8);
    assert!(!guest.wire.state().rests);
    guest.send(0, &frame(plain(), 60, 1), &[]);
    guest.turn();
    assert_eq!((guest.rings[TRANSMIT].used_index(), guest.counters().resets), (1, 2));
}

#[test]
fn a_guest_that_never_learns_fills_no_terminal() {
    let mut guest = Guest::started(PLAIN, 8);
    for _ in 0..50 {
        guest.rings[TRANSMIT].offer(8);
        guest.turn();
        guest.start(PLAIN, 8);
    }
    let said = guest.said();
    assert_eq!((said.len(), guest.counters().faults), (8, 50));
    assert!(said[7].ends_with("(more of this is only counted)"));
}

#[test]
fn small_receive_buffers_are_a_fault() {
    let mut guest = Guest::started(MERGEABLE, 8);
    guest.buffer(0, 11);
    guest.turn();
    assert!(guest.shared.needs_reset());
}

#[test]
fn interrupts_come_when_they_are_asked_for_and_without_acknowledgement() {
    let mut guest = Guest::started(Features::empty(), 8);
    for (flags, interrupt) in [(0, true), (0, true), (1, false), (0, true)] {
        guest.rings[TRANSMIT].set_flags(flags);
        guest.send(0, &frame(plain(), 60, 1), &[]);
        guest.turn();
        assert_eq!(guest.interrupted(), interrupt);
        assert_eq!(guest.load(register::INTERRUPT_STATUS), 1);
    }
    guest.store(register::INTERRUPT_ACK, 1);
    assert_eq!(guest.load(register::INTERRUPT_STATUS), 0);
    assert_eq!((guest.counters().interrupts, guest.counters().spared), (3, 1));
}

#[test]
fn doorbells_are_wanted_only_before_a_sleep() {
    let mut guest = Guest::started(Features::empty(), 8);
    guest.turn();
    assert_eq!((guest.rings[TRANSMIT].used_flags(), guest.rings[RECEIVE].used_flags()), (1, 1));
    assert!(!guest.registers.registers.control().net.listen(false));
    assert_eq!((guest.rings[TRANSMIT].used_flags(), guest.rings[RECEIVE].used_flags()), (0, 1));
    assert!(!guest.registers.registers.control().net.listen(true));
    assert_eq!(guest.rings[RECEIVE].used_flags(), 0, "a starved device wants to hear of buffers");
    guest.registers.registers.control().net.quieten();
    assert_eq!((guest.rings[TRANSMIT].used_flags(), guest.rings[RECEIVE].used_flags()), (1, 1));
}

/// One thing that a hostile guest does.
#[derive(Debug, Clone)]
enum Act {
    Store(usize, u32),
    Load(usize, usize),
    Start(u64, u16),
    Descriptor { queue: usize, index: u16, indirect: bool, descriptor: (u64, u32, u16, u16) },
    Offer(usize, u16),
    Jump(usize, u16),
    Arrive(usize),
    Turn,
    Wait,
}

fn act() -> impl Strategy<Value = Act> {
    let address = prop_oneof![
        4 => BUFFERS..BUFFERS + 0x1_0000,
        1 => 0x1f0_0000_u64..0x210_0000,
        1 => any::<u64>(),
        2 => Just(BUFFERS),
    ];
    let descriptor = (address, prop_oneof![3 => 0_u32..3000, 1 => any::<u32>()], 0_u16..8, 0_u16..9);
    prop_oneof![
        2 => (0_usize..0x60, prop_oneof![0_u32..20, any::<u32>()]).prop_map(|(at, value)| Act::Store(at * 4, value)),
        1 => (0_usize..0x200, 0_usize..9).prop_map(|(at, length)| Act::Load(at, length)),
        1 => (any::<u64>(), 0_u16..4).prop_map(|(features, size)| Act::Start(features, 1 << size)),
        4 => (0_usize..2, 0_u16..8, any::<bool>(), descriptor)
            .prop_map(|(queue, index, indirect, descriptor)| Act::Descriptor { queue, index, indirect, descriptor }),
        6 => (0_usize..2, 0_u16..9).prop_map(|(queue, head)| Act::Offer(queue, head)),
        1 => (0_usize..2, any::<u16>()).prop_map(|(queue, index)| Act::Jump(queue, index)),
        3 => (0_usize..=wire::MAX_GSO_FRAME).prop_map(Act::Arrive),
        5 => Just(Act::Turn),
        1 => Just(Act::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// No sequence of register accesses and ring contents makes the device panic or hang, and a reset always cures it.
    #[test]
    fn no_guest_can_hurt_the_device(acts in proptest::collection::vec(act(), 1..120)) {
        let mut guest = Guest::started(MERGEABLE | Features::INDIRECT_DESC, 8);
        for act in acts {
            match act {
                Act::Store(at, value) => guest.store(at, value),
                Act::Load(at, length) => guest.registers.read(at as u64, &mut vec![0; length]),
                Act::Start(features, size) => {
                    let offered = Features::from_bits_retain(features) & offered(&guest.wire, Features::all());
                    guest.start(offered.without_unmet(), size);
                }
                Act::Descriptor { queue, index, indirect, descriptor: (address, length, flags, next) } => {
                    let descriptor = Descriptor { address, length, flags, next };
                    let table = if indirect { BUFFERS } else { guest.rings[queue].place.descriptors };
                    guest.rings[queue].descriptor_at(table, index, descriptor);
                }
                Act::Offer(queue, head) => guest.rings[queue].offer(head),
                Act::Jump(queue, index) => guest.rings[queue].set_available(index),
                Act::Arrive(length) => guest.wire.state().waiting.push_back(frame(plain(), length, 0)),
                Act::Turn => drop(guest.turn()),
                Act::Wait => guest.wait(Duration::from_millis(60)),
            }
        }
        guest.start(MERGEABLE, 8);
        guest.wire.state().waiting.clear();
        guest.wire.state().sent.clear();
        guest.wire.state().waiting.push_back(frame(plain(), 60, 5));
        guest.buffer(0, 2000);
        guest.send(0, &frame(plain(), 60, 6), &[12]);
        guest.turn();
        prop_assert_eq!(guest.buffered(0, 72), delivered(frame(plain(), 60, 5), 1));
        prop_assert_eq!(&guest.wire.state().sent, &[frame(plain(), 60, 6)]);
    }

    /// Frames arrive whole and in order, however the guest cuts its buffers.
    #[test]
    fn what_is_received_is_what_came(
        lengths in proptest::collection::vec(14_usize..9000, 1..20),
        buffers in proptest::collection::vec((12_u32..3000, 0_u32..2000), 16),
    ) {
        let mut guest = Guest::started(MERGEABLE | Features::GUEST_CSUM | Features::GUEST_TSO4, 64);
        let frames: Vec<_> = lengths.iter().map(|length| frame(plain(), *length, *length as u8)).collect();
        guest.wire.state().waiting.extend(frames.iter().cloned());
        let (mut seen, mut got, mut idle) = (0, Vec::new(), 0);
        let give = |guest: &mut Guest, index: u16| {
            let (first, second) = buffers[usize::from(index)];
            let address = BUFFERS + u64::from(index) * 0x4000;
            let ring = &mut guest.rings[RECEIVE];
            ring.descriptor(index, address, first, DESC_F_WRITE | DESC_F_NEXT, index + 16);
            ring.descriptor(index + 16, address + u64::from(first), second, DESC_F_WRITE, 0);
            ring.offer(index);
        };
        (0..16).for_each(|index| give(&mut guest, index));
        while idle < 4 {
            guest.wait(Duration::from_millis(60));
            idle = if guest.turn().moved == 0 { idle + 1 } else { 0 };
            while seen != guest.rings[RECEIVE].used_index() {
                let (head, length) = guest.rings[RECEIVE].used(seen);
                let first = guest.buffered(head as u16, length as usize);
                let count = u16::from_le_bytes([first[10], first[11]]);
                prop_assert!(count >= 1 && count <= guest.rings[RECEIVE].used_index().wrapping_sub(seen));
                let mut whole = Vec::new();
                for position in 0..count {
                    let (head, length) = guest.rings[RECEIVE].used(seen.wrapping_add(position));
                    whole.extend(guest.buffered(head as u16, length as usize));
                    give(&mut guest, head as u16);
                }
                whole[10..12].fill(0);
                got.push(whole);
                seen = seen.wrapping_add(count);
            }
        }
        // What all sixteen buffers together cannot hold is dropped, and nothing else.
        let room: usize = buffers.iter().map(|(first, second)| (first + second) as usize).sum();
        let expected: Vec<_> = frames.into_iter().filter(|frame| frame.len() <= room).collect();
        prop_assert_eq!(got, expected);
    }
}

#[test]
fn an_indirect_table_can_be_longer_than_the_queue() {
    let mut guest = Guest::started(PLAIN | Features::INDIRECT_DESC, 2);
    let bytes = frame(plain(), 60, 0);
    guest.ram.write(BUFFERS, &bytes).unwrap();
    let table = BUFFERS + 0x1000;
    for index in 0..6 {
        let flags = if index < 5 { DESC_F_NEXT } else { 0 };
        let descriptor = Descriptor { address: BUFFERS + u64::from(index) * 12, length: 12, flags, next: index + 1 };
        guest.rings[TRANSMIT].descriptor_at(table, index, descriptor);
    }
    guest.rings[TRANSMIT].descriptor(0, table, 96, DESC_F_INDIRECT, 0);
    guest.rings[TRANSMIT].offer(0);
    guest.turn();
    assert_eq!(guest.wire.state().sent, [bytes]);
}

#[test]
fn a_queue_goes_on_where_it_stopped() {
    let mut guest = Guest::started(MERGEABLE, 8);
    for index in 0..3 {
        guest.buffer(index, 2000);
        guest.send(index, &frame(plain(), 60, index as u8), &[]);
    }
    guest.wire.state().waiting.push_back(frame(plain(), 60, 7));
    guest.turn();
    guest.wire.state().full = true;
    guest.send(3, &frame(plain(), 60, 3), &[]);
    // A frame in hand, which found no room, and a buffer in hand, which holds no frame: both are taken again.
    guest.wire.state().waiting.push_back(frame(plain(), 9000, 8));
    guest.turn();
    let net = &mut guest.registers.registers.control().net;
    assert!(!guest.wire.state().rests);
    assert_eq!([net.stop_queue(0), net.stop_queue(1), net.stop_queue(1)], [Some(1), Some(3), None]);
    assert!(guest.wire.state().rests, "no queue is in use");
    assert!(!net.is_active());
    guest.wire.state().full = false;
    guest.wire.state().waiting.clear();
    guest.wire.state().waiting.push_back(frame(plain(), 60, 9));
    let places = [RECEIVE, TRANSMIT].map(|queue| guest.rings[queue].place);
    let net = &mut guest.registers.registers.control().net;
    assert!(net.start_queue(0, &places[0], Some(1)) && net.start_queue(1, &places[1], Some(3)));
    guest.turn();
    assert_eq!(guest.wire.state().sent.last(), Some(&frame(plain(), 60, 3)));
    assert_eq!(guest.buffered(1, 72), delivered(frame(plain(), 60, 9), 1));
    assert_eq!((guest.rings[RECEIVE].used_index(), guest.rings[TRANSMIT].used_index()), (2, 4));
}
