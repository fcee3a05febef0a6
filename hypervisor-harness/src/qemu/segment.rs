//! A network of ours on the other end of a socket of QEMU's (`-netdev stream`): each frame is preceded by its length, 32 bits
//! big-endian.
//!
//! QEMU's wire is a hub: whatever the guest or this network sends, slirp sees too, and it looks at no Ethernet address. To the
//! servers' answers, which it knows nothing of, it says that there is no such connection. So only what the guest itself sends
//! is taken here.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringlet_driver::features::Features;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::backend::{Backend, Jack, Network, Received, Scatter, Sent};

/// The virtio header before each frame, on the backend's side. Nothing is offloaded here, so it stays zero.
const HEADER: usize = 12;
/// The longest frame that is taken, in bytes. Without offloads none is longer than the MTU and an Ethernet header.
const LONGEST: usize = 65_550;
/// The guest's Ethernet address.
pub const GUEST: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 2];
/// Frames moved in one direction before it is the other one's turn.
const BURST: usize = 64;
/// Bytes that wait for QEMU to take them; beyond, frames stay in the network's own queues.
const BACKLOG: usize = 1 << 20;

/// A network that QEMU is plugged into, served by a thread.
#[derive(Debug)]
pub struct Segment {
    stop: EventFd,
    thread: JoinHandle<()>,
}

impl Segment {
    /// Waits for QEMU at the socket and then carries frames, until it goes away or [`Segment::stop`] is called.
    ///
    /// # Errors
    /// If there is no thread or descriptor to be had.
    pub fn start(socket: UnixListener, network: impl Network) -> io::Result<Self> {
        network.plug_into(socket)
    }

    fn serve<B: Backend + 'static>(socket: UnixListener, mut backend: B) -> io::Result<Self> {
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let stopped = stop.try_clone()?;
        socket.set_nonblocking(true)?;
        let serve = move || {
            if backend.negotiated(Features::VERSION_1).is_err() {
                return;
            }
            let Ok(stream) = wait_for(&socket, &stopped) else { return };
            // Ends with an error when QEMU ends; there is nobody left to be told.
            let _ = carry(&stream, &mut backend, &stopped);
        };
        let thread = std::thread::Builder::new().name("segment".into()).spawn(serve)?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread, and the network with it.
    pub fn stop(self) {
        // An eventfd that cannot be written is one that has been written often enough.
        let _ = self.stop.write(1);
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Jack for UnixListener {
    type Plugged = io::Result<Segment>;

    fn plug<B: Backend + 'static>(self, backend: B) -> Self::Plugged {
        Segment::serve(self, backend)
    }
}

/// QEMU's connection, or an error if the stop comes first.
fn wait_for(socket: &UnixListener, stop: &EventFd) -> io::Result<UnixStream> {
    loop {
        match socket.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if poll(&[(socket.as_raw_fd(), libc::POLLIN), (stop.as_raw_fd(), libc::POLLIN)], None)?[1] {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
}

/// Carries frames both ways until the connection ends or the stop comes.
fn carry(stream: &UnixStream, backend: &mut impl Backend, stop: &EventFd) -> io::Result<()> {
    let mut from_guest = Inbox::default();
    let mut to_guest = Outbox::default();
    let mut room = vec![0; HEADER + LONGEST];
    loop {
        let full = from_guest.fill(stream)?;
        let mut busy = full;
        for _ in 0..BURST {
            let Some(frame) = from_guest.next()? else { break };
            if frame.get(HEADER + 6..HEADER + 12) != Some(&GUEST[..]) {
                from_guest.taken();
                continue;
            }
            let pieces = [piece(frame)];
            // SAFETY: the piece is the frame, which is borrowed mutably and not used otherwise until the end of this turn.
            let scatter = unsafe { Scatter::new(&pieces) };
            if backend.send(&scatter)? == Sent::Later {
                break;
            }
            from_guest.taken();
            busy = true;
        }
        let next = backend.turn(Instant::now());
        for _ in 0..BURST {
            if to_guest.waiting() >= BACKLOG {
                break;
            }
            let pieces = [piece(&mut room)];
            // SAFETY: the piece is `room`, which nothing else uses until the backend has filled it.
            let mut scatter = unsafe { Scatter::new(&pieces) };
            let Received::Frame(length) = backend.receive(&mut scatter)? else { break };
            to_guest.put(&room[HEADER..length.clamp(HEADER, room.len())]);
            busy = true;
        }
        to_guest.flush(stream)?;
        if busy {
            continue;
        }
        let events = if to_guest.waiting() > 0 { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
        let mut waiting = vec![(stop.as_raw_fd(), libc::POLLIN), (stream.as_raw_fd(), events)];
        let mut fds = Vec::new();
        backend.wait_on(&mut fds);
        waiting.extend(fds.into_iter().map(|fd| (fd, libc::POLLIN)));
        if poll(&waiting, next)?[0] {
            return Ok(());
        }
    }
}

fn piece(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

/// Bytes from QEMU, cut into frames.
#[derive(Default)]
struct Inbox {
    bytes: Vec<u8>,
    /// Where the next frame's length begins.
    at: usize,
    /// The next frame, with a header before it.
    frame: Vec<u8>,
}

impl Inbox {
    /// Reads what is there. Says whether there may be more.
    fn fill(&mut self, mut stream: &UnixStream) -> io::Result<bool> {
        const CHUNK: usize = 64 << 10;
        if self.bytes.len() - self.at > LONGEST + 4 {
            return Ok(false);
        }
        self.bytes.drain(..self.at);
        self.at = 0;
        let old = self.bytes.len();
        self.bytes.resize(old + CHUNK, 0);
        let result = stream.read(&mut self.bytes[old..]);
        self.bytes.truncate(old + result.as_ref().copied().unwrap_or(0));
        match result {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(count == CHUNK),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The next whole frame, after its header.
    fn next(&mut self) -> io::Result<Option<&mut [u8]>> {
        let rest = &self.bytes[self.at..];
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > LONGEST {
            return Err(io::Error::other("a frame that is too long"));
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        self.frame.clear();
        self.frame.resize(HEADER, 0);
        self.frame.extend_from_slice(frame);
        Ok(Some(&mut self.frame))
    }

    /// The frame of [`Inbox::next`] is done with.
    fn taken(&mut self) {
        self.at += 4 + self.frame.len() - HEADER;
    }
}

/// Frames for QEMU that it has not taken yet.
#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    at: usize,
}

impl Outbox {
    fn waiting(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn put(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        self.bytes.extend_from_slice(frame);
    }

    /// Writes as much as QEMU takes.
    fn flush(&mut self, mut stream: &UnixStream) -> io::Result<()> {
        while self.at < self.bytes.len() {
            match stream.write(&self.bytes[self.at..]) {
                Ok(count) => self.at += count,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.bytes.drain(..self.at);
        self.at = 0;
        Ok(())
    }
}

/// Sleeps until one of the descriptors has one of its events, or `until`. Says for each whether it has.
fn poll(wanted: &[(RawFd, libc::c_short)], until: Option<Instant>) -> io::Result<Vec<bool>> {
    let mut fds: Vec<_> = wanted.iter().map(|&(fd, events)| libc::pollfd { fd, events, revents: 0 }).collect();
    // Rounded up, so that it is not woken for nothing; a minute is as good as for ever.
    let wait = until.map_or(Duration::from_secs(60), |until| until.saturating_duration_since(Instant::now()));
    let milliseconds = wait.as_micros().div_ceil(1000).min(60_000) as libc::c_int;
    // SAFETY: `fds` is a valid array of that many entries.
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, milliseconds) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok(vec![false; fds.len()]) } else { Err(error) };
    }
    Ok(fds.iter().map(|fd| fd.revents != 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::mirror::Mirror;

    #[test]
    fn frames_go_both_ways_in_order_and_whole() {
        let directory = std::env::temp_dir().join(format!("ringlet-segment-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("socket");
        let segment = Segment::start(UnixListener::bind(&path).unwrap(), Mirror::default()).unwrap();
        let mut qemu = UnixStream::connect(&path).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        let frame = |nth: usize| [&[0; 6][..], &GUEST, &vec![nth as u8; nth * 700 % 1502]].concat();
        let mut sent = qemu.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            for nth in 0..500 {
                let frame = frame(nth);
                // From others, or too short: not for us.
                sent.write_all(&[0, 0, 0, 13, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 0, 0, 0, 1, 1]).unwrap();
                sent.write_all(&[&(frame.len() as u32).to_be_bytes()[..], &frame].concat()).unwrap();
            }
        });
        for nth in 0..500 {
            let mut length = [0; 4];
            qemu.read_exact(&mut length).unwrap();
            let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
            qemu.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, frame(nth), "frame {nth}");
        }
        sender.join().unwrap();
        segment.stop();
    }

    #[test]
    fn a_stop_ends_the_wait_for_qemu_and_nonsense_the_connection() {
        let directory = std::env::temp_dir().join(format!("ringlet-segment-stop-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("socket");
        Segment::start(UnixListener::bind(&path).unwrap(), Mirror::default()).unwrap().stop();
        std::fs::remove_file(&path).unwrap();
        let segment = Segment::start(UnixListener::bind(&path).unwrap(), Mirror::default()).unwrap();
        let mut qemu = UnixStream::connect(&path).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        qemu.write_all(&[0xff; 8]).unwrap();
        assert_eq!(qemu.read(&mut [0]).unwrap(), 0);
        segment.stop();
    }
}
