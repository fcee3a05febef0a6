//! Any register accesses and any contents of split and packed rings, between any frames and any steps of the clock: no panic,
//! no endless loop, nothing touched outside of the guest's memory, and after a reset all is well.
//!
//! Everything happens in one thread, in memory that is used again each time: what it costs is what the device costs.

#![no_main]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ringlet::backend::{Backend, Counters, Received, Scatter, Sent};
use ringlet::virtio::Shared;
use ringlet::virtio::memory::Memory;
use ringlet::virtio::mmio::{Line, Mmio};
use ringlet::virtio::net::{self, Activation, Net};
use ringlet::virtio::queue::Place;
use ringlet::virtio::registers::{Control, Identity, Registers};
use ringlet::vmm::{GuestRam, MmioDevice};
use ringlet_driver::features::Features;
use ringlet_driver::wire::packed::Position;
use ringlet_driver::wire::{MAX_GSO_FRAME, NetHdr, mmio as register, split, status};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Where rings, tables and buffers are, so that the fuzzer hits them: 64 KiB from here, and 64 KiB more for buffers that
/// begin at their end.
const BASE: u64 = 0x10_0000;
const REACH: usize = 0x2_0000;
/// Where memory ends.
const END: u64 = 32 << 20;
/// Of the end of memory, so much is used.
const EDGE: usize = 0x1000;
/// Descriptors of a queue.
const SIZE: u16 = 8;

/// One thing that the guest, its network or the clock does.
#[derive(Arbitrary, Debug)]
enum Act {
    Store(u8, u32),
    Load(u16, u8),
    /// All that a driver does up to DRIVER_OK, with these features of the offered ones, and queues of about these sizes.
    Start {
        features: u64,
        sizes: [u8; 2],
    },
    /// A queue is reset, and perhaps brought back with another size.
    Reset {
        queue: bool,
        size: Option<u8>,
    },
    /// In one of four tables: those of the queues, and two for indirection.
    Descriptor {
        table: u8,
        index: u8,
        near: u16,
        far: Option<u64>,
        length: u16,
        long: bool,
        flags: u8,
        next: u8,
    },
    /// As drivers do it: an entry of the available ring, or the flags by which the next descriptor is available.
    Offer {
        queue: bool,
        head: u8,
    },
    /// A descriptor that a driver would have written, made available at once: traffic.
    Good {
        queue: bool,
        near: u16,
        length: u16,
        more: bool,
    },
    Jump {
        queue: bool,
        index: u16,
    },
    /// What the driver wants to be told of.
    Event {
        queue: bool,
        word: u32,
    },
    Poke {
        at: u16,
        value: u64,
    },
    Arrive {
        length: u16,
        large: bool,
    },
    Full(bool),
    Gone,
    Turn,
    Sleep,
    Wait(u8),
    /// A queue stops, and goes on where it stopped or anywhere.
    Move {
        queue: bool,
        to: Option<u32>,
    },
}

#[derive(Default)]
struct State {
    waiting: VecDeque<usize>,
    full: bool,
    gone: bool,
}

/// A network that reads all it is sent, and writes all it is given room for.
struct Wire(Arc<Mutex<State>>);

thread_local! {
    /// What frames are read into, longer than any.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; 0x2_0000]);
}

/// What frames for the guest are made of.
static PATTERN: [u8; NetHdr::LEN + MAX_GSO_FRAME] = [0xa5; NetHdr::LEN + MAX_GSO_FRAME];
static ZEROS: [u8; REACH] = [0; REACH];

impl Backend for Wire {
    fn name(&self) -> &'static str {
        "wire"
    }

    fn offloads(&self) -> Features {
        Features::all()
    }

    fn negotiated(&mut self, _features: Features) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, frame: &Scatter<'_>) -> io::Result<Sent> {
        let state = self.0.lock().unwrap();
        if state.gone {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if state.full {
            return Ok(Sent::Later);
        }
        READ.with_borrow_mut(|bytes| {
            let length = frame.len() - NetHdr::LEN;
            assert!((14..=MAX_GSO_FRAME).contains(&length), "{length}");
            assert_eq!(frame.read(0, bytes), frame.len());
            let header = NetHdr::parse(bytes.first_chunk().expect("a header"));
            let end = usize::from(header.csum_start) + usize::from(header.csum_offset) + 2;
            assert!(!header.needs_csum() || end <= length, "{header:?}");
            assert!(!header.is_gso() || header.gso_size > 0 && header.needs_csum(), "{header:?}");
        });
        Ok(Sent::Done)
    }

    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<Received> {
        let mut state = self.0.lock().unwrap();
        if state.gone {
            return Err(io::ErrorKind::NotConnected.into());
        }
        match state.waiting.front().copied() {
            None => Ok(Received::Empty),
            Some(length) if length > room.len() => Ok(Received::TooSmall(length)),
            Some(length) => {
                state.waiting.pop_front();
                assert_eq!(room.write(0, &PATTERN[..length]), length);
                Ok(Received::Frame(length))
            }
        }
    }

    fn discard(&mut self) {
        self.0.lock().unwrap().waiting.pop_front().expect("a frame that was too large");
    }

    fn turn(&mut self, _now: Instant) -> Option<Instant> {
        None
    }

    fn wait_on(&self, _fds: &mut Vec<RawFd>) {}

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

/// The device in this very thread.
struct Inline(Net<Wire>);

impl Control for Inline {
    fn start(&mut self, activation: Activation) {
        self.0.start(&activation);
    }

    fn stop_queue(&mut self, queue: u16) {
        let _ = self.0.stop_queue(queue);
    }

    fn restart_queue(&mut self, queue: u16, place: Place) {
        let _ = self.0.start_queue(queue, &place, None);
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    fn doorbell(&mut self, _queue: u16) {}
}

/// The same memory each time: it is never unmapped.
fn ram() -> &'static GuestRam {
    static RAM: OnceLock<GuestRam> = OnceLock::new();
    RAM.get_or_init(|| GuestRam::new((END >> 20) as u32).expect("memory"))
}

fn descriptors(queue: usize) -> u64 {
    BASE + 0x1000 * queue as u64
}

fn driver(queue: usize) -> u64 {
    descriptors(queue) + 0x400
}

fn device(queue: usize) -> u64 {
    descriptors(queue) + 0x800
}

struct Guest {
    registers: Mmio<Inline>,
    wire: Arc<Mutex<State>>,
    shared: Arc<Shared>,
    packed: bool,
    sizes: [u16; 2],
    /// Split rings: how many entries of the available ring were written. Packed rings: where the next descriptor goes.
    indices: [u16; 2],
    next: [Position; 2],
}

impl Guest {
    fn store(&mut self, offset: usize, value: u32) {
        self.registers.write(offset as u64, &value.to_le_bytes());
    }

    fn net(&mut self) -> &mut Net<Wire> {
        &mut self.registers.registers.control().0
    }

    fn start(&mut self, features: u64, sizes: [u8; 2]) {
        let offered = net::offered(&Wire(self.wire.clone()), Features::all());
        let features = (Features::from_bits_retain(features) & offered | Features::VERSION_1).without_unmet();
        self.packed = features.contains(Features::RING_PACKED);
        for bits in [0, status::ACKNOWLEDGE, status::DRIVER] {
            self.store(register::STATUS, bits.into());
        }
        for half in [0, 1] {
            self.store(register::DRIVER_FEATURES_SEL, half);
            self.store(register::DRIVER_FEATURES, (features.bits() >> (32 * half)) as u32);
        }
        self.store(register::STATUS, status::FEATURES_OK.into());
        for (queue, &size) in sizes.iter().enumerate() {
            self.store(register::QUEUE_SEL, queue as u32);
            self.place(queue, size);
        }
        self.store(register::STATUS, status::DRIVER_OK.into());
    }

    /// Makes the selected queue ready, with a ring that is empty.
    fn place(&mut self, queue: usize, size: u8) {
        let size = u16::from(size % 16) + 1;
        let size = if self.packed { size } else { size.next_power_of_two() };
        (self.sizes[queue], self.indices[queue], self.next[queue]) = (size, 0, Position::START);
        ram().write(driver(queue), &ZEROS[..64]).expect("in memory");
        if self.packed {
            ram().write(descriptors(queue), &ZEROS[..16 * usize::from(size)]).expect("in memory");
        }
        self.store(register::QUEUE_SIZE, size.into());
        self.store(register::QUEUE_DESC_LOW, descriptors(queue) as u32);
        self.store(register::QUEUE_DRIVER_LOW, driver(queue) as u32);
        self.store(register::QUEUE_DEVICE_LOW, device(queue) as u32);
        self.store(register::QUEUE_READY, 1);
    }

    fn offer(&mut self, queue: usize, head: u16) {
        if self.packed {
            // What lies there, made available; the rest of it as it is.
            let position = self.next[queue];
            let at = descriptors(queue) + 16 * u64::from(position.index);
            let mut flags = [0; 2];
            ram().read(at + 14, &mut flags).expect("in memory");
            let flags = u16::from_le_bytes(flags) & 7 | position.available();
            ram().write(at + 14, &flags.to_le_bytes()).expect("in memory");
            self.next[queue] = position.advanced(1, self.sizes[queue]);
            return;
        }
        let slot = u64::from(self.indices[queue] & (self.sizes[queue] - 1));
        ram().write(driver(queue) + 4 + 2 * slot, &head.to_le_bytes()).expect("in memory");
        self.indices[queue] = self.indices[queue].wrapping_add(1);
        ram().write(driver(queue) + 2, &self.indices[queue].to_le_bytes()).expect("in memory");
    }

    /// A descriptor of a good driver's, with the next one chained to it if there is `more`.
    fn good(&mut self, queue: usize, address: u64, length: u32, more: bool) {
        let write = if queue == 0 { split::DESC_F_WRITE } else { 0 };
        let flags = write | if more { split::DESC_F_NEXT } else { 0 };
        if self.packed {
            let position = self.next[queue];
            let flags = flags | position.available();
            descriptor(descriptors(queue), position.index, address, length, position.index, flags);
            self.next[queue] = position.advanced(1, self.sizes[queue]);
        } else {
            let index = self.indices[queue] & (self.sizes[queue] - 1);
            descriptor(descriptors(queue), index, address, length, flags, (index + 1) & (self.sizes[queue] - 1));
            self.offer(queue, index);
        }
    }
}

/// The last two words of a descriptor are flags and next one in a split ring, and id and flags in a packed one.
fn descriptor(table: u64, index: u16, address: u64, length: u32, word: u16, other: u16) {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&word.to_le_bytes());
    bytes[14..].copy_from_slice(&other.to_le_bytes());
    ram().write(table + 16 * u64::from(index), &bytes).expect("in memory");
}

/// An address somewhere: outside of memory, or at its very end.
fn somewhere(far: u64) -> u64 {
    if far < END { END - 1 - far % EDGE as u64 } else { far }
}

fuzz_target!(|input: (bool, Vec<Act>)| {
    let (packed, acts) = input;
    ram().write(BASE, &ZEROS).expect("in memory");
    ram().write(END - EDGE as u64, &ZEROS[..EDGE]).expect("in memory");
    static LINE: OnceLock<Arc<Line>> = OnceLock::new();
    let line = LINE.get_or_init(|| Arc::new(Line::new(EventFd::new(EFD_NONBLOCK).expect("an eventfd")))).clone();
    let wire = Arc::<Mutex<State>>::default();
    let shared = Arc::new(Shared::new(line.clone(), Box::new(|_| ())));
    let memory = Memory::new(ram().clone());
    let backend = Wire(wire.clone());
    let offered = net::offered(&backend, Features::all());
    let control = Inline(Net::new(memory.clone(), backend, shared.clone()));
    let identity = Identity { offered, mac: [2, 0, 0, 0, 0, 1], mtu: 1500, queue_size: 1024 };
    let registers = Mmio::new(Registers::new(control, shared.clone(), memory, identity), line);
    let (indices, next) = ([0; 2], [Position::START; 2]);
    let mut guest = Guest { registers, wire, shared, packed, sizes: [SIZE; 2], indices, next };
    let mut now = Instant::now();
    // Most of the time there is a device at work to be hostile to.
    let wished = if packed { Features::all() } else { Features::all() - Features::RING_PACKED };
    guest.start(wished.bits(), [7; 2]);
    for act in acts.into_iter().take(200) {
        match act {
            Act::Store(at, value) => guest.store(usize::from(at & 0x3f) * 4, value),
            Act::Load(at, length) => {
                guest.registers.read((at & 0xfff).into(), &mut [0xff; 16][..usize::from(length & 15)]);
            }
            Act::Start { features, sizes } => guest.start(features, sizes),
            Act::Reset { queue, size } => {
                guest.store(register::QUEUE_SEL, queue.into());
                guest.store(register::QUEUE_RESET, 1);
                if let Some(size) = size {
                    guest.place(queue.into(), size);
                }
            }
            Act::Descriptor { table, index, near, far, length, long, flags, next } => {
                let address = far.map_or(BASE + u64::from(near), somewhere);
                let table = descriptors(usize::from(table & 3));
                let length = if long { u32::from(length) << 16 } else { length.into() };
                let (flags, next) = (u16::from(flags & 7), u16::from(next & 15));
                if guest.packed {
                    descriptor(table, (index & 31).into(), address, length, next, flags);
                } else {
                    descriptor(table, (index & 31).into(), address, length, flags, next);
                }
            }
            Act::Offer { queue, head } => guest.offer(queue.into(), (head & 15).into()),
            Act::Good { queue, near, length, more } => {
                guest.good(queue.into(), BASE + 0x4000 + u64::from(near), (length & 0xfff).into(), more);
            }
            Act::Jump { queue, index } if guest.packed => {
                guest.next[usize::from(queue)] =
                    Position { index: index % guest.sizes[usize::from(queue)], ..Position::parse(index) };
            }
            Act::Jump { queue, index } => {
                ram().write(driver(queue.into()) + 2, &index.to_le_bytes()).expect("in memory");
            }
            Act::Event { queue, word } if guest.packed => {
                ram().write(driver(queue.into()), &word.to_le_bytes()).expect("in memory");
            }
            Act::Event { queue, word } => {
                let at = driver(queue.into()) + split::used_event(guest.sizes[usize::from(queue)]) as u64;
                ram().write(at, &(word as u16).to_le_bytes()).expect("in memory");
            }
            Act::Poke { at, value } => ram().write(BASE + u64::from(at), &value.to_le_bytes()).expect("in memory"),
            Act::Arrive { length, large } => {
                let length = if large { usize::from(length) } else { usize::from(length & 0x7ff) };
                guest.wire.lock().unwrap().waiting.push_back((NetHdr::LEN + length).min(PATTERN.len()));
            }
            Act::Full(full) => guest.wire.lock().unwrap().full = full,
            Act::Gone => guest.wire.lock().unwrap().gone = true,
            Act::Turn => drop(guest.net().turn(now)),
            Act::Sleep => {
                guest.net().listen(true);
                guest.net().quieten();
            }
            Act::Wait(time) => now += Duration::from_millis(time.into()),
            Act::Move { queue, to } => {
                let (index, queue) = (usize::from(queue), u16::from(queue));
                let size = guest.sizes[index];
                let place =
                    Place { size, descriptors: descriptors(index), driver: driver(index), device: device(index) };
                let stopped = guest.net().stop_queue(queue);
                let _ = guest.net().start_queue(queue, &place, to.or(stopped));
            }
        }
    }
    // Whatever has happened: a driver that keeps to the rules can work, unless there is no network any more.
    let gone = std::mem::take(&mut *guest.wire.lock().unwrap()).gone;
    guest.start(if packed { Features::RING_PACKED.bits() } else { 0 }, [7; 2]);
    ram().write(BASE + 0x8000, &ZEROS[..72]).expect("in memory");
    guest.good(1, BASE + 0x8000, 72, false);
    let count = |guest: &Guest| guest.shared.counters().from_guest;
    let before = count(&guest);
    guest.net().turn(now);
    let after = count(&guest);
    assert!(gone || after.frames == before.frames + 1, "{before:?} {after:?}");
    assert_eq!(after.frames + after.dropped, before.frames + before.dropped + 1);
    assert!(!guest.shared.needs_reset());
});
