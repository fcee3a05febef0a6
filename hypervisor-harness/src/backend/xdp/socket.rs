//! The socket, and what is asked of the interface.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::ring::{Area, RING};

/// ETHTOOL_GCHANNELS: how many queues an interface has.
const ETHTOOL_GCHANNELS: u32 = 0x3c;

fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// A socket of AF_XDP.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn new(family: libc::c_int, kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: `socket` takes no pointers.
    let fd = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor is new, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an option to a value of plain integers.
fn set<T>(socket: &impl AsRawFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value is read within its size, and outlives the call.
    let answer =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length) };
    check(answer).map(drop)
}

/// Values that the kernel writes as an option's.
///
/// # Safety
/// Plain integers: every pattern of bits is a value.
unsafe trait Option: Sized {
    const NUMBER: libc::c_int;
}
// SAFETY: integers.
unsafe impl Option for libc::xdp_mmap_offsets {
    const NUMBER: libc::c_int = libc::XDP_MMAP_OFFSETS;
}
// SAFETY: integers.
unsafe impl Option for libc::xdp_statistics {
    const NUMBER: libc::c_int = libc::XDP_STATISTICS;
}

impl Socket {
    /// A socket with an area for frames and four rings, not bound to anything.
    ///
    /// # Errors
    /// EAFNOSUPPORT if the kernel has no AF_XDP, EPERM without the right to have one.
    pub fn new(area: &Area) -> io::Result<Self> {
        let socket = Self(new(libc::AF_XDP, libc::SOCK_RAW)?);
        set(&socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &area.registration())?;
        for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING] {
            set(&socket, libc::SOL_XDP, ring, &RING)?;
        }
        Ok(socket)
    }

    fn get<T: Option>(&self) -> io::Result<T> {
        // SAFETY: all zeroes is a value of it (the promise of `Option`).
        let mut value: T = unsafe { std::mem::zeroed() };
        let mut length = size_of::<T>() as libc::socklen_t;
        let to = (&raw mut value).cast();
        // SAFETY: the kernel writes no more than the value's size, all of it the value's.
        check(unsafe { libc::getsockopt(self.as_raw_fd(), libc::SOL_XDP, T::NUMBER, to, &raw mut length) })?;
        if length as usize != size_of::<T>() {
            return Err(io::Error::from_raw_os_error(libc::ENOPROTOOPT));
        }
        Ok(value)
    }

    /// Where in the mapped rings things are.
    ///
    /// # Errors
    /// If the kernel does not say, as one before Linux 5.4.
    pub fn offsets(&self) -> io::Result<libc::xdp_mmap_offsets> {
        self.get()
    }

    /// Frames for which there was no room so far.
    ///
    /// # Errors
    /// If the kernel does not say, as one before Linux 5.9.
    pub fn lost(&self) -> io::Result<u64> {
        let counted: libc::xdp_statistics = self.get()?;
        Ok(counted.rx_dropped + counted.rx_ring_full)
    }

    /// Binds it to one queue of an interface: without copies where the driver can, else with them.
    ///
    /// # Errors
    /// EINVAL if there is no such queue, EBUSY if another socket has it.
    pub fn bind(&self, interface: u32, queue: u32) -> io::Result<()> {
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: libc::XDP_USE_NEED_WAKEUP,
            sxdp_ifindex: interface,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address is of that size and outlives the call.
        check(unsafe { libc::bind(self.as_raw_fd(), (&raw const address).cast(), length) }).map(drop)
    }

    /// Has the kernel send what is in the ring.
    ///
    /// # Errors
    /// EAGAIN if it has not sent all, ENOBUFS if the interface has no room, ENETDOWN if it is down, ENXIO if it is gone.
    pub fn send(&self) -> io::Result<()> {
        // SAFETY: there is no message and no address.
        let sent =
            unsafe { libc::sendto(self.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Has the kernel look at the ring of free chunks.
    ///
    /// # Errors
    /// As [`Socket::send`].
    pub fn receive(&self) -> io::Result<()> {
        let nowhere = std::ptr::null_mut();
        // SAFETY: there is no room for a message, and none for an address.
        let received = unsafe {
            libc::recvfrom(self.as_raw_fd(), nowhere, 0, libc::MSG_DONTWAIT, std::ptr::null_mut(), nowhere.cast())
        };
        if received < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// The number of an interface in this thread's namespace.
///
/// # Errors
/// ENODEV if there is none of that name.
pub fn number(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: the name ends with a zero byte and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        number => Ok(number),
    }
}

/// How many receive queues an interface has.
///
/// # Errors
/// If the interface is gone.
pub fn queues(name: &str) -> io::Result<u32> {
    // The command; the greatest numbers of receive, transmit, other and combined queues; and their numbers.
    let mut channels = [0_u32; 9];
    channels[0] = ETHTOOL_GCHANNELS;
    // SAFETY: `ifreq` is an array of characters and a union of integers and pointers: all zeroes is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = channels.as_mut_ptr().cast();
    let socket = new(libc::AF_INET, libc::SOCK_DGRAM)?;
    // SAFETY: SIOCETHTOOL reads one `ifreq`, whose data is an `ethtool_channels`: nine integers of 32 bits, which outlive the call.
    match check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) }) {
        Ok(_) => Ok((channels[5] + channels[8]).max(1)),
        // A driver that does not count them has one.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => Ok(1),
        Err(error) => Err(error),
    }
}

/// Has an interface take frames for any address, as long as what this returns is held: the guest's is not the interface's.
///
/// # Errors
/// EPERM without the right to do so.
pub fn promiscuous(interface: u32) -> io::Result<OwnedFd> {
    // Protocol 0: nothing is received.
    let socket = new(libc::AF_PACKET, libc::SOCK_RAW)?;
    let wish = libc::packet_mreq {
        mr_ifindex: interface.cast_signed(),
        mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &wish)?;
    Ok(socket)
}
