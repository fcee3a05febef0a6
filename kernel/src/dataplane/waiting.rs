//! Frames that wait until their next hop is known.
//!
//! Few and for a short time: a neighbour answers within milliseconds or not at all. Everything is bounded, so that packets
//! to addresses nobody has cannot use up the buffers.

use alloc::vec::Vec;

use ringlet_balancer::NextHop;
use ringlet_driver::buffer::Frame;

/// The most next hops that are waited for at a time.
pub(crate) const HOPS: usize = 64;
/// The most frames that wait for one next hop. Linux keeps about as many (`unres_qlen_bytes`).
pub(crate) const FRAMES_PER_HOP: usize = 32;

/// What has become of a next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its address is known.
    Resolved,
    /// It does not answer.
    Unreachable,
}

struct Hop {
    next_hop: NextHop,
    frames: Vec<Frame>,
    outcome: Option<Outcome>,
}

/// All frames that wait.
pub(crate) struct Waiting {
    hops: Vec<Hop>,
    /// Lists without frames, to be used again.
    spare: Vec<Vec<Frame>>,
    /// Buffers of all frames here, and how many there may be.
    buffers: usize,
    limit: usize,
    frames: usize,
    /// Some hop has an outcome.
    news: bool,
}

impl Waiting {
    /// Nothing waits. The frames here will hold at most `limit` buffers.
    pub fn new(limit: usize) -> Self {
        Self {
            hops: Vec::with_capacity(HOPS),
            spare: (0..HOPS).map(|_| Vec::with_capacity(FRAMES_PER_HOP)).collect(),
            buffers: 0,
            limit,
            frames: 0,
            news: false,
        }
    }

    /// How many frames wait.
    pub fn len(&self) -> usize {
        self.frames
    }

    /// Keeps a frame.
    ///
    /// # Errors
    /// Gives it back if too many wait already.
    pub fn push(&mut self, next_hop: NextHop, frame: Frame) -> Result<(), Frame> {
        let buffers = frame.segment_count();
        if self.buffers + buffers > self.limit {
            return Err(frame);
        }
        let place = match self.hops.iter().position(|hop| hop.next_hop == next_hop) {
            Some(place) => place,
            None => {
                let Some(frames) = self.spare.pop() else { return Err(frame) };
                self.hops.push(Hop { next_hop, frames, outcome: None });
                self.hops.len() - 1
            }
        };
        let hop = &mut self.hops[place];
        if hop.frames.len() == FRAMES_PER_HOP {
            return Err(frame);
        }
        hop.frames.push(frame);
        // What was heard before may not be true of this frame, which would not wait then.
        hop.outcome = None;
        self.buffers += buffers;
        self.frames += 1;
        Ok(())
    }

    /// Notes what has become of a next hop; [`Waiting::news`] is to be asked soon.
    pub fn mark(&mut self, next_hop: NextHop, outcome: Outcome) {
        if let Some(hop) = self.hops.iter_mut().find(|hop| hop.next_hop == next_hop) {
            hop.outcome = Some(outcome);
            self.news = true;
        }
    }

    /// Whether [`Waiting::take`] has something.
    #[inline]
    pub fn news(&self) -> bool {
        self.news
    }

    /// Takes out the frames of one next hop that something has become of, oldest first. Give the list back with
    /// [`Waiting::recycle`].
    pub fn take(&mut self) -> Option<(NextHop, Outcome, Vec<Frame>)> {
        let place = self.hops.iter().position(|hop| hop.outcome.is_some());
        let Some(place) = place else {
            self.news = false;
            return None;
        };
        let hop = self.hops.swap_remove(place);
        let outcome = hop.outcome?;
        self.frames -= hop.frames.len();
        self.buffers -= hop.frames.iter().map(Frame::segment_count).sum::<usize>();
        Some((hop.next_hop, outcome, hop.frames))
    }

    /// Takes an empty list back.
    pub fn recycle(&mut self, frames: Vec<Frame>) {
        debug_assert!(frames.is_empty() && self.spare.len() < HOPS);
        self.spare.push(frames);
    }
}
