//! `ringlet vhost-user-backend`: our network device for the guest of another process, such as QEMU or a program on dpdk.
//!
//! From the socket inwards:
//! - [`socket`]: one frontend after the other, on a socket of ours or of the frontend's.
//! - [`session`]: what one frontend has said so far, and what follows from it for the device.
//! - [`device`]: the device itself, its thread, and its interrupts, which are descriptors that the frontend gave us.
//!
//! The protocol is the crate `vhost`'s; the device, its rings and its memory are the same that serve our own monitor's guest.
//! Nothing that a frontend or its guest says makes this process panic, hang or reach beyond the guest's memory: a frontend
//! that breaks the protocol loses its connection, and a guest that breaks the rules of a ring loses the use of its rings
//! until its driver starts again.

pub mod device;
mod flood;
mod ring;
pub mod session;
pub mod socket;
mod view;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use ringlet_driver::features::Features;

use self::device::Device;
use self::flood::Flood;
use self::socket::{Source, Stop};
use self::view::{Facts, View};
use crate::backend;
use crate::cli::VhostUserBackendArgs;
use crate::run::ports;
use crate::virtio::Options;

/// The most news that wait to be shown. Whoever makes more of them than that waits with them.
const WAITING: usize = 1024;

/// What happens.
#[derive(Debug)]
pub enum News {
    /// A frontend is there.
    Connected,
    /// The device works for it, with these features.
    Started(Features),
    /// The frontend is gone; what it did wrong, if it did.
    Gone(Option<String>),
    /// Something is not as it should be.
    Complaint(String),
    /// No more frontends can come: why.
    Over(io::Error),
    /// Ctrl-C, or the request to terminate.
    Interrupted,
}

/// Takes news, from any thread.
#[derive(Debug, Clone)]
pub struct Reporter(SyncSender<News>);

impl Reporter {
    /// Tells it to the other end of this channel. Whoever tells something waits until there is room, but for the device's thread, which must
    /// not: what it has to say then is lost.
    #[must_use]
    pub fn new(sender: SyncSender<News>) -> Self {
        Self(sender)
    }

    /// Tells something. It is lost if nobody listens any more.
    pub fn tell(&self, news: News) {
        let _ = self.0.send(news);
    }

    /// Takes the device's messages.
    #[must_use]
    pub fn report(&self) -> Box<dyn Fn(&str) + Send + Sync> {
        let sender = self.0.clone();
        Box::new(move |text| drop(sender.try_send(News::Complaint(text.to_owned()))))
    }
}

/// Serves frontends until it is to end. Returns the exit code of the process. `started` is when the process began.
///
/// # Errors
/// If the network or the socket cannot be had.
pub fn run(args: &VhostUserBackendArgs, started: Instant) -> anyhow::Result<u8> {
    let source = if args.client { Source::connect(&args.socket) } else { Source::listen(&args.socket)? };
    let options = backend::Options {
        net: args.net.clone(),
        publish: args.publish.clone(),
        real: args.real.clone(),
        pcap: args.pcap.clone(),
        ..Default::default()
    };
    let network = backend::open(&options).map_err(ports::explain)?;
    let published = network.lan.map(|lan| lan.published().to_vec()).unwrap_or_default();
    let (sender, news) = sync_channel(WAITING);
    let reporter = Reporter::new(sender);
    let stop = Arc::new(Stop::new().context("cannot make an event")?);
    on_interrupt(&reporter).context("cannot catch Ctrl-C")?;
    let mut options = Options::new(reporter.report());
    if let Some(switches) = &args.device_features {
        options.mask = switches.applied_to(options.mask);
    }
    let device = Device::start(network.backend, options).context("cannot start the device's thread")?;
    let display = &args.display;
    let interval = display.interval();
    let facts = Facts {
        socket: args.socket.clone(),
        client: args.client,
        net: args.net.clone(),
        offered: device.offered(),
        published,
    };
    let mut view = View::new(display);
    // Where nobody reads what is said there is nothing left to do but to stop.
    let mut deaf = view.start(&facts).is_err();
    let server = socket::serve(source, device.clone(), stop.clone(), reporter).context("cannot start a thread")?;
    let until = display.until(started);
    let mut shown = Instant::now();
    let mut flood = Flood::new(shown);
    let mut failure = None;
    while !deaf && until.is_none_or(|until| Instant::now() < until) {
        let next = until.map_or(shown + interval, |until| until.min(shown + interval));
        let heard = news.recv_timeout(next.saturating_duration_since(Instant::now()));
        // First, because the flood may go on.
        if let Some(count) = flood.left_out(Instant::now()) {
            deaf |= view.news(&left_out(count)).is_err();
        }
        match heard {
            Ok(News::Interrupted) | Err(RecvTimeoutError::Disconnected) => break,
            Ok(News::Over(error)) => {
                failure = Some(error);
                break;
            }
            Ok(news) if flood.lets_by(Instant::now()) => deaf |= view.news(&news).is_err(),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => {}
        }
        if shown + interval <= Instant::now() {
            shown = Instant::now();
            deaf |= view.status(&device.counters(), started.elapsed()).is_err();
        }
    }
    // Those who want to tell something must not wait for us now.
    drop(news);
    stop.stop();
    server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    device.stop();
    // What cannot be written any more was not read either.
    if let Some(count) = flood.end() {
        let _ = view.news(&left_out(count));
    }
    let _ = view.end(&device.counters(), started.elapsed());
    match failure {
        Some(error) => Err(error).with_context(|| format!("no more frontends can come at {}", args.socket.display())),
        None => Ok(0),
    }
}

fn left_out(count: u64) -> News {
    News::Complaint(format!("{count} more messages are left out here"))
}

/// Lets Ctrl-C and SIGTERM end it in order; the second one ends the process at once.
fn on_interrupt(reporter: &Reporter) -> Result<(), ctrlc::Error> {
    let reporter = reporter.clone();
    let mut before = false;
    ctrlc::set_handler(move || {
        if std::mem::replace(&mut before, true) {
            std::process::exit(130);
        }
        reporter.tell(News::Interrupted);
    })
}

/// The tail of a message that says why: "an error: its cause".
fn because(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        if !text.contains(&error.to_string()) {
            text = format!("{text}: {error}");
        }
        cause = error.source();
    }
    text
}

/// Longer than a thread needs to look whether it is to end.
const PATIENCE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests;
