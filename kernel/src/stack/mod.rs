//! The TCP/IP stack behind the balancer: smoltcp, for what is addressed to this machine.
//!
//! It answers ARP, neighbour solicitations and echo requests for our own addresses and for those of services, resets TCP
//! connections nobody listens for, and carries the connections of the [services](crate::services). Its neighbours and
//! routes are smoltcp's own: the balancer keeps others.
//!
//! Segments of up to 64 KiB are left to the device to cut, over both versions of IP; received super-frames are taken as they
//! are.
//!
//! Not done: fragments are not put together, so a ping larger than the MTU goes unanswered; there is no path MTU discovery.

mod admit;
mod device;
mod echo;
mod peers;
mod transmit;

use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringlet_driver::offload::{Finish, Segmenter};
use ringlet_driver::wire::NetHdr;
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::socket::{AnySocket, tcp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

use self::admit::{Addresses, Admission, Opening, admit, opening};
use self::device::{Device, LONGEST_FRAME, Scratch};
pub use self::device::{LinkFacts, Outlet};
use self::peers::Peers;
use crate::cmdline::Cidr;

/// Rounds of transmission in one [`Stack::poll`]: each socket may send a frame in each. What is left is sent by the next
/// call, so that a big download does not hold up the frames of others.
const ROUNDS: usize = 16;
/// Bytes after which one [`Stack::poll`] sends no more, for the same reason: this is what forwarding has to wait for.
const BYTES: usize = 256 << 10;

/// The stack of one network device.
pub struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    facts: LinkFacts,
    addresses: Addresses,
    peers: Peers,
    scratch: Scratch,
    /// Room for a datagram that came in a super-frame.
    datagram: Vec<u8>,
    counters: Counters,
}

/// What the stack counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Frames shown to the stack or answered for it.
    pub received: u64,
    /// Frames refused: not for us, from nowhere, fragments, wrong TCP checksum.
    pub refused: u64,
    /// Requests for a connection not answered because every socket of the service was taken.
    pub crowded: u64,
}

/// The clock of smoltcp from that of the machine, which counts nanoseconds.
fn instant(now_ns: u64) -> Instant {
    Instant::from_micros(i64::try_from(now_ns / 1000).unwrap_or(i64::MAX))
}

impl Stack {
    /// A stack without sockets. `seed` is for sequence numbers and should not be foreseeable.
    pub fn new(
        facts: LinkFacts,
        own: &[Cidr],
        gateway_v4: Option<Ipv4Addr>,
        gateway_v6: Option<Ipv6Addr>,
        seed: u64,
        now_ns: u64,
    ) -> Self {
        let mut scratch = Scratch::new();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(facts.mac)));
        config.random_seed = seed;
        let peers = Peers::new();
        let mut device = Device {
            received: None,
            facts: &facts,
            peers: &peers,
            scratch: &mut scratch,
            outlet: &mut Nowhere,
            budget: &mut 0,
        };
        let mut interface = Interface::new(config, &mut device, instant(now_ns));
        interface.update_ip_addrs(|addresses| {
            for cidr in own {
                // The command line takes no more addresses than smoltcp has room for.
                let _ = addresses.push(IpCidr::new(cidr.address.into(), cidr.prefix));
            }
        });
        // See `admit`: what is not for us does not get that far.
        interface.set_any_ip(true);
        // There is room for two routes, and there are no others.
        if let Some(gateway) = gateway_v4 {
            let _ = interface.routes_mut().add_default_ipv4_route(gateway);
        }
        if let Some(gateway) = gateway_v6 {
            let _ = interface.routes_mut().add_default_ipv6_route(gateway);
        }
        let addresses = Addresses::new(own.iter().map(|cidr| cidr.address).collect::<Vec<IpAddr>>());
        let sockets = SocketSet::new(vec![]);
        let datagram = vec![0; LONGEST_FRAME];
        Self { interface, sockets, facts, addresses, peers, scratch, datagram, counters: Counters::default() }
    }

    /// The sockets. After a change, [`Stack::poll`] is due.
    pub fn sockets(&mut self) -> &mut SocketSet<'static> {
        &mut self.sockets
    }

    /// Opens a connection, for tests that need a client.
    ///
    /// # Panics
    /// If the socket is in use.
    #[cfg(test)]
    pub(crate) fn connect(
        &mut self,
        handle: smoltcp::iface::SocketHandle,
        to: core::net::SocketAddr,
        from: core::net::SocketAddr,
    ) {
        let socket = self.sockets.get_mut::<smoltcp::socket::tcp::Socket<'_>>(handle);
        socket.connect(self.interface.context(), to, from).expect("a socket that is not in use");
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Replaces the addresses of services, for which this machine answers too.
    pub fn set_service_addresses(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        self.addresses.set_services(addresses);
    }

    /// Takes one received Ethernet frame with the header it came with; answers go to `outlet`. The header says whether the
    /// transport checksum was verified by the device, or is left to be computed because the frame never left the host; and
    /// whether several datagrams came in one frame.
    ///
    /// Returns whether a socket may have something new.
    pub fn receive(&mut self, frame: &[u8], header: &NetHdr, now_ns: u64, outlet: &mut impl Outlet) -> bool {
        if header.gso_type != NetHdr::GSO_UDP_L4 {
            // Several TCP segments in one are as good as one, and a datagram that was to be fragmented is one.
            let checked = header.flags & (NetHdr::NEEDS_CSUM | NetHdr::DATA_VALID) != 0;
            return self.receive_packet(frame, checked, now_ns, outlet);
        }
        let Ok(mut segmenter) = Segmenter::new(header, frame, frame, Finish::Partial) else {
            self.counters.refused += 1;
            return false;
        };
        let mut news = false;
        // Taken out for the time being, so that the rest can be borrowed.
        let mut datagram = core::mem::take(&mut self.datagram);
        while let Some((length, _)) = segmenter.write_next(frame, &mut datagram[..]) {
            news |= self.receive_packet(&datagram[..length], true, now_ns, outlet);
        }
        self.datagram = datagram;
        news
    }

    fn receive_packet(&mut self, frame: &[u8], checked: bool, now_ns: u64, outlet: &mut impl Outlet) -> bool {
        match admit(frame, checked, &self.addresses, self.facts.mac) {
            Admission::Admit => {}
            Admission::Answer(answer) => {
                self.counters.received += 1;
                outlet.send(&answer, NetHdr::default());
                return false;
            }
            Admission::Refuse => {
                self.counters.refused += 1;
                return false;
            }
        }
        self.counters.received += 1;
        if let Some(length) = self.scratch.echo(frame, self.facts.mac) {
            outlet.send(&self.scratch.frame()[..length], NetHdr::default());
            return false;
        }
        if let Some(opening) = opening(frame)
            && !self.opens(&opening)
        {
            self.counters.crowded += 1;
            return false;
        }
        let mut device = Device {
            received: Some(frame),
            facts: &self.facts,
            peers: &self.peers,
            scratch: &mut self.scratch,
            outlet,
            budget: &mut { BYTES },
        };
        let result = self.interface.poll_ingress_single(instant(now_ns), &mut device, &mut self.sockets);
        matches!(result, PollIngressSingleResult::SocketStateChanged)
    }

    /// Remembers what a peer announces as a connection begins. Returns false for a request for a connection that somebody
    /// serves who has no socket left to listen: it is not answered then, as Linux does with a full backlog. The client tries
    /// again in a second, where a reset would turn it away.
    fn opens(&mut self, opening: &Opening) -> bool {
        let (own, peer) = opening.ends;
        let (mut served, mut listening) = (false, false);
        let mut known = None;
        for (_, socket) in self.sockets.iter() {
            let Some(socket) = tcp::Socket::downcast(socket) else { continue };
            if socket.local_endpoint() == Some(own) && socket.remote_endpoint() == Some(peer) {
                known = Some(socket.state());
            }
            let served_at = socket.listen_endpoint();
            if served_at.port == own.port && served_at.addr.is_none_or(|address| address == own.addr) {
                served = true;
                listening |= socket.state() == tcp::State::Listen;
            }
        }
        let begins = match known {
            // What an open connection is to be sent does not change for a segment that claims to begin it.
            Some(state) => opening.answer && state == tcp::State::SynSent,
            None => listening && !opening.answer,
        };
        if begins {
            self.remember(opening);
        }
        listening || !served || opening.answer || known.is_some()
    }

    fn remember(&mut self, opening: &Opening) {
        let sockets = &self.sockets;
        self.peers.announced(opening.ends, opening.mss, |(own, peer)| {
            sockets
                .iter()
                .filter_map(|(_, socket)| tcp::Socket::downcast(socket))
                .any(|socket| socket.local_endpoint() == Some(*own) && socket.remote_endpoint() == Some(*peer))
        });
    }

    /// Sends what sockets have to send. Returns whether there may be more to send at once.
    pub fn poll(&mut self, now_ns: u64, outlet: &mut impl Outlet) -> bool {
        let now = instant(now_ns);
        let mut budget = BYTES;
        let mut device = Device {
            received: None,
            facts: &self.facts,
            peers: &self.peers,
            scratch: &mut self.scratch,
            outlet,
            budget: &mut budget,
        };
        self.interface.poll_maintenance(now);
        for _ in 0..ROUNDS {
            if self.interface.poll_egress(now, &mut device, &mut self.sockets) == PollResult::None {
                return *device.budget == 0;
            }
        }
        true
    }

    /// When to call [`Stack::poll`] again at the latest, in nanoseconds. Looks at every socket: not for each packet.
    pub fn deadline(&mut self, now_ns: u64) -> Option<u64> {
        let at = self.interface.poll_at(instant(now_ns), &self.sockets)?;
        Some(u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000))
    }
}

/// Takes nothing: smoltcp wants to see a device once before there is one.
struct Nowhere;

impl Outlet for Nowhere {
    fn is_ready(&mut self) -> bool {
        false
    }

    fn send(&mut self, _: &[u8], _: NetHdr) {}
}

#[cfg(test)]
mod tests;
