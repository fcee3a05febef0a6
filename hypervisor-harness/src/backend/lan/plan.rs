//! Who has which address in the network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Everybody on the segment.
pub const BROADCAST: Mac = [0xff; 6];

/// The gateway's addresses. Clients live behind it.
pub const GATEWAY: [IpAddr; 2] = [v4(10, 0, 0, 1), v6(0xfd00, 0, 1)];
/// The guest's addresses, where nothing else is configured.
pub const GUEST: [IpAddr; 2] = [v4(10, 0, 0, 2), v6(0xfd00, 0, 2)];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(first: u16, seventh: u16, last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, seventh, last))
}

/// The addresses of a server on the segment: 10.0.0.`last` and fd00::`last` (in hexadecimal: 11 is `b`).
#[must_use]
pub const fn server(last: u8) -> [IpAddr; 2] {
    [v4(10, 0, 0, last), v6(0xfd00, 0, last as u16)]
}

/// The address of a client: 10.9.x.y or fd09::x:y, for numbers from 0. After 65,024 clients the addresses come again.
#[must_use]
pub fn client(number: u32, ipv6: bool) -> IpAddr {
    // 10.9.x.y with y from 1 to 254.
    let (high, low) = ((number / 254 % 256) as u8, (number % 254 + 1) as u8);
    if ipv6 { v6(0xfd09, u16::from(high), u16::from(low)) } else { v4(10, 9, high, low) }
}

/// Whether an address is of the segment: 10.0.0.0/24, fd00::/64 or link-local.
#[must_use]
pub fn on_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets().starts_with(&[10, 0, 0]),
        IpAddr::V6(address) => address.segments().starts_with(&[0xfd00, 0, 0, 0]) || address.is_unicast_link_local(),
    }
}

/// Whether an address is a client's: 10.9.0.0/16 or fd09::/64.
#[must_use]
pub fn is_client(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets().starts_with(&[10, 9]),
        IpAddr::V6(address) => address.segments().starts_with(&[0xfd09, 0, 0, 0]),
    }
}

/// The Ethernet address that goes with an address of the segment.
#[must_use]
pub fn mac(address: IpAddr) -> Mac {
    match address {
        IpAddr::V4(address) => [0x52, 0x54, 0x00, 0x12, 0x34, address.octets()[3]],
        IpAddr::V6(address) => match address.octets()[8..] {
            [0, 0, 0, 0, 0, 0, 0, last] => [0x52, 0x54, 0x00, 0x12, 0x34, last],
            [.., d, e, f] => [0x52, 0x54, 0x02, d, e, f],
            _ => BROADCAST,
        },
    }
}

/// Whether a server may have the address: it is of the segment, and nobody else's.
#[must_use]
pub fn may_be_server(address: IpAddr) -> bool {
    let host = match address {
        IpAddr::V4(address) => !matches!(address.octets()[3], 0 | 255),
        IpAddr::V6(address) => !address.is_unicast_link_local() && address.octets()[8..].iter().any(|byte| *byte != 0),
    };
    host && on_link(address) && !GATEWAY.contains(&address) && !GUEST.contains(&address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_have_addresses_of_their_own() {
        let all: std::collections::HashSet<_> = (0..65_024).map(|number| client(number, false)).collect();
        assert_eq!(all.len(), 65_024);
        assert!(all.iter().all(|address| is_client(*address) && !on_link(*address)));
        assert_eq!(client(0, false).to_string(), "10.9.0.1");
        assert_eq!(client(254, true).to_string(), "fd09::1:1");
        assert_eq!(client(65_024, false), client(0, false));
    }

    #[test]
    fn servers_keep_off_the_gateway_and_the_guest() {
        let may = |text: &str| may_be_server(text.parse().expect("an address"));
        assert!(may("10.0.0.14") && may("fd00::e") && may("fd00::1234:5678"));
        for bad in
            ["10.0.0.1", "10.0.0.2", "10.0.0.0", "10.0.0.255", "10.0.1.1", "fd00::1", "fd00::2", "fd00::", "fd09::1"]
        {
            assert!(!may(bad), "{bad}");
        }
        assert_eq!(mac(server(11)[0]), mac(server(11)[1]));
        assert_eq!(mac("fd00::1:0:e".parse().expect("an address"))[..3], [0x52, 0x54, 0x02]);
    }
}
