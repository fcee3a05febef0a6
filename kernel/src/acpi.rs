//! Finding PCI's configuration space in memory: ACPI's MCFG table (PCI Firmware Specification 3.3, section 4.1.2).
//!
//! That is the only table of interest here; nothing is interpreted. The tables are the monitor's, who is trusted with more
//! than this, but may have faults: every length is bounded, every checksum checked, and what is not right is not there.

/// Configuration spaces of functions as memory ("ECAM"): 4096 bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ecam {
    /// Physical address of the configuration space of bus 0, device 0, function 0.
    pub base: u64,
    /// The last bus that is there.
    pub last_bus: u8,
}

/// Bytes of the configuration spaces of one bus.
pub const ECAM_BUS: u64 = 1 << 20;
/// Where the root pointer is looked for that nobody tells of: it begins at a multiple of 16 (ACPI 6.5, section 5.2.5.1).
pub const SCAN: core::ops::Range<u64> = 0xe_0000..0x10_0000;

/// The longest table that is read, in bytes. Those of interest are far shorter.
const MAX_TABLE: u64 = 4096;
const HEADER: u64 = 36;
/// In the MCFG table: where the allocations begin, and the length of each.
const MCFG_ENTRIES: u64 = HEADER + 8;
const MCFG_ENTRY: u64 = 16;

/// Reads memory at a physical address; `None` where there is none to be read.
pub trait Memory {
    /// The byte at `address`.
    fn byte(&self, address: u64) -> Option<u8>;
}

impl<F: Fn(u64) -> Option<u8>> Memory for F {
    fn byte(&self, address: u64) -> Option<u8> {
        self(address)
    }
}

fn bytes<const N: usize>(memory: &impl Memory, address: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (index, byte) in (0..).zip(&mut bytes) {
        *byte = memory.byte(address.checked_add(index)?)?;
    }
    Some(bytes)
}

fn u32_at(memory: &impl Memory, address: u64) -> Option<u32> {
    bytes(memory, address).map(u32::from_le_bytes)
}

fn u64_at(memory: &impl Memory, address: u64) -> Option<u64> {
    bytes(memory, address).map(u64::from_le_bytes)
}

fn sums_to_zero(memory: &impl Memory, start: u64, length: u64) -> bool {
    let sum = (0..length).try_fold(0_u8, |sum, at| Some(sum.wrapping_add(memory.byte(start.checked_add(at)?)?)));
    sum == Some(0)
}

/// The length of the table at `address`, if it is one with that signature, whole and unchanged.
fn table(memory: &impl Memory, address: u64, signature: &[u8; 4]) -> Option<u64> {
    let length = u64::from(u32_at(memory, address.checked_add(4)?)?);
    let sound = bytes(memory, address)? == *signature && (HEADER..=MAX_TABLE).contains(&length);
    (sound && sums_to_zero(memory, address, length)).then_some(length)
}

fn is_root_pointer(memory: &impl Memory, address: u64) -> bool {
    bytes(memory, address) == Some(*b"RSD PTR ") && sums_to_zero(memory, address, 20)
}

/// Where bus 0 of segment 0 is to be reached by memory. `root_pointer` is the address of the root pointer as the start
/// information tells it, 0 for "not told"; it is looked for in low memory then.
#[must_use]
pub fn find_ecam(memory: &impl Memory, root_pointer: u64) -> Option<Ecam> {
    let root = match root_pointer {
        0 => SCAN.step_by(16).find(|at| is_root_pointer(memory, *at))?,
        told => Some(told).filter(|at| is_root_pointer(memory, *at))?,
    };
    // Version 2 has tables at 64-bit addresses besides.
    let extended = match memory.byte(root.checked_add(15)?)? {
        0 | 1 => None,
        _ => Some(u64_at(memory, root.checked_add(24)?)?).filter(|at| *at != 0 && sums_to_zero(memory, root, 36)),
    };
    let (list, width, length) = match extended {
        Some(list) => (list, 8, table(memory, list, b"XSDT")?),
        None => {
            let list = u64::from(u32_at(memory, root.checked_add(16)?)?);
            (list, 4, table(memory, list, b"RSDT")?)
        }
    };
    let count = (length - HEADER) / width;
    (0..count).find_map(|nth| {
        let at = list + HEADER + nth * width;
        let address = if width == 8 { u64_at(memory, at)? } else { u32_at(memory, at)?.into() };
        let length = table(memory, address, b"MCFG")?;
        let allocations = length.checked_sub(MCFG_ENTRIES)? / MCFG_ENTRY;
        (0..allocations).find_map(|nth| {
            let at = address + MCFG_ENTRIES + nth * MCFG_ENTRY;
            let [segment_low, segment_high, first_bus, last_bus] = bytes(memory, at + 8)?;
            let base = u64_at(memory, at)?;
            let ours = (segment_low, segment_high, first_bus) == (0, 0, 0) && base != 0 && base % ECAM_BUS == 0;
            ours.then_some(Ecam { base, last_bus })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const START: u64 = 0xe_0000;

    fn summed(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
        bytes[at] = 0;
        bytes[at] = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
        bytes
    }

    fn table_of(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut bytes = signature.to_vec();
        bytes.extend((36 + body.len() as u32).to_le_bytes());
        bytes.resize(36, 0);
        bytes.extend(body);
        summed(bytes, 9)
    }

    fn mcfg(allocations: &[(u64, u16, u8, u8)]) -> Vec<u8> {
        let mut body = [0; 8].to_vec();
        for (base, segment, first, last) in allocations {
            body.extend(base.to_le_bytes());
            body.extend(segment.to_le_bytes());
            body.extend([*first, *last, 0, 0, 0, 0]);
        }
        table_of(b"MCFG", &body)
    }

    /// Tables as SeaBIOS (version 0) or our own monitor (version 2) leaves them: pointer, list, another table, MCFG.
    fn tables(version: u8, mcfg: &[u8]) -> Vec<u8> {
        let other = table_of(b"FACP", &[1; 20]);
        let (list_at, other_at, mcfg_at) = (START + 64, START + 160, START + 256);
        let list = if version == 0 {
            let addresses = [other_at, mcfg_at].map(|at| at as u32);
            table_of(b"RSDT", &addresses.map(u32::to_le_bytes).concat())
        } else {
            table_of(b"XSDT", &[other_at, mcfg_at].map(u64::to_le_bytes).concat())
        };
        let mut root = b"RSD PTR ".to_vec();
        root.resize(if version == 0 { 20 } else { 36 }, 0);
        root[15] = version;
        if version == 0 {
            root[16..20].copy_from_slice(&(list_at as u32).to_le_bytes());
            root = summed(root, 8);
        } else {
            root[20] = 36;
            root[24..32].copy_from_slice(&list_at.to_le_bytes());
            let first = summed(root[..20].to_vec(), 8);
            root[..20].copy_from_slice(&first);
            root = summed(root, 32);
        }
        let mut all = [0; 512].to_vec();
        for (at, part) in [(START, &root[..]), (list_at, &list), (other_at, &other), (mcfg_at, mcfg)] {
            let at = (at - START) as usize;
            all[at..at + part.len()].copy_from_slice(part);
        }
        all
    }

    fn find(bytes: &[u8], root: u64) -> Option<Ecam> {
        find_ecam(&|at: u64| bytes.get(usize::try_from(at.checked_sub(START)?).ok()?).copied(), root)
    }

    #[test]
    fn both_versions_are_found_where_told_and_by_looking() {
        for version in [0, 2] {
            let all = tables(version, &mcfg(&[(0xb000_0000, 1, 0, 255), (0xe000_0000, 0, 0, 3)]));
            for root in [START, 0] {
                assert_eq!(find(&all, root), Some(Ecam { base: 0xe000_0000, last_bus: 3 }), "{version} {root:#x}");
            }
            assert_eq!(find(&all, START + 16), None, "told of a place where it is not");
        }
    }

    #[test]
    fn what_is_not_right_is_not_there() {
        assert_eq!(find(&[0; 4096], 0), None);
        assert_eq!(find(&[], START), None);
        let good = tables(2, &mcfg(&[(0xe000_0000, 0, 0, 255)]));
        for at in [0, 8, 30, 64, 64 + 36, 256, 256 + 44, 256 + 55] {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(find(&bad, START), None, "a bit at {at} is wrong");
        }
        for odd in [(0xe000_0000, 0, 1, 255), (0xe000_1000, 0, 0, 255), (0, 0, 0, 255), (0xe000_0000, 256, 0, 255)] {
            assert_eq!(find(&tables(0, &mcfg(&[odd])), 0), None, "{odd:?}");
        }
        assert_eq!(find(&tables(2, &table_of(b"MCFG", &[])), START), None, "too short");
        assert_eq!(find(&good[..300], START), None, "cut short");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes: Vec<u8>, changes: Vec<(u16, u8)>, root: u64) {
            find(&bytes, root);
            let mut all = tables((root & 2) as u8, &mcfg(&[(0xe000_0000, 0, 0, 255)]));
            for (at, value) in changes {
                let at = usize::from(at) % all.len();
                all[at] = value;
            }
            find(&all, START);
            let _ = find_ecam(&|at: u64| Some(all[at as usize % all.len()]), root);
        }
    }
}
