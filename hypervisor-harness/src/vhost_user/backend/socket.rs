//! The socket: one frontend after the other.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use vhost::vhost_user::message::{FrontendReq, VhostUserHeaderFlag};
use vhost::vhost_user::{BackendReqHandler, Error, VhostUserBackendReqHandlerMut};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::Device;
use super::session::Session;
use super::{News, PATIENCE, Reporter, because};
use crate::vhost_user::connect;
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
            Ok(_) => match connect(path) {
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
    fn next(&self, stop: &Stop, reporter: &Reporter) -> io::Result<Option<UnixStream>> {
        let mut told = String::new();
        loop {
            let found = match self {
                Self::Server(listener, _) => {
                    if !stop.wait(Some(listener.as_raw_fd()), None)? {
                        return Ok(None);
                    }
                    listener.accept().map(|(stream, _)| stream)
                }
                Self::Client(path) => connect(path),
            };
            let pause = match (found.and_then(|stream| stream.set_nonblocking(false).map(|()| stream)), self) {
                (Ok(stream), _) => return Ok(Some(stream)),
                // It is not there yet, or not any more: it may come. And what is lacking now may be there again.
                (Err(error), Self::Client(_)) if is_absent(&error) => Some(PATIENCE),
                (Err(error), _) if is_short(&error) => Some(PATIENCE),
                (Err(error), _) if is_passing(&error) => None,
                // Where the frontend listens is the frontend's to make and to spoil: we are not to end for that.
                (Err(error), Self::Client(path)) if error.kind() != io::ErrorKind::InvalidInput => {
                    let text = format!("cannot connect to {}: {error}; it is tried again", path.display());
                    if text != told {
                        told.clone_from(&text);
                        reporter.tell(News::Complaint(text));
                    }
                    Some(PATIENCE)
                }
                (Err(error), _) => return Err(error),
            };
            if pause.is_some() && !stop.wait(None, pause)? {
                return Ok(None);
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

/// Of descriptors or memory there are none left for now: a guest may use up many of them by its connections in `lan`.
fn is_short(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
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
            match source.next(&stop, &reporter) {
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
    let begun = stream.try_clone().and_then(|other| Ok((other, Conversation::new(stream, device, reporter)?)));
    let mut conversation = match begun {
        Ok((other, conversation)) => {
            stop.hold(Some(other));
            conversation
        }
        Err(error) => return Some(format!("there is no descriptor left for it: {error}")),
    };
    let fault = loop {
        match stop.wait(Some(conversation.stream.as_raw_fd()), None) {
            Ok(true) => {}
            Ok(false) => break None,
            Err(error) => break Some(format!("its socket cannot be waited for: {error}")),
        }
        match conversation.answer() {
            Answered::Request => {}
            Answered::Gone => break None,
            Answered::Fault(fault) => break Some(fault),
        }
    };
    stop.hold(None);
    fault
}

/// A frontend's connection, and its session. The device is unused again when it is dropped.
pub struct Conversation {
    stream: UnixStream,
    session: Arc<Mutex<Session>>,
    handler: BackendReqHandler<Mutex<Session>>,
}

/// What came of a look at a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// A request was done.
    Request,
    /// The frontend has gone.
    Gone,
    /// The frontend is to be sent away: why.
    Fault(String),
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversation").field("session", &self.session).finish_non_exhaustive()
    }
}

impl Conversation {
    /// With a frontend that has said nothing yet.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub fn new(stream: UnixStream, device: &Arc<Device>, reporter: &Reporter) -> io::Result<Self> {
        let session = Arc::new(Mutex::new(Session::new(device.clone(), reporter.clone())));
        let handler = BackendReqHandler::from_stream(stream.try_clone()?, session.clone());
        Ok(Self { stream, session, handler })
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the frontend's next request, and does it.
    pub fn answer(&mut self) -> Answered {
        let request = request(&self.stream);
        let enables = request == Some(FrontendReq::SET_VRING_ENABLE.into());
        let done = match &mut *self.session() {
            session if enables && !session.has_features() => Some(enable(&self.stream, session)),
            _ => None,
        };
        match done.unwrap_or_else(|| self.handler.handle_request()) {
            Ok(()) => Answered::Request,
            Err(Error::Disconnected) => Answered::Gone,
            Err(error) => Answered::Fault(explain(request, &error)),
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.session().look_after_memory();
        self.session().look_after_calls();
    }
}

/// Bytes of a message's header: the request, flags, the size of the rest.
const HEADER: usize = 12;
/// Flag of a message: version 1 of the protocol.
const VERSION: u32 = 1;

/// Does SET_VRING_ENABLE, where no features have been accepted yet. QEMU begins with that, since it looks at what is offered;
/// the crate asks for what is accepted, and would refuse it.
fn enable(mut stream: &UnixStream, session: &mut Session) -> vhost::vhost_user::Result<()> {
    let mut words = |count: usize| -> vhost::vhost_user::Result<[u32; 3]> {
        let mut bytes = [0; HEADER];
        stream.read_exact(&mut bytes[..4 * count]).map_err(Error::SocketBroken)?;
        let word = |nth: usize| u32::from_ne_bytes([bytes[nth], bytes[nth + 1], bytes[nth + 2], bytes[nth + 3]]);
        Ok([word(0), word(4), word(8)])
    };
    let [_, flags, size] = words(3)?;
    if flags & !VhostUserHeaderFlag::NEED_REPLY.bits() != VERSION || size != 8 {
        return Err(Error::InvalidMessage);
    }
    let [index, state, _] = words(2)?;
    if state > 1 {
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
