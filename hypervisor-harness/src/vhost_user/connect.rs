//! A connection to a Unix socket at which somebody listens who may mean harm.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Connects without waiting for the other side to have room for one more, as the standard library would, without end. The socket does
/// not block.
///
/// # Errors
/// If nobody listens there, too many wait there already ([`io::ErrorKind::WouldBlock`]), or the path is none of a socket.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    // SAFETY: all zeroes are a valid `sockaddr_un`.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    // One is left for the NUL at the end.
    if bytes.is_empty() || bytes.contains(&0) || bytes.len() >= address.sun_path.len() {
        let longest = address.sun_path.len() - 1;
        let why = format!("the path of a socket has 1 to {longest} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let length = offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    debug_assert!(length <= size_of::<libc::sockaddr_un>());
    // SAFETY: a system call that takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `address` holds `length` valid bytes.
    let answer = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length as libc::socklen_t) };
    match answer {
        0 => Ok(socket.into()),
        _ => Err(io::Error::last_os_error()),
    }
}
