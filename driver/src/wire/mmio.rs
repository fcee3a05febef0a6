//! Registers of virtio over MMIO, version 2 (virtio 1.3, section 4.2.2). Offsets are in bytes; registers are 32 bits wide and
//! accessed as such, except in the configuration space.

/// [`MAGIC`].
pub const MAGIC_VALUE: usize = 0x000;
/// 2; a legacy device has 1.
pub const VERSION: usize = 0x004;
/// Device type, 0 for a slot without a device.
pub const DEVICE_ID: usize = 0x008;
/// Vendor.
pub const VENDOR_ID: usize = 0x00c;
/// The offered features of the selected 32 bits.
pub const DEVICE_FEATURES: usize = 0x010;
/// Selects the offered features.
pub const DEVICE_FEATURES_SEL: usize = 0x014;
/// The accepted features of the selected 32 bits.
pub const DRIVER_FEATURES: usize = 0x020;
/// Selects the accepted features.
pub const DRIVER_FEATURES_SEL: usize = 0x024;
/// Selects the queue that the queue registers speak of.
pub const QUEUE_SEL: usize = 0x030;
/// The greatest size of the queue, 0 if there is no such queue. (QueueSizeMax; QueueNumMax in older versions.)
pub const QUEUE_SIZE_MAX: usize = 0x034;
/// The size the driver uses.
pub const QUEUE_SIZE: usize = 0x038;
/// 1 while the queue is in use.
pub const QUEUE_READY: usize = 0x044;
/// The doorbell: the index of the queue that has new buffers.
pub const QUEUE_NOTIFY: usize = 0x050;
/// Why the device interrupts: the bits of [`super::status`].
pub const INTERRUPT_STATUS: usize = 0x060;
/// Acknowledges the bits written.
pub const INTERRUPT_ACK: usize = 0x064;
/// Device status; writing 0 resets the device.
pub const STATUS: usize = 0x070;
/// Descriptor area, low half of the address.
pub const QUEUE_DESC_LOW: usize = 0x080;
/// Descriptor area, high half.
pub const QUEUE_DESC_HIGH: usize = 0x084;
/// Driver area, low half.
pub const QUEUE_DRIVER_LOW: usize = 0x090;
/// Driver area, high half.
pub const QUEUE_DRIVER_HIGH: usize = 0x094;
/// Device area, low half.
pub const QUEUE_DEVICE_LOW: usize = 0x0a0;
/// Device area, high half.
pub const QUEUE_DEVICE_HIGH: usize = 0x0a4;
/// Selects a shared memory region.
pub const SHM_SEL: usize = 0x0ac;
/// Length of the shared memory region, low half; all ones in both halves if there is none.
pub const SHM_LEN_LOW: usize = 0x0b0;
/// Length, high half.
pub const SHM_LEN_HIGH: usize = 0x0b4;
/// Base of the shared memory region, low half.
pub const SHM_BASE_LOW: usize = 0x0b8;
/// Base, high half.
pub const SHM_BASE_HIGH: usize = 0x0bc;
/// Resets the selected queue; with RING_RESET.
pub const QUEUE_RESET: usize = 0x0c0;
/// Changes whenever the configuration space does.
pub const CONFIG_GENERATION: usize = 0x0fc;
/// The configuration space: [`super::config`].
pub const CONFIG: usize = 0x100;

/// "virt".
pub const MAGIC: u32 = 0x7472_6976;
/// The version of a modern device.
pub const VERSION_MODERN: u32 = 2;
/// The version of a legacy device.
pub const VERSION_LEGACY: u32 = 1;
