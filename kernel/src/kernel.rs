//! The kernel: everything but the device, and one turn of the loop.
//!
//! `burst`: received frames. `due`: what has its time. `sleep`: what is done when there is nothing else.

mod burst;
mod due;
mod own;
mod sleep;

use alloc::vec::Vec;

use ringlet_balancer::Balancer;
use ringlet_driver::buffer::{Frame, Pool};
use ringlet_driver::net::ReceiveCounters;
use ringlet_driver::ring::Virtqueue;
use ringlet_driver::transport::NetTransport;
#[cfg(test)]
use ringlet_driver::wire::NetHdr;

use self::due::{DEVICE_PERIOD, DEVICE_PERIOD_LEAST, Due};
use crate::cmdline::Options;
use crate::console::Console;
use crate::dataplane::{BURST, Backlog, Egress, FragmentIds, Link, LinkError, Waiting};
use crate::platform::Platform;
use crate::round_trip::RoundTrip;
use crate::services::{Services, iperf3};
use crate::spin::Spin;
use crate::stack::{LinkFacts, Stack};
use crate::status::{Counters, Facts, Gauges};

/// The most buffers that wait for room in the transmit queue: more would wait for longer than is of use to anybody.
const BACKLOG_MOST: usize = 4096;

/// The machine, but for its device.
pub struct Kernel {
    pub(crate) balancer: Balancer,
    pool: Pool,
    stack: Stack,
    services: Option<Services>,
    waiting: Waiting,
    backlog: Backlog,
    facts: Facts,
    counters: Counters,
    /// What the receive queue had counted when it was last asked.
    seen: ReceiveCounters,
    fragment_ids: FragmentIds,
    /// Received frames, before they are worked on.
    frames: [Option<Frame>; BURST],
    /// A frame in one piece, for the stack, where it lies in several.
    linear: Vec<u8>,
    due: Due,
    /// The least of `due`: the only thing a busy turn looks at.
    next_due: u64,
    spin: Spin,
    /// How long the processor was asleep, in nanoseconds.
    idle_ns: u64,
    status_period: u64,
    queue_reset_period: u64,
    /// Versions of the virtual addresses and of the configuration that were seen last.
    generation: u64,
    revision: u64,
    reported: u64,
    link_up: bool,
    /// The last sleep was ended by an interrupt, and what is behind it has not been looked for yet.
    woken: bool,
    /// When the device's configuration was read last.
    refreshed_at: u64,
    /// How long the stack waits for room, in nanoseconds, if it does.
    blocked: u64,
    /// Frames circulate, and nothing is balanced.
    round_trip: Option<RoundTrip>,
    /// What the device does whenever it was just tried to send what waits, for tests.
    #[cfg(test)]
    pub(crate) meanwhile: Option<alloc::boxed::Box<dyn FnMut()>>,
}

/// The longest frame there is, in bytes.
const LONGEST_FRAME: usize = 65_536 + 18;

impl Kernel {
    /// A kernel around a balancer.
    pub(crate) fn new(
        balancer: Balancer,
        pool: Pool,
        facts: Facts,
        options: &Options,
        platform: &impl Platform,
    ) -> Self {
        let now = platform.now_ns();
        let (stack, services) = stack_and_services(&facts, options, platform);
        let status_period = match options.status_ms {
            0 => u64::MAX,
            ms => ms.saturating_mul(1_000_000),
        };
        let queue_reset_period = match options.reset_queues_ms {
            0 => u64::MAX,
            ms => ms.saturating_mul(1_000_000),
        };
        let mut kernel = Self {
            stack,
            services,
            // Generous for neighbours that do not answer at once, without hurting everybody else.
            waiting: Waiting::new(pool.capacity() / 8),
            // A quarter: receiving leaves half of the buffers alone, and what is sent takes the rest.
            backlog: Backlog::new((pool.capacity() / 4).min(BACKLOG_MOST)),
            round_trip: options.round_trip.as_ref().map(|wanted| RoundTrip::new(wanted, facts.mac, &pool)),
            counters: Counters::default(),
            seen: ReceiveCounters::default(),
            fragment_ids: FragmentIds::new(platform.random()),
            frames: [const { None }; BURST],
            linear: alloc::vec![0; LONGEST_FRAME],
            due: Due {
                balancer: now,
                stack: now,
                device: now.saturating_add(DEVICE_PERIOD),
                status: now.saturating_add(status_period),
                report: u64::MAX,
                queue_reset: now.saturating_add(queue_reset_period),
                round_trip: if options.round_trip.is_some() { now } else { u64::MAX },
            },
            next_due: now,
            spin: Spin::new(options.idle_spin_us.saturating_mul(1000), now),
            idle_ns: 0,
            status_period,
            queue_reset_period,
            generation: balancer.generation(),
            revision: balancer.revision(),
            reported: now,
            link_up: true,
            woken: false,
            refreshed_at: 0,
            blocked: 0,
            #[cfg(test)]
            meanwhile: None,
            balancer,
            pool,
            facts,
        };
        kernel.stack.set_service_addresses(kernel.balancer.virtual_addresses());
        kernel
    }

    /// What stays as it is while the device works.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    pub(crate) fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// Adds to the counters what a receive queue has counted since it was last asked, or since it was made.
    pub(crate) fn account(&mut self, receive: ReceiveCounters) {
        self.counters.account(&receive, &self.seen);
        self.seen = receive;
    }

    /// Takes over a device that was reset. If it is not what it was for the stack, the stack's connections are lost.
    pub(crate) fn relink(&mut self, facts: Facts, options: &Options, platform: &impl Platform) {
        let services = self.services.as_ref().map(Services::counters).unwrap_or_default();
        if LinkFacts::new(facts.features, facts.mac, facts.mtu)
            != LinkFacts::new(self.facts.features, self.facts.mac, self.facts.mtu)
        {
            (self.stack, self.services) = stack_and_services(&facts, options, platform);
            self.stack.set_service_addresses(self.balancer.virtual_addresses());
            if let Some(new) = &mut self.services {
                new.continue_from(services);
            }
        }
        self.facts = facts;
        self.seen = ReceiveCounters::default();
        let now = platform.now_ns();
        (self.due.stack, self.due.device) = (now, now.saturating_add(DEVICE_PERIOD));
        self.next_due = now;
    }

    /// Looks for work once and does it, or sleeps until there is some.
    ///
    /// # Errors
    /// If the device has to be reset.
    pub(crate) fn turn<R: Virtqueue<Frame>, T: NetTransport>(
        &mut self,
        link: &mut Link<R, T>,
        platform: &impl Platform,
        console: &Console<'_>,
    ) -> Result<(), LinkError> {
        if !self.backlog.is_empty() {
            self.send_waiting(link);
        }
        let received = link.receive.burst(&mut self.frames)?;
        let now = platform.now_ns();
        let mut local = false;
        if self.woken {
            self.woken = false;
            if received == 0 {
                let at = self.refreshed_at.saturating_add(DEVICE_PERIOD_LEAST).max(now);
                self.due.device = self.due.device.min(at);
                self.next_due = self.next_due.min(at);
            }
        }
        if received > 0 {
            self.spin.worked(now);
            self.counters.bursts += 1;
            local = self.burst(received, link, now);
        }
        let due = local || now >= self.next_due;
        if due {
            self.due(local, link, platform, console, now)?;
        }
        link.transmit.flush()?;
        link.receive.refill();
        let over = received == 0 && self.spin.in_vain(now);
        if due {
            self.spin.interrupted();
        }
        if over && now < self.next_due {
            self.sleep(link, platform)?;
        }
        Ok(())
    }

    /// Sends frames that wait for room. Whether there may be room for more of them.
    #[cold]
    fn send_waiting<R: Virtqueue<Frame>, T: NetTransport>(&mut self, link: &mut Link<R, T>) -> bool {
        let Self { pool, counters, fragment_ids, backlog, .. } = self;
        let (transmit, features) = (&mut link.transmit, link.features);
        let more = Egress { transmit, pool, features, counters, fragment_ids, backlog }.send_waiting();
        #[cfg(test)]
        if let Some(act) = &mut self.meanwhile {
            act();
        }
        more
    }

    /// Sends a frame that lies in buffers already, for tests.
    #[cfg(test)]
    pub(crate) fn send_frame<R: Virtqueue<Frame>, T: NetTransport>(&mut self, link: &mut Link<R, T>, frame: Frame) {
        let Self { pool, counters, fragment_ids, backlog, .. } = self;
        let (transmit, features) = (&mut link.transmit, link.features);
        Egress { transmit, pool, features, counters, fragment_ids, backlog }.send(frame);
    }

    /// Sends a frame as the stack does, for tests.
    #[cfg(test)]
    pub(crate) fn send<R: Virtqueue<Frame>, T: NetTransport>(
        &mut self,
        link: &mut Link<R, T>,
        frame: &[u8],
        header: NetHdr,
    ) {
        let Self { pool, counters, fragment_ids, backlog, .. } = self;
        let (transmit, features) = (&mut link.transmit, link.features);
        Egress { transmit, pool, features, counters, fragment_ids, backlog }.send_copy(frame, header);
    }

    /// What there is to measure.
    pub(crate) fn gauges(&self, platform: &impl Platform, now_ns: u64) -> Gauges {
        Gauges {
            now_ns,
            idle_ns: self.idle_ns,
            heap: platform.heap(),
            buffers_free: self.pool.available() as u64,
            buffers: self.pool.capacity() as u64,
            waiting: self.waiting.len() as u64,
            backlog: self.backlog.len() as u64,
            link_up: self.link_up,
            counters: self.counters,
            services: self.services.as_ref().map(Services::counters).unwrap_or_default(),
            stack: self.stack.counters(),
        }
    }
}

/// The stack for a device, and the services on it, if there is an address for them.
fn stack_and_services(facts: &Facts, options: &Options, platform: &impl Platform) -> (Stack, Option<Services>) {
    let link = LinkFacts::new(facts.features, facts.mac, facts.mtu);
    let (v4, v6) = (options.gateway_v4, options.gateway_v6);
    let mut stack = Stack::new(link, &facts.addresses, v4, v6, platform.random(), platform.now_ns());
    let heap = platform.heap();
    let iperf3 = options.iperf3.map(|port| (port, iperf3::memory(heap.total.saturating_sub(heap.used))));
    let addresses = || facts.addresses.iter().map(|cidr| cidr.address);
    let services = addresses().next().map(|first| Services::new(first, addresses(), iperf3, stack.sockets()));
    (stack, services)
}
