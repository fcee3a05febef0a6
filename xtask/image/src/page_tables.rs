//! The page tables that the image brings along, read from the finished file as the processor would read them.
//!
//! What the program headers say binds nobody once the image runs; what its static page tables say does. So these are held to
//! the same rules: nothing is both writable and executable, ring 3 reaches nothing of ring 0, and each segment has exactly
//! the rights that its program header claims.

use std::ops::Range;

use crate::elf::{self, PF_W, PF_X, PT_LOAD, Report};

/// The symbol of the first table.
const ROOT: &str = "pml4";
/// Where the address of a table or page is in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Not cached, written through: both bits, as device registers are mapped.
const UNCACHED: u64 = 0b11 << 3;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Ring 0's part of the image: below, by `linker.ld`, ring 3's segments begin at the next 2 MiB.
const RING0: Range<u64> = 0x10_0000..0x20_0000;
/// Physical addresses that may be mapped a second time, above all that is mapped one to one, as device registers.
const REGISTERS_BELOW: Range<u64> = 0x8000_0000..0xc000_0000;
const ABOVE: u64 = 1 << 32;

/// A run of linear addresses with the same rights, mapped to physical addresses in one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Linear addresses.
    pub linear: Range<u64>,
    /// The physical address of the first.
    pub physical: u64,
    /// Can be written.
    pub writable: bool,
    /// Can be executed.
    pub executable: bool,
    /// Ring 3 reaches it.
    pub user: bool,
    /// Accesses are not cached.
    pub uncached: bool,
}

impl Mapping {
    fn is_identity(&self) -> bool {
        self.linear.start == self.physical
    }

    /// A second view of what may hold device registers, and cannot be mistaken for memory.
    fn is_registers_again(&self) -> bool {
        let length = self.linear.end - self.linear.start;
        let end = self.physical.saturating_add(length);
        let inside = REGISTERS_BELOW.start <= self.physical && end <= REGISTERS_BELOW.end;
        inside && self.linear.start >= ABOVE && self.uncached && !self.executable
    }
}

/// Reads the tables: all that is mapped, by rising linear address.
///
/// # Errors
/// A sentence, if a table does not lie in the file.
pub fn read(file: &[u8], report: &Report) -> Result<Vec<Mapping>, String> {
    let root = *report.symbols.get(ROOT).ok_or_else(|| format!("it has no symbol `{ROOT}`"))?;
    let mut mappings = Vec::new();
    walk(file, report, root, 39, 0, WRITABLE | USER, &mut mappings)?;
    Ok(mappings)
}

/// Reads the table at `table`, each entry of which maps `1 << shift` bytes. `rights` are what the tables above leave.
fn walk(
    file: &[u8],
    report: &Report,
    table: u64,
    shift: u32,
    base: u64,
    rights: u64,
    mappings: &mut Vec<Mapping>,
) -> Result<(), String> {
    let bytes = elf::memory(file, &report.segments, table..table + 4096)
        .ok_or_else(|| format!("its page table at {table:#x} does not lie in the file"))?;
    for (index, entry) in bytes.chunks_exact(8).enumerate() {
        let entry = u64::from_le_bytes(entry.try_into().unwrap_or_default());
        if entry & PRESENT == 0 {
            continue;
        }
        let linear = base + ((index as u64) << shift);
        // Writing and ring 3 must be allowed on every level, execution forbidden on none.
        let rights = rights & entry & (WRITABLE | USER) | (rights | entry) & NO_EXECUTE;
        if shift == 12 || (entry & LARGE != 0 && shift < 39) {
            let size = 1 << shift;
            add(mappings, linear, entry & ADDRESS & !(size - 1), size, rights | entry & UNCACHED);
        } else {
            walk(file, report, entry & ADDRESS, shift - 9, linear, rights, mappings)?;
        }
    }
    Ok(())
}

fn add(mappings: &mut Vec<Mapping>, linear: u64, physical: u64, size: u64, rights: u64) {
    let new = Mapping {
        linear: linear..linear + size,
        physical,
        writable: rights & WRITABLE != 0,
        executable: rights & NO_EXECUTE == 0,
        user: rights & USER != 0,
        uncached: rights & UNCACHED == UNCACHED,
    };
    if let Some(last) = mappings.last_mut() {
        let kind = |m: &Mapping| (m.writable, m.executable, m.user, m.uncached);
        let same = kind(last) == kind(&new);
        let next = last.linear.end == linear && last.physical + (linear - last.linear.start) == physical;
        if same && next {
            last.linear.end = new.linear.end;
            return;
        }
    }
    mappings.push(new);
}

/// Holds the tables of an image to the rules.
///
/// # Errors
/// One sentence for each rule that is broken.
pub fn check(file: &[u8], report: &Report) -> Result<Vec<Mapping>, Vec<String>> {
    let mappings = read(file, report).map_err(|broken| vec![broken])?;
    let mut broken = Vec::new();
    for mapping in &mappings {
        let Range { start, end } = mapping.linear;
        if mapping.writable && mapping.executable {
            broken.push(format!("memory at {start:#x} is both writable and executable"));
        }
        if start == 0 {
            broken.push("the null page is mapped".to_owned());
        }
        let shown_again = !mapping.writable && !mapping.executable && mapping.physical == 0;
        if !mapping.is_identity() && !shown_again && !mapping.is_registers_again() {
            broken.push(format!("memory at {start:#x} is not mapped one to one"));
        }
        let executable = report.segments.iter().filter(|segment| segment.kind == PT_LOAD && segment.flags & PF_X != 0);
        let rounded = |address: u64| address.next_multiple_of(2 << 20);
        let covered = executable
            .clone()
            .any(|segment| segment.physical_address <= start && end <= rounded(segment.physical().end));
        if mapping.executable && !covered {
            broken.push(format!("memory at {start:#x} is executable and belongs to no executable segment"));
        }
    }
    for segment in report.segments.iter().filter(|segment| segment.kind == PT_LOAD && segment.memory_size > 0) {
        let range = segment.physical();
        let ring0 = RING0.contains(&range.start);
        let wanted = (segment.flags & PF_W != 0, segment.flags & PF_X != 0, !ring0);
        let mut at = range.start;
        while at < range.end {
            let Some(mapping) = mappings.iter().find(|m| m.linear.contains(&at)) else {
                broken.push(format!("the segment at {:#x} is not mapped at {at:#x}", range.start));
                break;
            };
            if (mapping.writable, mapping.executable, mapping.user) != wanted {
                broken.push(format!("the segment at {:#x} has other rights at {at:#x} than it claims", range.start));
            }
            at = mapping.linear.end;
        }
    }
    if broken.is_empty() { Ok(mappings) } else { Err(broken) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::Segment;

    const TABLES: u64 = 0x11_0000;

    /// Four tables in one segment of ring 0: 2 MiB of text at 2 MiB, and whatever `change` makes of them.
    fn image(change: impl Fn(&mut [[u64; 512]; 4])) -> (Vec<u8>, Report) {
        let mut tables = [[0_u64; 512]; 4];
        let below = |table: u64| (TABLES + table * 4096) | PRESENT | WRITABLE | USER;
        tables[0][0] = below(1);
        tables[1][0] = below(2);
        tables[2][0] = below(3);
        tables[2][1] = 0x20_0000 | PRESENT | USER | LARGE;
        tables[2][2] = 0x40_0000 | PRESENT | USER | LARGE | WRITABLE | NO_EXECUTE;
        for page in 0x110..0x114 {
            tables[3][page as usize] = page << 12 | PRESENT | WRITABLE | NO_EXECUTE;
        }
        change(&mut tables);
        let file: Vec<u8> = tables.iter().flatten().flat_map(|entry| entry.to_le_bytes()).collect();
        let segment = |flags, address, offset, size| Segment {
            kind: PT_LOAD,
            flags,
            offset,
            virtual_address: address,
            physical_address: address,
            file_size: size,
            memory_size: size,
            align: 4096,
        };
        let report = Report {
            size: file.len(),
            entry: 0x20_0000,
            pvh_entry: 0x20_0000,
            segments: vec![segment(4 | PF_W, TABLES, 0, 0x4000), segment(4 | PF_X, 0x20_0000, 0, 64)],
            build_id: String::new(),
            symbols: [(ROOT.to_owned(), TABLES)].into(),
        };
        (file, report)
    }

    fn broken(change: impl Fn(&mut [[u64; 512]; 4])) -> String {
        let (file, report) = image(change);
        check(&file, &report).unwrap_err().join("; ")
    }

    #[test]
    fn sound_tables_are_read_as_they_are() {
        let (file, report) = image(|_| ());
        let mappings = check(&file, &report).unwrap();
        assert_eq!(mappings.len(), 3);
        let text = Mapping {
            linear: 0x20_0000..0x40_0000,
            physical: 0x20_0000,
            writable: false,
            executable: true,
            user: true,
            uncached: false,
        };
        assert_eq!(mappings[1], text);
        assert_eq!(mappings[0].linear, 0x11_0000..0x11_4000);
    }

    #[test]
    fn each_broken_rule_is_named() {
        assert!(broken(|t| t[2][1] |= WRITABLE).contains("0x200000 is both writable and executable"));
        assert!(broken(|t| t[2][2] &= !NO_EXECUTE).contains("both writable and executable"));
        assert!(broken(|t| t[3][0] = PRESENT | USER | NO_EXECUTE).contains("null page"));
        assert!(broken(|t| t[2][2] ^= 0x20_0000).contains("not mapped one to one"));
        assert!(broken(|t| t[2][3] = 0x60_0000 | PRESENT | USER | LARGE).contains("no executable segment"));
        assert!(broken(|t| t[3][0x111] |= USER).contains("other rights at 0x111000"));
        assert!(broken(|t| t[3][0x112] = 0).contains("not mapped at 0x112000"));
        assert!(broken(|t| t[2][1] |= NO_EXECUTE).contains("other rights at 0x200000"));
        assert!(broken(|t| t[1][0] = 0x90_0000 | PRESENT).contains("does not lie in the file"));
        // Only registers are mapped twice, only as registers, and only where nothing else is.
        let again = |physical: u64| physical | PRESENT | WRITABLE | USER | LARGE | NO_EXECUTE | UNCACHED;
        let above = |t: &mut [[u64; 512]; 4]| t[1][4] = t[1][0];
        assert!(broken(above).contains("at 0x100200000 is not mapped one to one"));
        assert!(broken(|t| t[2][8] = again(0x8000_0000)).contains("0x1000000 is not mapped one to one"));
        // A right that a table above withholds is not there.
        assert!(broken(|t| t[1][0] &= !USER).contains("other rights at 0x200000"));
    }
}
