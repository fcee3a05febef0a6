//! The configuration space of a function: what it holds, and which of its bits a guest may write (PCI 3.0, chapter 6).

/// Bytes of the space; what ECAM shows beyond reads as zero, which says that there are no extended capabilities.
pub const SIZE: usize = 256;

/// Vendor, 16 bits.
pub const VENDOR: usize = 0x00;
/// Device, 16 bits.
pub const DEVICE: usize = 0x02;
/// Command, 16 bits.
pub const COMMAND: usize = 0x04;
/// Status, 16 bits.
pub const STATUS: usize = 0x06;
/// Revision, 8 bits; then the class code, from programming interface to base class.
pub const REVISION: usize = 0x08;
/// The first BAR; there are six, of 32 bits each.
pub const BAR0: usize = 0x10;
/// Subsystem vendor, 16 bits.
pub const SUBSYSTEM_VENDOR: usize = 0x2c;
/// Subsystem, 16 bits.
pub const SUBSYSTEM: usize = 0x2e;
/// Offset of the first capability, 8 bits.
pub const CAPABILITIES: usize = 0x34;

/// In the command register: memory BARs answer.
const COMMAND_MEMORY: u16 = 1 << 1;
/// In the command register: the bits that mean something to a function with memory BARs that has no errors to report:
/// memory, bus master, and no INTx.
const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | 1 << 2 | 1 << 10;
/// In the status register: the interrupt status.
const STATUS_INTERRUPT: u8 = 1 << 3;
/// In the status register: there are capabilities.
const STATUS_CAPABILITIES: u8 = 1 << 4;
/// Type bits of a memory BAR of 64 bits, not prefetchable.
const BAR_MEMORY_64: u8 = 0b0100;
/// Where capabilities begin.
const FIRST_CAPABILITY: usize = 0x40;

/// Who a function says it is.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, subclass, programming interface.
    pub class: [u8; 3],
    /// Vendor and id of the subsystem.
    pub subsystem: [u16; 2],
}

/// A function's configuration space. It has no interrupt pin: interrupts are messages, or are not.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    /// The bits that a guest may write.
    writable: [u8; SIZE],
    /// Sizes of memory BARs; zero for none.
    sizes: [u64; 6],
    /// Where the last capability's link to the next one is, and where the next one goes.
    link: usize,
    next: usize,
}

impl ConfigSpace {
    /// The space of a function without BARs and capabilities, which does not answer to memory accesses yet.
    #[must_use]
    pub fn new(identity: &Identity) -> Self {
        let mut bytes = [0; SIZE];
        let mut put = |at: usize, value: u16| bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        put(VENDOR, identity.vendor);
        put(DEVICE, identity.device);
        put(SUBSYSTEM_VENDOR, identity.subsystem[0]);
        put(SUBSYSTEM, identity.subsystem[1]);
        let [base, sub, interface] = identity.class;
        bytes[REVISION..REVISION + 4].copy_from_slice(&[identity.revision, interface, sub, base]);
        let mut writable = [0; SIZE];
        writable[COMMAND..COMMAND + 2].copy_from_slice(&COMMAND_WRITABLE.to_le_bytes());
        Self { bytes, writable, sizes: [0; 6], link: CAPABILITIES, next: FIRST_CAPABILITY }
    }

    /// Adds a memory BAR of 64 bits, which takes the BARs `index` and `index + 1`, at `address`.
    ///
    /// # Panics
    /// If there is no such pair of BARs, `size` is no power of two from 16 on, or `address` no multiple of it.
    pub fn add_memory_bar(&mut self, index: u8, size: u64, address: u64) {
        assert!(index < 5 && size.is_power_of_two() && size >= 16 && address.is_multiple_of(size), "a bad BAR");
        let at = BAR0 + 4 * usize::from(index);
        self.bytes[at..at + 8].copy_from_slice(&address.to_le_bytes());
        self.bytes[at] |= BAR_MEMORY_64;
        self.writable[at..at + 8].copy_from_slice(&(!(size - 1)).to_le_bytes());
        self.sizes[usize::from(index)] = size;
    }

    /// Adds a capability: `body` is what follows its id and link. Returns where it begins.
    ///
    /// # Panics
    /// If there is no room left.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> usize {
        let at = self.next;
        self.bytes[at] = id;
        self.bytes[at + 2..at + 2 + body.len()].copy_from_slice(body);
        self.bytes[self.link] = at as u8;
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
        self.link = at + 1;
        self.next = (at + 2 + body.len()).next_multiple_of(4);
        at
    }

    /// Lets a guest write these bits of the byte at `at`.
    pub fn allow(&mut self, at: usize, bits: u8) {
        self.writable[at] |= bits;
    }

    /// Sets whether the status register says that an interrupt is pending.
    pub fn set_interrupt_status(&mut self, pending: bool) {
        self.bytes[STATUS] = self.bytes[STATUS] & !STATUS_INTERRUPT | if pending { STATUS_INTERRUPT } else { 0 };
    }

    /// Reads; beyond the end there are zeros.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = offset.checked_add(index).and_then(|at| self.bytes.get(at)).copied().unwrap_or(0);
        }
    }

    /// Writes what a guest may write.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (at, value) in (offset..SIZE).zip(data) {
            self.bytes[at] = self.bytes[at] & !self.writable[at] | value & self.writable[at];
        }
    }

    /// 16 bits at an offset below [`SIZE`] - 1.
    #[must_use]
    pub fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    /// 32 bits at an offset below [`SIZE`] - 3.
    #[must_use]
    pub fn double_word(&self, at: usize) -> u32 {
        u32::from(self.word(at)) | u32::from(self.word(at + 2)) << 16
    }

    /// The address at which a memory BAR answers; `None` if there is none, or memory BARs do not answer.
    #[must_use]
    pub fn bar(&self, index: u8) -> Option<u64> {
        let size = self.sizes.get(usize::from(index)).copied().filter(|size| *size > 0)?;
        let at = BAR0 + 4 * usize::from(index);
        let address = u64::from(self.double_word(at)) | u64::from(self.double_word(at + 4)) << 32;
        (self.word(COMMAND) & COMMAND_MEMORY != 0).then_some(address & !(size - 1))
    }

    /// The size of a memory BAR; zero if there is none.
    #[must_use]
    pub fn bar_size(&self, index: u8) -> u64 {
        self.sizes.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// Which memory BAR answers at these addresses, and where in it.
    #[must_use]
    pub fn decode(&self, address: u64, length: usize) -> Option<(u8, u64)> {
        (0..6).find_map(|index| {
            let offset = address.checked_sub(self.bar(index)?)?;
            let fits = offset.checked_add(length as u64).is_some_and(|end| end <= self.bar_size(index));
            fits.then_some((index, offset))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(&Identity {
            vendor: 0x1af4,
            device: 0x1041,
            revision: 1,
            class: [2, 0, 0],
            subsystem: [0x1af4, 0x1100],
        });
        space.add_memory_bar(0, 0x8000, 0xd800_0000);
        space
    }

    #[test]
    fn verify_6_1_the_header_is_where_it_belongs() {
        let mut header = [0; 64];
        space().read(0, &mut header);
        assert_eq!(header[..12], [0xf4, 0x1a, 0x41, 0x10, 0, 0, 0, 0, 1, 0, 0, 2]);
        assert_eq!(header[16..24], [4, 0, 0, 0xd8, 0, 0, 0, 0]);
        assert_eq!(header[44..48], [0xf4, 0x1a, 0, 0x11]);
        assert_eq!(header[60..], [0; 4], "no interrupt pin");
        let mut beyond = [1; 8];
        space().read(252, &mut beyond);
        space().read(usize::MAX, &mut beyond[..2]);
        assert_eq!(beyond, [0; 8]);
    }

    #[test]
    fn verify_6_2_5_1_a_bar_tells_its_size_and_moves() {
        let mut space = space();
        assert_eq!((space.bar(0), space.decode(0xd800_0000, 4)), (None, None), "memory space is off");
        space.write(COMMAND, &0xffff_u16.to_le_bytes());
        assert_eq!(space.word(COMMAND), COMMAND_WRITABLE);
        assert_eq!(space.decode(0xd800_7ffc, 4), Some((0, 0x7ffc)));
        for stray in [0xd7ff_ffff, 0xd800_7ffd, 0xd800_8000, 0, u64::MAX] {
            assert_eq!(space.decode(stray, 4), None, "{stray:#x}");
        }
        space.write(BAR0, &[0xff; 8]);
        assert_eq!((space.double_word(BAR0), space.double_word(BAR0 + 4)), (0xffff_8004, u32::MAX));
        assert_eq!(space.decode(u64::MAX - 3, 4), Some((0, 0x7ffc)));
        assert_eq!(space.decode(u64::MAX, 4), None, "no wrapping round");
        // By bytes too.
        space.write(BAR0 + 1, &[0x12]);
        space.write(BAR0 + 2, &[0, 0xda, 0, 0, 0, 0]);
        assert_eq!(space.bar(0), Some(0xda00_0000));
        for absent in [1, 2, 5, 6, 255] {
            assert_eq!((space.bar(absent), space.bar_size(absent)), (None, 0));
        }
        space.write(BAR0 + 8, &[0xff; 16]);
        assert_eq!(space.double_word(BAR0 + 8), 0);
    }

    #[test]
    fn verify_6_7_capabilities_are_a_list() {
        let mut space = space();
        assert_eq!((space.word(STATUS), space.bytes[CAPABILITIES]), (0, 0));
        let (first, second) = (space.add_capability(9, &[5, 6, 7]), space.add_capability(0x11, &[0; 10]));
        assert_eq!((space.bytes[CAPABILITIES], first, second), (0x40, 0x40, 0x48));
        assert_eq!(space.bytes[0x40..0x4a], [9, 0x48, 5, 6, 7, 0, 0, 0, 0x11, 0]);
        space.write(0x40, &[0xff; 8]);
        assert_eq!(space.bytes[0x40..0x48], [9, 0x48, 5, 6, 7, 0, 0, 0]);
        space.allow(0x43, 0x80);
        space.write(0x40, &[0xff; 8]);
        assert_eq!(space.bytes[0x43], 0x86);
        space.set_interrupt_status(true);
        assert_eq!(space.word(STATUS), 0x18);
        space.set_interrupt_status(false);
        space.write(STATUS, &[0xff; 2]);
        assert_eq!(space.word(STATUS), 0x10);
    }
}
