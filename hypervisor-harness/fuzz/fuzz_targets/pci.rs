//! Any accesses to PCI, of any width and by any way: ports, configuration space as memory, and BARs wherever they were moved.
//! No panic, no endless loop; messages are sent only where a vector is enabled; and after a reset the device starts.

#![no_main]

use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ringlet::virtio::Shared;
use ringlet::virtio::memory::Memory;
use ringlet::virtio::net::Activation;
use ringlet::virtio::pci::{Parts, Pci};
use ringlet::virtio::queue::Place;
use ringlet::virtio::registers::{Control, Identity, Registers};
use ringlet::vmm::pci::{Message, SharedHost, Wiring};
use ringlet::vmm::{GuestRam, layout};
use ringlet_driver::features::Features;
use ringlet_driver::wire::{pci as register, status};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// One access of the guest.
#[derive(Arbitrary, Debug)]
enum Act {
    /// Of the eight ports.
    In(u8, u8),
    Out(u8, Vec<u8>),
    /// Of the configuration spaces of the first functions.
    Read(u16, u8),
    Write(u16, Vec<u8>),
    /// In the BAR where it was put, or wherever in the window.
    Load(u16, u8),
    Store(u16, u64, u8),
    Far(u32, u64),
    /// The device, at some time.
    Used(bool),
    Changed,
}

/// What moves frames: it only knows whether it works.
struct Idle(Arc<Mutex<bool>>);

impl Control for Idle {
    fn start(&mut self, _activation: Activation) {
        assert!(!std::mem::replace(&mut *self.0.lock().unwrap(), true), "it works already");
    }

    fn stop_queue(&mut self, _queue: u16) {}

    fn restart_queue(&mut self, _queue: u16, _place: Place) {
        assert!(*self.0.lock().unwrap(), "it does not work");
    }

    fn reset(&mut self) {
        *self.0.lock().unwrap() = false;
    }

    fn doorbell(&mut self, queue: u16) {
        assert!(queue < 2);
    }
}

/// Holds the device to what KVM would: nothing is connected twice, or without a route to a processor.
#[derive(Default)]
struct Strict {
    routes: Vec<Option<Message>>,
    connected: usize,
    heard: usize,
}

impl Wiring for Strict {
    fn route(&mut self, messages: &[Option<Message>]) -> io::Result<()> {
        assert!(messages.iter().flatten().all(|message| message.address >> 20 == 0xfee), "{messages:?}");
        self.routes = messages.to_vec();
        Ok(())
    }

    fn connect(&mut self, _event: &EventFd, vector: u16) -> io::Result<()> {
        assert!(self.routes[usize::from(vector)].is_some());
        self.connected += 1;
        assert!(self.connected <= 3);
        Ok(())
    }

    fn disconnect(&mut self, _event: &EventFd, _vector: u16) -> io::Result<()> {
        self.connected -= 1;
        Ok(())
    }

    fn listen(&mut self, _event: &EventFd, address: u64) -> io::Result<()> {
        assert!(layout::PCI_WINDOW.contains(&address));
        self.heard += 1;
        assert!(self.heard <= 2);
        Ok(())
    }

    fn ignore(&mut self, _event: &EventFd, _address: u64) -> io::Result<()> {
        self.heard -= 1;
        Ok(())
    }
}

/// The same memory each time: it is never unmapped.
fn ram() -> &'static GuestRam {
    static RAM: OnceLock<GuestRam> = OnceLock::new();
    RAM.get_or_init(|| GuestRam::new(32).expect("memory"))
}

/// Where the device's configuration space is in ECAM: device 1.
const DEVICE: u64 = 1 << 15;

fuzz_target!(|acts: Vec<Act>| {
    let doorbells = [(); 2].map(|()| EventFd::new(EFD_NONBLOCK).expect("an eventfd"));
    let parts = Parts::new(layout::PCI_WINDOW.start, doorbells, Strict::default()).expect("eventfds");
    let interrupts = parts.interrupts().clone();
    let shared = Arc::new(Shared::new(interrupts.clone(), Box::new(|_| ())));
    let memory = Memory::new(ram().clone());
    let works = Arc::<Mutex<bool>>::default();
    let control = Idle(works.clone());
    let features = Features::VERSION_1 | Features::RING_RESET | Features::EVENT_IDX;
    let identity = Identity { offered: features, mac: [2, 0, 0, 0, 0, 1], mtu: 1500, queue_size: 1024 };
    let host = SharedHost::default();
    host.lock().add(Box::new(Pci::new(Registers::new(control, shared, memory, identity), parts))).expect("room");
    let (mut ecam, mut window) = (host.ecam(), host.window());
    for act in acts.into_iter().take(300) {
        match act {
            Act::In(port, length) => host.lock().read_port(0xcf8 + u16::from(port & 7), &mut vec![0; length.into()]),
            Act::Out(port, data) => host.lock().write_port(0xcf8 + u16::from(port & 7), &data),
            Act::Read(at, length) => ecam.read(at.into(), &mut vec![0; usize::from(length & 15)]),
            Act::Write(at, data) => ecam.write(DEVICE + u64::from(at & 0xff), &data[..data.len().min(16)]),
            Act::Load(at, length) => window.read((at & 0x7fff).into(), &mut vec![0; usize::from(length & 15)]),
            Act::Store(at, value, width) => {
                window.write((at & 0x7fff).into(), &value.to_le_bytes()[..1 << (width & 3)]);
            }
            Act::Far(at, value) => window.write((at & 0x7ff_fff8).into(), &value.to_le_bytes()),
            Act::Used(queue) => ringlet::virtio::Interrupts::queue(&*interrupts, queue.into()),
            Act::Changed => ringlet::virtio::Interrupts::configuration(&*interrupts),
        }
    }
    // Whatever has happened: a driver that puts the device where it was can start it.
    ecam.write(DEVICE + 0x10, &layout::PCI_WINDOW.start.to_le_bytes());
    ecam.write(DEVICE + 4, &[6, 0]);
    let mut store = |at: usize, data: &[u8]| window.write(at as u64, data);
    for bits in [0, status::ACKNOWLEDGE, status::DRIVER] {
        store(register::common::DEVICE_STATUS, &[bits]);
    }
    for half in [0_u32, 1] {
        store(register::common::DRIVER_FEATURE_SELECT, &half.to_le_bytes());
        store(register::common::DRIVER_FEATURE, &((features.bits() >> (32 * half)) as u32).to_le_bytes());
    }
    store(register::common::DEVICE_STATUS, &[status::FEATURES_OK]);
    store(register::common::DEVICE_STATUS, &[status::DRIVER_OK]);
    let mut now = [0];
    window.read(register::common::DEVICE_STATUS as u64, &mut now);
    assert_eq!(now, [15]);
    assert!(*works.lock().unwrap());
});
