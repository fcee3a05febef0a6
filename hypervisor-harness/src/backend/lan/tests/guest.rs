//! A guest for the tests: it balances nothing, but leads its virtual addresses to one server by plain address translation.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;

use super::super::fabric::LONGEST;
use super::super::packet::{self, ARP, ETHERNET, HEADROOM, ICMP, ICMPV6, Packet};
use super::super::plan::{self, Mac};
use super::super::{Config, Handle, Lan};
use crate::backend::{Backend, Received, Scatter};

/// The guest's Ethernet address.
const MAC: Mac = [0x52, 0x54, 0, 0x12, 0x34, 2];
/// The virtual addresses.
pub const VIRTUAL: [&str; 2] = ["10.0.0.100", "fd00::64"];

/// What the guest saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Frames larger than the MTU allows.
    pub large: AtomicU64,
    /// Frames that a guest with these features must not be given, or with a wrong checksum.
    pub wrong: AtomicU64,
    /// Frames.
    pub frames: AtomicU64,
    /// Frames with several datagrams.
    pub datagrams: AtomicU64,
    /// Datagrams larger than the MTU.
    pub unfragmented: AtomicU64,
}

/// A network with its guest, each other's only company, in a thread of their own.
pub struct World {
    pub handle: Handle,
    pub seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    renegotiate: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl World {
    /// The network of `config` with a guest that takes `features` and leads to the server with this last byte of address.
    pub fn new(config: &Config, features: Features, server: u8) -> Self {
        let (mut guest, handle) = Guest::new(config, features, server);
        let seen = guest.seen.clone();
        let (stop, renegotiate) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let flags = (stop.clone(), renegotiate.clone());
        let thread = Some(thread::spawn(move || guest.run(&flags.0, &flags.1)));
        Self { handle, seen, stop, renegotiate, thread }
    }

    /// The guest's driver starts anew, and takes nothing special any more.
    pub fn renegotiate(&self) {
        self.renegotiate.store(true, Ordering::SeqCst);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let joined = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(joined, Some(Ok(()))), "the network's thread panicked");
        }
    }
}

/// The guest, and the network that it is in.
pub struct Guest {
    pub lan: Lan,
    features: Features,
    server: u8,
    pub seen: Arc<Seen>,
    buffer: Vec<u8>,
}

impl Guest {
    /// A guest in a network of its own, both still.
    pub fn new(config: &Config, features: Features, server: u8) -> (Self, Handle) {
        let (lan, handle) = Lan::open(config).expect("a network");
        let seen = Arc::<Seen>::default();
        (Self { lan, features, server, seen, buffer: vec![0; LONGEST] }, handle)
    }

    /// One turn of the network and all that the guest does about it. Returns whether that was anything.
    pub fn turn(&mut self) -> bool {
        self.lan.turn(Instant::now());
        self.serve()
    }

    fn run(&mut self, stop: &AtomicBool, renegotiate: &AtomicBool) {
        self.lan.negotiated(self.features).expect("negotiated");
        while !stop.load(Ordering::SeqCst) {
            if renegotiate.swap(false, Ordering::SeqCst) {
                self.features = Features::empty();
                self.lan.negotiated(self.features).expect("negotiated");
            }
            let due = self.lan.turn(Instant::now());
            if !self.serve() {
                self.sleep(due);
            }
        }
    }

    /// Waits as the device does, at most for a moment, so that it stops when told to.
    fn sleep(&self, due: Option<Instant>) {
        let mut fds: Vec<RawFd> = Vec::new();
        self.lan.wait_on(&mut fds);
        let mut fds: Vec<_> = fds.iter().map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 }).collect();
        let wait = due.map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()));
        let wait = wait.min(Duration::from_millis(5)).as_micros().div_ceil(1000) as libc::c_int;
        // SAFETY: `fds` is an array of as many `pollfd` as said, and nothing else touches it meanwhile.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, wait) };
    }

    /// Takes all frames that wait and sends them on. Returns whether there were any.
    fn serve(&mut self) -> bool {
        let mut any = false;
        for _ in 0..256 {
            let mut frame = std::mem::take(&mut self.buffer);
            let length = match with(&mut frame, |room| self.lan.receive(room)) {
                Ok(Received::Frame(length)) => length,
                other => {
                    assert!(matches!(other, Ok(Received::Empty)), "{other:?}");
                    self.buffer = frame;
                    return any;
                }
            };
            any = true;
            self.check(&frame[..length]);
            if self.translate(&mut frame[..length]) {
                with(&mut frame[..length], |frame| self.lan.send(frame)).expect("sent");
            }
            self.buffer = frame;
        }
        any
    }

    /// Counts what a guest with these features must not be given.
    fn check(&self, frame: &[u8]) {
        let header = NetHdr::parse(frame.first_chunk().expect("a header"));
        let large = frame.len() > HEADROOM + usize::from(self.lan.mtu());
        let v6 = frame[HEADROOM - 2..HEADROOM] == packet::IPV6.to_be_bytes();
        let uso = if v6 { Features::GUEST_USO6 } else { Features::GUEST_USO4 };
        let gso = match header.gso_type {
            NetHdr::GSO_NONE => !large,
            NetHdr::GSO_TCPV4 => self.features.contains(Features::GUEST_TSO4),
            NetHdr::GSO_TCPV6 => self.features.contains(Features::GUEST_TSO6),
            NetHdr::GSO_UDP_L4 => self.features.contains(uso),
            NetHdr::GSO_UDP => self.features.contains(Features::GUEST_UFO) && header.gso_size.is_multiple_of(8),
            _ => false,
        };
        let size = !header.is_gso() || (header.gso_size > 0 && usize::from(header.gso_size) < frame.len());
        let partial = !header.needs_csum() || self.features.contains(Features::GUEST_CSUM);
        let ip = frame[HEADROOM - 2..HEADROOM] != ARP.to_be_bytes();
        let parsed = Packet::parse(&frame[HEADROOM..]);
        let fragment = matches!(parsed, Err(packet::Flaw::Fragment)) || v6 && frame[HEADROOM + 6] == 44;
        let sum = !ip || fragment || parsed.is_ok_and(|packet| packet.verify(&header).is_ok());
        // Counters for the test, which reads them at its end.
        self.seen.frames.fetch_add(1, Ordering::SeqCst);
        self.seen.large.fetch_add(u64::from(large), Ordering::SeqCst);
        let is = |kind| u64::from(header.gso_type == kind);
        self.seen.datagrams.fetch_add(is(NetHdr::GSO_UDP_L4), Ordering::SeqCst);
        self.seen.unfragmented.fetch_add(is(NetHdr::GSO_UDP), Ordering::SeqCst);
        self.seen.wrong.fetch_add(u64::from(!(gso && size && partial && sum)), Ordering::SeqCst);
    }

    /// Makes of a frame what goes out in its place. Returns whether anything does.
    fn translate(&self, frame: &mut [u8]) -> bool {
        if frame[HEADROOM - 2..HEADROOM] == ARP.to_be_bytes() {
            return self.answer_arp(frame);
        }
        let Ok(packet) = Packet::parse(&frame[HEADROOM..]) else { return false };
        let (source, destination, protocol, at) = (packet.source, packet.destination, packet.protocol, packet.header);
        let body = HEADROOM + at;
        if protocol == ICMPV6 && frame[body] == 135 {
            return self.answer_solicitation(frame, source);
        }
        if frame[NetHdr::LEN..NetHdr::LEN + 6] != MAC {
            return false;
        }
        let is_virtual =
            |address: IpAddr| VIRTUAL.iter().any(|one| address == one.parse::<IpAddr>().expect("an address"));
        if matches!((protocol, frame[body]), (ICMP, 8) | (ICMPV6, 128)) && is_virtual(destination) {
            frame[body] = if protocol == ICMP { 0 } else { 129 };
            return self.send(frame, destination, source, plan::GATEWAY[0]);
        }
        let server = plan::server(self.server);
        let like = |list: [IpAddr; 2]| list[usize::from(destination.is_ipv6())];
        if is_virtual(destination) {
            self.send(frame, source, like(server), server[0])
        } else if source == like(server) {
            let virtual_address = VIRTUAL[usize::from(source.is_ipv6())].parse().expect("an address");
            self.send(frame, virtual_address, destination, plan::GATEWAY[0])
        } else {
            false
        }
    }

    /// Readdresses the packet of a frame, and makes its checksum right in the form that it had.
    fn send(&self, frame: &mut [u8], source: IpAddr, destination: IpAddr, hop: IpAddr) -> bool {
        let header = NetHdr::parse(frame.first_chunk().expect("a header"));
        let protocol = Packet::parse(&frame[HEADROOM..]).expect("parsed before").protocol;
        packet::write_header(&mut frame[HEADROOM..], source, destination, protocol);
        packet::write_checksum(&mut frame[HEADROOM..], header.needs_csum());
        let ethernet = &mut frame[NetHdr::LEN..];
        ethernet[..6].copy_from_slice(&plan::mac(hop));
        ethernet[6..12].copy_from_slice(&MAC);
        true
    }

    fn answer_arp(&self, frame: &mut [u8]) -> bool {
        let wanted = IpAddr::from([frame[50], frame[51], frame[52], frame[53]]);
        let mine = wanted == plan::GUEST[0] || VIRTUAL[0].parse() == Ok(wanted);
        if frame[HEADROOM + 7] != 1 || !mine {
            return false;
        }
        let (sender_mac, sender) = (frame[34..40].to_vec(), frame[40..44].to_vec());
        let target = frame[50..54].to_vec();
        frame[HEADROOM + 7] = 2;
        frame[34..40].copy_from_slice(&MAC);
        frame[40..44].copy_from_slice(&target);
        frame[44..50].copy_from_slice(&sender_mac);
        frame[50..54].copy_from_slice(&sender);
        frame[12..18].copy_from_slice(&sender_mac);
        frame[18..24].copy_from_slice(&MAC);
        true
    }

    fn answer_solicitation(&self, frame: &mut [u8], source: IpAddr) -> bool {
        let body = HEADROOM + 40;
        let target: [u8; 16] = *frame[body + 8..].first_chunk().expect("a target");
        let target = IpAddr::from(target);
        if target != plan::GUEST[1] && VIRTUAL[1].parse() != Ok(target) {
            return false;
        }
        frame[body] = 136;
        frame[body + 4] = 0x60;
        frame[body + 24] = 2;
        frame[body + 26..body + 32].copy_from_slice(&MAC);
        self.send(frame, target, source, source);
        debug_assert!(frame.len() >= HEADROOM + ETHERNET);
        true
    }
}

/// Shows bytes as a guest's memory, in two pieces.
pub fn with<T>(bytes: &mut [u8], use_it: impl FnOnce(&mut Scatter<'_>) -> T) -> T {
    let (head, tail) = bytes.split_at_mut(bytes.len().min(100));
    let pieces = [
        libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: head.len() },
        libc::iovec { iov_base: tail.as_mut_ptr().cast(), iov_len: tail.len() },
    ];
    // SAFETY: the pieces are the two halves of `bytes`, touched only through the scatter while it lives.
    use_it(&mut unsafe { Scatter::new(&pieces) })
}
