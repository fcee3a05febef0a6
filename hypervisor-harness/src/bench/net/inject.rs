//! Frames of the load generator into an interface of Linux, as fast as it takes them.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};

use super::Namespace;
use crate::affinity;
use crate::backend::generator::{Frames, Load};

/// Frames that one system call sends.
const BURST: usize = 64;
/// The longest frame, in bytes.
const ROOM: usize = 2048;

/// Somebody who sends, until it is dropped.
#[derive(Debug)]
pub struct Injector {
    running: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Injector {
    /// Begins to send this load by an interface of the namespace, on one processor, past the interface's queueing
    /// discipline.
    ///
    /// # Errors
    /// If the load cannot be made.
    pub fn start(namespace: &Namespace, interface: &str, load: &Load, cpu: usize) -> anyhow::Result<Self> {
        let mut frames = Frames::new(load)?;
        let (running, sent) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let (name, go_on, count) = (interface.to_owned(), running.clone(), sent.clone());
        let thread = namespace.spawn(move || {
            affinity::pin_this(cpu).context("cannot keep the sender on one processor")?;
            let socket = open(&name).with_context(|| format!("cannot send by {name}"))?;
            let mut burst = Burst::new();
            while go_on.load(Ordering::Relaxed) {
                burst.fill(&mut frames);
                let sent = burst.send(&socket).context("cannot send")?;
                count.fetch_add(sent as u64, Ordering::Relaxed);
            }
            Ok(())
        });
        Ok(Self { running, sent, thread: Some(thread) })
    }

    /// Frames that the interface has taken so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops.
    ///
    /// # Errors
    /// If it had stopped already, with the reason.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.running.store(false, Ordering::Relaxed);
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or_else(|_| Err(anyhow!("the sender has panicked"))),
            None => Ok(()),
        }
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Where something else has failed already.
            let _ = thread.join();
        }
    }
}

/// A packet socket (packet(7)) that sends by one interface of this thread's namespace.
fn open(interface: &str) -> io::Result<OwnedFd> {
    let name = CString::new(interface)?;
    // SAFETY: the name ends with a zero byte and lives longer than the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    // Protocol 0: nothing is received.
    // SAFETY: `socket` takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let on: libc::c_int = 1;
    // SAFETY: the option is an integer of that size.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `sockaddr_ll` is integers and arrays of them: all zeroes is a value of it.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index.cast_signed();
    // SAFETY: the address is of that size and lives longer than the call.
    let bound = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
    };
    if bound != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// Frames for one system call.
struct Burst {
    bytes: Vec<u8>,
    lengths: [usize; BURST],
}

impl Burst {
    fn new() -> Self {
        Self { bytes: vec![0; BURST * ROOM], lengths: [0; BURST] }
    }

    fn fill(&mut self, frames: &mut Frames) {
        for (room, length) in self.bytes.chunks_exact_mut(ROOM).zip(&mut self.lengths) {
            let frame = frames.next_frame();
            *length = frame.len().min(ROOM);
            room[..*length].copy_from_slice(&frame[..*length]);
        }
    }

    /// Sends them all. Returns how many the interface has taken; what it drops meanwhile it does not tell.
    fn send(&mut self, socket: &OwnedFd) -> io::Result<usize> {
        let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BURST];
        for ((piece, room), length) in pieces.iter_mut().zip(self.bytes.chunks_exact_mut(ROOM)).zip(self.lengths) {
            *piece = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: length };
        }
        // SAFETY: a message is integers and pointers that may be null: all zeroes is a value of it.
        let mut messages: [libc::mmsghdr; BURST] = unsafe { std::mem::zeroed() };
        for (message, piece) in messages.iter_mut().zip(&mut pieces) {
            message.msg_hdr.msg_iov = piece;
            message.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: each message points to one piece, each piece to as many bytes of `self.bytes` as it says, and all of them
        // live longer than the call.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BURST as libc::c_uint, 0) };
        match usize::try_from(sent) {
            Ok(sent) => Ok(sent),
            Err(_) => match io::Error::last_os_error() {
                // The interface has no room now.
                error if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR)) => Ok(0),
                error => Err(error),
            },
        }
    }
}
