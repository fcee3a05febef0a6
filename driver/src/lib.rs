//! A `no_std` virtio-net driver, usable by any operating system.
//!
//! The rooms, from the wire up:
//! - [`features`]: the feature bits, their dependencies, and negotiation.
//! - [`wire`]: what driver and device say to each other: headers, configuration space, ring layout, registers. Plain data, so
//!   that a device model can use it as well.
//! - [`buffer`]: pools of DMA buffers, and [`buffer::Frame`], which owns a chain of them by move.
//! - [`ring`]: virtqueues, on which nothing the device writes is trusted.
//! - [`transport`]: virtio over MMIO and over modern PCI with MSI-X.
//! - [`net`]: the device itself: [`net::Negotiation`], then [`net::Device`], [`net::Receive`] and [`net::Transmit`].
//! - `fake` (with the feature of that name): a device in memory, for tests on a host.
//! - [`offload`]: the checksums and the segmentation that a device does not do, in software.
//!
//! Memory comes from the operating system through [`virtio_drivers::Hal`]. Allocation happens while a device is set up
//! and never on the packet path.
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "fake"))]
extern crate std;

pub mod buffer;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod features;
pub mod net;
pub mod offload;
pub mod ring;
pub mod transport;
pub mod wire;

/// The examples of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
