//! Ring and device on two threads: no notification is lost, on either side, whatever the processor reorders.

use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::buffer::Region;
use crate::fake::{FakeHal, pointer};
use crate::features::Features;
use crate::wire::split::{
    self, AVAIL_F_NO_INTERRUPT, RING_ENTRIES, RING_FLAGS, RING_INDEX, USED_F_NO_NOTIFY, need_event,
};

const SIZE: u16 = 8;
/// Without the fences of the ring, two million find the fault every time; fewer find it often, and take less time.
const BUFFERS: u32 = 500_000;
/// A notification that has not come after this long is lost: nothing else is waited for.
const LOST: Duration = Duration::from_secs(60);

/// What both sides wait for: the number of doorbells, and of interrupts.
#[derive(Default)]
struct Wires {
    doorbells: AtomicU32,
    interrupts: AtomicU32,
    done: AtomicBool,
}

fn wait(wire: &AtomicU32, seen: u32, done: &AtomicBool, what: &str) {
    let start = Instant::now();
    while wire.load(Ordering::Relaxed) == seen && !done.load(Ordering::Relaxed) {
        assert!(start.elapsed() < LOST, "{what} is lost");
        thread::yield_now();
    }
}

/// The device's side of a split ring, in as few words as can be: gives back what it gets, in order.
fn device([_, driver, device]: [PhysAddr; 3], event_idx: bool, wires: &Wires) {
    // SAFETY: the areas are kept until this thread has ended, aligned to 2, and both sides access them atomically.
    let word = |address: PhysAddr, offset: usize| unsafe { AtomicU16::from_ptr(pointer(address).add(offset).cast()) };
    // SAFETY: as above, aligned to 4.
    let half = |address: PhysAddr, offset: usize| unsafe { AtomicU32::from_ptr(pointer(address).add(offset).cast()) };
    let (avail_index, used_index) = (word(driver, RING_INDEX), word(device, RING_INDEX));
    let mut taken = 0_u16;
    while !wires.done.load(Ordering::Relaxed) {
        if avail_index.load(Ordering::Acquire) == taken {
            let seen = wires.doorbells.load(Ordering::Relaxed);
            match event_idx {
                true => word(device, split::avail_event(SIZE)).store(taken, Ordering::Relaxed),
                false => word(device, RING_FLAGS).store(0, Ordering::Relaxed),
            }
            fence(Ordering::SeqCst);
            if avail_index.load(Ordering::Acquire) == taken {
                wait(&wires.doorbells, seen, &wires.done, "a doorbell");
            }
            if !event_idx {
                word(device, RING_FLAGS).store(USED_F_NO_NOTIFY, Ordering::Relaxed);
            }
            continue;
        }
        let slot = usize::from(taken % SIZE);
        let id = word(driver, RING_ENTRIES + 2 * slot).load(Ordering::Relaxed);
        half(device, RING_ENTRIES + 8 * slot).store(id.into(), Ordering::Relaxed);
        half(device, RING_ENTRIES + 8 * slot + 4).store(1, Ordering::Relaxed);
        taken = taken.wrapping_add(1);
        used_index.store(taken, Ordering::Release);
        fence(Ordering::SeqCst);
        let interrupt = if event_idx {
            need_event(word(driver, split::used_event(SIZE)).load(Ordering::Relaxed), taken, taken.wrapping_sub(1))
        } else {
            word(driver, RING_FLAGS).load(Ordering::Relaxed) & AVAIL_F_NO_INTERRUPT == 0
        };
        if interrupt {
            wires.interrupts.fetch_add(1, Ordering::Release);
        }
    }
}

fn run(features: Features) {
    let memory = Region::<FakeHal>::new(64).unwrap();
    // SAFETY: the device's thread ends before the ring does.
    let mut ring = unsafe { Split::<FakeHal, u32>::new(SIZE, 1, features) }.unwrap();
    let (areas, wires) = (ring.areas(), Wires::default());
    thread::scope(|scope| {
        scope.spawn(|| device(areas, features.contains(Features::EVENT_IDX), &wires));
        let (mut added, mut taken) = (0, 0);
        while taken < BUFFERS {
            // Bursts of one to four: the ring is full at times and empty at times.
            for _ in 0..=added % 4 {
                // SAFETY: the memory is shared with the device, which does not access it.
                if unsafe { ring.add((memory.physical(), 64), Access::DeviceWrites, added) }.is_ok() {
                    added += 1;
                }
            }
            if ring.publish() {
                wires.doorbells.fetch_add(1, Ordering::Release);
            }
            while let Some(used) = ring.take().unwrap() {
                assert_eq!((used.token, used.written), (taken, 1));
                taken += 1;
            }
            let seen = wires.interrupts.load(Ordering::Relaxed);
            if ring.outstanding() > 0 && !ring.enable_interrupts(0) {
                wait(&wires.interrupts, seen, &wires.done, "an interrupt");
            }
            ring.disable_interrupts();
        }
        wires.done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn no_notification_is_lost_by_index() {
    run(Features::VERSION_1 | Features::EVENT_IDX);
}

#[test]
fn no_notification_is_lost_by_flag() {
    run(Features::VERSION_1);
}
