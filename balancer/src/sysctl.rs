//! The knobs Linux has under net.ipv4.vs, by its names and with its defaults.

use crate::Errno;

/// What the name of a knob begins with.
pub const PREFIX: &str = "net.ipv4.vs.";

macro_rules! knobs {
    ($($(#[$doc:meta])* $name:ident = $default:literal in $least:literal ..= $most:expr,)*) => {
        /// The knobs. There are no more than are honoured.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Sysctls {
            $($(#[$doc])* pub $name: i32,)*
        }

        impl Default for Sysctls {
            fn default() -> Self {
                Sysctls { $($name: $default,)* }
            }
        }

        impl Sysctls {
            /// Every name, without [`PREFIX`], in alphabetical order.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name),)*];

            /// The value of a knob.
            pub fn get(&self, name: &str) -> Option<i32> {
                match name {
                    $(stringify!($name) => Some(self.$name),)*
                    _ => None,
                }
            }

            /// Gives a knob a value.
            ///
            /// # Errors
            /// [`Errno::NotFound`] if there is none of that name; [`Errno::Invalid`] for a value it cannot have.
            pub(crate) fn set(&mut self, name: &str, value: i32) -> Result<(), Errno> {
                let (knob, range) = match name {
                    $(stringify!($name) => (&mut self.$name, $least..=$most),)*
                    _ => return Err(Errno::NotFound),
                };
                if !range.contains(&value) {
                    return Err(Errno::Invalid);
                }
                let old = core::mem::replace(knob, value);
                if self.is_consistent() {
                    return Ok(());
                }
                match name {
                    $(stringify!($name) => self.$name = old,)*
                    _ => {}
                }
                Err(Errno::Invalid)
            }
        }
    };
}

knobs! {
    /// With `drop_packet` 3, one of so many packets that begin a connection is dropped; 0: none.
    am_droprate = 10 in 0..=i32::MAX,
    /// Memory is scarce when less than so many pages of 4 KiB are free, or than a quarter of all, whichever is less. The
    /// memory that is meant here is that of the connection table, 64 connections a page; Linux means all the machine has.
    amemthresh = 1024 in 0..=i32::MAX,
    /// While a backup daemon runs nothing is balanced here: packets of clients are the local stack's.
    backup_only = 0 in 0..=i32::MAX,
    /// What begins a connection to a service of a mark that has no destination left goes around the balancer: to where it is
    /// addressed. Not if that is this machine.
    cache_bypass = 0 in 0..=i32::MAX,
    /// When a client uses the ports of an old connection for a new one: 0 the old one goes on; 1 if it is in TIME_WAIT or
    /// CLOSE, it ends and the new one is scheduled; 2 (a bit) also if it is in FIN_WAIT and replies do not come by.
    conn_reuse_mode = 1 in 0..=i32::MAX,
    /// Every second a part of the table is looked through for connections that hardly live: 0 never, 1 when memory is
    /// scarce (it is 2 then, and back to 1), 3 always.
    drop_entry = 0 in 0..=3,
    /// Packets that begin a connection are dropped now and then: 0 never, 1 and 2 when memory is scarce, 3 always.
    drop_packet = 0 in 0..=3,
    /// Connections of a destination that was removed end at once, and their packets are scheduled anew; so are new
    /// connections on ports of old ones whose destination has weight 0.
    expire_nodest_conn = 0 in 0..=i32::MAX,
    /// Clients leave a destination of weight 0 in spite of persistence.
    expire_quiescent_template = 0 in 0..=i32::MAX,
    /// The port of the services over whose connections under NAT FTP is spoken: what is said there of data connections is listened to,
    /// and rewritten; 0: of none. It is not Linux's, where the module ip_vs_ftp does this once it is loaded (its parameter `ports`).
    ftp_port = 21 in 0..=65535,
    /// Packets that come out of a tunnel on this machine are not balanced again. They never are here, whatever the value: no
    /// tunnel ends here.
    ignore_tunneled = 0 in 0..=i32::MAX,
    /// Seconds after which lblc forgets an address that nobody asks for.
    lblc_expiration = 86400 in 0..=i32::MAX / 1000,
    /// Seconds after which lblcr takes the most loaded destination out of a set that has not changed.
    lblcr_expiration = 86400 in 0..=i32::MAX / 1000,
    /// A server under NAT is told, by an ICMP error, that what it sent is of no connection.
    nat_icmp_send = 0 in 0..=i32::MAX,
    /// What is sent by a tunnel over IPv4 may not be fragmented if it came so, and who sends more than fits into the tunnel is told.
    /// 0: all of it may, and is.
    pmtu_disc = 1 in 0..=i32::MAX,
    /// Rates are estimated. 0: they stay as they are.
    run_estimation = 1 in 0..=i32::MAX,
    /// ICMP errors about connections there are not begin them, so that they reach the server that the next packet will.
    schedule_icmp = 0 in 0..=i32::MAX,
    /// TCP's states are those of a defence against SYN floods, in which only the client's part of the handshake counts: 0
    /// never, 1 and 2 when memory is scarce, 3 always.
    secure_tcp = 0 in 0..=3,
    /// An SCTP association may begin with any packet but ABORT.
    sloppy_sctp = 0 in 0..=i32::MAX,
    /// A TCP connection may begin with any packet but RST.
    sloppy_tcp = 0 in 0..=i32::MAX,
    /// The second number of `sync_threshold`: a connection is told again every so many packets of its client; 0: only once.
    sync_period = 50 in 0..=i32::MAX,
    /// Only templates are told, and not the connections that come from them.
    sync_persist_mode = 0 in 0..=i32::MAX,
    /// UDP ports messages are spread over, from the daemon's on: a power of two. It counts when the first daemon is started.
    sync_ports = 1 in 1..=i32::MAX,
    /// Messages that wait to be sent, at most; what is above is lost. Memory is taken for as many as this says when a master is
    /// started, and no more than 4096.
    sync_qlen_max = 256 in 0..=i32::MAX,
    /// Seconds before the end it was told a connection has changed by so much that it is told again; 0: it is told by its packets
    /// only, and templates with each packet.
    sync_refresh_period = 0 in 0..=i32::MAX / 250,
    /// How often what `sync_refresh_period` lets be told is told again, an eighth of that apart.
    sync_retries = 0 in 0..=3,
    /// Bytes of messages that are sent in one go; the rest follows two milliseconds later. 0: all.
    sync_sock_size = 0 in 0..=i32::MAX,
    /// The packets of its client after which a connection is told.
    sync_threshold = 3 in 0..=i32::MAX,
    /// The version of messages that are sent.
    sync_version = 1 in 0..=1,
}

impl Sysctls {
    /// Whether what belongs together goes together, as Linux demands it.
    fn is_consistent(&self) -> bool {
        (self.sync_period == 0 || self.sync_threshold < self.sync_period) && self.sync_ports.count_ones() == 1
    }

    /// Gives `sync_threshold` both its numbers at once.
    pub(crate) fn set_threshold(&mut self, threshold: i32, period: i32) -> Result<(), Errno> {
        let new = Sysctls { sync_threshold: threshold, sync_period: period, ..*self };
        if threshold < 0 || period < 0 || !new.is_consistent() {
            return Err(Errno::Invalid);
        }
        *self = new;
        Ok(())
    }

    /// The name as it is in [`Sysctls::NAMES`]: with or without [`PREFIX`], with dots or, as sysctl takes it too, slashes.
    pub fn find(name: &str) -> Option<&'static str> {
        let short = name.strip_prefix(PREFIX).or_else(|| name.strip_prefix("net/ipv4/vs/")).unwrap_or(name);
        Self::NAMES.iter().find(|known| **known == short).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_every_form() {
        for name in ["sloppy_tcp", "net.ipv4.vs.sloppy_tcp", "net/ipv4/vs/sloppy_tcp"] {
            assert_eq!(Sysctls::find(name), Some("sloppy_tcp"));
        }
        assert_eq!((Sysctls::find("net.ipv4.ip_forward"), Sysctls::find("")), (None, None));
        assert!(Sysctls::NAMES.is_sorted());
    }

    #[test]
    fn each_has_its_default_and_takes_only_what_it_can_be() {
        let mut knobs = Sysctls::default();
        for name in Sysctls::NAMES {
            let default = knobs.get(name).unwrap();
            assert_eq!(knobs.set(name, -1), Err(Errno::Invalid));
            assert_eq!(knobs.set(name, default), Ok(()));
        }
        assert_eq!(knobs, Sysctls::default());
        assert_eq!((knobs.set("drop_entry", 4), knobs.set("drop_entry", 3)), (Err(Errno::Invalid), Ok(())));
        assert_eq!(knobs.get("drop_entry"), Some(3));
        let mut set = |name, value| knobs.set(name, value);
        assert_eq!((set("sync_threshold", 50), set("sync_threshold", 49)), (Err(Errno::Invalid), Ok(())));
        assert_eq!((set("sync_period", 49), set("sync_period", 0)), (Err(Errno::Invalid), Ok(())));
        assert_eq!((set("sync_ports", 3), set("sync_ports", 4)), (Err(Errno::Invalid), Ok(())));
        assert_eq!((knobs.set_threshold(3, 3), knobs.set_threshold(2, 3)), (Err(Errno::Invalid), Ok(())));
        assert_eq!((knobs.sync_threshold, knobs.sync_period), (2, 3));
        assert_eq!((knobs.set("nosuch", 1), knobs.get("nosuch")), (Err(Errno::NotFound), None));
    }
}
