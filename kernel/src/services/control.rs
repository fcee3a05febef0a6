//! The control service: what `ipvsadm` and keepalived say to the kernel, over TCP (docs/control.md).
//!
//! The messages and what they do are `ringlet_balancer::control`'s; here are the sockets.

use ringlet_balancer::control;
use smoltcp::socket::tcp;

use super::View;
use super::server::{Next, Session};

/// The port of this service.
pub const PORT: u16 = 9101;

/// How long a client may be silent, in nanoseconds.
const PATIENCE: u64 = 60_000_000_000;

/// The most requests of one client that are carried out before others have their turn.
const TURN: usize = 64;

/// One client.
pub(crate) struct Control {
    session: control::Session,
    deadline: u64,
    /// Requests answered and not yet counted.
    answered: u64,
    malformed: bool,
}

impl Session for Control {
    const RECEIVE: usize = 16 << 10;
    const TRANSMIT: usize = 32 << 10;

    fn new(now_ns: u64) -> Self {
        Self {
            session: control::Session::new(),
            deadline: now_ns.saturating_add(PATIENCE),
            answered: 0,
            malformed: false,
        }
    }

    fn drive(&mut self, socket: &mut tcp::Socket<'_>, view: &mut View<'_>) -> Next {
        match self.exchange(socket, view) {
            Ok(next) => next,
            Err(Ended::Malformed) => {
                self.malformed = true;
                Next::Abort
            }
            Err(Ended::Gone) => Next::Abort,
        }
    }

    fn take_answered(&mut self) -> u64 {
        core::mem::take(&mut self.answered)
    }

    fn is_malformed(&self) -> bool {
        self.malformed
    }
}

/// Why a conversation cannot go on.
enum Ended {
    Malformed,
    Gone,
}

impl From<control::FrameError> for Ended {
    fn from(_: control::FrameError) -> Self {
        Ended::Malformed
    }
}

impl Control {
    fn exchange(&mut self, socket: &mut tcp::Socket<'_>, view: &mut View<'_>) -> Result<Next, Ended> {
        for _ in 0..TURN {
            let mut moved = 0;
            while socket.can_recv() {
                let session = &mut self.session;
                let taken = socket.recv(|bytes| match session.receive(bytes) {
                    Ok(taken) => (taken, Ok(taken)),
                    Err(error) => (bytes.len(), Err(error)),
                });
                match taken.map_err(|_| Ended::Gone)?? {
                    0 => break,
                    taken => moved += taken,
                }
            }
            if self.session.run(view.balancer)? {
                self.answered += 1;
                moved += 1;
            }
            while !self.session.output().is_empty() {
                match socket.send_slice(self.session.output()).map_err(|_| Ended::Gone)? {
                    0 => break,
                    sent => {
                        self.session.sent(sent);
                        moved += sent;
                    }
                }
            }
            if moved == 0 {
                break;
            }
            self.deadline = view.gauges.now_ns.saturating_add(PATIENCE);
        }
        let finished = !socket.may_recv() && self.session.is_idle();
        Ok(if finished { Next::Close } else { Next::Until(self.deadline) })
    }
}
