//! A guest to measure.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ringlet_driver::features::Features;

use super::{Args, stop};
use crate::backend::Network;
use crate::backend::options::VhostUser;
use crate::image;
use crate::run::events::{Event, Events};
use crate::vhost_user::frontend;
use crate::virtio;
use crate::vmm::console::{Record, Said};
use crate::vmm::machine::Start;
use crate::vmm::{GuestRam, Machine, Running};

/// A guest that is not up by then never will be.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often to look whether somebody serves the queues.
const LOOK: Duration = Duration::from_millis(10);

/// What a guest is given.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its rules, as `ipvsadm-save -n` writes them.
    pub rules: String,
    /// Further words of its command line: addresses and routers, and what a case needs.
    pub words: String,
    /// Features that the device does not offer.
    pub without: Features,
    /// Its memory, in MiB.
    pub memory: u32,
    /// Milliseconds between two words of it.
    pub status_ms: u32,
}

impl Plan {
    /// The addresses of the demonstration, no rules, and the memory that was asked for.
    #[must_use]
    pub fn new(args: &Args) -> Self {
        Self {
            rules: String::new(),
            words: "ip=10.0.0.2/24 gateway=10.0.0.1 ip=fd00::2/64 gateway=fd00::1".to_owned(),
            without: Features::empty(),
            memory: args.memory,
            status_ms: 60_000,
        }
    }
}

/// A running guest on a network of its own.
#[derive(Debug)]
pub struct Guest {
    /// Both until it is to end.
    parts: Option<(Running, virtio::Handle)>,
    complaints: Arc<Mutex<Vec<String>>>,
    /// What it says. Cases share guests between threads.
    events: Mutex<Events>,
}

impl Guest {
    /// Boots a guest and waits until it is ready.
    ///
    /// # Errors
    /// If it cannot be booted, or ends, or is not ready in time, or does not take its rules.
    pub fn boot(args: &Args, network: impl Network, plan: Plan) -> anyhow::Result<Self> {
        let Plan { rules, words, without, memory, status_ms } = plan;
        let image = image::load(args.kernel.as_deref())?;
        let mut machine = Machine::new(memory)?;
        if let Some(cpu) = args.pin.vcpu {
            machine.pin(cpu);
        }
        if let Some((_, profile)) = &args.profile {
            machine.set_profile(profile.clone());
        }
        let complaints = Arc::<Mutex<Vec<String>>>::default();
        let sink = complaints.clone();
        let report = Box::new(move |line: &str| {
            if let Ok(mut lines) = sink.lock() {
                lines.push(line.to_owned());
            }
        });
        let options = virtio::Options {
            transport: args.transport,
            mask: Features::all() - without,
            cpu: args.pin.device,
            ..virtio::Options::new(report)
        };
        let device = virtio::attach(&mut machine, network, options)?;
        let command_line = format!("{words} {} console=ringlet status={status_ms}", device.command_line());
        let events = Events::default();
        let start = Start {
            image,
            command_line,
            module: (!rules.is_empty()).then_some(rules.into_bytes()),
            said: events.sink(),
            ended: events.ended(),
        };
        let running = machine.start(start)?;
        let ready = until_ready(&events);
        // Whatever happens from here on, it is ended.
        let guest = Self { parts: Some((running, device)), complaints, events: Mutex::new(events) };
        match ready {
            Ok(()) => Ok(guest),
            Err(error) => match guest.end() {
                Ok(_) => Err(error),
                Err(besides) => Err(error.context(besides)),
            },
        }
    }

    /// The network device.
    ///
    /// # Panics
    /// Never: a guest without a device is one that has ended.
    #[must_use]
    pub fn device(&self) -> &virtio::Handle {
        self.parts.as_ref().map(|(_, device)| device).expect("it has not ended")
    }

    /// The next thing that happens, if it does before `until`.
    #[must_use]
    pub fn next(&self, until: Instant) -> Option<Event> {
        self.events.lock().ok()?.next(until)
    }

    /// Stops the guest and its device.
    ///
    /// # Errors
    /// If the device had anything to complain of.
    pub fn end(mut self) -> anyhow::Result<virtio::Counters> {
        let counters = self.stop().unwrap_or_default();
        match self.complaints.lock().ok().and_then(|lines| lines.first().cloned()) {
            Some(line) => bail!("{line}"),
            None => Ok(counters),
        }
    }

    fn stop(&mut self) -> Option<virtio::Counters> {
        let (running, device) = self.parts.take()?;
        running.stop();
        let _ = running.join();
        device.stop();
        Some(device.join())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Where a measurement has failed; what the device complains of then is told by nobody.
        let _ = self.stop();
    }
}

/// A running guest whose queues another process serves (vhost-user).
#[derive(Debug)]
pub struct Elsewhere {
    /// Both until it is to end.
    parts: Option<(Running, frontend::Handle)>,
    /// What it says.
    pub events: Events,
}

impl Elsewhere {
    /// Boots a guest on the backend that listens at `socket`, its vCPU on one processor, and waits until it is ready.
    ///
    /// # Errors
    /// If it cannot be booted, or ends, or is not ready in time, or does not take its rules.
    pub fn boot(args: &Args, socket: &Path, processor: usize, plan: Plan) -> anyhow::Result<Self> {
        let Plan { rules, words, without, memory, status_ms } = plan;
        let address = VhostUser { path: socket.to_owned(), server: false };
        // A program that has just been started may not have got so far.
        let until = Instant::now() + PATIENCE;
        let mut wait = || stop::pause(LOOK).is_ok() && Instant::now() < until;
        let link = frontend::connect(&address, frontend::PATIENCE, &mut wait)?;
        let link = link.context("nobody listens at the socket for vhost-user")?;
        let image = image::load(args.kernel.as_deref())?;
        let mut machine = Machine::with_ram(GuestRam::shared(memory)?)?;
        machine.pin(processor);
        if let Some((_, profile)) = &args.profile {
            machine.set_profile(profile.clone());
        }
        let options = virtio::Options {
            transport: args.transport,
            mask: Features::all() - without,
            ..virtio::Options::new(Box::new(|_| ()))
        };
        let device = frontend::attach(&mut machine, link, options)?;
        let events = Events::default();
        let command_line = format!("{words} {} console=ringlet status={status_ms}", device.command_line());
        let module = (!rules.is_empty()).then_some(rules.into_bytes());
        let start = Start { image, command_line, module, said: events.sink(), ended: events.ended() };
        let running = machine.start(start)?;
        // Whatever happens from here on, it is ended.
        let guest = Self { parts: Some((running, device)), events };
        until_ready(&guest.events)?;
        Ok(guest)
    }

    /// What driver and backend have agreed on.
    #[must_use]
    pub fn negotiated(&self) -> Features {
        self.parts.as_ref().map_or(Features::empty(), |(_, device)| device.negotiated())
    }

    /// Stops the guest.
    pub fn end(self) {
        // Dropping it does.
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        if let Some((running, device)) = self.parts.take() {
            running.stop();
            let _ = running.join();
            device.end();
        }
    }
}

/// Waits until the guest is ready.
///
/// # Errors
/// If it ends, or is not ready in time, or does not take its rules.
pub fn until_ready(events: &Events) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut last = String::new();
    loop {
        match events.next(until) {
            Some(Event::Said(_, Said::Record(Record::Ready(ready)))) if ready.rules_failed == 0 => return Ok(()),
            Some(Event::Said(_, Said::Record(Record::Ready(ready)))) => {
                bail!("the guest did not take {} of its rules: {last}", ready.rules_failed)
            }
            Some(Event::Said(_, Said::Line(line) | Said::Complaint(line))) => last = line,
            Some(Event::Ended) => bail!("the guest has ended: {last}"),
            Some(_) => {}
            None if Instant::now() >= until => bail!("the guest is not up after {} s: {last}", PATIENCE.as_secs()),
            None => {}
        }
    }
}
