//! The status page (`/`) and the metrics (`/metrics`) over HTTP/1.1 (RFC 9112).
//!
//! One request a connection. Answers are made piece by piece as the client takes them, so that neither many services nor a
//! slow client need memory; their end is the end of the connection.

pub(crate) mod metrics;
mod page;
mod request;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use smoltcp::socket::tcp;

pub(crate) use self::metrics::{forward_name, protocol_name};
use self::request::{Bad, LONGEST_HEAD, Request};
use super::View;
use super::server::{Next, Session};

/// The port of this service.
pub const PORT: u16 = 9100;

/// How long a client may take for its request, and then for each piece of the answer, in nanoseconds.
const PATIENCE: u64 = 10_000_000_000;

/// Bytes of an answer that are made at a time, about.
const PIECE: usize = 8 << 10;

/// Where the making of an answer has got to. Services and destinations are numbered as the balancer lists them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Which part of the answer.
    section: usize,
    /// How many services of this part are done.
    service: usize,
    /// How many destinations of the current service are done.
    destination: usize,
}

/// What is being answered.
enum Answer {
    Page(Cursor),
    Metrics(Cursor),
    /// All of it is made.
    Made,
}

/// One client.
pub(crate) struct Http {
    head: Vec<u8>,
    answer: Option<Answer>,
    /// What is made and not yet taken by the socket.
    pending: String,
    taken: usize,
    /// The configuration the answer is about.
    revision: u64,
    deadline: u64,
    /// Requests answered and not yet counted: none or one.
    answered: u64,
}

impl Session for Http {
    const RECEIVE: usize = 4 << 10;
    const TRANSMIT: usize = 32 << 10;

    fn new(now_ns: u64) -> Self {
        Self {
            head: Vec::new(),
            answer: None,
            pending: String::new(),
            taken: 0,
            revision: 0,
            deadline: now_ns.saturating_add(PATIENCE),
            answered: 0,
        }
    }

    fn drive(&mut self, socket: &mut tcp::Socket<'_>, view: &mut View<'_>) -> Next {
        if self.answer.is_none() {
            while socket.can_recv() && self.head.len() < LONGEST_HEAD {
                let room = LONGEST_HEAD - self.head.len();
                let head = &mut self.head;
                let received = socket.recv(|bytes| {
                    let n = bytes.len().min(room);
                    head.extend_from_slice(&bytes[..n]);
                    (n, n)
                });
                if !matches!(received, Ok(1..)) {
                    break;
                }
            }
            match request::parse(&self.head) {
                Some(request) => {
                    self.answer = Some(begin(request, &mut self.pending));
                    self.revision = view.balancer.revision();
                    self.answered = 1;
                    self.head = Vec::new();
                }
                // The client has ended its side before its request.
                None if !socket.may_recv() => return Next::Abort,
                None => return Next::Until(self.deadline),
            }
        } else if socket.can_recv() {
            // A second request, or a body nobody asked for: not read, but it must not close the window either.
            let _ = socket.recv(|bytes| (bytes.len(), ()));
        }
        self.write(socket, view)
    }

    fn take_answered(&mut self) -> u64 {
        core::mem::take(&mut self.answered)
    }
}

impl Http {
    fn write(&mut self, socket: &mut tcp::Socket<'_>, view: &mut View<'_>) -> Next {
        loop {
            if self.taken == self.pending.len() {
                self.pending.clear();
                self.taken = 0;
                match &mut self.answer {
                    Some(Answer::Made) | None => return Next::Close,
                    // Rows are found by their number, which means nothing any more. An answer cut off is noticed, one with
                    // a service twice might not be.
                    _ if self.revision != view.balancer.revision() => return Next::Abort,
                    Some(Answer::Page(cursor)) => {
                        if page::write(cursor, view, &mut self.pending, PIECE) {
                            self.answer = Some(Answer::Made);
                        }
                    }
                    Some(Answer::Metrics(cursor)) => {
                        if metrics::write(cursor, view, &mut self.pending, PIECE) {
                            self.answer = Some(Answer::Made);
                        }
                    }
                }
                continue;
            }
            match socket.send_slice(&self.pending.as_bytes()[self.taken..]) {
                Ok(0) => return Next::Until(self.deadline),
                Ok(n) => {
                    self.taken += n;
                    self.deadline = view.gauges.now_ns.saturating_add(PATIENCE);
                }
                Err(_) => return Next::Abort,
            }
        }
    }
}

/// Writes the head of the answer and says what comes after it.
fn begin(request: Result<Request<'_>, Bad>, out: &mut String) -> Answer {
    let (head_only, path) = match request {
        Ok(request) => (request.head_only, request.path),
        Err(Bad::Request) => return refuse("400 Bad Request", "", false, out),
        Err(Bad::Method) => return refuse("405 Method Not Allowed", "Allow: GET, HEAD\r\n", false, out),
        Err(Bad::TooLarge) => return refuse("431 Request Header Fields Too Large", "", false, out),
        Err(Bad::Version) => return refuse("505 HTTP Version Not Supported", "", false, out),
    };
    let (kind, answer) = match path {
        "/" => ("text/plain; charset=utf-8", Answer::Page(Cursor::default())),
        "/metrics" => ("text/plain; version=0.0.4; charset=utf-8", Answer::Metrics(Cursor::default())),
        _ => return refuse("404 Not Found", "", head_only, out),
    };
    // A `String` takes all it is given.
    let _ = write!(
        out,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
         Connection: close\r\n\r\n"
    );
    if head_only { Answer::Made } else { answer }
}

fn refuse(status: &str, fields: &str, head_only: bool, out: &mut String) -> Answer {
    let body = if head_only { "" } else { status };
    let end = if head_only { "" } else { "\n" };
    let _ = write!(
        out,
        "HTTP/1.1 {status}\r\n{fields}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}{end}",
        status.len() + 1,
    );
    Answer::Made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_their_status_and_length() {
        let mut out = String::new();
        begin(Err(Bad::Method), &mut out);
        assert!(out.starts_with("HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, HEAD\r\n"), "{out}");
        assert!(out.ends_with("Content-Length: 23\r\nConnection: close\r\n\r\n405 Method Not Allowed\n"), "{out}");
        out.clear();
        begin(Ok(Request { head_only: true, path: "/x" }), &mut out);
        assert!(out.starts_with("HTTP/1.1 404 ") && out.ends_with("\r\n\r\n"), "{out}");
    }
}
