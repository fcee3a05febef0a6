//! The client's side of the control protocol.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use ringlet_balancer::control::MAX_FRAME;
use ringlet_balancer::ipvsadm::{self, Command};
use ringlet_balancer::wire::ipvs::{Command as Wire, command, info};
use ringlet_balancer::wire::message::{self, Message, flag};
use ringlet_balancer::wire::{Attribute, FAMILY_ID, Service, Sysctl, Writer, daemon, extra, mark};
use ringlet_balancer::{Daemon, Errno, ExtraInfo, Family, MarkRule, ServiceKey, SyncCounters, Timeouts};

/// Where `ringlet` publishes the control port on this host.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:9101";
const DEFAULT_PORT: u16 = 9101;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the balancer may be silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(10);
/// How long one answer may take, however steadily it comes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why an operation did not come about.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The balancer refused, with a number of Linux (positive).
    #[error("refused with error {0}")]
    Refused(i32),
    /// No connection.
    #[error("no load balancer answers at {0} ({1}): is `ringlet` running? `--connect HOST:PORT` names another place")]
    Unreachable(String, io::Error),
    /// The connection broke off.
    #[error("the connection to the load balancer broke ({0})")]
    Broken(#[from] io::Error),
    /// What came is no answer.
    #[error("what answers does not speak the control protocol of a Ringlet load balancer: {0}")]
    Nonsense(&'static str),
    /// Asked for something that no request stands for.
    #[error("`{0}` is no request")]
    NoRequest(Command),
}

/// What the balancer says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// The version of IPVS: major, minor, patch.
    pub version: [u8; 3],
    /// Connections the table holds.
    pub size: u32,
}

/// A connection to a balancer. Requests go one at a time.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    sequence: u32,
}

impl Client {
    /// Connects to `HOST` or `HOST:PORT`.
    ///
    /// # Errors
    /// [`Failure::Unreachable`].
    pub fn connect(address: &str) -> Result<Self, Failure> {
        let unreachable = |error| Failure::Unreachable(address.to_owned(), error);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no such host");
        for place in resolve(address).map_err(unreachable)? {
            match TcpStream::connect_timeout(&place, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(SILENCE))?;
                    stream.set_write_timeout(Some(SILENCE))?;
                    return Ok(Client { stream, sequence: 0 });
                }
                Err(error) => last = error,
            }
        }
        Err(unreachable(last))
    }

    /// Carries out a command that changes something.
    ///
    /// # Errors
    /// [`Failure::Refused`], or what happened to the connection; [`Failure::NoRequest`] for a command that only shows.
    pub fn apply(&mut self, wanted: &Command) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        let ids = self.next_ids();
        if !ipvsadm::request(wanted, ids, &mut bytes) {
            return Err(Failure::NoRequest(*wanted));
        }
        self.exchange(bytes, |_, _| Ok(()))
    }

    /// The version and the table's size.
    ///
    /// # Errors
    /// What happened to the connection.
    pub fn info(&mut self) -> Result<Info, Failure> {
        let (mut version, mut size) = (None, None);
        self.request(
            Wire::GetInfo,
            flag::ACK,
            |_| (),
            |_, attribute| {
                match attribute.kind {
                    info::VERSION => version = attribute.u32().ok(),
                    info::CONN_TAB_SIZE => size = attribute.u32().ok(),
                    _ => {}
                }
                Ok(())
            },
        )?;
        let (Some(version), Some(size)) = (version, size) else { return Err(Failure::Nonsense("no version")) };
        let [_, major, minor, patch] = version.to_be_bytes();
        Ok(Info { version: [major, minor, patch], size })
    }

    /// One knob of net.ipv4.vs, or all: names and values.
    ///
    /// # Errors
    /// [`Failure::Refused`], or what happened to the connection.
    pub fn sysctls(&mut self, name: Option<&str>) -> Result<Vec<(String, i32)>, Failure> {
        let mut found = Vec::new();
        let flags = if name.is_some() { flag::ACK } else { flag::DUMP };
        self.request(
            Wire::GetSysctl,
            flags,
            |w| {
                if let Some(name) = name {
                    let knob = Sysctl { name: Some(name.as_bytes()), ..Sysctl::default() };
                    w.nest(command::SYSCTL, |w| knob.write(w));
                }
            },
            |_, attribute| {
                let knob = Sysctl::read(attribute).ok();
                if let Some(Sysctl { name: Some(name), value: Some(value), .. }) = knob {
                    found.push((String::from_utf8_lossy(name).into_owned(), value));
                }
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// The rules that give packets marks, in order.
    ///
    /// # Errors
    /// What happened to the connection.
    pub fn marks(&mut self) -> Result<Vec<MarkRule>, Failure> {
        let mut found = Vec::new();
        self.request(
            Wire::GetMark,
            flag::DUMP,
            |_| (),
            |_, attribute| {
                found.push(mark::read(attribute).map_err(|_| Failure::Nonsense("a mark rule that is none"))?);
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// What services do that IPVS cannot, and what was counted.
    ///
    /// # Errors
    /// What happened to the connection.
    pub fn extras(&mut self) -> Result<Vec<ExtraInfo>, Failure> {
        let (mut found, mut service) = (Vec::new(), None::<ServiceKey>);
        self.request(
            Wire::GetExtra,
            flag::DUMP,
            |_| (),
            |_, attribute| {
                let nonsense = |_| Failure::Nonsense("an entry of `extra` that is none");
                match attribute.kind {
                    command::SERVICE => {
                        let read = Service::read(attribute).map_err(|_| Failure::Nonsense("a torn service"))?;
                        service = Some(read.key().map_err(nonsense)?);
                    }
                    command::EXTRA => {
                        let service = service.take();
                        let family = service.map_or(Family::V4, |service| service.family());
                        let (extras, counters) = extra::read(family, attribute).map_err(nonsense)?;
                        found.push(ExtraInfo { service, extras, counters });
                    }
                    _ => {}
                }
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// The synchronization daemons that run, and what they have counted.
    ///
    /// # Errors
    /// What happened to the connection.
    pub fn daemons(&mut self) -> Result<Vec<(Daemon, Option<SyncCounters>)>, Failure> {
        let mut found = Vec::new();
        self.request(
            Wire::GetDaemon,
            flag::DUMP,
            |_| (),
            |_, attribute| {
                let fields = daemon::Fields::read(attribute).map_err(|_| Failure::Nonsense("a daemon that is none"))?;
                found.push((fields.daemon().map_err(missing)?, fields.counters()));
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// The timeouts.
    ///
    /// # Errors
    /// What happened to the connection.
    pub fn timeouts(&mut self) -> Result<Timeouts, Failure> {
        let mut found = [None; 3];
        self.request(
            Wire::GetConfig,
            flag::ACK,
            |_| (),
            |_, attribute| {
                if let Some(place) = attribute.kind.checked_sub(command::TIMEOUT_TCP)
                    && let Some(slot) = found.get_mut(usize::from(place))
                {
                    *slot = attribute.u32().ok();
                }
                Ok(())
            },
        )?;
        let [Some(tcp), Some(tcp_fin), Some(udp)] = found else { return Err(Failure::Nonsense("no timeouts")) };
        Ok(Timeouts { tcp, tcp_fin, udp })
    }

    /// Sends a request and reads its answer to the end: every attribute of every message but errors goes to `take`.
    pub(super) fn request(
        &mut self,
        request: Wire,
        flags: u16,
        attributes: impl FnOnce(&mut Writer<'_>),
        take: impl FnMut(Wire, &Attribute<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        let ids = self.next_ids();
        message::write_ipvs(&mut bytes, request, flag::REQUEST | flags, ids, attributes);
        self.exchange(bytes, take)
    }

    /// The sequence number of the next request, and our port.
    fn next_ids(&mut self) -> (u32, u32) {
        self.sequence = self.sequence.wrapping_add(1);
        (self.sequence, 0)
    }

    /// Sends the request in `bytes`, the last one that was numbered, and reads its answer to the end.
    fn exchange(
        &mut self,
        mut bytes: Vec<u8>,
        mut take: impl FnMut(Wire, &Attribute<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.stream.write_all(&bytes)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "an answer without end").into());
            }
            self.frame(&mut bytes)?;
            let message = Message::read(&bytes).ok_or(Failure::Nonsense("a message that does not fill its frame"))?;
            if message.header.sequence != self.sequence {
                return Err(Failure::Nonsense("an answer to something else"));
            }
            match (message.header.kind, message.error()) {
                (message::ERROR, Some(0)) | (message::DONE, Some(0) | None) => return Ok(()),
                (message::ERROR | message::DONE, Some(number)) => {
                    return Err(Failure::Refused(number.saturating_neg()));
                }
                (FAMILY_ID, _) => {}
                _ => return Err(Failure::Nonsense("a message of another family")),
            }
            let (generic, list) = message.generic().ok_or(Failure::Nonsense("a message without a command"))?;
            let kind = Wire::from_number(generic.command).ok_or(Failure::Nonsense("an unknown command"))?;
            for attribute in list {
                take(kind, &attribute)?;
            }
        }
    }

    /// Reads one message.
    fn frame(&mut self, bytes: &mut Vec<u8>) -> Result<(), Failure> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).map_err(silence)?;
        let length = u32::from_be_bytes(length) as usize;
        if !(message::HEADER..=MAX_FRAME).contains(&length) {
            return Err(Failure::Nonsense("a message of impossible length"));
        }
        bytes.resize(length, 0);
        self.stream.read_exact(bytes).map_err(silence)?;
        Ok(())
    }
}

/// What is missing in an answer is nonsense, not a refusal.
pub(super) fn missing(_: Errno) -> Failure {
    Failure::Nonsense("an entry with something missing")
}

/// A read timeout is told as what it is.
fn silence(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            io::Error::new(io::ErrorKind::TimedOut, "no answer for 10 seconds")
        }
        io::ErrorKind::UnexpectedEof => io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the load balancer"),
        _ => error,
    }
}

fn resolve(address: &str) -> io::Result<Vec<std::net::SocketAddr>> {
    // With a port, or else a host alone, an IPv6 address without brackets among them.
    let with_port = address.to_socket_addrs();
    let found = match with_port {
        Ok(found) => found.collect(),
        Err(error) => {
            let host = address.trim_start_matches('[').trim_end_matches(']');
            (host, DEFAULT_PORT).to_socket_addrs().map_err(|_| error)?.collect()
        }
    };
    Ok(found)
}
