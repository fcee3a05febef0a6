//! What there is to know about the running machine, as plain data: for the services, the records and the tests.

use alloc::string::String;
use alloc::vec::Vec;

use ringlet_driver::features::Features;
use ringlet_driver::net::ReceiveCounters;

use crate::cmdline::Cidr;
use crate::platform::HeapUsage;

/// What stays as it is while the device works.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The image's build id, in hexadecimal.
    pub build_id: String,
    /// `mmio` or `pci`.
    pub transport: &'static str,
    /// The device's Ethernet address.
    pub mac: [u8; 6],
    /// The largest IP packet in bytes.
    pub mtu: u16,
    /// What the device offered.
    pub offered: Features,
    /// What was agreed.
    pub features: Features,
    /// Entries of a virtqueue.
    pub queue_size: u16,
    /// Memory in all, in bytes.
    pub memory: u64,
    /// Our own addresses.
    pub addresses: Vec<Cidr>,
}

/// The version of this kernel.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

macro_rules! losses {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why the loop lost a frame that the balancer had not dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Loss { $($(#[$doc])* $name,)* }

        impl Loss {
            /// Every loss, in the order of its counter.
            pub const ALL: &'static [Loss] = &[$(Loss::$name,)*];

            /// A short name in lower case, for metrics.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Loss::$name => $label,)* }
            }
        }
    };
}

losses! {
    /// No packet buffer was left for what was to be sent.
    NoBuffer = "no_buffer",
    /// The transmit queue was full, and too many frames waited for room already.
    TransmitFull = "transmit_full",
    /// Too many frames wait for a neighbour already.
    WaitingFull = "waiting_full",
    /// The neighbour that was waited for does not answer.
    Unreachable = "neighbour_unreachable",
    /// The device cannot be given the frame, and neither can it be cut or finished in software.
    Unsendable = "unsendable",
    /// The device was reset while the frame waited.
    Reset = "device_reset",
    /// What the device said before a received frame makes no sense, or was not agreed on.
    BadHeader = "bad_header",
    /// A received frame was in more pieces than are put up with, or shorter than an Ethernet header.
    BadLength = "bad_length",
}

/// What the loop counts, since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Frames received. A super-frame counts once, here and everywhere.
    pub rx_frames: u64,
    /// Bytes received, Ethernet headers included.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes sent, Ethernet headers included.
    pub tx_bytes: u64,
    /// Bursts received.
    pub bursts: u64,
    /// Times the loop went to sleep.
    pub sleeps: u64,
    /// Sleeps that ended well before the time that was asked for: by an interrupt of the device.
    pub wakeups: u64,
    /// Times the device had to be reset.
    pub resets: u64,
    /// Times a single queue was reset.
    pub queue_resets: u64,
    /// Frames whose checksum or segmentation was done in software.
    pub software_offloads: u64,
    /// Frames that the device has put together from several TCP segments, as far as it tells (RSC_EXT).
    pub coalesced_frames: u64,
    /// The segments that these were.
    pub coalesced_segments: u64,
    /// Duplicate ACKs that the device has left out, and told of.
    pub duplicate_acks: u64,
    /// Frames lost, by [`Loss`] (`lost[loss as usize]`).
    pub lost: [u64; Loss::ALL.len()],
}

impl Counters {
    /// Counts a loss.
    pub fn lose(&mut self, loss: Loss) {
        self.lost[loss as usize] += 1;
    }

    /// Counts several losses.
    pub fn lose_many(&mut self, loss: Loss, count: u64) {
        self.lost[loss as usize] += count;
    }

    /// Adds what a receive queue has counted since it had counted `before`.
    pub(crate) fn account(&mut self, receive: &ReceiveCounters, before: &ReceiveCounters) {
        self.coalesced_frames += receive.coalesced_frames - before.coalesced_frames;
        self.coalesced_segments += receive.coalesced_segments - before.coalesced_segments;
        self.duplicate_acks += receive.duplicate_acks - before.duplicate_acks;
        self.lost[Loss::BadHeader as usize] += receive.bad_headers - before.bad_headers;
        self.lost[Loss::BadLength as usize] += receive.bad_lengths - before.bad_lengths;
    }

    /// Frames lost in all.
    #[must_use]
    pub fn lost_in_all(&self) -> u64 {
        self.lost.iter().sum()
    }
}

/// What is measured when asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gauges {
    /// Nanoseconds since the boot stub.
    pub now_ns: u64,
    /// Nanoseconds of them that the processor was asleep.
    pub idle_ns: u64,
    /// The heap.
    pub heap: HeapUsage,
    /// Packet buffers that nobody holds.
    pub buffers_free: u64,
    /// Packet buffers in all.
    pub buffers: u64,
    /// Frames that wait for a neighbour.
    pub waiting: u64,
    /// Frames that wait for room in the transmit queue.
    pub backlog: u64,
    /// Whether the link is up.
    pub link_up: bool,
    /// What the loop counted.
    pub counters: Counters,
    /// What the services counted.
    pub services: ServiceCounters,
    /// What the stack took.
    pub stack: crate::stack::Counters,
}

/// What the services on the management address counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServiceCounters {
    /// HTTP connections.
    pub http_connections: u64,
    /// HTTP requests that were answered, errors included.
    pub http_requests: u64,
    /// Control connections.
    pub control_connections: u64,
    /// Control messages that were answered.
    pub control_messages: u64,
    /// Control connections closed because what came over them made no sense.
    pub control_malformed: u64,
    /// Connections closed because the other side was too slow or silent.
    pub timeouts: u64,
    /// Tests of iperf3 that came to their end.
    pub iperf3_completed: u64,
    /// Tests of iperf3 that were refused, or did not come to their end.
    pub iperf3_failed: u64,
    /// Connections to iperf3 turned away, because of a test or for want of its cookie.
    pub iperf3_denied: u64,
    /// Payload that tests of iperf3 received, in bytes.
    pub iperf3_received: u64,
    /// Payload that tests of iperf3 sent, in bytes.
    pub iperf3_sent: u64,
}
