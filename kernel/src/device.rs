//! Finding the network device: where the command line says, else on the PCI bus.

use core::fmt;
use core::ptr::NonNull;

use ringlet_driver::features::Features;
use ringlet_driver::transport::{
    Doorbell, Message, MmioError, MmioTransport, NetTransport, PciError, PciTransport, Refused, pci,
};
use ringlet_kernel::acpi::{self, ECAM_BUS, Ecam};
use ringlet_kernel::cmdline::Options;
use ringlet_kernel::memory_map::Kind;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{PhysAddr, Result as VirtioResult};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::arch::x86_64::pci::{Access, MemoryAccess, PortAccess};
use crate::arch::x86_64::start_info::StartInfo;
use crate::arch::x86_64::{boot, hal::IdentityHal, interrupt};

/// Why there is no network device to drive.
pub enum Missing {
    /// Nothing was announced on the command line, and the PCI bus has none.
    None,
    /// What was announced at an address cannot be driven.
    Mmio(u64, MmioError),
    /// An announced device's registers cannot be reached.
    MmioReach(u64),
    /// What is on the PCI bus cannot be driven.
    Pci(DeviceFunction, PciError),
    /// Its interrupt cannot be routed.
    Interrupt(u32, &'static str),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::None => f.write_str(
                "there is no network device: none is announced by virtio_mmio.device=SIZE@BASE:IRQ on the command line, \
                 and there is none on the PCI bus (QEMU: -device virtio-net-pci)",
            ),
            Missing::Mmio(base, error) => write!(f, "virtio_mmio.device at {base:#x}: {error}"),
            Missing::MmioReach(base) => {
                write!(f, "virtio_mmio.device at {base:#x}: device registers must lie between 3 and 4 GiB")
            }
            Missing::Pci(function, error) => write!(f, "PCI device {function}: {error}"),
            Missing::Interrupt(gsi, why) => write!(f, "interrupt {gsi} of the network device cannot be routed: {why}"),
        }
    }
}

/// The transport of the network device, its interrupts routed to this processor. Of several devices the first is taken.
pub fn find(options: &Options, info: &StartInfo) -> Result<AnyTransport, Missing> {
    let mut last = None;
    for device in options.mmio_devices.iter() {
        if !reachable(device.base, device.size) {
            last = Some(Missing::MmioReach(device.base));
            continue;
        }
        let Some(registers) = NonNull::new(device.base as *mut u8) else { continue };
        // SAFETY: `boot.s` maps this range uncached for good (just checked), it is where devices' registers lie, and nothing
        // else here uses those the command line gives away as this device's. What is no virtio device is only read.
        match unsafe { MmioTransport::new(registers, device.size as usize) } {
            Ok(transport) => {
                let routed = interrupt::allocate_vector()
                    .ok_or("no vector is left")
                    .and_then(|vector| interrupt::route(device.irq, vector));
                return match routed {
                    Ok(()) => Ok(AnyTransport::Mmio(transport)),
                    Err(why) => Err(Missing::Interrupt(device.irq, why)),
                };
            }
            Err(error) => last = Some(Missing::Mmio(device.base, error)),
        }
    }
    match (find_pci(info), last) {
        (Some(Ok(transport)), _) => Ok(AnyTransport::Pci(transport)),
        (_, Some(missing)) | (Some(Err(missing)), None) => Err(missing),
        (None, None) => Err(Missing::None),
    }
}

/// Whether device registers are mapped at these physical addresses.
fn reachable(address: u64, length: u64) -> bool {
    address >= boot::MEMORY_LIMIT && address.checked_add(length).is_some_and(|end| end <= 1 << 32)
}

/// The way to PCI's configuration space: by memory where ACPI tells of it, and the memory map has no memory there.
fn access(info: &StartInfo) -> Access {
    let free = |ecam: &Ecam| {
        let end = ecam.base.saturating_add(ECAM_BUS);
        let ram = |region: &ringlet_kernel::memory_map::Region| {
            region.kind == Kind::Usable && region.start < end && ecam.base < region.start.saturating_add(region.size)
        };
        !info.memory_map().any(|region| ram(&region))
    };
    let ecam = acpi::find_ecam(&StartInfo::left_behind, info.root_pointer()).filter(free);
    // SAFETY: the MCFG table says that configuration spaces are there, the memory map says that nothing else is, and there is
    // nobody but us to use them.
    match ecam.and_then(|ecam| unsafe { MemoryAccess::new(&ecam) }) {
        Some(memory) => Access::Memory(memory),
        // SAFETY: this processor is the only one, and of all accesses only one is in use at a time.
        None => Access::Ports(unsafe { PortAccess::new() }),
    }
}

/// The first network device on PCI's first bus, which is where every monitor puts it; `None` if there is none.
fn find_pci(info: &StartInfo) -> Option<Result<PciTransport, Missing>> {
    let mut access = access(info);
    // SAFETY: this processor is the only one, and the two accesses are used in turn, never in the middle of one another.
    let other = unsafe { access.unsafe_clone() };
    let mut root = PciRoot::new(other);
    let (function, _) = (0..32)
        .map(|device| DeviceFunction { bus: 0, device, function: 0 })
        .map(|function| (function, access.read_word(function, 0)))
        .find(|(_, id)| pci::is_network(*id as u16, (*id >> 16) as u16))?;
    let message = |_| {
        let (address, data) = interrupt::message(interrupt::allocate_vector()?);
        Some(Message { address, data })
    };
    let transport = PciTransport::new::<IdentityHal, _>(&mut root, &mut access, function, reachable, message);
    Some(transport.map_err(|error| Missing::Pci(function, error)))
}

/// One of both transports: which one is known at boot only, and is asked for nothing on the packet path.
pub enum AnyTransport {
    /// MMIO.
    Mmio(MmioTransport),
    /// PCI.
    Pci(PciTransport),
}

macro_rules! either {
    ($self:expr, $transport:ident => $call:expr) => {
        match $self {
            AnyTransport::Mmio($transport) => $call,
            AnyTransport::Pci($transport) => $call,
        }
    };
}

impl NetTransport for AnyTransport {
    fn name(&self) -> &'static str {
        either!(self, t => t.name())
    }

    fn possible(&self) -> Features {
        either!(self, t => t.possible())
    }

    fn reset_queue(&mut self, queue: u16) -> Result<(), Refused> {
        either!(self, t => t.reset_queue(queue))
    }

    fn doorbell(&mut self, queue: u16, features: Features) -> Result<Doorbell, Refused> {
        either!(self, t => t.doorbell(queue, features))
    }

    fn acknowledge_used(&mut self) {
        either!(self, t => t.acknowledge_used());
    }
}

impl Transport for AnyTransport {
    fn device_type(&self) -> DeviceType {
        either!(self, t => t.device_type())
    }

    fn read_device_features(&mut self) -> u64 {
        either!(self, t => t.read_device_features())
    }

    fn write_driver_features(&mut self, features: u64) {
        either!(self, t => t.write_driver_features(features));
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        either!(self, t => t.max_queue_size(queue))
    }

    fn notify(&mut self, queue: u16) {
        either!(self, t => t.notify(queue));
    }

    fn get_status(&self) -> DeviceStatus {
        either!(self, t => t.get_status())
    }

    fn set_status(&mut self, status: DeviceStatus) {
        either!(self, t => t.set_status(status));
    }

    fn set_guest_page_size(&mut self, size: u32) {
        either!(self, t => t.set_guest_page_size(size));
    }

    fn requires_legacy_layout(&self) -> bool {
        either!(self, t => t.requires_legacy_layout())
    }

    fn queue_set(&mut self, queue: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        either!(self, t => t.queue_set(queue, size, descriptors, driver, device));
    }

    fn queue_unset(&mut self, queue: u16) {
        either!(self, t => t.queue_unset(queue));
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        either!(self, t => t.queue_used(queue))
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        either!(self, t => t.ack_interrupt())
    }

    fn read_config_generation(&self) -> u32 {
        either!(self, t => t.read_config_generation())
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> VirtioResult<T> {
        either!(self, t => t.read_config_space(offset))
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> VirtioResult<()> {
        either!(self, t => t.write_config_space(offset, value))
    }
}
