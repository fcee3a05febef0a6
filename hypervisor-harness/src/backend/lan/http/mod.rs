//! The built-in servers' HTTP/1.1 (RFC 9110, RFC 9112): who am I, large downloads, and a sink for large uploads.
//!
//! - `GET /` answers with one line: `beta (10.0.0.12) saw 10.9.0.7:40001, connection 3`.
//! - `GET /bytes/N` answers with N bytes of [`pattern`].
//! - `PUT /sink` and `POST /sink` read a body and answer with its length and its [hash](struct@Hash): `1048576 00c0ffee00c0ffee`.

mod bytes;
mod head;

pub use bytes::{Hash, PERIOD, pattern};

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use smoltcp::socket::tcp::{Socket, State};

use head::Request;

/// How long a client may be silent between and within requests.
const IDLE: Duration = Duration::from_secs(60);

/// A built-in server.
#[derive(Debug)]
pub struct Server {
    name: String,
    addresses: Vec<IpAddr>,
    connections: AtomicU64,
}

impl Server {
    /// A server that nobody has connected to yet.
    pub fn new(name: String, addresses: Vec<IpAddr>) -> Self {
        Self { name, addresses, connections: AtomicU64::new(0) }
    }
}

/// The server's side of one connection.
#[derive(Debug)]
pub struct Http {
    server: Arc<Server>,
    client: SocketAddr,
    /// How many connections the server had had, this one counted.
    number: u64,
    state: Stage,
    head: Vec<u8>,
    deadline: Instant,
}

#[derive(Debug)]
enum Stage {
    /// A request's head is read.
    Head,
    /// Its body is read: so many bytes are to come.
    Body { left: u64, hash: Hash, keep: bool },
    /// The answer is written: its head and small body, then so many bytes of the pattern.
    Answer { text: Vec<u8>, done: usize, offset: u64, length: u64, then: Then },
    /// All was said.
    End,
}

/// What follows an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The body that the client held back.
    Body { left: u64, keep: bool },
    /// The next request.
    Head,
    /// The end.
    Close,
}

impl Http {
    /// Serves a new connection.
    pub fn new(server: Arc<Server>, client: SocketAddr, now: Instant) -> Self {
        // A counter that nothing else depends on.
        let number = server.connections.fetch_add(1, Ordering::Relaxed) + 1;
        Self { server, client, number, state: Stage::Head, head: Vec::new(), deadline: now + IDLE }
    }

    /// When the client will have been silent for too long.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Reads and writes what can be. Returns whether there is nothing more to read or write.
    pub fn step(&mut self, socket: &mut Socket<'_>, now: Instant) -> bool {
        if now >= self.deadline {
            socket.abort();
            return true;
        }
        while self.advance(socket) {
            self.deadline = now + IDLE;
        }
        matches!(self.state, Stage::End)
            || !matches!(socket.state(), State::Established | State::CloseWait | State::Listen | State::SynReceived)
    }

    /// One step. Returns whether it was one.
    fn advance(&mut self, socket: &mut Socket<'_>) -> bool {
        match &mut self.state {
            Stage::Head => {
                if !socket.can_recv() {
                    // The client has nothing more to ask.
                    if matches!(socket.state(), State::CloseWait) {
                        socket.close();
                        self.state = Stage::End;
                    }
                    return false;
                }
                self.read_head(socket)
            }
            Stage::Body { left, hash, keep } => {
                if *left == 0 {
                    let text = format!("{} {:016x}\n", hash.length(), hash.finish());
                    let keep = *keep;
                    self.answer(200, "OK", &text, keep, true);
                    return true;
                }
                if !socket.can_recv() {
                    // It ends before it should.
                    if matches!(socket.state(), State::CloseWait) {
                        socket.abort();
                        self.state = Stage::End;
                    }
                    return false;
                }
                let read = socket.recv(|bytes| {
                    let count = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    hash.update(&bytes[..count]);
                    (count, count)
                });
                *left -= read.unwrap_or(0) as u64;
                matches!(read, Ok(1..))
            }
            Stage::Answer { text, done, offset, length, then } => {
                if *done == text.len() && offset == length {
                    self.state = match *then {
                        Then::Head => Stage::Head,
                        Then::Body { left, keep } => Stage::Body { left, hash: Hash::default(), keep },
                        Then::Close => {
                            socket.close();
                            Stage::End
                        }
                    };
                    return true;
                }
                if !socket.can_send() {
                    return false;
                }
                let sent = socket.send(|room| {
                    if *done < text.len() {
                        let count = room.len().min(text.len() - *done);
                        room[..count].copy_from_slice(&text[*done..*done + count]);
                        *done += count;
                        return (count, count);
                    }
                    let count = room.len().min(usize::try_from(*length - *offset).unwrap_or(usize::MAX));
                    pattern(*offset, &mut room[..count]);
                    *offset += count as u64;
                    (count, count)
                });
                matches!(sent, Ok(1..))
            }
            // What a client says after that it should not have said.
            Stage::End => matches!(socket.recv(|bytes| (bytes.len(), bytes.len())), Ok(1..)),
        }
    }

    fn read_head(&mut self, socket: &mut Socket<'_>) -> bool {
        let head = &mut self.head;
        let before = head.len();
        let read = socket.recv(|bytes| {
            let room = head::LONGEST - before;
            head.extend_from_slice(&bytes[..bytes.len().min(room)]);
            match head::end(head) {
                Some(end) => {
                    head.truncate(end);
                    (end.saturating_sub(before), true)
                }
                None => (head.len() - before, false),
            }
        });
        match read {
            Ok(true) => {
                let head = std::mem::take(&mut self.head);
                match head::parse(&head) {
                    Some(request) => self.request(&request),
                    None => self.answer(400, "Bad Request", "that is not a request\n", false, true),
                }
            }
            Ok(false) if self.head.len() >= head::LONGEST => {
                self.answer(431, "Request Header Fields Too Large", "too long a head\n", false, true);
            }
            Ok(false) => return self.head.len() > before,
            Err(_) => return false,
        }
        true
    }

    fn request(&mut self, request: &Request) {
        let keep = request.keep;
        let show = request.method != "HEAD";
        let bodiless = request.length.unwrap_or(0) == 0 && !request.chunked;
        match (request.method.as_str(), request.path.as_str()) {
            ("PUT" | "POST", "/sink") => match request.length {
                _ if request.chunked => self.answer(411, "Length Required", "no chunks, please\n", false, true),
                None => self.answer(411, "Length Required", "say how long it is\n", false, true),
                Some(left) if request.expects => {
                    let text = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
                    let then = Then::Body { left, keep };
                    self.state = Stage::Answer { text, done: 0, offset: 0, length: 0, then };
                }
                Some(left) => self.state = Stage::Body { left, hash: Hash::default(), keep },
            },
            // A body that nobody reads would be taken for the next request.
            ("GET" | "HEAD", _) if !bodiless => self.answer(400, "Bad Request", "that takes no body\n", false, show),
            ("GET" | "HEAD", "/") => {
                let text = self.introduction();
                self.answer(200, "OK", &text, keep, show);
            }
            ("GET" | "HEAD", path) => match path.strip_prefix("/bytes/").map(str::parse::<u64>) {
                Some(Ok(length)) => {
                    let text = answer_head(200, "OK", "application/octet-stream", length, keep);
                    let then = if keep { Then::Head } else { Then::Close };
                    let length = if show { length } else { 0 };
                    self.state = Stage::Answer { text: text.into_bytes(), done: 0, offset: 0, length, then };
                }
                _ => self.answer(404, "Not Found", "there are / and /bytes/N to GET and /sink to PUT\n", keep, show),
            },
            _ => self.answer(405, "Method Not Allowed", "GET / or /bytes/N, PUT /sink\n", keep && bodiless, true),
        }
    }

    fn introduction(&self) -> String {
        let own = self.server.addresses.iter().find(|address| address.is_ipv4() == self.client.is_ipv4());
        let own = own.map_or_else(String::new, |address| format!(" ({address})"));
        format!("{}{own} saw {}, connection {}\n", self.server.name, self.client, self.number)
    }

    fn answer(&mut self, code: u16, reason: &str, body: &str, keep: bool, show: bool) {
        let mut text = answer_head(code, reason, "text/plain; charset=utf-8", body.len() as u64, keep);
        if show {
            text.push_str(body);
        }
        let then = if keep { Then::Head } else { Then::Close };
        self.state = Stage::Answer { text: text.into_bytes(), done: 0, offset: 0, length: 0, then };
    }
}

fn answer_head(code: u16, reason: &str, kind: &str, length: u64, keep: bool) -> String {
    let mut text = format!("HTTP/1.1 {code} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n");
    // Writing to a String does not fail.
    let _ = write!(text, "Connection: {}\r\n\r\n", if keep { "keep-alive" } else { "close" });
    text
}
