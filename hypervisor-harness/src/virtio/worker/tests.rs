use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;

use super::*;
use crate::backend::mirror::Mirror;
use crate::virtio::memory::Memory;
use crate::virtio::mmio::Line;
use crate::virtio::testing::{BUFFERS, RECEIVE, Ring, TRANSMIT, frame, place};
use crate::vmm::GuestRam;

#[test]
fn looking_for_work_pays_or_ends() {
    let micros = Duration::from_micros;
    let mut spin = Spin::new(micros(50));
    for _ in 0..5 {
        spin.slept(micros(1000));
    }
    assert_eq!(spin.now, Duration::ZERO);
    spin.slept(micros(100));
    assert_eq!(spin.now, Duration::ZERO, "neither short nor long");
    for _ in 0..5 {
        spin.slept(micros(20));
    }
    assert_eq!(spin.now, micros(50));
    let mut never = Spin::new(Duration::ZERO);
    never.slept(Duration::ZERO);
    assert_eq!(never.now, Duration::ZERO);
}

/// A thread of its own, a driver that sleeps until it is interrupted, and a device that sleeps whenever it can: no
/// wake-up may be lost on either side.
fn ping_pong(event_idx: bool, limit: Duration) {
    const ROUNDS: u16 = 2000;
    let ram = GuestRam::new(32).unwrap();
    let memory = Memory::new(ram.clone());
    let interrupt = EventFd::new(0).unwrap();
    let shared =
        Arc::new(Shared::new(Arc::new(Line::new(interrupt.try_clone().unwrap())), Box::new(|line| panic!("{line}"))));
    let net = Net::new(memory, Mirror::default(), shared.clone());
    let doorbells = [(); 2].map(|()| EventFd::new(EFD_NONBLOCK).unwrap());
    let (mut remote, thread) = spawn(net, shared.clone(), doorbells, limit).unwrap();
    let mut features = Features::VERSION_1;
    features.set(Features::EVENT_IDX, event_idx);
    let queues = [RECEIVE, TRANSMIT].map(|queue| Some(place(queue, 8)));
    let mut rings = [RECEIVE, TRANSMIT].map(|queue| Ring::new(&ram, place(queue, 8)));
    remote.start(Activation { features, queues });
    let bytes = frame(NetHdr::default(), 60, 0);
    ram.write(BUFFERS, &bytes).unwrap();
    rings[TRANSMIT].descriptor(0, BUFFERS, bytes.len() as u32, 0, 0);
    rings[RECEIVE].descriptor(0, BUFFERS + 0x1000, 2048, ringlet_driver::wire::split::DESC_F_WRITE, 0);
    rings[TRANSMIT].set_flags(1);
    rings[TRANSMIT].set_used_event(u16::MAX);
    for round in 0..ROUNDS {
        for queue in [RECEIVE, TRANSMIT] {
            let ring = &mut rings[queue];
            let position = ring.available;
            ring.offer(0);
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            let wanted = if event_idx { ring.avail_event() == position } else { ring.used_flags() == 0 };
            if wanted {
                remote.doorbell(queue as u16);
            }
        }
        while rings[RECEIVE].used_index() == round {
            interrupt.read().unwrap();
        }
        rings[RECEIVE].set_used_event(round + 1);
        assert_eq!(rings[RECEIVE].used(round), (0, bytes.len() as u32));
    }
    let counters = shared.counters();
    assert_eq!((counters.from_guest.frames, counters.to_guest.frames), (ROUNDS.into(), ROUNDS.into()));

    // After a reset the guest's memory is its own.
    remote.reset();
    rings.iter_mut().for_each(|ring| ring.offer(0));
    remote.doorbell(0);
    remote.doorbell(1);
    remote.stop();
    assert_eq!(rings[RECEIVE].used_index(), ROUNDS);
    thread.join().unwrap();
    // Nobody is there any more, and nobody waits for him.
    remote.reset();
    remote.start(Activation::default());
}

#[test]
fn no_wake_up_is_lost_with_event_indices() {
    ping_pong(true, Duration::ZERO);
    ping_pong(true, DEFAULT_SPIN);
}

#[test]
fn no_wake_up_is_lost_with_flags() {
    ping_pong(false, Duration::ZERO);
    ping_pong(false, DEFAULT_SPIN);
}
