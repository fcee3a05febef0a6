//! Published TCP ports: the host's connections, each of which becomes that of a client inside.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use super::fabric::Fabric;
use super::plan;
use super::poll::Poll;
use super::tcp::Tcp;

/// Connections taken from one port in one turn.
const BURST: usize = 64;
/// How long to wait where the process has no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);
/// The first port that clients use; they use the next one once all addresses were used.
const CLIENT_PORT: u16 = 40_001;
/// How many ports they use.
const CLIENT_PORTS: u32 = 20_000;
/// How many addresses they have.
const CLIENTS: u32 = 256 * 254;

/// A published port.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    target: SocketAddr,
    ready: bool,
    resume: Option<Instant>,
}

impl Listener {
    /// Leads what comes to `socket`, which does not block, to `target`.
    pub fn new(socket: TcpListener, target: SocketAddr) -> Self {
        Self { socket, target, ready: false, resume: None }
    }

    /// There are connections.
    pub fn ready(&mut self) {
        self.ready = true;
    }

    /// When to try again, if it did not work.
    pub fn due(&self) -> Option<Instant> {
        self.resume
    }

    /// Takes the connections that wait. Returns whether there are more.
    pub fn turn(
        &mut self,
        fabric: &mut Fabric,
        tcp: &mut Tcp,
        poll: &Poll,
        gateway: usize,
        clients: &mut u32,
        now: Instant,
    ) -> bool {
        if self.resume.is_some_and(|resume| now < resume) {
            return false;
        }
        self.ready |= self.resume.take().is_some();
        for _ in 0..BURST {
            if !self.ready {
                return false;
            }
            if !tcp.has_room() {
                // The host's own queue holds them until one ends. That wakes nobody, so it is looked for.
                self.resume = Some(now + PAUSE);
                return false;
            }
            match self.socket.accept() {
                Ok((stream, _)) => {
                    let ends = (client(tcp, clients, self.target), self.target);
                    if stream.set_nonblocking(true).is_ok() {
                        tcp.connect(fabric, poll, gateway, ends, stream, now);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready = false,
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
                    ) =>
                {
                    self.resume = Some(now + PAUSE);
                    return false;
                }
                // The connection was given up while it waited.
                Err(_) => {}
            }
        }
        self.ready
    }
}

/// The address and port of the next client that is not connected to `target`.
fn client(tcp: &Tcp, clients: &mut u32, target: SocketAddr) -> SocketAddr {
    loop {
        let port = CLIENT_PORT + (*clients / CLIENTS % CLIENT_PORTS) as u16;
        let local = SocketAddr::new(plan::client(*clients, target.is_ipv6()), port);
        *clients = clients.wrapping_add(1);
        // There are far more clients than connections.
        if !tcp.is_connected(local, target) {
            return local;
        }
    }
}
