//! A small image that keeps every rule, then the same with one rule broken at a time.

use super::*;

const LIMIT: usize = 1 << 20;

/// An image as a list of segments; what a test changes before it is written out.
struct Sketch {
    entry: u64,
    segments: Vec<(Segment, Vec<u8>)>,
    symbols: Vec<(&'static str, u64)>,
}

fn note(name: &[u8], kind: u32, description: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((name.len() as u32).to_le_bytes());
    bytes.extend((description.len() as u32).to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    for part in [name, description] {
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn segment(kind: u32, flags: u32, address: u64, align: u64, bytes: Vec<u8>) -> (Segment, Vec<u8>) {
    let size = bytes.len() as u64;
    let segment = Segment {
        kind,
        flags,
        offset: 0,
        virtual_address: address,
        physical_address: address,
        file_size: size,
        memory_size: size,
        align,
    };
    (segment, bytes)
}

const TEXT: usize = 0;
const RODATA: usize = 1;
const DATA: usize = 2;
const NOTE: usize = 3;

fn sound() -> Sketch {
    let id = note(b"GNU\0", 3, &[0xab; 20]);
    let end = 0x40_0000 + id.len() as u64;
    Sketch {
        entry: 0x20_0000,
        segments: vec![
            segment(PT_LOAD, 4 | PF_X, 0x20_0000, 4096, vec![0x90; 64]),
            segment(PT_LOAD, 4, 0x40_0000, 4096, id),
            segment(PT_LOAD, 4 | PF_W, 0x60_0000, 4096, vec![1; 16]),
            segment(PT_NOTE, 4, 0x40_0100, 4, note(b"Xen\0", XEN_ELFNOTE_PHYS32_ENTRY, &0x20_0000_u32.to_le_bytes())),
        ],
        symbols: vec![("__build_id_start", 0x40_0000), ("__build_id_end", end), ("pvh_start", 0x20_0000)],
    }
}

impl Sketch {
    fn write(mut self) -> Vec<u8> {
        let headers = 64 + 56 * self.segments.len();
        let mut body = Vec::new();
        for (segment, bytes) in &mut self.segments {
            segment.offset = (headers + body.len()) as u64;
            body.extend_from_slice(bytes);
        }
        let (mut names, mut table) = (vec![0], vec![0; 24]);
        for (name, value) in &self.symbols {
            table.extend((names.len() as u32).to_le_bytes());
            table.extend([0, 0, 1, 0]);
            table.extend(value.to_le_bytes());
            table.extend([0; 8]);
            names.extend(name.as_bytes());
            names.push(0);
        }
        let (names_at, table_at) = (headers + body.len(), headers + body.len() + names.len());
        let sections_at = table_at + table.len();

        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        for half in [2_u16, 62] {
            file.extend(half.to_le_bytes());
        }
        file.extend(1_u32.to_le_bytes());
        for wide in [self.entry, 64, sections_at as u64] {
            file.extend(wide.to_le_bytes());
        }
        file.extend([0; 4]);
        for half in [64, 56, self.segments.len() as u16, 64, 2, 0] {
            file.extend(half.to_le_bytes());
        }
        for (segment, _) in &self.segments {
            file.extend(segment.kind.to_le_bytes());
            file.extend(segment.flags.to_le_bytes());
            for wide in [
                segment.offset,
                segment.virtual_address,
                segment.physical_address,
                segment.file_size,
                segment.memory_size,
                segment.align,
            ] {
                file.extend(wide.to_le_bytes());
            }
        }
        file.extend(body);
        file.extend(&names);
        file.extend(&table);
        // Section 0 holds the names, section 1 the symbol table that links to it.
        for (kind, at, size, link) in [(3_u32, names_at, names.len(), 0_u32), (2, table_at, table.len(), 0)] {
            let start = file.len();
            file.extend([0; 4]);
            file.extend(kind.to_le_bytes());
            file.extend([0; 16]);
            file.extend((at as u64).to_le_bytes());
            file.extend((size as u64).to_le_bytes());
            file.extend(link.to_le_bytes());
            file.resize(start + 64, 0);
        }
        file
    }
}

/// The one rule that the sketch breaks after `change`.
fn broken(change: impl FnOnce(&mut Sketch)) -> String {
    let mut sketch = sound();
    change(&mut sketch);
    let rules = check(&sketch.write(), LIMIT).expect_err("the image was accepted");
    assert_eq!(rules.len(), 1, "{rules:?}");
    rules.into_iter().next().unwrap_or_default()
}

#[test]
fn a_sound_image_is_read() {
    let report = check(&sound().write(), LIMIT).unwrap();
    assert_eq!(report.pvh_entry, 0x20_0000);
    assert_eq!(report.entry, 0x20_0000);
    assert_eq!(report.build_id, "ab".repeat(20));
    assert_eq!(report.symbols["pvh_start"], 0x20_0000);
    assert_eq!(report.segments.len(), 4);
}

#[test]
fn writable_and_executable_is_refused() {
    assert!(broken(|sketch| sketch.segments[TEXT].0.flags |= PF_W).contains("writable and executable"));
    assert!(broken(|sketch| sketch.segments[DATA].0.flags |= PF_X).contains("writable and executable"));
}

#[test]
fn low_overlapping_or_moved_segments_are_refused() {
    let low = |sketch: &mut Sketch| {
        (sketch.segments[DATA].0.virtual_address, sketch.segments[DATA].0.physical_address) = (0x9000, 0x9000);
    };
    assert!(broken(low).contains("below 1 MiB"));
    assert!(broken(|sketch| sketch.segments[RODATA].0.memory_size = 0x20_0001).contains("overlap at 0x600000"));
    assert!(broken(|sketch| sketch.segments[DATA].0.virtual_address += 4096).contains("one to one"));
    assert!(broken(|sketch| sketch.segments[DATA].0.memory_size = 1).contains("larger in the file"));
}

#[test]
fn entries_must_be_executable() {
    assert!(broken(|sketch| sketch.entry = 0x60_0000).contains("entry 0x600000"));
    let pvh = |sketch: &mut Sketch| sketch.segments[NOTE].1 = note(b"Xen\0", 18, &0x40_0000_u32.to_le_bytes());
    assert!(broken(pvh).contains("PVH entry 0x400000"));
}

#[test]
fn exactly_one_note_is_wanted() {
    let second = |sketch: &mut Sketch| {
        let copy = sketch.segments[NOTE].clone();
        sketch.segments.push(copy);
    };
    assert!(broken(second).contains("2 PT_NOTE"));
    let merged = |sketch: &mut Sketch| {
        let (segment, bytes) = &mut sketch.segments[NOTE];
        bytes.extend(note(b"GNU\0", 3, &[1; 20]));
        segment.file_size = bytes.len() as u64;
    };
    assert!(broken(merged).contains("2 notes"));
    assert!(broken(|sketch| sketch.segments[NOTE].0.align = 8).contains("8-aligned"));
    let other = |sketch: &mut Sketch| sketch.segments[NOTE].1 = note(b"GNU\0", 18, &[0; 4]);
    assert!(broken(other).contains("no PVH entry note"));
}

#[test]
fn symbols_and_build_id_are_wanted() {
    assert!(broken(|sketch| sketch.symbols.retain(|(name, _)| *name != "__build_id_start")).contains("no build id"));
    let rules = check(&Sketch { symbols: Vec::new(), ..sound() }.write(), LIMIT).unwrap_err();
    assert!(rules[0].contains("no symbols"), "{rules:?}");
}

#[test]
fn a_multiboot_magic_and_too_many_bytes_are_refused() {
    let multiboot = |sketch: &mut Sketch| sketch.segments[TEXT].1[..4].copy_from_slice(&MULTIBOOT1_MAGIC);
    assert!(broken(multiboot).contains("multiboot"));
    let mut file = sound().write();
    file.resize(LIMIT + 1, 0);
    assert!(check(&file, LIMIT).unwrap_err()[0].contains("is the most"));
}

#[test]
fn a_file_cut_anywhere_is_refused_without_a_panic() {
    let file = sound().write();
    for length in 0..file.len() {
        assert!(check(&file[..length], LIMIT).is_err(), "cut at {length}");
    }
}
