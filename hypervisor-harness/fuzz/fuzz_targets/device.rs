//! Any register accesses and any ring contents, between any frames and any steps of the clock: no panic, no endless loop,
//! nothing touched outside of the guest's memory, and after a reset all is well.

#![no_main]

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
use ringlet_driver::wire::{MAX_GSO_FRAME, NetHdr, mmio as register, status};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Where rings, tables and buffers are, so that the fuzzer hits them: 64 KiB from here.
const BASE: u64 = 0x10_0000;
/// Descriptors of a queue.
const SIZE: u16 = 8;

/// One thing that the guest, its network or the clock does.
#[derive(Arbitrary, Debug)]
enum Act {
    Store(u8, u32),
    Load(u16, u8),
    /// All that a driver does up to DRIVER_OK, with these features of the offered ones.
    Start(u64),
    /// In one of four tables: those of the queues, and two for indirection.
    Descriptor {
        table: u8,
        index: u8,
        near: u16,
        far: Option<u64>,
        length: u16,
        flags: u8,
        next: u8,
    },
    Offer {
        queue: bool,
        head: u8,
    },
    Jump {
        queue: bool,
        index: u16,
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
    Turn,
    Sleep,
    Wait(u8),
}

#[derive(Default)]
struct State {
    waiting: VecDeque<usize>,
    full: bool,
}

/// A network that reads all it is sent, and writes all it is given room for.
struct Wire(Arc<Mutex<State>>);

impl Backend for Wire {
    fn name(&self) -> &'static str {
        "wire"
    }

    fn offloads(&self) -> Features {
        Features::IMPLEMENTED | Features::HOST_ECN | Features::GUEST_ECN | Features::HOST_USO
    }

    fn negotiated(&mut self, _features: Features) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, frame: &Scatter<'_>) -> io::Result<Sent> {
        if self.0.lock().unwrap().full {
            return Ok(Sent::Later);
        }
        let mut bytes = vec![0; frame.len()];
        assert_eq!(frame.read(0, &mut bytes), bytes.len());
        let header = NetHdr::parse(bytes.first_chunk().expect("a header"));
        let length = bytes.len() - NetHdr::LEN;
        assert!((14..=MAX_GSO_FRAME).contains(&length), "{length}");
        let end = usize::from(header.csum_start) + usize::from(header.csum_offset) + 2;
        assert!(!header.needs_csum() || end <= length, "{header:?}");
        assert!(!header.is_gso() || header.gso_size > 0 && header.needs_csum(), "{header:?}");
        Ok(Sent::Done)
    }

    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<Received> {
        let mut state = self.0.lock().unwrap();
        match state.waiting.front().copied() {
            None => Ok(Received::Empty),
            Some(length) if length > room.len() => Ok(Received::TooSmall(length)),
            Some(length) => {
                state.waiting.pop_front();
                assert_eq!(room.write(0, &vec![0xa5; length]), length);
                Ok(Received::Frame(length))
            }
        }
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
    RAM.get_or_init(|| GuestRam::new(32).expect("memory"))
}

fn descriptors(queue: usize) -> u64 {
    BASE + 0x1000 * queue as u64
}

fn available(queue: usize) -> u64 {
    descriptors(queue) + 0x400
}

struct Guest {
    registers: Mmio<Inline>,
    wire: Arc<Mutex<State>>,
    shared: Arc<Shared>,
    indices: [u16; 2],
}

impl Guest {
    fn store(&mut self, offset: usize, value: u32) {
        self.registers.write(offset as u64, &value.to_le_bytes());
    }

    fn start(&mut self, features: u64) {
        let offered = net::offered(&Wire(self.wire.clone()), Features::all());
        let features = (Features::from_bits_retain(features) & offered | Features::VERSION_1).without_unmet();
        for bits in [0, status::ACKNOWLEDGE, status::DRIVER] {
            self.store(register::STATUS, bits.into());
        }
        for half in [0, 1] {
            self.store(register::DRIVER_FEATURES_SEL, half);
            self.store(register::DRIVER_FEATURES, (features.bits() >> (32 * half)) as u32);
        }
        self.store(register::STATUS, status::FEATURES_OK.into());
        for queue in 0..2 {
            ram().write(available(queue), &[0; 64]).expect("in memory");
            self.store(register::QUEUE_SEL, queue as u32);
            self.store(register::QUEUE_SIZE, SIZE.into());
            self.store(register::QUEUE_DESC_LOW, descriptors(queue) as u32);
            self.store(register::QUEUE_DRIVER_LOW, available(queue) as u32);
            self.store(register::QUEUE_DEVICE_LOW, descriptors(queue) as u32 + 0x800);
            self.store(register::QUEUE_READY, 1);
        }
        self.store(register::STATUS, status::DRIVER_OK.into());
        self.indices = [0; 2];
    }

    fn offer(&mut self, queue: usize, head: u16) {
        let slot = u64::from(self.indices[queue] & (SIZE - 1));
        ram().write(available(queue) + 4 + 2 * slot, &head.to_le_bytes()).expect("in memory");
        self.indices[queue] = self.indices[queue].wrapping_add(1);
        ram().write(available(queue) + 2, &self.indices[queue].to_le_bytes()).expect("in memory");
    }
}

fn descriptor(table: u64, index: u8, address: u64, length: u32, flags: u16, next: u16) {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    ram().write(table + 16 * u64::from(index), &bytes).expect("in memory");
}

fuzz_target!(|acts: Vec<Act>| {
    ram().zero(BASE, BASE + 0x2_0000).expect("in memory");
    let wire = Arc::<Mutex<State>>::default();
    let line = Arc::new(Line::new(EventFd::new(EFD_NONBLOCK).expect("an eventfd")));
    let shared = Arc::new(Shared::new(line.clone(), Box::new(|_| ())));
    let memory = Memory::new(ram().clone());
    let backend = Wire(wire.clone());
    let offered = net::offered(&backend, Features::all());
    let control = Inline(Net::new(memory.clone(), backend, shared.clone()));
    let identity = Identity { offered, mac: [2, 0, 0, 0, 0, 1], mtu: 1500, queue_size: 1024 };
    let registers = Mmio::new(Registers::new(control, shared.clone(), memory, identity), line);
    let mut guest = Guest { registers, wire, shared, indices: [0; 2] };
    let mut now = Instant::now();
    for act in acts.into_iter().take(200) {
        match act {
            Act::Store(at, value) => guest.store(usize::from(at & 0x3f) * 4, value),
            Act::Load(at, length) => {
                guest.registers.read((at & 0xfff).into(), &mut vec![0xff; usize::from(length & 15)])
            }
            Act::Start(features) => guest.start(features),
            Act::Descriptor { table, index, near, far, length, flags, next } => {
                let address = far.unwrap_or(BASE + u64::from(near));
                let table = descriptors(usize::from(table & 3));
                descriptor(table, index & 31, address, length.into(), (flags & 7).into(), (next & 15).into());
            }
            Act::Offer { queue, head } => guest.offer(queue.into(), (head & 15).into()),
            Act::Jump { queue, index } => {
                ram().write(available(queue.into()) + 2, &index.to_le_bytes()).expect("in memory");
            }
            Act::Poke { at, value } => ram().write(BASE + u64::from(at), &value.to_le_bytes()).expect("in memory"),
            Act::Arrive { length, large } => {
                let length = if large { usize::from(length) } else { usize::from(length & 0x7ff) };
                guest.wire.lock().unwrap().waiting.push_back((NetHdr::LEN + length).min(MAX_GSO_FRAME + NetHdr::LEN));
            }
            Act::Full(full) => guest.wire.lock().unwrap().full = full,
            Act::Turn => drop(guest.registers.registers.control().0.turn(now)),
            Act::Sleep => {
                guest.registers.registers.control().0.listen(true);
                guest.registers.registers.control().0.quieten();
            }
            Act::Wait(time) => now += Duration::from_millis(time.into()),
        }
    }
    // Whatever has happened: a driver that keeps to the rules can work.
    *guest.wire.lock().unwrap() = State::default();
    guest.start(0);
    descriptor(descriptors(1), 0, BASE + 0x8000, 72, 0, 0);
    ram().write(BASE + 0x8000, &[0; 72]).expect("in memory");
    guest.offer(1, 0);
    let before = guest.shared.counters().from_guest.frames;
    guest.registers.registers.control().0.turn(now);
    assert_eq!(guest.shared.counters().from_guest.frames, before + 1);
    assert!(!guest.shared.needs_reset());
});
