//! `--net xdp=NAME[,queue=NUMBER]`: a queue of a network interface, by AF_XDP: its frames go to the guest, past the host's stack.
//!
//! The kernel copies frames to memory that it shares with us (or the network card writes them there), and tells of them by rings: there
//! is no system call for a frame, and one for many that are sent. There are no offloads and no super-frames: frames are what is on the
//! wire. That is quick for many small frames, and slow for bulk between namespaces of one host, where TAP has frames of 64 KiB.

mod error;
mod program;
mod ring;
mod socket;

pub use error::Error;

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;

use self::program::{Mode, Program};
use self::ring::{Area, CHUNK, CHUNKS, Consumer, Descriptor, LONGEST, Producer, RING};
use self::socket::Socket;
use super::options::Queue;
use super::tap::ioctl;
use super::{Backend, Counters, Received, Scatter, Sent};

/// How often the interface is asked after, which may be gone: its rings are silent for ever then, and nothing wakes who waits.
const LOOK: Duration = Duration::from_secs(1);
/// How soon it is tried again to send what the interface had no room for.
const RETRY: Duration = Duration::from_millis(5);
/// A queue that is not free by then is somebody else's.
const PATIENCE: Duration = Duration::from_millis(500);
/// The most calls in one turn: the kernel sends 32 frames in each.
const CALLS: usize = 64;
/// The shortest frame that is sent, in bytes: its header.
const ETHERNET: usize = 14;

/// A queue of an interface.
///
/// As long as it is held, the frames that come by the queue go here and nowhere else, whoever they are for.
pub struct Xdp {
    /// First of all, so that nothing is given to a socket that is about to go.
    program: Program,
    #[allow(dead_code, reason = "held")]
    promiscuous: OwnedFd,
    socket: Socket,
    name: String,
    mtu: u16,
    received: Consumer<Descriptor>,
    fill: Producer<u64>,
    send: Producer<Descriptor>,
    sent: Consumer<u64>,
    /// Chunks to send in.
    free: Vec<u64>,
    looked: Option<Instant>,
    /// Frames that the kernel said lie where none can.
    astray: u64,
    gone: bool,
    counters: Counters,
    /// After the rings and the socket, which point into it.
    area: Area,
}

impl fmt::Debug for Xdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Xdp").field("name", &self.name).field("program", &self.program).finish_non_exhaustive()
    }
}

impl Xdp {
    /// Takes a queue of an interface.
    ///
    /// # Errors
    /// If that is not possible; says what is missing and how to get it.
    pub fn open(Queue { name, queue }: &Queue) -> Result<Self, Error> {
        let number = queue.unwrap_or(0);
        let step = |what| move |source| Error::step(name, number, what, source);
        let interface = socket::number(name).map_err(step("if_nametoindex"))?;
        let count = socket::queues(name).map_err(step("ETHTOOL_GCHANNELS"))?;
        if queue.is_none() && count > 1 {
            return Err(Error::Queues { name: name.clone(), count });
        }
        if number >= count {
            return Err(Error::NoQueue { name: name.clone(), queue: number, count });
        }
        let mtu = ioctl::mtu(name).map_err(step("SIOCGIFMTU"))?;
        let area = Area::new().map_err(step("mmap"))?;
        let socket = Socket::new(&area).map_err(step("a socket of AF_XDP"))?;
        let offsets = socket.offsets().map_err(step("XDP_MMAP_OFFSETS"))?;
        let mapped = step("its rings");
        let received = Consumer::map(&socket, libc::XDP_PGOFF_RX_RING, offsets.rx).map_err(mapped)?;
        let send = Producer::map(&socket, libc::XDP_PGOFF_TX_RING, offsets.tx).map_err(mapped)?;
        let fill_at = libc::XDP_UMEM_PGOFF_FILL_RING.cast_signed();
        let mut fill = Producer::map(&socket, fill_at, offsets.fr).map_err(mapped)?;
        let sent_at = libc::XDP_UMEM_PGOFF_COMPLETION_RING.cast_signed();
        let sent = Consumer::map(&socket, sent_at, offsets.cr).map_err(mapped)?;
        let mut chunks = (0..u64::from(CHUNKS)).map(|nth| nth * CHUNK as u64);
        for chunk in chunks.by_ref().take(RING as usize) {
            fill.push(chunk);
        }
        fill.publish();
        bind(&socket, interface, number).map_err(step("bind"))?;
        let promiscuous = socket::promiscuous(interface).map_err(step("PACKET_MR_PROMISC"))?;
        let program = Program::attach(interface, number, &socket).map_err(step("its program"))?;
        if program.mode == Mode::Generic {
            eprintln!(
                "ringlet: {name} cannot run an XDP program itself, or not as it is set: the kernel does, which is slower (`ethtool -K \
                 {name} gro off lro off` may help)"
            );
        }
        if !ioctl::is_up(name).map_err(step("SIOCGIFFLAGS"))? {
            eprintln!("ringlet: {name} is down; `ip link set {name} up` brings it to life");
        }
        Ok(Self {
            program,
            promiscuous,
            socket,
            name: name.clone(),
            mtu: mtu.min((LONGEST - ETHERNET - 4) as u16),
            received,
            fill,
            send,
            sent,
            free: chunks.collect(),
            looked: None,
            astray: 0,
            gone: false,
            counters: Counters::default(),
            area,
        })
    }

    /// Whether the interface's driver runs the program, and not the kernel for it.
    #[must_use]
    pub fn is_native(&self) -> bool {
        self.program.mode == Mode::Native
    }

    /// Takes back the chunks of what was sent.
    fn reap(&mut self) {
        while let Some(chunk) = self.sent.peek() {
            self.sent.advance();
            self.free.push(chunk);
        }
    }

    /// Has the kernel send. Whether that is to be tried again soon: there is more than it takes now, or than there is room for.
    fn flush(&mut self) -> bool {
        self.reap();
        self.send.publish();
        for _ in 0..CALLS {
            if self.send.under_way() == 0 || !self.send.wants_call() {
                break;
            }
            let sent = self.socket.send();
            self.reap();
            match sent {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.gone |= is_gone(&error);
                    break;
                }
            }
        }
        // Where all chunks are on their way, somebody may wait for one, and nothing else tells of those that are back.
        self.send.under_way() != 0 || self.free.is_empty()
    }

    /// Asks now and then whether the interface is still there, and what there was no room for. Returns when it will again.
    fn look(&mut self, now: Instant) -> Instant {
        if let Some(due) = self.looked.map(|looked| looked + LOOK)
            && now < due
        {
            return due;
        }
        self.looked = Some(now);
        if let Err(error) = self.socket.receive() {
            self.gone |= is_gone(&error);
        }
        if let Ok(lost) = self.socket.lost() {
            self.counters.to_guest.dropped = lost + self.astray;
        }
        now + LOOK
    }

    /// Gives the chunk of the frame that is first in line back to the kernel.
    fn give_back(&mut self, place: Descriptor) {
        self.received.advance();
        // A driver may say where in its chunk a frame begins.
        self.fill.push(place.address / CHUNK as u64 * CHUNK as u64);
    }

    fn alive(&self) -> io::Result<()> {
        if self.gone { Err(io::Error::other(format!("the interface {} is gone", self.name))) } else { Ok(()) }
    }
}

impl Backend for Xdp {
    fn name(&self) -> &'static str {
        "xdp"
    }

    fn offloads(&self) -> Features {
        Features::empty()
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn negotiated(&mut self, _: Features) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, frame: &Scatter<'_>) -> io::Result<Sent> {
        self.alive()?;
        if !(NetHdr::LEN + ETHERNET..=NetHdr::LEN + LONGEST).contains(&frame.len()) {
            self.counters.from_guest.dropped += 1;
            return Ok(Sent::Done);
        }
        if self.free.is_empty() {
            self.reap();
        }
        let Some(chunk) = self.free.pop() else { return Ok(Sent::Later) };
        let place = self.area.put(chunk, frame, NetHdr::LEN);
        if !self.send.push(place) {
            self.free.push(chunk);
            return Ok(Sent::Later);
        }
        self.counters.from_guest.frames += 1;
        self.counters.from_guest.bytes += u64::from(place.length);
        Ok(Sent::Done)
    }

    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<Received> {
        self.alive()?;
        if self.received.is_empty() {
            // As often as the kernel is asked what there is.
            self.fill.publish();
        }
        while let Some(place) = self.received.peek() {
            let length = NetHdr::LEN + place.length as usize;
            if length > room.len() {
                return Ok(Received::TooSmall(length));
            }
            room.write(0, &[0; NetHdr::LEN]);
            let is_whole = self.area.take(place, room, NetHdr::LEN) == place.length as usize;
            self.give_back(place);
            if !is_whole {
                // Not within a chunk: the guest is not to take what lay in its buffer before for a frame.
                self.astray += 1;
                continue;
            }
            self.counters.to_guest.frames += 1;
            self.counters.to_guest.bytes += u64::from(place.length);
            return Ok(Received::Frame(length));
        }
        if self.fill.wants_call()
            && let Err(error) = self.socket.receive()
        {
            self.gone |= is_gone(&error);
        }
        Ok(Received::Empty)
    }

    fn discard(&mut self) {
        if let Some(place) = self.received.peek() {
            self.give_back(place);
        }
    }

    fn turn(&mut self, now: Instant) -> Option<Instant> {
        let look = self.look(now);
        Some(if self.flush() { look.min(now + RETRY) } else { look })
    }

    fn wait_on(&self, fds: &mut Vec<RawFd>) {
        fds.push(self.socket.as_raw_fd());
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

/// Binds a socket to a queue, which the kernel takes back in its own time from one that was closed just now.
fn bind(socket: &Socket, interface: u32, queue: u32) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match socket.bind(interface, queue) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => thread::sleep(RETRY),
            bound => return bound,
        }
    }
}

/// Whether an error means that the interface was removed.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV | libc::EBADF))
}
