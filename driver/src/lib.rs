//! A `no_std` virtio-net driver, usable by any operating system.
#![no_std]

pub mod features;
