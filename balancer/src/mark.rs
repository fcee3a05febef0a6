//! Rules that give packets marks, for the services of marks: what `iptables -t mangle -j MARK` does for IPVS on Linux.
//!
//! Rules are looked at for packets that are of no connection yet, so their number costs those of connections nothing.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::RangeInclusive;

use crate::Errno;
use crate::config::Cidr;
use crate::connection::Tuple;
use crate::service::{Family, Protocol};

/// How many rules there may be.
pub const RULES_MAX: usize = 256;

/// Which packets get which mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkRule {
    /// The mark, not 0.
    pub mark: u32,
    /// Their protocol, TCP, UDP or SCTP; any of them if there is none.
    pub protocol: Option<Protocol>,
    /// Where they come from. Of the same family as `destination`.
    pub source: Cidr,
    /// Where they go to. A single host is an address of ours as soon as there is a service of the mark.
    pub destination: Cidr,
    /// First and last port they come from.
    pub source_ports: (u16, u16),
    /// First and last port they go to.
    pub destination_ports: (u16, u16),
}

/// Every port.
const ANY: (u16, u16) = (0, u16::MAX);

impl MarkRule {
    /// The rule that gives every packet of a family a mark.
    pub const fn new(family: Family, mark: u32) -> Self {
        let all = match family {
            Family::V4 => Cidr { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix: 0 },
            Family::V6 => Cidr { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix: 0 },
        };
        MarkRule { mark, protocol: None, source: all, destination: all, source_ports: ANY, destination_ports: ANY }
    }

    /// The family of the packets.
    pub const fn family(&self) -> Family {
        Family::of(&self.destination.address)
    }

    /// Whether all ports are meant.
    pub fn is_any_port(ports: (u16, u16)) -> bool {
        ports == ANY
    }

    /// The only address of packets it fits, if there is one.
    pub(crate) fn host(&self) -> Option<IpAddr> {
        let Cidr { address, prefix } = self.destination;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (prefix == bits).then_some(address)
    }

    fn check(&self) -> Result<(), Errno> {
        let is_one_family = self.source.address.is_ipv4() == self.destination.address.is_ipv4();
        let is_cidr = |cidr: Cidr| Cidr::new(cidr.address, cidr.prefix).is_some();
        let ports = [self.source_ports, self.destination_ports];
        let is_known = matches!(self.protocol, None | Some(Protocol::Tcp | Protocol::Udp | Protocol::Sctp));
        let is_whole = is_one_family && is_cidr(self.source) && is_cidr(self.destination) && is_known;
        if self.mark == 0 || !is_whole || ports.into_iter().any(|(first, last)| first > last) {
            return Err(Errno::Invalid);
        }
        Ok(())
    }

    fn fits(&self, tuple: &Tuple) -> bool {
        let within = |(first, last): (u16, u16), port| RangeInclusive::new(first, last).contains(&port);
        self.protocol.is_none_or(|protocol| protocol == tuple.protocol)
            && self.source.contains(&tuple.source)
            && self.destination.contains(&tuple.destination)
            && within(self.source_ports, tuple.source_port)
            && within(self.destination_ports, tuple.destination_port)
    }
}

/// The rules, in the order they were added.
#[derive(Debug, Default)]
pub(crate) struct Marks(Vec<MarkRule>);

impl Marks {
    pub fn iter(&self) -> impl Iterator<Item = &MarkRule> {
        self.0.iter()
    }

    pub fn add(&mut self, rule: MarkRule) -> Result<(), Errno> {
        rule.check()?;
        if self.0.contains(&rule) {
            return Err(Errno::Exists);
        }
        if self.0.len() >= RULES_MAX || self.0.try_reserve(1).is_err() {
            return Err(Errno::OutOfMemory);
        }
        self.0.push(rule);
        Ok(())
    }

    pub fn delete(&mut self, rule: &MarkRule) -> Result<(), Errno> {
        let position = self.0.iter().position(|known| known == rule).ok_or(Errno::NotFound)?;
        self.0.remove(position);
        Ok(())
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The mark of a packet: as with iptables, the last rule that fits counts.
    pub fn of(&self, tuple: &Tuple) -> Option<u32> {
        self.0.iter().rev().find(|rule| rule.fits(tuple)).map(|rule| rule.mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(protocol: Protocol, from: &str, to: &str, ports: (u16, u16)) -> Tuple {
        Tuple {
            protocol,
            source: from.parse().unwrap(),
            destination: to.parse().unwrap(),
            source_port: ports.0,
            destination_port: ports.1,
        }
    }

    fn rule(mark: u32) -> MarkRule {
        MarkRule::new(Family::V4, mark)
    }

    #[test]
    fn a_rule_fits_by_addresses_ports_and_protocol() {
        let web = MarkRule {
            protocol: Some(Protocol::Tcp),
            source: "10.9.0.0/16".parse().unwrap(),
            destination: "10.0.0.200".parse().unwrap(),
            destination_ports: (80, 81),
            ..rule(7)
        };
        let fits = |protocol, from, to, port| web.fits(&packet(protocol, from, to, (4000, port)));
        assert!(fits(Protocol::Tcp, "10.9.1.1", "10.0.0.200", 80) && fits(Protocol::Tcp, "10.9.1.1", "10.0.0.200", 81));
        assert!(!fits(Protocol::Udp, "10.9.1.1", "10.0.0.200", 80));
        assert!(!fits(Protocol::Tcp, "10.8.1.1", "10.0.0.200", 80));
        assert!(!fits(Protocol::Tcp, "10.9.1.1", "10.0.0.201", 80));
        assert!(!fits(Protocol::Tcp, "10.9.1.1", "10.0.0.200", 82));
        assert!(!rule(1).fits(&packet(Protocol::Tcp, "fd00::1", "fd00::2", (1, 2))), "of the other family");
        assert!(MarkRule::new(Family::V6, 1).fits(&packet(Protocol::Udp, "fd00::1", "fd00::2", (1, 2))));
    }

    #[test]
    fn the_last_rule_that_fits_counts() {
        let mut marks = Marks::default();
        let udp = MarkRule { protocol: Some(Protocol::Udp), ..rule(2) };
        marks.add(rule(1)).unwrap();
        marks.add(udp).unwrap();
        assert_eq!(marks.of(&packet(Protocol::Udp, "10.0.0.1", "10.0.0.2", (1, 2))), Some(2));
        assert_eq!(marks.of(&packet(Protocol::Tcp, "10.0.0.1", "10.0.0.2", (1, 2))), Some(1));
        assert_eq!(
            (marks.add(udp), marks.delete(&udp), marks.delete(&udp)),
            (Err(Errno::Exists), Ok(()), Err(Errno::NotFound))
        );
        assert_eq!(marks.of(&packet(Protocol::Udp, "10.0.0.1", "10.0.0.2", (1, 2))), Some(1));
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        let v6: Cidr = "fd00::/64".parse().unwrap();
        for wrong in [
            rule(0),
            MarkRule { source: v6, ..rule(1) },
            MarkRule { source_ports: (2, 1), ..rule(1) },
            MarkRule { protocol: Some(Protocol::Ip), ..rule(1) },
            MarkRule { destination: Cidr { prefix: 33, ..rule(1).destination }, ..rule(1) },
        ] {
            assert_eq!(Marks::default().add(wrong), Err(Errno::Invalid), "{wrong:?}");
        }
        let mut marks = Marks::default();
        (1..=RULES_MAX as u32).for_each(|mark| marks.add(rule(mark)).unwrap());
        assert_eq!(marks.add(rule(9999)), Err(Errno::OutOfMemory));
    }
}
