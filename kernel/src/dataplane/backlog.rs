//! Frames that wait for room in the transmit queue.
//!
//! A device sends at its own pace, on another processor: a queue that is full is no reason to lose what it will have room for in a
//! moment. A super-frame is cut as far as there is room, and the rest of it waits in one piece. How much waits is bounded; what
//! comes after that is lost, and counted.

use alloc::collections::VecDeque;

use ringlet_driver::buffer::Frame;
use ringlet_driver::offload::Segmenter;

/// What is to be sent before everything else.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once, and nothing is allocated on the packet path")]
pub(crate) enum Next {
    /// A frame.
    Frame(Frame),
    /// What is left of a super-frame that is cut.
    Rest(Segmenter, Frame),
}

/// All frames that wait, in the order in which they are to be sent.
pub(crate) struct Backlog {
    /// Had its turn already, and did not fit.
    tried: Option<Frame>,
    /// Is cut; comes after what was tried.
    rest: Option<(Segmenter, Frame)>,
    frames: VecDeque<Frame>,
    /// Buffers of `frames`, and how many there may be.
    buffers: usize,
    limit: usize,
    /// How many frames there are in all.
    len: usize,
}

impl Backlog {
    /// Nothing waits. Frames with at most `limit` buffers will, beside the one whose turn it is.
    pub fn new(limit: usize) -> Self {
        // Each has a buffer at least, so that nothing is allocated later.
        Self { tried: None, rest: None, frames: VecDeque::with_capacity(limit), buffers: 0, limit, len: 0 }
    }

    /// How many frames wait.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none does.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a frame of one buffer would be kept.
    pub fn has_room(&self) -> bool {
        self.buffers < self.limit
    }

    /// Keeps a frame that is to be sent after all others.
    ///
    /// # Errors
    /// Gives it back if too many wait already.
    pub fn push(&mut self, frame: Frame) -> Result<(), Frame> {
        let buffers = frame.segment_count();
        if self.buffers + buffers > self.limit {
            return Err(frame);
        }
        self.buffers += buffers;
        self.len += 1;
        self.frames.push_back(frame);
        Ok(())
    }

    /// Puts back a frame whose turn it was.
    pub fn put_back(&mut self, frame: Frame) {
        debug_assert!(self.tried.is_none(), "frames have their turn one after the other");
        self.tried = Some(frame);
        self.len += 1;
    }

    /// Puts back a super-frame of which as much is cut as could be sent.
    pub fn put_back_rest(&mut self, segmenter: Segmenter, frame: Frame) {
        debug_assert!(self.rest.is_none(), "frames have their turn one after the other");
        self.rest = Some((segmenter, frame));
        self.len += 1;
    }

    /// Takes out what is to be sent next.
    pub fn take(&mut self) -> Option<Next> {
        let next = if let Some(frame) = self.tried.take() {
            Next::Frame(frame)
        } else if let Some((segmenter, frame)) = self.rest.take() {
            Next::Rest(segmenter, frame)
        } else {
            let frame = self.frames.pop_front()?;
            self.buffers -= frame.segment_count();
            Next::Frame(frame)
        };
        self.len -= 1;
        Some(next)
    }
}
