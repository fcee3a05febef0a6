//! Numbers of TCP's stream moved in place: for connections in whose stream something was put in or taken out, or whose two ends
//! do not count from the same number.

use super::nat;
use crate::checksum::{Delta, Sum};
use crate::frame::Ip;
use crate::frame::transport::{TcpFlags, Transport};
use crate::packet::{Packet, Reason};

/// Where the numbers lie in a TCP header, in bytes from its start (RFC 9293, section 3.1).
const SEQUENCE: usize = 4;
const ACKNOWLEDGEMENT: usize = 8;
/// Bytes of a header without options.
const HEADER: usize = 20;
/// Kinds of options (RFC 9293, section 3.1; RFC 2018, section 3).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const SACK: u8 = 5;

/// A number of a segment in a frame, in host order.
fn number(head: &[u8], ip: &Ip, at: usize) -> Option<u32> {
    head.get(ip.payload + at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The sequence number of a segment; 0 if there is no room for one, which no segment that was parsed lacks.
pub(super) fn sequence(head: &[u8], ip: &Ip) -> u32 {
    number(head, ip, SEQUENCE).unwrap_or_default()
}

/// The acknowledgement number of a segment, of meaning only with ACK.
pub(super) fn acknowledgement(head: &[u8], ip: &Ip) -> u32 {
    number(head, ip, ACKNOWLEDGEMENT).unwrap_or_default()
}

/// Bytes of the stream that a segment carries, SYN and FIN not counted.
pub(super) fn payload(ip: &Ip, transport: &Transport) -> u32 {
    (ip.end - ip.payload).saturating_sub(transport.header) as u32
}

/// Whether number `a` comes after `b` (RFC 9293, section 3.4).
pub(super) fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// Gives a segment other numbers: `sequence` makes its sequence number, `acknowledged` what it acknowledges and the edges of
/// what it acknowledges selectively. Its checksum is adjusted, in whichever form the frame has it.
///
/// # Errors
/// [`Reason::Malformed`] if it is no TCP segment, or a checksum is to be completed in a place that is not its own.
pub(super) fn map(
    packet: &mut Packet<'_>,
    ip: &Ip,
    transport: &Transport,
    sequence: impl Fn(u32) -> u32,
    acknowledged: impl Fn(u32) -> u32,
) -> Result<(), Reason> {
    edit(packet, ip, transport, |header| {
        change(header, SEQUENCE, sequence);
        if transport.flags.contains(TcpFlags::ACK) {
            change(header, ACKNOWLEDGEMENT, &acknowledged);
            selective(header, &acknowledged);
        }
    })
}

/// Changes a TCP header with its options, which keeps its length. The checksum is adjusted, in whichever form the frame has it.
///
/// # Errors
/// As [`map`].
pub(super) fn edit(
    packet: &mut Packet<'_>,
    ip: &Ip,
    transport: &Transport,
    change: impl FnOnce(&mut [u8]),
) -> Result<(), Reason> {
    let is_partial = nat::is_partial(packet, ip, transport)?;
    let header = packet.head.get_mut(ip.payload..ip.payload + transport.header).filter(|header| header.len() >= HEADER);
    let Some(header) = header else { return Err(Reason::Malformed) };
    let before = Sum::ZERO.bytes(header).fold();
    change(header);
    // Options may lie at odd places; the sum of the whole header does not mind.
    let delta = Delta::ZERO.word(before, Sum::ZERO.bytes(header).fold());
    if !is_partial {
        let checksum = u16::from_be_bytes([header[16], header[17]]);
        header[16..18].copy_from_slice(&delta.adjust(checksum).to_be_bytes());
    }
    Ok(())
}

fn change(header: &mut [u8], at: usize, to: impl Fn(u32) -> u32) {
    if let Some(bytes) = header.get_mut(at..).and_then(|bytes| bytes.first_chunk_mut::<4>()) {
        *bytes = to(u32::from_be_bytes(*bytes)).to_be_bytes();
    }
}

/// Changes the edges of selective acknowledgements.
fn selective(header: &mut [u8], to: impl Fn(u32) -> u32) {
    for (kind, range) in Options::of(header) {
        if kind == SACK {
            // Kind and length, then pairs of edges. A torn last one is nobody's.
            for at in (range.start + 2..range.end.saturating_sub(3)).step_by(4) {
                change(header, at, &to);
            }
        }
    }
}

/// The options of a TCP header: their kinds, and where they lie in it, kind and length included. It ends with the first that is
/// none.
#[derive(Clone, Debug)]
pub(super) struct Options {
    header: [u8; 60],
    at: usize,
    end: usize,
}

impl Options {
    /// Those of a header with its options.
    pub fn of(header: &[u8]) -> Self {
        let end = header.len().min(60);
        let mut copy = [0; 60];
        copy[..end].copy_from_slice(&header[..end]);
        Options { header: copy, at: HEADER, end }
    }
}

impl Iterator for Options {
    type Item = (u8, core::ops::Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.end {
            let kind = self.header[self.at];
            if kind == END {
                break;
            }
            if kind == NO_OPERATION {
                self.at += 1;
                continue;
            }
            let length = usize::from(*self.header[..self.end].get(self.at + 1)?);
            if length < 2 || self.at + length > self.end {
                break;
            }
            let found = self.at..self.at + length;
            self.at += length;
            return Some((kind, found));
        }
        self.at = self.end;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Content, parse};
    use crate::packet::{Offload, Partial};
    use crate::path::tests::*;
    use etherparse::{PacketBuilder, TcpOptionElement};
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// What is added to the numbers of a segment, modulo 2<sup>32</sup>.
    #[derive(Clone, Copy)]
    struct Shift {
        sequence: u32,
        acknowledgement: u32,
    }

    fn segment(v6: bool, numbers: (u32, u32), blocks: &[(u32, u32)], pad: bool, payload: &[u8]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(OTHER_MAC, MAC);
        let builder =
            if v6 { ethernet.ipv6([1; 16], [2; 16], 64) } else { ethernet.ipv4([10, 9, 0, 1], [10, 0, 0, 100], 64) };
        let mut options = vec![];
        if pad {
            options.push(TcpOptionElement::Noop);
        }
        let mut rest = [None; 3];
        blocks.iter().skip(1).take(2).enumerate().for_each(|(at, block)| rest[at] = Some(*block));
        if let Some(&first) = blocks.first() {
            options.push(TcpOptionElement::SelectiveAcknowledgement(first, rest));
        }
        let mut frame = vec![];
        let tcp = builder.tcp(4000, 80, numbers.0, 4096).ack(numbers.1).options(&options).unwrap();
        tcp.write(&mut frame, payload).unwrap();
        frame
    }

    /// Shifts, and returns the numbers of the frame then.
    fn shifted(frame: &mut [u8], by: Shift, offload: Offload) -> (u32, u32, Vec<(u32, u32)>) {
        let Ok(Content::Flow(ip, transport)) = parse(frame, frame.len(), &MAC) else { panic!("no segment") };
        let mut packet = Packet { offload, ..Packet::new(frame) };
        let sequence_of = |number: u32| number.wrapping_add(by.sequence);
        map(&mut packet, &ip, &transport, sequence_of, |number| number.wrapping_add(by.acknowledgement)).unwrap();
        let header = &frame[ip.payload..ip.payload + transport.header];
        let edges = |range: core::ops::Range<usize>| {
            let long = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
            // A torn pair is none.
            (range.start + 2..range.end.saturating_sub(7)).step_by(8).map(|at| (long(at), long(at + 4))).collect()
        };
        let sack = Options::of(header).find(|(kind, _)| *kind == SACK).map(|(_, range)| edges(range));
        (sequence(frame, &ip), acknowledgement(frame, &ip), sack.unwrap_or_default())
    }

    proptest! {
        /// Every number moves by what it is to, the checksum is right, and the way back leads to the same bytes.
        #[test]
        fn numbers_move_and_come_back(
            v6: bool,
            numbers: (u32, u32),
            blocks in prop::collection::vec(any::<(u32, u32)>(), 0..4),
            pad: bool,
            payload in prop::collection::vec(any::<u8>(), 0..20),
            by: (u32, u32),
        ) {
            let original = segment(v6, numbers, &blocks, pad, &payload);
            let mut frame = original.clone();
            let by = Shift { sequence: by.0, acknowledgement: by.1 };
            let there = shifted(&mut frame, by, Offload::default());
            verify(&frame);
            let moved = |x: u32| x.wrapping_add(by.acknowledgement);
            let expected: Vec<_> = blocks.iter().map(|&(a, b)| (moved(a), moved(b))).collect();
            prop_assert_eq!(there, (numbers.0.wrapping_add(by.sequence), moved(numbers.1), expected));
            let back = Shift {
                sequence: by.sequence.wrapping_neg(),
                acknowledgement: by.acknowledgement.wrapping_neg(),
            };
            shifted(&mut frame, back, Offload::default());
            verify(&frame);
            let at = transport_at(&frame);
            // Zero has two forms in one's complement.
            frame[at + 16..at + 18].copy_from_slice(&original[at + 16..at + 18]);
            prop_assert_eq!(frame, original);
        }

        /// Whatever the options are, nothing breaks and the checksum stays right.
        #[test]
        fn any_options_will_do(options in prop::collection::vec(any::<u8>(), 40), by: (u32, u32)) {
            let mut frame = segment(false, (1, 2), &[], false, b"");
            frame.extend_from_slice(&options);
            let len = (frame.len() - 14) as u16;
            frame[16..18].copy_from_slice(&len.to_be_bytes());
            frame[34 + 12] = 0xf0;
            frame[24..26].fill(0);
            let sum = !naive_sum(&[&frame[14..34]]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            frame[50..52].fill(0);
            let sum = !naive_sum(&[&pseudo_header(&frame), &frame[34..]]);
            frame[50..52].copy_from_slice(&sum.to_be_bytes());
            shifted(&mut frame, Shift { sequence: by.0, acknowledgement: by.1 }, Offload::default());
            verify(&frame);
        }
    }

    #[test]
    fn a_checksum_that_is_not_complete_stays_as_it_is() {
        let mut frame = segment(false, (1, 2), &[], false, b"");
        let before = frame[50..52].to_vec();
        let partial = Some(Partial { start: 34, offset: 16 });
        let by = Shift { sequence: 7, acknowledgement: 9 };
        assert_eq!(shifted(&mut frame, by, Offload { partial, ..Offload::default() }), (8, 11, vec![]));
        assert_eq!(frame[50..52], before);
    }

    #[test]
    fn numbers_are_compared_across_their_end() {
        assert!(is_after(1, 0) && is_after(0, u32::MAX) && is_after(5, u32::MAX - 5));
        assert!(!is_after(0, 0) && !is_after(0, 1) && !is_after(u32::MAX, 0));
    }
}
