//! What every VMM asks of the image, read from the finished file.
//!
//! One ELF64 serves our harness, QEMU, Firecracker and Cloud Hypervisor, whose loaders disagree on anything unusual: QEMU
//! finds the entry point only in a 4-aligned note, linux-loader takes the last of several PT_NOTE segments, QEMU takes a
//! multiboot header in the first 8 KiB for the better offer. So the image is held to the narrow path that all of them take.

use std::collections::BTreeMap;
use std::ops::Range;

/// `p_type` of a segment to load.
pub const PT_LOAD: u32 = 1;
/// `p_type` of a segment of notes.
pub const PT_NOTE: u32 = 4;
/// `p_flags`: executable.
pub const PF_X: u32 = 1;
/// `p_flags`: writable.
pub const PF_W: u32 = 2;
/// The note type XEN_ELFNOTE_PHYS32_ENTRY, which makes an ELF a PVH kernel.
pub const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// Nothing may lie below: firmware tables, the start information and the command line do.
pub const LOWEST_ADDRESS: u64 = 1 << 20;

const ET_EXEC: u64 = 2;
const EM_X86_64: u64 = 62;
const SHT_SYMTAB: u64 = 2;
const MULTIBOOT1_MAGIC: [u8; 4] = 0x1bad_b002_u32.to_le_bytes();

/// One program header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// `p_type`.
    pub kind: u32,
    /// `p_flags`.
    pub flags: u32,
    /// `p_offset`, in bytes from the start of the file.
    pub offset: u64,
    /// `p_vaddr`.
    pub virtual_address: u64,
    /// `p_paddr`: where loaders put it.
    pub physical_address: u64,
    /// `p_filesz`, in bytes.
    pub file_size: u64,
    /// `p_memsz`, in bytes.
    pub memory_size: u64,
    /// `p_align`.
    pub align: u64,
}

impl Segment {
    /// The guest memory it takes.
    pub fn physical(&self) -> Range<u64> {
        self.physical_address..self.physical_address.saturating_add(self.memory_size)
    }

    /// Its bytes in the file, if they are all there.
    pub fn bytes<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        slice(file, self.offset, self.file_size)
    }
}

/// What an image that passed [`check`] is.
#[derive(Debug, Clone)]
pub struct Report {
    /// Size of the file in bytes.
    pub size: usize,
    /// `e_entry`.
    pub entry: u64,
    /// The entry point by the PVH note: physical, in 32-bit protected mode.
    pub pvh_entry: u32,
    /// All program headers.
    pub segments: Vec<Segment>,
    /// The build id (a SHA-1 by the linker), in lower-case hexadecimal.
    pub build_id: String,
    /// The symbols and their values.
    pub symbols: BTreeMap<String, u64>,
}

/// Reads the image and holds it to the rules, the whole file to `limit` bytes.
///
/// # Errors
/// One sentence for each rule that is broken; a file that is no ELF64 at all breaks only that one.
pub fn check(file: &[u8], limit: usize) -> Result<Report, Vec<String>> {
    let header = Header::read(file).ok_or_else(|| vec!["it is not a complete ELF64 file for x86-64".to_owned()])?;
    let mut broken = Vec::new();
    let mut rule = |kept: bool, sentence: &dyn Fn() -> String| {
        if !kept {
            broken.push(sentence());
        }
    };
    rule(file.len() <= limit, &|| format!("it has {} bytes; {limit} is the most", file.len()));
    let head = &file[..file.len().min(8192)];
    rule(!head.windows(4).step_by(4).any(|word| word == MULTIBOOT1_MAGIC), &|| {
        "a multiboot magic number lies in its first 8 KiB: QEMU would refuse the file".to_owned()
    });

    let loads = || header.segments.iter().filter(|segment| segment.kind == PT_LOAD);
    rule(loads().next().is_some(), &|| "it has no segment to load".to_owned());
    for segment in loads() {
        let name = || format!("the segment at {:#x}", segment.virtual_address);
        rule(segment.flags & (PF_W | PF_X) != PF_W | PF_X, &|| format!("{} is both writable and executable", name()));
        rule(segment.physical_address >= LOWEST_ADDRESS, &|| format!("{} lies below 1 MiB", name()));
        rule(segment.virtual_address == segment.physical_address, &|| format!("{} is not mapped one to one", name()));
        rule(segment.file_size <= segment.memory_size && segment.bytes(file).is_some(), &|| {
            format!("{} is larger in the file than in memory, or than the file", name())
        });
    }
    let mut ranges: Vec<_> = loads().map(Segment::physical).collect();
    ranges.sort_by_key(|range| range.start);
    for pair in ranges.windows(2) {
        rule(pair[0].end <= pair[1].start, &|| format!("segments overlap at {:#x}", pair[1].start));
    }
    let executable = |address: u64| loads().any(|load| load.flags & PF_X != 0 && load.physical().contains(&address));
    rule(executable(header.entry), &|| format!("its entry {:#x} lies in no executable segment", header.entry));

    let notes: Vec<_> = header.segments.iter().filter(|segment| segment.kind == PT_NOTE).collect();
    rule(notes.len() == 1, &|| format!("it has {} PT_NOTE segments; loaders want exactly one", notes.len()));
    let pvh = notes.first().and_then(|segment| {
        rule(segment.align == 4, &|| format!("its PT_NOTE is {}-aligned; QEMU wants 4", segment.align));
        let notes = notes_in(segment.bytes(file)?);
        rule(notes.len() == 1, &|| format!("its PT_NOTE has {} notes; it is to have the PVH one alone", notes.len()));
        let note = notes.into_iter().find(|note| note.kind == XEN_ELFNOTE_PHYS32_ENTRY && note.name == b"Xen\0")?;
        number(note.description, 0, 4)
    });
    rule(pvh.is_some(), &|| "it has no PVH entry note (Xen, type 18)".to_owned());
    if let Some(entry) = pvh {
        rule(executable(entry), &|| format!("its PVH entry {entry:#x} lies in no executable segment"));
    }

    let symbols = header.symbols(file);
    rule(!symbols.is_empty(), &|| "it has no symbols: its backtraces could not be read".to_owned());
    let build_id = build_id(file, &header.segments, &symbols);
    rule(build_id.is_some(), &|| "it has no build id between __build_id_start and __build_id_end".to_owned());
    match (pvh, build_id) {
        (Some(pvh), Some(build_id)) if broken.is_empty() => Ok(Report {
            size: file.len(),
            entry: header.entry,
            pvh_entry: pvh as u32,
            segments: header.segments,
            build_id,
            symbols,
        }),
        _ => Err(broken),
    }
}

/// The bytes that `range` of guest-physical memory has from the file, if one segment's file part covers it all.
pub fn memory<'a>(file: &'a [u8], segments: &[Segment], range: Range<u64>) -> Option<&'a [u8]> {
    let segment =
        segments.iter().find(|segment| segment.kind == PT_LOAD && segment.physical().contains(&range.start))?;
    let bytes = segment.bytes(file)?;
    slice(bytes, range.start - segment.physical_address, range.end.checked_sub(range.start)?)
}

/// The build id from the note that the linker script put between its two symbols.
fn build_id(file: &[u8], segments: &[Segment], symbols: &BTreeMap<String, u64>) -> Option<String> {
    let range = *symbols.get("__build_id_start")?..*symbols.get("__build_id_end")?;
    let notes = notes_in(memory(file, segments, range)?);
    let note = notes.iter().find(|note| note.kind == 3 && note.name == b"GNU\0" && !note.description.is_empty())?;
    Some(note.description.iter().map(|byte| format!("{byte:02x}")).collect())
}

struct Note<'a> {
    name: &'a [u8],
    kind: u32,
    description: &'a [u8],
}

/// The notes in these bytes, up to the first that is not all there.
fn notes_in(mut bytes: &[u8]) -> Vec<Note<'_>> {
    let mut notes = Vec::new();
    while let (Some(name), Some(description), Some(kind)) =
        (number(bytes, 0, 4), number(bytes, 4, 4), number(bytes, 8, 4))
    {
        let start = 12 + name.next_multiple_of(4);
        let (Some(name), Some(body)) = (slice(bytes, 12, name), slice(bytes, start, description)) else { break };
        notes.push(Note { name, kind: kind as u32, description: body });
        bytes = usize::try_from(start + description.next_multiple_of(4))
            .ok()
            .and_then(|next| bytes.get(next..))
            .unwrap_or_default();
    }
    notes
}

struct Header {
    entry: u64,
    segments: Vec<Segment>,
    section_offset: u64,
    section_count: u64,
}

impl Header {
    /// Reads the ELF header and all program headers.
    fn read(file: &[u8]) -> Option<Self> {
        // ELF, 64 bits, little endian.
        if !file.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let (kind, machine) = (number(file, 16, 2)?, number(file, 18, 2)?);
        let (offset, size, count) = (number(file, 32, 8)?, number(file, 54, 2)?, number(file, 56, 2)?);
        if kind != ET_EXEC || machine != EM_X86_64 || size != 56 {
            return None;
        }
        let segments = (0..count)
            .map(|index| {
                let entry = slice(file, offset.checked_add(index * size)?, size)?;
                Some(Segment {
                    kind: number(entry, 0, 4)? as u32,
                    flags: number(entry, 4, 4)? as u32,
                    offset: number(entry, 8, 8)?,
                    virtual_address: number(entry, 16, 8)?,
                    physical_address: number(entry, 24, 8)?,
                    file_size: number(entry, 32, 8)?,
                    memory_size: number(entry, 40, 8)?,
                    align: number(entry, 48, 8)?,
                })
            })
            .collect::<Option<_>>()?;
        Some(Self {
            entry: number(file, 24, 8)?,
            segments,
            section_offset: number(file, 40, 8)?,
            section_count: number(file, 60, 2)?,
        })
    }

    /// The symbol table; empty if there is none.
    fn symbols(&self, file: &[u8]) -> BTreeMap<String, u64> {
        let section = |index: u64| slice(file, self.section_offset.checked_add(index.checked_mul(64)?)?, 64);
        let contents = |section: &[u8]| slice(file, number(section, 24, 8)?, number(section, 32, 8)?);
        let read = || {
            let table = (0..self.section_count)
                .filter_map(section)
                .find(|section| number(section, 4, 4) == Some(SHT_SYMTAB))?;
            let names = contents(section(number(table, 40, 4)?)?)?;
            let symbols = contents(table)?.chunks_exact(24).filter_map(|symbol| {
                let name = names.get(number(symbol, 0, 4)? as usize..)?;
                let name = &name[..name.iter().position(|byte| *byte == 0)?];
                let defined = number(symbol, 6, 2)? != 0;
                let name = std::str::from_utf8(name).ok().filter(|name| defined && !name.is_empty())?;
                Some((name.to_owned(), number(symbol, 8, 8)?))
            });
            Some(symbols.collect())
        };
        read().unwrap_or_default()
    }
}

/// `length` bytes from `offset`, if they are there.
fn slice(bytes: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
}

/// The little-endian number of `length` (at most 8) bytes at `offset`.
fn number(bytes: &[u8], offset: u64, length: u64) -> Option<u64> {
    let bytes = slice(bytes, offset, length)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests;
