//! Getting a connection: to where the backend listens, or by listening for it.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::Error;
use crate::backend::options::VhostUser;
use crate::vhost_user::connect;

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
