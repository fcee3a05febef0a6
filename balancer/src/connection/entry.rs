//! One connection as it lies in memory: a cache line.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::service::{Forward, Protocol};

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client: matched by client and virtual address.
    Inbound,
    /// From the destination: matched by destination and client address.
    Outbound,
}

/// The addresses and ports of a packet, as it names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub protocol: Protocol,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
}

/// What a connection is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct New {
    pub protocol: Protocol,
    pub client: IpAddr,
    pub client_port: u16,
    pub virtual_address: IpAddr,
    pub virtual_port: u16,
    pub address: IpAddr,
    pub port: u16,
    pub forward: Forward,
    /// Place of the destination in the pool.
    pub destination: u32,
    /// It is no connection but a persistence template: where a client's connections go.
    pub template: bool,
}

/// What [`Entry::flags`] says.
mod flag {
    /// The protocol, as [`Protocol`](crate::service::Protocol) numbers them.
    pub const PROTOCOL: u32 = 7;
    /// The forwarding method, by [`Forward`](crate::service::Forward)'s number, from [`FORWARD_SHIFT`] on.
    pub const FORWARD: u32 = 7 << FORWARD_SHIFT;
    pub const FORWARD_SHIFT: u32 = 3;
    /// Its addresses are elsewhere.
    pub const V6: u32 = 1 << 6;
    /// Counts as active.
    pub const ACTIVE: u32 = 1 << 7;
    /// A persistence template.
    pub const TEMPLATE: u32 = 1 << 8;
    /// A data connection of FTP whose client's port is not known yet, and 0.
    pub const OPEN: u32 = 1 << 26;
    /// It has data connections, and stays as long as they do.
    pub const CONTROLS: u32 = 1 << 27;
    /// FTP is spoken over it: there is something in the annex of [`Ftp`](super::super::ftp::Ftp)s.
    pub const FTP: u32 = 1 << 28;
    /// It is on the accounts of its source.
    pub const COUNTED: u32 = 1 << 29;
    /// Full NAT: replies are to an address of ours that stands for the client's.
    pub const LOCAL: u32 = 1 << 30;
    /// There is more to it, in the annex of [`Extra`](super::super::Extra)s.
    pub const EXTRA: u32 = 1 << 31;
    /// Came by synchronization (IP_VS_CONN_F_SYNC).
    pub const SYNCED: u32 = 1 << 20;
    /// What is known of it another balancer has told: no packet of it has come since.
    pub const HEARSAY: u32 = 1 << 21;
}

const TCP: u32 = Protocol::Tcp as u32;
const UDP: u32 = Protocol::Udp as u32;
const SCTP: u32 = Protocol::Sctp as u32;

/// The three addresses of an IPv6 connection: client, virtual, destination.
pub(crate) type AddressesV6 = [u128; 3];

/// A connection. Links are places plus one, 0 for none; those of chains are [`Node`](super::index::Node)s.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Entry {
    /// IPv4: client, virtual and destination address. IPv6: the place in the table of addresses, and nothing.
    addresses: [u32; 3],
    /// Hashes of the tuples of both directions, by [`Direction`].
    pub hashes: [u32; 2],
    /// Next in the chains of both directions.
    pub chain: [u32; 2],
    pub client_port: u16,
    pub virtual_port: u16,
    pub port: u16,
    state: u8,
    /// Packets from the client; no more than a byte can count.
    in_packets: u8,
    flags: u32,
    /// A connection: its template, or the connection whose data it carries, place plus one, 0 for none. A template: how many connections it has.
    pub control: u32,
    /// Place of the destination in the pool.
    pub destination: u32,
    /// Tick at which the connection ends.
    pub expires: u32,
    /// Tick for which it is filed in the wheel: not after `expires`.
    pub filed: u32,
    /// Links of the timer wheel; `next` is that of the free list too.
    pub next: u32,
    pub previous: u32,
}

const _: () = assert!(size_of::<Entry>() == 64, "a connection is one cache line");

impl Entry {
    /// An entry in state NONE, in no chain and no wheel. `v6` is the place of its addresses, if it needs one.
    pub fn new(new: &New, v6: u32, hashes: [u32; 2]) -> Self {
        let mut flags = new.protocol as u32 | (new.forward as u32) << flag::FORWARD_SHIFT;
        if new.template {
            flags |= flag::TEMPLATE;
        }
        let addresses = match (new.client, new.virtual_address) {
            (IpAddr::V4(c), IpAddr::V4(v)) => {
                // Where a tunnel of the other family ends, only the destination knows.
                let d = if let IpAddr::V4(d) = new.address { d.to_bits() } else { 0 };
                [c.to_bits(), v.to_bits(), d]
            }
            _ => {
                flags |= flag::V6;
                [v6, 0, 0]
            }
        };
        Entry {
            addresses,
            hashes,
            client_port: new.client_port,
            virtual_port: new.virtual_port,
            port: new.port,
            flags,
            destination: new.destination,
            ..Entry::default()
        }
    }

    pub fn protocol(&self) -> Protocol {
        match self.flags & flag::PROTOCOL {
            TCP => Protocol::Tcp,
            UDP => Protocol::Udp,
            SCTP => Protocol::Sctp,
            _ => Protocol::Ip,
        }
    }

    /// Whether it is a persistence template.
    pub fn is_template(&self) -> bool {
        self.flags & flag::TEMPLATE != 0
    }

    /// Whether replies to it are found: those of templates do not exist, those of others may not come by.
    pub fn is_two_way(&self) -> bool {
        self.flags & (flag::FORWARD | flag::TEMPLATE) == 0
    }

    /// The place of the template a connection came from.
    pub fn template(&self) -> Option<u32> {
        if self.is_template() { None } else { self.control.checked_sub(1) }
    }

    /// Whether a template has connections, or a connection has data connections: then it stays.
    pub fn is_controlling(&self) -> bool {
        self.is_template() && self.control != 0 || self.flags & flag::CONTROLS != 0
    }

    /// Says whether a connection has data connections.
    pub fn set_controls(&mut self, controls: bool) {
        self.flags = if controls { self.flags | flag::CONTROLS } else { self.flags & !flag::CONTROLS };
    }

    /// Whether FTP is spoken over it, and listened to.
    #[inline(always)]
    pub fn is_ftp(&self) -> bool {
        self.flags & flag::FTP != 0
    }

    /// Says that FTP is spoken over it.
    pub fn set_ftp(&mut self) {
        self.flags |= flag::FTP;
    }

    /// Whether any port of the client will do.
    pub fn is_open(&self) -> bool {
        self.flags & flag::OPEN != 0
    }

    /// Says whether any port of the client will do.
    pub fn set_open(&mut self, open: bool) {
        self.flags = if open { self.flags | flag::OPEN } else { self.flags & !flag::OPEN };
    }

    /// Whether more is to be done for its packets than NAT: what is the first thing to ask.
    #[inline(always)]
    pub fn is_special(&self) -> bool {
        self.flags & (flag::EXTRA | flag::FTP) != 0
    }

    /// Whether a template had a connection that came about (IP_VS_CTPL_S_ASSURED).
    pub fn is_assured(&self) -> bool {
        self.is_template() && self.state != 0
    }

    /// Where the Call-ID of a template is, place plus one; 0 if it has none. It lies where others have their second hash.
    pub fn call_id(&self) -> u32 {
        if self.is_template() { self.hashes[1] } else { 0 }
    }

    /// Says that a template had a connection that came about.
    pub fn assure(&mut self) {
        self.state = 1;
    }

    pub fn is_v6(&self) -> bool {
        self.flags & flag::V6 != 0
    }

    /// Whether only the client's packets come by, and go on as they are.
    pub fn is_one_way(&self) -> bool {
        self.flags & flag::FORWARD != 0
    }

    pub fn is_tunnel(&self) -> bool {
        self.flags & flag::FORWARD == (Forward::Tunnel as u32) << flag::FORWARD_SHIFT
    }

    /// Whether packets go around the balancer.
    pub fn is_bypass(&self) -> bool {
        self.flags & flag::FORWARD == (Forward::Bypass as u32) << flag::FORWARD_SHIFT
    }

    fn forward(&self) -> Forward {
        // All of them were methods once.
        Forward::from_flags((self.flags & flag::FORWARD) >> flag::FORWARD_SHIFT).unwrap_or(Forward::Masquerade)
    }

    pub fn is_active(&self) -> bool {
        self.flags & flag::ACTIVE != 0
    }

    pub fn set_active(&mut self, active: bool) {
        self.flags = if active { self.flags | flag::ACTIVE } else { self.flags & !flag::ACTIVE };
    }

    /// The number of the state, which is one of its protocol's. Templates have none.
    pub fn state(&self) -> u8 {
        if self.is_template() { 0 } else { self.state }
    }

    /// The same of a connection that is known to be no template.
    #[inline(always)]
    pub fn state_of_connection(&self) -> u8 {
        debug_assert!(!self.is_template());
        self.state
    }

    pub fn set_state(&mut self, state: u8) {
        self.state = state;
    }

    /// The state by its protocol's number; of a template 1 if it is assured.
    pub fn state_number(&self) -> u8 {
        self.state
    }

    /// Whether another balancer has told of it.
    pub fn is_synced(&self) -> bool {
        self.flags & flag::SYNCED != 0
    }

    /// Says that another balancer has told of it.
    pub fn set_synced(&mut self) {
        self.flags |= flag::SYNCED;
    }

    /// Whether no packet of it has come since another balancer told of it.
    pub fn is_hearsay(&self) -> bool {
        self.flags & flag::HEARSAY != 0
    }

    /// Says that a packet of it has come.
    pub fn witness(&mut self) {
        self.flags &= !flag::HEARSAY;
    }

    /// Whether somebody wants to know that a packet of this connection, which is no template, went through.
    #[inline(always)]
    pub fn is_watched(&self) -> bool {
        self.control != 0 || self.flags & flag::HEARSAY != 0
    }

    /// Takes over how far it has come elsewhere: the number of its state, and packets from the client.
    pub fn take_over(&mut self, state: u8, packets: u8) {
        (self.state, self.in_packets) = (state, packets);
        self.flags |= flag::HEARSAY;
    }

    /// Packets from the client, up to 255.
    pub fn in_packets(&self) -> u8 {
        self.in_packets
    }

    /// Counts packets from the client.
    pub fn count(&mut self, packets: u8) {
        self.in_packets = self.in_packets.saturating_add(packets);
    }

    /// The place of the addresses of an IPv6 connection.
    pub fn v6(&self) -> Option<u32> {
        self.is_v6().then_some(self.addresses[0])
    }

    /// Client, virtual and destination address.
    #[inline(always)]
    pub fn addresses(&self, v6: &[AddressesV6]) -> [IpAddr; 3] {
        match self.v6() {
            None => self.addresses.map(|a| IpAddr::V4(Ipv4Addr::from_bits(a))),
            Some(place) => {
                let addresses = v6.get(place as usize).copied().unwrap_or_default();
                addresses.map(|a| IpAddr::V6(Ipv6Addr::from_bits(a)))
            }
        }
    }

    /// What the connection was made of. The destination's address is of the client's family, and of no meaning if it was not.
    pub fn parts(&self, v6: &[AddressesV6]) -> New {
        let [client, virtual_address, address] = self.addresses(v6);
        New {
            protocol: self.protocol(),
            client,
            client_port: self.client_port,
            virtual_address,
            virtual_port: self.virtual_port,
            address,
            port: self.port,
            forward: self.forward(),
            destination: self.destination,
            template: self.is_template(),
        }
    }

    /// Says that there is more to it in the annex, and whether an address there stands for the client's.
    pub fn set_extra(&mut self, is_local: bool) {
        self.flags |= flag::EXTRA | if is_local { flag::LOCAL } else { 0 };
    }

    /// Says that it is on the accounts of its source.
    pub fn set_counted(&mut self) {
        self.flags |= flag::COUNTED;
    }

    /// Whether it is on the accounts of its source.
    pub fn is_counted(&self) -> bool {
        self.flags & flag::COUNTED != 0
    }

    /// Says that there is nothing more to it.
    pub fn clear_extra(&mut self) {
        self.flags &= !(flag::EXTRA | flag::LOCAL);
    }

    /// Whether there is more to it in the annex.
    #[inline(always)]
    pub fn is_extra(&self) -> bool {
        self.flags & flag::EXTRA != 0
    }

    /// Whether replies are to an address in the annex.
    #[inline(always)]
    pub fn is_local(&self) -> bool {
        self.flags & flag::LOCAL != 0
    }

    /// Whether this is the template of a client and a service.
    pub fn is_template_of(&self, key: &Tuple, v6: &[AddressesV6]) -> bool {
        self.is_template() && self.protocol() == key.protocol && self.joins(Direction::Inbound, key, v6)
    }

    /// Whether a packet with this tuple is one of this connection in this direction.
    #[inline(always)]
    pub fn matches(&self, direction: Direction, tuple: &Tuple, v6: &[AddressesV6]) -> bool {
        // To whom replies of full NAT are, is not said here.
        let no_local = if direction == Direction::Outbound { flag::LOCAL } else { 0 };
        self.flags & (flag::PROTOCOL | flag::TEMPLATE | no_local) == tuple.protocol as u32
            && self.joins(direction, tuple, v6)
    }

    /// Whether addresses and ports are those of a tuple.
    #[inline(always)]
    fn joins(&self, direction: Direction, tuple: &Tuple, v6: &[AddressesV6]) -> bool {
        let (from, to, ports) = match direction {
            Direction::Inbound => (0, 1, [self.client_port, self.virtual_port]),
            Direction::Outbound => (2, 0, [self.port, self.client_port]),
        };
        if ports != [tuple.source_port, tuple.destination_port] {
            return false;
        }
        match (tuple.source, tuple.destination, self.v6()) {
            (IpAddr::V4(source), IpAddr::V4(destination), None) => {
                self.addresses[from] == source.to_bits() && self.addresses[to] == destination.to_bits()
            }
            (IpAddr::V6(source), IpAddr::V6(destination), Some(place)) => {
                v6.get(place as usize).is_some_and(|a| a[from] == source.to_bits() && a[to] == destination.to_bits())
            }
            _ => false,
        }
    }
}
