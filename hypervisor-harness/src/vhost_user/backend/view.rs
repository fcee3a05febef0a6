//! What `ringlet vhost-user-backend` shows: to a person, or as JSON to a program (docs/vhost-user.md).

use std::io::{self, Stdout, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ringlet_driver::features::Features;
use serde_json::{Value, json};

use super::News;
use crate::backend::options::{Net, Publish};
use crate::cli::{DisplayArgs, Style};
use crate::run::view::{clock, scaled};
use crate::virtio::Counters;

/// What is fixed before the first frontend comes.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) socket: PathBuf,
    pub(super) client: bool,
    pub(super) net: Net,
    pub(super) offered: Features,
    pub(super) published: Vec<Publish>,
}

/// The output.
#[derive(Debug)]
pub(super) struct View {
    out: Stdout,
    json: bool,
    style: Style,
    live: bool,
    /// The last line is a status, to be overwritten.
    status: bool,
    before: (Instant, Counters),
}

impl View {
    pub(super) fn new(display: &DisplayArgs) -> Self {
        let before = (Instant::now(), Counters::default());
        let (json, style, live) = (display.json, display.style(), display.is_live());
        Self { out: io::stdout(), json, style, live, status: false, before }
    }

    fn put(&mut self, object: &Value, text: impl FnOnce(Style) -> String) -> io::Result<()> {
        if self.json {
            writeln!(self.out, "{object}")?;
        } else {
            let clear = if std::mem::take(&mut self.status) { "\r\x1b[K" } else { "" };
            writeln!(self.out, "{clear}{}", text(self.style))?;
        }
        self.out.flush()
    }

    pub(super) fn start(&mut self, facts: &Facts) -> io::Result<()> {
        let socket = facts.socket.display().to_string();
        let published: Vec<_> = facts.published.iter().map(ToString::to_string).collect();
        let object = json!({
            "type": "start",
            "version": env!("CARGO_PKG_VERSION"),
            "socket": socket,
            "client": facts.client,
            "net": facts.net.to_string(),
            "offered": facts.offered.bits(),
            "offered_names": names(facts.offered),
            "published": published,
        });
        self.put(&object, |style| {
            let role = if facts.client { "connects to" } else { "listens at" };
            let mut text = format!("{} {role} {socket}, on {}\n", style.strong("vhost-user backend"), facts.net);
            text += &style.faint(&format!("offers {}", facts.offered));
            for publish in &published {
                text += &format!("\npublishes {publish}");
            }
            text
        })
    }

    pub(super) fn news(&mut self, news: &News) -> io::Result<()> {
        match news {
            News::Connected => self.put(&json!({ "type": "connected" }), |_| "a frontend is connected".into()),
            News::Started(features) => {
                let object =
                    json!({ "type": "started", "features": features.bits(), "feature_names": names(*features) });
                self.put(&object, |style| format!("{} with {features}", style.strong("the device works")))
            }
            News::Gone(None) => self.put(&json!({ "type": "gone", "fault": null }), |_| "the frontend is gone".into()),
            News::Gone(Some(fault)) => self.put(&json!({ "type": "gone", "fault": fault }), |style| {
                format!("{}: {fault}", style.warning("the frontend was sent away"))
            }),
            News::Complaint(text) => {
                self.put(&json!({ "type": "complaint", "text": text }), |style| style.warning(text))
            }
            News::Over(_) | News::Interrupted => Ok(()),
        }
    }

    pub(super) fn status(&mut self, now: &Counters, up: Duration) -> io::Result<()> {
        let (then, before) = std::mem::replace(&mut self.before, (Instant::now(), *now));
        let object = counters("status", now, up);
        if self.json {
            return self.put(&object, |_| String::new());
        }
        let seconds = then.elapsed().as_secs_f64().max(1e-3);
        let rate = |now: u64, then: u64, unit: f64| scaled(now.saturating_sub(then) as f64 * unit / seconds);
        let line = format!(
            "up {} | from guest {}pps {}bit/s | to guest {}pps {}bit/s | dropped {}",
            clock(up),
            rate(now.from_guest.frames, before.from_guest.frames, 1.0),
            rate(now.from_guest.bytes, before.from_guest.bytes, 8.0),
            rate(now.to_guest.frames, before.to_guest.frames, 1.0),
            rate(now.to_guest.bytes, before.to_guest.bytes, 8.0),
            dropped(now),
        );
        let line = self.style.faint(&line);
        if self.live {
            write!(self.out, "\r\x1b[K{line}")?;
            self.status = true;
            return self.out.flush();
        }
        writeln!(self.out, "{line}")
    }

    pub(super) fn end(&mut self, now: &Counters, up: Duration) -> io::Result<()> {
        self.put(&counters("end", now, up), |_| {
            let Counters { from_guest, to_guest, .. } = now;
            format!("{} frames from guests, {} to them, {} dropped", from_guest.frames, to_guest.frames, dropped(now))
        })
    }
}

fn dropped(counters: &Counters) -> u64 {
    let Counters { from_guest, to_guest, backend_from_guest, backend_to_guest, .. } = counters;
    [from_guest, to_guest, backend_from_guest, backend_to_guest].iter().map(|flow| flow.dropped).sum()
}

fn names(features: Features) -> Vec<String> {
    features.to_string().split(',').map(str::to_owned).collect()
}

/// The counters, as an object. Received and sent is what the guest did, as in `ringlet run`.
fn counters(kind: &str, now: &Counters, up: Duration) -> Value {
    json!({
        "type": kind,
        "up_ms": up.as_secs_f64() * 1e3,
        "rx_packets": now.to_guest.frames,
        "rx_bytes": now.to_guest.bytes,
        "tx_packets": now.from_guest.frames,
        "tx_bytes": now.from_guest.bytes,
        "drops": dropped(now),
        "interrupts": now.interrupts,
        "faults": now.faults,
    })
}
