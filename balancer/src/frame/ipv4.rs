//! The IPv4 header, RFC 791.

use core::net::{IpAddr, Ipv4Addr};

use super::{ETHERNET, Fragment, Ip};
use crate::checksum::is_header_intact;
use crate::packet::Reason;

/// Bytes of a header without options.
const HEADER: usize = 20;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// Reads the header and verifies its checksum. Options are stepped over.
#[inline(always)]
pub(super) fn parse(ip: &mut Ip, head: &[u8], len: usize) -> Result<(), Reason> {
    let Some(packet) = head.get(ETHERNET..) else { return Err(Reason::Malformed) };
    let Some(h) = packet.first_chunk::<HEADER>() else { return Err(Reason::Malformed) };
    let header = usize::from(h[0] & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes([h[2], h[3]]));
    if h[0] >> 4 != 4 || header < HEADER || total < header || ETHERNET + total > len {
        return Err(Reason::Malformed);
    }
    let is_intact = match header {
        HEADER => is_header_intact(h),
        _ => is_header_intact(packet.get(..header).ok_or(Reason::Malformed)?),
    };
    if !is_intact {
        return Err(Reason::BadHeaderChecksum);
    }
    let flags = u16::from_be_bytes([h[6], h[7]]);
    ip.fragment = match flags & (OFFSET | MORE_FRAGMENTS) {
        0 => Fragment::Whole,
        MORE_FRAGMENTS => Fragment::First,
        _ => Fragment::Later,
    };
    ip.source = IpAddr::V4(Ipv4Addr::new(h[12], h[13], h[14], h[15]));
    ip.destination = IpAddr::V4(Ipv4Addr::new(h[16], h[17], h[18], h[19]));
    ip.hops = h[8];
    ip.dont_fragment = flags & DONT_FRAGMENT != 0;
    ip.protocol = h[9];
    ip.payload = ETHERNET + header;
    ip.end = ETHERNET + total;
    Ok(())
}
