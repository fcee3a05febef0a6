use std::os::fd::{AsRawFd, RawFd};
use std::sync::Mutex;
use std::time::Instant;

use proptest::prelude::*;
use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;

use super::*;
use crate::backend::Backend;
use crate::virtio::Shared;
use crate::virtio::event;
use crate::virtio::memory::Memory;
use crate::virtio::net::{self, Net};
use crate::virtio::registers;
use crate::virtio::testing::{BUFFERS, Inline, MAC, RECEIVE, Ring, TRANSMIT, Wire, frame, place};
use crate::vmm::GuestRam;
use crate::vmm::pci::Message;

const BASE: u64 = layout::PCI_WINDOW.start;

/// What KVM would be told, and would do.
#[derive(Debug, Default)]
struct State {
    routes: Vec<Option<Message>>,
    /// Each with the number of its original, by which it is known.
    connected: Vec<(EventFd, RawFd, u16)>,
    /// Messages sent at a connection, since the eventfd had been written before.
    early: Vec<u32>,
    heard: Vec<u64>,
    refuse: bool,
}

impl State {
    fn message(&self, vector: u16) -> u32 {
        self.routes[usize::from(vector)].expect("a route").data
    }
}

#[derive(Debug, Clone, Default)]
struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn with<T>(&self, what: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.0.lock().unwrap();
        if state.refuse { Err(io::ErrorKind::Other.into()) } else { what(&mut state) }
    }

    /// The messages that have been sent since the last call, by the eventfds that are connected, from the lowest up.
    fn sent(&self) -> Vec<u32> {
        let mut state = self.0.lock().unwrap();
        let mut sent = std::mem::take(&mut state.early);
        let written = state.connected.iter().filter(|(event, ..)| event::drain(event));
        sent.extend(written.map(|(_, _, vector)| state.message(*vector)));
        sent.sort_unstable();
        sent
    }
}

impl Wiring for Fake {
    fn route(&mut self, messages: &[Option<Message>]) -> io::Result<()> {
        self.with(|state| {
            state.routes = messages.to_vec();
            Ok(())
        })
    }
    fn connect(&mut self, event: &EventFd, vector: u16) -> io::Result<()> {
        self.with(|state| {
            // KVM looks whether it has been written, and does not read it.
            if event::drain(event) {
                event.write(1)?;
                state.early.push(state.message(vector));
            }
            state.connected.push((event.try_clone()?, event.as_raw_fd(), vector));
            Ok(())
        })
    }
    fn disconnect(&mut self, event: &EventFd, vector: u16) -> io::Result<()> {
        self.with(|state| {
            let at = state
                .connected
                .iter()
                .position(|(_, fd, to)| (*fd, *to) == (event.as_raw_fd(), vector))
                .expect("connected");
            drop(state.connected.remove(at));
            Ok(())
        })
    }
    fn listen(&mut self, _event: &EventFd, address: u64) -> io::Result<()> {
        self.with(|state| {
            state.heard.push(address);
            Ok(())
        })
    }
    fn ignore(&mut self, _event: &EventFd, address: u64) -> io::Result<()> {
        self.with(|state| {
            let at = state.heard.iter().position(|heard| *heard == address).expect("heard");
            state.heard.remove(at);
            Ok(())
        })
    }
}

/// A driver's side.
struct Guest {
    ram: GuestRam,
    pci: Pci<Inline, Fake>,
    kvm: Fake,
    shared: Arc<Shared>,
    wire: Wire,
    rings: Vec<Ring>,
}

impl Guest {
    fn new() -> Self {
        let (ram, wire, kvm) = (GuestRam::new(32).unwrap(), Wire::default(), Fake::default());
        let doorbells = [(); QUEUES].map(|()| EventFd::new(0).unwrap());
        let parts = Parts::new(BASE, doorbells, kvm.clone()).unwrap();
        let shared = Arc::new(Shared::new(parts.interrupts().clone(), Box::new(|_| ())));
        let memory = Memory::new(ram.clone());
        let net = Net::new(memory.clone(), wire.clone(), shared.clone());
        let offered = net::offered(&wire, Features::all()) | Features::RING_RESET;
        let identity = registers::Identity { offered, mac: MAC, mtu: wire.mtu(), queue_size: 1024 };
        let registers = Registers::new(Inline { net, doorbells: 0 }, shared.clone(), memory, identity);
        let mut pci = Pci::new(registers, parts);
        pci.write_config(config::COMMAND, &6_u16.to_le_bytes());
        Self { ram, pci, kvm, shared, wire, rings: Vec::new() }
    }

    fn read(&mut self, offset: u64, length: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..length].fill(0xff);
        self.pci.read_bar(BAR, offset, &mut bytes[..length]);
        u64::from_le_bytes(bytes)
    }

    fn write(&mut self, offset: u64, length: usize, value: u64) {
        self.pci.write_bar(BAR, offset, &value.to_le_bytes()[..length]);
    }

    fn config(&mut self, offset: usize, length: usize) -> u32 {
        let mut bytes = [0; 4];
        self.pci.read_config(offset, &mut bytes[..length]);
        u32::from_le_bytes(bytes)
    }

    fn status(&mut self) -> u64 {
        self.read(common::DEVICE_STATUS as u64, 1)
    }

    fn set_status(&mut self, status: u8) {
        self.write(common::DEVICE_STATUS as u64, 1, status.into());
    }

    /// Where a capability of virtio's, or MSI-X, begins.
    fn capability(&mut self, id: u8, kind: Option<u8>) -> usize {
        let mut at = self.config(config::CAPABILITIES, 1) as usize;
        for _ in 0..48 {
            assert_ne!(at, 0, "no such capability");
            let header = self.config(at, 4).to_le_bytes();
            if header[0] == id && kind.is_none_or(|kind| header[3] == kind) {
                return at;
            }
            at = header[1].into();
        }
        panic!("an endless list");
    }

    fn msix(&mut self, control: u16) {
        let at = self.capability(CAPABILITY_MSIX, None);
        self.pci.write_config(at + 2, &control.to_le_bytes());
    }

    /// Message `0x30 + vector` for each vector, none masked; vectors as our driver gives them.
    fn vectors(&mut self) {
        for vector in 0..u64::from(VECTORS) {
            self.write(TABLE_AT + 16 * vector, 8, 0xfee0_1000);
            self.write(TABLE_AT + 16 * vector + 8, 8, 0x30 + vector);
        }
        self.msix(msix::ENABLE);
        self.write(common::CONFIG_MSIX_VECTOR as u64, 2, 0);
        for queue in 0..QUEUES as u64 {
            self.write(common::QUEUE_SELECT as u64, 2, queue);
            self.write(common::QUEUE_MSIX_VECTOR as u64, 2, queue + 1);
            assert_eq!(self.read(common::QUEUE_MSIX_VECTOR as u64, 2), queue + 1);
        }
    }

    fn set_queue(&mut self, queue: usize, size: u16) {
        let place = place(queue, size);
        self.write(common::QUEUE_SELECT as u64, 2, queue as u64);
        self.write(common::QUEUE_SIZE as u64, 2, size.into());
        self.write(common::QUEUE_DESC as u64, 8, place.descriptors);
        self.write(common::QUEUE_DRIVER as u64, 4, place.driver);
        self.write(common::QUEUE_DRIVER_HIGH as u64, 4, 0);
        self.write(common::QUEUE_DEVICE as u64, 8, place.device);
        self.write(common::QUEUE_ENABLE as u64, 2, 1);
        assert_eq!(self.read(common::QUEUE_ENABLE as u64, 2), 1);
    }

    fn negotiate(&mut self, features: Features) {
        for bits in [0, status::ACKNOWLEDGE, status::ACKNOWLEDGE | status::DRIVER] {
            self.set_status(bits);
        }
        for half in [0, 1] {
            self.write(common::DRIVER_FEATURE_SELECT as u64, 4, half);
            self.write(common::DRIVER_FEATURE as u64, 4, features.bits() >> (32 * half) & 0xffff_ffff);
        }
        self.set_status(11);
    }

    fn start(&mut self, features: Features, size: u16) {
        self.negotiate(features | Features::VERSION_1);
        self.rings = [RECEIVE, TRANSMIT].map(|queue| Ring::new(&self.ram, place(queue, size))).to_vec();
        self.vectors();
        self.set_queue(RECEIVE, size);
        self.set_queue(TRANSMIT, size);
        self.set_status(15);
        assert_eq!(self.status(), 15);
    }

    fn turn(&mut self) {
        self.pci.registers.control().net.turn(Instant::now());
    }

    fn send(&mut self, index: u16) {
        let bytes = frame(NetHdr::default(), 60, 0);
        self.ram.write(BUFFERS, &bytes).unwrap();
        self.rings[TRANSMIT].descriptor(index, BUFFERS, bytes.len() as u32, 0, 0);
        self.rings[TRANSMIT].offer(index);
        self.turn();
    }

    fn receive(&mut self, index: u16) {
        self.wire.state().waiting.push_back(frame(NetHdr::default(), 60, 0));
        let flags = ringlet_driver::wire::split::DESC_F_WRITE;
        self.rings[RECEIVE].descriptor(index, BUFFERS + 0x1000, 2000, flags, 0);
        self.rings[RECEIVE].offer(index);
        self.turn();
    }

    fn pending(&mut self) -> u64 {
        self.read(PENDING_AT, 8)
    }

    fn mask(&mut self, vector: u64, mask: bool) {
        self.write(TABLE_AT + 16 * vector + 12, 4, mask.into());
    }
}

#[test]
fn verify_4_1_2_and_4_1_4_a_driver_finds_every_structure() {
    let mut guest = Guest::new();
    assert_eq!((guest.config(0, 4), guest.config(8, 1)), (0x1041_1af4, 1));
    assert_eq!(guest.config(0x3d, 1), 0, "no interrupt pin");
    let expected = [
        (CFG_COMMON, COMMON_AT, common::LEN as u32),
        (CFG_NOTIFY, NOTIFY_AT, 8),
        (CFG_ISR, ISR_AT, 1),
        (CFG_DEVICE, CONFIG_AT, NetConfig::LEN as u32),
    ];
    for (kind, at, length) in expected {
        let cap = guest.capability(CAPABILITY_VENDOR, Some(kind));
        let own = guest.config(cap + 2, 1) as usize;
        assert_eq!(own, if kind == CFG_NOTIFY { 20 } else { 16 });
        assert_eq!(guest.config(cap + 4, 1), 0, "the BAR");
        assert_eq!((u64::from(guest.config(cap + 8, 4)), guest.config(cap + 12, 4)), (at, length));
    }
    let cap = guest.capability(CAPABILITY_VENDOR, Some(CFG_NOTIFY));
    assert_eq!(guest.config(cap + 16, 4), NOTIFY_MULTIPLIER);
    let cap = guest.capability(CAPABILITY_MSIX, None);
    assert_eq!(guest.config(cap + 2, 2), u32::from(VECTORS) - 1);
    assert_eq!((guest.config(cap + 4, 4), guest.config(cap + 8, 4)), (TABLE_AT as u32, PENDING_AT as u32));
    assert_eq!(guest.read(common::NUM_QUEUES as u64, 2), 2);
    assert_eq!(guest.read(common::QUEUE_SIZE as u64, 2), 1024);
    for queue in 0..2 {
        guest.write(common::QUEUE_SELECT as u64, 2, queue);
        assert_eq!(guest.read(common::QUEUE_NOTIFY_OFF as u64, 2), queue);
    }
    guest.write(common::QUEUE_SELECT as u64, 2, 2);
    assert_eq!(guest.read(common::QUEUE_SIZE as u64, 2), 0, "no such queue");
    for select in 0..4_u64 {
        guest.write(common::DEVICE_FEATURE_SELECT as u64, 4, select);
        let version_1 = guest.read(common::DEVICE_FEATURE as u64, 4) & 1;
        assert_eq!(version_1 == 1, select < 2, "csum, version_1, nothing");
    }
    assert_eq!(guest.read(CONFIG_AT, 8).to_le_bytes()[..6], MAC);
    assert_eq!(guest.shared.counters().misuses, 0);
}

#[test]
fn verify_4_1_5_1_each_queue_and_the_configuration_have_their_own_message() {
    let mut guest = Guest::new();
    guest.start(Features::RING_RESET, 8);
    assert_eq!(guest.kvm.sent(), [0; 0]);
    guest.send(0);
    assert_eq!(guest.kvm.sent(), [0x30 + 2]);
    guest.receive(0);
    assert_eq!(guest.kvm.sent(), [0x30 + 1]);
    assert_eq!(guest.read(ISR_AT, 1), 0, "with MSI-X, queues are not told of there");
    // The device breaks down: a configuration change, and its bit in any case.
    guest.rings[TRANSMIT].set_available(100);
    guest.turn();
    assert_eq!(guest.kvm.sent(), [0x30]);
    assert_eq!(guest.config(config::STATUS, 1) & 8, 8);
    assert_eq!((guest.read(ISR_AT, 1), guest.read(ISR_AT, 1)), (2, 0), "reading acknowledges");
    assert_eq!(guest.config(config::STATUS, 1) & 8, 0);
    // A reset takes the vectors.
    guest.set_status(0);
    assert_eq!(guest.read(common::CONFIG_MSIX_VECTOR as u64, 2), u64::from(MSIX_NO_VECTOR));
    assert_eq!(guest.kvm.0.lock().unwrap().connected.len(), 0);
}

#[test]
fn verify_6_8_2_what_is_masked_is_pending_and_comes_once() {
    let mut guest = Guest::new();
    guest.start(Features::empty(), 16);
    guest.mask(2, true);
    guest.send(0);
    guest.send(1);
    guest.receive(0);
    assert_eq!((guest.kvm.sent(), guest.pending()), (vec![0x31], 1 << 2), "the others go on");
    guest.mask(2, false);
    assert_eq!((guest.kvm.sent(), guest.pending()), (vec![0x32], 0));
    guest.mask(2, true);
    guest.mask(2, false);
    assert_eq!(guest.kvm.sent(), [0; 0], "once");
    // All at once, by the function mask.
    guest.msix(msix::ENABLE | msix::FUNCTION_MASK);
    guest.send(2);
    guest.receive(1);
    assert_eq!((guest.kvm.sent(), guest.pending()), (vec![], 0b110));
    guest.msix(msix::ENABLE);
    assert_eq!(guest.kvm.sent(), [0x31, 0x32]);
    // A message changed while it is masked is the one that is sent.
    guest.mask(2, true);
    guest.send(3);
    guest.write(TABLE_AT + 2 * 16 + 8, 4, 0x55);
    guest.mask(2, false);
    assert_eq!(guest.kvm.sent(), [0x55]);
    // Another process' writes are masked like our own.
    let call = guest.shared.call(1).unwrap();
    guest.mask(2, true);
    call.write(1).unwrap();
    assert_eq!((guest.kvm.sent(), guest.pending()), (vec![], 1 << 2));
    guest.mask(2, false);
    assert_eq!(guest.kvm.sent(), [0x55]);
    assert_eq!(guest.shared.counters().misuses, 0);
}

#[test]
fn another_process_that_makes_its_interrupts_wait_holds_nobody_up() {
    let mut guest = Guest::new();
    guest.start(Features::empty(), 16);
    let call = guest.shared.call(1).unwrap();
    event::hostile::make_blocking(&call);
    for _ in 0..3 {
        guest.mask(2, true);
        guest.mask(2, false);
        guest.msix(0);
        guest.msix(msix::ENABLE);
    }
    assert_eq!(guest.kvm.sent(), [0; 0]);
    guest.mask(2, true);
    event::hostile::fill(&call);
    assert_eq!(guest.pending(), 1 << 2);
    guest.mask(2, false);
    assert_eq!((guest.kvm.sent(), guest.pending()), (vec![0x32], 0));
    event::ring(&call);
    assert_eq!(guest.kvm.sent(), [0x32]);
}

#[test]
fn vectors_can_be_shared_moved_and_missing() {
    let mut guest = Guest::new();
    guest.start(Features::empty(), 16);
    guest.write(common::QUEUE_SELECT as u64, 2, TRANSMIT as u64);
    let vector = common::QUEUE_MSIX_VECTOR as u64;
    guest.write(vector, 2, 1);
    guest.send(0);
    guest.receive(0);
    assert_eq!(guest.kvm.sent(), [0x31, 0x31]);
    // Out of the table there is none, and so no interrupt.
    for none in [3, 0xffff] {
        guest.write(vector, 2, none);
        assert_eq!(guest.read(vector, 2), 0xffff);
        guest.send(1);
        assert_eq!((guest.kvm.sent(), guest.pending()), (vec![], 0));
    }
    guest.write(vector, 2, 2);
    assert_eq!(guest.kvm.sent(), [0; 0], "what came meanwhile is not told of");
    guest.send(2);
    assert_eq!(guest.kvm.sent(), [0x32]);
    // Messages to anywhere but a local APIC are none.
    guest.write(TABLE_AT + 2 * 16, 8, 0x10_0000);
    guest.send(3);
    assert_eq!(guest.kvm.sent(), [0; 0]);
    // Without MSI-X there is the interrupt status to poll.
    guest.msix(0);
    guest.send(4);
    assert_eq!((guest.kvm.sent(), guest.read(ISR_AT, 1), guest.pending()), (vec![], 1, 0));
}

#[test]
fn verify_4_1_4_4_doorbells_follow_the_bar() {
    let mut guest = Guest::new();
    let heard = |guest: &Guest| guest.kvm.0.lock().unwrap().heard.clone();
    let (first, second) = (BASE + NOTIFY_AT, BASE + NOTIFY_AT + 4);
    assert_eq!(heard(&guest), [first, second]);
    // Learning the size before DRIVER_OK costs nothing.
    guest.pci.write_config(config::BAR0, &[0xff; 4]);
    guest.pci.write_config(config::BAR0, &(BASE as u32).to_le_bytes());
    assert_eq!(heard(&guest), [first, second]);
    guest.start(Features::empty(), 8);
    guest.pci.write_config(config::BAR0, &(BASE as u32 + 0x10_0000).to_le_bytes());
    assert_eq!(heard(&guest), [first + 0x10_0000, second + 0x10_0000]);
    assert_eq!(guest.pci.decode(first, 2), None);
    assert_eq!(guest.pci.decode(first + 0x10_0000, 2), Some((BAR, NOTIFY_AT)));
    // Out of the window, or with memory space off, nobody hears.
    for (offset, value) in
        [(config::BAR0 + 4, 1_u32), (config::BAR0 + 4, 0), (config::COMMAND, 0), (config::COMMAND, 2)]
    {
        guest.pci.write_config(offset, &value.to_le_bytes());
        let heard = heard(&guest);
        assert_eq!(heard.len(), if guest.pci.decode(first + 0x10_0000, 2).is_some() { 2 } else { 0 }, "{value:#x}");
    }
    // By exits they come too, with the index or with more in what is written.
    for (at, length, value) in [(NOTIFY_AT, 2, 0), (NOTIFY_AT + 4, 2, 1), (NOTIFY_AT + 4, 4, 0x7_0001)] {
        guest.write(at, length, value);
    }
    assert_eq!((guest.pci.registers.control().doorbells, guest.shared.counters().misuses), (3, 0));
    guest.write(NOTIFY_AT + 8, 2, 2);
    guest.write(NOTIFY_AT + 1, 1, 0);
    assert_eq!((guest.pci.registers.control().doorbells, guest.shared.counters().misuses), (3, 2));
}

#[test]
fn verify_4_1_4_9_the_bar_is_reached_through_configuration_space() {
    let mut guest = Guest::new();
    let cap = guest.capability(CAPABILITY_VENDOR, Some(CFG_PCI));
    assert_eq!(guest.config(cap + 2, 1), 20);
    let place = |guest: &mut Guest, bar: u8, at: u32, length: u32| {
        guest.pci.write_config(cap + 4, &[bar]);
        guest.pci.write_config(cap + 8, &at.to_le_bytes());
        guest.pci.write_config(cap + 12, &length.to_le_bytes());
    };
    place(&mut guest, 0, common::DEVICE_STATUS as u32, 1);
    guest.pci.write_config(cap + 16, &[3]);
    assert_eq!((guest.status(), guest.config(cap + 16, 1)), (3, 3));
    place(&mut guest, 0, common::NUM_QUEUES as u32, 2);
    assert_eq!(guest.config(cap + 16, 2), 2);
    place(&mut guest, 0, common::DRIVER_FEATURE_SELECT as u32, 4);
    guest.pci.write_config(cap + 16, &7_u32.to_le_bytes());
    assert_eq!(guest.read(common::DRIVER_FEATURE_SELECT as u64, 4), 7);
    let before = guest.shared.counters().misuses;
    for (bar, at, length) in
        [(1, 0, 4), (0, 0, 3), (0, 0, 0), (0, 0, 8), (0, 1, 2), (0, 0x8000, 4), (0, u32::MAX, 1), (9, 0, u32::MAX)]
    {
        place(&mut guest, bar, at, length);
        guest.pci.write_config(cap + 16, &[1; 4]);
        guest.config(cap + 16, 4);
    }
    assert_eq!((guest.status(), guest.shared.counters().misuses), (3, before), "no access was made");
}

#[test]
fn verify_4_1_4_3_a_queue_is_reset_alone() {
    let mut guest = Guest::new();
    guest.start(Features::RING_RESET, 8);
    guest.write(common::QUEUE_SELECT as u64, 2, TRANSMIT as u64);
    guest.write(common::QUEUE_ENABLE as u64, 2, 0);
    assert_eq!(
        guest.read(common::QUEUE_ENABLE as u64, 2),
        1,
        "a driver does not do that, and a device does not heed it"
    );
    guest.write(common::QUEUE_RESET as u64, 2, 1);
    let registers = [common::QUEUE_RESET, common::QUEUE_ENABLE, common::QUEUE_SIZE, common::QUEUE_MSIX_VECTOR];
    assert_eq!(registers.map(|at| guest.read(at as u64, 2)), [0, 0, 1024, 0xffff]);
    guest.rings[TRANSMIT] = Ring::new(&guest.ram, place(TRANSMIT, 8));
    guest.write(common::QUEUE_MSIX_VECTOR as u64, 2, 2);
    guest.set_queue(TRANSMIT, 8);
    guest.send(0);
    assert_eq!((guest.kvm.sent(), guest.rings[TRANSMIT].used_index()), (vec![0x32], 1));
}

#[test]
fn what_kvm_refuses_is_told_and_hurts_nobody() {
    let mut guest = Guest::new();
    guest.start(Features::empty(), 16);
    guest.kvm.0.lock().unwrap().refuse = true;
    guest.mask(2, true);
    guest.write(TABLE_AT + 16 + 8, 4, 0x77);
    guest.pci.write_config(config::COMMAND, &[0, 0]);
    guest.set_status(0);
    assert!(guest.shared.counters().misuses >= 4);
    guest.kvm.0.lock().unwrap().refuse = false;
    guest.pci.write_config(config::COMMAND, &[6, 0]);
    guest.start(Features::empty(), 16);
    guest.send(0);
    assert_eq!(guest.kvm.sent(), [0x32]);
}

proptest! {
    /// Whatever a guest writes wherever: the device runs exactly when its status says so, sends no message that is masked,
    /// and works again after a reset.
    #[test]
    fn no_access_can_hurt_the_device(
        accesses in proptest::collection::vec((any::<bool>(), any::<bool>(), 0_u64..0x6000, 0_usize..4, any::<u64>()), 0..120)
    ) {
        let mut guest = Guest::new();
        guest.start(Features::EVENT_IDX, 8);
        for (in_config, write, at, width, value) in accesses {
            let length = 1 << width;
            // Near to where there is something.
            let at = if at & 1 == 0 { at & !0xfc0 } else { at };
            match (in_config, write) {
                (true, true) => {
                    let (at, length) = (at as usize & 0xff, length.min(4));
                    guest.pci.write_config(at & !(length - 1), &value.to_le_bytes()[..length]);
                }
                (true, false) => drop(guest.config(at as usize & 0xfc, 4)),
                (false, true) => guest.write(at, length, if value & 1 == 0 { value } else { value & 0xf }),
                (false, false) => drop(guest.read(at, length)),
            }
            let status = guest.status() as u8;
            let runs = guest.pci.registers.control().net.is_active();
            let may = status & (status::DRIVER_OK | status::FAILED) == status::DRIVER_OK;
            prop_assert!(!runs || may, "{status:#x}");
            let mut control = [0; 2];
            let msix = guest.capability(CAPABILITY_MSIX, None);
            guest.pci.read_config(msix + 2, &mut control);
            let control = u16::from_le_bytes(control);
            if control & msix::ENABLE == 0 || control & msix::FUNCTION_MASK != 0 {
                prop_assert_eq!(guest.kvm.0.lock().unwrap().connected.len(), 0);
            }
        }
        guest.set_status(0);
        guest.pci.write_config(config::BAR0, &BASE.to_le_bytes());
        guest.pci.write_config(config::COMMAND, &[6, 0]);
        guest.kvm.sent();
        guest.start(Features::empty(), 8);
        guest.send(0);
        guest.receive(0);
        prop_assert_eq!(guest.kvm.sent(), vec![0x31, 0x32]);
        let heard = guest.kvm.0.lock().unwrap().heard.clone();
        prop_assert_eq!(heard, vec![BASE + NOTIFY_AT, BASE + NOTIFY_AT + 4]);
    }
}
