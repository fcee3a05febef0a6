//! Sleeping until there is something to do.

use ringlet_driver::buffer::Frame;
use ringlet_driver::ring::Virtqueue;
use ringlet_driver::transport::NetTransport;

use super::Kernel;
use crate::dataplane::{Link, LinkError};
use crate::platform::Platform;

/// So long before its time a sleep is ended by no timer, in nanoseconds.
const EARLY: u64 = 1_000_000;

impl Kernel {
    /// Sleeps until the device or a timer has something, unless there is something already.
    #[cold]
    pub(super) fn sleep<R: Virtqueue<Frame>, T: NetTransport>(
        &mut self,
        link: &mut Link<R, T>,
        platform: &impl Platform,
    ) -> Result<(), LinkError> {
        // Frames that were sent give their buffers back: somebody may be waiting for them.
        link.transmit.reap()?;
        if !self.backlog.is_empty() {
            let more = self.send_waiting(link);
            let under_way = link.transmit.under_way();
            link.transmit.flush()?;
            let left = link.transmit.under_way();
            // If more did not fit, what was found sent since then has made room: perhaps all there was, and then no interrupt would tell
            // of it any more.
            if !self.backlog.is_empty() && (more || left < under_way || left == 0) {
                return Ok(());
            }
        }
        link.receive.refill();
        let mut work = link.receive.arm_interrupt();
        // The device may have a frame for which it has too few buffers: those that are missing lie in the transmit queue.
        let starved = link.receive.is_short();
        let awaits_sent = link.transmit.under_way() > 0 && (starved || !self.backlog.is_empty());
        if awaits_sent {
            work |= if starved { link.transmit.arm_interrupt_for_next() } else { link.transmit.arm_interrupt() };
        }
        if !work {
            self.counters.sleeps += 1;
            let until = self.next_due;
            let before = platform.now_ns();
            platform.idle((until != u64::MAX).then_some(until));
            self.idle_ns += platform.now_ns().saturating_sub(before);
            if platform.now_ns().saturating_add(EARLY) < until {
                self.counters.wakeups += 1;
                self.woken = true;
                self.spin.woken(platform.now_ns());
            } else {
                self.spin.interrupted();
            }
            // Whatever ended the sleep. Why the device interrupted is not asked: that would be an exit. If there is no frame behind
            // it, the configuration is read again.
            link.control.acknowledge_used();
        }
        link.receive.disarm_interrupt();
        if awaits_sent {
            link.transmit.disarm_interrupt();
        }
        Ok(())
    }
}
