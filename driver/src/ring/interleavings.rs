//! Ring and device in every order in which their accesses can happen, reordered by the processor as its memory model allows
//! (loom): no notification is lost, and nothing is seen before it is written. Without the fence of the ring one is lost: that is
//! shown too.
//!
//! The rings are the real ones, on memory that loom watches. The device is in as few words as can be. Each test is a handful of
//! buffers with a ring of two, so that positions wrap.

use std::cell::RefCell;
use std::collections::BTreeMap;

use loom::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};
use loom::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};
use loom::sync::{Arc, Condvar, Mutex};
use virtio_drivers::PhysAddr;

use super::area::Area;
use super::{Access, Used, Virtqueue, split};
use crate::features::Features;
use crate::wire::packed::{self, EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE, Event, Position};
use crate::wire::split::{
    AVAIL_F_NO_INTERRUPT, RING_ENTRIES, RING_FLAGS, RING_INDEX, USED_F_NO_NOTIFY, avail_event, need_event, used_event,
};

const SIZE: u16 = 2;
/// Where the driver area lies, in either format.
const DRIVER: usize = 64;
/// Where the device area lies, in either format.
const DEVICE: usize = 128;
/// Where there is, behind everything, what stands for the contents of buffers.
const CONTENTS: usize = 192;

/// A word of memory.
#[derive(Debug)]
enum Word {
    Bits16(AtomicU16),
    Bits32(AtomicU32),
    Bits64(AtomicU64),
}

type Words = BTreeMap<usize, Word>;

/// The words that both formats have: loom must know all of them from the start.
fn words() -> Words {
    let (size, mut words) = (usize::from(SIZE), Words::new());
    for offset in (0..16 * size).step_by(8).chain((0..16).map(|n| CONTENTS + 8 * n)) {
        words.insert(offset, Word::Bits64(AtomicU64::new(0)));
    }
    if PACKED.get() {
        words.insert(DRIVER, Word::Bits32(AtomicU32::new(0)));
        words.insert(DEVICE, Word::Bits32(AtomicU32::new(0)));
    } else {
        let avail = [RING_FLAGS, RING_INDEX, RING_ENTRIES, RING_ENTRIES + 2, used_event(SIZE)];
        let used = [RING_FLAGS, RING_INDEX, avail_event(SIZE)];
        for offset in avail.map(|at| DRIVER + at).into_iter().chain(used.map(|at| DEVICE + at)) {
            words.insert(offset, Word::Bits16(AtomicU16::new(0)));
        }
        for offset in (0..8 * size).step_by(4) {
            words.insert(DEVICE + RING_ENTRIES + offset, Word::Bits32(AtomicU32::new(0)));
        }
    }
    words
}

std::thread_local! {
    /// The memory that was made last, for the device to find.
    static MADE: RefCell<Option<Arc<Words>>> = const { RefCell::new(None) };
    static PACKED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Memory under loom's eyes; whether fences are fences can be chosen.
#[derive(Debug, Clone)]
struct Watched<const FENCE: bool>(Arc<Words>);

macro_rules! accesses {
    ($load:ident, $store:ident, $variant:ident, $type:ty) => {
        fn $load(&self, offset: usize, order: Ordering) -> $type {
            let Some(Word::$variant(word)) = self.0.get(&offset) else { panic!("no such word: {offset}") };
            word.load(order)
        }

        fn $store(&self, offset: usize, value: $type, order: Ordering) {
            let Some(Word::$variant(word)) = self.0.get(&offset) else { panic!("no such word: {offset}") };
            word.store(value, order);
        }
    };
}

// SAFETY: no device uses the address, but the one below, which finds the memory without it.
unsafe impl<const FENCE: bool> Area for Watched<FENCE> {
    fn new(length: usize) -> Option<Self> {
        assert!(length <= CONTENTS);
        let words = Arc::new(words());
        MADE.set(Some(words.clone()));
        Some(Self(words))
    }

    fn address(&self) -> PhysAddr {
        0
    }

    accesses!(load16, store16, Bits16, u16);
    accesses!(load32, store32, Bits32, u32);
    accesses!(load64, store64, Bits64, u64);

    fn fence() {
        if FENCE {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }
}

/// A doorbell, or an interrupt: what is sent before somebody waits for it is not lost.
#[derive(Debug, Clone)]
struct Wire(Arc<(Mutex<bool>, Condvar)>);

impl Wire {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(false), Condvar::new())))
    }

    fn send(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_one();
    }

    /// Whether it was sent since this was last asked.
    fn take(&self) -> bool {
        core::mem::take(&mut *self.0.0.lock().unwrap())
    }

    /// Waits for it. Loom notices when that never ends, but ends itself with it: so only where nothing is to be lost.
    fn wait(&self) {
        let mut sent = self.0.0.lock().unwrap();
        while !*sent {
            sent = self.0.1.wait(sent).unwrap();
        }
        *sent = false;
    }
}

/// The device's side of a ring: uses buffers in order, one at a time.
trait Device {
    fn new(memory: Watched<true>, event_idx: bool) -> Self;
    /// The id of the next buffer, if there is one.
    fn look(&self) -> Option<u16>;
    /// Asks for a doorbell with the next buffer. What was published before or is seen by [`Device::look`] needs none.
    fn listen(&mut self);
    /// Uses the buffer that was looked at. Whether to interrupt.
    fn give_back(&mut self, id: u16) -> bool;
}

struct SplitDevice {
    memory: Watched<true>,
    event_idx: bool,
    taken: u16,
}

impl Device for SplitDevice {
    fn new(memory: Watched<true>, event_idx: bool) -> Self {
        memory.store16(DEVICE + RING_FLAGS, USED_F_NO_NOTIFY, Relaxed);
        memory.store16(DEVICE + avail_event(SIZE), u16::MAX, Relaxed);
        Self { memory, event_idx, taken: 0 }
    }

    fn look(&self) -> Option<u16> {
        let available = self.memory.load16(DRIVER + RING_INDEX, Acquire) != self.taken;
        available.then(|| self.memory.load16(DRIVER + RING_ENTRIES + 2 * usize::from(self.taken % SIZE), Relaxed))
    }

    fn listen(&mut self) {
        match self.event_idx {
            true => self.memory.store16(DEVICE + avail_event(SIZE), self.taken, Relaxed),
            false => self.memory.store16(DEVICE + RING_FLAGS, 0, Relaxed),
        }
        Watched::<true>::fence();
    }

    fn give_back(&mut self, id: u16) -> bool {
        let entry = DEVICE + RING_ENTRIES + 8 * usize::from(self.taken % SIZE);
        self.memory.store32(entry, id.into(), Relaxed);
        self.memory.store32(entry + 4, 1, Relaxed);
        let old = self.taken;
        self.taken += 1;
        self.memory.store16(DEVICE + RING_INDEX, self.taken, Release);
        Watched::<true>::fence();
        match self.event_idx {
            true => need_event(self.memory.load16(DRIVER + used_event(SIZE), Relaxed), self.taken, old),
            false => self.memory.load16(DRIVER + RING_FLAGS, Relaxed) & AVAIL_F_NO_INTERRUPT == 0,
        }
    }
}

struct PackedDevice {
    memory: Watched<true>,
    event_idx: bool,
    position: Position,
}

impl PackedDevice {
    fn tail(&self) -> usize {
        usize::from(self.position.index) * packed::DESC_LEN + packed::DESC_LENGTH
    }
}

impl Device for PackedDevice {
    fn new(memory: Watched<true>, event_idx: bool) -> Self {
        memory.store32(DEVICE, Event { position: Position::START, flags: EVENT_DISABLE }.word(), Relaxed);
        Self { memory, event_idx, position: Position::START }
    }

    fn look(&self) -> Option<u16> {
        let descriptor = packed::Descriptor::from_words(0, self.memory.load64(self.tail(), Acquire));
        self.position.is_available(descriptor.flags).then_some(descriptor.id)
    }

    fn listen(&mut self) {
        let flags = if self.event_idx { EVENT_DESC } else { EVENT_ENABLE };
        self.memory.store32(DEVICE, Event { position: self.position, flags }.word(), Relaxed);
        Watched::<true>::fence();
    }

    fn give_back(&mut self, id: u16) -> bool {
        let used = packed::Descriptor { address: 0, length: 1, id, flags: self.position.used() };
        self.memory.store64(self.tail(), used.tail(), Release);
        self.position = self.position.advanced(1, SIZE);
        Watched::<true>::fence();
        Event::parse(self.memory.load32(DRIVER, Relaxed)).is_due(self.position, 1, SIZE)
    }
}

/// What stands for the contents of a buffer, as driver and device write them.
const fn contents(token: u64) -> usize {
    CONTENTS + 8 * token as usize
}

/// Adds a buffer, and shows it to the device. Whether it wants its doorbell rung.
fn send<R: Virtqueue<u64>>(ring: &mut R, memory: &Watched<true>, token: u64) -> bool {
    memory.store64(contents(token), token + 1, Relaxed);
    // SAFETY: nobody accesses the segment.
    unsafe { ring.add((token, 1), Access::DeviceWrites, token) }.expect("there is room");
    ring.publish()
}

/// The device takes the next buffer, whose id is `id`: it sees what the driver wrote, and writes something itself.
fn work(device: &mut impl Device, memory: &Watched<true>, id: u16, token: u64) -> bool {
    assert_eq!(memory.load64(contents(token), Relaxed), token + 1, "the buffer was published before it was filled");
    memory.store64(contents(token), 100 + token, Relaxed);
    device.give_back(id)
}

fn check(memory: &Watched<true>, used: &Used<u64>, token: u64) {
    assert_eq!((used.token, used.written), (token, 1));
    assert_eq!(memory.load64(contents(token), Relaxed), 100 + token, "the buffer was used before it was filled");
}

/// A ring and its device; `lead` buffers have gone through, so that positions wrap sooner or later.
fn begin<R: Virtqueue<u64>, D: Device>(features: Features, lead: u64) -> (R, D, Watched<true>) {
    // SAFETY: memory of this process, counted by all who use it.
    let mut ring = unsafe { R::new(SIZE, 1, features) }.unwrap();
    let memory = Watched::<true>(MADE.take().expect("the ring has just made it"));
    let mut device = D::new(memory.clone(), features.contains(Features::EVENT_IDX));
    for token in 0..lead {
        assert!(!send(&mut ring, &memory, token));
        let id = device.look().unwrap();
        assert!(!work(&mut device, &memory, id, token));
        check(&memory, &ring.take().unwrap().unwrap(), token);
    }
    (ring, device, memory)
}

/// The device works until it has nothing to do, and would sleep. The token for which it would wait.
fn serve(device: &mut impl Device, memory: &Watched<true>, doorbell: &Wire, from: u64, to: u64) -> u64 {
    for token in from..to {
        let id = loop {
            if let Some(id) = device.look() {
                break id;
            }
            device.listen();
            match device.look() {
                Some(id) => break id,
                None if doorbell.take() => {}
                None => return token,
            }
        };
        work(device, memory, id, token);
    }
    to
}

/// The device sleeps when there is nothing to do; the driver publishes `count` buffers, each by itself.
fn doorbells<R: Virtqueue<u64> + 'static, D: Device + 'static>(features: Features, lead: u64, count: u64) {
    let (mut ring, mut device, memory) = begin::<R, D>(features, lead);
    let (doorbell, end) = (Wire::new(), lead + count);
    let (rung, seen) = (doorbell.clone(), memory.clone());
    let thread = loom::thread::spawn(move || {
        let token = serve(&mut device, &seen, &rung, lead, end);
        (device, token)
    });
    for token in lead..end {
        if send(&mut ring, &memory, token) {
            doorbell.send();
        }
    }
    let (mut device, mut token) = thread.join().unwrap();
    while token < end {
        assert!(doorbell.take(), "a doorbell is lost");
        token = serve(&mut device, &memory, &doorbell, token, end);
    }
}

/// The driver sleeps when there is nothing to take; the device uses `count` buffers, each by itself.
fn interrupts<R: Virtqueue<u64> + 'static, D: Device + 'static>(features: Features, lead: u64, count: u64) {
    let (mut ring, mut device, memory) = begin::<R, D>(features, lead);
    let (interrupt, end) = (Wire::new(), lead + count);
    for token in lead..end {
        let _ = send(&mut ring, &memory, token);
    }
    let (raised, seen) = (interrupt.clone(), memory.clone());
    let thread = loom::thread::spawn(move || {
        for token in lead..end {
            let id = device.look().expect("it was published before");
            if work(&mut device, &seen, id, token) {
                raised.send();
            }
        }
    });
    let mut thread = Some(thread);
    for token in lead..end {
        let used = loop {
            if let Some(used) = ring.take().unwrap() {
                break used;
            }
            if !ring.enable_interrupts(0) && !interrupt.take() {
                // It would sleep: then the device does all that it has to do.
                thread.take().into_iter().for_each(|thread| thread.join().unwrap());
                assert!(interrupt.take(), "an interrupt is lost");
            }
            ring.disable_interrupts();
        };
        check(&memory, &used, token);
    }
    thread.take().into_iter().for_each(|thread| thread.join().unwrap());
}

/// Both at once: `count` buffers go round, and each side sleeps when it has nothing to do.
fn round_trips<R: Virtqueue<u64> + 'static, D: Device + 'static>(features: Features, lead: u64, count: u64) {
    let (mut ring, mut device, memory) = begin::<R, D>(features, lead);
    let (doorbell, interrupt) = (Wire::new(), Wire::new());
    let (rung, raised, seen) = (doorbell.clone(), interrupt.clone(), memory.clone());
    let thread = loom::thread::spawn(move || {
        for token in lead..lead + count {
            device.listen();
            let id = loop {
                match device.look() {
                    Some(id) => break id,
                    None => rung.wait(),
                }
            };
            if work(&mut device, &seen, id, token) {
                raised.send();
            }
        }
    });
    for token in lead..lead + count {
        if send(&mut ring, &memory, token) {
            doorbell.send();
        }
        let used = loop {
            if !ring.enable_interrupts(0) {
                interrupt.wait();
            }
            if let Some(used) = ring.take().unwrap() {
                break used;
            }
        };
        check(&memory, &used, token);
    }
    thread.join().unwrap();
}

/// Goes through every order with at most so many switches from one side to the other that neither asked for.
fn explore(packed: bool, switches: usize, model: impl Fn() + Sync + Send + 'static) {
    PACKED.set(packed);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.check(model);
}

const FLAG: Features = Features::VERSION_1;
const INDEX: Features = Features::VERSION_1.union(Features::EVENT_IDX);

type SplitRing<const FENCE: bool> = split::Ring<Watched<FENCE>, u64>;
type PackedRing<const FENCE: bool> = super::packed::Ring<Watched<FENCE>, u64>;

macro_rules! models {
    ($name:ident, $packed:literal, $ring:ident, $device:ident) => {
        mod $name {
            use super::*;

            #[test]
            fn no_doorbell_is_lost() {
                for features in [FLAG, INDEX] {
                    for lead in 0..2 {
                        explore($packed, 3, move || doorbells::<$ring<true>, $device>(features, lead, 2));
                    }
                }
            }

            #[test]
            fn no_interrupt_is_lost() {
                for features in [FLAG, INDEX, FLAG | Features::IN_ORDER, INDEX | Features::IN_ORDER] {
                    for lead in 0..2 {
                        explore($packed, 3, move || interrupts::<$ring<true>, $device>(features, lead, 2));
                    }
                }
            }

            #[test]
            fn nobody_sleeps_for_ever() {
                for features in [FLAG, INDEX] {
                    explore($packed, 2, move || round_trips::<$ring<true>, $device>(features, 1, 2));
                }
            }

            #[test]
            #[should_panic(expected = "a doorbell is lost")]
            fn without_the_fence_a_doorbell_is_lost() {
                explore($packed, 3, || doorbells::<$ring<false>, $device>(INDEX, 1, 2));
            }

            #[test]
            #[should_panic(expected = "an interrupt is lost")]
            fn without_the_fence_an_interrupt_is_lost() {
                explore($packed, 3, || interrupts::<$ring<false>, $device>(INDEX, 1, 2));
            }

            #[test]
            #[should_panic(expected = "a doorbell is lost")]
            fn without_the_fence_a_doorbell_is_lost_by_flag() {
                explore($packed, 3, || doorbells::<$ring<false>, $device>(FLAG, 1, 2));
            }
        }
    };
}

models!(of_split, false, SplitRing, SplitDevice);
models!(of_packed, true, PackedRing, PackedDevice);
