//! TCP, UDP and SCTP headers, as far as a balancer reads them.

use super::sctp::{self, Event};
use super::{Ip, protocol};
use crate::packet::Reason;
use crate::service::Protocol;

bitflags::bitflags! {
    /// The flags of a TCP header that change the state of a connection (RFC 9293, section 3.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct TcpFlags: u8 {
        const FIN = 0x01;
        const SYN = 0x02;
        const RST = 0x04;
        const PSH = 0x08;
        const ACK = 0x10;
        const _ = !0;
    }
}

/// A TCP, UDP or SCTP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transport {
    pub protocol: Protocol,
    pub source_port: u16,
    pub destination_port: u16,
    /// Empty for UDP. For SCTP: SYN if the packet begins with INIT, which asks for a new association, and RST with ABORT, to which
    /// there is no answer.
    pub flags: TcpFlags,
    /// What an SCTP packet says; of no meaning for others.
    pub event: Event,
    /// Bytes of the header, options included.
    pub header: usize,
}

impl Transport {
    /// Where the checksum lies, in bytes from the start of the header.
    pub fn checksum_offset(&self) -> usize {
        checksum_offset(self.protocol)
    }
}

/// Where the checksum lies in a header of a protocol, in bytes from its start.
pub(crate) fn checksum_offset(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 16,
        Protocol::Sctp => sctp::CHECKSUM,
        _ => 6,
    }
}

/// Reads the transport header of a packet that has one. Whether it has: it is neither TCP, UDP nor SCTP otherwise.
#[inline(always)]
pub(super) fn parse(transport: &mut Transport, head: &[u8], ip: &Ip) -> Result<bool, Reason> {
    let protocol = match ip.protocol {
        protocol::TCP => Protocol::Tcp,
        protocol::UDP => Protocol::Udp,
        protocol::SCTP => Protocol::Sctp,
        _ => return Ok(false),
    };
    header(transport, head, ip, protocol).ok_or(Reason::Malformed).map(|()| true)
}

#[inline(always)]
fn header(transport: &mut Transport, head: &[u8], ip: &Ip, protocol: Protocol) -> Option<()> {
    let bytes = head.get(ip.payload..)?;
    let (flags, header) = match protocol {
        Protocol::Tcp => {
            let h = bytes.first_chunk::<20>()?;
            let header = usize::from(h[12] >> 4) * 4;
            if header < 20 {
                return None;
            }
            (TcpFlags::from_bits_retain(h[13]), header)
        }
        Protocol::Sctp => chunks(transport, bytes, ip),
        _ => {
            let h = bytes.first_chunk::<8>()?;
            if u16::from_be_bytes([h[4], h[5]]) < 8 {
                return None;
            }
            (TcpFlags::empty(), 8)
        }
    };
    if ip.payload + header > ip.end || header > bytes.len() {
        return None;
    }
    let h = bytes.first_chunk::<4>()?;
    transport.protocol = protocol;
    transport.source_port = u16::from_be_bytes([h[0], h[1]]);
    transport.destination_port = u16::from_be_bytes([h[2], h[3]]);
    transport.flags = flags;
    transport.header = header;
    Some(())
}

/// Reads what the chunks of an SCTP packet say. Its flags, and the bytes of its header.
#[cold]
fn chunks(transport: &mut Transport, bytes: &[u8], ip: &Ip) -> (TcpFlags, usize) {
    let end = bytes.len().min(ip.end - ip.payload);
    let chunks = bytes.get(sctp::HEADER..end).unwrap_or_default();
    transport.event = Event::of(chunks);
    let flags = match (transport.event, chunks) {
        (Event::Init, _) => TcpFlags::SYN,
        // Behind a cookie, it is no more than an event.
        (Event::Abort, [sctp::ABORT, ..]) => TcpFlags::RST,
        _ => TcpFlags::empty(),
    };
    (flags, sctp::HEADER)
}
