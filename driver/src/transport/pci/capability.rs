//! Where a device's structures lie: the capability list (virtio 1.3, section 4.1.4; PCI 3.0, section 6.7).

use core::ptr::NonNull;

use virtio_drivers::Hal;
use virtio_drivers::transport::pci::bus::{BarInfo, ConfigurationAccess, DeviceFunction, PciRoot};

use super::PciError;
use super::registers::Registers;
use crate::wire::pci::{
    CAPABILITY_MSIX, CAPABILITY_VENDOR, CFG_COMMON, CFG_DEVICE, CFG_ISR, CFG_NOTIFY, capability, msix,
};

/// The most capabilities that are looked at: there is room for no more, so a longer list is a loop.
const MAX_CAPABILITIES: usize = 48;

/// A structure of the device, in bytes of physical memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    name: &'static str,
    address: u64,
    pub length: u64,
}

/// The structures of a modern network device.
#[derive(Debug)]
pub(super) struct Found {
    pub common: Place,
    pub notify: Place,
    pub notify_multiplier: u32,
    pub isr: Place,
    pub config: Place,
    /// Where the MSI-X capability lies in the configuration space.
    pub msix: u8,
    pub msix_table: Place,
}

/// A structure as a capability describes it.
#[derive(Clone, Copy)]
struct Described {
    bar: u8,
    offset: u32,
    length: u32,
}

/// Walks the capability list. Of several capabilities of one type the first that is usable counts (section 4.1.4.1).
pub(super) fn find<C: ConfigurationAccess>(
    root: &mut PciRoot<C>,
    access: &C,
    function: DeviceFunction,
) -> Result<Found, PciError> {
    let mut structures = [None::<Described>; 4];
    let mut multiplier = 0;
    let mut table = None;
    for found in root.capabilities(function).take(MAX_CAPABILITIES) {
        // A capability that would reach beyond the configuration space is none.
        let word = |at: u8| found.offset.checked_add(at).map(|at| access.read_word(function, at & 0xfc)).unwrap_or(0);
        match found.id {
            CAPABILITY_VENDOR => {
                let header = word(0);
                let (length, kind) =
                    ((header >> (8 * capability::LENGTH)) as u8, (header >> (8 * capability::TYPE)) as u8);
                let slot = match kind {
                    CFG_COMMON => 0,
                    CFG_NOTIFY if length >= capability::NOTIFY_OFF_MULTIPLIER + 4 => 1,
                    CFG_ISR => 2,
                    CFG_DEVICE => 3,
                    _ => continue,
                };
                let described = Described {
                    bar: word(capability::BAR) as u8,
                    offset: word(capability::OFFSET),
                    length: word(capability::REGION_LENGTH),
                };
                if structures[slot].is_none() && length >= capability::REGION_LENGTH + 4 && described.bar < 6 {
                    structures[slot] = Some(described);
                    if kind == CFG_NOTIFY {
                        multiplier = word(capability::NOTIFY_OFF_MULTIPLIER);
                    }
                }
            }
            CAPABILITY_MSIX if table.is_none() => {
                let entries = ((word(0) >> (8 * msix::CONTROL)) as u16 & msix::TABLE_SIZE_MASK) + 1;
                let place = word(msix::TABLE);
                let length = u32::from(entries) * msix::ENTRY as u32;
                table = Some((found.offset, Described { bar: (place & 7) as u8, offset: place & !7, length }));
            }
            _ => {}
        }
    }
    // To learn a BAR's size takes ten accesses, each of which leaves the guest; most devices have all in one BAR.
    let mut bars = [const { None }; 6];
    let mut place = |described: Option<Described>, name| {
        let described = described.ok_or(PciError::Missing(name))?;
        let bar = bars.get_mut(usize::from(described.bar)).ok_or(PciError::Bar(name))?;
        let bar = bar.get_or_insert_with(|| root.bar_info(function, described.bar).ok().flatten());
        locate(bar.as_ref(), described, name)
    };
    let (msix, table) = table.ok_or(PciError::NoMsix)?;
    Ok(Found {
        common: place(structures[0], "common configuration structure")?,
        notify: place(structures[1], "doorbell structure")?,
        notify_multiplier: multiplier,
        isr: place(structures[2], "interrupt status structure")?,
        config: place(structures[3], "device configuration structure")?,
        msix,
        msix_table: place(Some(table), "MSI-X table")?,
    })
}

/// Where in physical memory a structure lies, if it lies wholly inside a memory BAR that has an address.
fn locate(bar: Option<&BarInfo>, described: Described, name: &'static str) -> Result<Place, PciError> {
    let Some(&BarInfo::Memory { address, size, .. }) = bar else { return Err(PciError::Bar(name)) };
    let (offset, length) = (u64::from(described.offset), u64::from(described.length));
    let inside = length > 0 && offset.checked_add(length).is_some_and(|end| end <= size);
    match address.checked_add(offset) {
        Some(start) if inside && address != 0 && start.checked_add(length).is_some() => {
            Ok(Place { name, address: start, length })
        }
        _ => Err(PciError::Bar(name)),
    }
}

impl Place {
    /// Maps the structure, which must be at least `least` bytes long.
    ///
    /// # Safety
    /// It must lie in a memory BAR of a device that nothing else uses, and `reachable` must be true only of what
    /// [`Hal::mmio_phys_to_virt`] can map for good.
    pub unsafe fn map<H: Hal>(&self, reachable: &impl Fn(u64, u64) -> bool, least: u64) -> Result<Registers, PciError> {
        if self.length < least {
            return Err(PciError::Bar(self.name));
        }
        if !reachable(self.address, self.length) {
            return Err(PciError::OutOfReach { address: self.address });
        }
        let length = usize::try_from(self.length).map_err(|_| PciError::Bar(self.name))?;
        // SAFETY: the caller's promise, with `reachable` just asked.
        let start: NonNull<u8> = unsafe { H::mmio_phys_to_virt(self.address, length) };
        // SAFETY: mapped by the line above; the registers of a device.
        Ok(unsafe { Registers::new(start, length) })
    }
}
