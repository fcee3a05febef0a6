//! What is due at its time, and not because a frame came.

use alloc::vec::Vec;

use ringlet_balancer::Instant;
use ringlet_driver::buffer::Frame;
use ringlet_driver::features::Features;
use ringlet_driver::ring::Virtqueue;
use ringlet_driver::transport::NetTransport;

use super::Kernel;
use super::burst::release;
use super::own::Own;
use crate::console::Console;
use crate::dataplane::{BURST, BalancerSink, Egress, Link, LinkError};
use crate::platform::Platform;
use crate::services::{Services, View};
use crate::status::Loss;
use crate::{info, report, warn};

/// The balancer is asked what is due at least this often, in nanoseconds: packets may set timers that are nearer than what it
/// said last.
const BALANCER_PERIOD: u64 = 1_000_000_000;
/// How often the device's configuration is read again, in nanoseconds. Not every transport tells of a change, and each
/// reading is a dozen exits.
pub(super) const DEVICE_PERIOD: u64 = 5_000_000_000;
/// An interrupt behind which there was no frame may be about the configuration, which is read again then, but not more often than
/// this, in nanoseconds: most of them came just too late.
pub(super) const DEVICE_PERIOD_LEAST: u64 = 1_000_000_000;
/// The least time between two reports of the configuration, in nanoseconds.
const REPORT_PERIOD: u64 = 200_000_000;
/// How long the stack waits for room in the transmit queue, in nanoseconds: at first, and at most, if there is none for long.
const BLOCKED_PERIOD: u64 = 20_000;
const BLOCKED_PERIOD_MOST: u64 = 1_000_000;
/// How often services and stack take turns before frames are looked for again.
const ROUNDS: usize = 4;

/// When what is due next, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    pub balancer: u64,
    pub stack: u64,
    pub device: u64,
    pub status: u64,
    pub report: u64,
    pub queue_reset: u64,
    pub round_trip: u64,
}

impl Due {
    fn first(&self) -> u64 {
        self.balancer
            .min(self.stack)
            .min(self.device)
            .min(self.status)
            .min(self.report)
            .min(self.queue_reset)
            .min(self.round_trip)
    }
}

impl Kernel {
    /// Does what is due at this time, and what services have to do if `local` says so.
    #[cold]
    pub(super) fn due<R: Virtqueue<Frame>, T: NetTransport>(
        &mut self,
        local: bool,
        link: &mut Link<R, T>,
        platform: &impl Platform,
        console: &Console<'_>,
        now: u64,
    ) -> Result<(), LinkError> {
        if now >= self.due.device {
            self.refreshed_at = now;
            self.refresh(link, console)?;
            self.due.device = now.saturating_add(DEVICE_PERIOD);
        }
        if now >= self.due.queue_reset {
            self.reset_queue(link, console, now)?;
        }
        self.account(link.receive.counters());
        let gauges = self.gauges(platform, now);
        let Self { balancer, pool, stack, services, waiting, counters, fragment_ids, backlog, round_trip, .. } = self;
        let (transmit, features) = (&mut link.transmit, link.features);
        let mut egress = Egress { transmit, pool, features, counters, fragment_ids, backlog };
        if let Some(round_trip) = round_trip.as_mut().filter(|_| now >= self.due.round_trip) {
            self.due.round_trip = round_trip.top_up(&mut egress, now);
        }
        if now >= self.due.balancer {
            let sink = &mut BalancerSink { egress: &mut egress, waiting };
            let next = balancer.poll(Instant(now), sink).nanos();
            if waiting.news() {
                release(waiting, balancer, &mut egress, now);
            }
            self.due.balancer = next.min(now.saturating_add(BALANCER_PERIOD));
        }
        if local || now >= self.due.stack {
            let mut more = false;
            for _ in 0..ROUNDS {
                let mut view = View { balancer, facts: &self.facts, gauges: &gauges };
                let worked = services.as_mut().is_some_and(|services| services.poll(stack.sockets(), &mut view));
                more = stack.poll(now, &mut Own { egress: &mut egress, balancer, now }) || worked;
                if !more {
                    break;
                }
            }
            if balancer.generation() != self.generation {
                self.generation = balancer.generation();
                stack.set_service_addresses(balancer.virtual_addresses());
            }
            let services = services.as_ref().map_or(u64::MAX, Services::deadline);
            // Where the stack wants to send and cannot, the device is given a little time, and more if that does not do.
            let deadline = stack.deadline(now);
            self.blocked = match deadline {
                Some(at) if at <= now && !more => (2 * self.blocked).clamp(BLOCKED_PERIOD, BLOCKED_PERIOD_MOST),
                _ => 0,
            };
            let least = now.saturating_add(self.blocked.max(BLOCKED_PERIOD));
            let stack = if more { now } else { deadline.map_or(u64::MAX, |at| at.max(least)) };
            self.due.stack = stack.min(services);
        }
        if balancer.revision() != self.revision {
            self.revision = balancer.revision();
            self.due.report = now.max(self.reported.saturating_add(REPORT_PERIOD));
        }
        if now >= self.due.report {
            // Thousands of destinations take long to tell: no more than a sixteenth of the time goes into it.
            let before = platform.now_ns();
            report::configuration(console, balancer);
            let after = platform.now_ns();
            self.reported = after.saturating_add(after.saturating_sub(before).saturating_mul(15));
            self.due.report = u64::MAX;
        }
        if now >= self.due.status {
            report::status(console, balancer, &gauges);
            if let Some(round_trip) = round_trip {
                report::round_trip(console, now, round_trip.counters());
            }
            self.due.status = now.saturating_add(self.status_period);
        }
        self.next_due = self.due.first();
        Ok(())
    }

    /// Resets one queue on purpose, receive and transmit queue in turn. Nothing is lost by it.
    #[cold]
    fn reset_queue<R: Virtqueue<Frame>, T: NetTransport>(
        &mut self,
        link: &mut Link<R, T>,
        console: &Console<'_>,
        now: u64,
    ) -> Result<(), LinkError> {
        self.due.queue_reset = now.saturating_add(self.queue_reset_period);
        if !link.features.contains(Features::RING_RESET) {
            warn!(console, "reset_queues=: resetting a single queue was not agreed on (ring_reset)");
            self.due.queue_reset = u64::MAX;
            return Ok(());
        }
        let mut frames = Vec::new();
        if self.counters.queue_resets.is_multiple_of(2) {
            link.control.reset_receive(&mut link.receive, |frame| frames.push(frame))?;
        } else {
            link.control.reset_transmit(&mut link.transmit, |frame| frames.push(frame))?;
            for frame in frames.drain(..) {
                // There is room for as many as there were.
                if link.transmit.push(frame).is_err() {
                    self.counters.lose(Loss::Reset);
                }
            }
            link.transmit.flush()?;
        }
        self.counters.queue_resets += 1;
        let mut frames = frames.into_iter();
        loop {
            let mut count = 0;
            for (place, frame) in self.frames.iter_mut().zip(frames.by_ref().take(BURST)) {
                *place = Some(frame);
                count += 1;
            }
            if count == 0 {
                return Ok(());
            }
            if self.burst(count, link, now) {
                self.due.stack = now;
            }
        }
    }

    /// Reads the device's configuration again.
    fn refresh<R: Virtqueue<Frame>, T: NetTransport>(
        &mut self,
        link: &mut Link<R, T>,
        console: &Console<'_>,
    ) -> Result<(), LinkError> {
        link.control.refresh().map_err(LinkError::Device)?;
        let up = link.control.link_up();
        if up != self.link_up {
            self.link_up = up;
            info!(console, "device: the link is {}", if up { "up" } else { "down" });
        }
        Ok(())
    }
}
