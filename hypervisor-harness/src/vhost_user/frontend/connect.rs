//! Getting a connection: to where the backend listens, or by listening for it.

use std::fs;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::Error;
use crate::backend::options::VhostUser;

/// Where connections come from.
#[derive(Debug)]
pub(super) struct Connector {
    address: VhostUser,
    /// Where the other side connects to us.
    listener: Option<UnixListener>,
}

impl Connector {
    /// Listens, if that is asked for.
    ///
    /// # Errors
    /// If that is not possible.
    pub(super) fn new(address: VhostUser) -> Result<Self, Error> {
        let refused = |source| Error::Listen { path: address.path.clone(), source };
        let listener = address.server.then(|| listen(&address.path)).transpose().map_err(refused)?;
        Ok(Self { address, listener })
    }

    /// Where.
    pub(super) fn address(&self) -> &VhostUser {
        &self.address
    }

    /// A connection, if there is somebody on the other side. Does not wait.
    ///
    /// # Errors
    /// If there is something in the way that waiting does not remove.
    pub(super) fn attempt(&self) -> Result<Option<UnixStream>, Error> {
        let attempt = match &self.listener {
            Some(listener) => listener.accept().map(|(stream, _)| stream),
            None => connect(&self.address.path),
        };
        let socket = attempt.and_then(|socket| socket.set_nonblocking(false).map(|()| socket));
        match socket {
            Ok(socket) => Ok(Some(socket)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && is_other(&self.address.path) => {
                Err(Error::Connect { path: self.address.path.clone(), source: io::Error::other("it is not a socket") })
            }
            // Not there yet; left behind by one that has ended; too many others wait there already; gone again.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::WouldBlock
                        | io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(None)
            }
            Err(source) => Err(Error::Connect { path: self.address.path.clone(), source }),
        }
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        if self.listener.is_some() {
            // At worst it is left behind, and replaced the next time.
            let _ = fs::remove_file(&self.address.path);
        }
    }
}

/// Whether there is something at a path that is no socket.
fn is_other(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|data| !data.file_type().is_socket())
}

/// Listens at a path. A socket that somebody left behind there is replaced.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let stale = fs::symlink_metadata(path).is_ok_and(|data| data.file_type().is_socket())
        && connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if stale {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects without waiting for the other side to have room for one more, as the standard library would, without end.
fn connect(path: &Path) -> io::Result<UnixStream> {
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
