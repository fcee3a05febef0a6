//! A frame on its way through the balancer: what comes in, what is to become of it, and what is sent besides.

use core::net::IpAddr;

use crate::frame::ETHERNET;

/// A transport checksum that is not complete: its field holds the folded sum of the pseudo-header only (not
/// complemented), and whoever sends the frame on sums from `start` to the end of the frame and stores the complement
/// (VIRTIO_NET_HDR_F_NEEDS_CSUM, virtio 1.2 section 5.1.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    /// Where summing starts, in bytes from the start of the Ethernet frame.
    pub start: u16,
    /// Where the field lies, in bytes from `start`.
    pub offset: u16,
}

/// What the device said about a frame and what it is to be told again when the frame goes on.
///
/// The balancer may change this (it clears `partial` when it completed a checksum itself): the caller puts the new
/// value into the header it transmits with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The transport checksum is to be completed by the sender.
    pub partial: Option<Partial>,
    /// Payload bytes of each segment if this is a super-frame (TSO, USO, UFO), else 0. Super-frames are rewritten as they
    /// are and may be longer than the MTU.
    pub gso_size: u16,
    /// The super-frame is one UDP datagram that is cut into IP fragments (UFO): `gso_size` counts IP payload then.
    pub fragments: bool,
    /// The device has verified the transport checksum.
    pub data_valid: bool,
}

/// One frame of a burst.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The first bytes of the Ethernet frame, contiguous: all headers (at least 2048 bytes, or all there are). Headers
    /// are rewritten here.
    pub head: &'a mut [u8],
    /// What lies in front of `head` in the same memory and belongs to nobody: headers of tunnels, up to 60 bytes, are
    /// written at its end, and the head moves there where a reply of FTP becomes longer. A frame that has too little room for that is
    /// dropped.
    pub room: &'a mut [u8],
    /// Where the frame begins now, in bytes from the start of `head`: 0 when it comes in, and mostly afterwards. Below
    /// that, so many bytes at the end of `room` belong to the frame; above, so many at the start of `head` do no more.
    /// Offsets in `offload` count from here.
    pub start: i16,
    /// If not 0: the frame is an IPv4 packet now that is too large for its way. It is to be sent in IP fragments of so many bytes of
    /// payload at most, a multiple of 8. Set by [`Balancer::process`](crate::Balancer::process), for tunnels only.
    pub fragment: u16,
    /// Bytes of the whole frame, Ethernet header included, frame check sequence not. At least `head.len()`.
    pub len: usize,
    /// Checksum and segmentation metadata, in and out.
    pub offload: Offload,
    /// What is to be done with the frame; set by [`Balancer::process`](crate::Balancer::process).
    pub verdict: Verdict,
}

impl<'a> Packet<'a> {
    /// A frame that lies in `head` as a whole, without room in front of it.
    pub fn new(head: &'a mut [u8]) -> Self {
        Self::with_room(&mut [], head)
    }

    /// A frame that lies in `head` as a whole, with `room` in front of it.
    pub fn with_room(room: &'a mut [u8], head: &'a mut [u8]) -> Self {
        let len = head.len();
        Packet { head, room, start: 0, fragment: 0, len, offload: Offload::default(), verdict: Verdict::Local }
    }

    /// The Ethernet header of the frame as it is now.
    #[inline(always)]
    pub(crate) fn ethernet(&mut self) -> Option<&mut [u8; ETHERNET]> {
        if self.start == 0 { self.head.first_chunk_mut() } else { self.moved() }
    }

    /// Gives the Ethernet header of the frame as it is now to be changed, be it in one piece or partly in the room.
    #[cold]
    pub(crate) fn with_ethernet<R>(&mut self, change: impl FnOnce(&mut [u8; ETHERNET]) -> R) -> Option<R> {
        let in_room = usize::from(self.start.min(0).unsigned_abs());
        if !(1..ETHERNET).contains(&in_room) {
            return self.ethernet().map(change);
        }
        let room = self.room.len().checked_sub(in_room).map(|start| &mut self.room[start..])?;
        let head = self.head.get_mut(..ETHERNET - in_room)?;
        let mut ethernet = [0; ETHERNET];
        ethernet[..in_room].copy_from_slice(room);
        ethernet[in_room..].copy_from_slice(head);
        let result = change(&mut ethernet);
        room.copy_from_slice(&ethernet[..in_room]);
        head.copy_from_slice(&ethernet[in_room..]);
        Some(result)
    }

    /// The same, where it does not begin with the head: `None` if it lies in two pieces.
    #[inline(never)]
    fn moved(&mut self) -> Option<&mut [u8; ETHERNET]> {
        match usize::try_from(self.start) {
            Ok(start) => self.head.get_mut(start..)?.first_chunk_mut(),
            // A tunnel's headers are longer than this one, which thus lies in the room as a whole; a few bytes that FTP took
            // are not.
            Err(_) => {
                let start = self.room.len().checked_sub(self.start.unsigned_abs().into())?;
                self.room[start..].first_chunk_mut()
            }
        }
    }
}

/// The address frames are sent to on the local network: a destination, or the gateway towards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop(pub IpAddr);

/// What is to be done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it: every header is in place.
    Transmit,
    /// Hand it to the local stack, unchanged.
    Local,
    /// Forget it: it was for the balancer itself, which has done with it what there was to do.
    Taken,
    /// Forget it; counted by reason.
    Drop(Reason),
    /// Forget it: the balancer has a copy, and sends that on itself ([`Sink::transmit`]) or drops it later.
    Held,
    /// Keep it: it is ready but for the Ethernet addresses, of which one is being asked for. When
    /// [`Sink::resolved`] names this next hop, give the frame to [`Balancer::complete`](crate::Balancer::complete); when
    /// [`Sink::unreachable`] does, to [`Balancer::undeliverable`](crate::Balancer::undeliverable), and drop it. The caller bounds how many frames it keeps and drops the rest.
    Wait(NextHop),
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a frame was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason, in the order of its counter.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// A short name in lower case, for metrics.
            pub const fn label(self) -> &'static str {
                match self { $(Reason::$name => $label,)* }
            }
        }
    };
}

reasons! {
    /// Shorter than its headers say, or a header whose lengths contradict each other.
    Malformed = "malformed",
    /// The checksum of an SCTP packet is left to who sends it on, who cannot make it, and the packet is not here as a whole.
    PartialChecksum = "partial_checksum",
    /// The IPv4 header checksum is wrong.
    BadHeaderChecksum = "bad_header_checksum",
    /// The checksum of an ICMP error that would have to be rewritten is wrong.
    BadChecksum = "bad_checksum",
    /// Neither IPv4, IPv6 nor ARP.
    EtherType = "ether_type",
    /// Sent to somebody else's Ethernet address.
    NotToUs = "not_to_us",
    /// The source address cannot be a source (multicast, broadcast, loopback, one of our own).
    BadSource = "bad_source",
    /// For an address that is not ours, and part of no connection: the balancer is no router.
    NotOurs = "not_ours",
    /// An IP fragment that contradicts others of its datagram, has come before, or is too large to be held.
    Fragment = "fragment",
    /// An IP fragment that was held, and the first of its datagram did not come in time, or others needed the room.
    FragmentLost = "fragment_lost",
    /// No destination is available (answered with ICMP port unreachable).
    NoDestination = "no_destination",
    /// The destination of this connection was removed from its service.
    DestinationGone = "destination_gone",
    /// A packet that would have begun a connection was dropped by the defence against floods (sysctl `drop_packet`).
    Defense = "defense",
    /// A packet to a service with a persistence engine has not what that looks for: no Call-ID, say.
    PersistenceEngine = "persistence_engine",
    /// The connection table is full.
    TableFull = "table_full",
    /// The source has as many connections as it may have, or makes them too fast.
    SourceLimit = "source_limit",
    /// It was sent on in another frame, with an option in it.
    Replaced = "replaced",
    /// A SYN that was answered by a cookie, or the ACK that brought one back.
    SynCookie = "syn_cookie",
    /// Of a connection that began with a cookie, and whose server has not answered yet; or out of turn. With SYN cookies also of one that
    /// is half open, and that acknowledges nothing its server has said.
    Opening = "opening",
    /// A SYN that carries data, where something is to come before that (PROXY protocol, TOA).
    EarlyData = "early_data",
    /// No address and port of the pool that stands for clients is free towards this server (full NAT).
    PoolExhausted = "pool_exhausted",
    /// TTL or hop limit has run out (answered with ICMP time exceeded).
    TtlExceeded = "ttl_exceeded",
    /// Larger than the MTU and not to be fragmented (answered with ICMP), or not fragmented by this balancer.
    TooBig = "too_big",
    /// No route leads to the next hop.
    NoRoute = "no_route",
    /// The next hop does not answer.
    Unreachable = "unreachable",
    /// Bytes of a server of FTP that come before others that are missing: what it says is listened to in order, and both come again.
    OutOfOrder = "out_of_order",
    /// An error about a tunnel's packet that is not sent on because of the rate limit.
    Limited = "limited",
    /// There is no room in front of the frame for the headers of a tunnel.
    NoRoom = "no_room",
}

impl Reason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();
}

/// Where the balancer puts what it has to say besides the verdicts.
pub trait Sink {
    /// Sends a whole Ethernet frame made by the balancer (ARP, NDP, ICMP, TCP, IGMP, messages of synchronization), or an IP fragment it has
    /// held: at most
    /// [`Config::mtu`](crate::Config::mtu) and 14 bytes. Every checksum is in place. The bytes are the balancer's: copy them. A frame that cannot be sent may be dropped.
    fn transmit(&mut self, frame: &[u8]);

    /// The next hop is known now: give its waiting frames to [`Balancer::complete`](crate::Balancer::complete). This is
    /// about frames from earlier calls; those of the call that says so are settled when it returns.
    fn resolved(&mut self, next_hop: NextHop);

    /// The next hop does not answer: give its waiting frames to
    /// [`Balancer::undeliverable`](crate::Balancer::undeliverable) and drop them.
    fn unreachable(&mut self, next_hop: NextHop);
}
