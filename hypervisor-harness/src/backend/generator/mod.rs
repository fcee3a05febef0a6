//! `generator`: a network that makes load for measurements.
//!
//! It is the demonstration network with nobody in it but what a measurement needs: clients behind the gateway, each a
//! flow of small frames to the service, and servers, which only count. Frames are made from templates into the guest's
//! buffers, as fast as the guest takes them; nothing is allocated per frame. What the guest forwards is recognized,
//! counted, and a sample of it is checked to the last byte: addresses, checksums, contents.
//!
//! The gateway and the servers answer ARP, and that is all they say.

mod check;
mod template;

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::check::Checker;
use self::template::{HEADERS, Template};
use super::options::Protocol;
use super::{Backend, Counters, Received, Scatter, Sent};

/// The least length of an Ethernet frame without its frame check sequence, in bytes: "64-byte frames".
pub const LEAST_FRAME: usize = 60;
/// The longest frame that is made, in bytes.
pub const LONGEST_FRAME: usize = 1514;
/// One of so many forwarded frames is checked to the last byte.
const SAMPLE: u64 = 61;
/// ARP answers that can wait. The guest asks again for what it was not told.
const ANSWERS: usize = 32;
/// Bytes of an ARP packet in its frame, padded.
const ARP_FRAME: usize = LEAST_FRAME;

/// What load to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// UDP, or TCP: of each TCP flow the first frame has SYN set, the others ACK.
    pub protocol: Protocol,
    /// Clients, each with one flow: at least one.
    pub flows: u32,
    /// Length of each frame, without frame check sequence: [`LEAST_FRAME`] to [`LONGEST_FRAME`].
    pub frame: usize,
    /// The offloads to offer; of these only CSUM and GUEST_CSUM change anything. With GUEST_CSUM negotiated the frames
    /// come with partial checksums, as from a virtual machine on the same host.
    pub offloads: Features,
    /// The Ethernet address of the guest.
    pub guest: [u8; 6],
    /// The service that the clients call.
    pub service: SocketAddrV4,
    /// The servers, one of which the guest must have put in the service's place; in the guest's own network.
    pub servers: Vec<SocketAddrV4>,
    /// The guest's router.
    pub gateway: Ipv4Addr,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            protocol: Protocol::Udp,
            flows: 1,
            frame: LEAST_FRAME,
            offloads: Features::empty(),
            guest: [0x52, 0x54, 0, 0x12, 0x34, 2],
            service: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 100), 80),
            servers: [11, 12, 13].map(|host| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, host), 80)).to_vec(),
            gateway: Ipv4Addr::new(10, 0, 0, 1),
        }
    }
}

/// The Ethernet address that stands behind an address of the network.
#[must_use]
pub fn ethernet(address: Ipv4Addr) -> [u8; 6] {
    [0x52, 0x54, 0, 0x12, 0x34, address.octets()[3]]
}

/// What has happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames given to the guest.
    pub offered: u64,
    /// Frames that came back, on their way to a server.
    pub forwarded: u64,
    /// Of these, the ones that were checked to the last byte and found right.
    pub verified: u64,
    /// The ones that were found wrong.
    pub wrong: u64,
    /// ARP questions answered.
    pub answered: u64,
    /// Frames that were none of these.
    pub other: u64,
}

#[derive(Debug, Default)]
struct Shared {
    running: AtomicBool,
    offered: AtomicU64,
    forwarded: AtomicU64,
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
            forwarded: load(&shared.forwarded),
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
    #[error("frames of {0} bytes cannot be made: expected {LEAST_FRAME} to {LONGEST_FRAME}")]
    Length(usize),
    /// There are no flows, or more than clients and ports.
    #[error("{0} flows cannot be made: expected 1 to {most}", most = template::MOST_FLOWS)]
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
    /// The next flow, and how often all flows have had their turn.
    flow: u32,
    round: u32,
    answers: VecDeque<[u8; NetHdr::LEN + ARP_FRAME]>,
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
        if !(LEAST_FRAME..=LONGEST_FRAME).contains(&load.frame) {
            return Err(Error::Length(load.frame));
        }
        if load.flows == 0 || load.flows > template::MOST_FLOWS {
            return Err(Error::Flows(load.flows));
        }
        let (shared, wake) = (Arc::<Shared>::default(), EventFd::new(EFD_NONBLOCK)?);
        let meter = Meter { shared: shared.clone(), wake: wake.try_clone()? };
        let template = Template::new(&load, false);
        let checker = Checker::new(&load);
        let generator = Self {
            load,
            template,
            checker,
            flow: 0,
            round: 0,
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
        let mut bytes = [0; NetHdr::LEN + 42];
        let whole = frame.read(0, &mut bytes) == bytes.len();
        match answer(&bytes[NetHdr::LEN..], &self.load).filter(|_| whole) {
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
            (&shared.forwarded, tally.forwarded),
            (&shared.verified, tally.verified),
            (&shared.wrong, tally.wrong),
            (&shared.answered, tally.answered),
            (&shared.other, tally.other),
        ] {
            counter.store(value, Ordering::Relaxed);
        }
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
        self.template = Template::new(&self.load, features.contains(Features::GUEST_CSUM));
        (self.flow, self.round) = (0, 0);
        Ok(())
    }

    fn send(&mut self, frame: &Scatter<'_>) -> io::Result<Sent> {
        self.counters.from_guest.frames += 1;
        self.counters.from_guest.bytes += (frame.len() - NetHdr::LEN.min(frame.len())) as u64;
        let mut headers = [0; NetHdr::LEN + HEADERS];
        frame.read(0, &mut headers);
        if !self.checker.is_forwarded(&headers[NetHdr::LEN..]) {
            self.other(frame);
            return Ok(Sent::Done);
        }
        self.tally.forwarded += 1;
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
            self.answers.pop_front();
            return Ok(Received::Frame(NetHdr::LEN + ARP_FRAME));
        }
        if !self.running() {
            return Ok(Received::Empty);
        }
        let length = NetHdr::LEN + self.load.frame;
        if room.len() < length {
            return Ok(Received::TooSmall(length));
        }
        room.write(0, self.template.fill(self.flow, self.round));
        self.flow += 1;
        if self.flow == self.load.flows {
            (self.flow, self.round) = (0, self.round.wrapping_add(1));
        }
        self.tally.offered += 1;
        self.counters.to_guest.frames += 1;
        self.counters.to_guest.bytes += self.load.frame as u64;
        Ok(Received::Frame(length))
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

/// The answer to a frame that is an ARP question for one of the network's own addresses (RFC 826), with its virtio header.
fn answer(question: &[u8], load: &Load) -> Option<[u8; NetHdr::LEN + ARP_FRAME]> {
    // Ethernet type ARP; hardware Ethernet, protocol IPv4, lengths 6 and 4, operation 1.
    if question.get(12..22)? != [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1] {
        return None;
    }
    let (asker, asked) = (question.get(22..32)?, question.get(38..42)?);
    let target = Ipv4Addr::from(<[u8; 4]>::try_from(asked).ok()?);
    if target != load.gateway && !load.servers.iter().any(|server| *server.ip() == target) {
        return None;
    }
    let own = ethernet(target);
    let mut frame = [0; NetHdr::LEN + ARP_FRAME];
    frame[10] = 1;
    let arp = &mut frame[NetHdr::LEN..];
    arp[..6].copy_from_slice(&asker[..6]);
    arp[6..12].copy_from_slice(&own);
    arp[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2]);
    arp[22..28].copy_from_slice(&own);
    arp[28..32].copy_from_slice(asked);
    arp[32..42].copy_from_slice(asker);
    Some(frame)
}

#[cfg(test)]
mod tests;
