//! Frames for humans, and what of them is compared.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::{crc32c, internet, pseudo_header};
use super::{flag, protocol};

/// The headers of an IP packet that are of interest.
#[derive(Clone, Debug)]
pub struct View<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// What comes after the IP header, up to its length.
    pub payload: &'a [u8],
    ttl: u8,
    tos: u8,
    id: u16,
    /// The flags and the offset of an IPv4 fragment.
    fragment: u16,
    /// Whether the checksum of the IP header is right.
    pub header_is_right: bool,
}

/// The IP packet in a frame, if there is one.
pub fn view(frame: &[u8]) -> Option<View<'_>> {
    match frame.get(12..14)? {
        [0x08, 0x00] | [0x86, 0xdd] => view_ip(&frame[14..]),
        _ => None,
    }
}

fn view_ip(bytes: &[u8]) -> Option<View<'_>> {
    match bytes.first()? >> 4 {
        4 => {
            let header = bytes.get(..usize::from(bytes[0] & 15) * 4)?;
            let b = header.first_chunk::<20>()?;
            let length = usize::from(u16::from_be_bytes([b[2], b[3]]));
            // An error quotes less than all of a packet.
            let payload = &bytes[header.len()..length.clamp(header.len(), bytes.len())];
            Some(View {
                source: Ipv4Addr::new(b[12], b[13], b[14], b[15]).into(),
                destination: Ipv4Addr::new(b[16], b[17], b[18], b[19]).into(),
                protocol: b[9],
                payload,
                ttl: b[8],
                tos: b[1],
                id: u16::from_be_bytes([b[4], b[5]]),
                fragment: u16::from_be_bytes([b[6], b[7]]),
                header_is_right: internet(&[header]) == 0,
            })
        }
        6 => {
            let b = bytes.first_chunk::<40>()?;
            let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&b[at..at + 16]).expect("sixteen"));
            let length = usize::from(u16::from_be_bytes([b[4], b[5]]));
            let payload = &bytes[40..(40 + length).min(bytes.len())];
            // A first fragment has what the whole begins with.
            let (protocol, fragment, payload) = match (b[6], payload) {
                (protocol::FRAGMENT, [next, _, high, low, _, _, _, _, rest @ ..]) => {
                    let field = u16::from_be_bytes([*high, *low]);
                    let fragment = field >> 3 | (field & 1) << 13;
                    if field >> 3 == 0 { (*next, fragment, rest) } else { (protocol::FRAGMENT, fragment, payload) }
                }
                (protocol, payload) => (protocol, 0, payload),
            };
            Some(View {
                source: address(8).into(),
                destination: address(24).into(),
                protocol,
                payload,
                ttl: b[7],
                tos: b[0] << 4 | b[1] >> 4,
                id: 0,
                fragment,
                header_is_right: true,
            })
        }
        _ => None,
    }
}

impl View<'_> {
    /// The ports, if the protocol has some.
    pub fn ports(&self) -> Option<[u16; 2]> {
        let known = matches!(self.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
        let b = self.payload.first_chunk::<4>().filter(|_| known)?;
        Some([u16::from_be_bytes([b[0], b[1]]), u16::from_be_bytes([b[2], b[3]])])
    }

    /// TCP's flags.
    pub fn flags(&self) -> Option<u8> {
        (self.protocol == protocol::TCP).then(|| self.payload.get(13).copied())?
    }

    /// ICMP's type and code.
    pub fn icmp(&self) -> Option<[u8; 2]> {
        let known = matches!(self.protocol, protocol::ICMP | protocol::ICMPV6);
        self.payload.first_chunk::<2>().copied().filter(|_| known)
    }

    /// Whether this is an ICMP error.
    pub fn is_error(&self) -> bool {
        match (self.protocol, self.icmp()) {
            (protocol::ICMP, Some([kind, _])) => matches!(kind, 3 | 4 | 5 | 11 | 12),
            (protocol::ICMPV6, Some([kind, _])) => kind < 128,
            _ => false,
        }
    }

    /// The packet an ICMP error is about.
    pub fn about(&self) -> Option<View<'_>> {
        self.is_error().then(|| view_ip(self.payload.get(8..)?))?
    }

    /// Whether the checksum behind the IP header is right.
    pub fn is_right(&self) -> bool {
        let pseudo = pseudo_header(self.source, self.destination, self.protocol, self.payload.len());
        match self.protocol {
            protocol::ICMP => internet(&[self.payload]) == 0,
            protocol::UDP if self.payload.get(6..8) == Some(&[0, 0]) => true,
            protocol::TCP | protocol::UDP | protocol::ICMPV6 => internet(&[&pseudo, self.payload]) == 0,
            protocol::SCTP => match (self.payload.get(..8), self.payload.get(8..12), self.payload.get(12..)) {
                (Some(before), Some(sum), Some(after)) => crc32c(&[before, &[0; 4], after]).to_le_bytes() == *sum,
                _ => false,
            },
            _ => true,
        }
    }

    fn write(&self, out: &mut String, is_whole: bool) {
        let Self { source, destination, payload, ttl, tos, id, fragment, .. } = self;
        let ends = match self.ports() {
            Some([from, to]) => format!("{source} {from} > {destination} {to}"),
            None => format!("{source} > {destination}"),
        };
        let _ = write!(out, "{ends} ttl {ttl} tos {tos:#x}");
        if source.is_ipv4() || *fragment != 0 {
            let _ = write!(out, " id {id} fragment {fragment:#x}");
        }
        if !self.header_is_right {
            out.push_str(" WRONG HEADER CHECKSUM");
        }
        let _ = match self.protocol {
            protocol::TCP => write!(out, " tcp {}", letters(self.flags().unwrap_or(0))),
            protocol::UDP => write!(out, " udp"),
            protocol::SCTP => write!(out, " sctp chunk {:?}", payload.get(12)),
            protocol::ICMP | protocol::ICMPV6 => {
                let [kind, code] = self.icmp().unwrap_or_default();
                write!(out, " icmp {kind}/{code} {:02x?}", payload.get(4..8).unwrap_or_default())
            }
            number => write!(out, " protocol {number}"),
        };
        let _ = write!(out, " of {} bytes", payload.len());
        if is_whole && fragment & 0x3fff == 0 && !self.is_right() {
            out.push_str(" WRONG CHECKSUM");
        }
        let inner = match self.protocol {
            protocol::IPIP | protocol::IPV6 => view_ip(payload),
            _ => self.about(),
        };
        if let Some(inner) = inner {
            out.push_str(" : ");
            inner.write(out, !self.is_error());
        }
    }
}

/// TCP flags as letters.
fn letters(flags: u8) -> String {
    let all = [('S', flag::SYN), ('F', flag::FIN), ('R', flag::RST), ('P', flag::PSH), ('A', flag::ACK)];
    let text: String = all.iter().filter(|(_, flag)| flags & flag != 0).map(|(letter, _)| *letter).collect();
    if text.is_empty() { ".".to_owned() } else { text }
}

/// One line about a frame.
pub fn show(frame: &[u8]) -> String {
    let mut out = String::new();
    match (frame.get(..6), view(frame)) {
        (Some(to), Some(view)) => {
            let _ = write!(out, "to {}: ", crate::world::mac_text(to.try_into().expect("six")));
            view.write(&mut out, true);
        }
        _ => {
            let _ = write!(out, "{frame:02x?}");
        }
    }
    out
}
