//! Receive coalescing: a network whose TCP segments come to the guest in fewer and larger frames.
//!
//! Segments of one connection that follow each other are put together into what the guest would be given anyway by a network
//! that segments late (GUEST_TSO4, GUEST_TSO6). The rules are those of Linux' GRO, so that a guest which forwards what it got
//! loses nothing: cut again at `gso_size`, a frame gives the very segments that came (but for an identification that means
//! nothing). That is: in order and without a gap; all headers alike, options, time stamps and window included; nothing but
//! ACK, PSH and ECE set, with CWR in the first one at most (and only with GUEST_ECN); all of one length but the last; PSH ends a frame. A
//! segment whose checksum is wrong is passed on as it came.
//!
//! Nothing waits longer than a burst: what is in hand goes to the guest as soon as the network has nothing more, or has had
//! [`PATIENCE`] further frames.
//!
//! With RSC_EXT each frame that is to be segmented tells how many segments it is made of (virtio 1.3, section 5.1.6.4), whoever
//! put it together, and acknowledgments that repeat the one before bit for bit are counted instead of delivered.

mod merge;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::time::Instant;

use ringlet_driver::features::Features;
use ringlet_driver::offload::{Headers, MAX_HEADERS, Network};
use ringlet_driver::wire::NetHdr;

use super::{Backend, Counters, Received, Scatter, Sent};
use merge::{Added, Pending};
use segment::{Flow, Kind, Order, Segment, order};

/// Connections whose segments are put together at the same time.
const FLOWS: usize = 8;
/// A frame in hand is given to the guest after so many further frames, even if more of them come at once.
pub const PATIENCE: u64 = 256;
/// Buffers kept for later.
const SPARE: usize = 16;

/// Any network, with its TCP segments put together for the guest.
#[derive(Debug)]
pub struct Coalesce<B> {
    inner: B,
    /// Whether anything is to be done at all.
    on: bool,
    wanted: Wanted,
    /// What is being put together, the oldest first. Never two of one flow.
    pending: Vec<Pending>,
    /// What can go to the guest, virtio header first.
    ready: VecDeque<Vec<u8>>,
    /// Frames that the network has given so far.
    taken: u64,
    spare: Vec<Vec<u8>>,
    merged: Merged,
}

/// What the guest takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Wanted {
    tso4: bool,
    tso6: bool,
    ecn: bool,
    rsc: bool,
}

impl From<Features> for Wanted {
    fn from(features: Features) -> Self {
        // Without GUEST_CSUM the others mean nothing (virtio 1.3, section 5.1.3.1).
        let has = |feature| features.contains(feature | Features::GUEST_CSUM);
        Self {
            tso4: has(Features::GUEST_TSO4),
            tso6: has(Features::GUEST_TSO6),
            ecn: has(Features::GUEST_ECN),
            rsc: has(Features::RSC_EXT),
        }
    }
}

impl Wanted {
    /// Whether there is anything to be done to frames; with RSC_EXT to super-frames of UDP too.
    fn anything(self) -> bool {
        self.tso4 || self.tso6 || self.rsc
    }

    /// Whether the guest takes large segments over this version of IP.
    fn takes(self, network: Network) -> bool {
        match network {
            Network::V4 => self.tso4,
            Network::V6 => self.tso6,
        }
    }

    /// Whether such a segment is one to be put together with others.
    fn is(self, segment: &Segment<'_>) -> bool {
        match segment.kind() {
            Kind::Data => self.ecn || !segment.has_cwr(),
            Kind::Acknowledgment => self.rsc,
        }
    }
}

/// What was put together so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    /// Frames that were made of several segments.
    pub frames: u64,
    /// The segments in them.
    pub segments: u64,
    /// Acknowledgments that were counted instead of delivered.
    pub acknowledgments: u64,
}

impl<B: Backend> Coalesce<B> {
    /// What this adds to the features of a network.
    pub const FEATURES: Features = Features::GUEST_CSUM
        .union(Features::GUEST_TSO4)
        .union(Features::GUEST_TSO6)
        .union(Features::GUEST_ECN)
        .union(Features::RSC_EXT);

    /// Puts together what comes from `inner`; not if `on` is false: then it is as if this were not there.
    #[must_use]
    pub fn new(inner: B, on: bool) -> Self {
        Self {
            inner,
            on,
            wanted: Wanted::default(),
            pending: Vec::with_capacity(FLOWS),
            ready: VecDeque::new(),
            taken: 0,
            spare: Vec::new(),
            merged: Merged::default(),
        }
    }

    /// What was put together so far.
    #[must_use]
    pub fn merged(&self) -> Merged {
        self.merged
    }

    /// The network itself.
    #[must_use]
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// The network itself.
    pub fn inner_mut(&mut self) -> &mut B {
        &mut self.inner
    }

    /// Takes a frame of `length` bytes that lies in `room`. False if the guest is to have it there, as it is now.
    fn take(&mut self, room: &mut Scatter<'_>, length: usize) -> bool {
        self.taken += 1;
        let mut head = [0; NetHdr::LEN + MAX_HEADERS];
        let known = room.read(0, &mut head).min(length);
        let Some((header, head)) = head[..known].split_first_chunk() else { return false };
        let (mut header, (order, headers)) = (NetHdr::parse(header), order(head));
        if self.wanted.rsc && header.is_gso() {
            header = counted(&header, length - NetHdr::LEN, headers.as_ref());
            room.write(0, &header.to_bytes());
        }
        match (order, headers) {
            (Order::Connection(flow), Some(headers)) => self.take_tcp(room, length, flow, &header, headers),
            (Order::Free, _) => false,
            (Order::Connection(_) | Order::Unknown, _) => {
                let held = !self.pending.is_empty();
                while !self.pending.is_empty() {
                    self.finish(0);
                }
                held && self.keep(room, length)
            }
        }
    }

    fn take_tcp(
        &mut self,
        room: &mut Scatter<'_>,
        length: usize,
        flow: Flow,
        header: &NetHdr,
        headers: Headers,
    ) -> bool {
        let place = self.pending.iter().position(|pending| *pending.flow() == flow);
        if self.wanted.takes(headers.network) && !header.is_gso() {
            let bytes = self.copy(room, length);
            let segment =
                Segment::new(header, &bytes[NetHdr::LEN..], headers).filter(|segment| self.wanted.is(segment));
            if let Some(segment) = segment {
                match place.map(|place| (place, self.pending[place].add(&segment))) {
                    Some((place, added @ (Added::More | Added::Full))) => {
                        if added == Added::Full {
                            self.finish(place);
                        }
                        self.recycle(bytes);
                        return true;
                    }
                    Some((place, Added::Not)) => self.finish(place),
                    None => {}
                }
                if let Some(pending) = Pending::new(flow, &segment, self.taken) {
                    self.pending.push(pending.with(bytes));
                    if self.pending.len() > FLOWS {
                        self.finish(0);
                    }
                    return true;
                }
                self.recycle(bytes);
                // Nothing may follow it.
                return place.is_some() && self.keep(room, length);
            }
            self.recycle(bytes);
        }
        let Some(place) = place else { return false };
        self.finish(place);
        self.keep(room, length)
    }

    /// Has the guest wait for the frame in `room` until it was given what came before.
    fn keep(&mut self, room: &Scatter<'_>, length: usize) -> bool {
        let bytes = self.copy(room, length);
        self.ready.push_back(bytes);
        true
    }

    fn copy(&mut self, room: &Scatter<'_>, length: usize) -> Vec<u8> {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.resize(length, 0);
        room.read(0, &mut bytes);
        bytes
    }

    fn recycle(&mut self, bytes: Vec<u8>) {
        if self.spare.len() < SPARE {
            self.spare.push(bytes);
        }
    }

    /// Nothing more is put to what is in this place.
    fn finish(&mut self, place: usize) {
        let pending = self.pending.remove(place);
        self.merged.frames += u64::from(pending.segments() > 1);
        self.merged.segments += if pending.segments() > 1 { u64::from(pending.segments()) } else { 0 };
        self.merged.acknowledgments += u64::from(pending.duplicates());
        self.ready.push_back(pending.finish(self.wanted.rsc));
    }
}

/// The header of a frame that is to be segmented, with the number of its segments (virtio 1.3, section 5.1.6.4.1). `length` is
/// the frame's.
fn counted(header: &NetHdr, length: usize, headers: Option<&Headers>) -> NetHdr {
    let before = match headers {
        Some(headers) if header.gso_type == NetHdr::GSO_UDP => headers.transport_start,
        Some(headers) => headers.length,
        None => usize::from(header.hdr_len),
    };
    let segments = length.saturating_sub(before).div_ceil(usize::from(header.gso_size.max(1)));
    NetHdr { flags: header.flags | NetHdr::RSC_INFO, csum_start: segments as u16, csum_offset: 0, ..*header }
}

impl<B: Backend> Backend for Coalesce<B> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn offloads(&self) -> Features {
        self.inner.offloads() | if self.on { Self::FEATURES } else { Features::empty() }
    }

    fn mtu(&self) -> u16 {
        self.inner.mtu()
    }

    fn negotiated(&mut self, features: Features) -> io::Result<()> {
        // What was made for the driver's predecessor is forgotten.
        self.pending.clear();
        self.ready.clear();
        self.wanted = if self.on { Wanted::from(features) } else { Wanted::default() };
        self.inner.negotiated(features)
    }

    fn rest(&mut self) {
        self.inner.rest();
    }

    fn send(&mut self, frame: &Scatter<'_>) -> io::Result<Sent> {
        self.inner.send(frame)
    }

    #[inline]
    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<Received> {
        if !self.wanted.anything() {
            return self.inner.receive(room);
        }
        loop {
            if let Some(frame) = self.ready.front() {
                if frame.len() > room.len() {
                    return Ok(Received::TooSmall(frame.len()));
                }
                let length = room.write(0, frame);
                if let Some(bytes) = self.ready.pop_front() {
                    self.recycle(bytes);
                }
                return Ok(Received::Frame(length));
            }
            match self.inner.receive(room)? {
                Received::Frame(length) => {
                    let taken = self.take(room, length);
                    if self.pending.first().is_some_and(|oldest| oldest.born() + PATIENCE <= self.taken) {
                        self.finish(0);
                    }
                    if !taken {
                        return Ok(Received::Frame(length));
                    }
                }
                Received::Empty if self.pending.is_empty() => return Ok(Received::Empty),
                Received::Empty => {
                    while !self.pending.is_empty() {
                        self.finish(0);
                    }
                }
                Received::TooSmall(length) => return Ok(Received::TooSmall(length)),
            }
        }
    }

    fn discard(&mut self) {
        // What is ready goes first: the network's own next frame is looked at only where there is nothing.
        match self.ready.pop_front() {
            Some(bytes) => self.recycle(bytes),
            None => self.inner.discard(),
        }
    }

    fn turn(&mut self, now: Instant) -> Option<Instant> {
        let due = self.inner.turn(now);
        // What is in hand is not to wait for the network's next frame.
        if self.pending.is_empty() && self.ready.is_empty() { due } else { Some(now) }
    }

    fn wait_on(&self, fds: &mut Vec<RawFd>) {
        self.inner.wait_on(fds);
    }

    fn counters(&self) -> Counters {
        self.inner.counters()
    }
}
