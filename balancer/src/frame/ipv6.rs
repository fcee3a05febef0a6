//! The IPv6 header and its extensions, RFC 8200.

use core::net::{IpAddr, Ipv6Addr};

use super::{ETHERNET, Fragment, Ip};
use crate::packet::Reason;

/// Bytes of the fixed header.
const HEADER: usize = 40;

/// Next-header numbers of the extensions that are stepped over, as Linux's `ipv6_find_hdr` does.
mod next {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const DESTINATION: u8 = 60;
    /// Nothing follows.
    pub const NONE: u8 = 59;
}

/// More fragments follow, in the last byte of offset and flags.
const MORE_FRAGMENTS: u16 = 1;
const OFFSET: u16 = 0xfff8;

/// Reads the header and steps over extensions up to the transport header.
///
/// A routing header with segments left means that the destination address is not the last one, on which the transport
/// checksum depends; such a packet is shown as one of protocol 43, which is never balanced.
pub(super) fn parse(ip: &mut Ip, head: &[u8], len: usize) -> Result<(), Reason> {
    let Some(packet) = head.get(ETHERNET..) else { return Err(Reason::Malformed) };
    let Some(h) = packet.first_chunk::<HEADER>() else { return Err(Reason::Malformed) };
    let end = ETHERNET + HEADER + usize::from(u16::from_be_bytes([h[4], h[5]]));
    if h[0] >> 4 != 6 || end > len {
        return Err(Reason::Malformed);
    }
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&h[at..at + 16]);
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    ip.source = address(8);
    ip.destination = address(24);
    ip.hops = h[7];
    ip.dont_fragment = true;
    ip.fragment = Fragment::Whole;
    ip.protocol = h[6];
    ip.payload = ETHERNET + HEADER;
    ip.end = end;
    let mut is_part = false;
    // Each turn moves at least eight bytes on, so the loop ends with the packet.
    while ip.fragment != Fragment::Later {
        let scale = match ip.protocol {
            next::HOP_BY_HOP | next::ROUTING | next::DESTINATION => 8,
            next::AUTHENTICATION => 4,
            next::FRAGMENT => 0,
            _ => break,
        };
        let Some(&[following, length, a, b]) = head.get(ip.payload..).and_then(|x| x.first_chunk::<4>()) else {
            return Err(Reason::Malformed);
        };
        let size = match scale {
            8 => 8 + 8 * usize::from(length),
            4 => 8 + 4 * usize::from(length),
            _ => 8,
        };
        if ip.payload + size > end {
            return Err(Reason::Malformed);
        }
        match ip.protocol {
            // `b` counts the segments left.
            next::ROUTING if b != 0 => break,
            next::FRAGMENT => {
                // A second one would say of another datagram which part this is.
                if core::mem::replace(&mut is_part, true) {
                    return Err(Reason::Malformed);
                }
                let field = u16::from_be_bytes([a, b]);
                ip.fragment = match (field & OFFSET, field & MORE_FRAGMENTS) {
                    // An atomic fragment (RFC 6946) is a whole datagram.
                    (0, 0) => ip.fragment,
                    (0, _) => Fragment::First,
                    _ => Fragment::Later,
                };
            }
            _ => {}
        }
        ip.protocol = following;
        ip.payload += size;
    }
    if ip.protocol == next::NONE {
        ip.payload = end;
    }
    Ok(())
}
