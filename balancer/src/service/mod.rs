//! What an operator configures: services, their destinations, and how they are named.
//!
//! Numbers are those of include/uapi/linux/ip_vs.h, so that the wire form round-trips. The types can say more than this
//! balancer does; what it cannot do, [`Balancer`](crate::Balancer) refuses when the service or destination is added.

pub(crate) mod table;

use core::net::IpAddr;

use crate::Errno;
use crate::stats::{Rates, Stats};

/// A transport protocol services are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// TCP, protocol number 6.
    Tcp,
    /// UDP, protocol number 17.
    Udp,
    /// SCTP, protocol number 132.
    Sctp,
    /// Any protocol, number 0: of the persistence templates of marks. No service is of it.
    Ip,
}

impl Protocol {
    /// The number in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
            Protocol::Ip => 0,
        }
    }

    /// The protocol of an IP protocol number; [`Errno::Protocol`] if no service can be of it.
    pub const fn from_number(number: u16) -> Result<Self, Errno> {
        match number {
            6 => Ok(Protocol::Tcp),
            17 => Ok(Protocol::Udp),
            132 => Ok(Protocol::Sctp),
            _ => Err(Errno::Protocol),
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4, AF_INET.
    V4,
    /// IPv6, AF_INET6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

/// What names a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceKey {
    /// A virtual address.
    Address {
        /// Transport protocol.
        protocol: Protocol,
        /// Virtual address.
        address: IpAddr,
        /// Virtual port, in host order. 0 means every port and needs persistence.
        port: u16,
    },
    /// A mark given to packets by a rule ([`MarkRule`](crate::MarkRule)).
    Mark {
        /// Family of the packets.
        family: Family,
        /// The mark, not 0.
        mark: u32,
    },
}

impl ServiceKey {
    /// A TCP service.
    pub const fn tcp(address: IpAddr, port: u16) -> Self {
        ServiceKey::Address { protocol: Protocol::Tcp, address, port }
    }

    /// A UDP service.
    pub const fn udp(address: IpAddr, port: u16) -> Self {
        ServiceKey::Address { protocol: Protocol::Udp, address, port }
    }

    /// An SCTP service.
    pub const fn sctp(address: IpAddr, port: u16) -> Self {
        ServiceKey::Address { protocol: Protocol::Sctp, address, port }
    }

    /// The family of the clients of the service.
    pub const fn family(&self) -> Family {
        match self {
            ServiceKey::Address { address, .. } => Family::of(address),
            ServiceKey::Mark { family, .. } => *family,
        }
    }

    /// The port of the service if a packet is for another; a mark has none.
    pub(crate) fn other_port(&self, destination_port: u16) -> Option<u16> {
        match *self {
            ServiceKey::Address { port, .. } if port != destination_port => Some(port),
            _ => None,
        }
    }
}

/// How a destination is chosen. Rules: see [`scheduler`](crate::scheduler).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Scheduler {
    /// Round robin.
    RoundRobin,
    /// Weighted round robin.
    WeightedRoundRobin,
    /// Least connections.
    LeastConnections,
    /// Weighted least connections.
    WeightedLeastConnections,
    /// Least connections by locality: a destination for each address.
    LocalityLeastConnections,
    /// Least connections by locality with replication: a set of destinations for each address.
    LocalityReplicated,
    /// Hash of the address asked for.
    DestinationHash,
    /// Hash of the client.
    SourceHash,
    /// Shortest expected delay.
    ShortestExpectedDelay,
    /// Never queue.
    NeverQueue,
    /// Weighted failover.
    Failover,
    /// Weighted overflow.
    Overflow,
    /// Maglev hash of the client.
    Maglev,
    /// The better of two random choices.
    TwoChoices,
}

impl Scheduler {
    /// Every scheduler there is.
    pub const ALL: &'static [Scheduler] = &[
        Scheduler::RoundRobin,
        Scheduler::WeightedRoundRobin,
        Scheduler::LeastConnections,
        Scheduler::WeightedLeastConnections,
        Scheduler::LocalityLeastConnections,
        Scheduler::LocalityReplicated,
        Scheduler::DestinationHash,
        Scheduler::SourceHash,
        Scheduler::ShortestExpectedDelay,
        Scheduler::NeverQueue,
        Scheduler::Failover,
        Scheduler::Overflow,
        Scheduler::Maglev,
        Scheduler::TwoChoices,
    ];

    /// The name Linux knows it by.
    pub const fn name(self) -> &'static str {
        match self {
            Scheduler::RoundRobin => "rr",
            Scheduler::WeightedRoundRobin => "wrr",
            Scheduler::LeastConnections => "lc",
            Scheduler::WeightedLeastConnections => "wlc",
            Scheduler::LocalityLeastConnections => "lblc",
            Scheduler::LocalityReplicated => "lblcr",
            Scheduler::DestinationHash => "dh",
            Scheduler::SourceHash => "sh",
            Scheduler::ShortestExpectedDelay => "sed",
            Scheduler::NeverQueue => "nq",
            Scheduler::Failover => "fo",
            Scheduler::Overflow => "ovf",
            Scheduler::Maglev => "mh",
            Scheduler::TwoChoices => "twos",
        }
    }

    /// The scheduler of that name; [`Errno::NotFound`] if there is none.
    pub fn from_name(name: &str) -> Result<Self, Errno> {
        Self::ALL.iter().copied().find(|s| s.name() == name).ok_or(Errno::NotFound)
    }
}

bitflags::bitflags! {
    /// Flags of a service (IP_VS_SVC_F_*).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ServiceFlags: u32 {
        /// Clients stay with their destination for [`ServiceConfig::timeout`].
        const PERSISTENT = 0x01;
        /// The service is in the table: set by the balancer on every service.
        const HASHED = 0x02;
        /// Every packet of UDP is scheduled alone, and leaves no connection.
        const ONE_PACKET = 0x04;
        /// First flag of the scheduler: fallback of sh and mh; the others ignore it, as in Linux.
        const SCHEDULER_1 = 0x08;
        /// Second flag of the scheduler: the port counts for sh and mh.
        const SCHEDULER_2 = 0x10;
        /// Third flag of the scheduler: none has a use for it.
        const SCHEDULER_3 = 0x20;
        /// What is not known is kept, as Linux keeps it.
        const _ = !0;
    }
}

/// A persistence engine by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PersistenceEngine {
    /// Datagrams of one client with the same SIP Call-ID go to one destination. What has none is dropped.
    Sip,
}

impl PersistenceEngine {
    /// The name Linux knows it by.
    pub const fn name(self) -> &'static str {
        match self {
            PersistenceEngine::Sip => "sip",
        }
    }

    /// The engine of that name; [`Errno::NotFound`] if there is none.
    pub fn from_name(name: &str) -> Result<Self, Errno> {
        match name {
            "sip" => Ok(PersistenceEngine::Sip),
            _ => Err(Errno::NotFound),
        }
    }
}

/// What is configured of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceConfig {
    /// How destinations are chosen.
    pub scheduler: Scheduler,
    /// Flags.
    pub flags: ServiceFlags,
    /// Persistence timeout in seconds; of no effect without [`ServiceFlags::PERSISTENT`].
    pub timeout: u32,
    /// Which clients count as one for persistence. IPv4: the mask as a number in host order (255.255.255.255 is
    /// 0xffff_ffff). IPv6: the prefix length, 1 to 128.
    pub netmask: u32,
    /// The persistence engine.
    pub persistence_engine: Option<PersistenceEngine>,
}

impl ServiceConfig {
    /// The defaults of ipvsadm for a family, with this scheduler.
    pub const fn new(family: Family, scheduler: Scheduler) -> Self {
        let netmask = match family {
            Family::V4 => u32::MAX,
            Family::V6 => 128,
        };
        ServiceConfig { scheduler, flags: ServiceFlags::empty(), timeout: 0, netmask, persistence_engine: None }
    }
}

/// What names a destination within its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationKey {
    /// Address of the real server.
    pub address: IpAddr,
    /// Its port in host order; 0 means the virtual port.
    pub port: u16,
}

/// How packets get to a destination (IP_VS_CONN_F_FWD_MASK).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Forward {
    /// NAT: destination address and port are rewritten, and replies back.
    Masquerade = 0,
    /// The local stack. Not to be asked for ([`Errno::NotSupported`]): a destination with an address of our own is served by it,
    /// whatever its method is.
    Local = 1,
    /// A tunnel: the packet travels to the destination as it is, but for a hop, in a packet from us.
    Tunnel = 2,
    /// Direct routing: only the Ethernet destination changes.
    Direct = 3,
    /// Around the balancer. Not to be asked for ([`Errno::NotSupported`]): it is what becomes of connections to a service of a mark
    /// that has no destination, with the sysctl `cache_bypass`.
    Bypass = 4,
}

impl Forward {
    /// The method of `flags & 7`; [`Errno::Invalid`] for the rest.
    pub const fn from_flags(flags: u32) -> Result<Self, Errno> {
        match flags & 7 {
            0 => Ok(Forward::Masquerade),
            1 => Ok(Forward::Local),
            2 => Ok(Forward::Tunnel),
            3 => Ok(Forward::Direct),
            4 => Ok(Forward::Bypass),
            _ => Err(Errno::Invalid),
        }
    }
}

/// How a tunnel is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// 0 IPIP, 1 GUE, 2 GRE (IP_VS_CONN_F_TUNNEL_TYPE_*).
    pub kind: u8,
    /// Destination port of GUE, in host order.
    pub port: u16,
    /// IP_VS_TUNNEL_ENCAP_FLAG_*: 1 a checksum over everything, 2 the sender's checksum left to the receiver (GUE). Bits that
    /// are not known are kept and ignored, as in Linux.
    pub flags: u16,
}

impl Tunnel {
    /// [`Tunnel::kind`]: IP in IP.
    pub const IPIP: u8 = 0;
    /// [`Tunnel::kind`]: generic UDP encapsulation.
    pub const GUE: u8 = 1;
    /// [`Tunnel::kind`]: generic routing encapsulation.
    pub const GRE: u8 = 2;
    /// In [`Tunnel::flags`]: the outer header has a checksum.
    pub const CHECKSUM: u16 = 1;
    /// In [`Tunnel::flags`]: a transport checksum that is not complete is left to the other end of the tunnel.
    pub const REMOTE_CHECKSUM: u16 = 2;
}

/// What is configured of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestinationConfig {
    /// How packets get there.
    pub forward: Forward,
    /// Share of connections; 0 drains. Negative ones are refused with [`Errno::OutOfRange`].
    pub weight: i32,
    /// No new connections once there are this many; 0 for no limit.
    pub upper_threshold: u32,
    /// New ones again when there are fewer than this; 0 for three quarters of the upper threshold.
    pub lower_threshold: u32,
    /// How a tunnel is made.
    pub tunnel: Tunnel,
}

impl DestinationConfig {
    /// No thresholds, no tunnel.
    pub const fn new(forward: Forward, weight: i32) -> Self {
        let tunnel = Tunnel { kind: 0, port: 0, flags: 0 };
        DestinationConfig { forward, weight, upper_threshold: 0, lower_threshold: 0, tunnel }
    }
}

/// A service as listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceInfo {
    /// Its name.
    pub key: ServiceKey,
    /// Its configuration, [`ServiceFlags::HASHED`] set.
    pub config: ServiceConfig,
    /// How many destinations it has.
    pub destinations: usize,
    /// Its counters.
    pub stats: Stats,
    /// Its rates.
    pub rates: Rates,
}

/// A destination as listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestinationInfo {
    /// Its name.
    pub key: DestinationKey,
    /// Its configuration.
    pub config: DestinationConfig,
    /// Connections in an active state.
    pub active: u32,
    /// The other connections.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// Whether it takes no new connections because of its thresholds.
    pub overloaded: bool,
    /// Its counters.
    pub stats: Stats,
    /// Its rates.
    pub rates: Rates,
}

/// The timeouts `ipvsadm --set` changes, in seconds. When set, 0 means "as it was".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP connections in ESTABLISHED.
    pub tcp: u32,
    /// TCP connections in FIN_WAIT.
    pub tcp_fin: u32,
    /// UDP connections.
    pub udp: u32,
}
