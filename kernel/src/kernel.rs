//! The kernel: everything but the device, and one turn of the loop.

use alloc::vec::Vec;

use heapless::Vec as Burst;
use ringlet_balancer::{Balancer, Instant, NextHop, Offload, Packet, Partial, Verdict};
use ringlet_driver::buffer::{Frame, Pool};
use ringlet_driver::features::Features;
use ringlet_driver::net::ReceiveCounters;
use ringlet_driver::ring::Virtqueue;
use ringlet_driver::transport::NetTransport;
use ringlet_driver::wire::NetHdr;

use crate::cmdline::Options;
use crate::console::Console;
use crate::dataplane::{BURST, Backlog, BalancerSink, Egress, FragmentIds, Link, LinkError, Outcome, Waiting};
use crate::platform::Platform;
use crate::round_trip::RoundTrip;
use crate::services::{Services, View, iperf3};
use crate::spin::Spin;
use crate::stack::{LinkFacts, Stack};
use crate::status::{Counters, Facts, Gauges, Loss};
use crate::{info, report, warn};

/// The balancer is asked what is due at least this often, in nanoseconds: packets may set timers that are nearer than what it
/// said last.
const BALANCER_PERIOD: u64 = 1_000_000_000;
/// How often the device's configuration is read again, in nanoseconds. Not every transport tells of a change, and each
/// reading is a dozen exits.
const DEVICE_PERIOD: u64 = 5_000_000_000;
/// An interrupt behind which there was no frame may be about the configuration, which is read again then, but not more often than
/// this, in nanoseconds: most of them came just too late.
const DEVICE_PERIOD_LEAST: u64 = 1_000_000_000;
/// The least time between two reports of the configuration, in nanoseconds.
const REPORT_PERIOD: u64 = 200_000_000;
/// How long the stack waits for room in the transmit queue, in nanoseconds: at first, and at most, if there is none for long.
const BLOCKED_PERIOD: u64 = 20_000;
const BLOCKED_PERIOD_MOST: u64 = 1_000_000;
/// The most buffers that wait for room in the transmit queue: more would wait for longer than is of use to anybody.
const BACKLOG_MOST: usize = 4096;
/// So long before its time a sleep is ended by no timer, in nanoseconds.
const EARLY: u64 = 1_000_000;
/// So many duplicate ACKs make TCP send again what was lost.
const FAST_RETRANSMIT: u16 = 3;
/// How often services and stack take turns before frames are looked for again.
const ROUNDS: usize = 4;

/// When what is due next, in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Due {
    balancer: u64,
    stack: u64,
    device: u64,
    status: u64,
    report: u64,
    queue_reset: u64,
    round_trip: u64,
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

/// The balancer's view of a virtio header.
#[inline]
fn offload_of(header: &NetHdr) -> Offload {
    let partial = header.needs_csum().then_some(Partial { start: header.csum_start, offset: header.csum_offset });
    let gso_size = if header.is_gso() { header.gso_size } else { 0 };
    let fragments = header.gso_type == NetHdr::GSO_UDP;
    Offload { partial, gso_size, fragments, data_valid: header.flags & NetHdr::DATA_VALID != 0 }
}

/// Puts what the balancer changed into the header the frame goes on with. Mostly that is nothing, and then nothing is written:
/// what is, in parts, is about to be read as a whole.
#[inline]
fn apply(partial: Option<Partial>, frame: &mut Frame) {
    let mut header = frame.header();
    match partial {
        Some(Partial { start, offset }) if (header.csum_start, header.csum_offset) != (start, offset) => {
            (header.csum_start, header.csum_offset) = (start, offset);
        }
        // What is not the place of a checksum says how often the frame is to be sent.
        None if header.needs_csum() => header.flags &= !NetHdr::NEEDS_CSUM,
        _ => return,
    }
    frame.set_header(header);
}

/// Lets a frame begin where the balancer has put its beginning: before, where a tunnel's headers were put in front of it, or
/// behind. Whether that could be done.
#[inline]
fn shift((start, fragment): (i16, u16), frame: &mut Frame) -> bool {
    if start >= 0 {
        frame.trim_front(start.unsigned_abs().into());
        return true;
    }
    let mut header = frame.header();
    if fragment != 0 {
        (header.gso_type, header.gso_size) = (NetHdr::ENCAPSULATED, fragment);
        frame.set_header(header);
    } else if header.is_gso() {
        // It is to be segmented still, and that is no device's to do any more.
        header.gso_type |= NetHdr::ENCAPSULATED;
        frame.set_header(header);
    }
    frame.prepend(start.unsigned_abs().into()).is_ok()
}

/// A verdict without the next hop, which few have and which is much larger than the rest.
#[derive(Debug, Clone, Copy)]
enum Ruling {
    Transmit,
    Local,
    Drop,
    /// The place of the next hop among those of the burst.
    Wait(u8),
}

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

    /// Takes `count` received frames where they belong. Returns whether a service may have something to do.
    fn burst<R: Virtqueue<Frame>, T: NetTransport>(&mut self, count: usize, link: &mut Link<R, T>, now: u64) -> bool {
        let Self {
            balancer, pool, stack, waiting, counters, fragment_ids, backlog, frames, linear, round_trip, ..
        } = self;
        let (transmit, features) = (&mut link.transmit, link.features);
        let mut egress = Egress { transmit, pool, features, counters, fragment_ids, backlog };
        if let Some(round_trip) = round_trip {
            round_trip.circulate(&mut frames[..count], &mut egress, now);
            return false;
        }
        let mut packets: Burst<Packet<'_>, BURST> = Burst::new();
        for frame in frames.iter_mut().take(count).flatten() {
            egress.counters.rx_frames += 1;
            egress.counters.rx_bytes += frame.len() as u64;
            // There are no more frames than places.
            let _ = packets.push(packet_of(frame));
        }
        balancer.process(&mut packets, Instant(now), &mut BalancerSink { egress: &mut egress, waiting });
        let (mut rulings, mut hops) =
            (Burst::<(Ruling, Option<Partial>, (i16, u16)), BURST>::new(), Burst::<NextHop, BURST>::new());
        for packet in &packets {
            let ruling = match packet.verdict {
                Verdict::Transmit => Ruling::Transmit,
                Verdict::Local => Ruling::Local,
                Verdict::Drop(_) => Ruling::Drop,
                Verdict::Wait(hop) => {
                    let place = hops.len() as u8;
                    let _ = hops.push(hop);
                    Ruling::Wait(place)
                }
            };
            let _ = rulings.push((ruling, packet.offload.partial, (packet.start, packet.fragment)));
        }
        drop(packets);
        let (mut local, mut waits) = (false, false);
        for (place, &(ruling, partial, start)) in frames.iter_mut().zip(&rulings) {
            let Some(mut frame) = place.take() else { continue };
            match ruling {
                Ruling::Transmit => {
                    apply(partial, &mut frame);
                    if start.0 != 0 && !shift(start, &mut frame) {
                        // The balancer has seen to it that there is room.
                        egress.counters.lose(Loss::Unsendable);
                        continue;
                    }
                    egress.send(frame);
                }
                Ruling::Local => {
                    let header = frame.header();
                    let bytes = if frame.segment_count() == 1 {
                        frame.head()
                    } else {
                        let length = frame.copy_to_slice(linear);
                        &linear[..length]
                    };
                    // More than the third of the same ACKs says nothing new (RFC 5681, section 3.2).
                    for _ in 0..=header.duplicate_acks().min(FAST_RETRANSMIT) {
                        local |= stack.receive(bytes, &header, now, &mut egress);
                    }
                }
                Ruling::Drop => {}
                Ruling::Wait(hop) => {
                    apply(partial, &mut frame);
                    if start.0 != 0 && !shift(start, &mut frame) {
                        egress.counters.lose(Loss::Unsendable);
                        continue;
                    }
                    if hops.get(usize::from(hop)).is_none_or(|hop| waiting.push(*hop, frame).is_err()) {
                        egress.counters.lose(Loss::WaitingFull);
                    }
                    waits = true;
                }
            }
        }
        if waiting.news() {
            release(waiting, balancer, &mut egress, now);
        }
        if waits {
            // It has asked for a neighbour, and may want to ask again before it said it would.
            (self.due.balancer, self.next_due) = (now, now);
        }
        local
    }

    /// Does what is due at this time, and what services have to do if `local` says so.
    #[cold]
    fn due<R: Virtqueue<Frame>, T: NetTransport>(
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
                more = stack.poll(now, &mut egress) || worked;
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

    /// Sleeps until the device or a timer has something, unless there is something already.
    #[cold]
    fn sleep<R: Virtqueue<Frame>, T: NetTransport>(
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

/// The balancer's view of a received frame.
#[inline]
fn packet_of(frame: &mut Frame) -> Packet<'_> {
    let (len, header) = (frame.len(), frame.header());
    let (room, head) = frame.room_and_head_mut();
    Packet { head, room, start: 0, fragment: 0, len, offload: offload_of(&header), verdict: Verdict::Local }
}

/// Sends, or drops, the frames of next hops that something has become of.
#[cold]
fn release<R: Virtqueue<Frame>>(waiting: &mut Waiting, balancer: &mut Balancer, egress: &mut Egress<'_, R>, now: u64) {
    while let Some((next_hop, outcome, mut frames)) = waiting.take() {
        for mut frame in frames.drain(..) {
            if outcome == Outcome::Unreachable {
                let sink = &mut BalancerSink { egress: &mut *egress, waiting: &mut *waiting };
                balancer.undeliverable(&mut packet_of(&mut frame), Instant(now), sink);
                egress.counters.lose(Loss::Unreachable);
                continue;
            }
            match balancer.complete(frame.head_mut(), next_hop) {
                Verdict::Transmit => egress.send(frame),
                // Counted by the balancer.
                Verdict::Drop(_) => {}
                Verdict::Wait(_) | Verdict::Local => egress.counters.lose(Loss::Unreachable),
            }
        }
        waiting.recycle(frames);
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
