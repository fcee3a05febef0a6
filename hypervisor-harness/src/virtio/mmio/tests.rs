use proptest::prelude::*;
use ringlet_driver::features::Features;

use super::*;
use crate::virtio::registers::QueueRegisters;
use crate::virtio::testing::{Guest, MAC, RECEIVE, Ring, TRANSMIT, frame, place};

fn status_of(guest: &mut Guest) -> u32 {
    guest.load(register::STATUS)
}

#[test]
fn verify_4_2_2_identity_and_configuration() {
    let mut guest = Guest::new();
    assert_eq!(guest.load(register::MAGIC_VALUE).to_le_bytes(), *b"virt");
    assert_eq!((guest.load(register::VERSION), guest.load(register::DEVICE_ID)), (2, 1));
    guest.store(register::DEVICE_FEATURES_SEL, 1);
    assert_eq!(guest.load(register::DEVICE_FEATURES) & 1, 1, "version_1");
    guest.store(register::DEVICE_FEATURES_SEL, 2);
    assert_eq!(guest.load(register::DEVICE_FEATURES), 0);
    assert_eq!(guest.load(register::SHM_LEN_LOW), u32::MAX);
    let mut mac = [0; 6];
    for (index, byte) in mac.iter_mut().enumerate() {
        guest.registers.read((register::CONFIG + index) as u64, std::slice::from_mut(byte));
    }
    assert_eq!(mac, MAC);
    let mut half = [0; 2];
    guest.registers.read((register::CONFIG + wire::config::MTU) as u64, &mut half);
    assert_eq!(u16::from_le_bytes(half), 1500);
    guest.registers.read((register::CONFIG + wire::config::STATUS) as u64, &mut half);
    assert_eq!(u16::from_le_bytes(half), 1);
    let mut beyond = [9; 8];
    guest.registers.read(0xff8, &mut beyond);
    assert_eq!(beyond, [0; 8]);
    assert_eq!(guest.counters().misuses, 0);
}

#[test]
fn verify_3_1_1_features_are_accepted_only_if_they_make_sense() {
    let mut guest = Guest::new();
    let all = crate::virtio::net::offered(&guest.wire, Features::all());
    assert!(guest.negotiate(all));
    assert!(guest.negotiate(Features::VERSION_1));
    for (features, why) in [
        (Features::empty(), "version_1 was not accepted"),
        (all - Features::CSUM, "features accepted that do not go together: feature host_tso4 needs csum"),
        (Features::VERSION_1 | Features::MQ, "features accepted that were not offered: mq"),
        (Features::VERSION_1 | Features::from_bits_retain(1 << 45), "not offered: bit45"),
    ] {
        let mut guest = Guest::new();
        assert!(!guest.negotiate(features), "{features}");
        let said = guest.said();
        assert!(said.len() == 1 && said[0].contains(why), "{said:?}");
        // And so the device does not start.
        guest.store(register::STATUS, 15);
        assert_eq!(status_of(&mut guest), 3);
        assert!(!guest.registers.registers.control().net.is_active());
    }
    // Once accepted, they are fixed.
    assert!(guest.negotiate(all));
    guest.store(register::DRIVER_FEATURES, 0);
    guest.store(register::STATUS, 15);
    assert_eq!(guest.wire.state().features, Some(all));
    // Nor is there any negotiation before the driver has said that it knows the device.
    let mut guest = Guest::new();
    guest.store(register::DRIVER_FEATURES_SEL, 1);
    guest.store(register::DRIVER_FEATURES, 1);
    guest.store(register::STATUS, 11);
    assert_eq!(status_of(&mut guest), 3);
}

#[test]
fn verify_2_1_1_status_bits_are_only_added() {
    let mut guest = Guest::started(Features::EVENT_IDX, 8);
    guest.store(register::STATUS, 1);
    assert_eq!(status_of(&mut guest), 15);
    guest.store(register::STATUS, 0xffff_ff00 | 64);
    assert_eq!(status_of(&mut guest), 15, "needs_reset is not the driver's to set");
    guest.store(register::STATUS, 128);
    assert_eq!(status_of(&mut guest), 143);
    assert!(!guest.registers.registers.control().net.is_active(), "the driver has given up");
    guest.store(register::STATUS, 0);
    assert_eq!(status_of(&mut guest), 0);
}

#[test]
fn a_reset_forgets_everything() {
    let mut guest = Guest::started(Features::EVENT_IDX, 8);
    guest.send(0, &frame(wire::NetHdr::default(), 60, 0), &[]);
    guest.turn();
    assert_eq!(guest.load(register::INTERRUPT_STATUS), 1);
    assert!(guest.shared.negotiated().contains(Features::EVENT_IDX));
    guest.store(register::STATUS, 0);
    guest.send(1, &frame(wire::NetHdr::default(), 60, 0), &[]);
    assert_eq!(guest.turn().moved, 0);
    assert_eq!(guest.rings[TRANSMIT].used_index(), 1);
    assert_eq!((guest.load(register::INTERRUPT_STATUS), guest.load(register::QUEUE_READY)), (0, 0));
    assert_eq!(guest.shared.negotiated(), Features::empty());
    assert!(guest.negotiate(Features::VERSION_1), "nothing is left of the features accepted before");
    guest.store(register::STATUS, 15);
    assert_eq!(guest.wire.state().features, Some(Features::VERSION_1));
}

#[test]
fn queues_are_checked_before_they_are_ready() {
    let mut guest = Guest::new();
    assert!(!guest.set_queue(RECEIVE, place(RECEIVE, 8)), "before the features are agreed");
    assert!(guest.negotiate(Features::VERSION_1));
    for bad in [
        Place { size: 0, ..place(0, 8) },
        Place { size: 7, ..place(0, 8) },
        Place { size: 2048, ..place(0, 8) },
        Place { descriptors: 1 << 40, ..place(0, 8) },
        Place { driver: 0x101, ..place(0, 8) },
        Place { device: !3, ..place(0, 8) },
    ] {
        assert!(!guest.set_queue(RECEIVE, bad), "{bad:?}");
    }
    assert!(guest.set_queue(RECEIVE, place(RECEIVE, 1024)));
    guest.store(register::QUEUE_SIZE, 2);
    assert_eq!(guest.load(register::QUEUE_SIZE_MAX), 1024);
    guest.store(register::QUEUE_SEL, 2);
    assert_eq!((guest.load(register::QUEUE_SIZE_MAX), guest.load(register::QUEUE_READY)), (0, 0));
    guest.store(register::QUEUE_READY, 1);
    guest.store(register::QUEUE_SEL, u32::MAX);
    guest.store(register::QUEUE_READY, 1);
    assert_eq!(guest.said().len(), 1, "the first misuse is said");
    assert!(guest.counters().misuses > 8, "all are counted");
}

#[test]
fn verify_2_6_and_2_8_the_greatest_size_depends_on_the_rings() {
    let mut guest = Guest::sized(Features::RING_PACKED, 1000);
    for (features, size) in [(Features::VERSION_1, 512), (Features::VERSION_1 | Features::RING_PACKED, 1000)] {
        assert!(guest.negotiate(features));
        assert_eq!(guest.load(register::QUEUE_SIZE_MAX), size);
        assert!(!guest.set_queue(RECEIVE, place(RECEIVE, size as u16 + 1)));
        assert!(guest.set_queue(RECEIVE, place(RECEIVE, size as u16)));
    }
}

#[test]
fn verify_4_2_2_2_a_queue_can_be_stopped() {
    let mut guest = Guest::started(Features::EVENT_IDX, 8);
    guest.store(register::QUEUE_SEL, TRANSMIT as u32);
    guest.store(register::QUEUE_READY, 0);
    assert_eq!(guest.load(register::QUEUE_READY), 0);
    guest.send(0, &frame(wire::NetHdr::default(), 60, 0), &[]);
    guest.wire.state().waiting.push_back(frame(wire::NetHdr::default(), 60, 0));
    guest.buffer(0, 2000);
    assert_eq!(guest.turn().moved, 1, "the other one goes on");
    assert_eq!(guest.rings[TRANSMIT].used_index(), 0);
    guest.store(register::QUEUE_READY, 1);
    assert_eq!(guest.load(register::QUEUE_READY), 0, "only a reset brings it back");
}

#[test]
fn verify_2_6_1_a_queue_is_reset_and_brought_back_elsewhere() {
    let mut guest = Guest::offering(Features::RING_RESET);
    guest.start(Features::EVENT_IDX | Features::RING_RESET, 8);
    let bytes = frame(wire::NetHdr::default(), 60, 0);
    guest.send(0, &bytes, &[]);
    guest.turn();
    guest.send(1, &bytes, &[]);
    guest.store(register::QUEUE_SEL, TRANSMIT as u32);
    guest.store(register::QUEUE_RESET, 0);
    assert_eq!(guest.load(register::QUEUE_READY), 1, "writing 0 does nothing");
    guest.store(register::QUEUE_RESET, 1);
    assert_eq!((guest.load(register::QUEUE_RESET), guest.load(register::QUEUE_READY)), (0, 0));
    guest.turn();
    assert_eq!(guest.rings[TRANSMIT].used_index(), 1, "what was available when the queue was reset stays untouched");
    // The other queue goes on meanwhile.
    guest.wire.state().waiting.push_back(bytes.clone());
    guest.buffer(0, 2000);
    assert_eq!(guest.turn().moved, 1);
    // Its old place is forgotten; it comes back where and as large as the driver says.
    assert_eq!(
        guest.registers.registers.queue(),
        Some(&QueueRegisters { place: Place { size: 1024, ..Place::default() }, ready: false })
    );
    guest.rings[TRANSMIT] = Ring::new(&guest.ram, place(2, 16));
    assert!(guest.set_queue(TRANSMIT, place(2, 16)));
    for index in 0..12 {
        guest.send(index, &bytes, &[]);
    }
    assert_eq!(guest.turn().moved, 12);
    assert_eq!(guest.rings[TRANSMIT].used_index(), 12, "indices begin at zero again");
    assert_eq!(guest.wire.state().sent.len(), 13);
    assert_eq!((guest.counters().misuses, guest.counters().faults), (0, 0));
}

#[test]
fn a_queue_is_reset_only_where_that_was_negotiated() {
    let mut guest = Guest::offering(Features::RING_RESET);
    guest.start(Features::EVENT_IDX, 8);
    guest.store(register::QUEUE_SEL, TRANSMIT as u32);
    guest.store(register::QUEUE_RESET, 1);
    assert_eq!((guest.load(register::QUEUE_READY), guest.counters().misuses), (1, 1));
    // Nor does a queue come back to a device that has broken down, or to a driver that has given up.
    for end in [None, Some(status::FAILED)] {
        let mut guest = Guest::offering(Features::RING_RESET);
        guest.start(Features::RING_RESET, 8);
        match end {
            Some(bits) => guest.store(register::STATUS, bits.into()),
            None => {
                guest.rings[TRANSMIT].set_available(100);
                guest.turn();
                assert!(guest.shared.needs_reset());
            }
        }
        guest.store(register::QUEUE_SEL, TRANSMIT as u32);
        guest.store(register::QUEUE_RESET, 1);
        guest.set_queue(TRANSMIT, place(TRANSMIT, 8));
        assert!(!guest.registers.registers.control().net.is_active());
    }
}

#[test]
fn another_process_may_raise_the_line() {
    let mut guest = Guest::started(Features::EVENT_IDX, 8);
    assert_eq!(guest.load(register::INTERRUPT_STATUS), 0);
    guest.shared.call(0).unwrap().write(1).unwrap();
    assert!(guest.interrupted());
    // Nobody can tell any more whether it did, so the answer is always that it may have.
    guest.store(register::INTERRUPT_ACK, 1);
    assert_eq!(guest.load(register::INTERRUPT_STATUS), 1);
}

#[test]
fn doorbells_without_eventfd_arrive() {
    let mut guest = Guest::started(Features::EVENT_IDX, 8);
    for queue in [0, 1, 2, 0x1_0000] {
        guest.store(register::QUEUE_NOTIFY, queue);
    }
    assert_eq!((guest.registers.registers.control().doorbells, guest.counters().misuses), (2, 2));
}

#[test]
fn odd_accesses_do_nothing() {
    let mut guest = Guest::new();
    for (offset, length) in [(0, 1), (0, 2), (2, 4), (0, 8), (0xfe, 4)] {
        let mut data = vec![0xff; length];
        guest.registers.read(offset, &mut data);
        assert_eq!(data, vec![0xff; length], "{length} bytes at {offset:#x}");
        guest.registers.write(0x70 + offset, &vec![1; length]);
    }
    guest.registers.write(0x100, &[1, 2, 3, 4]);
    assert_eq!(status_of(&mut guest), 0);
    assert_eq!(guest.counters().misuses, 11);
}

proptest! {
    /// The device runs exactly when the status register says so.
    #[test]
    fn the_device_follows_its_status(stores in proptest::collection::vec((0_usize..8, any::<u32>()), 0..60)) {
        let mut guest = Guest::new();
        for (which, value) in stores {
            match which {
                0..3 => guest.store(register::STATUS, value & 0x8f),
                3 => guest.store(register::STATUS, 0),
                4 => drop(guest.negotiate(Features::VERSION_1 | Features::from_bits_retain(1 << (value % 40)))),
                5 => drop(guest.set_queue((value & 1) as usize, place((value & 1) as usize, 1 << (value >> 1 & 15)))),
                6 => guest.store(register::DRIVER_FEATURES, value),
                _ => guest.store((value & 0x3f) as usize * 4, value >> 8),
            }
            let status = guest.load(register::STATUS) as u8;
            let runs = guest.registers.registers.control().net.is_active();
            let may = status & (status::DRIVER_OK | status::FAILED) == status::DRIVER_OK;
            prop_assert!(!runs || may, "{status:#x}");
            if status & status::DRIVER_OK != 0 {
                prop_assert!(status & status::FEATURES_OK != 0);
            }
        }
    }
}

#[test]
fn verify_2_9_a_doorbell_may_say_how_far_the_queue_has_got() {
    let mut guest = Guest::started(Features::NOTIFICATION_DATA, 8);
    for (value, heard) in [(1, 1), (0x8123_0001, 2), (0x7fff_0000, 3), (0x7fff_0002, 3)] {
        guest.store(register::QUEUE_NOTIFY, value);
        assert_eq!(guest.registers.registers.control().doorbells, heard, "{value:#x}");
    }
    assert_eq!(guest.counters().misuses, 1);
    let mut guest = Guest::started(Features::empty(), 8);
    guest.store(register::QUEUE_NOTIFY, 0x0001_0001);
    assert_eq!((guest.registers.registers.control().doorbells, guest.counters().misuses), (0, 1));
}
