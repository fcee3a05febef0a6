//! ACPI tables: as many as it takes to tell a guest where PCI's configuration space lies in memory.
//!
//! No more than that: a guest that needs a namespace (DSDT) to find devices finds none here.

use acpi_tables::Aml;
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;

use super::layout;
use super::pci::ECAM_FUNCTION;

const OEM: [u8; 6] = *b"RINGLT";
const OEM_TABLE: [u8; 8] = *b"RINGLET ";
const OEM_REVISION: u32 = 1;
/// What one bus takes: 32 devices of 8 functions.
const BUS: u64 = 32 * 8 * ECAM_FUNCTION;

/// The root pointer, the XSDT and the MCFG table, to be written at `base`, which must be a multiple of 16.
#[must_use]
pub fn tables(base: u64) -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    let buses = (layout::PCI_ECAM.end - layout::PCI_ECAM.start) / BUS;
    mcfg.add_ecam(layout::PCI_ECAM.start, 0, 0, (buses - 1) as u8);
    let mcfg = bytes(&mcfg);

    // Each table on a multiple of 16, after the one before.
    let xsdt_at = (Rsdp::len() as u64).next_multiple_of(16);
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    let mcfg_at = (xsdt_at + bytes(&xsdt).len() as u64 + 8).next_multiple_of(16);
    xsdt.add_entry(base + mcfg_at);

    let mut all = bytes(&Rsdp::new(OEM, base + xsdt_at));
    all.resize(xsdt_at as usize, 0);
    all.extend(bytes(&xsdt));
    all.resize(mcfg_at as usize, 0);
    all.extend(mcfg);
    all
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn sums_to_zero(bytes: &[u8]) -> bool {
        bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) == 0
    }

    /// Read as a guest would, by the offsets of the specifications (ACPI 6.5, sections 5.2.5 to 5.2.8; PCI Firmware 3.3,
    /// section 4.1.2).
    #[test]
    fn a_guest_finds_ecam() {
        const BASE: u64 = 0xe_0000;
        let all = tables(BASE);
        assert_eq!((&all[..8], all[15]), (&b"RSD PTR "[..], 2));
        assert!(sums_to_zero(&all[..20]) && sums_to_zero(&all[..36]));
        let table = |at: u64| {
            let at = (at - BASE) as usize;
            let length = u32::from_le_bytes(all[at + 4..at + 8].try_into().unwrap()) as usize;
            assert!(at.is_multiple_of(16) && sums_to_zero(&all[at..at + length]));
            &all[at..at + length]
        };
        let xsdt = table(u64_at(&all, 24));
        assert_eq!((&xsdt[..4], xsdt.len()), (&b"XSDT"[..], 36 + 8));
        let mcfg = table(u64_at(xsdt, 36));
        assert_eq!((&mcfg[..4], mcfg.len()), (&b"MCFG"[..], 44 + 16));
        assert_eq!((u64_at(mcfg, 44), &mcfg[52..56]), (layout::PCI_ECAM.start, &[0, 0, 0, 0][..]));
    }
}
