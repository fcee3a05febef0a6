//! The codes with which the unikernel leaves its virtual machine (docs/abi.md). QEMU's exit status is twice the code plus one.

/// Asked to stop, and did.
pub const SUCCESS: u8 = 0x10;
/// A panic: a bug in the unikernel.
pub const PANIC: u8 = 0x11;
/// A processor exception: a bug in the unikernel.
pub const EXCEPTION: u8 = 0x12;
/// The heap is exhausted.
pub const HEAP_EXHAUSTED: u8 = 0x13;
/// The configuration cannot be used: no device, not enough memory, a rule file with errors.
pub const BAD_CONFIGURATION: u8 = 0x14;
/// The network device cannot be driven.
pub const DRIVER_FAILURE: u8 = 0x15;
