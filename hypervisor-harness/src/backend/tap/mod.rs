//! `--net tap=NAME[,threaded=keep]`: a TAP interface of the host, with virtio headers and segmentation offload.

mod error;
pub(super) mod ioctl;
mod offload;
mod softirq;

pub use error::Error;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;

use self::softirq::Softirq;
use super::options::{Interface, Threaded};
use super::{Backend, Counters, Received, Scatter, Sent};

/// The device through which TAP interfaces are had.
const CLONE_DEVICE: &str = "/dev/net/tun";

/// A queue of a TAP interface.
///
/// The interface is created if it is not there and the process may do so, and then lives as long as this; one that the
/// user made beforehand (`ip tuntap add`) stays. Addresses, bridges and routes are the user's.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    mtu: u16,
    offloads: Features,
    /// What the driver takes, as `TUN_F_` flags.
    flags: libc::c_uint,
    /// A frame that was larger than the room offered for it, header included.
    stash: Vec<u8>,
    /// Where what has no room in the guest's buffers spills to.
    spill: Vec<u8>,
    counters: Counters,
    softirq: Softirq,
}

/// More frames than the kernel keeps for an interface by default (500, or 1000).
const QUEUE: usize = 4096;
/// Pieces of the guest's memory that a frame is read straight into.
const DIRECT: usize = 63;
/// The longest frame that the kernel hands out, with its header.
const LONGEST: usize = NetHdr::LEN + 14 + 4 + 65_535;

impl Tap {
    /// Attaches to the interface `name`, or creates it.
    ///
    /// # Errors
    /// If that is not possible; says what is missing and how to get it.
    pub fn open(name: &str) -> Result<Self, Error> {
        Self::open_with(&Interface { name: name.to_owned(), threaded: Threaded::default() })
    }

    /// As [`Tap::open`], with a say in what is done to the interface.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(Interface { name, threaded }: &Interface) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(CLONE_DEVICE)
            .map_err(Error::device)?;
        ioctl::attach(&file, name).map_err(|source| Error::attach(name, source))?;
        let set_up = |what| move |source| Error::SetUp { name: name.to_owned(), what, source };
        ioctl::set_header_size(&file, NetHdr::LEN).map_err(set_up("TUNSETVNETHDRSZ"))?;
        // The length and flags of the headers are in the order of bytes that virtio 1.0 has, whatever this machine's.
        ioctl::set_little_endian(&file).map_err(set_up("TUNSETVNETLE"))?;
        ioctl::set_send_buffer(&file, softirq::BOUND).map_err(set_up("TUNSETSNDBUF"))?;
        let offloads = offload::probe(|flags| ioctl::set_offload(&file, flags));
        ioctl::set_offload(&file, 0).map_err(set_up("TUNSETOFFLOAD"))?;
        let mtu = ioctl::mtu(name).map_err(set_up("SIOCGIFMTU"))?;
        let softirq = match threaded {
            Threaded::Auto => Softirq::new(&file, name),
            Threaded::Keep => Softirq::idle(),
        };
        let tap = Self {
            file,
            name: name.clone(),
            mtu,
            offloads,
            flags: 0,
            stash: Vec::new(),
            spill: Vec::new(),
            counters: Counters::default(),
            softirq,
        };
        if !tap.is_up().map_err(set_up("SIOCGIFFLAGS"))? {
            eprintln!(
                "ringlet: {name} is down; `ip link set {name} up` (and an address or a bridge) brings it to life"
            );
        }
        Ok(tap)
    }

    /// The interface's name.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.name
    }

    /// Whether the interface is up.
    ///
    /// # Errors
    /// If it is gone.
    pub fn is_up(&self) -> io::Result<bool> {
        ioctl::is_up(&self.name)
    }
}

impl Backend for Tap {
    fn name(&self) -> &'static str {
        "tap"
    }

    fn offloads(&self) -> Features {
        self.offloads
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn negotiated(&mut self, features: Features) -> io::Result<()> {
        let flags = offload::flags(features);
        self.stash.clear();
        ioctl::set_offload(&self.file, flags)?;
        // Frames that wait were made for a driver that took more.
        if std::mem::replace(&mut self.flags, flags) & !flags != 0 {
            self.spill.resize(LONGEST, 0);
            for _ in 0..QUEUE {
                if !matches!((&self.file).read(&mut self.spill), Ok(1..)) {
                    break;
                }
                self.counters.to_guest.dropped += 1;
            }
        }
        Ok(())
    }

    fn rest(&mut self) {
        self.softirq.end();
    }

    fn send(&mut self, frame: &Scatter<'_>) -> io::Result<Sent> {
        if (NetHdr::LEN + 14..=LONGEST).contains(&frame.len()) {
            match self.write(frame) {
                Ok(_) => {
                    self.counters.from_guest.frames += 1;
                    self.counters.from_guest.bytes += (frame.len() - NetHdr::LEN) as u64;
                    return Ok(Sent::Done);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Sent::Later),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Sent::Later),
                Err(error) if is_gone(&error) => return Err(self.gone(error)),
                // EIO: the interface is down. EINVAL: the kernel refuses the header that the guest wrote. ENOBUFS, ENOMEM.
                Err(_) => {}
            }
        }
        self.counters.from_guest.dropped += 1;
        Ok(Sent::Done)
    }

    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<Received> {
        if self.stash.is_empty() {
            let Some(length) = self.read(room)? else { return Ok(Received::Empty) };
            if length > room.len() {
                return Ok(Received::TooSmall(length));
            }
            return Ok(self.arrived(length));
        }
        if self.stash.len() > room.len() {
            return Ok(Received::TooSmall(self.stash.len()));
        }
        let length = room.write(0, &self.stash);
        self.stash.clear();
        Ok(self.arrived(length))
    }

    fn discard(&mut self) {
        // Out of the interface it has been since it was found too long.
        self.stash.clear();
    }

    fn turn(&mut self, now: Instant) -> Option<Instant> {
        self.softirq.turn(now, self.counters.from_guest.bytes)
    }

    fn wait_on(&self, fds: &mut Vec<RawFd>) {
        fds.push(self.file.as_raw_fd());
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // An interface that stays is left as it was found.
        self.softirq.end();
    }
}

impl Tap {
    /// Writes a frame from where it lies, unless it lies in more pieces than the kernel takes.
    fn write(&mut self, frame: &Scatter<'_>) -> io::Result<usize> {
        if frame.pieces().len() <= ioctl::MOST_PIECES {
            return ioctl::write_vectored(&self.file, frame.pieces());
        }
        self.spill.resize(LONGEST, 0);
        let length = frame.read(0, &mut self.spill);
        (&self.file).write(&self.spill[..length])
    }

    /// Reads the next frame into `room`; if it is longer, it lies in the stash afterwards. Returns its length.
    fn read(&mut self, room: &mut Scatter<'_>) -> io::Result<Option<usize>> {
        self.spill.resize(LONGEST, 0);
        let spill = libc::iovec { iov_base: self.spill.as_mut_ptr().cast(), iov_len: self.spill.len() };
        let mut pieces = [spill; DIRECT + 1];
        let count = room.pieces().len();
        // More pieces than that are rare: the frame is read elsewhere and copied.
        let direct = count <= DIRECT;
        let pieces = if direct {
            pieces[..count].copy_from_slice(room.pieces());
            &pieces[..=count]
        } else {
            &pieces[..1]
        };
        let read = ioctl::read_vectored(&self.file, pieces);
        let length = match read {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(None);
            }
            // The interface is down: nothing comes.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(None),
            // The memory is gone that the frame was to be read into: its owner has made its file shorter. The frame is lost, the
            // interface is not.
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => {
                self.counters.to_guest.dropped += 1;
                return Ok(None);
            }
            Err(error) => return Err(self.gone(error)),
        };
        if !direct && length <= room.len() {
            room.write(0, &self.spill[..length]);
        } else if length > room.len() {
            let fitted = if direct { room.len() } else { 0 };
            self.stash.resize(fitted, 0);
            room.read(0, &mut self.stash);
            self.stash.extend_from_slice(&self.spill[..length - fitted]);
        }
        Ok(Some(length))
    }

    fn arrived(&mut self, length: usize) -> Received {
        self.counters.to_guest.frames += 1;
        self.counters.to_guest.bytes += length.saturating_sub(NetHdr::LEN) as u64;
        Received::Frame(length)
    }

    fn gone(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("the interface {} is gone: {error}", self.name))
    }
}

/// Whether an error means that the interface was removed.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::ENODEV | libc::ENXIO | libc::EBADF))
}
