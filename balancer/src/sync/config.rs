//! What a daemon is started with, and what is counted.

use core::net::{IpAddr, Ipv4Addr};

use crate::ipvsadm::Name;
use crate::{Config, Errno};

/// The name of the one interface there is, as ipvsadm takes it if none is named.
pub const INTERFACE: &str = "eth0";

/// The group daemons speak to if none is named (IP_VS_SYNC_GROUP).
pub(crate) const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 81));
/// The port, if none is named (IP_VS_SYNC_PORT).
pub(crate) const PORT: u16 = 8848;

/// Bytes of the headers in front of a message.
pub(super) const HEADERS_V4: usize = 20 + 8;
pub(super) const HEADERS_V6: usize = 40 + 8;
/// The MTU Linux reckons with for a master.
const USUAL_MTU: u16 = 1500;
/// The least a backup takes for a message's limit.
const LEAST_BACKUP: u16 = 1024;

/// Which of the two synchronization daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaemonRole {
    /// The one that sends (IP_VS_STATE_MASTER, 1).
    Master,
    /// The one that receives (IP_VS_STATE_BACKUP, 2).
    Backup,
}

impl DaemonRole {
    /// Its number (IP_VS_STATE_*).
    pub const fn number(self) -> u32 {
        match self {
            DaemonRole::Master => 1,
            DaemonRole::Backup => 2,
        }
    }

    /// The role of a number.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(DaemonRole::Master),
            2 => Some(DaemonRole::Backup),
            _ => None,
        }
    }

    /// Its name, as ipvsadm has it.
    pub const fn name(self) -> &'static str {
        match self {
            DaemonRole::Master => "master",
            DaemonRole::Backup => "backup",
        }
    }
}

/// A synchronization daemon as it is started, and as it is told of. What is 0 or missing when it is started gets its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Which.
    pub role: DaemonRole,
    /// `--mcast-interface`: [`INTERFACE`], for there is no other.
    pub interface: Name,
    /// `--syncid`: what a master's messages carry, in 8 bits; a backup takes only messages with its own, or with 0 all.
    pub syncid: u32,
    /// `--sync-maxlen`: bytes a message may have, UDP payload.
    pub max_len: u16,
    /// `--mcast-group`: 224.0.0.81 if there is none.
    pub group: Option<IpAddr>,
    /// `--mcast-port`: UDP port, host order; with the sysctl `sync_ports`, the first.
    pub port: u16,
    /// `--mcast-ttl`: TTL or hop limit of what is sent.
    pub ttl: u8,
}

impl Daemon {
    /// A daemon with all defaults.
    pub const fn new(role: DaemonRole) -> Self {
        let interface = match Name::new(INTERFACE) {
            Some(name) => name,
            None => unreachable!(),
        };
        Daemon { role, interface, syncid: 0, max_len: 0, group: None, port: 0, ttl: 0 }
    }

    /// The group.
    pub(crate) fn group(&self) -> IpAddr {
        self.group.unwrap_or(GROUP)
    }

    /// With its defaults, and its limit within bounds, as start_sync_thread of Linux has it; but that a master's message has to
    /// fit into one packet.
    pub(super) fn complete(self, config: &Config) -> Result<Self, Errno> {
        let group = self.group();
        if !group.is_multicast() {
            return Err(Errno::Invalid);
        }
        if self.interface.as_str() != INTERFACE {
            return Err(Errno::NoDevice);
        }
        let headers = if group.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 } as u16;
        let max_len = match (self.role, self.max_len) {
            (DaemonRole::Backup, 0) => config.mtu.max(USUAL_MTU) - headers,
            (DaemonRole::Backup, len) => len.clamp(LEAST_BACKUP, u16::MAX - headers),
            (DaemonRole::Master, len) => {
                let most = |mtu: u16| mtu.saturating_sub(headers).max(1);
                if len == 0 { most(USUAL_MTU.min(config.mtu)) } else { len.min(most(config.mtu)) }
            }
        };
        Ok(Daemon {
            max_len,
            group: Some(group),
            port: if self.port == 0 { PORT } else { self.port },
            ttl: self.ttl.max(1),
            ..self
        })
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the daemons have counted since the balancer began.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct SyncCounters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl SyncCounters {
            /// Their names, in order.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name),)*];

            /// Their values, in the order of [`SyncCounters::NAMES`].
            pub const fn values(&self) -> [u64; Self::NAMES.len()] {
                [$(self.$name,)*]
            }

            /// Counters of these values.
            pub const fn from_values(values: [u64; Self::NAMES.len()]) -> Self {
                let [$($name,)*] = values;
                SyncCounters { $($name,)* }
            }
        }
    };
}

counters! {
    /// Messages sent with connections in them.
    sent_messages,
    /// Connections and templates sent.
    sent_connections,
    /// Bytes of messages sent, headers of UDP and IP not included.
    sent_bytes,
    /// Connections that were to be sent and were not: more messages waited than `sync_qlen_max`.
    unsent_connections,
    /// Times all connections were sent.
    resyncs,
    /// Messages received with connections in them, of whatever syncid.
    received_messages,
    /// Bytes of messages received.
    received_bytes,
    /// Connections and templates made because of a message.
    created_connections,
    /// Connections and templates changed by a message.
    updated_connections,
    /// Connections in messages that say nothing new: of one that was replaced here.
    ignored_connections,
    /// Connections in messages that make no sense, or are none this balancer can have.
    refused_connections,
    /// Connections in messages for which the table has no room.
    full_connections,
    /// Messages that cannot be read, or not to their end.
    malformed_messages,
    /// Messages of another syncid.
    foreign_messages,
    /// Messages that other Ringlets have sent and that have not come.
    lost_messages,
}
