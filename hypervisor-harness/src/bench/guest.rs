//! A guest to measure.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::bail;
use ringlet_driver::features::Features;

use super::Args;
use crate::backend::Network;
use crate::image;
use crate::run::events::{Event, Events};
use crate::virtio;
use crate::vmm::console::{Record, Said};
use crate::vmm::machine::Start;
use crate::vmm::{Machine, Running};

/// A guest that is not up by then never will be.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running guest on a network of its own.
#[derive(Debug)]
pub struct Guest {
    running: Running,
    /// The network device.
    pub device: virtio::Handle,
    complaints: Arc<Mutex<Vec<String>>>,
}

impl Guest {
    /// Boots a guest with these rules and waits until it is ready. The device offers nothing of `without`.
    ///
    /// # Errors
    /// If it cannot be booted, or ends, or is not ready in time, or does not take its rules.
    pub fn boot(args: &Args, network: impl Network, without: Features, rules: String) -> anyhow::Result<Self> {
        let image = image::load(args.kernel.as_deref())?;
        let mut machine = Machine::new(args.memory)?;
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
            ..virtio::Options::new(report)
        };
        let device = virtio::attach(&mut machine, network, options)?;
        let command_line = format!(
            "ip=10.0.0.2/24 gateway=10.0.0.1 ip=fd00::2/64 gateway=fd00::1 {} console=ringlet status=60000",
            device.command_line()
        );
        let events = Events::default();
        let start =
            Start { image, command_line, module: Some(rules.into_bytes()), said: events.sink(), ended: events.ended() };
        let running = machine.start(start)?;
        let guest = Self { running, device, complaints };
        match until_ready(&events) {
            Ok(()) => Ok(guest),
            Err(error) => match guest.end() {
                Ok(_) => Err(error),
                Err(besides) => Err(error.context(besides)),
            },
        }
    }

    /// Stops the guest and its device.
    ///
    /// # Errors
    /// If the device had anything to complain of.
    pub fn end(self) -> anyhow::Result<virtio::Counters> {
        self.running.stop();
        let _ = self.running.join();
        self.device.stop();
        let counters = self.device.join();
        match self.complaints.lock().ok().and_then(|lines| lines.first().cloned()) {
            Some(line) => bail!("{line}"),
            None => Ok(counters),
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
