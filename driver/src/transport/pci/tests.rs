//! The PCI transport against a function made of plain memory.

use core::cell::RefCell;
use core::ptr::NonNull;
use std::boxed::Box;
use std::rc::Rc;

use proptest::prelude::*;
use virtio_drivers::BufferDirection;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction, PciRoot};

use super::*;

const FUNCTION: DeviceFunction = DeviceFunction { bus: 0, device: 3, function: 0 };
/// Where the one BAR (number 4, 64 bits wide, 16 KiB) lies.
const BAR: u64 = 0xfe00_0000;
const BAR_SIZE: usize = 0x4000;

/// A function: its configuration space, and one BAR in memory that is never given back.
#[derive(Clone)]
struct Fake {
    config: Rc<RefCell<[u32; 64]>>,
    bar: NonNull<u8>,
}

std::thread_local! {
    static MAPPED: RefCell<Option<NonNull<u8>>> = const { RefCell::new(None) };
}

struct FakeHal;

// SAFETY: only `mmio_phys_to_virt` is called by what is tested here; it gives memory that lives for good.
unsafe impl Hal for FakeHal {
    fn dma_alloc(_pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        unreachable!("a transport allocates nothing")
    }
    unsafe fn dma_dealloc(_address: PhysAddr, _memory: NonNull<u8>, _pages: usize) -> i32 {
        unreachable!("a transport allocates nothing")
    }
    unsafe fn mmio_phys_to_virt(address: PhysAddr, size: usize) -> NonNull<u8> {
        let offset = usize::try_from(address - BAR).unwrap();
        assert!(offset + size <= BAR_SIZE, "asked to map outside of the BAR");
        let bar = MAPPED.with(|mapped| mapped.borrow().unwrap());
        // SAFETY: inside the BAR's memory: just checked.
        unsafe { bar.byte_add(offset) }
    }
    unsafe fn share(_buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        unreachable!("a transport shares nothing")
    }
    unsafe fn unshare(_address: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

impl Fake {
    /// A sound modern device: common at 0, isr at 0x1000, device at 0x2000, doorbells at 0x3000, MSI-X table at 0x3800.
    fn new() -> Self {
        let bar = NonNull::from(Box::leak(Box::new([0_u64; BAR_SIZE / 8]))).cast::<u8>();
        MAPPED.with(|mapped| *mapped.borrow_mut() = Some(bar));
        let mut config = [0_u32; 64];
        config[0] = 0x1041_1af4;
        config[1] = 0x0010_0000; // there is a capability list
        config[0x20 / 4] = BAR as u32 | 0b100;
        config[0x34 / 4] = 0x40;
        let mut capability = |at: usize, next: u32, length: u32, kind: u32, offset: u32, size: u32| {
            config[at / 4..at / 4 + 4].copy_from_slice(&[
                0x09 | next << 8 | length << 16 | kind << 24,
                4,
                offset,
                size,
            ]);
        };
        capability(0x40, 0x50, 16, 1, 0, 0x38);
        capability(0x50, 0x60, 16, 3, 0x1000, 1);
        capability(0x60, 0x70, 16, 4, 0x2000, 0x40);
        capability(0x70, 0x90, 20, 2, 0x3000, 0x10);
        config[0x80 / 4] = 4; // a doorbell every four bytes
        config[0x90 / 4] = 0x11 | 2 << 16; // three vectors
        config[0x94 / 4] = 0x3800 | 4;
        let fake = Self { config: Rc::new(RefCell::new(config)), bar };
        fake.set_u16(common::QUEUE_NOTIFY_OFF, 1);
        fake
    }

    fn u32(&self, offset: usize) -> u32 {
        // SAFETY: the tests ask for aligned places inside the BAR only.
        unsafe { self.bar.byte_add(offset).cast::<u32>().as_ptr().read_volatile() }
    }

    fn set_u16(&self, offset: usize, value: u16) {
        // SAFETY: as above.
        unsafe { self.bar.byte_add(offset).cast::<u16>().as_ptr().write_volatile(value) };
    }

    fn open(&self, vectors: u16) -> core::result::Result<PciTransport, PciError> {
        let mut root = PciRoot::new(self.clone());
        let reachable = |address, length| address >= BAR && address + length <= BAR + BAR_SIZE as u64;
        let message =
            |vector| (vector < vectors).then_some(Message { address: 0xfee0_0000, data: 33 + u32::from(vector) });
        PciTransport::new::<FakeHal, _>(&mut root, &mut self.clone(), FUNCTION, reachable, message)
    }
}

impl ConfigurationAccess for Fake {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        assert_eq!(function, FUNCTION);
        self.config.borrow()[usize::from(register) / 4]
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, value: u32) {
        assert_eq!(function, FUNCTION);
        let value = match (register, value) {
            // A BAR shows its size when all ones are written.
            (0x20, u32::MAX) => !(BAR_SIZE as u32 - 1) | 0b100,
            (0x04, value) => value & 0xffff | 0x0010_0000,
            _ => value,
        };
        self.config.borrow_mut()[usize::from(register) / 4] = value;
    }

    unsafe fn unsafe_clone(&self) -> Self {
        self.clone()
    }
}

#[test]
fn finds_the_structures_and_programs_the_vectors() {
    let fake = Fake::new();
    let mut transport = fake.open(3).unwrap();
    assert_eq!(transport.name(), "pci");
    let entry = |n: usize| [0, 4, 8, 12].map(|at| fake.u32(0x3800 + n * 16 + at));
    assert_eq!([entry(0), entry(2)], [[0xfee0_0000, 0, 33, 0], [0xfee0_0000, 0, 35, 0]]);
    let config = *fake.config.borrow();
    assert_eq!(config[0x90 / 4] >> 16, 0x8002, "enabled and not masked");
    assert_eq!(config[1] & 0x406, 0x406, "memory, bus master, no INTx");

    transport.queue_set(1, 256, 0x1_0000_1000, 0x2000, 0x3000);
    let at = |offset| fake.u32(offset);
    assert_eq!([at(common::QUEUE_DESC), at(common::QUEUE_DESC + 4)], [0x1000, 1]);
    assert_eq!(at(common::QUEUE_SIZE), 256 | 2 << 16, "the size, and beside it the vector");
    assert!(transport.queue_used(1));
    transport.doorbell(1, Features::empty()).unwrap().ring(7);
    assert_eq!(fake.u32(0x3004) & 0xffff, 1);
    transport.doorbell(1, Features::NOTIFICATION_DATA).unwrap().ring(7);
    assert_eq!(fake.u32(0x3004), 7 << 16 | 1);
}

#[test]
fn few_vectors_are_shared() {
    let fake = Fake::new();
    let mut transport = fake.open(2).unwrap();
    for (queue, vector) in [(0, 1), (1, 0), (u16::MAX, 0)] {
        transport.queue_set(queue, 2, 0, 0, 0);
        assert_eq!(fake.u32(common::QUEUE_SIZE) >> 16, vector, "queue {queue}");
    }
    assert_eq!(Fake::new().open(0).unwrap_err(), PciError::NoMsix);
}

#[test]
fn a_doorbell_outside_of_its_structure_is_refused() {
    let fake = Fake::new();
    let mut transport = fake.open(3).unwrap();
    for (offset, good) in [(3, true), (4, false), (u16::MAX, false)] {
        fake.set_u16(common::QUEUE_NOTIFY_OFF, offset);
        assert_eq!(transport.doorbell(1, Features::empty()).is_ok(), good, "offset {offset}");
    }
}

#[test]
fn what_needs_more_fields_than_the_device_has_is_not_possible() {
    let more = Features::RING_RESET | Features::NOTIF_CONFIG_DATA;
    let fake = Fake::new();
    assert_eq!(fake.open(3).unwrap().possible(), Features::all() - more);
    // The length of the common configuration structure.
    fake.config.borrow_mut()[0x4c / 4] = common::LEN as u32;
    let mut transport = fake.open(3).unwrap();
    assert_eq!(transport.possible(), Features::all());
    fake.set_u16(common::QUEUE_NOTIF_CONFIG_DATA, 0xbeef);
    transport.doorbell(1, Features::NOTIF_CONFIG_DATA).unwrap().ring(7);
    assert_eq!(fake.u32(0x3004) & 0xffff, 0xbeef);
    // This memory never says that the reset is over.
    assert_eq!(transport.reset_queue(1), Err(Refused::Reset(1)));
    assert_eq!((fake.u32(0x14) >> 16, fake.u32(0x38) >> 16), (1, 1), "the queue is selected, and told to reset");
}

#[test]
fn says_what_is_wrong() {
    let broken = |word: usize, value: u32| {
        let fake = Fake::new();
        fake.config.borrow_mut()[word] = value;
        fake.open(3).unwrap_err()
    };
    assert_eq!(broken(0, 0x1042_1af4), PciError::NotNetwork { vendor: 0x1af4, device: 0x1042 });
    assert_eq!(broken(0x34 / 4, 0x90), PciError::Missing("common configuration structure"));
    assert_eq!(broken(0x34 / 4, 0), PciError::NoMsix);
    assert_eq!(broken(0x4c / 4, 0x4001), PciError::Bar("common configuration structure"));
    assert_eq!(broken(0x6c / 4, 4), PciError::Bar("device configuration structure"));
    assert_eq!(broken(0x20 / 4, 0b100), PciError::Bar("common configuration structure"));
    assert_eq!(broken(0x20 / 4, 0xfd00_0004), PciError::OutOfReach { address: 0xfd00_0000 });
}

#[test]
fn configuration_is_read_within_its_structure_only() {
    let fake = Fake::new();
    let transport = fake.open(3).unwrap();
    fake.set_u16(0x2000, 0x0254);
    assert_eq!(transport.read_config_space::<[u8; 2]>(0), Ok([0x54, 0x02]));
    assert!(transport.read_config_space::<u32>(0x3d).is_err());
    assert!(transport.read_config_space::<u32>(usize::MAX).is_err());
}

proptest! {
    /// Whatever a device says about itself, nothing is mapped outside of its BAR, nothing loops, nothing panics.
    #[test]
    fn a_hostile_configuration_space_is_borne(words in prop::collection::vec((1_usize..64, any::<u32>()), 1..24)) {
        let fake = Fake::new();
        for (word, value) in words {
            // The BAR's address is the firmware's word, not the device's.
            if word != 0x20 / 4 {
                fake.config.borrow_mut()[word] = value;
            }
        }
        if let Ok(mut transport) = fake.open(3) {
            transport.queue_set(0, 256, 1, 2, 3);
            for features in [Features::empty(), Features::NOTIFICATION_DATA] {
                let _ = transport.doorbell(0, features).map(|doorbell| doorbell.ring(7));
            }
            let _ = transport.read_config_space::<u64>(0);
        }
    }
}
