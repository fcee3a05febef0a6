//! Frames of any kind on an interface, sent and received as they are.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// The protocol of the frames: the first one for local experiments (IEEE 802), so that Linux has nothing to say to them.
pub const PROTOCOL: u16 = 0x88b5;

/// What may wait in a socket, in bytes as Linux counts them: a frame and all the memory that it was put into.
const ROOM: i32 = 32 << 20;

/// A socket for frames of [`PROTOCOL`] on one interface.
pub struct Packets(OwnedFd);

impl Packets {
    /// On this interface. Reads wait for `patience` at most.
    pub fn open(interface: &str, patience: Duration) -> Self {
        let protocol = i32::from(PROTOCOL.to_be());
        // SAFETY: plain system calls with valid pointers; the descriptor is new, and ours.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd)
        };
        let name = CString::new(interface).expect("a name");
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: PROTOCOL.to_be(),
            // SAFETY: the name is a C string.
            sll_ifindex: unsafe { libc::if_nametoindex(name.as_ptr()) } as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let time = libc::timeval { tv_sec: patience.as_secs() as i64, tv_usec: 0 };
        let (one, room) = (1_i32, ROOM);
        let set = |level, option, value: *const libc::c_void, size: usize| {
            // SAFETY: the value is as long as said, and lives on.
            let done = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value, size as u32) };
            assert_eq!(done, 0, "{}", io::Error::last_os_error());
        };
        // SAFETY: the address is a `sockaddr_ll`, as long as said.
        let bound =
            unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32) };
        assert_eq!(bound, 0, "{interface}: {}", io::Error::last_os_error());
        set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const time).cast(), size_of_val(&time));
        // By default 208 KiB: two dozen frames of 9000 bytes, and the others are dropped.
        set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, (&raw const room).cast(), size_of_val(&room));
        // What we send ourselves is not received.
        set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, (&raw const one).cast(), size_of_val(&one));
        Self(fd)
    }

    /// Sends a frame, which has [`PROTOCOL`] in its header.
    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the buffer is as long as said.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame, if one comes in time.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 1 << 16];
        // SAFETY: the buffer is as long as said.
        let length = unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
        frame.truncate(usize::try_from(length).ok()?);
        Some(frame)
    }
}
