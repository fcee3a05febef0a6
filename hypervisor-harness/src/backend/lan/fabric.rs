//! The Ethernet segment: hosts, the guest's port, and frames between them.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Instant;

use ringlet_driver::offload::{self, Finish, MAX_HEADERS, Segmenter};
use ringlet_driver::wire::{MAX_GSO_FRAME, NetHdr};

use super::super::{Counters, Scatter};
use super::mode::Mode;
use super::neighbours::{Neighbours, Way};
use super::packet::{self, ETHERNET, HEADROOM, Packet};
use super::plan::{self, BROADCAST, Mac};
use super::resolve;

/// Frames that may wait for the guest before the hosts hold back.
const SOFT_FRAMES: usize = 256;
/// Bytes that may.
const SOFT_BYTES: usize = 2 << 20;
/// Frames that may wait at all: answers to the guest's own frames are not held back, but dropped here.
const HARD_FRAMES: usize = 2048;
/// Frames longer than this are worth being used again.
const BIG: usize = 4096;
/// The longest frame there is, with its virtio header.
pub const LONGEST: usize = NetHdr::LEN + MAX_GSO_FRAME;
/// Big buffers kept.
const SPARE: usize = 64;

/// A frame with its virtio header.
#[derive(Debug)]
pub struct Frame {
    /// May be longer than the frame.
    bytes: Vec<u8>,
    length: usize,
}

impl Frame {
    /// A frame of `length` zeroes.
    pub fn small(length: usize) -> Self {
        Self { bytes: vec![0; length], length }
    }

    /// The bytes, virtio header first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }

    /// The IP packet of an IP frame.
    pub fn packet_mut(&mut self) -> &mut [u8] {
        self.bytes_mut().get_mut(HEADROOM..).unwrap_or_default()
    }
}

/// How a frame of ours that is larger than the MTU is to be cut, unless who gets it takes it whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// TCP, into segments of so many bytes of payload.
    Segments(u16),
    /// UDP, into datagrams of so many bytes of payload.
    Datagrams(u16),
    /// UDP, into IP fragments of so many bytes: a multiple of eight.
    Fragments(u16),
}

/// One host of the segment, up to its IP layer.
#[derive(Debug)]
pub struct Host {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its own addresses: those for which it answers ARP and neighbour solicitations.
    pub addresses: Vec<IpAddr>,
    /// Whether the clients live behind it.
    pub gateway: bool,
    neighbours: Neighbours,
}

impl Host {
    /// A host.
    pub fn new(mac: Mac, addresses: Vec<IpAddr>, gateway: bool) -> Self {
        Self { mac, addresses, gateway, neighbours: Neighbours::default() }
    }

    /// Whether a packet is for the host. If it came with the host's own Ethernet address (`direct`), a server takes any
    /// address, so that the guest can balance by direct routing; the gateway takes those of its clients.
    fn takes(&self, address: IpAddr, direct: bool) -> bool {
        let unicast = !address.is_unspecified() && !address.is_multicast() && !address.is_loopback();
        let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
        let others = direct && unicast && !broadcast && (!self.gateway || plan::is_client(address));
        others || self.addresses.contains(&address)
    }

    /// One of its addresses of the same version as `other`.
    pub fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == other.is_ipv4())
    }
}

/// The segment.
#[derive(Debug)]
pub struct Fabric {
    /// The hosts; their places never change.
    pub hosts: Vec<Host>,
    /// The maximum transmission unit, in bytes of IP packet.
    pub mtu: u16,
    /// What went through the guest's port.
    pub counters: Counters,
    /// Frames of the guest's with a wrong checksum.
    pub bad_checksums: u64,
    by_mac: HashMap<Mac, usize>,
    /// The guest's addresses: the servers' default routes, and the gateway's towards what is not on the segment.
    guest: Vec<IpAddr>,
    /// None until a driver is there.
    mode: Option<Mode>,
    to_guest: VecDeque<Frame>,
    to_guest_bytes: usize,
    to_hosts: VecDeque<(usize, Frame)>,
    spare: Vec<Vec<u8>>,
    /// When neighbours are to be asked for again.
    next_question: Option<Instant>,
    /// Datagrams in fragments so far, and what makes numbers of that which nobody can guess (RFC 7739).
    fragmented: u64,
    random: RandomState,
}

impl Fabric {
    /// A segment with these hosts.
    pub fn new(hosts: Vec<Host>, guest: Vec<IpAddr>, mtu: u16) -> Self {
        let by_mac = hosts.iter().enumerate().map(|(at, host)| (host.mac, at)).collect();
        Self {
            hosts,
            mtu,
            counters: Counters::default(),
            bad_checksums: 0,
            by_mac,
            guest,
            mode: None,
            to_guest: VecDeque::new(),
            to_guest_bytes: 0,
            to_hosts: VecDeque::new(),
            spare: Vec::new(),
            next_question: None,
            fragmented: 0,
            random: RandomState::new(),
        }
    }

    /// A driver is there and takes what `mode` says. Frames made for its predecessor are forgotten.
    pub fn plug(&mut self, mode: Mode, now: Instant) {
        self.mode = Some(mode);
        self.to_guest.clear();
        self.to_guest_bytes = 0;
        self.hosts.iter_mut().for_each(|host| host.neighbours.ask_again());
        self.next_question = Some(now);
    }

    /// What the guest takes; without a driver, next to nothing.
    pub fn mode(&self) -> Mode {
        self.mode.unwrap_or_default()
    }

    /// Whether a host may begin to send something, or had better hold back.
    pub fn has_room(&self) -> bool {
        self.to_guest.len() < SOFT_FRAMES && self.to_guest_bytes < SOFT_BYTES && self.to_hosts.len() < SOFT_FRAMES
    }

    /// The host with this Ethernet address.
    pub fn host_at(&self, mac: Mac) -> Option<usize> {
        self.by_mac.get(&mac).copied()
    }

    /// A frame to be filled with an IP packet of `length` bytes. Its bytes are anything.
    pub fn frame(&mut self, length: usize) -> Frame {
        let length = HEADROOM + length;
        if length <= BIG {
            return Frame::small(length);
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        if bytes.len() < length {
            bytes.resize(length.max(LONGEST), 0);
        }
        Frame { bytes, length }
    }

    /// Takes back a frame that nobody needs any more.
    pub fn recycle(&mut self, frame: Frame) {
        if frame.bytes.len() >= LONGEST && self.spare.len() < SPARE {
            self.spare.push(frame.bytes);
        }
    }

    /// Copies a frame from the guest. `None` if it is no frame that Ethernet could carry.
    pub fn frame_from(&mut self, scatter: &Scatter<'_>) -> Option<Frame> {
        if !(HEADROOM..=LONGEST).contains(&scatter.len()) {
            return None;
        }
        let mut frame = self.frame(scatter.len() - HEADROOM);
        scatter.read(0, frame.bytes_mut());
        Some(frame)
    }

    /// Reads what host `at` is given, if it is IP and for it. `direct` tells that the frame was for it alone.
    pub fn packet_for<'f>(&mut self, at: usize, header: &NetHdr, bytes: &'f [u8], direct: bool) -> Option<Packet<'f>> {
        let host = &self.hosts[at];
        let checked = Packet::parse(bytes).and_then(|packet| packet.verify(header).map(|()| packet));
        match checked {
            Ok(packet) if host.takes(packet.destination, direct) || packet.destination.is_multicast() => Some(packet),
            Ok(_) => None,
            Err(flaw) => {
                self.bad_checksums += u64::from(flaw == packet::Flaw::Checksum);
                self.counters.from_guest.dropped += 1;
                None
            }
        }
    }

    /// Sends the IP packet in `frame` from host `at`, and finishes its checksum or has that done. With `cut` it may be larger
    /// than the MTU.
    pub fn send(&mut self, at: usize, mut frame: Frame, cut: Option<Cut>, now: Instant) {
        let partial = self.mode().partial || cut.is_some();
        let mut header = packet::write_checksum(frame.packet_mut(), partial);
        let Ok(packet) = Packet::parse(frame.packet_mut()) else { return self.recycle(frame) };
        if let Some(cut) = cut {
            let (tcp, udp) = (packet.payload().get(12).map_or(20, |byte| usize::from(byte >> 4) * 4), 8);
            let (kind, size, transport) = match cut {
                Cut::Segments(size) if packet.source.is_ipv4() => (NetHdr::GSO_TCPV4, size, tcp),
                Cut::Segments(size) => (NetHdr::GSO_TCPV6, size, tcp),
                Cut::Datagrams(size) => (NetHdr::GSO_UDP_L4, size, udp),
                Cut::Fragments(size) => (NetHdr::GSO_UDP, size, udp),
            };
            (header.gso_type, header.gso_size) = (kind, size);
            header.hdr_len = (ETHERNET + packet.header + transport) as u16;
        }
        let (source, destination) = (packet.source, packet.destination);
        frame.bytes_mut()[..NetHdr::LEN].copy_from_slice(&header.to_bytes());
        let host = &mut self.hosts[at];
        if host.addresses.contains(&destination) || (host.gateway && plan::is_client(destination)) {
            let mac = host.mac;
            return self.transmit(at, mac, ethertype(destination), frame);
        }
        if let IpAddr::V6(address) = destination
            && address.is_multicast()
        {
            return self.transmit(at, resolve::multicast(address), packet::IPV6, frame);
        }
        let hop = self.next_hop(at, source, destination);
        let (way, ask) = self.hosts[at].neighbours.way(hop, frame, now);
        if ask {
            self.ask(at, hop, now);
        }
        match way {
            Way::To(mac, frame) => self.transmit(at, mac, ethertype(destination), frame),
            Way::Waits => {}
            Way::Dropped(frame) => self.recycle(frame),
        }
    }

    /// The neighbour to which a packet goes.
    fn next_hop(&self, at: usize, source: IpAddr, destination: IpAddr) -> IpAddr {
        let like =
            |addresses: &[IpAddr]| addresses.iter().copied().find(|other| other.is_ipv4() == destination.is_ipv4());
        let host = &self.hosts[at];
        if plan::on_link(destination) {
            return destination;
        }
        // A server that answers for an address that is not its own was reached by direct routing or a tunnel: the answer
        // does not go back through the balancer.
        let router = if host.gateway || host.addresses.contains(&source) { &self.guest[..] } else { &plan::GATEWAY };
        like(router).unwrap_or(destination)
    }

    /// Asks the segment who has `address`.
    fn ask(&mut self, at: usize, address: IpAddr, now: Instant) {
        let due = now + std::time::Duration::from_millis(250);
        self.next_question = Some(self.next_question.map_or(due, |next| next.min(due)));
        let host = &self.hosts[at];
        let Some(own) = host.address_like(address) else { return };
        let (mac, ethertype, frame) = resolve::question(host.mac, own, address);
        self.transmit(at, mac, ethertype, frame);
    }

    /// Host `at` hears that `address` is at `mac`, and sends what waited for that.
    pub fn heard(&mut self, at: usize, address: IpAddr, mac: Mac, solicited: bool, now: Instant) {
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return;
        }
        for frame in self.hosts[at].neighbours.heard(address, mac, solicited, now) {
            self.transmit(at, mac, ethertype(address), frame);
        }
    }

    /// Asks again for neighbours that did not answer. Returns when to come back.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        if self.next_question.is_some_and(|due| due <= now) {
            self.next_question = None;
            let (mut asked, mut lost) = (Vec::new(), Vec::new());
            for at in 0..self.hosts.len() {
                let due = self.hosts[at].neighbours.tick(now, &mut asked, &mut lost);
                asked.drain(..).for_each(|address| self.ask(at, address, now));
                if let Some(due) = due {
                    self.next_question = Some(self.next_question.map_or(due, |next| next.min(due)));
                }
            }
            lost.into_iter().for_each(|frame| self.recycle(frame));
        }
        self.next_question
    }

    /// Puts a frame on the segment, from host `from`, after writing its Ethernet header.
    pub fn transmit(&mut self, from: usize, to: Mac, ethertype: u16, mut frame: Frame) {
        let ethernet = &mut frame.bytes_mut()[NetHdr::LEN..HEADROOM];
        ethernet[..6].copy_from_slice(&to);
        ethernet[6..12].copy_from_slice(&self.hosts[from].mac);
        ethernet[12..].copy_from_slice(&ethertype.to_be_bytes());
        if to[0] & 1 != 0 {
            for other in (0..self.hosts.len()).filter(|other| *other != from) {
                self.push_host(other, Frame { bytes: frame.bytes().to_vec(), length: frame.length });
            }
            self.push_guest(frame);
        } else if let Some(host) = self.host_at(to) {
            self.push_host(host, frame);
        } else {
            self.push_guest(frame);
        }
    }

    fn push_host(&mut self, host: usize, frame: Frame) {
        if self.to_hosts.len() < HARD_FRAMES {
            self.to_hosts.push_back((host, frame));
        } else {
            self.recycle(frame);
        }
    }

    /// Gives a frame to the guest, in the form in which it takes it.
    fn push_guest(&mut self, mut frame: Frame) {
        let Some(mode) = self.mode else { return self.recycle(frame) };
        let Some(header) = frame.bytes().first_chunk().map(NetHdr::parse) else { return };
        let ethertype = [frame.bytes()[HEADROOM - 2], frame.bytes()[HEADROOM - 1]];
        if mode.takes(&header, u16::from_be_bytes(ethertype) == packet::IPV6) {
            return self.queue_guest(frame);
        }
        if header.is_gso() {
            self.cut_for_guest(&header, &frame, mode);
            return self.recycle(frame);
        }
        let sum = offload::finish_checksum(&frame.bytes()[NetHdr::LEN..], header.csum_start, header.csum_offset);
        let field = NetHdr::LEN + usize::from(header.csum_start) + usize::from(header.csum_offset);
        frame.bytes_mut()[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        frame.bytes_mut()[..NetHdr::LEN].fill(0);
        self.queue_guest(frame);
    }

    /// A number for a datagram that is cut into fragments.
    pub fn identification(&mut self) -> u32 {
        self.fragmented += 1;
        self.random.hash_one(self.fragmented) as u32
    }

    /// Cuts a large frame into frames that the guest takes.
    fn cut_for_guest(&mut self, header: &NetHdr, frame: &Frame, mode: Mode) {
        let whole = &frame.bytes()[NetHdr::LEN..];
        let head = &whole[..whole.len().min(MAX_HEADERS)];
        let finish = if mode.partial { Finish::Partial } else { Finish::Complete };
        let Ok(segmenter) = Segmenter::new(header, head, whole, finish) else {
            self.counters.to_guest.dropped += 1;
            return;
        };
        let mut segmenter = segmenter.identified(self.identification());
        while let Some(length) = segmenter.next_len() {
            let mut piece = Frame::small(NetHdr::LEN + length);
            let Some((_, header)) = segmenter.write_next(whole, &mut piece.bytes[NetHdr::LEN..]) else { return };
            piece.bytes[..NetHdr::LEN].copy_from_slice(&header.to_bytes());
            self.queue_guest(piece);
        }
    }

    fn queue_guest(&mut self, frame: Frame) {
        if self.to_guest.len() >= HARD_FRAMES {
            self.counters.to_guest.dropped += 1;
            return self.recycle(frame);
        }
        self.to_guest_bytes += frame.length;
        self.to_guest.push_back(frame);
    }

    /// The next frame for the guest, which stays first in line.
    pub fn peek_guest(&self) -> Option<&Frame> {
        self.to_guest.front()
    }

    /// Takes the next frame for the guest, and counts it.
    pub fn pop_guest(&mut self) {
        if let Some(length) = self.drop_guest() {
            self.counters.to_guest.frames += 1;
            self.counters.to_guest.bytes += (length - NetHdr::LEN) as u64;
        }
    }

    /// Takes the next frame for the guest, and throws it away. Returns its length, with its virtio header.
    pub fn drop_guest(&mut self) -> Option<usize> {
        let frame = self.to_guest.pop_front()?;
        let length = frame.length;
        self.to_guest_bytes -= length;
        self.recycle(frame);
        Some(length)
    }

    /// The next frame from one host to another.
    pub fn pop_host(&mut self) -> Option<(usize, Frame)> {
        self.to_hosts.pop_front()
    }

    /// Whether hosts have frames to take.
    pub fn hosts_wait(&self) -> bool {
        !self.to_hosts.is_empty()
    }

    /// The hosts that a frame with this destination is for.
    pub fn receivers(&self, to: Mac) -> std::ops::Range<usize> {
        match self.host_at(to) {
            Some(host) => host..host + 1,
            None if to == BROADCAST || to[..2] == [0x33, 0x33] => 0..self.hosts.len(),
            None => 0..0,
        }
    }
}

/// The EtherType that goes with an address.
fn ethertype(address: IpAddr) -> u16 {
    if address.is_ipv4() { packet::IPV4 } else { packet::IPV6 }
}
