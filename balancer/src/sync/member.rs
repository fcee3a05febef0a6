//! Being a member of a group, so that switches that look who is let its frames through: IGMP (RFC 2236, RFC 3376) and MLD
//! (RFC 2710, RFC 3810).
//!
//! Says so twice when it begins and, a while after, when a router or switch asks, in the version that was asked in; says so when it
//! ends. A group is joined as a whole, from any source.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use super::datagram::{self, Ends};
use crate::Instant;
use crate::checksum::Sum;
use crate::frame::{Ip, protocol};
use crate::neighbour::Mac;

/// Time between what is said unasked (RFC 3376 section 8.11).
const UNSOLICITED: Duration = Duration::from_secs(1);
/// How often it is said (the robustness variable, RFC 3376 section 8.1).
const TIMES: u8 = 2;
/// How long somebody who asks in an older version is remembered (RFC 3376 section 8.12, with the usual values).
const OLDER: Duration = Duration::from_secs(260);
/// The type of service of what is said: internetwork control.
const SERVICE: u8 = 0xc0;

mod group {
    use super::{Ipv4Addr, Ipv6Addr};

    pub const REPORTS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
    pub const ROUTERS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
    pub const REPORTS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
    pub const ROUTERS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
}

/// Types of messages.
mod kind {
    pub const QUERY_V4: u8 = 0x11;
    pub const REPORT_1: u8 = 0x12;
    pub const REPORT_2: u8 = 0x16;
    pub const LEAVE_2: u8 = 0x17;
    pub const REPORT_3: u8 = 0x22;
    pub const QUERY_V6: u8 = 130;
    pub const REPORT_V6: u8 = 131;
    pub const DONE_V6: u8 = 132;
    pub const REPORT_V6_2: u8 = 143;
}

/// What is said of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// We are a member (MODE_IS_EXCLUDE).
    Is = 2,
    /// We become no member (CHANGE_TO_INCLUDE_MODE, of nobody).
    Leaves = 3,
    /// We become one (CHANGE_TO_EXCLUDE_MODE, of nobody).
    Joins = 4,
}

/// In which version is spoken: the newest, unless somebody asks in an older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    /// IGMPv1.
    Oldest,
    /// IGMPv2, MLDv1.
    Older,
    /// IGMPv3, MLDv2.
    Newest,
}

/// Our membership of a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub group: IpAddr,
    word: Word,
    /// How often it is still to be said.
    times: u8,
    due: Option<Instant>,
    version: Version,
    /// Until when an older version is spoken.
    until: Instant,
}

impl Member {
    /// A member that has not said so yet.
    pub fn new(group: IpAddr, now: Instant) -> Self {
        Member {
            group,
            word: Word::Joins,
            times: TIMES,
            due: Some(now),
            version: Version::Newest,
            until: Instant::ZERO,
        }
    }

    /// Is to say that it is none any more, and is to be forgotten then.
    pub fn leave(&mut self, now: Instant) {
        (self.word, self.times, self.due) = (Word::Leaves, TIMES, Some(now));
    }

    /// Becomes one again if it is about to leave.
    pub fn stay(&mut self, now: Instant) {
        if self.word == Word::Leaves {
            *self = Member { version: self.version, until: self.until, ..Member::new(self.group, now) };
        }
    }

    /// Whether it has said that it leaves.
    pub fn is_gone(&self) -> bool {
        self.word == Word::Leaves && self.due.is_none()
    }

    /// When it has something to say.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Hears a message of IGMP or MLD that came in an IP packet. `random` spreads the answers of many.
    pub fn hear(&mut self, ip: &Ip, message: &[u8], random: u64, now: Instant) {
        let Some((asked, version, delay)) = query(ip, message) else { return };
        if self.word == Word::Leaves
            || asked.is_some_and(|group| group != self.group)
            || ip.is_v6() != self.group.is_ipv6()
        {
            return;
        }
        if version < Version::Newest && (version <= self.version || now >= self.until) {
            (self.version, self.until) = (version, now + OLDER);
        }
        let at = now + Duration::from_millis(random % delay.max(1));
        // What is about to be said anyway is said sooner at most.
        if self.due.is_none_or(|due| at < due) {
            self.due = Some(at);
        }
        if self.times == 0 {
            (self.word, self.times) = (Word::Is, 1);
        }
    }

    /// Says what is due: makes the frame of it. `own` are our addresses of either family to speak from.
    pub fn say(&mut self, now: Instant, mac: Mac, own: IpAddr, identification: u16, out: &mut Vec<u8>) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        self.times = self.times.saturating_sub(1);
        self.due = (self.times > 0).then_some(now + UNSOLICITED);
        if self.version < Version::Newest && now >= self.until {
            self.version = Version::Newest;
        }
        let ends = |group: IpAddr| Ends { mac, source: own, group, ports: (0, 0), ttl: 1 };
        match self.group {
            IpAddr::V4(group) => {
                let (to, kind) = match (self.version, self.word) {
                    (Version::Newest, _) => (group::REPORTS_V4, kind::REPORT_3),
                    // The first version says nothing when it leaves.
                    (Version::Oldest, Word::Leaves) => return false,
                    (Version::Oldest, _) => (group, kind::REPORT_1),
                    (Version::Older, Word::Leaves) => (group::ROUTERS_V4, kind::LEAVE_2),
                    (Version::Older, _) => (group, kind::REPORT_2),
                };
                let length = if kind == kind::REPORT_3 { 16 } else { 8 };
                // With the router alert (RFC 2113).
                let alert = [0x94, 4, 0, 0];
                if !datagram::begin(&ends(to.into()), (protocol::IGMP, SERVICE, &alert), identification, length, out) {
                    return false;
                }
                let at = out.len();
                out.extend([kind, 0, 0, 0]);
                if kind == kind::REPORT_3 {
                    out.extend([0, 0, 0, 1, self.word as u8, 0, 0, 0]);
                }
                out.extend(group.octets());
                let sum = Sum::ZERO.bytes(&out[at..]).checksum();
                out[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
            }
            IpAddr::V6(group) => {
                let (to, kind) = match (self.version, self.word) {
                    (Version::Newest, _) => (group::REPORTS_V6, kind::REPORT_V6_2),
                    (_, Word::Leaves) => (group::ROUTERS_V6, kind::DONE_V6),
                    _ => (group, kind::REPORT_V6),
                };
                let length = if kind == kind::REPORT_V6_2 { 28 } else { 24 };
                // It has to come from the link (RFC 3810 section 5).
                let ends = Ends { source: link_local(mac).into(), ..ends(to.into()) };
                let alert = [protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0];
                if !datagram::begin(&ends, (protocol::ICMPV6, 0, &alert), 0, length, out) {
                    return false;
                }
                let at = out.len();
                out.extend([kind, 0, 0, 0]);
                if kind == kind::REPORT_V6_2 {
                    out.extend([0, 0, 0, 1, self.word as u8, 0, 0, 0]);
                } else {
                    out.extend([0; 4]);
                }
                out.extend(group.octets());
                let pseudo = Sum::pseudo_header(ends.source, ends.group, protocol::ICMPV6, length.into());
                let sum = pseudo.bytes(&out[at..]).checksum();
                out[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
            }
        }
        true
    }
}

/// The link-local address that comes of an Ethernet address (RFC 4291 appendix A).
pub(super) fn link_local([a, b, c, d, e, f]: Mac) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// What is asked for, if all is: the group, the version, and within how many milliseconds it is to be answered.
fn query(ip: &Ip, message: &[u8]) -> Option<(Option<IpAddr>, Version, u64)> {
    // Somebody beyond the link has nothing to ask here.
    if ip.hops != 1 {
        return None;
    }
    let of = |group: IpAddr| (!group.is_unspecified()).then_some(group);
    match (ip.protocol, message) {
        (protocol::IGMP, &[kind::QUERY_V4, code, _, _, a, b, c, d, ..]) if Sum::ZERO.bytes(message).is_intact() => {
            let group = of(IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
            Some(match (message.len(), code) {
                (8, 0) => (group, Version::Oldest, 10_000),
                (8, code) => (group, Version::Older, u64::from(code) * 100),
                (12.., code) => (group, Version::Newest, floating(code.into(), 7, 4) * 100),
                _ => return None,
            })
        }
        (protocol::ICMPV6, &[kind::QUERY_V6, _, _, _, a, b, _, _, ..]) => {
            let pseudo =
                Sum::pseudo_header(ip.source, ip.destination, protocol::ICMPV6, u32::try_from(message.len()).ok()?);
            let IpAddr::V6(source) = ip.source else { return None };
            if !pseudo.bytes(message).is_intact() || !source.is_unicast_link_local() {
                return None;
            }
            let group = of(IpAddr::V6(Ipv6Addr::from(*message.get(8..24)?.first_chunk::<16>()?)));
            let code = u16::from_be_bytes([a, b]);
            Some(match message.len() {
                24 => (group, Version::Older, code.into()),
                28.. => (group, Version::Newest, floating(code, 15, 12)),
                _ => return None,
            })
        }
        _ => None,
    }
}

/// A number as RFC 3376 section 4.1.1 and RFC 3810 section 5.1.3 write it: itself below its highest bit, else with three bits of
/// exponent above so many of mantissa.
fn floating(code: u16, highest: u32, mantissa: u32) -> u64 {
    if code >> highest == 0 {
        return code.into();
    }
    let exponent = code >> mantissa & 7;
    u64::from(code & ((1 << mantissa) - 1) | 1 << mantissa) << (exponent + 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{self, ETHERNET, Headers, Kind};

    const MAC: Mac = [0x52, 0x54, 0, 0x12, 0x34, 2];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn says(member: &mut Member, second: u64) -> Option<(IpAddr, Vec<u8>)> {
        let own = if member.group.is_ipv4() { ip("10.0.0.2") } else { ip("fd00::2") };
        let mut frame = Vec::new();
        if !member.say(Instant::from_secs(second), MAC, own, 1, &mut frame) {
            return None;
        }
        let mut headers = Headers::NONE;
        // What we send is read as if it were sent to us.
        assert_eq!(frame::parse_into(&mut headers, &frame, frame.len(), &MAC), Ok(Kind::Other));
        let Headers { ip, .. } = headers;
        assert_eq!((ip.hops, ip.end), (1, frame.len()));
        let message = frame[ip.payload..].to_vec();
        let sum = match ip.protocol {
            protocol::IGMP => Sum::ZERO,
            other => {
                assert!(ip.source.to_string().starts_with("fe80::5054:ff:fe12:3402"), "{}", ip.source);
                Sum::pseudo_header(ip.source, ip.destination, other, message.len() as u32)
            }
        };
        assert!(sum.bytes(&message).is_intact());
        assert_eq!(frame[..6], datagram::group_mac(ip.destination), "{} bytes", ETHERNET);
        Some((ip.destination, message))
    }

    use std::string::ToString;

    fn ask(member: &mut Member, from: &str, to: &str, number: u8, mut message: Vec<u8>, second: u64) {
        let (source, destination) = (ip(from), ip(to));
        let sum = if number == protocol::IGMP {
            Sum::ZERO
        } else {
            Sum::pseudo_header(source, destination, number, message.len() as u32)
        };
        let sum = sum.bytes(&message).checksum().to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        let packet = Ip { source, destination, hops: 1, protocol: number, ..Headers::NONE.ip };
        member.hear(&packet, &message, 0, Instant::from_secs(second));
    }

    #[test]
    fn joins_twice_answers_and_leaves() {
        let mut member = Member::new(ip("224.0.0.81"), Instant::from_secs(10));
        let joins = [0x22, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 224, 0, 0, 81];
        for second in [10, 11] {
            let (to, said) = says(&mut member, second).unwrap();
            assert_eq!((to, &said[4..]), (ip("224.0.0.22"), &joins[4..]));
        }
        assert_eq!((says(&mut member, 12), member.due()), (None, None));
        let mut general = std::vec![0x11, 10, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0];
        ask(&mut member, "10.0.0.1", "224.0.0.1", protocol::IGMP, general.clone(), 20);
        assert_eq!(says(&mut member, 20).unwrap().1[8], Word::Is as u8);
        general[4..8].copy_from_slice(&[224, 0, 0, 82]);
        ask(&mut member, "10.0.0.1", "224.0.0.82", protocol::IGMP, general, 21);
        assert_eq!(says(&mut member, 21), None, "another group was asked for");
        member.leave(Instant::from_secs(30));
        assert_eq!(says(&mut member, 30).unwrap().1[8], Word::Leaves as u8);
        assert!(!member.is_gone());
        assert!(says(&mut member, 31).is_some() && member.is_gone());
    }

    #[test]
    fn an_older_version_is_answered_in_kind_and_forgotten_in_time() {
        let mut member = Member::new(ip("224.0.0.81"), Instant::ZERO);
        assert!(says(&mut member, 0).is_some() && says(&mut member, 1).is_some());
        ask(&mut member, "10.0.0.1", "224.0.0.1", protocol::IGMP, std::vec![0x11, 100, 0, 0, 0, 0, 0, 0], 2);
        let (to, said) = says(&mut member, 2).unwrap();
        assert_eq!((to, said[0], &said[4..]), (ip("224.0.0.81"), 0x16, &[224, 0, 0, 81][..]));
        ask(&mut member, "10.0.0.1", "224.0.0.1", protocol::IGMP, std::vec![0x11, 0, 0, 0, 0, 0, 0, 0], 3);
        assert_eq!(says(&mut member, 3).unwrap().1[0], 0x12);
        member.leave(Instant::from_secs(300));
        assert_eq!(says(&mut member, 300).unwrap().1[0], 0x22);
    }

    #[test]
    fn in_ipv6_the_same() {
        let group = "ff02::81";
        let mut member = Member::new(ip(group), Instant::ZERO);
        let (to, said) = says(&mut member, 0).unwrap();
        assert_eq!((to, said[0], said[7], said[8], said.len()), (ip("ff02::16"), 143, 1, 4, 28));
        says(&mut member, 1);
        let query = [&[130, 0, 0, 0, 0, 10, 0, 0][..], &[0; 16]].concat();
        ask(&mut member, "fe80::1", "ff02::1", protocol::ICMPV6, query.clone(), 2);
        assert_eq!(says(&mut member, 2).map(|(to, said)| (to, said[0])), Some((ip(group), 131)));
        ask(&mut member, "fd00::1", "ff02::1", protocol::ICMPV6, query, 3);
        assert_eq!(says(&mut member, 3), None, "not from the link");
        member.leave(Instant::from_secs(4));
        assert_eq!(says(&mut member, 4).map(|(to, said)| (to, said[0])), Some((ip("ff02::2"), 132)));
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        assert_eq!([floating(0x7f, 7, 4), floating(0x80, 7, 4), floating(0xff, 7, 4)], [127, 128, 31744]);
        assert_eq!([floating(0x7fff, 15, 12), floating(0x8000, 15, 12)], [32767, 32768]);
    }
}
