//! A guest's side for tests: a driver that does just what it is told, good or bad, and a backend to look into.

mod packed;

pub use packed::PackedRing;

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ringlet_driver::features::Features;
use ringlet_driver::wire::split::{self as layout, Descriptor};
use ringlet_driver::wire::{NetHdr, mmio as register, status};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::memory::Memory;
use super::mmio::{Line, Mmio};
use super::net::{self, Activation, Net, Turn};
use super::queue::Place;
use super::registers::{Control, Identity, Registers};
use super::{Counters, Shared};
use crate::backend::{self, Backend, Received, Scatter, Sent};
use crate::vmm::{GuestRam, MmioDevice};

/// The receive queue.
pub const RECEIVE: usize = 0;
/// The transmit queue.
pub const TRANSMIT: usize = 1;
/// Guest memory, in MiB.
const MEMORY: u32 = 32;
/// Where buffers may be put, and how far they go.
pub const BUFFERS: u64 = 0x40_0000;
/// The MAC address of the device.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// What a [`Wire`] has seen and will do.
#[derive(Debug, Default)]
pub struct State {
    /// Frames from the guest, with their headers.
    pub sent: Vec<Vec<u8>>,
    /// Frames for the guest, with their headers.
    pub waiting: VecDeque<Vec<u8>>,
    /// Answer [`Sent::Later`].
    pub full: bool,
    /// Fail for good.
    pub gone: bool,
    /// Refuse the next negotiation.
    pub unwilling: bool,
    /// What was negotiated last.
    pub features: Option<Features>,
    /// The device is in use no more since.
    pub rests: bool,
}

/// A backend whose other end is the test.
#[derive(Debug, Clone, Default)]
pub struct Wire(Arc<Mutex<State>>);

impl Wire {
    /// The test's end.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl Backend for Wire {
    fn name(&self) -> &'static str {
        "wire"
    }

    fn offloads(&self) -> Features {
        Features::CSUM
            | Features::GUEST_CSUM
            | Features::HOST_TSO4
            | Features::HOST_TSO6
            | Features::GUEST_TSO4
            | Features::GUEST_TSO6
    }

    fn negotiated(&mut self, features: Features) -> io::Result<()> {
        let mut state = self.state();
        (state.features, state.rests) = (Some(features), false);
        if std::mem::take(&mut state.unwilling) { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
    }

    fn rest(&mut self) {
        self.state().rests = true;
    }

    fn send(&mut self, frame: &Scatter<'_>) -> io::Result<Sent> {
        let mut state = self.state();
        if state.gone {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if state.full {
            return Ok(Sent::Later);
        }
        let mut bytes = vec![0; frame.len()];
        assert_eq!(frame.read(0, &mut bytes), bytes.len());
        state.sent.push(bytes);
        Ok(Sent::Done)
    }

    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<Received> {
        let mut state = self.state();
        if state.gone {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let Some(length) = state.waiting.front().map(Vec::len) else { return Ok(Received::Empty) };
        if length > room.len() {
            return Ok(Received::TooSmall(length));
        }
        let frame = state.waiting.pop_front().unwrap_or_default();
        room.write(0, &frame);
        Ok(Received::Frame(length))
    }

    fn discard(&mut self) {
        self.state().waiting.pop_front();
    }

    fn turn(&mut self, now: Instant) -> Option<Instant> {
        // Without a descriptor to wait for, the test's frames are looked for every now and then.
        Some(now + Duration::from_millis(1))
    }

    fn wait_on(&self, _fds: &mut Vec<RawFd>) {}

    fn counters(&self) -> backend::Counters {
        backend::Counters::default()
    }
}

/// The device in the test's own thread: it moves frames when it is told to.
#[derive(Debug)]
pub struct Inline {
    /// The device.
    pub net: Net<Wire>,
    /// Doorbells rung through the registers.
    pub doorbells: usize,
}

impl Control for Inline {
    fn start(&mut self, activation: Activation) {
        self.net.start(&activation);
    }

    fn stop_queue(&mut self, queue: u16) {
        let _ = self.net.stop_queue(queue);
    }

    fn restart_queue(&mut self, queue: u16, place: Place) {
        let _ = self.net.start_queue(queue, &place, None);
    }

    fn reset(&mut self) {
        self.net.reset();
    }

    fn doorbell(&mut self, _queue: u16) {
        self.doorbells += 1;
    }
}

/// Where a queue of `size` lies in a test's guest.
pub fn place(queue: usize, size: u16) -> Place {
    let base = 0x10_0000 + 0x4_0000 * queue as u64;
    Place { size, descriptors: base, driver: base + 0x8000, device: base + 0x1_0000 }
}

/// The driver's side of one split ring.
#[derive(Debug, Clone)]
pub struct Ring {
    ram: GuestRam,
    /// Where it is.
    pub place: Place,
    /// The available index.
    pub available: u16,
}

impl Ring {
    /// A zeroed ring.
    pub fn new(ram: &GuestRam, place: Place) -> Self {
        ram.zero(place.descriptors, place.descriptors + 0x2_0000).unwrap();
        Self { ram: ram.clone(), place, available: 0 }
    }

    /// Writes a descriptor of the table.
    pub fn descriptor(&self, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        self.descriptor_at(self.place.descriptors, index, Descriptor { address, length, flags, next });
    }

    /// Writes a descriptor of any table.
    pub fn descriptor_at(&self, table: u64, index: u16, descriptor: Descriptor) {
        let at = table + u64::from(index) * layout::DESC_LEN as u64;
        self.ram.write(at, &descriptor.to_bytes()).unwrap();
    }

    /// Makes a chain available.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.available & (self.place.size - 1));
        self.ram.write(self.place.driver + 4 + 2 * slot, &head.to_le_bytes()).unwrap();
        self.available = self.available.wrapping_add(1);
        self.set_available(self.available);
    }

    /// Sets the available index.
    pub fn set_available(&self, index: u16) {
        self.ram.write(self.place.driver + 2, &index.to_le_bytes()).unwrap();
    }

    /// Sets the available ring's flags.
    pub fn set_flags(&self, flags: u16) {
        self.ram.write(self.place.driver, &flags.to_le_bytes()).unwrap();
    }

    /// Sets `used_event`.
    pub fn set_used_event(&self, index: u16) {
        let at = self.place.driver + layout::used_event(self.place.size) as u64;
        self.ram.write(at, &index.to_le_bytes()).unwrap();
    }

    fn device16(&self, offset: u64) -> u16 {
        let mut bytes = [0; 2];
        self.ram.read(self.place.device + offset, &mut bytes).unwrap();
        u16::from_le_bytes(bytes)
    }

    /// The used ring's flags.
    pub fn used_flags(&self) -> u16 {
        self.device16(0)
    }

    /// The used index.
    pub fn used_index(&self) -> u16 {
        self.device16(2)
    }

    /// `avail_event`.
    pub fn avail_event(&self) -> u16 {
        self.device16(layout::avail_event(self.place.size) as u64)
    }

    /// The used entry at a position: head and length.
    pub fn used(&self, position: u16) -> (u32, u32) {
        let slot = u64::from(position & (self.place.size - 1));
        let at = 4 + 8 * slot;
        let word = |at| u32::from(self.device16(at)) | u32::from(self.device16(at + 2)) << 16;
        (word(at), word(at + 4))
    }
}

/// A guest with the device, up to the test to use.
#[derive(Debug)]
pub struct Guest {
    /// Its memory.
    pub ram: GuestRam,
    /// The registers, with the device behind them.
    pub registers: Mmio<Inline>,
    /// What the device tells.
    pub shared: Arc<Shared>,
    /// The network.
    pub wire: Wire,
    /// The rings, after [`Guest::start`].
    pub rings: Vec<Ring>,
    /// What the device has said.
    pub said: Arc<Mutex<Vec<String>>>,
    /// The interrupt.
    pub interrupt: EventFd,
    now: Instant,
}

impl Guest {
    /// A guest whose device has not been touched yet.
    pub fn new() -> Self {
        Self::offering(Features::empty())
    }

    /// As [`Guest::new`], and the device offers these features besides.
    pub fn offering(more: Features) -> Self {
        Self::sized(more, 1024)
    }

    /// As [`Guest::offering`], with queues of that size at most.
    pub fn sized(more: Features, queue_size: u16) -> Self {
        let ram = GuestRam::new(MEMORY).unwrap();
        let (wire, said) = (Wire::default(), Arc::new(Mutex::new(Vec::new())));
        let interrupt = EventFd::new(EFD_NONBLOCK).unwrap();
        let sink = said.clone();
        let report = Box::new(move |line: &str| sink.lock().unwrap().push(line.to_owned()));
        let line = Arc::new(Line::new(interrupt.try_clone().unwrap()));
        let shared = Arc::new(Shared::new(line.clone(), report));
        let memory = Memory::new(ram.clone());
        let net = Net::new(memory.clone(), wire.clone(), shared.clone());
        let offered = net::offered(&wire, Features::all()) | more;
        let control = Inline { net, doorbells: 0 };
        let identity = Identity { offered, mac: MAC, mtu: wire.mtu(), queue_size };
        let registers = Mmio::new(Registers::new(control, shared.clone(), memory, identity), line);
        Self { ram, registers, shared, wire, rings: Vec::new(), said, interrupt, now: Instant::now() }
    }

    /// A guest whose driver has set DRIVER_OK with these features besides VERSION_1.
    pub fn started(features: Features, size: u16) -> Self {
        let mut guest = Self::new();
        guest.start(features, size);
        guest
    }

    /// Reads a register.
    pub fn load(&mut self, offset: usize) -> u32 {
        let mut bytes = [0xff; 4];
        self.registers.read(offset as u64, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Writes a register.
    pub fn store(&mut self, offset: usize, value: u32) {
        self.registers.write(offset as u64, &value.to_le_bytes());
    }

    /// Everything up to FEATURES_OK. Returns whether the device keeps that bit.
    pub fn negotiate(&mut self, features: Features) -> bool {
        self.store(register::STATUS, 0);
        self.store(register::STATUS, status::ACKNOWLEDGE.into());
        self.store(register::STATUS, u32::from(status::ACKNOWLEDGE | status::DRIVER));
        for half in [0, 1] {
            self.store(register::DRIVER_FEATURES_SEL, half);
            self.store(register::DRIVER_FEATURES, (features.bits() >> (32 * half)) as u32);
        }
        self.store(register::STATUS, u32::from(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK));
        self.load(register::STATUS) & u32::from(status::FEATURES_OK) != 0
    }

    /// Writes the registers of a queue. Returns whether the device takes it.
    pub fn set_queue(&mut self, queue: usize, place: Place) -> bool {
        self.store(register::QUEUE_SEL, queue as u32);
        self.store(register::QUEUE_SIZE, place.size.into());
        for (offset, address) in [
            (register::QUEUE_DESC_LOW, place.descriptors),
            (register::QUEUE_DRIVER_LOW, place.driver),
            (register::QUEUE_DEVICE_LOW, place.device),
        ] {
            self.store(offset, address as u32);
            self.store(offset + 4, (address >> 32) as u32);
        }
        self.store(register::QUEUE_READY, 1);
        self.load(register::QUEUE_READY) == 1
    }

    /// Everything up to DRIVER_OK.
    pub fn start(&mut self, features: Features, size: u16) {
        assert!(self.negotiate(features | Features::VERSION_1));
        self.rings = [RECEIVE, TRANSMIT].map(|queue| Ring::new(&self.ram, place(queue, size))).to_vec();
        for queue in [RECEIVE, TRANSMIT] {
            assert!(self.set_queue(queue, place(queue, size)));
        }
        self.store(register::STATUS, 15);
        assert_eq!(self.load(register::STATUS), 15);
    }

    /// The device's turn.
    pub fn turn(&mut self) -> Turn {
        self.registers.registers.control().net.turn(self.now)
    }

    /// Lets time pass, for the device.
    pub fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// The counters.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// Whether there was an interrupt since the last call.
    pub fn interrupted(&self) -> bool {
        self.interrupt.read().is_ok()
    }

    /// What the device has said since the last call.
    pub fn said(&self) -> Vec<String> {
        std::mem::take(&mut self.said.lock().unwrap())
    }

    /// Makes a receive buffer of one descriptor available.
    pub fn buffer(&mut self, index: u16, length: u32) {
        let address = BUFFERS + u64::from(index) * 0x4000;
        self.rings[RECEIVE].descriptor(index, address, length, layout::DESC_F_WRITE, 0);
        self.rings[RECEIVE].offer(index);
    }

    /// What lies in that buffer.
    pub fn buffered(&self, index: u16, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram.read(BUFFERS + u64::from(index) * 0x4000, &mut bytes).unwrap();
        bytes
    }

    /// Makes bytes available for sending, header included, cut into descriptors of the lengths given; the last one takes
    /// the rest. Uses descriptors from `first` on.
    pub fn send(&mut self, first: u16, bytes: &[u8], cuts: &[usize]) {
        let address = BUFFERS + 0x10_0000 + u64::from(first) * 0x1_0000;
        self.ram.write(address, bytes).unwrap();
        let mut at = 0;
        for (nth, length) in cuts.iter().copied().chain([usize::MAX]).enumerate() {
            let index = first + nth as u16;
            let length = length.min(bytes.len() - at);
            let more = nth < cuts.len();
            let flags = if more { layout::DESC_F_NEXT } else { 0 };
            self.rings[TRANSMIT].descriptor(index, address + at as u64, length as u32, flags, index + 1);
            at += length;
        }
        self.rings[TRANSMIT].offer(first);
    }
}

/// A frame of `length` bytes with its header before it. The bytes count up from `start`.
pub fn frame(header: NetHdr, length: usize, start: u8) -> Vec<u8> {
    let bytes = (0..length).map(|at| start.wrapping_add(at as u8));
    header.to_bytes().into_iter().chain(bytes).collect()
}
