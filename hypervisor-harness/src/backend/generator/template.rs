//! Frames made from templates: only what differs from flow to flow is written, checksums included.

use std::ops::Range;

use ringlet_driver::wire::NetHdr;

use super::shape::{IP, Shape, add, client, filler, flags, fold, octets};
use super::{Load, ethernet};

/// A frame with its virtio header, and the sums over what does not change in it.
#[derive(Debug)]
struct Frame {
    bytes: Vec<u8>,
    /// The pieces in it, of its round.
    pieces: Range<usize>,
    tcp_flags: u8,
    ip_sum: u32,
    transport_sum: u32,
}

impl Frame {
    /// A frame with these pieces of a round: all of them, to be segmented, or one.
    fn new(load: &Load, shape: &Shape, pieces: Range<usize>, partial: bool) -> Self {
        let payload = (pieces.start * shape.size).min(shape.total)..(pieces.end * shape.size).min(shape.total);
        let gso = pieces.len() > 1;
        let length = shape.payload + payload.len();
        let mut bytes = vec![0; NetHdr::LEN + length];
        let frame = &mut bytes[NetHdr::LEN..];
        frame[..6].copy_from_slice(&load.guest);
        frame[6..12].copy_from_slice(&ethernet(load.gateway));
        let service = octets(load.service.ip());
        let ip = &mut frame[IP..shape.transport];
        let segment = length - shape.transport;
        if shape.v6 {
            ip[0] = 0x60;
            ip[4..6].copy_from_slice(&(segment as u16).to_be_bytes());
            (ip[6], ip[7]) = (shape.protocol(), 64);
            ip[24..40].copy_from_slice(&service);
        } else {
            ip[0] = 0x45;
            ip[2..4].copy_from_slice(&((length - IP) as u16).to_be_bytes());
            // What is to be cut into fragments may be.
            ip[6] = if gso && shape.gso_type() == NetHdr::GSO_UDP { 0 } else { 0x40 };
            (ip[8], ip[9]) = (64, shape.protocol());
            ip[16..20].copy_from_slice(&service);
        }
        let ip_sum = add(0, ip);
        frame[12..14].copy_from_slice(if shape.v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
        let transport = &mut frame[shape.transport..];
        transport[2..4].copy_from_slice(&load.service.port().to_be_bytes());
        if shape.tcp {
            transport[12..16].copy_from_slice(&[0x50, 0, 0xff, 0xff]);
        } else {
            transport[4..6].copy_from_slice(&(segment as u16).to_be_bytes());
        }
        for (at, byte) in payload.clone().zip(&mut frame[shape.payload..]) {
            *byte = if at % shape.size < shape.mark_length() { 0 } else { filler(at) };
        }
        let (first, last) = (pieces.start == 0, payload.end == shape.total);
        let mut tcp_flags = flags::ACK;
        tcp_flags |= if shape.large.is_some() && last { flags::PSH } else { 0 };
        tcp_flags |= if shape.ecn && first { flags::CWR } else { 0 };
        let pseudo = shape.pseudo(frame, segment);
        let transport_sum = if partial { pseudo } else { add(fold(pseudo).into(), &frame[shape.transport..]) };
        let mut header = NetHdr { num_buffers: 1, ..NetHdr::default() };
        if partial {
            let place = NetHdr::partial_checksum(shape.transport as u16, shape.checksum() as u16);
            header = NetHdr { num_buffers: 1, ..place };
        }
        if gso {
            (header.gso_type, header.gso_size) = (shape.gso_type(), shape.size as u16);
            header.hdr_len = shape.payload as u16;
        }
        bytes[..NetHdr::LEN].copy_from_slice(&header.to_bytes());
        Self { bytes, pieces, tcp_flags, ip_sum, transport_sum }
    }

    /// Makes it the frame of a flow in a round.
    #[inline]
    fn fill(&mut self, shape: &Shape, partial: bool, flow: u32, round: u32) {
        let (address, port) = client(flow, shape.v6);
        let port = port.to_be_bytes();
        let frame = &mut self.bytes[NetHdr::LEN..];
        let source = match address {
            std::net::IpAddr::V4(address) => {
                let octets = address.octets();
                frame[IP + 12..IP + 16].copy_from_slice(&octets);
                let source = add(0, &octets);
                frame[IP + 10..IP + 12].copy_from_slice(&(!fold(self.ip_sum + source)).to_be_bytes());
                source
            }
            std::net::IpAddr::V6(address) => {
                let octets = address.octets();
                frame[IP + 8..IP + 24].copy_from_slice(&octets);
                add(0, &octets)
            }
        };
        let transport = shape.transport;
        frame[transport..transport + 2].copy_from_slice(&port);
        let mut sum = self.transport_sum + source;
        if shape.tcp {
            // SYN alone first.
            let (sequence, tcp_flags) = match round {
                0 => (0, flags::SYN),
                _ => (shape.sequence(round as u16, self.pieces.start * shape.size), self.tcp_flags),
            };
            let sequence = sequence.to_be_bytes();
            frame[transport + 4..transport + 8].copy_from_slice(&sequence);
            frame[transport + 13] = tcp_flags;
            if !partial {
                sum += add(u32::from(tcp_flags), &sequence);
            }
        }
        for piece in self.pieces.clone() {
            let mark = shape.mark(flow, round as u16, piece);
            let mark = &mark[..shape.mark_length()];
            let at = shape.payload + (piece - self.pieces.start) * shape.size;
            frame[at..at + mark.len()].copy_from_slice(mark);
            if !partial {
                sum += add(0, mark);
            }
        }
        let checksum = match partial {
            true => fold(sum),
            // A UDP checksum of zero means that there is none (RFC 768).
            false => match !fold(sum + add(0, &port)) {
                0 if !shape.tcp => 0xffff,
                checksum => checksum,
            },
        };
        let at = transport + shape.checksum();
        frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The frames of a round, for any flow.
#[derive(Debug)]
pub(super) struct Template {
    shape: Shape,
    frames: Vec<Frame>,
    /// What a TCP flow begins with, where the frames of a round are not ones to begin with.
    opening: Option<Frame>,
    partial: bool,
}

impl Template {
    /// Prepares frames of this load. `partial` leaves the transport checksum to be finished, as GUEST_CSUM allows; `whole` puts
    /// a whole round into one frame, as the feature allows that [`Shape::needed`] tells. The first frame is filled.
    pub(super) fn new(load: &Load, partial: bool, whole: bool) -> Self {
        let shape = Shape::new(load);
        let frame = |pieces| Frame::new(load, &shape, pieces, partial);
        let frames = match whole {
            true => vec![frame(0..shape.pieces())],
            false => (0..shape.pieces()).map(|piece| frame(piece..piece + 1)).collect(),
        };
        let opening = (shape.tcp && load.large.is_some()).then(|| frame(0..0));
        let mut template = Self { shape, frames, opening, partial };
        template.fill(0, 0, 0);
        template
    }

    /// How many frames there are in this round.
    #[inline]
    pub(super) fn frames(&self, round: u32) -> usize {
        if round == 0 && self.opening.is_some() { 1 } else { self.frames.len() }
    }

    /// The payload in one of them.
    pub(super) fn payload(&self, round: u32, nth: usize) -> usize {
        self.bytes(round, nth).len().saturating_sub(NetHdr::LEN + self.shape.payload)
    }

    /// Makes one frame of a round that of a flow. Some time before it is read: it is written field by field, and read as a whole,
    /// for which a processor would have to wait.
    #[inline]
    pub(super) fn fill(&mut self, flow: u32, round: u32, nth: usize) {
        let frame = match &mut self.opening {
            Some(opening) if round == 0 => opening,
            _ => &mut self.frames[nth],
        };
        frame.fill(&self.shape, self.partial, flow, round);
    }

    /// One frame of a round, virtio header included.
    #[inline]
    pub(super) fn bytes(&self, round: u32, nth: usize) -> &[u8] {
        match &self.opening {
            Some(opening) if round == 0 => &opening.bytes,
            _ => self.frames.get(nth).map_or(&[], |frame| &frame.bytes),
        }
    }
}
