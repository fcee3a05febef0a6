//! Two networks plugged into each other, and what Linux says to the servers of `lan` by that.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringlet::backend::lan::Lan;
use ringlet::backend::lan::http::{Hash, pattern};
use ringlet::backend::{Backend, Received, Scatter};

const PATIENCE: Duration = Duration::from_secs(60);
/// Of `virtio_net_hdr_v1`, in bytes.
pub const HEADER: usize = 12;
/// Longer than any frame with its header.
const ROOM: usize = 66_000;

/// Shows bytes as a guest's memory.
pub fn with<T>(bytes: &mut [u8], use_it: impl FnOnce(&mut Scatter<'_>) -> T) -> T {
    let pieces = [libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }];
    // SAFETY: the piece is `bytes`, touched only through the scatter while it lives.
    use_it(&mut unsafe { Scatter::new(&pieces) })
}

/// Takes all that one network has for a guest and gives it to the other. The length of the longest, in bytes.
fn carry(from: &mut dyn Backend, to: &mut dyn Backend, buffer: &mut [u8]) -> usize {
    let mut longest = 0;
    while let Received::Frame(length) = with(buffer, |room| from.receive(room)).expect("alive") {
        longest = longest.max(length - HEADER);
        with(&mut buffer[..length], |frame| to.send(frame)).expect("alive");
    }
    longest
}

/// Plugs the two networks into each other until told to stop. The lengths of the longest frames from the tap and to it,
/// in bytes.
pub fn plug(tap: &mut impl Backend, lan: &mut Lan, stop: &AtomicBool) -> (usize, usize) {
    let mut buffer = vec![0; ROOM];
    let mut longest = (0, 0);
    while !stop.load(Ordering::SeqCst) {
        let due = lan.turn(Instant::now());
        tap.turn(Instant::now());
        let moved = (carry(tap, lan, &mut buffer), carry(lan, tap, &mut buffer));
        longest = (longest.0.max(moved.0), longest.1.max(moved.1));
        if moved != (0, 0) {
            continue;
        }
        let mut fds = Vec::new();
        lan.wait_on(&mut fds);
        tap.wait_on(&mut fds);
        let mut fds: Vec<_> = fds.iter().map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 }).collect();
        let wait = due.map_or(5, |due| due.saturating_duration_since(Instant::now()).as_millis().min(5) as libc::c_int);
        // SAFETY: `fds` is an array of as many `pollfd` as said, and nothing else touches it meanwhile.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, wait) };
    }
    longest
}

fn ask(address: &str, request: &str, body: &[u8]) -> Vec<u8> {
    let address: SocketAddr = address.parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let head = format!("{request} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).expect("written");
    stream.write_all(body).expect("written");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    answer.split_off(end)
}

/// Everything that Linux does with the servers, over both versions of IP.
pub fn converse() {
    const LENGTH: usize = 20_000_003;
    let mut expected = vec![0; LENGTH];
    pattern(0, &mut expected);
    let mut hash = Hash::default();
    hash.update(&expected);
    for address in ["10.0.0.11:80", "[fd00::b]:80"] {
        assert!(ask(address, &format!("GET /bytes/{LENGTH}"), b"") == expected, "the pattern is broken");
        let receipt = String::from_utf8(ask(address, "PUT /sink", &expected)).expect("text");
        assert_eq!(receipt, format!("{LENGTH} {:016x}\n", hash.finish()));
    }
    for (own, address) in [("0.0.0.0:0", "10.0.0.12:7"), ("[::]:0", "[fd00::c]:7")] {
        let socket = UdpSocket::bind(own).expect("bound");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.send_to(&[9; 1401], address).expect("sent");
        assert_eq!(socket.recv(&mut [0; 2000]).expect("an answer"), 1401);
        // More than a frame holds: Linux sends it in fragments, and gets it in whichever form it takes.
        socket.send_to(&[9; 20_001], address).expect("sent");
        assert_eq!(socket.recv(&mut [0; 30_000]).expect("an answer"), 20_001);
        // Nobody listens at that port, and Linux is told so.
        socket.connect(address.replace(":7", ":9")).expect("connected");
        socket.send(b"hello").expect("sent");
        let error = socket.recv(&mut [0; 10]).expect_err("refused");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    let refused = TcpStream::connect("10.0.0.11:81").expect_err("refused");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}
