//! Starting an image by the PVH boot protocol: what lies in memory, and the state the vCPU begins in.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::GuestAddress;

use super::elf::Image;
use super::memory::GuestRam;
use super::{acpi, layout};

const MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;
const RESERVED: u32 = 2;
const PAGE: u64 = 4096;

/// The guest cannot be given what it is to start with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than the guest takes.
    #[error("the guest's command line is {0} bytes long; at most {max} fit", max = layout::COMMAND_LINE_MAX)]
    CommandLineTooLong(usize),
    /// It would end early in the guest.
    #[error("the guest's command line has a NUL byte or a line break in it")]
    CommandLineCharacters,
    /// The module does not fit above the image.
    #[error(
        "the rule file ({size} bytes) does not fit in the guest's memory beside the image: give it more with --memory"
    )]
    ModuleTooLarge {
        /// Bytes in the module.
        size: usize,
    },
    /// The boot structures do not fit; cannot happen with a memory of the allowed sizes.
    #[error("the boot structures cannot be written: {0}")]
    Write(String),
}

/// Writes the start info, the memory map, the command line and the module (if any) into guest memory, and the ACPI tables
/// that tell of `pci`, if there is such a bus.
///
/// # Errors
/// If one of them does not fit.
pub fn write(
    ram: &GuestRam,
    image: &Image<'_>,
    command_line: &str,
    module: Option<&[u8]>,
    pci: bool,
) -> Result<(), Error> {
    if command_line.len() > layout::COMMAND_LINE_MAX {
        return Err(Error::CommandLineTooLong(command_line.len()));
    }
    if command_line.contains(['\0', '\n', '\r']) {
        return Err(Error::CommandLineCharacters);
    }
    let failed = |error: &dyn std::fmt::Display| Error::Write(error.to_string());
    ram.write(layout::COMMAND_LINE, command_line.as_bytes()).map_err(|error| failed(&error))?;
    ram.write(layout::COMMAND_LINE + command_line.len() as u64, &[0]).map_err(|error| failed(&error))?;

    let modules = match module {
        Some(bytes) => {
            let too_large = Error::ModuleTooLarge { size: bytes.len() };
            let start = ram.size().checked_sub(bytes.len() as u64).ok_or(too_large.clone())? & !(PAGE - 1);
            if start < image.end() {
                return Err(too_large);
            }
            ram.write(start, bytes).map_err(|error| failed(&error))?;
            vec![hvm_modlist_entry { paddr: start, size: bytes.len() as u64, ..Default::default() }]
        }
        None => Vec::new(),
    };
    if pci {
        ram.write(layout::ACPI, &acpi::tables(layout::ACPI)).map_err(|error| failed(&error))?;
    }
    let memory_map = memory_map(ram.size(), pci);
    let start_info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        nr_modules: modules.len() as u32,
        modlist_paddr: if modules.is_empty() { 0 } else { layout::MODULES },
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: if pci { layout::ACPI } else { 0 },
        memmap_paddr: layout::MEMORY_MAP,
        memmap_entries: memory_map.len() as u32,
        ..Default::default()
    };
    let mut params = BootParams::new(&start_info, GuestAddress(layout::START_INFO));
    params.set_sections(&memory_map, GuestAddress(layout::MEMORY_MAP));
    if !modules.is_empty() {
        params.set_modules(&modules, GuestAddress(layout::MODULES));
    }
    PvhBootConfigurator::write_bootparams(&params, ram.memory()).map_err(|error| failed(&error))
}

fn memory_map(size: u64, pci: bool) -> Vec<hvm_memmap_table_entry> {
    let entry = |addr, end, type_| hvm_memmap_table_entry { addr, size: end - addr, type_, reserved: 0 };
    let mut map = vec![
        entry(0, layout::CONVENTIONAL_END, RAM),
        entry(layout::CONVENTIONAL_END, layout::IMAGE_START, RESERVED),
        entry(layout::IMAGE_START, size, RAM),
    ];
    if pci {
        // Whoever finds ECAM by the MCFG table believes it only if the memory map keeps it free (PCI Firmware 3.3, 4.1.2).
        map.push(entry(layout::PCI_ECAM.start, layout::PCI_ECAM.end, RESERVED));
    }
    map
}

/// The registers at entry: EBX holds the address of the start info, and interrupts are off.
#[must_use]
pub fn registers(entry: u32) -> kvm_regs {
    kvm_regs { rip: entry.into(), rbx: layout::START_INFO, rflags: 2, ..Default::default() }
}

/// Sets the segments and control registers for entry: 32-bit protected mode, flat, paging off.
pub fn system_registers(sregs: &mut kvm_sregs) {
    const CODE: u8 = 0b1011;
    const DATA: u8 = 0b0011;
    const BUSY_TSS: u8 = 0b1011;
    const PROTECTED_MODE: u64 = 1;
    const EXTENSION_TYPE: u64 = 1 << 4;
    let flat = |selector, type_| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = flat(0x08, CODE);
    let data = flat(0x10, DATA);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { limit: 0x67, selector: 0x18, type_: BUSY_TSS, present: 1, ..Default::default() };
    sregs.cr0 = PROTECTED_MODE | EXTENSION_TYPE;
    sregs.cr3 = 0;
    sregs.cr4 = 0;
    sregs.efer = 0;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::elf::tests::tiny;

    fn u32_at(ram: &GuestRam, address: u64) -> u32 {
        let mut bytes = [0; 4];
        ram.read(address, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn lays_out_the_boot_structures() {
        let ram = GuestRam::new(32).unwrap();
        let file = tiny(&[0xf4]);
        let image = Image::parse(&file).unwrap();
        write(&ram, &image, "a=b", Some(b"-A -t 1.2.3.4:80"), false).unwrap();
        assert_eq!(u32_at(&ram, layout::START_INFO), MAGIC);
        assert_eq!(u32_at(&ram, layout::START_INFO + 12), 1, "modules");
        assert_eq!(u32_at(&ram, layout::START_INFO + 16), layout::MODULES as u32);
        assert_eq!(u32_at(&ram, layout::START_INFO + 24), layout::COMMAND_LINE as u32);
        assert_eq!(u32_at(&ram, layout::START_INFO + 48), 3, "memory map entries");
        assert_eq!(u32_at(&ram, layout::MODULES), (32 << 20) - 4096, "the module is at the top, on a page");
        assert_eq!(u32_at(&ram, layout::MODULES + 8), 16);
        assert_eq!(u32_at(&ram, layout::COMMAND_LINE).to_le_bytes(), *b"a=b\0");
        assert_eq!(u32_at(&ram, layout::MEMORY_MAP + 2 * 24), 0x10_0000);
        assert_eq!(u32_at(&ram, layout::MEMORY_MAP + 2 * 24 + 8), (32 << 20) - 0x10_0000);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let ram = GuestRam::new(32).unwrap();
        let file = tiny(&[0xf4]);
        let image = Image::parse(&file).unwrap();
        let long = "x".repeat(layout::COMMAND_LINE_MAX + 1);
        assert_eq!(write(&ram, &image, &long, None, false), Err(Error::CommandLineTooLong(4097)));
        assert_eq!(write(&ram, &image, "a\0b", None, false), Err(Error::CommandLineCharacters));
        for size in [31 << 20, 64 << 20] {
            assert_eq!(write(&ram, &image, "", Some(&vec![0; size]), false), Err(Error::ModuleTooLarge { size }));
        }
        write(&ram, &image, &long[1..], None, true).unwrap();
    }
}
