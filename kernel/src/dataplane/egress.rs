//! The way out: every frame that is sent, whoever made it, goes through here.

use ringlet_balancer::{NextHop, Sink};
use ringlet_driver::buffer::{Frame, Pool};
use ringlet_driver::features::Features;
use ringlet_driver::net::{Reason, Refused, Transmit};
use ringlet_driver::offload::{Finish, Segmenter, finish_checksum};
use ringlet_driver::ring::Virtqueue;
use ringlet_driver::wire::NetHdr;

use super::backlog::{Backlog, Next};
use super::waiting::{Outcome, Waiting};
use crate::stack::Outlet;
use crate::status::{Counters, Loss};

/// Room in the transmit queue, in frames, and free buffers below which the stack makes nothing new: a super-frame of it takes
/// 32 buffers, and forwarding comes first. Of a short queue it is half.
const RESERVE: usize = 64;

/// So many frames, pieces of super-frames among them, are sent at a time of those that wait, or that one super-frame is cut into, before
/// everything else has its turn: of a hostile super-frame there are 65 thousand pieces, and a fast device always has room for the next.
const AT_ONCE: usize = 256;

/// The most duplicates that are sent of one acknowledgement: no sender has so many segments under way that it could make use of
/// more.
const MOST_DUPLICATES: u16 = 1024;

/// What comes after a frame's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// The turn of the next one.
    Next,
    /// Nothing, before the device has sent something: it waits for room, or for buffers.
    Sent,
    /// Nothing more for now: as much was sent as is to be sent at once. There may be room for more.
    Others,
}

/// What is needed to send.
pub(crate) struct Egress<'a, R> {
    pub transmit: &'a mut Transmit<R>,
    pub pool: &'a Pool,
    pub features: Features,
    pub counters: &'a mut Counters,
    pub fragment_ids: &'a mut FragmentIds,
    pub backlog: &'a mut Backlog,
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
    /// Sends a frame with the header it has. If the queue is full, it waits; what cannot be sent, and what too many wait before, is
    /// dropped and counted.
    #[inline]
    pub fn send(&mut self, frame: Frame) {
        let again = frame.header().duplicate_acks();
        if usize::from(again) | self.backlog.len() != 0 {
            return self.send_in_turn(frame, again);
        }
        self.send_now(frame, AT_ONCE);
    }

    /// Sends `again` copies of a frame, the duplicate ACKs for which it stands and which the peer's TCP must see one by one, and then
    /// the frame itself, after all that waits.
    #[cold]
    fn send_in_turn(&mut self, frame: Frame, again: u16) {
        let most = again.min(MOST_DUPLICATES);
        self.counters.lose_many(Loss::TransmitFull, (again - most).into());
        for sent in 0..most {
            let Some(copy) = self.pool.copy_of(&frame).filter(|_| self.pool.available() >= RESERVE) else {
                self.counters.lose_many(Loss::NoBuffer, (most - sent).into());
                break;
            };
            if !self.backlog.has_room() {
                self.counters.lose_many(Loss::TransmitFull, (most - sent).into());
                break;
            }
            self.send_or_wait(copy);
        }
        self.send_or_wait(frame);
    }

    /// Sends a frame unless others wait: then it does too.
    fn send_or_wait(&mut self, frame: Frame) {
        if self.backlog.is_empty() {
            self.send_now(frame, AT_ONCE);
        } else if self.backlog.push(frame).is_err() {
            self.counters.lose(Loss::TransmitFull);
        }
    }

    /// Sends what waits, as far as there is room, but not more than is to be sent at once. Whether there may be room for more of it.
    #[cold]
    pub fn send_waiting(&mut self) -> bool {
        let mut most = AT_ONCE;
        while most > 0 {
            let Some(next) = self.backlog.take() else { return false };
            let before = self.counters.tx_frames;
            let after = match next {
                Next::Frame(frame) => self.send_now(frame, most),
                Next::Rest(segmenter, frame) => self.send_segments(segmenter, frame, most),
            };
            if after != After::Next {
                return after == After::Others;
            }
            let sent = self.counters.tx_frames - before;
            most = most.saturating_sub(usize::try_from(sent).unwrap_or(most).max(1));
        }
        !self.backlog.is_empty()
    }

    /// Sends a frame whose turn it is, or at most `most` pieces of it, or puts it at the head of those that wait.
    #[inline]
    fn send_now(&mut self, frame: Frame, most: usize) -> After {
        let length = frame.len();
        match self.transmit.push(frame) {
            Ok(()) => {
                self.counters.tx_frames += 1;
                self.counters.tx_bytes += length as u64;
                After::Next
            }
            Err(refused) => self.send_otherwise(refused, most),
        }
    }

    /// Does in software what the device does not do, and sends the result. As [`Egress::send_now`].
    #[cold]
    fn send_otherwise(&mut self, Refused { mut frame, reason }: Refused, most: usize) -> After {
        let header = frame.header();
        match reason {
            // A queue that is broken has room again when it was reset: the loop will notice.
            Reason::Full | Reason::Broken(_) => {
                self.backlog.put_back(frame);
                return After::Sent;
            }
            // One that is too long for the queue would be as long as a copy.
            Reason::Header(_) | Reason::TooManySegments if header.is_gso() => return self.cut(&header, frame, most),
            Reason::Header(_) if header.needs_csum() => {
                if finish(&mut frame, &header) {
                    self.counters.software_offloads += 1;
                    return self.send_finished(frame);
                }
                self.counters.lose(Loss::Unsendable);
            }
            Reason::TooManySegments => {
                match self.pool.copy_of(&frame).or_else(|| self.recovered(|pool| pool.copy_of(&frame))) {
                    Some(copy) => return self.send_finished(copy),
                    None => self.counters.lose(Loss::NoBuffer),
                }
            }
            Reason::Header(_) | Reason::TooLong | Reason::TooShort => self.counters.lose(Loss::Unsendable),
        }
        After::Next
    }

    /// Sends what nothing more can be done for. As [`Egress::send_now`].
    fn send_finished(&mut self, frame: Frame) -> After {
        let length = frame.len();
        match self.transmit.push(frame) {
            Ok(()) => {
                self.counters.tx_frames += 1;
                self.counters.tx_bytes += length as u64;
            }
            Err(Refused { reason: Reason::Full | Reason::Broken(_), frame }) => {
                self.backlog.put_back(frame);
                return After::Sent;
            }
            Err(_) => self.counters.lose(Loss::Unsendable),
        }
        After::Next
    }

    /// Cuts a super-frame and sends the pieces. As [`Egress::send_now`].
    fn cut(&mut self, header: &NetHdr, frame: Frame, most: usize) -> After {
        let finish = if self.features.contains(Features::CSUM) { Finish::Partial } else { Finish::Complete };
        let Ok(segmenter) = Segmenter::new(header, frame.head(), &frame, finish) else {
            self.counters.lose(Loss::Unsendable);
            return After::Next;
        };
        self.counters.software_offloads += 1;
        let segmenter = segmenter.identified(self.fragment_ids.next());
        self.send_segments(segmenter, frame, most)
    }

    /// Sends the pieces of a super-frame that were not sent yet, as far as there is room and up to `most`. As [`Egress::send_now`].
    fn send_segments(&mut self, mut segmenter: Segmenter, frame: Frame, mut most: usize) -> After {
        while let Some(length) = segmenter.next_len() {
            if most == 0 {
                self.backlog.put_back_rest(segmenter, frame);
                return After::Others;
            }
            most -= 1;
            let segment = self.pool.frame(length).or_else(|| self.recovered(|pool| pool.frame(length)));
            let Some(mut segment) = segment else {
                if self.transmit.under_way() > 0 {
                    // There are buffers where pieces were sent before.
                    self.backlog.put_back_rest(segmenter, frame);
                    return After::Sent;
                }
                self.counters.lose_many(Loss::NoBuffer, segmenter.left() as u64);
                return After::Next;
            };
            let Some((_, header)) = segmenter.write_next(&frame, &mut segment) else {
                self.counters.lose_many(Loss::Unsendable, segmenter.left() as u64);
                return After::Next;
            };
            segment.set_header(header);
            // Pieces are not cut again.
            let after = self.send_now(segment, 0);
            if after != After::Next {
                if segmenter.left() > 0 {
                    self.backlog.put_back_rest(segmenter, frame);
                }
                return after;
            }
        }
        After::Next
    }

    /// What `make` makes of the buffers that the device has sent already.
    #[cold]
    fn recovered(&mut self, make: impl FnOnce(&Pool) -> Option<Frame>) -> Option<Frame> {
        // Fails only if the ring is broken, which the loop sees when it flushes.
        let _ = self.transmit.flush();
        let _ = self.transmit.reap();
        make(self.pool)
    }

    /// Whether a frame that fits into one buffer can be sent or wait, and leaves at least `reserve` buffers for others.
    pub fn has_place(&self, reserve: usize) -> bool {
        self.backlog.has_room() && self.pool.available() > reserve && self.transmit.broken().is_none()
    }

    /// Copies a frame into buffers and sends it.
    pub fn send_copy(&mut self, bytes: &[u8], header: NetHdr) {
        self.send_changed(bytes, header, |_| {});
    }

    /// Copies a frame into buffers, changes it there, and sends it.
    pub fn send_changed(&mut self, bytes: &[u8], header: NetHdr, change: impl FnOnce(&mut Frame)) {
        match self.pool.frame_from(bytes) {
            Some(mut frame) => {
                frame.set_header(header);
                change(&mut frame);
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
        self.backlog.is_empty() && self.transmit.room() >= reserve && self.pool.available() >= RESERVE
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
