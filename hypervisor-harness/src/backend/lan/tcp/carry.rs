//! Bytes between a connection inside and a TCP socket of the host, with all that goes with them: ends, resets, and waiting
//! for the slower side.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use smoltcp::socket::tcp::{RecvError, Socket};

use super::super::poll::Readiness;
use super::super::sys;

/// A connected socket of the host.
pub struct Carry {
    stream: TcpStream,
    readable: bool,
    writable: bool,
    failed: bool,
    /// The inside's end was passed on.
    shut: bool,
    /// The host's end was passed on.
    ended: bool,
}

impl Carry {
    /// Carries for a connected socket that does not block.
    pub fn new(stream: TcpStream) -> Self {
        // Bytes go on as they come; where that is not possible they only go on later.
        let _ = stream.set_nodelay(true);
        Self { stream, readable: true, writable: true, failed: false, shut: false, ended: false }
    }

    /// The socket, to be watched.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The socket has news.
    pub fn ready(&mut self, readiness: Readiness) {
        self.readable |= readiness.readable;
        self.writable |= readiness.writable;
        self.failed |= readiness.failed;
    }

    /// Carries what can be carried now, both ways. Returns whether all that the inside will ever send was passed on.
    pub fn step(&mut self, inside: &mut Socket<'_>) -> bool {
        if std::mem::take(&mut self.failed) && !matches!(self.stream.take_error(), Ok(None)) {
            inside.abort();
        }
        self.outward(inside);
        self.inward(inside);
        self.shut
    }

    fn outward(&mut self, inside: &mut Socket<'_>) {
        while self.writable && inside.can_recv() {
            let written = inside.recv(|bytes| match self.stream.write(bytes) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error)),
            });
            match written {
                Ok(Ok(1..)) => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Ok(Ok(0) | Err(_)) => return inside.abort(),
                Err(_) => return,
            }
        }
        if !self.shut && matches!(inside.recv(|_| (0, ())), Err(RecvError::Finished)) {
            self.shut = true;
            // It fails only if the host's side is gone, which is noticed when reading.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    fn inward(&mut self, inside: &mut Socket<'_>) {
        while self.readable && !self.ended && inside.can_send() {
            let read = inside.send(|room| match self.stream.read(room) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error)),
            });
            match read {
                Ok(Ok(0)) => {
                    self.ended = true;
                    inside.close();
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Ok(Err(_)) => return inside.abort(),
                Err(_) => return,
            }
        }
    }

    /// The connection inside is over: by FINs on both sides, or not.
    pub fn end(&self, graceful: bool) {
        if !(graceful && self.shut && self.ended) {
            sys::reset_on_close(&self.stream);
        }
    }
}

/// A socket of the host that is being connected for a SYN, which is answered only when that has worked: so the inside sees a
/// refusal as a refusal.
pub struct Knock {
    /// Until it is connected.
    stream: Option<TcpStream>,
    /// The packet with the SYN.
    syn: Vec<u8>,
    /// The kernel has said something about the socket.
    told: bool,
}

/// How it ended.
pub enum Answer {
    /// It is connected; here is the packet to go on with.
    Opened(Carry, Vec<u8>),
    /// Nobody listens; here is the packet to refuse.
    Refused(Vec<u8>),
}

impl Knock {
    /// Begins to connect to `to`.
    ///
    /// # Errors
    /// If it is refused at once.
    pub fn new(to: SocketAddr, syn: &[u8]) -> io::Result<Self> {
        Ok(Self { stream: Some(sys::begin_connect(to)?), syn: syn.to_vec(), told: false })
    }

    /// The socket, to be watched.
    pub fn stream(&self) -> Option<&TcpStream> {
        self.stream.as_ref()
    }

    /// The socket has news.
    pub fn ready(&mut self, readiness: Readiness) {
        self.told |= readiness.writable || readiness.failed;
    }

    /// How it ended, if it has.
    pub fn answer(&mut self) -> Option<Answer> {
        if !std::mem::take(&mut self.told) {
            return None;
        }
        let stream = self.stream.take()?;
        match stream.take_error() {
            Ok(None) if stream.peer_addr().is_err() => {
                self.stream = Some(stream);
                None
            }
            Ok(None) => Some(Answer::Opened(Carry::new(stream), std::mem::take(&mut self.syn))),
            Ok(Some(_)) | Err(_) => Some(Answer::Refused(std::mem::take(&mut self.syn))),
        }
    }
}
