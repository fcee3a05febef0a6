//! The way out: every frame that is sent, whoever made it, goes through here.

use ringlet_balancer::{NextHop, Sink};
use ringlet_driver::buffer::{Frame, Pool};
use ringlet_driver::features::Features;
use ringlet_driver::net::{Reason, Refused, Transmit};
use ringlet_driver::offload::{Finish, Segmenter, finish_checksum};
use ringlet_driver::ring::Virtqueue;
use ringlet_driver::wire::NetHdr;

use super::waiting::{Outcome, Waiting};
use crate::stack::Outlet;
use crate::status::{Counters, Loss};

/// Room in the transmit queue, in frames, and free buffers below which the stack makes nothing new: a super-frame of it takes
/// 32 buffers, and forwarding comes first. Of a short queue it is half.
const RESERVE: usize = 64;

/// What is needed to send.
pub(crate) struct Egress<'a, R> {
    pub transmit: &'a mut Transmit<R>,
    pub pool: &'a Pool,
    pub features: Features,
    pub counters: &'a mut Counters,
    pub fragment_ids: &'a mut FragmentIds,
}

/// Numbers for datagrams that are cut into IP fragments here: seldom the same twice, and hard to guess from those before
/// (RFC 7739, section 5.3).
#[derive(Debug)]
pub(crate) struct FragmentIds {
    secret: u64,
    count: u64,
}

impl FragmentIds {
    /// From a random number.
    pub fn new(secret: u64) -> Self {
        Self { secret, count: 0 }
    }

    fn next(&mut self) -> u32 {
        self.count += 1;
        // SplitMix64's mixing, of which half is shown.
        let mixed =
            (self.secret ^ self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(self.secret.rotate_left(32));
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 32) as u32
    }
}

impl<R: Virtqueue<Frame>> Egress<'_, R> {
    /// Sends a frame with the header it has. What cannot be sent is dropped and counted.
    #[inline]
    pub fn send(&mut self, frame: Frame) {
        let (length, again) = (frame.len(), frame.header().duplicate_acks());
        if again > 0 {
            self.send_again(&frame, again);
        }
        match self.transmit.push(frame) {
            Ok(()) => {
                self.counters.tx_frames += 1;
                self.counters.tx_bytes += length as u64;
            }
            Err(refused) => self.send_otherwise(refused),
        }
    }

    /// Sends `count` copies of a frame: the duplicate ACKs for which it stands, and which the peer's TCP must see one by one.
    #[cold]
    fn send_again(&mut self, frame: &Frame, count: u16) {
        for sent in 0..count {
            // However many the device says there are, they end where room does.
            if self.transmit.room() == 0 && matches!(self.transmit.reap(), Err(_) | Ok(0)) {
                return self.counters.lose_many(Loss::TransmitFull, (count - sent).into());
            }
            let Some(copy) = self.pool.copy_of(frame).filter(|_| self.pool.available() >= RESERVE) else {
                return self.counters.lose_many(Loss::NoBuffer, (count - sent).into());
            };
            self.send_finished(copy);
        }
    }

    /// Does in software what the device does not do, and sends the result.
    #[cold]
    fn send_otherwise(&mut self, Refused { mut frame, reason }: Refused) {
        let header = frame.header();
        match reason {
            Reason::Full => self.counters.lose(Loss::TransmitFull),
            // The loop will notice.
            Reason::Broken(_) => self.counters.lose(Loss::Reset),
            Reason::Header(_) if header.is_gso() => self.send_segments(&header, frame),
            Reason::Header(_) if header.needs_csum() => {
                if finish(&mut frame, &header) {
                    self.counters.software_offloads += 1;
                    self.send_finished(frame);
                } else {
                    self.counters.lose(Loss::Unsendable);
                }
            }
            Reason::TooManySegments => match self.pool.copy_of(&frame) {
                Some(copy) => self.send_finished(copy),
                None => self.counters.lose(Loss::NoBuffer),
            },
            Reason::Header(_) | Reason::TooLong | Reason::TooShort => self.counters.lose(Loss::Unsendable),
        }
    }

    /// Sends what nothing more can be done for.
    fn send_finished(&mut self, frame: Frame) {
        let length = frame.len();
        match self.transmit.push(frame) {
            Ok(()) => {
                self.counters.tx_frames += 1;
                self.counters.tx_bytes += length as u64;
            }
            Err(Refused { reason: Reason::Full, .. }) => self.counters.lose(Loss::TransmitFull),
            Err(_) => self.counters.lose(Loss::Unsendable),
        }
    }

    /// Cuts a super-frame and sends the pieces.
    fn send_segments(&mut self, header: &NetHdr, frame: Frame) {
        let finish = if self.features.contains(Features::CSUM) { Finish::Partial } else { Finish::Complete };
        let Ok(mut segmenter) = Segmenter::new(header, frame.head(), &frame, finish) else {
            return self.counters.lose(Loss::Unsendable);
        };
        segmenter = segmenter.identified(self.fragment_ids.next());
        self.counters.software_offloads += 1;
        while let Some(length) = segmenter.next_len() {
            let Some(mut segment) = self.pool.frame(length) else {
                return self.counters.lose_many(Loss::NoBuffer, segmenter.left() as u64);
            };
            match segmenter.write_next(&frame, &mut segment) {
                Some((_, header)) => {
                    segment.set_header(header);
                    self.send_finished(segment);
                }
                None => return self.counters.lose_many(Loss::Unsendable, segmenter.left() as u64),
            }
        }
    }

    /// Copies a frame into buffers and sends it.
    pub fn send_copy(&mut self, bytes: &[u8], header: NetHdr) {
        match self.pool.frame_from(bytes) {
            Some(mut frame) => {
                frame.set_header(header);
                self.send(frame);
            }
            None => self.counters.lose(Loss::NoBuffer),
        }
    }
}

/// Completes the partial checksum that `header` tells of. Whether that was possible.
fn finish(frame: &mut Frame, header: &NetHdr) -> bool {
    let sum = finish_checksum(&*frame, header.csum_start, header.csum_offset);
    let at = usize::from(header.csum_start) + usize::from(header.csum_offset);
    let Some(field) = frame.head_mut().get_mut(at..at + 2) else { return false };
    field.copy_from_slice(&sum.to_be_bytes());
    frame.set_header(NetHdr::default());
    true
}

impl<R: Virtqueue<Frame>> Outlet for Egress<'_, R> {
    fn is_ready(&mut self) -> bool {
        let reserve = RESERVE.min((self.transmit.room() + self.transmit.under_way()).div_ceil(2));
        if self.transmit.room() < reserve {
            // A broken ring has no room, and the loop sees it when it flushes.
            let _ = self.transmit.reap();
        }
        self.transmit.room() >= reserve && self.pool.available() >= RESERVE
    }

    fn send(&mut self, frame: &[u8], header: NetHdr) {
        self.send_copy(frame, header);
    }
}

/// Takes what the balancer says besides its verdicts.
pub(crate) struct BalancerSink<'a, 'b, R> {
    pub egress: &'a mut Egress<'b, R>,
    pub waiting: &'a mut Waiting,
}

impl<R: Virtqueue<Frame>> Sink for BalancerSink<'_, '_, R> {
    fn transmit(&mut self, frame: &[u8]) {
        self.egress.send_copy(frame, NetHdr::default());
    }

    fn resolved(&mut self, next_hop: NextHop) {
        self.waiting.mark(next_hop, Outcome::Resolved);
    }

    fn unreachable(&mut self, next_hop: NextHop) {
        self.waiting.mark(next_hop, Outcome::Unreachable);
    }
}
