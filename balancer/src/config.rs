//! What a balancer is made with.

use alloc::vec::Vec;
use core::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

/// An address of ours and the length of the prefix that is reached without a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// Leading bits that name the network: at most 32 or 128.
    pub prefix: u8,
}

/// Why a text is no [`Cidr`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// The address does not parse.
    #[error("not an IP address")]
    Address(#[from] AddrParseError),
    /// The prefix length is no number, or too long for the family.
    #[error("not a prefix length")]
    Prefix,
}

impl Cidr {
    /// An address with a prefix length; `None` if the length is too long for the family.
    pub const fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let longest = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        if prefix > longest { None } else { Some(Cidr { address, prefix }) }
    }

    /// Whether `address` lies in the network.
    pub fn contains(&self, address: &IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()) & mask_v4(self.prefix) == 0,
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()) & mask_v6(self.prefix) == 0,
            _ => false,
        }
    }

    /// The network's address and its mask, if it is one of IPv4.
    pub(crate) fn mask_v4(&self) -> Option<[u32; 2]> {
        let IpAddr::V4(address) = self.address else { return None };
        let mask = mask_v4(self.prefix);
        Some([address.to_bits() & mask, mask])
    }
}

fn mask_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32u32.saturating_sub(prefix.into())).unwrap_or(0)
}

fn mask_v6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128u32.saturating_sub(prefix.into())).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = CidrError;

    /// `10.0.0.2/24` or `fd00::2/64`; without a length, the address alone (/32, /128).
    fn from_str(text: &str) -> Result<Self, CidrError> {
        match text.split_once('/') {
            None => {
                let address: IpAddr = text.parse()?;
                let prefix = if address.is_ipv4() { 32 } else { 128 };
                Ok(Cidr { address, prefix })
            }
            Some((address, prefix)) => {
                let prefix = prefix.parse().map_err(|_| CidrError::Prefix)?;
                Cidr::new(address.parse()?, prefix).ok_or(CidrError::Prefix)
            }
        }
    }
}

impl core::fmt::Display for Cidr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// What a balancer is made with. All tables of the packet path have the sizes given here from the start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our Ethernet address.
    pub mac: [u8; 6],
    /// Largest IP packet in bytes that the network takes.
    pub mtu: u16,
    /// Our own addresses, for management and for talking to the neighbours. Virtual addresses come with the services.
    pub addresses: Vec<Cidr>,
    /// Default gateways, at most one of each family counts.
    pub gateways: Vec<IpAddr>,
    /// Connections the table holds. Each takes 64 bytes and at most 8 of its share of the hash buckets.
    pub connections: u32,
    /// How many of those can be IPv6 at the same time: each takes 48 bytes more.
    pub connections_v6: u32,
    /// Neighbours the cache holds.
    pub neighbours: u16,
    /// Services there may be. Each takes about a kilobyte when it is added, and its scheduler's tables.
    pub services: u32,
    /// Destinations there may be in all, those included that were removed and still have connections. Each takes about a
    /// kilobyte when it is added.
    pub destinations: u32,
    /// Bytes there are for what services need besides themselves: the tables of their schedulers, and Call-IDs.
    pub table_memory: usize,
    /// Call-IDs of SIP that can be persistent at the same time, over all services. Each takes 264 bytes, all of them when the
    /// first service of that persistence engine is added; they are fewer if that would be more than half of what is left of
    /// `table_memory`.
    pub call_ids: u32,
    /// Connections there can be at the same time of services that do what IPVS cannot ([`Extras`](crate::Extras)). Each takes
    /// about 110 bytes more, all of them when the first service is told to; they are fewer if that would be more than half of
    /// what is left of `table_memory`.
    pub extras: u32,
    /// Sources (clients, or networks of them) whose connections can be counted at the same time, over all services that limit them. Each
    /// takes about 36 bytes, and each of their connections 20 (as many as there can be), all of it when the first limit is
    /// set; they are fewer if that would be more than a quarter, or half, of what is left of `table_memory`.
    pub sources: u32,
    /// Datagrams that come in fragments that can be followed at the same time: each for 30 seconds, or until all of it has come.
    /// Each takes about 320 bytes. A source (of IPv6: 64 bits of addresses) may have an eighth of them.
    pub fragments: u32,
    /// Fragments that can be held until the first of their datagram comes. Each takes the longest frame and 64 bytes. A
    /// source may have a quarter of them.
    pub held_fragments: u32,
    /// Connections over which FTP is spoken that are listened to at the same time, over all services; others are carried on as any
    /// under NAT. Each takes about 110 bytes, all of them when the first
    /// service is added that can have any; they are fewer if that would be more than half of what is left of `table_memory`.
    pub ftp_connections: u32,
    /// Secret of the hash tables: random, or an attacker can choose packets that collide.
    pub seed: [u64; 2],
}

impl Config {
    /// Sizes for a small guest: 65,536 connections of either family (7.5 MiB), 1,024 neighbours, MTU 1500.
    pub fn new(mac: [u8; 6], seed: [u64; 2]) -> Self {
        Config {
            mac,
            mtu: 1500,
            addresses: Vec::new(),
            gateways: Vec::new(),
            connections: 65536,
            connections_v6: 65536,
            neighbours: 1024,
            services: 16384,
            destinations: 65536,
            table_memory: 64 << 20,
            call_ids: 8192,
            ftp_connections: 4096,
            extras: 65536,
            sources: 65536,
            fragments: 2048,
            held_fragments: 256,
            seed,
        }
    }
}

/// Whether packets can come from or go to an IPv4 address alone: not zero, broadcast, multicast or loopback.
pub(crate) fn is_unicast_v4(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first != 127 && first < 224
}

/// Whether packets can come from or go to an IPv6 address alone: not unspecified, multicast or loopback.
pub(crate) fn is_unicast_v6(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidr_is_parsed_and_shown() {
        for text in ["10.0.0.2/24", "fd00::2/64", "0.0.0.0/0"] {
            assert_eq!(alloc::format!("{}", text.parse::<Cidr>().unwrap()), text);
        }
        assert_eq!("10.0.0.2".parse::<Cidr>().unwrap().prefix, 32);
        for text in ["10.0.0.2/33", "fd00::/129", "10.0.0/8", "10.0.0.2/", "10.0.0.2/x"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_contains_what_shares_its_prefix() {
        let net: Cidr = "10.0.0.2/24".parse().unwrap();
        assert!(net.contains(&"10.0.0.255".parse().unwrap()));
        assert!(!net.contains(&"10.0.1.0".parse().unwrap()));
        assert!(!net.contains(&"fd00::1".parse().unwrap()));
        let all: Cidr = "::/0".parse().unwrap();
        assert!(all.contains(&"fd00::1".parse().unwrap()));
        assert!("fd00::2/128".parse::<Cidr>().unwrap().contains(&"fd00::2".parse().unwrap()));
    }
}
