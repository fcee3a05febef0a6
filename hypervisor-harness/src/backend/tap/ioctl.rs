//! The system calls of TUN/TAP (Linux, include/uapi/linux/if_tun.h): the only `unsafe` code of this backend.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Pieces that one call takes (UIO_MAXIOV).
pub const MOST_PIECES: usize = libc::UIO_MAXIOV as usize;

/// Turns the answer of a system call into a result.
fn check(answer: isize) -> io::Result<usize> {
    usize::try_from(answer).map_err(|_| io::Error::last_os_error())
}

/// A request about the interface `name`, all else zero.
///
/// # Errors
/// If the name is longer than an interface's can be.
fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is an array of characters and a union of integers and pointers: all zeroes is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// TUNSETIFF: attaches `file` to the TAP interface `name`, with virtio headers before the frames, and NAPI for those that are
/// written.
pub fn attach(file: &File, name: &str) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_NAPI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, and `request` is one.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } as isize).map(drop)
}

/// TUNGETIFF: the `IFF_` flags of the interface that `file` is attached to, the lower 16 bits, as `/sys` shows them: IFF_NOFILTER,
/// which `/sys` does not have, is the bit of IFF_NO_PI, which [`attach`] has asked for.
pub fn flags(file: &File) -> io::Result<u16> {
    let mut request = request("")?;
    // SAFETY: TUNGETIFF writes one `ifreq`, and `request` is one.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETIFF, &raw mut request) } as isize)?;
    // SAFETY: TUNGETIFF has filled in this member of the union, an integer, for which any bits are a value.
    Ok(unsafe { request.ifr_ifru.ifru_flags } as u16)
}

/// TUNSETVNETHDRSZ: the length of the header before each frame, in bytes.
pub fn set_header_size(file: &File, bytes: usize) -> io::Result<()> {
    let bytes = bytes as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one `int`, and `bytes` is one.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) } as isize).map(drop)
}

/// TUNSETVNETLE: the header is little-endian.
pub fn set_little_endian(file: &File) -> io::Result<()> {
    let yes: libc::c_int = 1;
    // SAFETY: TUNSETVNETLE reads one `int`, and `yes` is one.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETLE, &raw const yes) } as isize).map(drop)
}

/// TUNSETOFFLOAD: what the reader takes, as `TUN_F_` flags.
pub fn set_offload(file: &File, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) } as isize).map(drop)
}

/// TUNSETSNDBUF: how much memory what was written may take until somebody has it, in bytes.
pub fn set_send_buffer(file: &File, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: TUNSETSNDBUF reads one `int`, and `bytes` is one.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETSNDBUF, &raw const bytes) } as isize).map(drop)
}

/// A socket to ask about interfaces with. It is never bound to anything.
fn socket() -> io::Result<OwnedFd> {
    // SAFETY: `socket` takes no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) } as isize)?;
    // SAFETY: the descriptor was just made and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// SIOCGIFMTU: the maximum transmission unit of an interface, in bytes of IP packet.
pub fn mtu(name: &str) -> io::Result<u16> {
    let mut request = request(name)?;
    let socket = socket()?;
    // SAFETY: SIOCGIFMTU reads and writes one `ifreq`, and `request` is one.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) } as isize)?;
    // SAFETY: SIOCGIFMTU has filled in this member of the union, an integer, for which any bits are a value.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

/// SIOCGIFFLAGS: whether an interface is up.
pub fn is_up(name: &str) -> io::Result<bool> {
    let mut request = request(name)?;
    let socket = socket()?;
    // SAFETY: SIOCGIFFLAGS reads and writes one `ifreq`, and `request` is one.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } as isize)?;
    // SAFETY: SIOCGIFFLAGS has filled in this member of the union, an integer, for which any bits are a value.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(libc::c_int::from(flags) & libc::IFF_UP != 0)
}

/// SIOCGIFINDEX: the number of an interface.
pub fn index(name: &str) -> io::Result<libc::c_int> {
    let mut request = request(name)?;
    let socket = socket()?;
    // SAFETY: SIOCGIFINDEX reads and writes one `ifreq`, and `request` is one.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX, &raw mut request) } as isize)?;
    // SAFETY: SIOCGIFINDEX has filled in this member of the union, an integer, for which any bits are a value.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex })
}

/// SIOCGIFHWADDR: the Ethernet address of an interface.
pub fn address(name: &str) -> io::Result<[u8; 6]> {
    let mut request = request(name)?;
    let socket = socket()?;
    // SAFETY: SIOCGIFHWADDR reads and writes one `ifreq`, and `request` is one.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) } as isize)?;
    // SAFETY: SIOCGIFHWADDR has filled in this member of the union, integers, for which any bits are a value.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    Ok(std::array::from_fn(|place| address[place] as u8))
}

/// Writes one frame from `pieces`, which a [`Scatter`](super::Scatter) describes.
pub fn write_vectored(file: &File, pieces: &[libc::iovec]) -> io::Result<usize> {
    let count = pieces.len().min(MOST_PIECES) as libc::c_int;
    // SAFETY: the pieces are mapped memory (the promise of `Scatter::new`); the kernel copies from them and survives a guest
    // that changes them meanwhile.
    check(unsafe { libc::writev(file.as_raw_fd(), pieces.as_ptr(), count) })
}

/// Reads one frame into `pieces`: those of a [`Scatter`](super::Scatter), and a buffer of this process after them.
pub fn read_vectored(file: &File, pieces: &[libc::iovec]) -> io::Result<usize> {
    let count = pieces.len().min(MOST_PIECES) as libc::c_int;
    // SAFETY: the pieces are mapped, writable memory (the promise of `Scatter::new`) and a buffer that nothing else touches
    // during the call; the kernel writes no further than each one's length.
    check(unsafe { libc::readv(file.as_raw_fd(), pieces.as_ptr(), count) })
}
