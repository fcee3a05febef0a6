//! The receive side.

use core::mem::ManuallyDrop;

use super::ReceiveCounters;
use super::header::Allowed;
use crate::buffer::{DEVICE_CAPACITY, Frame, MAX_SEGMENTS, Pool};
use crate::features::Features;
use crate::offload;
use crate::ring::{Access, RingError, Used, Virtqueue};
use crate::transport::Doorbell;
use crate::wire::{ETHERNET_HEADER, MAX_GSO_FRAME, NetHdr};

/// The least a receive buffer must hold where frames are not merged and not segmented: a header and an Ethernet frame with
/// 1500 bytes and a VLAN tag (virtio 1.3, section 5.1.6.3.1 says 1526 bytes, without a tag).
const PLAIN_FRAME: usize = NetHdr::LEN + ETHERNET_HEADER + VLAN_TAG + 1500;

/// Length of a VLAN tag.
const VLAN_TAG: usize = 4;

/// Free descriptors below which refilling a queue of `size` does not bother.
fn batch(size: u16) -> u16 {
    (size / 8).clamp(1, 32)
}

/// What is posted for the device to receive into.
#[derive(Debug, Clone, Copy)]
pub(super) struct Posting {
    /// Buffers in one chain.
    buffers: usize,
    /// Whether a frame may lie in several chains.
    merged: bool,
    /// Chains that the longest frame takes.
    longest: usize,
}

impl Posting {
    /// What section 5.1.6.3.1 demands: with MRG_RXBUF anything, else room for the largest frame there can be.
    pub(super) fn new(features: Features, mtu: Option<u16>) -> Self {
        let mtu = mtu.filter(|_| features.contains(Features::MTU));
        let plain = mtu.map_or(0, |mtu| NetHdr::LEN + ETHERNET_HEADER + VLAN_TAG + usize::from(mtu)).max(PLAIN_FRAME);
        let large = features.intersects(Features::GUEST_LARGE);
        let length = if large { plain.max(NetHdr::LEN + MAX_GSO_FRAME) } else { plain };
        let buffers = length.div_ceil(DEVICE_CAPACITY);
        if features.contains(Features::MRG_RXBUF) {
            Self { buffers: 1, merged: true, longest: buffers }
        } else {
            Self { buffers, merged: false, longest: 1 }
        }
    }

    pub(super) fn buffers(&self) -> usize {
        self.buffers
    }

    /// Whether a queue of `size` always has room for the longest frame: a chain must not be longer than the queue (section
    /// 2.7.5.3.1); and where frames are merged, so many buffers must be with the device although it is given new ones only when a
    /// few are missing. A device waits for more of them otherwise, or throws the frame away, and its sender sends it once more.
    pub(super) fn fits(&self, size: u16) -> bool {
        let needed = if self.merged { self.longest + usize::from(batch(size)) - 1 } else { self.buffers };
        needed <= usize::from(size)
    }
}

/// Receives frames.
///
/// A loop looks like this: [`Receive::refill`], [`Receive::burst`], work. When there is nothing left to do:
/// [`Transmit::reap`](super::Transmit::reap) and [`Receive::refill`], lest the device have no buffer to interrupt for; then
/// [`Receive::arm_interrupt`], and if that says that nothing has come, sleep until there is an interrupt. If even then
/// [`Receive::is_short`], and frames are under way, [`Transmit::arm_interrupt_for_next`](super::Transmit::arm_interrupt_for_next) too.
#[derive(Debug)]
pub struct Receive<R> {
    pub(super) ring: ManuallyDrop<R>,
    pub(super) device: u64,
    pub(super) doorbell: Doorbell,
    pool: Pool,
    reserve: usize,
    posting: Posting,
    /// Descriptors that one chain takes: one if it is an indirect one.
    chain: u16,
    /// Free descriptors below which refilling does not bother. There is room for a chain in them.
    batch: u16,
    allowed: Allowed,
    /// Bits of the flags that mean something.
    flags: u8,
    /// Lies of the device after which the queue was reset.
    mended: u64,
    counters: ReceiveCounters,
}

impl<R: Virtqueue<Frame>> Receive<R> {
    pub(super) fn new(
        ring: ManuallyDrop<R>,
        doorbell: Doorbell,
        device: u64,
        pool: Pool,
        reserve: usize,
        posting: Posting,
        features: Features,
    ) -> Self {
        // Without GUEST_CSUM a device must leave DATA_VALID alone, but some that sit on a Linux tap do not: it is ignored.
        let checked = if features.contains(Features::GUEST_CSUM) { NetHdr::DATA_VALID } else { 0 };
        let counted = if features.contains(Features::RSC_EXT) { NetHdr::RSC_INFO } else { 0 };
        let indirect = features.contains(Features::INDIRECT_DESC);
        let chain = if indirect { 1 } else { posting.buffers.min(usize::from(ring.size())) as u16 };
        Self {
            chain,
            batch: batch(ring.size()).max(chain),
            ring,
            device,
            doorbell,
            pool,
            reserve,
            posting,
            allowed: Allowed::received(features),
            flags: NetHdr::NEEDS_CSUM | checked | counted,
            mended: 0,
            counters: ReceiveCounters::default(),
        }
    }

    /// Gives the device free buffers, if it lacks more than a few, and rings its doorbell if it wants that. Cheap if there is
    /// nothing to do.
    #[inline]
    pub fn refill(&mut self) {
        if self.ring.room() >= self.batch {
            self.refill_now();
        }
    }

    fn refill_now(&mut self) {
        while self.ring.room() >= self.chain {
            let Some(frame) = self.blank() else {
                let size = self.ring.size();
                self.counters.buffers_missing += u64::from(self.ring.room() > size - size / 4);
                break;
            };
            if self.post(frame).is_err() {
                break;
            }
        }
        if self.ring.publish() {
            self.doorbell.ring(self.ring.position());
            self.counters.doorbells += 1;
        }
    }

    /// Buffers to be filled, if the pool can spare them.
    #[inline]
    fn blank(&self) -> Option<Frame> {
        let buffers = self.posting.buffers;
        if self.pool.available() < self.reserve + buffers { None } else { self.pool.blank(buffers) }
    }

    #[inline]
    fn post(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.posting.buffers == 1 {
            let segment = frame.blank_segment();
            // SAFETY: the buffer belongs to the frame, which stays in the ring while the device may write to it.
            return unsafe { self.ring.add(segment, Access::DeviceWrites, frame) };
        }
        self.post_chain(frame)
    }

    /// Out of line, as it has much on its stack.
    #[inline(never)]
    fn post_chain(&mut self, frame: Frame) -> Result<(), Frame> {
        let mut segments = [(0, 0); MAX_SEGMENTS];
        for (target, segment) in segments.iter_mut().zip(frame.blank_segments()) {
            *target = segment;
        }
        let count = self.posting.buffers;
        let segments = segments.into_iter().take(count);
        // SAFETY: as in `post`, and there are as many segments as buffers, which are at most MAX_SEGMENTS.
        unsafe { self.ring.add_chain(segments, count, Access::DeviceWrites, frame) }
    }

    /// Takes received frames, up to `frames.len()`. They are put into the first places of `frames` (what was there is dropped);
    /// how many there are is returned. Their headers are checked: checksum positions lie in [`Frame::head`].
    ///
    /// Frames whose header makes no sense are dropped and counted.
    ///
    /// # Errors
    /// If the device has lied, and there are no frames from before that. The device is to be reset.
    pub fn burst(&mut self, frames: &mut [Option<Frame>]) -> Result<usize, RingError> {
        // First everything that waits is fetched, so that the headers, which another processor has written, are on their way
        // into the cache while the first ones are looked at.
        let mut fetched = 0;
        for place in frames.iter_mut() {
            match self.fetch() {
                Ok(Some(frame)) => {
                    frame.prefetch();
                    *place = Some(frame);
                    fetched += 1;
                }
                Ok(None) => break,
                Err(error) if fetched == 0 => return Err(error),
                Err(_) => break,
            }
        }
        let (mut next, mut count) = (0, 0);
        while next < fetched {
            let Some(frame) = frames[next].take() else { break };
            next += 1;
            match self.accept(frame, &mut Fetched { frames: &mut frames[..fetched], next: &mut next }) {
                Ok(Some(frame)) => {
                    frames[count] = Some(frame);
                    count += 1;
                }
                Ok(None) => {}
                Err(error) => {
                    frames[next..fetched].fill_with(|| None);
                    return if count > 0 { Ok(count) } else { Err(error) };
                }
            }
        }
        Ok(count)
    }

    /// Takes one received frame.
    ///
    /// # Errors
    /// If the device has lied. The device is to be reset.
    pub fn take(&mut self) -> Result<Option<Frame>, RingError> {
        while let Some(frame) = self.fetch()? {
            let accepted = self.accept(frame, &mut Fetched { frames: &mut [], next: &mut 0 })?;
            if accepted.is_some() {
                return Ok(accepted);
            }
        }
        Ok(None)
    }

    /// Takes buffers that the device has filled. Their frame's length is what the device says it wrote, header included.
    #[inline]
    fn fetch(&mut self) -> Result<Option<Frame>, RingError> {
        match self.ring.take() {
            Ok(Some(Used { token: mut frame, written })) => {
                frame.set_written(written);
                Ok(Some(frame))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                self.counters.device_errors = self.mended + 1;
                Err(error)
            }
        }
    }

    /// Makes a frame of what the device has filled, with the buffers that belong to it. Nothing if it is to be thrown away.
    #[inline]
    fn accept(&mut self, mut frame: Frame, further: &mut Fetched<'_>) -> Result<Option<Frame>, RingError> {
        let written = frame.len();
        if written < NetHdr::LEN {
            return Err(self.lie(RingError::Runt(written as u32)));
        }
        let mut header = frame.received(written);
        if self.posting.merged && header.num_buffers != 1 {
            let fits = self.merge(&mut frame, header.num_buffers, further)?;
            if !fits {
                self.counters.bad_lengths += 1;
                return Ok(None);
            }
        }
        let fits = frame.len() <= MAX_GSO_FRAME + VLAN_TAG;
        if !fits || frame.len() < ETHERNET_HEADER || frame.head().len() < ETHERNET_HEADER {
            self.counters.bad_lengths += 1;
            return Ok(None);
        }
        header.flags &= self.flags;
        let header = if header.is_plain() { Some(NetHdr::default()) } else { self.header(header, &mut frame) };
        match header {
            Some(header) => frame.set_header(header),
            None => {
                self.counters.bad_headers += 1;
                return Ok(None);
            }
        }
        self.counters.frames += 1;
        self.counters.bytes += frame.len() as u64;
        Ok(Some(frame))
    }

    /// What is left of a header once all is gone that means nothing or is not to be relied upon, `hdr_len` among it. Nothing if
    /// it makes no sense.
    fn header(&mut self, mut header: NetHdr, frame: &mut Frame) -> Option<NetHdr> {
        if header.flags & NetHdr::RSC_INFO != 0 {
            header = self.coalesced(header, frame)?;
        }
        self.allowed.check(&header, frame.head()).ok()?;
        let mut clean = NetHdr { flags: header.flags, gso_type: header.gso_type, ..NetHdr::default() };
        if header.flags & (NetHdr::NEEDS_CSUM | NetHdr::RSC_INFO) != 0 {
            (clean.csum_start, clean.csum_offset) = (header.csum_start, header.csum_offset);
        }
        if header.gso_type != NetHdr::GSO_NONE {
            clean.gso_size = header.gso_size;
        }
        Some(clean)
    }

    /// Takes what the device tells of its coalescing out of a header.
    #[cold]
    fn coalesced(&mut self, header: NetHdr, frame: &mut Frame) -> Option<NetHdr> {
        let length = frame.len();
        let made = offload::coalesced(&header, frame.head_mut(), length).ok()?;
        frame.truncate(made.length);
        if made.segments > 1 {
            self.counters.coalesced_frames += 1;
            self.counters.coalesced_segments += u64::from(made.segments);
        }
        self.counters.duplicate_acks += u64::from(made.duplicate_acks);
        Some(made.header)
    }

    /// Chains the other buffers of a frame behind the first one. Whether the frame is of a bearable size.
    #[cold]
    fn merge(&mut self, frame: &mut Frame, claimed: u16, further: &mut Fetched<'_>) -> Result<bool, RingError> {
        if claimed == 0 {
            return Err(self.lie(RingError::NumBuffers { claimed, given: 0 }));
        }
        let mut fits = true;
        for given in 1..claimed {
            // All buffers of a frame are used together (section 5.1.6.4.1), so they are there, or the device lies.
            let part = match further.take().map_or_else(|| self.fetch(), |part| Ok(Some(part))) {
                Ok(Some(part)) => part,
                Ok(None) => return Err(self.lie(RingError::NumBuffers { claimed, given })),
                Err(error) => return Err(self.lie(error)),
            };
            fits &= frame.segment_count() < MAX_SEGMENTS;
            if fits {
                let mut part = part;
                part.received_further();
                // An empty buffer must not be sent on.
                if !part.is_empty() {
                    frame.append(part);
                }
            }
        }
        fits &= frame.len() <= MAX_GSO_FRAME + VLAN_TAG;
        self.counters.merged += 1;
        Ok(fits)
    }

    /// Empties the queue, broken or not, so that the device can be told of it again. `received` is given what had come.
    ///
    /// # Safety
    /// The device must have reset the queue.
    pub(super) unsafe fn clear(&mut self, mut received: impl FnMut(Frame)) {
        while let Ok(Some(frame)) = self.take() {
            received(frame);
        }
        self.mended += u64::from(self.ring.broken().is_some());
        // SAFETY: the caller's promise.
        unsafe { self.ring.reset(drop) };
        self.counters.resets += 1;
    }

    #[cold]
    fn lie(&mut self, error: RingError) -> RingError {
        self.ring.break_by(error);
        self.counters.device_errors = self.mended + 1;
        error
    }

    /// Asks for an interrupt when a frame comes. Whether there is one already: then do not sleep, there may be no interrupt.
    #[must_use = "if there are frames already, there may be no interrupt for them"]
    pub fn arm_interrupt(&mut self) -> bool {
        self.counters.interrupts_armed += 1;
        self.ring.enable_interrupts(0)
    }

    /// Asks for no interrupts. One may come all the same. Cheap if none were asked for.
    #[inline]
    pub fn disarm_interrupt(&mut self) {
        self.ring.disable_interrupts();
    }

    /// Entries of the queue.
    #[must_use]
    pub fn queue_size(&self) -> u16 {
        self.ring.size()
    }

    /// Buffers (or chains of them) that the device has.
    #[must_use]
    pub fn posted(&self) -> usize {
        usize::from(self.ring.outstanding())
    }

    /// Whether the device has not been given room for the longest frame there can be, because the pool has no buffers to spare. It
    /// may have a frame then that it cannot deliver, and interrupts for nothing: who sleeps is to be woken by what gives buffers
    /// back. To be asked after [`Receive::refill`].
    #[must_use]
    pub fn is_short(&self) -> bool {
        usize::from(self.ring.outstanding()) < self.posting.longest && self.ring.room() >= self.batch
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> ReceiveCounters {
        self.counters
    }

    /// What the device lied about, if it did.
    #[must_use]
    pub fn broken(&self) -> Option<RingError> {
        self.ring.broken()
    }
}

/// Buffers that were taken from the ring, and are not looked at yet.
struct Fetched<'a> {
    frames: &'a mut [Option<Frame>],
    next: &'a mut usize,
}

impl Fetched<'_> {
    fn take(&mut self) -> Option<Frame> {
        let frame = self.frames.get_mut(*self.next)?.take()?;
        *self.next += 1;
        Some(frame)
    }
}
