//! The "IPVS" generic-netlink family: its commands and the types of its attributes.
//!
//! include/uapi/linux/ip_vs.h has the numbers.

/// The name of the family.
pub const FAMILY: &[u8] = b"IPVS";
/// The family's number here. Linux gives one out at boot; ours is always this.
pub const FAMILY_ID: u16 = 0x1d;
/// The family's version (IPVS_GENL_VERSION).
pub const VERSION: u8 = 1;
/// The version of IPVS that is spoken: 1.2.1 (IP_VS_VERSION_CODE).
pub const IPVS_VERSION: u32 = 0x01_02_01;
/// The highest attribute type of a command.
pub const COMMAND_ATTRIBUTE_MAX: u16 = 6;
/// AF_INET.
pub const AF_INET: u16 = 2;
/// AF_INET6.
pub const AF_INET6: u16 = 10;
/// The longest name of a scheduler or persistence engine, without its NUL (IP_VS_SCHEDNAME_MAXLEN - 1).
pub const NAME_MAX: usize = 15;

/// What a message of the family asks for or carries (IPVS_CMD_*). Replies to GET commands are NEW_SERVICE, NEW_DEST,
/// SET_CONFIG and SET_INFO messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Command {
    /// Adds a service; also carries one in a reply.
    NewService = 1,
    /// Changes a service.
    SetService = 2,
    /// Removes a service.
    DelService = 3,
    /// Asks for one service, or for all as a dump.
    GetService = 4,
    /// Adds a destination; also carries one in a reply.
    NewDest = 5,
    /// Changes a destination.
    SetDest = 6,
    /// Removes a destination.
    DelDest = 7,
    /// Asks for a service's destinations as a dump.
    GetDest = 8,
    /// Starts a synchronization daemon.
    NewDaemon = 9,
    /// Stops one.
    DelDaemon = 10,
    /// Asks which run, as a dump.
    GetDaemon = 11,
    /// Changes timeouts; also carries them in a reply.
    SetConfig = 12,
    /// Asks for the timeouts.
    GetConfig = 13,
    /// Carries the version and the table's size in a reply.
    SetInfo = 14,
    /// Asks for them.
    GetInfo = 15,
    /// Zeroes the counters of one service or of all.
    Zero = 16,
    /// Removes every service.
    Flush = 17,
    /// Ringlet's own: asks for the connections as a dump. Linux lists them in /proc/net/ip_vs_conn instead.
    GetConnection = 64,
    /// Ringlet's own: carries a connection in a reply.
    NewConnection = 65,
    /// Ringlet's own: asks for one knob of net.ipv4.vs, or for all as a dump.
    GetSysctl = 66,
    /// Ringlet's own: gives a knob a value; also carries one in a reply.
    SetSysctl = 67,
    /// Ringlet's own: adds a rule that gives packets a mark; also carries one in a reply.
    NewMark = 68,
    /// Ringlet's own: removes such a rule.
    DelMark = 69,
    /// Ringlet's own: asks for the rules as a dump.
    GetMark = 70,
    /// Ringlet's own: removes every rule.
    FlushMarks = 71,
    /// Ringlet's own: says what a service does that IPVS cannot; also carries that in a reply.
    SetExtra = 80,
    /// Ringlet's own: asks for that of all services that do something as a dump.
    GetExtra = 81,
}

impl Command {
    /// Every command of Linux, by its number less one, and then our own.
    pub const ALL: [Command; 27] = [
        Command::NewService,
        Command::SetService,
        Command::DelService,
        Command::GetService,
        Command::NewDest,
        Command::SetDest,
        Command::DelDest,
        Command::GetDest,
        Command::NewDaemon,
        Command::DelDaemon,
        Command::GetDaemon,
        Command::SetConfig,
        Command::GetConfig,
        Command::SetInfo,
        Command::GetInfo,
        Command::Zero,
        Command::Flush,
        Command::GetConnection,
        Command::NewConnection,
        Command::GetSysctl,
        Command::SetSysctl,
        Command::NewMark,
        Command::DelMark,
        Command::GetMark,
        Command::FlushMarks,
        Command::SetExtra,
        Command::GetExtra,
    ];

    /// The command of a number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|command| *command as u8 == number)
    }
}

/// Attributes of a command (IPVS_CMD_ATTR_*).
pub mod command {
    /// Nest of [`service`](super::service).
    pub const SERVICE: u16 = 1;
    /// Nest of [`destination`](super::destination).
    pub const DEST: u16 = 2;
    /// Nest of [`daemon`](super::daemon).
    pub const DAEMON: u16 = 3;
    /// Timeout of established TCP connections in seconds, u32.
    pub const TIMEOUT_TCP: u16 = 4;
    /// Timeout of TCP connections in FIN_WAIT in seconds, u32.
    pub const TIMEOUT_TCP_FIN: u16 = 5;
    /// Timeout of UDP connections in seconds, u32.
    pub const TIMEOUT_UDP: u16 = 6;
    /// Ringlet's own: nest of [`connection`](super::connection).
    pub const CONNECTION: u16 = 64;
    /// Ringlet's own: nest of [`sysctl`](super::sysctl).
    pub const SYSCTL: u16 = 65;
    /// Ringlet's own: nest of [`mark`](super::mark).
    pub const MARK: u16 = 66;
    /// Ringlet's own: nest of [`extra`](super::extra).
    pub const EXTRA: u16 = 80;
}

/// Attributes of what a service does that IPVS cannot: Ringlet's own.
pub mod extra {
    /// Full NAT: the first address of the pool, 16 bytes; IPv4 in the first four.
    pub const POOL_FIRST: u16 = 1;
    /// The last one, 16 bytes.
    pub const POOL_LAST: u16 = 2;
    /// Its first port, be16.
    pub const POOL_PORT_FIRST: u16 = 3;
    /// Its last port, be16.
    pub const POOL_PORT_LAST: u16 = 4;
    /// In replies: connections refused because nothing of the pool was free, u64.
    pub const POOL_EXHAUSTED: u16 = 5;
    /// Connections a source may have, u32; 0 or missing for any number.
    pub const SOURCE_CONNECTIONS: u16 = 6;
    /// New connections a second a source may make, u32; 0 or missing for any number.
    pub const SOURCE_RATE: u16 = 7;
    /// New connections at once, u32.
    pub const SOURCE_BURST: u16 = 8;
    /// Bits of an IPv4 address that tell sources from each other, u8.
    pub const SOURCE_PREFIX_V4: u16 = 9;
    /// Bits of an IPv6 address, u8.
    pub const SOURCE_PREFIX_V6: u16 = 10;
    /// Whether who is over a limit is told, u8.
    pub const SOURCE_RESET: u16 = 11;
    /// In replies: connections refused because their source was over a limit, u64.
    pub const SOURCE_LIMITED: u16 = 12;
    /// How servers hear of their clients, u8: 1 TCP option 254, 2 PROXY protocol version 2; 0 or missing for not at all.
    pub const ANNOUNCE: u16 = 13;
    /// Half-open connections from which on SYNs are answered by cookies, u32; missing for never.
    pub const SYN_COOKIES: u16 = 14;
    /// In replies: SYNs answered by a cookie, u64.
    pub const COOKIES_SENT: u16 = 15;
    /// In replies: connections that began by a cookie, u64.
    pub const COOKIES_TAKEN: u16 = 16;
    /// In replies: ACKs that brought no cookie of ours, u64.
    pub const COOKIES_WRONG: u16 = 17;
}

/// Attributes of a synchronization daemon (IPVS_DAEMON_ATTR_*).
pub mod daemon {
    /// Which: 1 the master, 2 the backup, u32.
    pub const STATE: u16 = 1;
    /// Name of the interface, string.
    pub const MCAST_IFN: u16 = 2;
    /// Its syncid, u32.
    pub const SYNC_ID: u16 = 3;
    /// Bytes a message may have, u16.
    pub const SYNC_MAXLEN: u16 = 4;
    /// Group, be32.
    pub const MCAST_GROUP: u16 = 5;
    /// Group of IPv6, 16 bytes.
    pub const MCAST_GROUP6: u16 = 6;
    /// UDP port, u16.
    pub const MCAST_PORT: u16 = 7;
    /// TTL or hop limit, u8.
    pub const MCAST_TTL: u16 = 8;
    /// Ringlet's own, in replies: nest of [`SyncCounters`](crate::SyncCounters), each u64 by its place from 1.
    pub const COUNTERS: u16 = 64;
}

/// Attributes of a rule that gives packets a mark: Ringlet's own.
pub mod mark {
    /// The mark, u32.
    pub const MARK: u16 = 1;
    /// Address family, u16.
    pub const AF: u16 = 2;
    /// Protocol number, u16; 0 for TCP and UDP.
    pub const PROTOCOL: u16 = 3;
    /// Network packets come from, 16 bytes; IPv4 in the first four.
    pub const SOURCE_ADDR: u16 = 4;
    /// Bits of it that count, u8.
    pub const SOURCE_PREFIX: u16 = 5;
    /// Network packets go to, 16 bytes.
    pub const DEST_ADDR: u16 = 6;
    /// Bits of it that count, u8.
    pub const DEST_PREFIX: u16 = 7;
    /// First port packets come from, be16.
    pub const SOURCE_PORT_FIRST: u16 = 8;
    /// Last one, be16.
    pub const SOURCE_PORT_LAST: u16 = 9;
    /// First port packets go to, be16.
    pub const DEST_PORT_FIRST: u16 = 10;
    /// Last one, be16.
    pub const DEST_PORT_LAST: u16 = 11;
}

/// Attributes of a knob: Ringlet's own.
pub mod sysctl {
    /// Its name without "net.ipv4.vs.", string.
    pub const NAME: u16 = 1;
    /// Its value, i32.
    pub const VALUE: u16 = 2;
    /// The second of two values, i32: of `sync_threshold`, in requests.
    pub const SECOND: u16 = 3;
}

/// Attributes of a connection: Ringlet's own.
pub mod connection {
    /// Address family of client and service, u16.
    pub const AF: u16 = 1;
    /// Protocol number, u16.
    pub const PROTOCOL: u16 = 2;
    /// Address of the client, 16 bytes; IPv4 in the first four.
    pub const CLIENT_ADDR: u16 = 3;
    /// Port of the client, be16.
    pub const CLIENT_PORT: u16 = 4;
    /// Virtual address, 16 bytes.
    pub const VIRTUAL_ADDR: u16 = 5;
    /// Virtual port, be16.
    pub const VIRTUAL_PORT: u16 = 6;
    /// Address of the destination, 16 bytes.
    pub const DEST_ADDR: u16 = 7;
    /// Port of the destination, be16.
    pub const DEST_PORT: u16 = 8;
    /// Forwarding method, u32.
    pub const FWD_METHOD: u16 = 9;
    /// State of a TCP connection, u16 (IP_VS_TCP_S_*).
    pub const STATE: u16 = 10;
    /// Seconds left without a further packet, u32.
    pub const EXPIRES: u16 = 11;
    /// Flags, u32 (IP_VS_CONN_F_TEMPLATE 0x1000, IP_VS_CONN_F_SYNC 0x0020); none if it is missing. The state of a template is 0 or, once a
    /// connection of it came about, 1.
    pub const FLAGS: u16 = 12;
    /// Mark of the service, u32; missing if it has none.
    pub const FWMARK: u16 = 13;
    /// Port of the service, be16; missing if it has a mark, or the virtual port.
    pub const SERVICE_PORT: u16 = 14;
    /// Address family of the destination, u16; missing if it is that of the client.
    pub const DEST_AF: u16 = 15;
    /// Full NAT: the address that stands for the client's, 16 bytes; missing if none does.
    pub const LOCAL_ADDR: u16 = 32;
    /// Its port, be16.
    pub const LOCAL_PORT: u16 = 33;
}

/// Attributes of a service (IPVS_SVC_ATTR_*).
pub mod service {
    /// Address family, u16.
    pub const AF: u16 = 1;
    /// Protocol number, u16.
    pub const PROTOCOL: u16 = 2;
    /// Virtual address, 16 bytes; IPv4 in the first four.
    pub const ADDR: u16 = 3;
    /// Virtual port, be16.
    pub const PORT: u16 = 4;
    /// Firewall mark, u32, in place of protocol, address and port.
    pub const FWMARK: u16 = 5;
    /// Name of the scheduler, string.
    pub const SCHED_NAME: u16 = 6;
    /// Flags and the mask of those that are set, two u32.
    pub const FLAGS: u16 = 7;
    /// Persistence timeout in seconds, u32.
    pub const TIMEOUT: u16 = 8;
    /// Persistence mask: be32 for IPv4, prefix length as u32 for IPv6.
    pub const NETMASK: u16 = 9;
    /// Nest of [`stats`](super::stats) in 32 bits.
    pub const STATS: u16 = 10;
    /// Name of the persistence engine, string.
    pub const PE_NAME: u16 = 11;
    /// Nest of [`stats`](super::stats) in 64 bits.
    pub const STATS64: u16 = 12;
}

/// Attributes of a destination (IPVS_DEST_ATTR_*).
pub mod destination {
    /// Address, 16 bytes; IPv4 in the first four.
    pub const ADDR: u16 = 1;
    /// Port, be16.
    pub const PORT: u16 = 2;
    /// Forwarding method, u32.
    pub const FWD_METHOD: u16 = 3;
    /// Weight, i32.
    pub const WEIGHT: u16 = 4;
    /// Upper threshold, u32.
    pub const U_THRESH: u16 = 5;
    /// Lower threshold, u32.
    pub const L_THRESH: u16 = 6;
    /// Active connections, u32.
    pub const ACTIVE_CONNS: u16 = 7;
    /// Other connections, u32.
    pub const INACT_CONNS: u16 = 8;
    /// Persistence templates, u32.
    pub const PERSIST_CONNS: u16 = 9;
    /// Nest of [`stats`](super::stats) in 32 bits.
    pub const STATS: u16 = 10;
    /// Address family, u16; the service's if it is missing.
    pub const ADDR_FAMILY: u16 = 11;
    /// Nest of [`stats`](super::stats) in 64 bits.
    pub const STATS64: u16 = 12;
    /// Type of the tunnel, u8.
    pub const TUN_TYPE: u16 = 13;
    /// Port of the tunnel, be16.
    pub const TUN_PORT: u16 = 14;
    /// Flags of the tunnel, u16.
    pub const TUN_FLAGS: u16 = 15;
}

/// Attributes of counters and rates (IPVS_STATS_ATTR_*). Bytes are u64 in both forms; the rest is u32 or u64.
pub mod stats {
    /// Connections.
    pub const CONNS: u16 = 1;
    /// Packets from clients.
    pub const INPKTS: u16 = 2;
    /// Packets to clients.
    pub const OUTPKTS: u16 = 3;
    /// Bytes from clients.
    pub const INBYTES: u16 = 4;
    /// Bytes to clients.
    pub const OUTBYTES: u16 = 5;
    /// Connections a second.
    pub const CPS: u16 = 6;
    /// Packets from clients a second.
    pub const INPPS: u16 = 7;
    /// Packets to clients a second.
    pub const OUTPPS: u16 = 8;
    /// Bytes from clients a second.
    pub const INBPS: u16 = 9;
    /// Bytes to clients a second.
    pub const OUTBPS: u16 = 10;
}

/// Attributes of the information (IPVS_INFO_ATTR_*).
pub mod info {
    /// Version code, u32.
    pub const VERSION: u16 = 1;
    /// Size of the connection table, u32.
    pub const CONN_TAB_SIZE: u16 = 2;
}

/// The controller family "nlctrl" (linux/genetlink.h), which tells the number of a family.
pub mod controller {
    /// Its number: the type of its messages (GENL_ID_CTRL).
    pub const ID: u16 = 16;
    /// Its version.
    pub const VERSION: u8 = 2;
    /// CTRL_CMD_NEWFAMILY: the reply.
    pub const NEW_FAMILY: u8 = 1;
    /// CTRL_CMD_GETFAMILY: the request.
    pub const GET_FAMILY: u8 = 3;
    /// CTRL_ATTR_FAMILY_ID, u16.
    pub const FAMILY_ID: u16 = 1;
    /// CTRL_ATTR_FAMILY_NAME, string.
    pub const FAMILY_NAME: u16 = 2;
    /// CTRL_ATTR_VERSION, u32.
    pub const FAMILY_VERSION: u16 = 3;
    /// CTRL_ATTR_HDRSIZE, u32.
    pub const HEADER_SIZE: u16 = 4;
    /// CTRL_ATTR_MAXATTR, u32.
    pub const MAX_ATTRIBUTE: u16 = 5;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_go_by_their_numbers() {
        for (index, command) in Command::ALL.into_iter().enumerate() {
            assert!(command as usize == index + 1 || command as usize >= 64);
            assert_eq!(Command::from_number(command as u8), Some(command));
        }
        assert_eq!((Command::from_number(0), Command::from_number(18)), (None, None));
    }
}
