//! The transmit side.

use core::mem::ManuallyDrop;

use super::TransmitCounters;
use super::header::{Allowed, HeaderError, exact};
use crate::buffer::{Frame, MAX_SEGMENTS};
use crate::features::Features;
use crate::ring::{Access, RingError, Virtqueue};
use crate::transport::Doorbell;
use crate::wire::{ETHERNET_HEADER, MAX_GSO_FRAME, NetHdr};

/// Length of a VLAN tag, which may be there or not.
const VLAN_TAG: usize = 4;

/// Why a frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The queue is full, and the device knows of all that is in it: try again when it has sent something, or drop the frame.
    #[error("the transmit queue is full")]
    Full,
    /// The header makes no sense, or asks for what the device has not agreed to do: do it in software.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The frame is longer than the device's MTU and is not to be segmented, or longer than any frame can be.
    #[error("the frame is too long")]
    TooLong,
    /// The frame is shorter than an Ethernet header.
    #[error("the frame is shorter than an Ethernet header")]
    TooShort,
    /// The frame lies in too many pieces: send [a copy](crate::buffer::Pool::copy_of).
    #[error("the frame lies in too many pieces")]
    TooManySegments,
    /// The queue is broken, as the device has lied.
    #[error("the transmit queue is broken: {0}")]
    Broken(RingError),
}

/// A frame that was not taken, and why.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// The frame, as it was.
    pub frame: Frame,
    /// Why.
    pub reason: Reason,
}

/// Frames with the device at which it is worth while to look for sent ones, in a queue of `size`.
fn reap_at(size: u16) -> u16 {
    (size / 8).clamp(1, 64)
}

/// Transmits frames.
///
/// [`Transmit::push`] any number of frames, then [`Transmit::flush`] once. Frames that were sent are dropped, and so go back to
/// their pool, when room is needed, when a batch was sent, or by [`Transmit::reap`]. If more is pushed than the queue holds, the
/// device is told of what is there before it is flushed: only then can it make room.
#[derive(Debug)]
pub struct Transmit<R> {
    pub(super) ring: ManuallyDrop<R>,
    pub(super) device: u64,
    pub(super) doorbell: Doorbell,
    allowed: Allowed,
    /// The longest frame that is not to be segmented, in bytes.
    longest: usize,
    /// The most pieces a frame may lie in: a chain must not be longer than the queue (virtio 1.3, section 2.7.5.3.1).
    segments: usize,
    /// Frames with the device at which flushing looks for sent ones: see [`reap_at`]; none at all once the queue is broken.
    reap_at: u16,
    /// Lies of the device after which the queue was reset.
    mended: u64,
    counters: TransmitCounters,
}

impl<R: Virtqueue<Frame>> Transmit<R> {
    pub(super) fn new(
        ring: ManuallyDrop<R>,
        doorbell: Doorbell,
        device: u64,
        features: Features,
        mtu: Option<u16>,
    ) -> Self {
        Self {
            reap_at: reap_at(ring.size()),
            segments: MAX_SEGMENTS.min(usize::from(ring.size())),
            ring,
            device,
            doorbell,
            allowed: Allowed::transmitted(features),
            longest: mtu.map_or(MAX_GSO_FRAME, |mtu| usize::from(mtu) + ETHERNET_HEADER) + VLAN_TAG,
            mended: 0,
            counters: TransmitCounters::default(),
        }
    }

    /// Adds a frame to what is to be sent; [`Transmit::flush`] sends it. If there is no room for it, what was pushed before is
    /// sent, and then it is tried once more.
    ///
    /// # Errors
    /// Gives the frame back with the reason. If that is [`Reason::Header`] or [`Reason::TooLong`], the frame needs something
    /// that was not agreed on, and that software can do.
    #[inline]
    pub fn push(&mut self, mut frame: Frame) -> Result<(), Refused> {
        let (length, segments) = (frame.len(), frame.segment_count());
        let reason = match self.check(&frame) {
            Ok(header) => {
                frame.write_header(&header);
                match self.add(frame, segments).or_else(|frame| self.add_to_full(frame, segments)) {
                    Ok(()) => {
                        self.counters.frames += 1;
                        self.counters.bytes += length as u64;
                        return Ok(());
                    }
                    Err(given_back) => {
                        frame = given_back;
                        self.ring.broken().map_or(Reason::Full, Reason::Broken)
                    }
                }
            }
            Err(reason) => reason,
        };
        match reason {
            Reason::Full => self.counters.full += 1,
            _ => self.counters.refused += 1,
        }
        Err(Refused { frame, reason })
    }

    /// The header with which the device can be given the frame: without what only a device may say, and exact.
    #[inline]
    fn check(&self, frame: &Frame) -> Result<NetHdr, Reason> {
        let given = frame.header();
        let plain = given.flags & NetHdr::NEEDS_CSUM == 0 && given.gso_type == NetHdr::GSO_NONE;
        let header = if plain { NetHdr::default() } else { self.checked(given, frame)? };
        let longest = if header.is_gso() { MAX_GSO_FRAME + VLAN_TAG } else { self.longest };
        if frame.len() > longest {
            return Err(Reason::TooLong);
        }
        if frame.len() < ETHERNET_HEADER {
            return Err(Reason::TooShort);
        }
        if frame.segment_count() > self.segments {
            return Err(Reason::TooManySegments);
        }
        Ok(header)
    }

    /// The header of a frame of which something is to be done.
    fn checked(&self, given: NetHdr, frame: &Frame) -> Result<NetHdr, HeaderError> {
        let mut header = NetHdr { flags: given.flags & NetHdr::NEEDS_CSUM, ..given };
        if header.gso_type != NetHdr::GSO_NONE {
            exact(&mut header, frame.head(), frame.len())?;
        }
        self.allowed.check(&header, frame.head())?;
        Ok(header)
    }

    #[inline]
    fn add(&mut self, frame: Frame, count: usize) -> Result<(), Frame> {
        if count == 1 {
            let segment = frame.filled_segment();
            // SAFETY: the buffer belongs to the frame, which stays in the ring while the device may read it.
            return unsafe { self.ring.add(segment, Access::DeviceReads, frame) };
        }
        self.add_chain(frame, count)
    }

    /// Adds a frame for which there was no room. Frames that were sent make some; if there are none, the device is told of what it
    /// does not know yet, since it cannot send that, and need not wake for it, otherwise.
    #[cold]
    fn add_to_full(&mut self, frame: Frame, count: usize) -> Result<(), Frame> {
        // Reaping fails only if the ring is broken, which adding shows.
        let _ = self.reap();
        self.add(frame, count).or_else(|frame| {
            self.kick();
            let _ = self.reap();
            self.add(frame, count)
        })
    }

    /// Out of line, as it has much on its stack.
    #[inline(never)]
    fn add_chain(&mut self, frame: Frame, count: usize) -> Result<(), Frame> {
        let mut segments = [(0, 0); MAX_SEGMENTS];
        for (target, segment) in segments.iter_mut().zip(frame.filled_segments()) {
            *target = segment;
        }
        let segments = segments.into_iter().take(count);
        // SAFETY: as in `add`; `check` has seen to it that there are at most MAX_SEGMENTS.
        unsafe { self.ring.add_chain(segments, count, Access::DeviceReads, frame) }
    }

    /// Sends what was pushed, rings the doorbell if the device wants that, and looks for sent frames if many are under way.
    ///
    /// # Errors
    /// If the device has lied. The device is to be reset.
    #[inline]
    pub fn flush(&mut self) -> Result<(), RingError> {
        self.kick();
        if self.ring.outstanding() >= self.reap_at { self.reap().map(drop) } else { Ok(()) }
    }

    /// Shows the device what was pushed, and rings its doorbell if it wants that.
    #[inline]
    fn kick(&mut self) {
        if self.ring.publish() {
            self.doorbell.ring(self.ring.position());
            self.counters.doorbells += 1;
        }
    }

    /// Drops the frames that were sent. How many these were.
    ///
    /// # Errors
    /// If the device has lied. The device is to be reset.
    pub fn reap(&mut self) -> Result<usize, RingError> {
        let mut count = 0;
        loop {
            match self.ring.take() {
                Ok(Some(_sent)) => count += 1,
                Ok(None) => return Ok(count),
                Err(error) => {
                    self.counters.device_errors = self.mended + 1;
                    // So that the next flush tells it, whoever has found it.
                    self.reap_at = 0;
                    return Err(error);
                }
            }
        }
    }

    /// Empties the queue, broken or not, so that the device can be told of it again. `unsent` is given what it has not sent.
    ///
    /// # Safety
    /// The device must have reset the queue.
    pub(super) unsafe fn clear(&mut self, unsent: impl FnMut(Frame)) {
        // What it says that it has sent is not to be sent again. If that is a lie the rest is not known.
        let _ = self.reap();
        self.mended += u64::from(self.ring.broken().is_some());
        // SAFETY: the caller's promise.
        unsafe { self.ring.reset(unsent) };
        self.reap_at = reap_at(self.ring.size());
        self.counters.resets += 1;
    }

    /// Asks for an interrupt when half of the frames that are under way were sent. Whether that is so already: then do not
    /// sleep, there may be no interrupt. Only needed by who waits for room.
    #[must_use = "if frames were sent already, there may be no interrupt for them"]
    pub fn arm_interrupt(&mut self) -> bool {
        let half = self.ring.outstanding() / 2;
        self.arm_interrupt_after(half)
    }

    /// The same for the next frame that is sent: for who waits for its buffers. The device may send no more than that until it gets
    /// something to receive into.
    #[must_use = "if frames were sent already, there may be no interrupt for them"]
    pub fn arm_interrupt_for_next(&mut self) -> bool {
        self.arm_interrupt_after(0)
    }

    fn arm_interrupt_after(&mut self, count: u16) -> bool {
        self.counters.interrupts_armed += 1;
        self.ring.enable_interrupts(count)
    }

    /// Asks for no interrupts. One may come all the same. Cheap if none were asked for.
    #[inline]
    pub fn disarm_interrupt(&mut self) {
        self.ring.disable_interrupts();
    }

    /// Frames pushed that were not found sent yet.
    #[must_use]
    pub fn under_way(&self) -> usize {
        usize::from(self.ring.outstanding())
    }

    /// How many frames of one buffer can be pushed now, at least.
    #[must_use]
    pub fn room(&self) -> usize {
        usize::from(self.ring.room())
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> TransmitCounters {
        self.counters
    }

    /// What the device lied about, if it did.
    #[must_use]
    pub fn broken(&self) -> Option<RingError> {
        self.ring.broken()
    }
}
