//! What is counted. Counters only grow, and wrap after 2<sup>64</sup>.

/// Counters of a receive queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReceiveCounters {
    /// Frames given to the caller. A frame to be segmented counts once.
    pub frames: u64,
    /// Bytes of these frames, Ethernet header included.
    pub bytes: u64,
    /// Frames that lay in more than one of the device's buffers.
    pub merged: u64,
    /// Frames that the device has put together from several segments, as far as it tells (RSC_EXT).
    pub coalesced_frames: u64,
    /// The segments that these were.
    pub coalesced_segments: u64,
    /// Duplicate ACKs that the device has left out: each is told of in [`NetHdr::duplicate_acks`](crate::wire::NetHdr::duplicate_acks)
    /// of the frame that stands for it, unless that has data.
    pub duplicate_acks: u64,
    /// Frames thrown away because their header makes no sense or uses what was not agreed.
    pub bad_headers: u64,
    /// Frames thrown away because they have more pieces than are put up with, or fewer bytes than an Ethernet header.
    pub bad_lengths: u64,
    /// Lies that broke the queue. After one there is another only if the queue was reset.
    pub device_errors: u64,
    /// How often the queue was reset alone.
    pub resets: u64,
    /// How often the pool had no more buffers to spare while less than a quarter of the queue was filled.
    pub buffers_missing: u64,
    /// Doorbells rung.
    pub doorbells: u64,
    /// How often interrupts were asked for.
    pub interrupts_armed: u64,
}

/// Counters of a transmit queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransmitCounters {
    /// Frames taken for transmission. A frame to be segmented counts once.
    pub frames: u64,
    /// Bytes of these frames, Ethernet header included.
    pub bytes: u64,
    /// How often a frame was refused because the queue was full. One that is tried again and again counts each time.
    pub full: u64,
    /// Frames refused for any other reason.
    pub refused: u64,
    /// Lies that broke the queue. After one there is another only if the queue was reset.
    pub device_errors: u64,
    /// How often the queue was reset alone.
    pub resets: u64,
    /// Doorbells rung.
    pub doorbells: u64,
    /// How often interrupts were asked for.
    pub interrupts_armed: u64,
}
