//! The device status field (virtio 1.3, section 2.1) and the interrupt status (sections 4.1.4.5 and 4.2.2).

/// The driver has found the device.
pub const ACKNOWLEDGE: u8 = 1;
/// The driver knows how to drive it.
pub const DRIVER: u8 = 2;
/// The driver is ready; the device may use the queues.
pub const DRIVER_OK: u8 = 4;
/// The driver has written its features; the device accepts them if the bit stays set.
pub const FEATURES_OK: u8 = 8;
/// The device has met an error it cannot recover from without a reset.
pub const DEVICE_NEEDS_RESET: u8 = 64;
/// The driver has given up on the device.
pub const FAILED: u8 = 128;

/// Interrupt status: the device used a buffer of some queue.
pub const INTERRUPT_QUEUE: u8 = 1;
/// Interrupt status: the configuration space has changed.
pub const INTERRUPT_CONFIG: u8 = 2;
