//! Echo requests, each sent once: an answer that does not come is not asked for again, as TCP would.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::FromRawFd;
use std::time::Duration;

/// A socket for echo requests, in the network namespace of the thread that has made it.
pub struct Pinger {
    socket: UdpSocket,
    sequence: u16,
}

impl Pinger {
    /// For this host. `patience` is the longest time that an answer may take.
    pub fn new(host: Ipv4Addr, patience: Duration) -> Self {
        // Which groups may do it is a setting of the namespace, and none may in a new one.
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").expect("set");
        // SAFETY: a system call without pointers.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, libc::IPPROTO_ICMP) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the descriptor is new and ours, and a socket for datagrams.
        let socket = unsafe { UdpSocket::from_raw_fd(fd) };
        socket.set_read_timeout(Some(patience)).expect("a timeout");
        socket.connect((host, 0)).expect("connected");
        Self { socket, sequence: 0 }
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    /// If none comes in time.
    pub fn ping(&mut self) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let [high, low] = self.sequence.to_be_bytes();
        // Linux fills in the checksum and the identifier.
        self.socket.send(&[8, 0, 0, 0, 0, 0, high, low, b'r', b'i', b'n', b'g'])?;
        let mut answer = [0; 64];
        let length = self.socket.recv(&mut answer)?;
        let expected = answer[0] == 0 && answer[6..8] == [high, low] && answer[8..length] == *b"ring";
        if expected { Ok(()) } else { Err(io::Error::other(format!("answered {:02x?}", &answer[..length]))) }
    }
}
