//! A transmit queue that is full, and buffers that are short: nothing is lost that the device takes later, nothing hangs, and
//! nothing spins.

use std::boxed::Box;

use etherparse::defrag::IpDefragPool;
use ringlet_driver::wire::TRANSMIT_QUEUE;

use super::offload::{self, Kind, SERVER, arrived, frame};
use super::*;

/// A machine with a connection (or an association) from the client to the server.
fn connected(device: Device, kind: Kind) -> World {
    let mut world = World::with(device, COMMAND_LINE, offload::RULES).unwrap_or_else(|(_, said)| panic!("{said}"));
    world.peers = vec![Peer::gateway(Features::empty()), Peer::server(Features::empty())];
    let (header, opening) = frame(kind, false, b"", false);
    world.device.inject(header, &opening);
    world.run(50);
    world.peers[1].seen.clear();
    world
}

fn device(offered: Features, queue_size: u16) -> Device {
    let device = Device::new(offered, MAC, 1500);
    device.set_queue_size(queue_size);
    device
}

/// What of a protocol has come to the server.
fn seen(world: &World, protocol: u8) -> Vec<(NetHdr, Vec<u8>)> {
    let ours = |frame: &[u8]| frame[..6] == SERVER && frame[12..14] == [8, 0] && frame[23] == protocol;
    world.peers[1].seen.iter().filter(|(_, frame)| ours(frame)).cloned().collect()
}

#[test]
fn a_burst_that_is_cut_into_more_than_the_queue_holds_waits_and_arrives() {
    let in_software = Features::HOST_TSO4 | Features::HOST_USO | Features::HOST_UFO;
    // Without merged buffers a burst of the ring is one of super-frames, so that a single turn is enough.
    for (without, turns) in [
        (in_software, 8),
        (in_software | Features::RING_PACKED, 8),
        (Features::CSUM, 8),
        (in_software | Features::MRG_RXBUF, 1),
        (in_software | Features::MRG_RXBUF | Features::RING_PACKED, 1),
    ] {
        for kind in [Kind::Tcp { cwr: false }, Kind::Datagrams, Kind::Fragments] {
            let mut world = connected(device(ALL - without, 256), kind);
            let mut expected = vec![];
            for number in 0..32_u8 {
                let payload: Vec<u8> = (0..14_000_u32).map(|i| (i / 251) as u8 ^ number).collect();
                let (header, large) = frame(kind, false, &payload, true);
                assert!(world.device.inject(header, &large));
                expected.extend(payload);
            }
            (0..turns).for_each(|_| world.turn());
            assert!(world.backlog() > 0, "{kind:?} without {without}: 320 pieces are more than 256");
            world.run(40);
            let mut fragments = IpDefragPool::new();
            let protocol = if matches!(kind, Kind::Tcp { .. }) { 6 } else { 17 };
            let got: Vec<u8> = seen(&world, protocol)
                .iter()
                .flat_map(|(header, frame)| arrived(header, frame, &mut fragments))
                .collect();
            assert!(got == expected, "{kind:?}: {} of {} bytes, in order", got.len(), expected.len());
            assert_eq!((world.counters().lost_in_all(), world.counters().software_offloads), (0, 32));
            world.run(3000);
            world.assert_nothing_is_lost();
        }
    }
}

#[test]
fn frames_wait_while_a_device_pauses_and_those_that_are_too_many_are_counted() {
    for size in [2, 8, 32] {
        let mut world = connected(device(ALL, size), Kind::Datagrams);
        let datagram = udp(MAC, ([10, 9, 0, 5], 5000), ([10, 0, 0, 100], 53), b"query");
        world.device.inject(NetHdr::default(), &datagram);
        world.run(50);
        for (sent, lossless) in [(100, true), (1000, false)] {
            world.peers[1].seen.clear();
            let before = world.counters().lost[Loss::TransmitFull as usize];
            world.device.set_paused(true);
            for _ in 0..sent {
                assert!(world.device.inject(NetHdr::default(), &datagram));
                world.step();
            }
            let lost = world.counters().lost[Loss::TransmitFull as usize] - before;
            assert_eq!(lost == 0, lossless, "queue of {size}");
            world.device.set_paused(false);
            world.run(1000);
            assert_eq!(seen(&world, 17).len() as u64 + lost, sent, "queue of {size}");
        }
        assert_eq!(world.counters().lost[Loss::TransmitFull as usize], world.counters().lost_in_all());
        let page = world.http("GET / HTTP/1.0\r\n\r\n");
        assert!(page.starts_with("HTTP/1.1 200 "), "queue of {size}: {page}");
        world.run(3000);
        world.assert_nothing_is_lost();
    }
}

/// Twenty datagrams on their way through queues of eight, of which the device takes nothing.
fn crowded(offered: Features) -> World {
    let mut world = connected(device(offered, 8), Kind::Datagrams);
    let datagram = udp(MAC, ([10, 9, 0, 5], 5000), ([10, 0, 0, 100], 53), b"query");
    world.device.inject(NetHdr::default(), &datagram);
    world.run(50);
    world.peers[1].seen.clear();
    world.device.set_paused(true);
    for _ in 0..20 {
        world.device.inject(NetHdr::default(), &datagram);
        world.step();
    }
    world
}

#[test]
fn who_waits_for_room_sleeps_and_is_woken_when_frames_were_sent() {
    for offered in [ALL, ALL - Features::EVENT_IDX, ALL - Features::RING_PACKED - Features::IN_ORDER] {
        let mut world = crowded(offered);
        // The device takes nothing for long.
        let (slept, steps) = (world.platform.idles(), 1000);
        world.run(steps);
        assert!(world.backlog() >= 12);
        assert!(world.platform.idles() - slept >= steps as u64, "it does not spin");
        let (fake, interrupts) = (world.device.clone(), world.device.interrupts());
        let slept = world.platform.idles();
        world.platform.when_asleep(move || fake.set_paused(false));
        while world.platform.idles() == slept {
            world.platform.advance(100_000);
            world.turn();
        }
        assert!(world.device.interrupts() > interrupts, "it is woken");
        world.run(10);
        assert_eq!((seen(&world, 17).len(), world.backlog(), world.counters().lost_in_all()), (20, 0, 0));
    }
}

#[test]
fn who_waits_for_room_does_not_sleep_when_it_is_made_at_the_last_moment() {
    for offered in [ALL, ALL - Features::EVENT_IDX, ALL - Features::RING_PACKED - Features::IN_ORDER] {
        let mut world = crowded(offered);
        // It is tried at the beginning of the turn, and once more before the sleep: behind that all that is under way is sent.
        let (fake, mut tries) = (world.device.clone(), 0);
        world.running.kernel.meanwhile = Some(Box::new(move || {
            tries += 1;
            fake.set_paused(tries < 2);
        }));
        let slept = world.platform.idles();
        world.platform.advance(100_000);
        world.turn();
        world.running.kernel.meanwhile = None;
        assert_eq!((world.platform.idles(), world.backlog()), (slept, 12), "nothing would end the sleep in time");
        world.run(5);
        assert_eq!((seen(&world, 17).len(), world.backlog(), world.counters().lost_in_all()), (20, 0, 0));
    }
}

#[test]
fn duplicate_acknowledgements_wait_for_room_too() {
    let kind = Kind::Tcp { cwr: false };
    let mut world = connected(device(ALL, 8), kind);
    let (_, mut ack) = frame(kind, false, b"", true);
    let sum = ringlet_driver::offload::finish_checksum(&ack[..], 34, 16);
    ack[50..52].copy_from_slice(&sum.to_be_bytes());
    let again = NetHdr { flags: NetHdr::RSC_INFO, csum_start: 1, csum_offset: 2, ..NetHdr::default() };
    world.device.set_paused(true);
    for _ in 0..20 {
        world.device.inject(again, &ack);
        world.step();
    }
    world.device.set_paused(false);
    world.run(40);
    assert_eq!((seen(&world, 6).len(), world.counters().lost_in_all()), (60, 0));
}

#[test]
fn who_is_short_of_buffers_is_woken_by_those_that_were_sent() {
    let kind = Kind::Tcp { cwr: false };
    for offered in [ALL, ALL - Features::RING_PACKED] {
        let mut world = connected(device(offered, 256), kind);
        world.device.set_paused(true);
        let (header, large) = frame(kind, false, &[7; 60_000], true);
        let mut frames = 0;
        while world.device.inject(header, &large) {
            world.step();
            frames += 1;
        }
        let short = with_link!(world.running.link.as_ref().unwrap(), link => {
            (0..33).contains(&link.receive.posted()) && link.receive.posted() > 0
        });
        assert!(short, "some buffers are left, but too few for the next frame");
        assert_eq!((world.backlog(), world.counters().lost_in_all()), (0, 0));
        let (fake, interrupts) = (world.device.clone(), world.device.interrupts());
        let slept = world.platform.idles();
        world.platform.when_asleep(move || fake.set_paused(false));
        while world.platform.idles() == slept {
            world.platform.advance(100_000);
            world.turn();
        }
        assert!(world.device.interrupts() > interrupts, "it is woken");
        world.turn();
        assert!(world.device.inject(header, &large), "there is room again");
        world.run(10);
        assert_eq!(seen(&world, 6).len(), frames + 1);
        world.run(3000);
        world.assert_nothing_is_lost();
    }
}

#[test]
fn a_super_frame_in_more_pieces_than_the_queue_has_is_cut() {
    let kind = Kind::Tcp { cwr: false };
    for offered in [ALL, ALL - Features::RING_PACKED, ALL - Features::INDIRECT_DESC] {
        let mut world = connected(device(offered, 16), kind);
        let payload: Vec<u8> = (0..60_000_u32).map(|i| (i / 251) as u8).collect();
        let (header, mut large) = frame(kind, false, &payload, true);
        // As the stack makes them: it is told of no queue.
        (large[..6]).copy_from_slice(&SERVER);
        large[36..38].copy_from_slice(&80_u16.to_be_bytes());
        world.send(&large, header);
        world.run(40);
        let mut fragments = IpDefragPool::new();
        let got: Vec<u8> =
            seen(&world, 6).iter().flat_map(|(header, frame)| arrived(header, frame, &mut fragments)).collect();
        assert!(got == payload, "{} of {} bytes, in order", got.len(), payload.len());
        assert_eq!((world.counters().software_offloads, world.counters().lost_in_all()), (1, 0));
        world.run(3000);
        world.assert_nothing_is_lost();
    }
}

#[test]
fn a_hostile_super_frame_is_sent_a_part_at_a_time_and_nobody_sleeps_meanwhile() {
    for offered in [ALL - Features::HOST_TSO4, ALL - Features::HOST_TSO4 - Features::RING_PACKED] {
        let mut world = connected(device(offered, 1024), Kind::Tcp { cwr: false });
        let payload: Vec<u8> = (0..3000_u32).map(|i| (i / 251) as u8).collect();
        let (header, mut large) = frame(Kind::Tcp { cwr: false }, false, &payload, true);
        (large[..6]).copy_from_slice(&SERVER);
        large[36..38].copy_from_slice(&80_u16.to_be_bytes());
        world.device.set_paused(true);
        world.send(&large, NetHdr { gso_size: 1, ..header });
        let under_way =
            |world: &World| with_link!(world.running.link.as_ref().unwrap(), link => link.transmit.under_way());
        assert_eq!((under_way(&world), world.backlog()), (256, 1), "of 3000 pieces, for which there is room for 1024");
        let slept = world.platform.idles();
        for _ in 0..8 {
            let before = under_way(&world);
            if before == 1024 {
                break;
            }
            world.platform.advance(100_000);
            world.turn();
            // At the beginning of the turn, and before a sleep.
            assert!((1..=512).contains(&(under_way(&world) - before)));
            assert!(under_way(&world) == 1024 || world.platform.idles() == slept, "it sleeps although there is room");
        }
        assert_eq!(under_way(&world), 1024);
        world.run(10);
        assert!(world.platform.idles() - slept >= 10, "there is no room: it does not spin");
        world.device.set_paused(false);
        world.run(40);
        let mut fragments = IpDefragPool::new();
        let got: Vec<u8> =
            seen(&world, 6).iter().flat_map(|(header, frame)| arrived(header, frame, &mut fragments)).collect();
        assert!(got == payload, "{} of {} bytes, in order", got.len(), payload.len());
        assert_eq!(world.counters().lost_in_all(), 0);
        world.run(3000);
        world.assert_nothing_is_lost();
    }
}

#[test]
fn a_frame_in_too_many_pieces_is_copied_into_buffers_of_what_was_sent() {
    // No MTU, so that the frame is not too long.
    for offered in [ALL - Features::MTU, ALL - Features::MTU - Features::RING_PACKED] {
        let mut world = connected(device(offered, 2), Kind::Datagrams);
        let pool = world.running.pool.clone();
        // Three buffers, of which two would do.
        let mut frame = pool.frame(4300).unwrap();
        assert_eq!((frame.trim_front(2000), frame.segment_count()), (2000, 3));
        (frame.head_mut()[..6]).copy_from_slice(&SERVER);
        frame.head_mut()[12..14].copy_from_slice(&[0x88, 0xb5]);
        for _ in 0..2 {
            world.send(&[0xff; 60], NetHdr::default());
        }
        with_link!(world.running.link.as_mut().unwrap(), link => link.transmit.flush().unwrap());
        world.device.work();
        let held: Vec<Frame> = core::iter::from_fn(|| pool.frame(0)).collect();
        with_link!(world.running.link.as_mut().unwrap(), link => world.running.kernel.send_frame(link, frame));
        assert_eq!((world.counters().lost_in_all(), pool.available()), (0, 3), "its own are free again");
        drop(held);
        world.run(10);
        assert!(world.peers[1].seen.iter().any(|(_, frame)| frame.len() == 2300));
        drop(pool);
        world.run(3000);
        world.assert_nothing_is_lost();
    }
}

#[test]
fn what_waits_outlives_a_reset() {
    for offered in [ALL, ALL - Features::RING_RESET] {
        let mut world = crowded(offered);
        world.device.misbehave(TRANSMIT_QUEUE, Mischief::Id(0xffff));
        world.device.set_paused(false);
        world.device.fail();
        world.run(60_000);
        assert_eq!(world.ended, None);
        let counters = world.counters();
        assert!(counters.resets + counters.queue_resets > 0);
        // Of those that were in the queue nothing is known.
        let (arrived, lost) = (seen(&world, 17).len() as u64, counters.lost[Loss::Reset as usize]);
        assert!(arrived >= 12 && lost <= 8 && arrived + lost >= 20, "{arrived} arrived, {lost} lost");
        assert_eq!(counters.lost_in_all(), lost);
        assert_eq!(world.backlog(), 0);
    }
}

mod anything {
    use super::*;
    use proptest::prelude::*;

    /// What happens around the machine.
    #[derive(Debug, Clone)]
    enum Event {
        /// A super-frame of so many bytes comes, to be cut into pieces of so many.
        Super(usize, usize, u16),
        /// An acknowledgement comes that stands for so many more.
        Acknowledgement(u16),
        /// The device takes nothing that is sent, or goes on.
        Pause(bool),
        /// The device lies in a queue.
        Lie(u16, Mischief),
        /// The device asks for a reset.
        Fail,
        /// Time passes.
        Steps(usize),
        /// Somebody asks for the status.
        Ask,
    }

    fn event() -> impl Strategy<Value = Event> {
        let mischief = prop_oneof![
            any::<u16>().prop_map(|id| Mischief::Id(id.into())),
            Just(Mischief::Replay),
            (1..9_u16).prop_map(Mischief::Jump),
        ];
        prop_oneof![
            16 => (0..KINDS.len(), 1..60_000_usize, 100..3000_u16).prop_map(|(kind, length, size)| Event::Super(kind, length, size)),
            8 => prop_oneof![0..9_u16, any::<u16>()].prop_map(Event::Acknowledgement),
            8 => any::<bool>().prop_map(Event::Pause),
            1 => (0..2_u16, mischief).prop_map(|(queue, mischief)| Event::Lie(queue, mischief)),
            1 => Just(Event::Fail),
            16 => (1..20_usize).prop_map(Event::Steps),
            1 => Just(Event::Ask),
        ]
    }

    const KINDS: [Kind; 3] = [Kind::Tcp { cwr: true }, Kind::Datagrams, Kind::Fragments];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Whatever comes in whatever order, it goes on, every buffer comes back, and nothing is left waiting.
        #[test]
        fn nothing_hangs_and_no_buffer_is_lost(
            events in proptest::collection::vec(event(), 1..120),
            size in prop_oneof![1..50_u16, Just(256)],
            without: u64,
        ) {
            let without = Features::from_bits_retain(without) - Features::VERSION_1 - Features::MAC;
            let mut world = connected(device(ALL - without, size), KINDS[0]);
            for event in events {
                match event {
                    Event::Super(kind, length, gso_size) => {
                        let (header, large) = frame(KINDS[kind], false, &vec![7; length], true);
                        world.device.inject(NetHdr { gso_size, ..header }, &large);
                    }
                    Event::Acknowledgement(again) => {
                        let (_, ack) = frame(KINDS[0], false, b"", true);
                        let told = NetHdr { flags: NetHdr::RSC_INFO, csum_offset: again, ..NetHdr::default() };
                        world.device.inject(told, &ack);
                    }
                    Event::Pause(paused) => world.device.set_paused(paused),
                    Event::Lie(queue, mischief) => world.device.misbehave(queue, mischief),
                    Event::Fail => world.device.fail(),
                    Event::Steps(steps) => world.run(steps),
                    Event::Ask => drop(world.peers[0].connect(("10.9.0.5", 41000), ("10.0.0.2", 9100))),
                }
            }
            world.device.set_paused(false);
            world.run(1000);
            // A device that has lied may have lost its own way. The machine may have given it up, which is its right after many lies.
            world.device.fail();
            world.run(20_000);
            if world.ended.is_none() {
                prop_assert_eq!(world.backlog(), 0);
                world.assert_nothing_is_lost();
            }
        }
    }
}
