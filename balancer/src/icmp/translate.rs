//! Errors of others about balanced connections: found by the packet they quote, and rewritten as that was
//! (`ip_vs_nat_icmp` in Linux).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Reason;
use crate::checksum::{Delta, Sum, adjust_transport};
use crate::crc32c;
use crate::frame::transport::checksum_offset;
use crate::frame::{ETHERNET, Ip, protocol};
use crate::service::Protocol;

/// Bytes of an ICMP error before what it quotes.
pub(crate) const HEADER: usize = 8;
const HEADER_V4: usize = 20;
const HEADER_V6: usize = 40;

/// Types that are translated, as in Linux: destination unreachable, source quench, time exceeded. ICMPv6: every error.
fn is_translated(kind: u8, is_v6: bool) -> bool {
    if is_v6 { kind < 128 } else { matches!(kind, 3 | 4 | 11) }
}

/// The packet that an ICMP error quotes, and where the parts of both lie in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quote {
    /// Transport protocol of the quoted packet.
    pub protocol: Protocol,
    /// Source address of the quoted packet.
    pub source: IpAddr,
    /// Source port of the quoted packet, in host order.
    pub source_port: u16,
    /// Destination address of the quoted packet.
    pub destination: IpAddr,
    /// Destination port of the quoted packet, in host order.
    pub destination_port: u16,
    /// It is of AH or ESP: the ports are those of its key exchange, and not in the packet.
    pub is_secured: bool,
    /// The error itself.
    outer: Ip,
    /// Where the quoted transport header starts.
    transport: usize,
    /// Bytes from there to the end of the packet as it was before it was cut off; 0 for a fragment.
    transport_len: usize,
}

/// Looks into an ICMP or ICMPv6 message: a frame of which at least the headers are in `head`, with `ip` as read of it.
///
/// `Ok(None)` if it is no error that is translated: an echo, an error about something that is none of TCP, UDP and SCTP
/// or about a later fragment. The local stack may have it.
///
/// # Errors
/// [`Reason::Malformed`] if it is cut short, or what it quotes is no packet of its own family.
pub(crate) fn parse(head: &[u8], ip: &Ip) -> Result<Option<Quote>, Reason> {
    let end = ip.end.min(head.len());
    let message = head.get(ip.payload..end).ok_or(Reason::Malformed)?;
    if message.len() < HEADER {
        return Err(Reason::Malformed);
    }
    let Some((_, packet)) = error(message, ip.is_v6()) else { return Ok(None) };
    let Some(quoted) = quoted(packet, ip.is_v6())? else { return Ok(None) };
    Ok(Some(Quote {
        protocol: quoted.protocol,
        source: quoted.source,
        source_port: quoted.source_port,
        destination: quoted.destination,
        destination_port: quoted.destination_port,
        is_secured: quoted.is_secured,
        outer: *ip,
        transport: ip.payload + HEADER + quoted.len,
        transport_len: quoted.transport_len,
    }))
}

/// The header of an error that is translated, and what it quotes. `None` if it is anything else.
pub(crate) fn error(message: &[u8], is_v6: bool) -> Option<(&[u8; HEADER], &[u8])> {
    message.split_first_chunk::<HEADER>().filter(|(header, _)| is_translated(header[0], is_v6))
}

/// A packet of which an error has at least the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quoted {
    pub protocol: Protocol,
    pub source: IpAddr,
    pub source_port: u16,
    pub destination: IpAddr,
    pub destination_port: u16,
    /// It is of AH or ESP: the ports are those of its key exchange, and not in the packet.
    pub is_secured: bool,
    /// Bytes before the transport header.
    len: usize,
    /// Bytes from there to the end of the packet as it was; 0 for a fragment.
    transport_len: usize,
}

/// UDP port of IPsec's key exchange (RFC 7296), by whose connections packets of AH and ESP go.
pub(crate) const KEY_EXCHANGE: u16 = 500;

/// Reads a packet that an error quotes. `None` if it is none of TCP, UDP and SCTP, or a later fragment.
///
/// # Errors
/// [`Reason::Malformed`] if it is cut short before 8 bytes of the transport header, or of the other family.
pub(crate) fn quoted(packet: &[u8], is_v6: bool) -> Result<Option<Quoted>, Reason> {
    let inner = if is_v6 { inner_v6(packet)? } else { inner_v4(packet)? };
    let Some(inner) = inner else { return Ok(None) };
    let protocol = match inner.protocol {
        protocol::TCP => Protocol::Tcp,
        protocol::UDP => Protocol::Udp,
        protocol::SCTP => Protocol::Sctp,
        protocol::AH | protocol::ESP => {
            return Ok(Some(Quoted {
                protocol: Protocol::Udp,
                source: inner.source,
                source_port: KEY_EXCHANGE,
                destination: inner.destination,
                destination_port: KEY_EXCHANGE,
                is_secured: true,
                len: inner.len,
                transport_len: 0,
            }));
        }
        _ => return Ok(None),
    };
    let ports = packet.get(inner.len..).and_then(|transport| transport.first_chunk::<8>()).ok_or(Reason::Malformed)?;
    Ok(Some(Quoted {
        protocol,
        source: inner.source,
        source_port: u16::from_be_bytes([ports[0], ports[1]]),
        destination: inner.destination,
        destination_port: u16::from_be_bytes([ports[2], ports[3]]),
        is_secured: false,
        len: inner.len,
        transport_len: if inner.is_fragment { 0 } else { inner.end.saturating_sub(inner.len) },
    }))
}

/// The headers of a quoted packet.
struct Inner {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// Bytes before the transport header.
    len: usize,
    /// Bytes of the whole packet, as its header says.
    end: usize,
    is_fragment: bool,
}

/// `None` if it is a fragment without transport header. The checksum is whatever it was where the packet died.
fn inner_v4(packet: &[u8]) -> Result<Option<Inner>, Reason> {
    let h = packet.first_chunk::<HEADER_V4>().ok_or(Reason::Malformed)?;
    let len = usize::from(h[0] & 0xf) * 4;
    if h[0] >> 4 != 4 || len < HEADER_V4 {
        return Err(Reason::Malformed);
    }
    let fragment = u16::from_be_bytes([h[6], h[7]]);
    if fragment & 0x1fff != 0 {
        return Ok(None);
    }
    let end = u16::from_be_bytes([h[2], h[3]]).into();
    let is_fragment = fragment & 0x2000 != 0;
    let address = |at: usize| IpAddr::V4(Ipv4Addr::new(h[at], h[at + 1], h[at + 2], h[at + 3]));
    Ok(Some(Inner { source: address(12), destination: address(16), protocol: h[9], len, end, is_fragment }))
}

/// `None` if the transport header is in another fragment, or depends on an address that is not the one to be seen.
fn inner_v6(packet: &[u8]) -> Result<Option<Inner>, Reason> {
    let h = packet.first_chunk::<HEADER_V6>().ok_or(Reason::Malformed)?;
    if h[0] >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&h[at..at + 16]);
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    let mut inner = Inner {
        source: address(8),
        destination: address(24),
        protocol: h[6],
        len: HEADER_V6,
        end: HEADER_V6 + usize::from(u16::from_be_bytes([h[4], h[5]])),
        is_fragment: false,
    };
    // Each turn moves at least eight bytes on, so the loop ends with the packet.
    loop {
        let extension = || packet.get(inner.len..).and_then(|x| x.first_chunk::<8>()).ok_or(Reason::Malformed);
        let (next, len) = match inner.protocol {
            // Hop-by-hop and destination options.
            0 | 60 => {
                let x = extension()?;
                (x[0], 8 + 8 * usize::from(x[1]))
            }
            // Authentication.
            51 => {
                let x = extension()?;
                (x[0], 8 + 4 * usize::from(x[1]))
            }
            // Routing: with segments left, the destination is not the last one.
            43 => {
                let x = extension()?;
                if x[3] != 0 {
                    return Ok(None);
                }
                (x[0], 8 + 8 * usize::from(x[1]))
            }
            // Fragment.
            44 => {
                let x = extension()?;
                let field = u16::from_be_bytes([x[2], x[3]]);
                if field & 0xfff8 != 0 {
                    return Ok(None);
                }
                inner.is_fragment |= field & 1 != 0;
                (x[0], 8)
            }
            _ => return Ok(Some(inner)),
        };
        inner.protocol = next;
        inner.len += len;
    }
}

/// Which end of the outer and of the quoted packet is rewritten: they are opposite ends.
#[derive(Clone, Copy)]
enum Toward {
    /// Outer destination, quoted source.
    Server,
    /// Outer source, quoted destination.
    Client,
}

impl Quote {
    /// Rewrites an error about a reply that we had sent on to a client, for the server: the error goes to the server,
    /// and what it quotes comes from there. TTL and Ethernet addresses are left to the caller.
    ///
    /// An error whose checksum is wrong keeps a wrong one: see [`Quote::check`].
    ///
    /// # Errors
    /// [`Reason::Malformed`] if `frame` is not the whole frame or `server` is of the other family; nothing is changed then.
    pub fn for_server(&self, frame: &mut [u8], server: IpAddr, port: u16) -> Result<(), Reason> {
        self.rewrite(frame, Toward::Server, server, port)
    }

    /// Rewrites an error about a request that we had sent on to a server, for the client: the error comes from the
    /// virtual address, and what it quotes went there. TTL and Ethernet addresses are left to the caller.
    ///
    /// # Errors
    /// As [`Quote::for_server`].
    pub fn for_client(&self, frame: &mut [u8], address: IpAddr, port: u16) -> Result<(), Reason> {
        self.rewrite(frame, Toward::Client, address, port)
    }

    /// Gives the quoted segment another sequence number. Nothing if it is not of TCP.
    pub fn renumber(&self, frame: &mut [u8], to: impl FnOnce(u32) -> u32) {
        let at = self.transport + 4;
        let number = frame.get(at..at + 4).and_then(|bytes| bytes.first_chunk()).filter(|_| at + 4 <= self.outer.end);
        let Some(old) = number.map(|bytes| u32::from_be_bytes(*bytes)) else { return };
        if self.protocol != Protocol::Tcp {
            return;
        }
        let new = to(old);
        put_bytes(frame, at, &new.to_be_bytes());
        let halves = |number: u32| [(number >> 16) as u16, number as u16];
        let ([a, b], [c, d]) = (halves(old), halves(new));
        let mut delta = Delta::ZERO.word(a, c).word(b, d);
        // The checksum of the quoted segment, if it is in the quote.
        let checksum = self.transport + checksum_offset(self.protocol);
        if checksum + 2 <= self.outer.end {
            let inner = delta;
            delta = delta.and(adjust(frame, checksum, |sum| inner.adjust(sum)));
        }
        adjust(frame, self.outer.payload + 2, |sum| delta.adjust(sum));
    }

    /// Whether the error is whole.
    ///
    /// # Errors
    /// [`Reason::BadChecksum`] if its checksum is wrong, [`Reason::Malformed`] if `frame` is not the whole frame.
    pub fn check(&self, frame: &[u8]) -> Result<(), Reason> {
        let outer = &self.outer;
        let message = frame.get(outer.payload..outer.end).ok_or(Reason::Malformed)?;
        let start = match outer.is_v6() {
            true => Sum::pseudo_header(outer.source, outer.destination, protocol::ICMPV6, message.len() as u32),
            false => Sum::ZERO,
        };
        if start.bytes(message).is_intact() { Ok(()) } else { Err(Reason::BadChecksum) }
    }

    fn rewrite(&self, frame: &mut [u8], toward: Toward, address: IpAddr, port: u16) -> Result<(), Reason> {
        let outer = &self.outer;
        let message = frame.get(outer.payload..outer.end).ok_or(Reason::Malformed)?;
        if address.is_ipv6() != outer.is_v6()
            || message.len() < HEADER
            || !self.is_secured && self.transport + 8 > outer.end
        {
            return Err(Reason::Malformed);
        }
        let (outer_old, inner_old, port_old, port_at) = match toward {
            Toward::Server => (outer.destination, self.source, self.source_port, self.transport),
            Toward::Client => (outer.source, self.destination, self.destination_port, self.transport + 2),
        };
        let is_source = matches!(toward, Toward::Client);
        let outer_address = Delta::ZERO.address(outer_old, address);
        let inner_address = Delta::ZERO.address(inner_old, address);
        let inner_port = if self.is_secured { Delta::ZERO } else { Delta::ZERO.word(port_old, port) };

        put_address(frame, ETHERNET, address, is_source);
        let inner = outer.payload + HEADER;
        put_address(frame, inner, address, !is_source);
        if !self.is_secured {
            put(frame, port_at, port);
        }

        // What changes within the message changes its checksum. A header checksum takes up what its addresses change,
        // but not when it was wrong before: so all are counted alike.
        let mut message_delta = inner_address.and(inner_port);
        if outer.is_v6() {
            message_delta = message_delta.and(outer_address);
        } else {
            adjust(frame, ETHERNET + 10, |sum| outer_address.adjust(sum));
            message_delta = message_delta.and(adjust(frame, inner + 10, |sum| inner_address.adjust(sum)));
        }
        // The checksum of the quoted datagram, if it is in the quote.
        let at = self.transport + checksum_offset(self.protocol);
        if self.is_secured {
            // There is none to be seen.
        } else if self.protocol == Protocol::Sctp {
            message_delta = message_delta.and(self.adjust_sctp(frame, at, port_at, port_old));
        } else if at + 2 <= outer.end {
            let is_udp = self.protocol == Protocol::Udp;
            let change = adjust(frame, at, |sum| adjust_transport(sum, is_udp, false, inner_address, inner_port));
            message_delta = message_delta.and(change);
        }
        adjust(frame, outer.payload + 2, |sum| message_delta.adjust(sum));
        Ok(())
    }
}

impl Quote {
    /// Adjusts the checksum of a quoted SCTP packet, if it is in the quote and it is known what it is about, to a port that has
    /// been changed.
    fn adjust_sctp(&self, frame: &mut [u8], at: usize, port_at: usize, port_old: u16) -> Delta {
        let Some(ports) = frame.get(self.transport..).and_then(|bytes| bytes.first_chunk::<4>()) else {
            return Delta::ZERO;
        };
        let (new, mut old) = (*ports, *ports);
        let place = port_at - self.transport;
        old[place..place + 2].copy_from_slice(&port_old.to_be_bytes());
        let field = frame.get_mut(at..self.outer.end).and_then(|bytes| bytes.first_chunk_mut::<4>());
        let (Some(field), Some(after)) = (field, self.transport_len.checked_sub(4)) else { return Delta::ZERO };
        let before = u32::from_be_bytes(*field);
        *field = crc32c::adjust(u32::from_le_bytes(*field), old, new, after).to_le_bytes();
        let after = u32::from_be_bytes(*field);
        Delta::ZERO.word((before >> 16) as u16, (after >> 16) as u16).word(before as u16, after as u16)
    }
}

/// Writes the source or destination address of an IP header. Nothing if it is not there.
fn put_address(frame: &mut [u8], header: usize, address: IpAddr, is_source: bool) {
    match address {
        IpAddr::V4(a) => put_bytes(frame, header + if is_source { 12 } else { 16 }, &a.octets()),
        IpAddr::V6(a) => put_bytes(frame, header + if is_source { 8 } else { 24 }, &a.octets()),
    }
}

fn put(frame: &mut [u8], at: usize, word: u16) {
    put_bytes(frame, at, &word.to_be_bytes());
}

fn put_bytes(frame: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(field) = frame.get_mut(at..at + bytes.len()) {
        field.copy_from_slice(bytes);
    }
}

/// Replaces a word, and tells how that changes the sum of what it lies in.
fn adjust(frame: &mut [u8], at: usize, new: impl FnOnce(u16) -> u16) -> Delta {
    let Some(field) = frame.get_mut(at..at + 2) else { return Delta::ZERO };
    let old = u16::from_be_bytes([field[0], field[1]]);
    let new = new(old);
    field.copy_from_slice(&new.to_be_bytes());
    Delta::ZERO.word(old, new)
}
