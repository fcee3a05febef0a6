//! Where packets go: to the networks our addresses lie in, and beyond them through a gateway.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use crate::packet::NextHop;
use crate::{Cidr, Config};

/// The routes a [`Config`] makes: one for each address of ours, one through the first gateway of each family.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    /// Longest prefix first; among equals in the order given.
    networks: Vec<Cidr>,
    /// Those of IPv4 again, as address and mask.
    masks: Vec<[u32; 2]>,
    gateway_v4: Option<IpAddr>,
    gateway_v6: Option<IpAddr>,
}

/// How a packet begins its way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// At once: it is a neighbour's.
    Link,
    /// By the gateway of its family.
    Gateway,
}

impl Routes {
    /// The routes of a configuration. A gateway that lies in no network of ours does not count.
    pub fn new(config: &Config) -> Self {
        let mut networks = config.addresses.clone();
        networks.sort_by_key(|network| core::cmp::Reverse(network.prefix));
        let gateway = |is_v4: bool| {
            let reached = |gateway: &&IpAddr| networks.iter().any(|network| network.contains(gateway));
            config.gateways.iter().filter(|gateway| gateway.is_ipv4() == is_v4).find(reached).copied()
        };
        let masks = networks.iter().filter_map(Cidr::mask_v4).collect();
        Routes { gateway_v4: gateway(true), gateway_v6: gateway(false), masks, networks }
    }

    /// Which way packets to `to` go, or `None` if no route leads there. Not meaningful for multicast and broadcast addresses.
    #[inline]
    pub fn way(&self, to: &IpAddr) -> Option<Way> {
        if self.is_on_link(*to) {
            return Some(Way::Link);
        }
        self.gateway(to).is_some().then_some(Way::Gateway)
    }

    /// The neighbour at the beginning of a [`Routes::way`] to `to`.
    #[inline]
    pub fn neighbour<'a>(&'a self, way: Way, to: &'a IpAddr) -> &'a IpAddr {
        match way {
            Way::Link => to,
            Way::Gateway => self.gateway(to).unwrap_or(to),
        }
    }

    #[inline]
    fn gateway(&self, to: &IpAddr) -> Option<&IpAddr> {
        if to.is_ipv4() { self.gateway_v4.as_ref() } else { self.gateway_v6.as_ref() }
    }

    /// The neighbour to send to on the way to `to`: itself, the gateway, or `None` if no route leads there. Not
    /// meaningful for multicast and broadcast addresses.
    pub fn next_hop(&self, to: IpAddr) -> Option<NextHop> {
        self.way(&to).map(|way| NextHop(*self.neighbour(way, &to)))
    }

    /// Whether an address is a neighbour's: in a network of ours, or link-local (RFC 4291 section 2.5.6) if we speak
    /// IPv6 at all.
    #[inline]
    pub fn is_on_link(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => self.masks.iter().any(|[network, mask]| a.to_bits() & mask == *network),
            IpAddr::V6(a) => {
                self.network(address).is_some()
                    || a.is_unicast_link_local() && self.networks.iter().any(|n| n.address.is_ipv6())
            }
        }
    }

    /// Our address to speak from to `to`: the one in the same network, else the one in the gateway's, else any of the
    /// family. `None` if we have none of the family.
    pub fn source(&self, to: IpAddr) -> Option<IpAddr> {
        let in_network = |to| self.network(to).map(|network| network.address);
        let any = || self.networks.iter().map(|network| network.address).find(|a| a.is_ipv4() == to.is_ipv4());
        in_network(to).or_else(|| self.next_hop(to).and_then(|hop| in_network(hop.0))).or_else(any)
    }

    /// Whether an address is one of ours (virtual addresses are not among them).
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.address == address)
    }

    /// Whether an address is nobody's to give out: our own, a gateway's, or that of a network of ours or of all its hosts.
    pub fn is_taken(&self, address: IpAddr) -> bool {
        let is_network = |network: &Cidr| match (network.address, address) {
            (IpAddr::V4(_), IpAddr::V4(a)) if network.prefix <= 30 => {
                network.mask_v4().is_some_and(|[base, _]| base == a.to_bits())
            }
            _ => false,
        };
        let is_broadcast = matches!(address, IpAddr::V4(a) if self.is_broadcast(a));
        self.is_own(address)
            || self.gateway(&address) == Some(&address)
            || is_broadcast
            || self.networks.iter().any(is_network)
    }

    /// Whether an IPv4 address is a broadcast: to everybody, or to everybody in a network of ours (prefixes up to 30).
    pub fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        let in_network = |network: &Cidr| match network.address {
            IpAddr::V4(own) if network.prefix <= 30 => {
                let hosts = u32::MAX >> network.prefix;
                address.to_bits() & hosts == hosts && (address.to_bits() ^ own.to_bits()) & !hosts == 0
            }
            _ => false,
        };
        address.is_broadcast() || self.networks.iter().any(in_network)
    }

    fn network(&self, address: IpAddr) -> Option<&Cidr> {
        self.networks.iter().find(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn routes(addresses: &[&str], gateways: &[&str]) -> Routes {
        Routes::new(&Config {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            gateways: gateways.iter().map(|a| a.parse().unwrap()).collect(),
            ..Config::new([2; 6], [1, 2])
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn hop(routes: &Routes, to: &str) -> Option<IpAddr> {
        routes.next_hop(ip(to)).map(|hop| hop.0)
    }

    #[test]
    fn neighbours_are_reached_directly_and_others_through_the_gateway_of_their_family() {
        let r = routes(&["10.0.0.2/24", "fd00::2/64"], &["10.0.0.1", "fd00::1", "10.0.0.254"]);
        assert_eq!(hop(&r, "10.0.0.11"), Some(ip("10.0.0.11")));
        assert_eq!(hop(&r, "10.9.0.1"), Some(ip("10.0.0.1")));
        assert_eq!(hop(&r, "fd00::b"), Some(ip("fd00::b")));
        assert_eq!(hop(&r, "fd09::1"), Some(ip("fd00::1")));
        assert_eq!(hop(&r, "fe80::1"), Some(ip("fe80::1")));
    }

    #[test]
    fn without_a_gateway_or_with_one_out_of_reach_no_route_leads_out() {
        assert_eq!(hop(&routes(&["10.0.0.2/24"], &[]), "10.9.0.1"), None);
        let r = routes(&["10.0.0.2/24"], &["10.1.0.1", "fd00::1"]);
        assert_eq!(hop(&r, "10.9.0.1"), None);
        assert_eq!(hop(&r, "fd09::1"), None);
        assert_eq!(hop(&r, "fe80::1"), None);
        assert_eq!(hop(&routes(&[], &[]), "10.9.0.1"), None);
    }

    #[test]
    fn the_source_is_in_the_network_of_the_neighbour() {
        let r = routes(&["10.0.0.2/24", "10.1.0.2/24", "10.1.0.130/25", "fd00::2/64"], &["10.1.0.1"]);
        assert_eq!(r.source(ip("10.0.0.7")), Some(ip("10.0.0.2")));
        assert_eq!(r.source(ip("10.1.0.7")), Some(ip("10.1.0.2")));
        assert_eq!(r.source(ip("10.1.0.129")), Some(ip("10.1.0.130")), "the longest prefix");
        assert_eq!(r.source(ip("8.8.8.8")), Some(ip("10.1.0.2")), "the gateway's network");
        assert_eq!(r.source(ip("fd09::1")), Some(ip("fd00::2")));
        assert_eq!(routes(&["10.0.0.2/24"], &[]).source(ip("fd09::1")), None);
    }

    #[test]
    fn own_addresses_and_broadcasts() {
        let r = routes(&["10.0.0.2/24", "10.0.1.4/31", "10.0.2.4/32"], &[]);
        assert!(r.is_own(ip("10.0.0.2")) && !r.is_own(ip("10.0.0.3")));
        let all = vec![("10.0.0.255", true), ("255.255.255.255", true), ("10.0.1.5", false), ("10.0.2.4", false)];
        for (address, expected) in all {
            assert_eq!(r.is_broadcast(address.parse().unwrap()), expected, "{address}");
        }
        assert!(routes(&["10.0.0.2/0"], &[]).is_broadcast("255.255.255.255".parse().unwrap()));
    }
}
