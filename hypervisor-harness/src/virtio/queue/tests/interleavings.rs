//! Device and driver in every order in which their accesses can happen, reordered by the processor as its memory model allows
//! (loom): no notification is lost, and nothing is seen before it is written. Without the device's fence one is lost: that is
//! shown too.
//!
//! The queues are the real ones, on memory that loom watches. The driver is in as few words as can be. Each test is a handful
//! of buffers with a ring of two, so that positions wrap.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
// Not loom's: the models are not about who frees what, and one that ends in a deadlock drops things outside of its sight.
use std::sync::Arc;

use loom::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};
use loom::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};
use loom::sync::{Condvar, Mutex};
use ringlet_driver::wire::packed as packed_layout;
use ringlet_driver::wire::packed::{EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE, Event, Position};
use ringlet_driver::wire::split as split_layout;
use ringlet_driver::wire::split::{
    AVAIL_F_NO_INTERRUPT, DESC_F_WRITE, RING_ENTRIES, RING_FLAGS, RING_INDEX, USED_F_NO_NOTIFY, avail_event,
    need_event, used_event,
};

use super::*;
use crate::virtio::memory::Words;
use crate::virtio::queue::packed::Packed;
use crate::virtio::queue::split::Split;

const SIZE: u16 = 2;
/// Where the areas of either format lie, and behind them what stands for the contents of buffers.
const PLACE: Place = Place { size: SIZE, descriptors: 0, driver: 64, device: 128 };
const DRIVER: usize = PLACE.driver as usize;
const DEVICE: usize = PLACE.device as usize;
const CONTENTS: usize = 192;

/// A word of memory.
#[derive(Debug)]
enum Word {
    Bits16(AtomicU16),
    Bits32(AtomicU32),
    Bits64(AtomicU64),
}

/// Memory under loom's eyes, from an address on; whether the device's fences are fences can be chosen.
#[derive(Debug, Clone)]
struct Watched<const FENCE: bool> {
    words: Arc<BTreeMap<usize, Word>>,
    base: usize,
}

std::thread_local! {
    /// The memory of the model that runs, for the queue to find.
    static MADE: RefCell<Option<Watched<true>>> = const { RefCell::new(None) };
    /// Guest memory that nobody looks at: buffers are only looked up in it.
    static RAM: GuestRam = GuestRam::new(32).unwrap();
    static PACKED: Cell<bool> = const { Cell::new(false) };
}

/// Fresh memory with all words that a ring of this format has: loom must know them from the start.
fn watched() -> Watched<true> {
    let (size, mut words) = (usize::from(SIZE), BTreeMap::new());
    for offset in (0..16 * size).step_by(8).chain((0..8).map(|n| CONTENTS + 8 * n)) {
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
    Watched { words: Arc::new(words), base: 0 }
}

macro_rules! accesses {
    ($load:ident, $store:ident, $variant:ident, $type:ty) => {
        fn $load(&self, offset: usize, order: Ordering) -> $type {
            let at = self.base + offset;
            let Some(Word::$variant(word)) = self.words.get(&at) else { panic!("no such word: {at}") };
            word.load(order)
        }

        fn $store(&self, offset: usize, value: $type, order: Ordering) {
            let at = self.base + offset;
            let Some(Word::$variant(word)) = self.words.get(&at) else { panic!("no such word: {at}") };
            word.store(value, order);
        }
    };
}

impl<const FENCE: bool> Words for Watched<FENCE> {
    fn find(_: &Memory, address: u64, _: usize) -> Result<Self, OutOfRange> {
        let words = MADE.with_borrow(|made| made.as_ref().expect("made before").words.clone());
        Ok(Self { words, base: address as usize })
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

    /// Loom notices when this never ends.
    fn wait(&self) {
        let mut sent = self.0.0.lock().unwrap();
        while !*sent {
            sent = self.0.1.wait(sent).unwrap();
        }
        *sent = false;
    }
}

/// The driver's side of a ring: buffers of one byte for the device to write, one at a time, whose address is their number.
trait Driver {
    fn new(memory: Watched<true>, event_idx: bool) -> Self;
    /// Makes a buffer available. Whether to ring the doorbell.
    fn offer(&mut self, number: u64) -> bool;
    /// The id of the next used buffer, if there is one. It stays the next one.
    fn look(&self) -> Option<u16>;
    /// Goes on behind the buffer that was looked at.
    fn skip(&mut self);
    /// Asks for an interrupt with the next used buffer. What is seen by [`Driver::look`] needs none.
    fn listen(&mut self);
    /// Asks for none.
    fn quieten(&mut self);
}

struct SplitDriver {
    memory: Watched<true>,
    event_idx: bool,
    offered: u16,
    taken: u16,
}

impl Driver for SplitDriver {
    fn new(memory: Watched<true>, event_idx: bool) -> Self {
        Self { memory, event_idx, offered: 0, taken: 0 }
    }

    fn offer(&mut self, number: u64) -> bool {
        let (old, slot) = (self.offered, self.offered % SIZE);
        let descriptor = split_layout::Descriptor { address: number, length: 1, flags: DESC_F_WRITE, next: 0 };
        for (nth, word) in descriptor.to_words().into_iter().enumerate() {
            self.memory.store64(16 * usize::from(slot) + 8 * nth, word, Relaxed);
        }
        self.memory.store16(DRIVER + RING_ENTRIES + 2 * usize::from(slot), slot, Relaxed);
        self.offered += 1;
        self.memory.store16(DRIVER + RING_INDEX, self.offered, Release);
        Watched::<true>::fence();
        match self.event_idx {
            true => need_event(self.memory.load16(DEVICE + avail_event(SIZE), Relaxed), self.offered, old),
            false => self.memory.load16(DEVICE + RING_FLAGS, Relaxed) & USED_F_NO_NOTIFY == 0,
        }
    }

    fn look(&self) -> Option<u16> {
        if self.memory.load16(DEVICE + RING_INDEX, Acquire) == self.taken {
            return None;
        }
        let entry = DEVICE + RING_ENTRIES + 8 * usize::from(self.taken % SIZE);
        assert_eq!(self.memory.load32(entry + 4, Relaxed), 1, "the length");
        Some(self.memory.load32(entry, Relaxed) as u16)
    }

    fn skip(&mut self) {
        self.taken += 1;
    }

    fn listen(&mut self) {
        match self.event_idx {
            true => self.memory.store16(DRIVER + used_event(SIZE), self.taken, Relaxed),
            false => self.memory.store16(DRIVER + RING_FLAGS, 0, Relaxed),
        }
        Watched::<true>::fence();
    }

    fn quieten(&mut self) {
        match self.event_idx {
            true => self.memory.store16(DRIVER + used_event(SIZE), self.taken.wrapping_sub(1), Relaxed),
            false => self.memory.store16(DRIVER + RING_FLAGS, AVAIL_F_NO_INTERRUPT, Relaxed),
        }
    }
}

struct PackedDriver {
    memory: Watched<true>,
    event_idx: bool,
    next: Position,
    used: Position,
}

impl PackedDriver {
    fn at(position: Position) -> usize {
        usize::from(position.index) * packed_layout::DESC_LEN
    }

    fn event(&self, flags: u16) {
        self.memory.store32(DRIVER, Event { position: self.used, flags }.word(), Relaxed);
    }
}

impl Driver for PackedDriver {
    fn new(memory: Watched<true>, event_idx: bool) -> Self {
        Self { memory, event_idx, next: Position::START, used: Position::START }
    }

    fn offer(&mut self, number: u64) -> bool {
        let flags = DESC_F_WRITE | self.next.available();
        let tail = packed_layout::Descriptor { address: 0, length: 1, id: self.next.index, flags }.tail();
        self.memory.store64(Self::at(self.next), number, Relaxed);
        self.memory.store64(Self::at(self.next) + packed_layout::DESC_LENGTH, tail, Release);
        self.next = self.next.advanced(1, SIZE);
        Watched::<true>::fence();
        Event::parse(self.memory.load32(DEVICE, Relaxed)).is_due(self.next, 1, SIZE)
    }

    fn look(&self) -> Option<u16> {
        let tail = self.memory.load64(Self::at(self.used) + packed_layout::DESC_LENGTH, Acquire);
        let descriptor = packed_layout::Descriptor::from_words(0, tail);
        self.used.is_used(descriptor.flags).then_some(descriptor.id)
    }

    fn skip(&mut self) {
        self.used = self.used.advanced(1, SIZE);
    }

    fn listen(&mut self) {
        self.event(if self.event_idx { EVENT_DESC } else { EVENT_ENABLE });
        Watched::<true>::fence();
    }

    fn quieten(&mut self) {
        self.event(EVENT_DISABLE);
    }
}

/// What stands for the contents of a buffer.
const fn contents(number: u64) -> usize {
    CONTENTS + 8 * number as usize
}

fn offer(driver: &mut impl Driver, memory: &Watched<true>, number: u64) -> bool {
    memory.store64(contents(number), number + 1, Relaxed);
    driver.offer(number)
}

/// The driver takes the used buffer that it has looked at: it sees what the device wrote.
fn check(driver: &mut impl Driver, memory: &Watched<true>, id: u16, number: u64) {
    assert_eq!(id, (number % u64::from(SIZE)) as u16);
    assert_eq!(memory.load64(contents(number), Relaxed), 100 + number, "the buffer was used before it was filled");
    driver.skip();
}

/// The device takes the next chain: it sees what the driver wrote, and writes something itself. It is not published yet.
fn work(queue: &mut impl DeviceQueue, memory: &Watched<true>, number: u64) {
    let mut pieces = Vec::new();
    let chain = queue.take(&mut pieces).unwrap().expect("it was waiting");
    assert_eq!(chain.bytes, 1);
    assert_eq!(memory.load64(contents(number), Relaxed), number + 1, "the buffer was available before it was filled");
    memory.store64(contents(number), 100 + number, Relaxed);
    queue.used(chain, 1);
}

/// A queue and its driver; `lead` buffers have gone through, so that positions wrap sooner or later.
fn begin<Q: DeviceQueue, D: Driver>(event_idx: bool, lead: u64) -> (Q, D, Watched<true>) {
    let memory = watched();
    MADE.set(Some(memory.clone()));
    let mode = Mode { event_idx, indirect: false, in_order: false };
    let view = RAM.with(|ram| Memory::new(ram.clone()));
    let mut queue = Q::new(&view, &PLACE, Direction::ToGuest, mode).unwrap();
    MADE.set(None);
    let mut driver = D::new(memory.clone(), event_idx);
    driver.quieten();
    for number in 0..lead {
        let _ = offer(&mut driver, &memory, number);
        work(&mut queue, &memory, number);
        queue.publish();
        let _ = queue.interrupt_due();
        let id = driver.look().unwrap();
        check(&mut driver, &memory, id, number);
    }
    driver.quieten();
    (queue, driver, memory)
}

/// The device sleeps when there is nothing to do; the driver makes `count` buffers available, each by itself.
fn doorbells<Q: DeviceQueue + 'static, D: Driver + 'static>(event_idx: bool, lead: u64, count: u64) {
    let (mut queue, mut driver, memory) = begin::<Q, D>(event_idx, lead);
    let doorbell = Wire::new();
    let (rung, seen) = (doorbell.clone(), memory.clone());
    let thread = loom::thread::spawn(move || {
        for number in lead..lead + count {
            // As the worker does it: look, ask and look again, sleep.
            while !queue.waiting().unwrap() {
                if !queue.listen().unwrap() {
                    rung.wait();
                }
                queue.quieten();
            }
            work(&mut queue, &seen, number);
        }
    });
    for number in lead..lead + count {
        if offer(&mut driver, &memory, number) {
            doorbell.send();
        }
    }
    thread.join().unwrap();
}

/// The driver sleeps when there is nothing to take; the device uses `count` buffers, in bursts of `burst`.
fn interrupts<Q: DeviceQueue + 'static, D: Driver + 'static>(event_idx: bool, lead: u64, count: u64, burst: u64) {
    let (mut queue, mut driver, memory) = begin::<Q, D>(event_idx, lead);
    for number in lead..lead + count {
        let _ = offer(&mut driver, &memory, number);
    }
    let interrupt = Wire::new();
    let (raised, seen) = (interrupt.clone(), memory.clone());
    let thread = loom::thread::spawn(move || {
        for number in lead..lead + count {
            work(&mut queue, &seen, number);
            if (number - lead + 1).is_multiple_of(burst) {
                queue.publish();
                if queue.interrupt_due() {
                    raised.send();
                }
            }
        }
    });
    for number in lead..lead + count {
        let id = loop {
            if let Some(id) = driver.look() {
                break id;
            }
            driver.listen();
            match driver.look() {
                Some(id) => break id,
                None => interrupt.wait(),
            }
            driver.quieten();
        };
        check(&mut driver, &memory, id, number);
    }
    thread.join().unwrap();
}

/// Goes through every order with at most so many switches from one side to the other that neither asked for.
fn explore(packed: bool, model: impl Fn() + Sync + Send + 'static) {
    PACKED.set(packed);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

macro_rules! models {
    ($name:ident, $packed:literal, $queue:ident, $driver:ident) => {
        mod $name {
            use super::*;

            #[test]
            fn no_doorbell_is_lost() {
                for event_idx in [false, true] {
                    for lead in 0..2 {
                        explore($packed, move || doorbells::<$queue<Watched<true>>, $driver>(event_idx, lead, 2));
                    }
                }
            }

            #[test]
            fn no_interrupt_is_lost() {
                for event_idx in [false, true] {
                    for (lead, burst) in [(0, 1), (1, 1), (0, 2), (1, 2)] {
                        explore($packed, move || {
                            interrupts::<$queue<Watched<true>>, $driver>(event_idx, lead, 2, burst)
                        });
                    }
                }
            }

            #[test]
            #[should_panic(expected = "deadlock")]
            fn without_the_fence_a_doorbell_is_lost() {
                explore($packed, || doorbells::<$queue<Watched<false>>, $driver>(true, 1, 2));
            }

            #[test]
            #[should_panic(expected = "deadlock")]
            fn without_the_fence_a_doorbell_is_lost_by_flag() {
                explore($packed, || doorbells::<$queue<Watched<false>>, $driver>(false, 1, 2));
            }

            #[test]
            #[should_panic(expected = "deadlock")]
            fn without_the_fence_an_interrupt_is_lost() {
                explore($packed, || interrupts::<$queue<Watched<false>>, $driver>(true, 1, 2, 1));
            }

            #[test]
            #[should_panic(expected = "deadlock")]
            fn without_the_fence_an_interrupt_is_lost_by_flag() {
                explore($packed, || interrupts::<$queue<Watched<false>>, $driver>(false, 1, 2, 1));
            }
        }
    };
}

models!(of_split, false, Split, SplitDriver);
models!(of_packed, true, Packed, PackedDriver);
