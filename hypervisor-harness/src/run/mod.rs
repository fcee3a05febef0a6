//! `ringlet run`: boots the unikernel in KVM and shows what it does.

pub mod events;
pub mod guest;
pub mod picture;
pub mod ports;
pub mod rules;
pub mod view;

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use self::events::{Event, Events};
use self::guest::Guest;
use self::picture::Picture;
use self::view::{Facts, Json, Text, View};
use crate::backend::options::{Net, Publish, VhostUser};
use crate::cli::RunArgs;
use crate::vhost_user::frontend;
use crate::vmm::console::{Record, Said};
use crate::vmm::machine::Start;
use crate::vmm::vcpu::GUEST_SUCCESS;
use crate::vmm::{GuestRam, Machine, Outcome, host};
use crate::{backend, image, virtio};

/// A guest that has not reported itself after this time gets a remark.
const PATIENCE: Duration = Duration::from_secs(5);

/// Boots the load balancer and stays until it ends, or is to end. Returns the exit code of the process. `started` is when
/// the process began.
///
/// # Errors
/// If the machine cannot be made, or its network, or what it is to be given cannot be read.
pub fn run(args: &RunArgs, started: Instant) -> anyhow::Result<u8> {
    args.pin.check()?;
    if let (Net::VhostUser(_), Some(cpu)) = (&args.net, args.pin.device) {
        bail!("--pin-device {cpu}: with --net vhost-user another process serves the device; pin that one (taskset)");
    }
    let image = image::load(args.guest.kernel.as_deref())?;
    let guest = Guest::new(&args.guest, &args.net, &args.real)?;
    let ram = match args.net {
        Net::VhostUser(_) => GuestRam::shared(args.guest.memory),
        Net::Lan | Net::Tap(_) | Net::Xdp(_) => GuestRam::new(args.guest.memory),
    };
    let mut machine = Machine::with_ram(ram?).map_err(|error| match error {
        crate::vmm::Error::Host(error) => no_kvm(&error),
        other => other.into(),
    })?;
    if let Some(cpu) = args.pin.vcpu {
        machine.pin(cpu);
    }
    let (wanted, moved) = match args.net {
        Net::Lan => ports::choose(&guest, &args.publish),
        Net::Tap(_) | Net::Xdp(_) | Net::VhostUser(_) => (args.publish.clone(), Vec::new()),
    };
    let options = backend::Options {
        net: args.net.clone(),
        publish: wanted.clone(),
        real: args.real.clone(),
        guest: guest.on_lan(),
        mac: args.mac.map(|mac| mac.0),
        pcap: args.pcap.clone(),
        coalesce: args.coalesce,
    };
    let events = Events::default();
    events.on_interrupt().context("cannot catch Ctrl-C")?;
    let display = &args.display;
    let until = display.until(started);
    let mut device = virtio::Options {
        transport: args.transport,
        queue_size: args.queue_size,
        cpu: args.pin.device,
        ..virtio::Options::new(events.report())
    };
    if let Some(mac) = args.mac {
        device.mac = mac.0;
    }
    if let Some(switches) = &args.device_features {
        device.mask = switches.applied_to(device.mask);
    }
    let (device, published) = match &args.net {
        Net::VhostUser(address) => {
            options.check()?;
            let Some(link) = wait_for(address, &events, until)? else { return Ok(Outcome::Stopped.exit_code()) };
            (Served::Elsewhere(frontend::attach(&mut machine, link, device)?), Vec::new())
        }
        Net::Lan | Net::Tap(_) | Net::Xdp(_) => {
            let network = backend::open(&options).map_err(ports::explain)?;
            let published = network.lan.map(|lan| lan.published().to_vec()).unwrap_or_default();
            (Served::Here(virtio::attach(&mut machine, network.backend, device)?), published)
        }
    };
    let status = format!("status={}", display.interval().as_millis());
    let command_line = guest.command_line(&[&device.command_line(), "console=ringlet", &status]);
    let facts = Facts {
        image: image::describe(args.guest.kernel.as_deref()),
        image_size: image.len(),
        memory: args.guest.memory,
        net: args.net.clone(),
        command_line: command_line.clone(),
        published,
        management: guest.management(),
        demo: guest.demo,
    };
    let mut view: Box<dyn View> = match display.json {
        true => Box::new(Json::new(io::stdout().lock())),
        false => Box::new(Text::new(io::stdout().lock(), display.style(), display.is_live())),
    };
    let mut watch = Watch::new(events, &mut *view, &facts, started);
    watch.moved(&moved, &wanted, &facts.published);
    let running = machine.start(Start {
        image,
        command_line,
        module: (!guest.rules.is_empty()).then_some(guest.rules),
        said: watch.events.sink(),
        ended: watch.events.ended(),
    })?;
    watch.until_the_end(until, &|| running.stop());
    let outcome = running.join();
    device.end();
    watch.end(&outcome);
    Ok(outcome.exit_code())
}

/// Who serves the network device.
enum Served {
    /// A thread of this process.
    Here(virtio::Handle),
    /// Another process.
    Elsewhere(frontend::Handle),
}

impl Served {
    fn command_line(&self) -> String {
        match self {
            Self::Here(device) => device.command_line(),
            Self::Elsewhere(device) => device.command_line(),
        }
    }

    /// Ends it, after the machine.
    fn end(self) {
        match self {
            Self::Here(device) => {
                device.stop();
                device.join();
            }
            Self::Elsewhere(device) => device.end(),
        }
    }
}

/// How often to look whether a backend is there.
const LOOK: Duration = Duration::from_millis(20);

/// Waits for whoever is to serve the network device, until then or until the user wants to stop: then there is nobody.
fn wait_for(address: &VhostUser, events: &Events, until: Option<Instant>) -> anyhow::Result<Option<frontend::Link>> {
    let mut said = false;
    let mut wait = || {
        if !std::mem::replace(&mut said, true) {
            let whom = if address.server { "somebody who connects to" } else { "somebody who listens at" };
            eprintln!("ringlet: waiting for {whom} {} (Ctrl-C to stop)", address.path.display());
        }
        let over = until.is_some_and(|until| until <= Instant::now());
        !over && !matches!(events.next(Instant::now() + LOOK), Some(Event::Interrupted))
    };
    Ok(frontend::connect(address, frontend::PATIENCE, &mut wait)?)
}

/// KVM cannot be used: why, and what there is instead.
fn no_kvm(error: &host::Error) -> anyhow::Error {
    anyhow::anyhow!("{error}\nWithout KVM, `ringlet qemu --accel tcg` boots the same image in QEMU, only slower.")
}

/// Someone who looks at a running guest and shows what there is to see.
pub struct Watch<'a> {
    events: Events,
    view: &'a mut dyn View,
    picture: Picture,
    started: Instant,
    /// Nobody reads what is written.
    deaf: bool,
}

impl std::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("picture", &self.picture).finish_non_exhaustive()
    }
}

impl<'a> Watch<'a> {
    /// Shows the facts at once. `started` is when the process began.
    pub fn new(events: Events, view: &'a mut dyn View, facts: &Facts, started: Instant) -> Self {
        let deaf = view.start(facts).is_err();
        Self { events, view, picture: Picture::default(), started, deaf }
    }

    /// The queue of what happens.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Remarks on the ports of this host that were not to be had: `moved` of `wanted`, which became `published`.
    pub fn moved(&mut self, moved: &[Publish], wanted: &[Publish], published: &[Publish]) {
        let became = |target| {
            let place = wanted.iter().position(|publish| publish.host.port() == 0 && publish.target == target)?;
            published.get(place)
        };
        for publish in moved {
            if let Some(instead) = became(publish.target) {
                let text =
                    format!("port {} is taken: {} is at {} instead", publish.host.port(), publish.target, instead.host);
                self.show(|view, _| view.complaint(&text));
            }
        }
    }

    /// Shows what happens until the guest has ended. At `until`, or when the user wishes so, or when nobody reads any
    /// more what is shown, `stop` is called, once. Says whether it was.
    pub fn until_the_end(&mut self, until: Option<Instant>, stop: &dyn Fn()) -> bool {
        let mut stopping = false;
        let mut patience = Some(Instant::now() + PATIENCE);
        loop {
            let now = Instant::now();
            if !stopping && (self.deaf || until.is_some_and(|until| until <= now)) {
                stopping = true;
                stop();
            }
            if patience.is_some_and(|patience| patience <= now) {
                patience = None;
                self.show(|view, _| view.complaint("the guest has not said yet that it is ready"));
            }
            let next = [until.filter(|_| !stopping), patience].into_iter().flatten().min();
            match self.events.next(next.unwrap_or(now + Duration::from_secs(3600))) {
                None => {}
                Some(Event::Ended) => break,
                Some(Event::Interrupted) if stopping => {}
                Some(Event::Interrupted) => {
                    stopping = true;
                    stop();
                }
                Some(Event::Said(at, said)) => {
                    if matches!(said, Said::Record(Record::Ready(_))) {
                        patience = None;
                    }
                    self.said(at, said);
                }
            }
            match self.events.lost() {
                0 => {}
                lost => {
                    let text = format!("{lost} lines of the guest were lost: they came too fast");
                    self.show(|view, _| view.complaint(&text));
                }
            }
        }
        stopping
    }

    /// Shows how it ended; failures also on standard error.
    pub fn end(&mut self, outcome: &Outcome) {
        let up = self.started.elapsed();
        self.show(|view, picture| view.end(outcome, picture, up));
        match outcome {
            Outcome::Stopped | Outcome::Exit(GUEST_SUCCESS) => {}
            failure => eprintln!("ringlet: {failure}"),
        }
    }

    fn said(&mut self, at: Instant, said: Said) {
        let up = at.saturating_duration_since(self.started);
        match said {
            Said::Line(line) => self.show(|view, _| view.line(&line)),
            Said::Complaint(text) => self.show(|view, _| view.complaint(&text)),
            Said::Record(record) => {
                let change = self.picture.take(record.clone());
                self.show(|view, picture| view.record(&record, change, picture, up));
            }
        }
    }

    /// Shows something. Where the reader has gone there is nothing left to do but to stop.
    fn show(&mut self, what: impl FnOnce(&mut dyn View, &Picture) -> io::Result<()>) {
        if !self.deaf && what(self.view, &self.picture).is_err() {
            self.deaf = true;
        }
    }
}
