//! The small network around the balancer: one interface, a gateway behind which the clients are, and servers beside it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The balancer's Ethernet address.
pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 2];

/// The balancer's own addresses.
pub const OWN: [&str; 2] = ["10.0.0.2/24", "fd00::2/64"];

/// The gateways to everything beyond.
pub const GATEWAYS: [&str; 2] = ["10.0.0.1", "fd00::1"];

/// Addresses services may have.
pub const VIRTUAL: [&str; 6] = ["10.0.0.100", "10.0.0.101", "10.0.0.102", "fd00::100", "fd00::101", "fd00::102"];

/// Neighbours: the gateways, and servers.
pub const NEIGHBOURS: std::ops::RangeInclusive<u8> = 1..=40;

/// The address of a neighbour of a number, in each family. The balancer is number 2.
pub fn neighbours(number: u8) -> [IpAddr; 2] {
    [
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, number)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number))),
    ]
}

/// The Ethernet address from which an address sends: its own for a neighbour, the gateway's for anybody else.
pub fn mac(address: IpAddr) -> [u8; 6] {
    let number = match address {
        IpAddr::V4(v4) => match v4.octets() {
            [10, 0, 0, number] => Some(number),
            _ => None,
        },
        IpAddr::V6(v6) => match v6.segments() {
            [0xfd00, 0, 0, 0, 0, 0, 0, number] => u8::try_from(number).ok(),
            _ => None,
        },
    };
    let number = number.filter(|number| NEIGHBOURS.contains(number)).unwrap_or(1);
    [0x52, 0x54, 0, 0xaa, 0, number]
}

/// An Ethernet address as text.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
