//! ICMP and ICMPv6: echo, and that nobody listens (RFC 792, RFC 4443).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::fabric::Fabric;
use super::packet::{self, ICMP, ICMPV6, Packet, TCP, UDP};
use super::resolve;

/// Bytes of the packet that an error tells of, so that the whole is shorter than any MTU.
const QUOTED: usize = 512;
/// Pings that wait for their answers.
const PINGS: usize = 1024;
/// Bytes after the header of a ping.
const DATA: &[u8; 48] = b"ringlet ringlet ringlet ringlet ringlet ringlet ";

/// What a message told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing that anybody else must know.
    Nothing,
    /// A TCP segment that we sent from `local` cannot reach `remote`.
    Unreachable {
        /// The address that sent it, and its port.
        local: (IpAddr, u16),
        /// Where it should have gone.
        remote: (IpAddr, u16),
    },
}

/// Pings that wait for their answers.
#[derive(Debug, Default)]
pub struct Pings {
    next: u16,
    waiting: HashMap<u16, Ping>,
}

#[derive(Debug)]
struct Ping {
    from: IpAddr,
    to: IpAddr,
    sent: Instant,
    patience: Duration,
    answer: SyncSender<Duration>,
}

impl Pings {
    /// Sends an echo request from the client `from`, behind host `at`. The answer gets the time that it took.
    pub fn send(
        &mut self,
        fabric: &mut Fabric,
        at: usize,
        (from, to): (IpAddr, IpAddr),
        patience: Duration,
        answer: SyncSender<Duration>,
        now: Instant,
    ) {
        self.waiting.retain(|_, ping| now < ping.sent + ping.patience);
        if self.waiting.len() >= PINGS {
            return;
        }
        while self.waiting.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        self.waiting.insert(self.next, Ping { from, to, sent: now, patience, answer });
        let mut body = [0; 8 + DATA.len()];
        body[0] = if to.is_ipv4() { 8 } else { 128 };
        body[4..6].copy_from_slice(&self.next.to_be_bytes());
        body[7] = 1;
        body[8..].copy_from_slice(DATA);
        message(fabric, at, from, to, &[&body], now);
    }

    /// An echo reply came from `from` to `to`.
    fn answered(&mut self, packet: &Packet<'_>, now: Instant) {
        let body = packet.payload();
        let number = u16::from_be_bytes([body[4], body[5]]);
        let right = |ping: &Ping| ping.from == packet.destination && ping.to == packet.source && body[8..] == DATA[..];
        if self.waiting.get(&number).is_some_and(right)
            && let Some(ping) = self.waiting.remove(&number)
        {
            // Who asked may have gone meanwhile.
            let _ = ping.answer.try_send(now.saturating_duration_since(ping.sent));
        }
    }
}

/// Sends an ICMP message made of `parts` from one address to another of the same version; its checksum is put in.
fn message(fabric: &mut Fabric, at: usize, from: IpAddr, to: IpAddr, parts: &[&[u8]], now: Instant) {
    let header = packet::header_length(from);
    let length = header + parts.iter().map(|part| part.len()).sum::<usize>();
    if length > usize::from(fabric.mtu) {
        return;
    }
    let mut frame = fabric.frame(length);
    let packet = frame.packet_mut();
    let mut done = header;
    for part in parts {
        packet[done..done + part.len()].copy_from_slice(part);
        done += part.len();
    }
    packet::write_header(packet, from, to, if from.is_ipv4() { ICMP } else { ICMPV6 });
    fabric.send(at, frame, None, now);
}

/// Host `at` takes an ICMP message, whose checksum is right.
pub fn input(fabric: &mut Fabric, pings: &mut Pings, at: usize, packet: &Packet<'_>, now: Instant) -> Told {
    let body = packet.payload();
    let Some(&[kind, code, ..]) = body.first_chunk::<8>() else { return Told::Nothing };
    let unicast = !packet.destination.is_multicast();
    match (packet.source.is_ipv4(), kind) {
        (true, 8) | (false, 128) if unicast => {
            let reply = [if packet.source.is_ipv4() { 0 } else { 129 }, 0, 0, 0];
            message(fabric, at, packet.destination, packet.source, &[&reply, &body[4..]], now);
        }
        (true, 0) | (false, 129) => pings.answered(packet, now),
        (false, resolve::SOLICITATION | resolve::ADVERTISEMENT) => resolve::neighbour_input(fabric, at, packet, now),
        // Unreachable, except "fragmentation needed".
        (true, 3) if code != 4 => return quoted(&body[8..]),
        (false, 1) => return quoted(&body[8..]),
        _ => {}
    }
    Told::Nothing
}

/// Reads the start of the packet that an error tells of.
fn quoted(bytes: &[u8]) -> Told {
    let addresses = match bytes.first().map(|byte| byte >> 4) {
        Some(4) => quoted_v4(bytes),
        Some(6) => quoted_v6(bytes),
        _ => None,
    };
    let Some((TCP, local, remote, ports)) = addresses else { return Told::Nothing };
    let Some([a, b, c, d]) = ports.first_chunk() else { return Told::Nothing };
    Told::Unreachable { local: (local, u16::from_be_bytes([*a, *b])), remote: (remote, u16::from_be_bytes([*c, *d])) }
}

fn quoted_v4(bytes: &[u8]) -> Option<(u8, IpAddr, IpAddr, &[u8])> {
    let fixed: &[u8; 20] = bytes.first_chunk()?;
    let address = |at: usize| IpAddr::from([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    Some((fixed[9], address(12), address(16), bytes.get(usize::from(fixed[0] & 15) * 4..)?))
}

fn quoted_v6(bytes: &[u8]) -> Option<(u8, IpAddr, IpAddr, &[u8])> {
    let fixed: &[u8; 40] = bytes.first_chunk()?;
    let address = |at: usize| fixed[at..].first_chunk::<16>().map(|octets| IpAddr::from(*octets));
    Some((fixed[6], address(8)?, address(24)?, &bytes[40..]))
}

/// Host `at` tells the sender of a UDP datagram that nobody listens.
pub fn port_unreachable(fabric: &mut Fabric, at: usize, packet: &Packet<'_>, now: Instant) {
    let (from, to) = (packet.destination, packet.source);
    let told = &packet.bytes[..packet.bytes.len().min(QUOTED)];
    // Not about what came to everybody or from nobody (RFC 1122, section 3.2.2).
    if from.is_multicast() || to.is_multicast() || to.is_unspecified() || packet.protocol != UDP {
        return;
    }
    if matches!(from, IpAddr::V4(address) if address.is_broadcast()) {
        return;
    }
    let head = if from.is_ipv4() { [3, 3, 0, 0, 0, 0, 0, 0] } else { [1, 4, 0, 0, 0, 0, 0, 0] };
    message(fabric, at, from, to, &[&head, told], now);
}
