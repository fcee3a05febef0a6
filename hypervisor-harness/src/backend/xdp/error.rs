//! Why there is no socket at an interface, and what to do about it.

use std::io;

/// Why the queue of an interface cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such interface.
    #[error("there is no interface {0}: see `ip link`")]
    NoInterface(String),
    /// The kernel was built without it.
    #[error("this kernel has no AF_XDP (CONFIG_XDP_SOCKETS; Linux 5.9 or later): use --net tap=NAME")]
    NoXdp,
    /// It may not be done.
    #[error(
        "may not give the frames of {0} to the guest: run as root, or with CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and, for 16 MiB of \
         locked memory, CAP_IPC_LOCK"
    )]
    NotAllowed(String),
    /// Somebody else has it.
    #[error(
        "{name} has another XDP program or another socket at queue {queue}: `ip link show {name}` tells of it, `ip link set {name} xdp \
         off` takes one off that `ip` has put there"
    )]
    Busy {
        /// The interface.
        name: String,
        /// The queue.
        queue: u32,
    },
    /// The guest would see a part of the frames only.
    #[error(
        "{name} has {count} receive queues, and the guest would see the frames of one only: join them (`ethtool -L {name} combined 1`), \
         or name the one that it is to have (--net xdp={name},queue=0)"
    )]
    Queues {
        /// The interface.
        name: String,
        /// How many there are.
        count: u32,
    },
    /// There is no such queue.
    #[error("{name} has no queue {queue}: it has {count}, counted from 0 (`ethtool -l {name}`)")]
    NoQueue {
        /// The interface.
        name: String,
        /// The queue.
        queue: u32,
        /// How many there are.
        count: u32,
    },
    /// Anything else.
    #[error("cannot use {name} by AF_XDP: {what}: {source}")]
    SetUp {
        /// The interface.
        name: String,
        /// What failed.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

impl Error {
    /// For a step that has failed.
    pub(super) fn step(name: &str, queue: u32, what: &'static str, source: io::Error) -> Self {
        let name = name.to_owned();
        match source.raw_os_error() {
            Some(libc::ENODEV) => Self::NoInterface(name),
            Some(libc::EAFNOSUPPORT) => Self::NoXdp,
            Some(libc::EPERM | libc::EACCES | libc::ENOBUFS) => Self::NotAllowed(name),
            Some(libc::EBUSY | libc::EEXIST) => Self::Busy { name, queue },
            _ => Self::SetUp { name, what, source },
        }
    }
}
