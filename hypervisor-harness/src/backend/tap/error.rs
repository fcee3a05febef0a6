//! Why there is no TAP interface, and what to do about it.

use std::io;

/// Why the interface cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no TUN/TAP device.
    #[error(
        "there is no /dev/net/tun: load the module (`modprobe tun`), or, in a container, pass the device in (`--device /dev/net/tun`)"
    )]
    NoDevice,
    /// The device may not be opened.
    #[error("cannot open /dev/net/tun: {0}")]
    Device(io::Error),
    /// The interface is not there and may not be created, or belongs to somebody else.
    #[error(
        "may not use the interface {0}: create it for this user first (`sudo ip tuntap add dev {0} mode tap user \"$USER\" vnet_hdr`, `sudo ip link set {0} up`), or run with CAP_NET_ADMIN"
    )]
    NotAllowed(String),
    /// Another process has it.
    #[error("the interface {0} is in use by another process")]
    Busy(String),
    /// The name is that of another kind of interface, or the TAP interface has several queues.
    #[error(
        "{0} is not a TAP interface that can be used: it is of another kind, or was created with multi_queue or without vnet_hdr in use by others (see `ip -details link show {0}`)"
    )]
    NotTap(String),
    /// Anything else.
    #[error("cannot attach to the interface {name}: {source}")]
    Attach {
        /// The interface.
        name: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel lacks a part of TUN/TAP.
    #[error("cannot set up the interface {name}: {what}: {source}")]
    SetUp {
        /// The interface.
        name: String,
        /// The request that failed.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

impl Error {
    /// For a failure to open the device.
    pub(super) fn device(source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Self::NoDevice,
            _ => Self::Device(source),
        }
    }

    /// For a failure of TUNSETIFF.
    pub(super) fn attach(name: &str, source: io::Error) -> Self {
        let name = name.to_owned();
        match source.raw_os_error() {
            Some(libc::EPERM) => Self::NotAllowed(name),
            Some(libc::EBUSY) => Self::Busy(name),
            Some(libc::EINVAL) => Self::NotTap(name),
            _ => Self::Attach { name, source },
        }
    }
}
