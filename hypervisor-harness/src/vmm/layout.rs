//! Where things lie in the guest's physical address space, its ports and its interrupt lines: the harness' half of
//! docs/abi.md.

/// `hvm_start_info` (56 bytes).
pub const START_INFO: u64 = 0x6000;
/// The list of modules: one entry of 32 bytes at most, right after the start info.
pub const MODULES: u64 = 0x6040;
/// The memory map, entries of 24 bytes.
pub const MEMORY_MAP: u64 = 0x7000;
/// The command line, NUL-terminated.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// The longest command line in bytes, without its NUL.
pub const COMMAND_LINE_MAX: usize = 4096;
/// End of conventional memory: from here to [`IMAGE_START`] the memory map says "reserved", as on a PC.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// The lowest address that an image may be loaded to.
pub const IMAGE_START: u64 = 0x10_0000;

/// Smallest and largest guest memory, in MiB: all of it lies below the devices.
pub const MEMORY_MIB: std::ops::RangeInclusive<u32> = 32..=3072;
/// Guest memory when nothing is asked for, in MiB.
pub const DEFAULT_MEMORY_MIB: u32 = 128;

/// The virtio-net device's registers, over MMIO.
pub const NET_BASE: u64 = 0xd000_0000;
/// Bytes of these registers.
pub const NET_SIZE: u64 = 0x1000;
/// Their interrupt: this pin of the IOAPIC, edge triggered.
pub const NET_GSI: u32 = 5;
/// The offset of QueueNotify in the virtio-mmio registers (virtio 1.3, section 4.2.2).
pub const QUEUE_NOTIFY: u64 = 0x50;

/// Where BARs of PCI functions lie: the monitor gives them addresses from here on, and a guest may move them within.
pub const PCI_WINDOW: std::ops::Range<u64> = 0xd800_0000..0xe000_0000;
/// The configuration spaces of PCI functions as memory (ECAM), of one bus.
pub const PCI_ECAM: std::ops::Range<u64> = 0xe000_0000..0xe010_0000;
/// The port that selects a double word of PCI configuration space.
pub const PCI_ADDRESS: u16 = 0xcf8;
/// The first of four ports that show it.
pub const PCI_DATA: u16 = 0xcfc;
/// The last one.
pub const PCI_DATA_LAST: u16 = 0xcff;

/// ACPI's root pointer, where a guest that is not told looks for it too; the tables follow. Only where there is PCI.
pub const ACPI: u64 = 0xe_0000;

/// Three pages that KVM wants for itself on Intel processors without unrestricted guest mode.
pub const KVM_TSS: usize = 0xfffb_d000;
/// One more such page.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// COM1.
pub const SERIAL: u16 = 0x3f8;
/// COM1's interrupt.
pub const SERIAL_GSI: u32 = 4;
/// The block console: a 32-bit write of the physical address of `{ u32 length; u8 bytes[length] }`.
pub const BLOCK_CONSOLE: u16 = 0x500;
/// The most bytes in one message of the block console.
pub const BLOCK_CONSOLE_MAX: u32 = 4096;
/// The exit device: the byte written is the guest's exit code.
pub const EXIT: u16 = 0xf4;
