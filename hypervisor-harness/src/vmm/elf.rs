//! Reading an image: an ELF file from anywhere, checked in full before a byte of it is used.

use object::Endianness;
use object::elf::{self, FileHeader64, PF_X, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader};

use super::layout;
use super::memory::GuestRam;

/// The note that carries the 32-bit entry point of the PVH boot protocol (`XEN_ELFNOTE_PHYS32_ENTRY`).
const NOTE_PHYS32_ENTRY: u32 = 18;

/// What is wrong with an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Shorter than an ELF header.
    #[error("the file is only {0} bytes long: not an ELF image, or cut short")]
    TooShort(usize),
    /// The magic number is another one.
    #[error("the file is not an ELF image (it begins with {})", hex(.0))]
    NotElf([u8; 4]),
    /// A 32-bit ELF.
    #[error("the image is a 32-bit ELF; a 64-bit one is wanted")]
    Not64Bit,
    /// A big-endian ELF, or an unknown encoding or version.
    #[error("the image is not a little-endian ELF of version 1")]
    WrongEncoding,
    /// Made for another processor.
    #[error("the image is for another processor (ELF machine {0}); x86-64 (62) is wanted")]
    WrongMachine(u16),
    /// An object file, a core dump.
    #[error("the image is not an executable (ELF type {0}); link it first")]
    NotExecutable(u16),
    /// The program headers do not lie in the file, or their size is unknown.
    #[error("the image's program headers are damaged or lie outside the file: is it cut short?")]
    ProgramHeaders,
    /// A segment's bytes are not all in the file.
    #[error(
        "segment {index} wants {size} bytes at file offset {offset:#x}, past the end of the file: is it cut short?"
    )]
    Truncated {
        /// Which program header.
        index: usize,
        /// Where in the file.
        offset: u64,
        /// How many bytes.
        size: u64,
    },
    /// More bytes in the file than in memory.
    #[error("segment {0} has more bytes in the file than in memory")]
    FileLargerThanMemory(usize),
    /// A segment below 1 MiB, where the boot structures lie.
    #[error("segment {index} is to be loaded at {address:#x}, below 1 MiB, where the boot structures lie")]
    TooLow {
        /// Which program header.
        index: usize,
        /// Its physical address.
        address: u64,
    },
    /// A segment that guest memory has no room for.
    #[error(
        "segment {index} ({address:#x}, {size:#x} bytes) does not fit in the guest's {mib} MiB of memory: \
         give it more with --memory"
    )]
    OutsideMemory {
        /// Which program header.
        index: usize,
        /// Its physical address.
        address: u64,
        /// Bytes in memory.
        size: u64,
        /// The guest's memory in MiB.
        mib: u64,
    },
    /// Two segments that want the same memory.
    #[error("segments {0} and {1} overlap in memory")]
    Overlap(usize, usize),
    /// Nothing to load.
    #[error("the image has nothing to load (no PT_LOAD segment)")]
    NothingToLoad,
    /// The notes cannot be read.
    #[error("the image's ELF notes are damaged")]
    Notes,
    /// No way in.
    #[error("the image has no PVH entry point (ELF note \"Xen\", type 18): it cannot be started this way")]
    NoEntry,
    /// The way in leads nowhere.
    #[error("the PVH entry point {0:#x} is not in an executable segment of the image")]
    EntryOutside(u64),
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// One stretch of memory that the image fills.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment<'f> {
    index: usize,
    address: u64,
    size: u64,
    bytes: &'f [u8],
    executable: bool,
}

impl Segment<'_> {
    /// Cannot overflow: `Image::parse` has checked it.
    fn end(&self) -> u64 {
        self.address + self.size
    }
}

/// A checked image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image<'f> {
    segments: Vec<Segment<'f>>,
    entry: u32,
}

impl<'f> Image<'f> {
    /// Checks an ELF file.
    ///
    /// # Errors
    /// Says what is wrong with the file; see [`Error`].
    pub fn parse(file: &'f [u8]) -> Result<Self, Error> {
        let header = header(file)?;
        let endian = Endianness::Little;
        let headers = header.program_headers(endian, file).map_err(|_| Error::ProgramHeaders)?;
        let mut segments = Vec::new();
        let mut entry = None;
        for (index, program) in headers.iter().enumerate() {
            let kind = program.p_type(endian);
            if kind == PT_LOAD {
                segments.extend(segment(index, program, file)?);
            } else if kind == PT_NOTE && entry.is_none() {
                entry = pvh_entry(data(index, program, file)?)?;
            }
        }
        if segments.is_empty() {
            return Err(Error::NothingToLoad);
        }
        segments.sort_by_key(|segment| segment.address);
        if let Some(pair) = segments.windows(2).find(|pair| pair[0].end() > pair[1].address) {
            return Err(Error::Overlap(pair[0].index, pair[1].index));
        }
        let entry = entry.ok_or(Error::NoEntry)?;
        let inside = |segment: &Segment<'_>| (segment.address..segment.end()).contains(&u64::from(entry));
        if !segments.iter().any(|segment| segment.executable && inside(segment)) {
            return Err(Error::EntryOutside(entry.into()));
        }
        Ok(Self { segments, entry })
    }

    /// The guest-physical address at which the guest begins, in 32-bit protected mode.
    #[must_use]
    pub fn entry(&self) -> u32 {
        self.entry
    }

    /// The first guest-physical address above the image.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.segments.last().map_or(0, Segment::end)
    }

    /// Copies the image into guest memory and zeroes what the file leaves out (bss).
    ///
    /// # Errors
    /// [`Error::OutsideMemory`] if the guest has too little memory.
    pub fn load(&self, ram: &GuestRam) -> Result<(), Error> {
        for segment in &self.segments {
            let Segment { index, address, size, bytes, .. } = *segment;
            let outside = Error::OutsideMemory { index, address, size, mib: ram.size() >> 20 };
            if segment.end() > ram.size() {
                return Err(outside);
            }
            ram.write(address, bytes).map_err(|_| outside.clone())?;
            ram.zero(address + bytes.len() as u64, segment.end()).map_err(|_| outside)?;
        }
        Ok(())
    }
}

fn header(file: &[u8]) -> Result<&FileHeader64<Endianness>, Error> {
    let ident = file.first_chunk::<16>().ok_or(Error::TooShort(file.len()))?;
    let magic = [ident[0], ident[1], ident[2], ident[3]];
    if magic != elf::ELFMAG {
        return Err(Error::NotElf(magic));
    }
    if ident[4] == 1 {
        return Err(Error::Not64Bit);
    }
    let (Some(_), Ok(header)) = (file.first_chunk::<64>(), FileHeader64::<Endianness>::parse(file)) else {
        return Err(if file.len() < 64 { Error::TooShort(file.len()) } else { Error::WrongEncoding });
    };
    if !header.is_little_endian() {
        return Err(Error::WrongEncoding);
    }
    let machine = header.e_machine(Endianness::Little);
    if machine != elf::EM_X86_64 {
        return Err(Error::WrongMachine(machine.0));
    }
    let kind = header.e_type(Endianness::Little);
    if kind != elf::ET_EXEC && kind != elf::ET_DYN {
        return Err(Error::NotExecutable(kind.0));
    }
    Ok(header)
}

type Program = elf::ProgramHeader64<Endianness>;

fn data<'f>(index: usize, program: &Program, file: &'f [u8]) -> Result<&'f [u8], Error> {
    let (offset, size) = program.file_range(Endianness::Little);
    program.data(Endianness::Little, file).map_err(|()| Error::Truncated { index, offset, size })
}

/// A segment that takes up memory; `None` for an empty one.
fn segment<'f>(index: usize, program: &Program, file: &'f [u8]) -> Result<Option<Segment<'f>>, Error> {
    let endian = Endianness::Little;
    let (address, size) = (program.p_paddr(endian), program.p_memsz(endian));
    let bytes = data(index, program, file)?;
    if bytes.len() as u64 > size {
        return Err(Error::FileLargerThanMemory(index));
    }
    if size == 0 {
        return Ok(None);
    }
    if address < layout::IMAGE_START {
        return Err(Error::TooLow { index, address });
    }
    // More than any guest can have is refused here, which also keeps every sum below from overflowing.
    let mib = u64::from(*layout::MEMORY_MIB.end());
    if size > mib << 20 || address > mib << 20 {
        return Err(Error::OutsideMemory { index, address, size, mib });
    }
    Ok(Some(Segment { index, address, size, bytes, executable: program.p_flags(endian).contains(PF_X) }))
}

/// Looks for the PVH note. Notes are laid out in steps of four bytes, whatever the segment's alignment says.
fn pvh_entry(notes: &[u8]) -> Result<Option<u32>, Error> {
    let notes =
        NoteIterator::<FileHeader64<Endianness>>::new(Endianness::Little, 4, notes).map_err(|_| Error::Notes)?;
    for note in notes {
        let note = note.map_err(|_| Error::Notes)?;
        if note.name() == b"Xen" && note.n_type(Endianness::Little).0 == NOTE_PHYS32_ENTRY {
            let entry = note.desc().first_chunk::<4>().ok_or(Error::Notes)?;
            return Ok(Some(u32::from_le_bytes(*entry)));
        }
    }
    Ok(None)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An ELF image of one segment at 1 MiB that holds `code`, entered at its first byte.
    pub(crate) fn tiny(code: &[u8]) -> Vec<u8> {
        let note: Vec<u8> = [
            &4_u32.to_le_bytes()[..],
            &4_u32.to_le_bytes(),
            &18_u32.to_le_bytes(),
            b"Xen\0",
            &0x10_0000_u32.to_le_bytes(),
        ]
        .concat();
        let (headers, size) = (64 + 2 * 56_u64, code.len() as u64);
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // ET_EXEC, x86-64, version
        file.extend([0x10_0000_u64, 64, 0].map(u64::to_le_bytes).concat()); // entry, program headers, no sections
        file.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        let mut program = |kind: u32, flags: u32, rest: [u64; 6]| {
            file.extend(kind.to_le_bytes());
            file.extend(flags.to_le_bytes());
            file.extend(rest.map(u64::to_le_bytes).concat());
        };
        // offset, virtual, physical, file size, memory size, alignment
        program(1, 7, [headers + 20, 0x10_0000, 0x10_0000, size, size + 64, 1]);
        program(4, 4, [headers, 0, 0, 20, 20, 4]);
        file.extend(note);
        file.extend(code);
        file
    }

    const LOAD: usize = 64;
    const NOTE: usize = 64 + 56;

    /// `tiny` with some bytes changed.
    fn changed(changes: &[(usize, &[u8])]) -> Vec<u8> {
        let mut file = tiny(&[0xf4; 16]);
        for (offset, bytes) in changes {
            file[*offset..][..bytes.len()].copy_from_slice(bytes);
        }
        file
    }

    fn error(changes: &[(usize, &[u8])]) -> Error {
        Image::parse(&changed(changes)).unwrap_err()
    }

    #[test]
    fn loads_and_zeroes() {
        let ram = GuestRam::new(32).unwrap();
        ram.write(0x10_0000, &[0xff; 128]).unwrap();
        let file = tiny(&[0xf4; 16]);
        let image = Image::parse(&file).unwrap();
        assert_eq!((image.entry(), image.end()), (0x10_0000, 0x10_0000 + 80));
        image.load(&ram).unwrap();
        let mut bytes = [0; 128];
        ram.read(0x10_0000, &mut bytes).unwrap();
        assert_eq!(bytes[..16], [0xf4; 16]);
        assert_eq!(bytes[16..80], [0; 64], "bss");
        assert_eq!(bytes[80..], [0xff; 48], "what is not the image's stays");
    }

    #[test]
    fn names_each_flaw() {
        assert_eq!(Image::parse(b""), Err(Error::TooShort(0)));
        assert_eq!(Image::parse(&tiny(&[])[..40]), Err(Error::TooShort(40)));
        assert_eq!(Image::parse(b"#!/bin/sh\n# not an image").unwrap_err(), Error::NotElf(*b"#!/b"));
        assert_eq!(error(&[(4, &[1])]), Error::Not64Bit);
        assert_eq!(error(&[(5, &[2])]), Error::WrongEncoding);
        assert_eq!(error(&[(6, &[9])]), Error::WrongEncoding);
        assert_eq!(error(&[(18, &[183, 0])]), Error::WrongMachine(183));
        assert_eq!(error(&[(16, &[1, 0])]), Error::NotExecutable(1));
        assert_eq!(error(&[(54, &[32, 0])]), Error::ProgramHeaders);
        assert_eq!(error(&[(32, &u64::MAX.to_le_bytes())]), Error::ProgramHeaders);
        assert_eq!(error(&[(56, &[0xfe, 0xff])]), Error::ProgramHeaders);
        assert_eq!(error(&[(LOAD, &[0])]), Error::NothingToLoad);
        assert_eq!(error(&[(NOTE, &[0])]), Error::NoEntry);
        assert_eq!(error(&[(64 + 2 * 56 + 8, &[17])]), Error::NoEntry);
        assert_eq!(error(&[(64 + 2 * 56 + 4, &[2])]), Error::Notes);
        assert_eq!(error(&[(64 + 2 * 56, &[0xff; 4])]), Error::Notes);
        assert_eq!(error(&[(64 + 2 * 56 + 16, &[0, 0, 0x20, 0])]), Error::EntryOutside(0x20_0000));
        assert_eq!(error(&[(LOAD + 4, &[4])]), Error::EntryOutside(0x10_0000), "not executable");
        assert_eq!(error(&[(LOAD + 24, &0x8000_u64.to_le_bytes())]), Error::TooLow { index: 0, address: 0x8000 });
        assert_eq!(error(&[(LOAD + 40, &[1, 0])]), Error::FileLargerThanMemory(0));
        let far = u64::MAX - 8;
        assert_eq!(
            error(&[(LOAD + 24, &far.to_le_bytes())]),
            Error::OutsideMemory { index: 0, address: far, size: 80, mib: 3072 }
        );
        assert!(matches!(error(&[(LOAD + 40, &far.to_le_bytes())]), Error::OutsideMemory { index: 0, .. }));
        assert!(matches!(error(&[(LOAD + 32, &[0xff; 8])]), Error::Truncated { index: 0, size: u64::MAX, .. }));
        let file = tiny(&[0xf4; 16]);
        assert!(matches!(Image::parse(&file[..file.len() - 1]), Err(Error::Truncated { index: 0, .. })));
        // The note's header made into a second PT_LOAD over the first.
        let twice = changed(&[(NOTE, &[1]), (NOTE + 24, &0x10_0010_u64.to_le_bytes())]);
        assert_eq!(Image::parse(&twice), Err(Error::Overlap(0, 1)));
    }

    #[test]
    fn a_small_guest_has_no_room() {
        let ram = GuestRam::new(32).unwrap();
        let address = (32 << 20) - 16_u64;
        let file = changed(&[(LOAD + 24, &address.to_le_bytes()), (64 + 2 * 56 + 16, &(address as u32).to_le_bytes())]);
        let wanted = Error::OutsideMemory { index: 0, address, size: 80, mib: 32 };
        assert_eq!(Image::parse(&file).unwrap().load(&ram), Err(wanted));
    }

    proptest::proptest! {
        #[test]
        fn any_file_is_refused_or_loaded(changes in proptest::collection::vec((0_usize..212, proptest::num::u8::ANY), 0..12)) {
            let mut file = tiny(&[0xf4; 16]);
            for (offset, byte) in changes {
                file[offset] = byte;
            }
            let _ = crate::vmm::symbols::Symbols::new(file.clone().into()).name(0);
            if let Ok(image) = Image::parse(&file) {
                let ram = GuestRam::new(32).unwrap();
                let _ = image.load(&ram);
            }
        }
    }
}
