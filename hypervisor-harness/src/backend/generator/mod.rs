//! `generator`: a network that makes load for measurements.
//!
//! It is the demonstration network with nobody in it but what a measurement needs: clients behind the gateway, each a
//! flow of frames to the service, and servers, which only count. Frames are small, or as long as a network's, or super-frames
//! of TCP and UDP, over either version of IP; what the guest has not agreed to take whole comes cut. They are made from
//! templates into the guest's buffers, as fast as the guest takes them; nothing is allocated per frame. What the guest forwards is
//! recognized, counted, and a sample of it is checked to the last byte: headers, checksums, contents, whether it comes back
//! whole, cut by the guest, or put together.
//!
//! The gateway and the servers answer ARP and neighbour solicitations, and that is all they say.

pub mod calls;
mod check;
mod frames;
mod resolve;
mod shape;
mod template;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use ringlet_driver::features::Features;
use ringlet_driver::wire::{MAX_GSO_FRAME, NetHdr};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::check::{Checker, HEADERS, MOST_HEADERS};
pub use self::frames::Frames;
use self::shape::{MARK, Shape};
use self::template::Template;
use super::options::Protocol;
use super::{Backend, Counters, Received, Scatter, Sent};

/// The least length of an Ethernet frame without its frame check sequence, in bytes: "64-byte frames".
pub const LEAST_FRAME: usize = 60;
/// The longest ordinary frame that is made, in bytes.
pub const LONGEST_ORDINARY: usize = 1514;
/// The longest frame that is made, in bytes: an IP packet of 64 KiB.
pub const LONGEST_FRAME: usize = MAX_GSO_FRAME - 1;
/// One of so many forwarded frames is checked to the last byte.
const SAMPLE: u64 = 61;
/// Answers that can wait. The guest asks again for what it was not told.
const ANSWERS: usize = 32;
/// The longest question that is looked at, in bytes: a neighbour solicitation with options.
const QUESTION: usize = 128;

/// How frames are larger than the network's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Large {
    /// TCP to be cut into segments, or UDP into datagrams, of so many bytes of payload.
    Segments(u16),
    /// UDP, to be cut into IP fragments of so many bytes: a multiple of eight.
    Fragments(u16),
}

/// What load to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// UDP, or TCP: of each TCP flow the first frame has SYN set, the others ACK, and all are one stream.
    pub protocol: Protocol,
    /// Clients, each with one flow: at least one.
    pub flows: u32,
    /// Length of each frame, without frame check sequence: [`LEAST_FRAME`] (or what the headers need) to
    /// [`LONGEST_ORDINARY`]; if they are large, to [`LONGEST_FRAME`].
    pub frame: usize,
    /// Whether and how the frames are to be segmented. To a guest that does not take that they come segmented; what can only be
    /// fragmented does not come to it at all.
    pub large: Option<Large>,
    /// Super-frames of TCP have CWR set (GUEST_ECN).
    pub ecn: bool,
    /// The guest must have left the service's address in its place, and sent the frame to a server's Ethernet address: direct
    /// routing.
    pub direct: bool,
    /// The guest must have put each packet, as it was but for a hop, into a packet of its own from this address to a server: IPIP.
    /// Of the service's family.
    pub tunnel: Option<IpAddr>,
    /// The offloads to offer. With GUEST_CSUM negotiated the frames come with partial checksums, as from a virtual machine on
    /// the same host.
    pub offloads: Features,
    /// The Ethernet address of the guest.
    pub guest: [u8; 6],
    /// The service that the clients call.
    pub service: SocketAddr,
    /// The servers, one of which the guest must have put in the service's place; in the guest's own network.
    pub servers: Vec<SocketAddr>,
    /// The guest's router.
    pub gateway: IpAddr,
}

impl Default for Load {
    fn default() -> Self {
        let v4 = |host| IpAddr::from(Ipv4Addr::new(10, 0, 0, host));
        Self {
            protocol: Protocol::Udp,
            flows: 1,
            frame: LEAST_FRAME,
            large: None,
            ecn: false,
            direct: false,
            tunnel: None,
            offloads: Features::empty(),
            guest: [0x52, 0x54, 0, 0x12, 0x34, 2],
            service: SocketAddr::new(v4(100), 80),
            servers: [11, 12, 13].map(|host| SocketAddr::new(v4(host), 80)).to_vec(),
            gateway: v4(1),
        }
    }
}

impl Load {
    /// The same over IPv6, with the addresses that correspond to the default ones. Frames have at least 74 bytes there if they
    /// carry TCP.
    #[must_use]
    pub fn over_ipv6(self) -> Self {
        let v6 = |host| IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host));
        Self {
            service: SocketAddr::new(v6(100), 80),
            servers: [11, 12, 13].map(|host| SocketAddr::new(v6(host), 80)).to_vec(),
            gateway: v6(1),
            ..self
        }
    }

    /// The same in super-frames of 64 KiB, which come to a network of 1500 bytes when they are cut.
    #[must_use]
    pub fn large(self) -> Self {
        let headers =
            if self.service.is_ipv6() { 40 } else { 20 } + if self.protocol == Protocol::Tcp { 20 } else { 8 };
        Self { frame: LONGEST_FRAME, large: Some(Large::Segments(1500 - headers)), ..self }
    }

    /// The frame by which an IPv4 address of the network tells the guest (at `guest`) its Ethernet address: an answer in ARP,
    /// which nobody need have asked for. `None` for IPv6.
    #[must_use]
    pub fn announcement(&self, address: IpAddr, guest: Ipv4Addr) -> Option<Vec<u8>> {
        let IpAddr::V4(address) = address else { return None };
        Some(resolve::announcement(address, self.guest, guest)[NetHdr::LEN..].to_vec())
    }

    /// Whether there can be such frames.
    fn check(&self) -> Result<(), Error> {
        let shape = Shape::new(self);
        let (longest, least) = match self.large {
            None => (LONGEST_ORDINARY, LEAST_FRAME.max(shape.payload + shape.mark_length())),
            // Two pieces at least, each with its mark.
            Some(_) => (LONGEST_FRAME, shape.payload + shape.size + MARK),
        };
        if !(least..=longest).contains(&self.frame) {
            return Err(Error::Length { frame: self.frame, least, longest });
        }
        let (tail, fits) =
            (shape.total % shape.size, shape.size >= 2 * MARK && shape.payload + shape.size <= LONGEST_ORDINARY);
        let good = match self.large {
            None => true,
            Some(Large::Segments(_)) => fits && (tail == 0 || tail >= MARK),
            Some(Large::Fragments(size)) => !shape.tcp && fits && size.is_multiple_of(8) && tail >= MARK,
        };
        if !good || self.ecn && !(shape.tcp && self.large.is_some()) {
            return Err(Error::Pieces { frame: self.frame, size: shape.size });
        }
        if self.flows == 0 || self.flows > shape::MOST_FLOWS {
            return Err(Error::Flows(self.flows));
        }
        Ok(())
    }
}

/// The Ethernet address that stands behind an address of the network.
#[must_use]
pub fn ethernet(address: IpAddr) -> [u8; 6] {
    let last = match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    };
    [0x52, 0x54, 0, 0x12, 0x34, last]
}

/// What has happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames given to the guest.
    pub offered: u64,
    /// The payload in them, in bytes: what TCP and UDP carry.
    pub offered_bytes: u64,
    /// Frames that came back, on their way to a server.
    pub forwarded: u64,
    /// The payload in them, in bytes.
    pub forwarded_bytes: u64,
    /// Of these, the ones that were checked to the last byte and found right.
    pub verified: u64,
    /// The ones that were found wrong.
    pub wrong: u64,
    /// Questions for Ethernet addresses that were answered.
    pub answered: u64,
    /// Frames that were none of these.
    pub other: u64,
}

#[derive(Debug, Default)]
struct Shared {
    running: AtomicBool,
    offered: AtomicU64,
    offered_bytes: AtomicU64,
    forwarded: AtomicU64,
    forwarded_bytes: AtomicU64,
    verified: AtomicU64,
    wrong: AtomicU64,
    answered: AtomicU64,
    other: AtomicU64,
}

/// The measurement's end: starts and stops the load, and reads what happened.
#[derive(Debug)]
pub struct Meter {
    shared: Arc<Shared>,
    wake: EventFd,
}

impl Meter {
    /// Begins to make load.
    pub fn start(&self) {
        self.shared.running.store(true, Ordering::Release);
        // Full means that it is readable already.
        let _ = self.wake.write(1);
    }

    /// Makes no more load. What the guest has in hand still comes back.
    pub fn stop(&self) {
        self.shared.running.store(false, Ordering::Relaxed);
    }

    /// What has happened so far. The numbers are published at least once a burst.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let shared = &*self.shared;
        Tally {
            offered: load(&shared.offered),
            offered_bytes: load(&shared.offered_bytes),
            forwarded: load(&shared.forwarded),
            forwarded_bytes: load(&shared.forwarded_bytes),
            verified: load(&shared.verified),
            wrong: load(&shared.wrong),
            answered: load(&shared.answered),
            other: load(&shared.other),
        }
    }
}

/// The load cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A frame of that length cannot be made.
    #[error("frames of {frame} bytes cannot be made: expected {least} to {longest}")]
    Length {
        /// What was asked for.
        frame: usize,
        /// The shortest that can be made.
        least: usize,
        /// The longest.
        longest: usize,
    },
    /// The frames cannot be cut like that.
    #[error(
        "frames of {frame} bytes cannot be cut into pieces of {size}: expected 16 to 1400 or so, for fragments a multiple of 8 and UDP, for ECN TCP, and a last piece of at least {MARK} bytes"
    )]
    Pieces {
        /// The length of the frames.
        frame: usize,
        /// Of the pieces.
        size: usize,
    },
    /// There are no flows, or more than clients and ports.
    #[error("{0} flows cannot be made: expected 1 to {most}", most = shape::MOST_FLOWS)]
    Flows(u32),
    /// No descriptor is left.
    #[error("eventfd: {0}")]
    Eventfd(#[from] io::Error),
}

/// The network.
#[derive(Debug)]
pub struct Generator {
    load: Load,
    template: Template,
    checker: Checker,
    /// The next flow, how often all flows have had their turn, and the next of the frames of the flow's round.
    flow: u32,
    round: u32,
    nth: usize,
    answers: VecDeque<Vec<u8>>,
    tally: Tally,
    counters: Counters,
    shared: Arc<Shared>,
    wake: EventFd,
}

impl Generator {
    /// Makes a network that makes this load, once it is told to.
    ///
    /// # Errors
    /// If there can be no such load.
    pub fn new(load: Load) -> Result<(Self, Meter), Error> {
        load.check()?;
        let (shared, wake) = (Arc::<Shared>::default(), EventFd::new(EFD_NONBLOCK)?);
        let meter = Meter { shared: shared.clone(), wake: wake.try_clone()? };
        let template = Template::new(&load, false, false);
        let checker = Checker::new(&load);
        let generator = Self {
            load,
            template,
            checker,
            flow: 0,
            round: 0,
            nth: 0,
            answers: VecDeque::with_capacity(ANSWERS),
            tally: Tally::default(),
            counters: Counters::default(),
            shared,
            wake,
        };
        Ok((generator, meter))
    }

    fn running(&self) -> bool {
        self.shared.running.load(Ordering::Acquire)
    }

    /// Looks at a frame that is not a forwarded one.
    fn other(&mut self, frame: &Scatter<'_>) {
        let mut bytes = [0; NetHdr::LEN + QUESTION];
        let length = frame.read(0, &mut bytes);
        match bytes[..length].get(NetHdr::LEN..).and_then(|question| resolve::answer(question, &self.load)) {
            Some(answer) => {
                self.tally.answered += 1;
                if self.answers.len() < ANSWERS {
                    self.answers.push_back(answer);
                }
            }
            None => {
                self.tally.other += 1;
                self.counters.from_guest.dropped += 1;
            }
        }
    }

    fn publish(&self) {
        let (shared, tally) = (&*self.shared, &self.tally);
        for (counter, value) in [
            (&shared.offered, tally.offered),
            (&shared.offered_bytes, tally.offered_bytes),
            (&shared.forwarded, tally.forwarded),
            (&shared.forwarded_bytes, tally.forwarded_bytes),
            (&shared.verified, tally.verified),
            (&shared.wrong, tally.wrong),
            (&shared.answered, tally.answered),
            (&shared.other, tally.other),
        ] {
            counter.store(value, Ordering::Relaxed);
        }
    }

    /// Goes on to the next frame of the load.
    fn advance(&mut self) {
        self.nth += 1;
        if self.nth == self.template.frames(self.round) {
            self.nth = 0;
            self.flow += 1;
            if self.flow == self.load.flows {
                (self.flow, self.round) = (0, self.round.wrapping_add(1));
            }
        }
        self.template.fill(self.flow, self.round, self.nth);
    }
}

impl Backend for Generator {
    fn name(&self) -> &'static str {
        "generator"
    }

    fn offloads(&self) -> Features {
        self.load.offloads
    }

    fn negotiated(&mut self, features: Features) -> io::Result<()> {
        let (partial, whole) =
            (features.contains(Features::GUEST_CSUM), features.contains(Shape::new(&self.load).needed()));
        let whole = self.load.large.is_some() && whole;
        if !whole && matches!(self.load.large, Some(Large::Fragments(_))) {
            return Err(io::Error::other("its load is of unfragmented datagrams: the driver must take guest_ufo"));
        }
        self.template = Template::new(&self.load, partial, whole);
        (self.flow, self.round, self.nth) = (0, 0, 0);
        Ok(())
    }

    fn send(&mut self, frame: &Scatter<'_>) -> io::Result<Sent> {
        self.counters.from_guest.frames += 1;
        self.counters.from_guest.bytes += (frame.len() - NetHdr::LEN.min(frame.len())) as u64;
        let mut headers = [0; NetHdr::LEN + MOST_HEADERS];
        let wanted = NetHdr::LEN + if self.load.tunnel.is_some() { MOST_HEADERS } else { HEADERS };
        frame.read(0, &mut headers[..wanted]);
        let known = wanted.min(frame.len());
        let Some(before) = headers[..known].get(NetHdr::LEN..).and_then(|head| self.checker.forwarded(head)) else {
            self.other(frame);
            return Ok(Sent::Done);
        };
        self.tally.forwarded += 1;
        self.tally.forwarded_bytes += frame.len().saturating_sub(NetHdr::LEN + before) as u64;
        if self.tally.forwarded.is_multiple_of(SAMPLE) {
            match self.checker.check(frame) {
                true => self.tally.verified += 1,
                false => self.tally.wrong += 1,
            }
        }
        Ok(Sent::Done)
    }

    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<Received> {
        if let Some(answer) = self.answers.front() {
            if room.len() < answer.len() {
                return Ok(Received::TooSmall(answer.len()));
            }
            room.write(0, answer);
            let length = answer.len();
            self.answers.pop_front();
            return Ok(Received::Frame(length));
        }
        if !self.running() {
            return Ok(Received::Empty);
        }
        let frame = self.template.bytes(self.round, self.nth);
        let length = frame.len();
        if room.len() < length {
            return Ok(Received::TooSmall(length));
        }
        room.write(0, frame);
        self.tally.offered += 1;
        self.tally.offered_bytes += self.template.payload(self.round, self.nth) as u64;
        self.counters.to_guest.frames += 1;
        self.counters.to_guest.bytes += (length - NetHdr::LEN) as u64;
        self.advance();
        Ok(Received::Frame(length))
    }

    fn discard(&mut self) {
        if self.answers.pop_front().is_none() {
            self.advance();
        }
    }

    fn turn(&mut self, now: Instant) -> Option<Instant> {
        self.publish();
        if !self.running() {
            // Emptied before the last look at `running`: a start after that look leaves it readable, and ends the sleep.
            let _ = self.wake.read();
        }
        // While there is load there is always a next frame.
        self.running().then_some(now)
    }

    fn wait_on(&self, fds: &mut Vec<RawFd>) {
        fds.push(self.wake.as_raw_fd());
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

#[cfg(test)]
mod tests;
