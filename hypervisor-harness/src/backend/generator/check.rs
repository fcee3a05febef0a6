//! Whether what came back is what was sent, translated and nothing else.

use std::net::{Ipv4Addr, SocketAddrV4};

use ringlet_driver::wire::NetHdr;

use super::template::{HEADERS, IP, MARK, TRANSPORT, Transport, add, filler, flow, fold, mark, pseudo};
use super::{LONGEST_FRAME, Load, ethernet};
use crate::backend::Scatter;
use crate::backend::options::Protocol;

/// Knows forwarded frames.
#[derive(Debug)]
pub(super) struct Checker {
    guest: [u8; 6],
    servers: Vec<SocketAddrV4>,
    protocol: Protocol,
    flows: u32,
    frame: usize,
}

impl Checker {
    pub(super) fn new(load: &Load) -> Self {
        Self {
            guest: load.guest,
            servers: load.servers.clone(),
            protocol: load.protocol,
            flows: load.flows,
            frame: load.frame,
        }
    }

    /// Whether a frame with these first [`HEADERS`] bytes goes from a client to a server.
    #[inline]
    pub(super) fn is_forwarded(&self, headers: &[u8]) -> bool {
        let Some(headers) = headers.first_chunk::<HEADERS>() else { return false };
        headers[12..15] == [0x08, 0x00, 0x45]
            && headers[IP + 9] == Transport::of(self.protocol).number
            && headers[IP + 12..IP + 14] == [10, 9]
            && self.server(headers).is_some()
    }

    /// The server to which a frame goes.
    #[inline]
    fn server(&self, headers: &[u8; HEADERS]) -> Option<Ipv4Addr> {
        let address = Ipv4Addr::from([headers[IP + 16], headers[IP + 17], headers[IP + 18], headers[IP + 19]]);
        let port = u16::from_be_bytes([headers[TRANSPORT + 2], headers[TRANSPORT + 3]]);
        let known = self.servers.iter().any(|server| *server.ip() == address && server.port() == port);
        known.then_some(address)
    }

    /// Checks a forwarded frame to its last byte. The time to live may have been counted down.
    pub(super) fn check(&self, frame: &Scatter<'_>) -> bool {
        let mut bytes = [0; NetHdr::LEN + LONGEST_FRAME];
        let length = frame.read(0, &mut bytes);
        length == NetHdr::LEN + self.frame && frame.len() == length && self.is_right(&bytes[..length])
    }

    fn is_right(&self, bytes: &[u8]) -> bool {
        let Some((header, frame)) = bytes.split_first_chunk::<{ NetHdr::LEN }>() else { return false };
        let (header, Some(headers)) = (NetHdr::parse(header), frame.first_chunk::<HEADERS>()) else { return false };
        let Some(server) = self.server(headers).filter(|_| self.is_forwarded(headers)) else { return false };
        let transport = Transport::of(self.protocol);
        let (ip, segment) = (&frame[IP..TRANSPORT], &frame[TRANSPORT..]);
        let client = Ipv4Addr::from([ip[12], ip[13], ip[14], ip[15]]);
        let port = u16::from_be_bytes([segment[0], segment[1]]);
        let Some(flow) = flow(client, port).filter(|flow| *flow < self.flows) else { return false };
        let pseudo = add(pseudo(transport.number, segment.len()), &ip[12..20]);
        // A partial checksum holds the sum of the pseudo-header, a finished one makes the sum of everything all ones.
        let summed = match header.needs_csum() {
            true => {
                let place = (header.csum_start, header.csum_offset);
                let at = transport.checksum;
                place == (TRANSPORT as u16, at as u16) && segment[at..at + 2] == fold(pseudo).to_be_bytes()
            }
            false => fold(add(pseudo, segment)) == 0xffff && segment[transport.checksum..][..2] != [0, 0],
        };
        let payload = &segment[transport.header..];
        let Some(sent) = payload.first_chunk::<MARK>() else { return false };
        let round = u16::from_be_bytes([sent[4], sent[5]]);
        summed
            && frame[..6] == ethernet(server)
            && frame[6..12] == self.guest
            && fold(add(0, ip)) == 0xffff
            && usize::from(u16::from_be_bytes([ip[2], ip[3]])) == frame.len() - IP
            && (63..=64).contains(&ip[8])
            && !header.is_gso()
            && *sent == mark(flow, round.into())
            && payload.iter().enumerate().skip(MARK).all(|(at, byte)| *byte == filler(at))
    }
}
