//! Frames in circulation: the device's rings at work, and nothing else.
//!
//! `roundtrip=` makes the machine a measuring instrument for its own driver and for whatever serves its rings: it puts a number
//! of frames into circulation and sends each one that comes back out again, as `dpdk-testpmd` does with `--forward-mode=io` and
//! `start tx_first`. No balancer, no stack. The other end has to send back what it gets; it may change the Ethernet
//! addresses (testpmd's `macswap`), but nothing else.

use alloc::vec::Vec;

use ringlet_driver::buffer::{Frame, Pool};
use ringlet_driver::ring::Virtqueue;
use ringlet_driver::wire::NetHdr;

use crate::cmdline;
use crate::dataplane::Egress;

/// IEEE 802's second EtherType for local experiments, and a word that nobody else writes behind it.
const MARK: [u8; 8] = *b"\x88\xb6ringlt";
/// Where that stands: behind the two addresses.
const MARK_AT: usize = 12;
/// Of so many frames one is compared to its last byte. A power of two.
const LOOK_AT: u64 = 64;
/// If no frame has come back for so long, in nanoseconds, those that are missing are lost: new ones take their place.
const LOST_AFTER: u64 = 10_000_000;

/// Buffers for the other end to send into that circulating frames leave. Of few buffers it is an eighth, see [`reserve`].
const RESERVE: usize = 64;
/// If there is no place for all of them, the rest is put in after this time, in nanoseconds.
const AGAIN_AFTER: u64 = 1_000_000;

/// How many buffers of `pool` circulating frames leave.
fn reserve(pool: &Pool) -> usize {
    RESERVE.min(pool.capacity() / 8)
}

/// The frames, and what became of them.
pub(crate) struct RoundTrip {
    /// How many frames are to be in circulation.
    frames: usize,
    /// What each looks like.
    template: Vec<u8>,
    /// How many are still to be put in.
    missing: usize,
    /// When frames were last put in or came back, or were found sent after the device had kept them for long.
    moved_at: u64,
    /// How many the device had not sent when some were last thought lost.
    kept: usize,
    counters: Counters,
}

/// What was counted, since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Frames put into circulation.
    pub injected: u64,
    /// Frames that came back.
    pub returned: u64,
    /// Frames that came back changed, or that nobody here has sent. They are dropped.
    pub wrong: u64,
}

impl RoundTrip {
    /// How many frames can be in circulation with the buffers of `pool`: all of them may be on their way out at a time, and the
    /// other end must have buffers to send into even then, of which half are never given (see [`AnyLink`](crate::dataplane::AnyLink)).
    pub fn most(pool: &Pool) -> usize {
        (pool.capacity() / 2).saturating_sub(reserve(pool)).max(1)
    }

    /// With addresses of which the first is that of `mac`'s device.
    pub fn new(options: &cmdline::RoundTrip, mac: [u8; 6], pool: &Pool) -> Self {
        let mut template: Vec<u8> = (0..options.length).map(|at| at as u8).collect();
        // To everybody: the other end need not be told an address of ours.
        template[..6].fill(0xff);
        template[6..12].copy_from_slice(&mac);
        template[MARK_AT..MARK_AT + MARK.len()].copy_from_slice(&MARK);
        let frames = options.frames.min(Self::most(pool));
        Self { frames, template, missing: frames, moved_at: 0, kept: 0, counters: Counters::default() }
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Sends back what has come.
    #[inline]
    pub fn circulate<R: Virtqueue<Frame>>(
        &mut self,
        frames: &mut [Option<Frame>],
        egress: &mut Egress<'_, R>,
        now: u64,
    ) {
        for mut frame in frames.iter_mut().filter_map(Option::take) {
            egress.counters.rx_frames += 1;
            egress.counters.rx_bytes += frame.len() as u64;
            if !self.is_ours(&frame) {
                self.counters.wrong += 1;
                continue;
            }
            self.counters.returned += 1;
            self.moved_at = now;
            frame.set_header(NetHdr::default());
            egress.send(frame);
        }
    }

    /// Whether a frame is as it was sent, but for its addresses.
    #[inline]
    fn is_ours(&self, frame: &Frame) -> bool {
        let head = frame.head();
        if frame.len() != self.template.len() || head.get(MARK_AT..MARK_AT + MARK.len()) != Some(&MARK[..]) {
            return false;
        }
        !self.counters.returned.is_multiple_of(LOOK_AT) || self.is_whole(frame)
    }

    #[inline(never)]
    fn is_whole(&self, frame: &Frame) -> bool {
        let mut at = 0;
        for segment in frame.segments() {
            let (skip, from) = (MARK_AT.saturating_sub(at).min(segment.len()), at);
            at += segment.len();
            if self.template.get(from + skip..at) != Some(&segment[skip..]) {
                return false;
            }
        }
        at == self.template.len()
    }

    /// Puts frames into circulation, as many as are missing: at first, and if none has come back for a while. More than the queue
    /// holds wait for room; those for which there is no place at all are put in later. Returns when to ask again, in nanoseconds.
    pub fn top_up<R: Virtqueue<Frame>>(&mut self, egress: &mut Egress<'_, R>, now: u64) -> u64 {
        // While frames wait, it is the device that keeps them all. Those that it has and has not sent are not lost either.
        if now.saturating_sub(self.moved_at) >= LOST_AFTER && egress.backlog.is_empty() {
            // A broken ring has no place, and the loop sees it when it flushes.
            let _ = egress.transmit.reap();
            let kept = egress.transmit.under_way();
            if kept < self.kept {
                // It goes on: what it has sent is on its way back.
                self.moved_at = now;
            } else {
                self.missing = self.frames.saturating_sub(kept);
            }
            self.kept = kept;
        }
        let reserve = reserve(egress.pool);
        while self.missing > 0 && egress.has_place(reserve) {
            self.moved_at = now;
            egress.send_copy(&self.template, NetHdr::default());
            self.counters.injected += 1;
            self.missing -= 1;
        }
        // If it is late already, the device keeps them, and there is nothing to do but to look again.
        let again = now.saturating_add(AGAIN_AFTER);
        if self.missing > 0 { again } else { self.moved_at.saturating_add(LOST_AFTER).max(again) }
    }
}
