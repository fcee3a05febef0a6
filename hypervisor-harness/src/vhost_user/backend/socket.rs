//! The socket: one frontend after the other.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use vhost::vhost_user::message::{FrontendReq, VhostUserHeaderFlag};
use vhost::vhost_user::{BackendReqHandler, Error, VhostUserBackendReqHandlerMut};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::Device;
use super::session::Session;
use super::{News, PATIENCE, Reporter, because};
use crate::virtio::Wait;

/// The wish that it ends.
#[derive(Debug)]
pub struct Stop {
    /// Readable from then on.
    event: EventFd,
    /// The connection that there is, so that a read in it can be ended.
    current: Mutex<Option<UnixStream>>,
}

impl Stop {
    /// Nobody wishes anything yet.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { event: EventFd::new(EFD_NONBLOCK)?, current: Mutex::default() })
    }

    /// It is to end.
    pub fn stop(&self) {
        // Fails only if it is readable already.
        let _ = self.event.write(1);
        if let Some(stream) = &*self.current.lock().unwrap_or_else(PoisonError::into_inner) {
            // A connection that has ended by itself needs no more.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    fn hold(&self, stream: Option<UnixStream>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = stream;
    }

    /// Waits until a descriptor is readable, or the time is over. Returns whether to go on: false if it is to end.
    fn wait(&self, fd: Option<RawFd>, timeout: Option<Duration>) -> io::Result<bool> {
        let fds: Vec<_> = fd.into_iter().chain([self.event.as_raw_fd()]).collect();
        Wait::default().sleep(&fds, timeout)?;
        // Not emptied: whoever asks next is to end too.
        let mut end = libc::pollfd { fd: self.event.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry.
        Ok(unsafe { libc::poll(&raw mut end, 1, 0) } == 0)
    }
}

/// Where frontends come from.
#[derive(Debug)]
pub enum Source {
    /// They connect to this socket.
    Server(UnixListener, PathBuf),
    /// They listen at this path.
    Client(PathBuf),
}

impl Source {
    /// Frontends that listen at `path`: it need not be there yet.
    #[must_use]
    pub fn connect(path: &Path) -> Self {
        Self::Client(path.into())
    }

    /// Makes a socket at `path`, in the place of one at which nobody listens any more.
    ///
    /// # Errors
    /// If there is something else, or somebody listens, or the file cannot be made.
    pub fn listen(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot look at {shown}")),
            Ok(file) if !file.file_type().is_socket() => bail!("{shown} is there and no socket: give another path"),
            Ok(_) => match UnixStream::connect(path) {
                Ok(_) => bail!(
                    "somebody listens at {shown} already: give another path, or --client if that is QEMU (server=on)"
                ),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).with_context(|| format!("cannot remove the dead socket {shown}"))?;
                }
                Err(error) => return Err(error).with_context(|| format!("cannot look who listens at {shown}")),
            },
        }
        let listener = UnixListener::bind(path).with_context(|| format!("cannot make the socket {shown}"))?;
        // A frontend that has gone before it is accepted must not hold us up.
        listener.set_nonblocking(true).with_context(|| format!("cannot use the socket {shown}"))?;
        Ok(Self::Server(listener, path.into()))
    }

    /// Waits for the next frontend; `None` if it is to end.
    fn next(&self, stop: &Stop) -> io::Result<Option<UnixStream>> {
        loop {
            let found = match self {
                Self::Server(listener, _) => {
                    if !stop.wait(Some(listener.as_raw_fd()), None)? {
                        return Ok(None);
                    }
                    listener.accept().map(|(stream, _)| stream)
                }
                Self::Client(path) => UnixStream::connect(path),
            };
            match (found, self) {
                (Ok(stream), _) => return Ok(Some(stream)),
                // It is not there yet, or not any more: it may come.
                (Err(error), Self::Client(_)) if is_absent(&error) => {
                    if !stop.wait(None, Some(PATIENCE))? {
                        return Ok(None);
                    }
                }
                (Err(error), _) if is_passing(&error) => {}
                (Err(error), _) => return Err(error),
            }
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::WouldBlock
            | io::ErrorKind::Interrupted
    )
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | ConnectionAborted | Interrupted)
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Self::Server(_, path) = self {
            // Somebody else has removed it, perhaps.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Starts the thread that serves one frontend after the other until `stop`.
///
/// # Errors
/// If there is no thread to be had.
pub fn serve(source: Source, device: Arc<Device>, stop: Arc<Stop>, reporter: Reporter) -> io::Result<JoinHandle<()>> {
    let work = move || {
        loop {
            match source.next(&stop) {
                Ok(Some(stream)) => {
                    reporter.tell(News::Connected);
                    let fault = converse(stream, &device, &stop, &reporter);
                    reporter.tell(News::Gone(fault));
                }
                Ok(None) => return,
                Err(error) => return reporter.tell(News::Over(error)),
            }
        }
    };
    std::thread::Builder::new().name("vhost-user".into()).spawn(work)
}

/// Serves one frontend until it goes, or is to. Returns what it did wrong.
fn converse(stream: UnixStream, device: &Arc<Device>, stop: &Stop, reporter: &Reporter) -> Option<String> {
    let ours = match stream.try_clone().and_then(|ours| Ok((ours, stream.try_clone()?))) {
        Ok((ours, other)) => {
            stop.hold(Some(other));
            ours
        }
        Err(error) => return Some(format!("there is no descriptor left for it: {error}")),
    };
    let session = Arc::new(Mutex::new(Session::new(device.clone(), reporter.clone())));
    let mut handler = BackendReqHandler::from_stream(stream, session.clone());
    let fault = loop {
        match stop.wait(Some(handler.as_raw_fd()), None) {
            Ok(true) => {}
            Ok(false) => break None,
            Err(error) => break Some(format!("its socket cannot be waited for: {error}")),
        }
        let request = request(&ours);
        let enables = request == Some(FrontendReq::SET_VRING_ENABLE.into());
        let done = match &mut *session.lock().unwrap_or_else(PoisonError::into_inner) {
            session if enables && !session.has_features() => Some(enable(&ours, session)),
            _ => None,
        };
        match done.unwrap_or_else(|| handler.handle_request()) {
            Ok(()) => {}
            Err(Error::Disconnected) => break None,
            Err(error) => break Some(explain(request, &error)),
        }
    };
    session.lock().unwrap_or_else(PoisonError::into_inner).look_after_memory();
    stop.hold(None);
    fault
}

/// Bytes of a message's header: the request, flags, the size of the rest.
const HEADER: usize = 12;
/// Flag of a message: version 1 of the protocol.
const VERSION: u32 = 1;

/// Does SET_VRING_ENABLE, where no features have been accepted yet. QEMU begins with that, since it looks at what is offered;
/// the crate asks for what is accepted, and would refuse it.
fn enable(mut stream: &UnixStream, session: &mut Session) -> vhost::vhost_user::Result<()> {
    let mut message = [0; HEADER + 8];
    stream.read_exact(&mut message).map_err(Error::SocketBroken)?;
    let word = |at: usize| u32::from_ne_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
    let (flags, size, index, state) = (word(4), word(8), word(HEADER), word(HEADER + 4));
    if flags & !VhostUserHeaderFlag::NEED_REPLY.bits() != VERSION || size != 8 || state > 1 {
        return Err(Error::InvalidMessage);
    }
    let done = session.set_vring_enable(index, state == 1);
    if flags & VhostUserHeaderFlag::NEED_REPLY.bits() != 0 && session.acknowledges() {
        let flags = VERSION | VhostUserHeaderFlag::REPLY.bits();
        let header = [FrontendReq::SET_VRING_ENABLE.into(), flags, 8].map(u32::to_ne_bytes).concat();
        let reply = [&header[..], &u64::from(done.is_err()).to_ne_bytes()].concat();
        stream.write_all(&reply).map_err(Error::SocketBroken)?;
    }
    done
}

/// The number of the request that comes next, if its header is there.
fn request(stream: &UnixStream) -> Option<u32> {
    let mut header = [0_u8; HEADER];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the buffer is as long as said. Nothing is taken out of the socket.
    let count = unsafe { libc::recv(stream.as_raw_fd(), header.as_mut_ptr().cast(), header.len(), flags) };
    (count == header.len() as isize).then(|| u32::from_ne_bytes([header[0], header[1], header[2], header[3]]))
}

/// What a frontend did wrong, in a sentence's part.
fn explain(request: Option<u32>, error: &Error) -> String {
    let name = match request {
        None => return format!("it broke off in the middle of a message: {}", because(error)),
        Some(number) => match FrontendReq::try_from(number) {
            Ok(request) => format!("{request:?}"),
            Err(()) => format!("request {number}"),
        },
    };
    match error {
        Error::ReqHandlerError(why) => format!("{name} was refused: {why}"),
        Error::InvalidMessage => format!("{name} was malformed, or is no request of a feature that was offered"),
        other => format!("{name} failed: {}", because(other)),
    }
}
