//! `ringlet run`: boots the unikernel in KVM and shows what it does.

pub mod events;
pub mod guest;
pub mod picture;
pub mod view;

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::Context;

use self::events::{Event, Events, duration};
use self::guest::Guest;
use self::picture::Picture;
use self::view::{Facts, Json, Text, View};
use crate::cli::{RunArgs, Style};
use crate::image;
use crate::vmm::console::{Record, Said};
use crate::vmm::machine::Start;
use crate::vmm::{Machine, Outcome, Running, host, layout};

/// A guest that has not reported itself after this time gets a remark.
const PATIENCE: Duration = Duration::from_secs(5);

/// Boots the load balancer and stays until it ends, or is to end. Returns the exit code of the process. `started` is when
/// the process began.
///
/// # Errors
/// If the machine cannot be made, or its network, or what it is to be given cannot be read.
pub fn run(args: &RunArgs, started: Instant) -> anyhow::Result<u8> {
    let image = image::load(args.guest.kernel.as_deref())?;
    let guest = Guest::new(&args.guest, &args.net, &args.real)?;
    let machine = Machine::new(args.guest.memory).map_err(|error| match error {
        crate::vmm::Error::Host(error) => no_kvm(&error),
        other => other.into(),
    })?;
    let live = !args.json && io::stdout().is_terminal();
    let interval = args.status_interval.unwrap_or(if live || args.json { 1.0 } else { 5.0 });
    let status = format!("status={:.0}", interval * 1e3);
    let device = format!("virtio_mmio.device=4K@{:#x}:{}", layout::NET_BASE, layout::NET_GSI);
    let command_line = guest.command_line(&[&device, "console=ringlet", &status]);
    let facts = Facts {
        image: match &args.guest.kernel {
            Some(path) => path.display().to_string(),
            None => image::BUILT_WITH.to_owned(),
        },
        image_size: image.len(),
        memory: args.guest.memory,
        net: args.net.clone(),
        command_line: command_line.clone(),
        published: args.publish.clone(),
        management: guest.management(),
        demo: guest.demo,
    };
    let mut view: Box<dyn View> = match args.json {
        true => Box::new(Json::new(io::stdout().lock())),
        false => Box::new(Text::new(io::stdout().lock(), Style::new(args.no_color), live)),
    };
    let events = Events::default();
    events.on_interrupt().context("cannot catch Ctrl-C")?;
    let deaf = view.start(&facts).is_err();
    let running = machine.start(Start {
        image,
        command_line,
        module: (!guest.rules.is_empty()).then_some(guest.rules),
        said: events.sink(),
        ended: events.ended(),
    })?;
    let until = args.seconds.map(|seconds| started + duration(seconds));
    let watch = Watch { events, view: &mut *view, picture: Picture::default(), started, deaf };
    let outcome = watch.to_the_end(running, until);
    match outcome {
        Outcome::Stopped | Outcome::Exit(crate::vmm::vcpu::GUEST_SUCCESS) => {}
        ref failure => eprintln!("ringlet: {failure}"),
    }
    Ok(outcome.exit_code())
}

/// KVM cannot be used: why, and what there is instead.
fn no_kvm(error: &host::Error) -> anyhow::Error {
    anyhow::anyhow!("{error}\nWithout KVM, `ringlet qemu --accel tcg` boots the same image in QEMU, only slower.")
}

/// Someone who looks at a running guest.
struct Watch<'a> {
    events: Events,
    view: &'a mut dyn View,
    picture: Picture,
    started: Instant,
    /// Nobody reads what is written.
    deaf: bool,
}

impl Watch<'_> {
    /// Shows what happens until the guest has ended, which it is asked for at `until` or by the user.
    fn to_the_end(mut self, running: Running, until: Option<Instant>) -> Outcome {
        let mut stopping = false;
        let mut patience = Some(self.started + PATIENCE);
        loop {
            let now = Instant::now();
            if !stopping && (self.deaf || until.is_some_and(|until| until <= now)) {
                stopping = true;
                running.stop();
            }
            if patience.is_some_and(|patience| patience <= now) {
                patience = None;
                self.show(|view, _| view.complaint("the guest has not said yet that it is ready"));
            }
            let next = [until.filter(|_| !stopping), patience].into_iter().flatten().min();
            match self.events.next(next.unwrap_or(now + Duration::from_secs(3600))) {
                None => {}
                Some(Event::Ended) => break,
                Some(Event::Interrupted) => {
                    if !std::mem::replace(&mut stopping, true) {
                        running.stop();
                    }
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
                    self.show(|view, _| {
                        view.complaint(&format!("{lost} lines of the guest were lost: they came too fast"))
                    });
                }
            }
        }
        let outcome = running.join();
        let up = self.started.elapsed();
        self.show(|view, picture| view.end(&outcome, picture, up));
        outcome
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
