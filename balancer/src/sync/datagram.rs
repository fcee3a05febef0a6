//! Frames around messages.

use alloc::vec::Vec;
use core::net::IpAddr;

use crate::checksum::{Sum, ipv4_header};
use crate::frame::{IPV4, IPV6, protocol};
use crate::neighbour::Mac;

const UDP: usize = 8;

/// The Ethernet address of a group (RFC 1112 section 6.4, RFC 2464 section 7).
pub(super) fn group_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(a) => {
            let [_, b, c, d] = a.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(a) => {
            let [.., b, c, d, e] = a.octets();
            [0x33, 0x33, b, c, d, e]
        }
    }
}

/// Where a datagram comes from and goes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub mac: Mac,
    pub source: IpAddr,
    pub group: IpAddr,
    pub ports: (u16, u16),
    pub ttl: u8,
}

/// Makes a frame of a message to a group. Nothing if the addresses are not of one family.
pub(super) fn write(ends: &Ends, identification: u16, message: &[u8], out: &mut Vec<u8>) {
    let length = (UDP + message.len()) as u16;
    if !begin(ends, (protocol::UDP, 0, &[]), identification, length, out) {
        return;
    }
    let at = out.len();
    out.extend(ends.ports.0.to_be_bytes());
    out.extend(ends.ports.1.to_be_bytes());
    out.extend(length.to_be_bytes());
    out.extend([0, 0]);
    out.extend(message);
    let pseudo = Sum::pseudo_header(ends.source, ends.group, protocol::UDP, length.into());
    let sum = match pseudo.bytes(&out[at..]).checksum() {
        0 => 0xffff,
        sum => sum,
    };
    out[at + 6..at + 8].copy_from_slice(&sum.to_be_bytes());
}

/// Writes Ethernet and IP headers in front of `length` bytes of a protocol, which has a type of service and options (of IPv4, or
/// an extension header of IPv6 that begins with the place of the next one). Whether it can be done.
pub(super) fn begin(
    ends: &Ends,
    (number, service, options): (u8, u8, &[u8]),
    identification: u16,
    length: u16,
    out: &mut Vec<u8>,
) -> bool {
    out.clear();
    out.extend(group_mac(ends.group));
    out.extend(ends.mac);
    match (ends.source, ends.group) {
        (IpAddr::V4(source), IpAddr::V4(group)) => {
            let header = 20 + options.len();
            out.extend(IPV4.to_be_bytes());
            let at = out.len();
            out.extend([0x40 | (header / 4) as u8, service]);
            out.extend((header as u16 + length).to_be_bytes());
            out.extend(identification.to_be_bytes());
            out.extend([0, 0, ends.ttl, number, 0, 0]);
            out.extend(source.octets());
            out.extend(group.octets());
            out.extend(options);
            let sum = ipv4_header(&out[at..]);
            out[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(group)) => {
            out.extend(IPV6.to_be_bytes());
            out.extend([0x60, 0, 0, 0]);
            out.extend((options.len() as u16 + length).to_be_bytes());
            // The only extension header there is here is that of options for every hop: 0.
            out.extend([if options.is_empty() { number } else { 0 }, ends.ttl]);
            out.extend(source.octets());
            out.extend(group.octets());
            out.extend(options);
        }
        _ => return false,
    }
    true
}
