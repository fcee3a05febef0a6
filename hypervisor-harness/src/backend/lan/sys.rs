//! System calls that the standard library has no safe form of.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// Begins to connect to `to`, without waiting. The stream becomes writable once it is known how that ended.
///
/// # Errors
/// If it is known already that it failed.
pub fn begin_connect(to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `socket` takes no pointers.
    let fd = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: the descriptor was just made, it is a TCP socket, and nobody else knows it.
    let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let answer = match to {
        SocketAddr::V4(to) => {
            let address = libc::sockaddr_in {
                sin_family: family as libc::sa_family_t,
                sin_port: to.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
                sin_zero: [0; 8],
            };
            let length = size_of_val(&address) as libc::socklen_t;
            // SAFETY: `address` is a `sockaddr_in` of the length given, and the kernel only reads it.
            unsafe { libc::connect(fd, (&raw const address).cast(), length) }
        }
        SocketAddr::V6(to) => {
            let address = libc::sockaddr_in6 {
                sin6_family: family as libc::sa_family_t,
                sin6_port: to.port().to_be(),
                sin6_flowinfo: to.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
                sin6_scope_id: to.scope_id(),
            };
            let length = size_of_val(&address) as libc::socklen_t;
            // SAFETY: `address` is a `sockaddr_in6` of the length given, and the kernel only reads it.
            unsafe { libc::connect(fd, (&raw const address).cast(), length) }
        }
    };
    match check(answer) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(stream),
    }
}

/// Makes the kernel send a RST, not a FIN, when the stream is closed.
pub fn reset_on_close(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = size_of_val(&linger) as libc::socklen_t;
    // SAFETY: SO_LINGER reads one `linger` of the length given, and `linger` is one. A failure only makes the end politer.
    let _ = unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), length)
    };
}

/// Allows this process as many descriptors as it may have: each published connection needs one.
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `getrlimit` writes one `rlimit`, and `limit` is one.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max.min(65_536).max(limit.rlim_cur);
        // SAFETY: `setrlimit` reads one `rlimit`, and `limit` is one. A failure leaves the limit as it is.
        let _ = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    #[test]
    fn connects_and_resets() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let stream = begin_connect(listener.local_addr().expect("bound")).expect("begun");
            let (mut other, _) = listener.accept().expect("accepted");
            assert_eq!(stream.peer_addr().expect("connected"), listener.local_addr().expect("bound"));
            reset_on_close(&stream);
            drop(stream);
            let error = other.read(&mut [0]).expect_err("a reset");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }
}
