//! From a machine to a load balancer that runs: boot, the loop, and what happens when the device fails.

use alloc::borrow::ToOwned;
use alloc::vec::Vec;
use core::net::IpAddr;

use ringlet_balancer::{Balancer, Config, ipvsadm};
use ringlet_driver::buffer::{Frame, Pool};
use ringlet_driver::net::{ResetError, SetupError};
use ringlet_driver::ring::Virtqueue;
use ringlet_driver::transport::NetTransport;
use virtio_drivers::Hal;

use crate::cmdline::{Cidr, Options};
use crate::console::Console;
use crate::dataplane::{AnyLink, Link, LinkError, with_link};
use crate::exit_code::{BAD_CONFIGURATION, DRIVER_FAILURE};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::memory_map::HEAP_PER_CONNECTION;
use crate::platform::Platform;
use crate::record::Mac;
use crate::round_trip::RoundTrip;
use crate::services::iperf3;
use crate::status::{Facts, Loss, VERSION};
use crate::{error, info, report, warn};

/// The MTU where the device tells none, in bytes of IP packet.
const DEFAULT_MTU: u16 = 1500;
/// Resets in [`PROBATION`] after which a device is given up.
const MOST_RESETS: u32 = 5;
/// How long a device must work after a reset for the reset to be forgotten, in nanoseconds.
const PROBATION: u64 = 60_000_000_000;
/// The same for a device that asks for its reset itself, and is not wrong: what stands behind it may come and go as often as
/// it likes.
const PROBATION_ASKED: u64 = 1_000_000_000;
/// The most lines of the rule file that are complained about one by one.
const COMPLAINTS: u64 = 20;

/// Runs the machine as a load balancer. Returns the exit code (see [`exit_code`](crate::exit_code)) when it cannot go on;
/// otherwise never.
pub fn run<H: Hal, T: NetTransport, P: Platform>(machine: Machine<'_, T>, platform: &P) -> u8 {
    let crash = machine.options.crash;
    let console = Console::new(platform, machine.options.status_ms != 0);
    let mut running = match Running::<H, T>::boot(machine, platform, &console) {
        Ok(running) => running,
        Err(code) => return code,
    };
    if let Some(kind) = crash {
        platform.crash(kind);
        warn!(console, "crash=: this machine cannot make that fault");
    }
    loop {
        if let Err(code) = running.turns(platform, &console) {
            return code;
        }
    }
}

/// A machine that runs.
pub(crate) struct Running<H: Hal, T: NetTransport> {
    pub kernel: Kernel,
    /// Only absent while the device is reset.
    link: Option<AnyLink<H, T>>,
    pool: Pool,
    options: Options,
    /// The address a device has that tells none.
    own_mac: [u8; 6],
    failures: u32,
    failed_at: u64,
}

impl<H: Hal, T: NetTransport> Running<H, T> {
    /// Brings everything up.
    ///
    /// # Errors
    /// The exit code, where that cannot be done; why is on the console.
    pub fn boot<P: Platform>(machine: Machine<'_, T>, platform: &P, console: &Console<'_>) -> Result<Self, u8> {
        let Machine { transport, pool, options, connections, memory, rules, build_id } = machine;
        info!(console, "Ringlet {VERSION} (build {build_id}), {} MiB of memory", memory >> 20);
        let transport_name = transport.name();
        let pool = Pool::new::<H>(pool).map_err(|why| {
            error!(console, "packet buffers: {why}");
            BAD_CONFIGURATION
        })?;
        let link = AnyLink::<H, T>::start(transport, &options, &pool, console).map_err(|why| {
            error!(console, "network device: {why}");
            DRIVER_FAILURE
        })?;
        let own_mac = local_mac(platform.random());
        let mut facts = with_link!(&link, link => facts(link, own_mac, &options));
        (facts.transport, facts.memory) = (transport_name, memory);
        build_id.clone_into(&mut facts.build_id);
        info!(
            console,
            "device: virtio-net over {transport_name}, {}, mtu {}, link {}, queues of {}, {} packet buffers",
            Mac(facts.mac),
            facts.mtu,
            if with_link!(&link, link => link.control.link_up()) { "up" } else { "down" },
            facts.queue_size,
            pool.capacity()
        );
        if options.addresses.is_empty() {
            warn!(console, "no ip=: nothing but the rule file can configure this machine");
        }
        report::boot(console, &facts);
        let most = RoundTrip::most(&pool);
        if options.round_trip.is_some_and(|wanted| wanted.frames > most) {
            warn!(
                console,
                "roundtrip=: only {most} frames circulate; for more, give the machine more buffers with buffers="
            );
        }

        let mut balancer = balancer(&facts, &options, connections, platform);
        let rules_failed = rules.map_or(0, |rules| load(rules, &mut balancer, console));
        report::configuration(console, &balancer);
        let (services, destinations) = report::count(&balancer);
        let kernel = Kernel::new(balancer, pool.clone(), facts, &options, platform);
        let now = platform.now_ns();
        let (ms, us) = (now / 1_000_000, now / 1000 % 1000);
        let rest = match rules_failed {
            0 => "",
            _ => "; some rules were refused",
        };
        info!(console, "ready after {ms}.{us:03} ms: {services} services, {destinations} destinations{rest}");
        if let Some(first) = options.addresses.first() {
            let management = first.address;
            let shown = Host(management);
            info!(
                console,
                "status at http://{shown}:9100/, metrics at http://{shown}:9100/metrics, control at {shown}:9101"
            );
        }
        report::ready(console, now, &kernel.balancer, rules_failed);
        Ok(Self { kernel, link: Some(link), pool, options, own_mac, failures: 0, failed_at: 0 })
    }

    /// Works until the device fails, and resets it.
    ///
    /// # Errors
    /// The exit code, when the machine cannot go on; why is on the console.
    pub fn turns<P: Platform>(&mut self, platform: &P, console: &Console<'_>) -> Result<(), u8> {
        let Some(link) = &mut self.link else { return Err(DRIVER_FAILURE) };
        let why = with_link!(link, link => loop {
            if let Err(why) = self.kernel.turn(link, platform, console) {
                break why;
            }
        });
        self.reset(&why, platform, console)
    }

    /// Looks for work once and does it, or sleeps until there is some. A device that fails is reset.
    ///
    /// # Errors
    /// The exit code, when the machine cannot go on; why is on the console.
    #[cfg(test)]
    pub fn turn<P: Platform>(&mut self, platform: &P, console: &Console<'_>) -> Result<(), u8> {
        let Some(link) = &mut self.link else { return Err(DRIVER_FAILURE) };
        match with_link!(link, link => self.kernel.turn(link, platform, console)) {
            Ok(()) => Ok(()),
            Err(why) => self.reset(&why, platform, console),
        }
    }

    /// Resets only the queue in which the device has lied. Whether that is all there is to do.
    fn mend(&mut self, why: &LinkError, console: &Console<'_>) -> bool {
        let (LinkError::Ring(_), Some(link)) = (why, &mut self.link) else { return false };
        match with_link!(link, link => link.mend()) {
            Ok((mended, lost)) if mended > 0 => {
                error!(console, "network device: {why}; the queue is reset");
                let counters = self.kernel.counters_mut();
                counters.queue_resets += mended;
                counters.lose_many(Loss::Reset, lost);
                true
            }
            Ok(_) | Err(ResetError::NotAgreed) => false,
            Err(failed) => {
                error!(console, "network device: {failed}");
                false
            }
        }
    }

    /// Resets the queue that is broken, if that can be done and suffices, else the device, and begins with it anew.
    #[cold]
    fn reset<P: Platform>(&mut self, why: &LinkError, platform: &P, console: &Console<'_>) -> Result<(), u8> {
        let now = platform.now_ns();
        let asked = matches!(why, LinkError::Device(SetupError::NeedsReset));
        if now.saturating_sub(self.failed_at) > if asked { PROBATION_ASKED } else { PROBATION } {
            self.failures = 0;
        }
        (self.failures, self.failed_at) = (self.failures + 1, now);
        if self.failures <= MOST_RESETS && self.mend(why, console) {
            return Ok(());
        }
        error!(console, "network device: {why}; it is reset");
        let Some(link) = self.link.take().filter(|_| self.failures <= MOST_RESETS) else {
            error!(console, "network device: given up after {MOST_RESETS} resets");
            return Err(DRIVER_FAILURE);
        };
        let fail = |why: &dyn core::fmt::Display| {
            error!(console, "network device: {why}");
            DRIVER_FAILURE
        };
        self.kernel.account(with_link!(&link, link => link.receive.counters()));
        let counters = self.kernel.counters_mut();
        counters.resets += 1;
        // What the device had not sent yet is lost.
        counters.lost[Loss::Reset as usize] += with_link!(&link, link => link.transmit.under_way()) as u64;
        let transport = link.close().map_err(|why| fail(&why))?;
        let link = AnyLink::start(transport, &self.options, &self.pool, console).map_err(|why| fail(&why))?;
        let before = self.kernel.facts();
        let mut facts = with_link!(&link, link => facts(link, self.own_mac, &self.options));
        (facts.transport, facts.memory) = (before.transport, before.memory);
        facts.build_id.clone_from(&before.build_id);
        if (facts.mac, facts.mtu) != (before.mac, before.mtu) {
            return Err(fail(&"it is another one after the reset: its address or its MTU has changed"));
        }
        self.kernel.relink(facts, &self.options, platform);
        self.link = Some(link);
        Ok(())
    }
}

/// What a device that works tells; the rest is to be filled in.
fn facts<R: Virtqueue<Frame>, T: NetTransport>(link: &Link<R, T>, own_mac: [u8; 6], options: &Options) -> Facts {
    Facts {
        build_id: alloc::string::String::new(),
        transport: "",
        mac: link.control.mac().unwrap_or(own_mac),
        mtu: link.control.mtu().unwrap_or(DEFAULT_MTU),
        offered: link.offered,
        features: link.features,
        queue_size: link.receive.queue_size(),
        memory: 0,
        addresses: options.addresses.iter().copied().collect(),
    }
}

/// An Ethernet address of our own choosing: unicast and locally administered (IEEE 802, section 8.2.2).
fn local_mac(random: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = random.to_le_bytes();
    [a & 0xfc | 2, b, c, d, e, f]
}

/// Heap kept for everything that is neither connection nor configuration: sockets, sessions, lists in the making.
const HEAP_FOR_THE_REST: u64 = 3 << 20;
/// Heap for a service and a destination together, in bytes: themselves, and the lists they are in while these grow.
const HEAP_PER_RULE: u64 = 3 << 10;
/// The part of what is left that is for the tables of services: those of their schedulers, and SIP's Call-IDs.
const SHARE_OF_TABLES: u64 = 4;

/// How many services, and how many destinations, the heap holds, and how many bytes for the tables of services: whoever may
/// configure must not be able to exhaust it.
fn most_rules<P: Platform>(connections: u32, options: &Options, platform: &P) -> (u32, usize) {
    let heap = platform.heap();
    let taken = u64::from(connections) * HEAP_PER_CONNECTION + HEAP_FOR_THE_REST + heap.used;
    let free = heap.total.saturating_sub(taken);
    let tests = options.iperf3.map_or(0, |_| iperf3::memory(free));
    let tables = (free - tests) / SHARE_OF_TABLES;
    let rules = u32::try_from((free - tests - tables) / HEAP_PER_RULE).unwrap_or(u32::MAX).max(64);
    (rules, usize::try_from(tables).unwrap_or(usize::MAX))
}

/// A balancer for this machine, without services.
fn balancer<P: Platform>(facts: &Facts, options: &Options, connections: usize, platform: &P) -> Balancer {
    let connections = u32::try_from(connections).unwrap_or(u32::MAX);
    let gateways = options.gateway_v4.map(IpAddr::V4).into_iter().chain(options.gateway_v6.map(IpAddr::V6));
    let own = |cidr: &Cidr| ringlet_balancer::Cidr { address: cidr.address, prefix: cidr.prefix };
    let (rules, table_memory) = most_rules(connections, options, platform);
    Balancer::new(Config {
        mtu: facts.mtu,
        addresses: options.addresses.iter().map(own).collect(),
        gateways: gateways.collect::<Vec<IpAddr>>(),
        connections,
        connections_v6: connections,
        services: rules,
        destinations: rules,
        table_memory,
        ..Config::new(facts.mac, [platform.random(), platform.random()])
    })
}

/// Carries out the rule file. Returns how many lines of it were refused; each is on the console with its number and what is
/// wrong with it.
fn load(rules: &[u8], balancer: &mut Balancer, console: &Console<'_>) -> u64 {
    let failed = core::cell::Cell::new(0);
    let complain = |line: usize, why: &dyn core::fmt::Display| {
        failed.set(failed.get() + 1);
        if failed.get() <= COMPLAINTS {
            error!(console, "rules: line {line}: {why}");
        }
    };
    ipvsadm::load(
        rules,
        |line, command| {
            if let Err(why) = ipvsadm::apply(&command, balancer) {
                complain(line, &format_args!("{command}: {why}"));
            }
        },
        |line, why| complain(line, &why),
    );
    let unsaid = failed.get().saturating_sub(COMPLAINTS);
    if unsaid > 0 {
        error!(console, "rules: {unsaid} more lines were refused");
    }
    failed.get()
}

/// An address as it stands in a URL.
struct Host(IpAddr);

impl core::fmt::Display for Host {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "[{address}]"),
        }
    }
}

#[cfg(test)]
mod tests;
