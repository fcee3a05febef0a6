//! An IPVS-style L4 load balancer as pure logic: frames and the time in, verdicts out.
//!
//! A [`Balancer`] is given bursts of Ethernet frames and rewrites their headers in place; it balances TCP, UDP and SCTP over
//! IPv4 and IPv6 as Linux IPVS does, by NAT, direct routing or tunnels. It has no clock, does no I/O, has no global state, and
//! contains no unsafe code. Nothing is allocated for a packet: all tables have their size from the start.
//!
//! ```
//! use ringlet_balancer::*;
//!
//! let mut balancer = Balancer::new(Config {
//!     addresses: vec!["10.0.0.2/24".parse().unwrap()],
//!     gateways: vec!["10.0.0.1".parse().unwrap()],
//!     ..Config::new([0x52, 0x54, 0, 0x12, 0x34, 2], [1, 2])
//! });
//! let web = ServiceKey::tcp("10.0.0.100".parse().unwrap(), 80);
//! balancer.add_service(web, ServiceConfig::new(Family::V4, Scheduler::WeightedLeastConnections))?;
//! let server = DestinationKey { address: "10.0.0.11".parse().unwrap(), port: 80 };
//! balancer.add_destination(&web, server, DestinationConfig::new(Forward::Masquerade, 1))?;
//! assert_eq!(balancer.destinations(&web)?.count(), 1);
//! # Ok::<(), Errno>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod announce;
mod balancer;
mod checksum;
mod config;
mod connection;
pub mod control;
mod crc32c;
mod errno;
mod extra;
mod fragment;
mod frame;
mod ftp;
mod icmp;
pub mod ipvsadm;
mod limit;
mod mark;
mod neighbour;
mod packet;
mod path;
mod route;
pub mod scheduler;
mod service;
mod sip;
mod source;
mod stats;
mod sync;
mod syncookie;
pub mod sysctl;
mod time;
pub mod wire;

pub use announce::Announce;
pub use balancer::{Balancer, Counters};
pub use config::{Cidr, CidrError, Config};
pub use connection::{ConnectionInfo, SctpState, State, TcpState};
pub use errno::Errno;
pub use extra::{ExtraCounters, ExtraInfo, Extras, LocalPool, POOL_MAX, POOLS_MAX};
pub use mark::{MarkRule, RULES_MAX as MARK_RULES_MAX};
pub use packet::{NextHop, Offload, Packet, Partial, Reason, Sink, Verdict};
pub use service::{
    DestinationConfig, DestinationInfo, DestinationKey, Family, Forward, PersistenceEngine, Protocol, Scheduler,
    ServiceConfig, ServiceFlags, ServiceInfo, ServiceKey, Timeouts, Tunnel,
};
pub use source::SourceLimits;
pub use stats::{Rates, Stats};
pub use sync::{Daemon, DaemonRole, INTERFACE, SyncCounters};
pub use sysctl::Sysctls;
pub use time::Instant;
