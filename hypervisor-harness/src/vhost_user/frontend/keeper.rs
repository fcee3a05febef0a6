//! The thread that keeps the connection: it notices when the backend goes, waits for the next one, and has the driver begin
//! anew with that.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::connect::Connector;
use super::device::{Device, Rings, State};
use super::session::Session;

/// How often to look whether there is a backend again.
const PERIOD: Duration = Duration::from_millis(50);
/// How long to wait after one that could not be used.
const PENALTY: Duration = Duration::from_secs(1);

/// The thread's own state.
pub(super) struct Keeper {
    device: Arc<Device>,
    connector: Connector,
    patience: Duration,
    /// What was last wrong with a backend, and whether that was said: not at the first time, since one that is just ending
    /// may have accepted a connection, and not again and again.
    wrong: String,
    said: bool,
}

impl Keeper {
    pub(super) fn new(device: Arc<Device>, connector: Connector, patience: Duration) -> Self {
        Self { device, connector, patience, wrong: String::new(), said: false }
    }

    /// Keeps the connection until the machine ends.
    pub(super) fn run(&mut self) {
        let mut pause = PERIOD;
        loop {
            let socket = {
                let state = self.device.lock();
                if state.over {
                    return;
                }
                state.session.as_ref().map(Session::socket)
            };
            let Some(socket) = socket else {
                self.sleep(None, Some(pause));
                pause = match self.connect() {
                    Ok(()) => PERIOD,
                    Err(error) => {
                        self.complain(&error);
                        PENALTY
                    }
                };
                continue;
            };
            self.sleep(Some(&socket), None);
            if ended(&socket) {
                self.ended(&socket);
            }
        }
    }

    /// This connection has ended.
    fn ended(&self, socket: &Arc<UnixStream>) {
        let mut state = self.device.lock();
        // The vCPU's thread may have found it out before.
        if state.session.as_ref().is_some_and(|session| Arc::ptr_eq(&session.socket(), socket)) {
            let address = self.connector.address();
            self.device
                .shared
                .say(&format!("the backend of {address} has gone: the link is down until one is there again"));
            self.device.lose(&mut state);
        }
    }

    /// Looks for a backend, once.
    fn connect(&mut self) -> Result<(), Error> {
        if self.device.lock().over {
            return Ok(());
        }
        let Some(socket) = self.connector.attempt()? else { return Ok(()) };
        let session = Session::begin(socket, self.patience)?;
        let mut state = self.device.lock();
        if let Some(activation) = &state.active {
            session.check(activation.features)?;
        }
        if !state.over {
            self.wrong.clear();
            self.device.shared.say(&format!("a backend of {} is there again", self.connector.address()));
            state.session = Some(session);
            self.resume(&mut state);
        }
        Ok(())
    }

    /// There is a backend again.
    fn resume(&self, state: &mut State) {
        let (device, shared) = (&self.device, &self.device.shared);
        match state.rings {
            // Fails only together with the connection.
            Rings::Untouched => device.hand_over(state),
            Rings::Served => {}
            Rings::Orphaned => shared.break_down("what its queues held has gone with the backend before"),
        }
        if state.session.is_some() {
            shared.set_link(true);
        }
    }

    fn complain(&mut self, error: &Error) {
        let text = error.to_string();
        if text != self.wrong {
            (self.wrong, self.said) = (text, false);
        } else if !self.said {
            self.device.shared.say(&text);
            self.said = true;
        }
    }

    /// Sleeps until this connection ends, or the time is over, or somebody wants something.
    fn sleep(&self, socket: Option<&UnixStream>, time: Option<Duration>) {
        let wake = &self.device.wake;
        let mut fds = [
            libc::pollfd { fd: wake.as_raw_fd(), events: libc::POLLIN, revents: 0 },
            // Answers are none of our business. A negative descriptor is passed over.
            libc::pollfd { fd: socket.map_or(-1, AsRawFd::as_raw_fd), events: libc::POLLRDHUP, revents: 0 },
        ];
        let time = time.map_or(-1, |time| i32::try_from(time.as_millis()).unwrap_or(i32::MAX));
        // SAFETY: the array is as long as is said, and lives longer than the call.
        if unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, time) } < 0
            && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted
        {
            // Without sleep it goes on, slowly.
            std::thread::sleep(PERIOD);
        }
        // That it is empty already is no error.
        let _ = wake.read();
    }
}

/// Whether the other side has hung up.
fn ended(socket: &UnixStream) -> bool {
    let mut fd = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one `pollfd`, which lives longer than the call.
    let count = unsafe { libc::poll(&raw mut fd, 1, 0) };
    count > 0 && fd.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
}
