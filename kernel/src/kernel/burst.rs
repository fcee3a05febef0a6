//! A burst of received frames: through the balancer, and where it says.

use heapless::Vec as Burst;
use ringlet_balancer::{Balancer, Instant, NextHop, Offload, Packet, Partial, Verdict};
use ringlet_driver::buffer::Frame;
use ringlet_driver::ring::Virtqueue;
use ringlet_driver::transport::NetTransport;
use ringlet_driver::wire::NetHdr;

use super::Kernel;
use super::own::Own;
use crate::dataplane::{BURST, BalancerSink, Egress, Link, Outcome, Waiting};
use crate::status::Loss;

/// So many duplicate ACKs make TCP send again what was lost.
const FAST_RETRANSMIT: u16 = 3;

/// The balancer's view of a virtio header.
#[inline]
fn offload_of(header: &NetHdr) -> Offload {
    let partial = header.needs_csum().then_some(Partial { start: header.csum_start, offset: header.csum_offset });
    let gso_size = if header.is_gso() { header.gso_size } else { 0 };
    let fragments = header.gso_type == NetHdr::GSO_UDP;
    Offload { partial, gso_size, fragments, data_valid: header.flags & NetHdr::DATA_VALID != 0 }
}

/// Puts what the balancer changed into the header the frame goes on with. Mostly that is nothing, and then nothing is written:
/// what is, in parts, is about to be read as a whole. Whether a checksum that is to be completed lies elsewhere in the frame now, as
/// behind the headers of a tunnel.
#[inline]
fn apply(partial: Option<Partial>, frame: &mut Frame) -> bool {
    let mut header = frame.header();
    let is_elsewhere = match partial {
        Some(Partial { start, offset }) if (header.csum_start, header.csum_offset) != (start, offset) => {
            (header.csum_start, header.csum_offset) = (start, offset);
            true
        }
        // What is not the place of a checksum says how often the frame is to be sent.
        None if header.needs_csum() => {
            header.flags &= !NetHdr::NEEDS_CSUM;
            true
        }
        _ => return false,
    };
    frame.set_header(header);
    is_elsewhere
}

/// Lets a frame begin where the balancer has put its beginning: before, where a tunnel's headers were put in front of it or a reply
/// of FTP has become longer, or behind. `is_inside` says that it is in a tunnel. Whether that could be done.
#[inline]
fn shift((start, fragment): (i16, u16), is_inside: bool, frame: &mut Frame) -> bool {
    if start >= 0 {
        frame.trim_front(start.unsigned_abs().into());
        return true;
    }
    let mut header = frame.header();
    if fragment != 0 {
        (header.gso_type, header.gso_size) = (NetHdr::ENCAPSULATED, fragment);
        frame.set_header(header);
    } else if is_inside && header.is_gso() {
        // It is to be segmented still, and that is no device's to do any more.
        header.gso_type |= NetHdr::ENCAPSULATED;
        frame.set_header(header);
    }
    frame.prepend(start.unsigned_abs().into()).is_ok()
}

/// A verdict without the next hop, which few have and which is much larger than the rest.
#[derive(Debug, Clone, Copy)]
enum Ruling {
    Transmit,
    Local,
    Drop,
    /// The place of the next hop among those of the burst.
    Wait(u8),
}

impl Kernel {
    /// Takes `count` received frames where they belong. Returns whether a service may have something to do.
    pub(super) fn burst<R: Virtqueue<Frame>, T: NetTransport>(
        &mut self,
        count: usize,
        link: &mut Link<R, T>,
        now: u64,
    ) -> bool {
        let Self {
            balancer, pool, stack, waiting, counters, fragment_ids, backlog, frames, linear, round_trip, ..
        } = self;
        let (transmit, features) = (&mut link.transmit, link.features);
        let mut egress = Egress { transmit, pool, features, counters, fragment_ids, backlog };
        if let Some(round_trip) = round_trip {
            round_trip.circulate(&mut frames[..count], &mut egress, now);
            return false;
        }
        let mut packets: Burst<Packet<'_>, BURST> = Burst::new();
        for frame in frames.iter_mut().take(count).flatten() {
            egress.counters.rx_frames += 1;
            egress.counters.rx_bytes += frame.len() as u64;
            // There are no more frames than places.
            let _ = packets.push(packet_of(frame));
        }
        balancer.process(&mut packets, Instant(now), &mut BalancerSink { egress: &mut egress, waiting });
        let (mut rulings, mut hops) =
            (Burst::<(Ruling, Option<Partial>, (i16, u16)), BURST>::new(), Burst::<NextHop, BURST>::new());
        for packet in &packets {
            let ruling = match packet.verdict {
                Verdict::Transmit => Ruling::Transmit,
                Verdict::Local => Ruling::Local,
                // Of what is held, the balancer has a copy.
                Verdict::Drop(_) | Verdict::Held | Verdict::Taken => Ruling::Drop,
                Verdict::Wait(hop) => {
                    let place = hops.len() as u8;
                    let _ = hops.push(hop);
                    Ruling::Wait(place)
                }
            };
            let _ = rulings.push((ruling, packet.offload.partial, (packet.start, packet.fragment)));
        }
        drop(packets);
        let (mut local, mut waits) = (false, false);
        for (place, &(ruling, partial, start)) in frames.iter_mut().zip(&rulings) {
            let Some(mut frame) = place.take() else { continue };
            match ruling {
                Ruling::Transmit => {
                    let is_inside = apply(partial, &mut frame);
                    if start.0 != 0 && !shift(start, is_inside, &mut frame) {
                        // The balancer has seen to it that there is room.
                        egress.counters.lose(Loss::Unsendable);
                        continue;
                    }
                    egress.send(frame);
                }
                Ruling::Local => {
                    let header = frame.header();
                    let bytes = if frame.segment_count() == 1 {
                        frame.head()
                    } else {
                        let length = frame.copy_to_slice(linear);
                        &linear[..length]
                    };
                    // More than the third of the same ACKs says nothing new (RFC 5681, section 3.2).
                    let mut outlet = Own { egress: &mut egress, balancer, now };
                    for _ in 0..=header.duplicate_acks().min(FAST_RETRANSMIT) {
                        local |= stack.receive(bytes, &header, now, &mut outlet);
                    }
                }
                Ruling::Drop => {}
                Ruling::Wait(hop) => {
                    let is_inside = apply(partial, &mut frame);
                    if start.0 != 0 && !shift(start, is_inside, &mut frame) {
                        egress.counters.lose(Loss::Unsendable);
                        continue;
                    }
                    if hops.get(usize::from(hop)).is_none_or(|hop| waiting.push(*hop, frame).is_err()) {
                        egress.counters.lose(Loss::WaitingFull);
                    }
                    waits = true;
                }
            }
        }
        if waiting.news() {
            release(waiting, balancer, &mut egress, now);
        }
        if waits {
            // It has asked for a neighbour, and may want to ask again before it said it would.
            (self.due.balancer, self.next_due) = (now, now);
        }
        local
    }
}

/// The balancer's view of a received frame.
#[inline]
pub(super) fn packet_of(frame: &mut Frame) -> Packet<'_> {
    let (len, header) = (frame.len(), frame.header());
    let (room, head) = frame.room_and_head_mut();
    Packet { head, room, start: 0, fragment: 0, len, offload: offload_of(&header), verdict: Verdict::Local }
}

/// Sends, or drops, the frames of next hops that something has become of.
#[cold]
pub(super) fn release<R: Virtqueue<Frame>>(
    waiting: &mut Waiting,
    balancer: &mut Balancer,
    egress: &mut Egress<'_, R>,
    now: u64,
) {
    while let Some((next_hop, outcome, mut frames)) = waiting.take() {
        for mut frame in frames.drain(..) {
            if outcome == Outcome::Unreachable {
                let sink = &mut BalancerSink { egress: &mut *egress, waiting: &mut *waiting };
                balancer.undeliverable(&mut packet_of(&mut frame), Instant(now), sink);
                egress.counters.lose(Loss::Unreachable);
                continue;
            }
            match balancer.complete(frame.head_mut(), next_hop) {
                Verdict::Transmit => egress.send(frame),
                // Counted by the balancer.
                Verdict::Drop(_) | Verdict::Taken => {}
                Verdict::Wait(_) | Verdict::Local | Verdict::Held => egress.counters.lose(Loss::Unreachable),
            }
        }
        waiting.recycle(frames);
    }
}
