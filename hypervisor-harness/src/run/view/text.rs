//! Text for people: what was found, what there is to try, and then one line that lives (a terminal) or a line now and then.

use std::io::{self, Write};
use std::time::Duration;

use ringlet_driver::features::Features;

use super::{Change, Facts, Picture, View};
use crate::backend::options::{Net, Protocol};
use crate::cli::Style;
use crate::run::guest::DEMO_SERVICE;
use crate::run::picture::Row;
use crate::vmm::Outcome;
use crate::vmm::console::Record;

/// Writes text.
#[derive(Debug)]
pub struct Text<W> {
    out: W,
    style: Style,
    /// Whether the last line is rewritten in place.
    live: bool,
    /// The line that lives, where there is one now.
    status: String,
    facts: Option<Facts>,
}

impl<W: Write> Text<W> {
    /// To this output; `live` if it is a terminal.
    pub fn new(out: W, style: Style, live: bool) -> Self {
        Self { out, style, live, status: String::new(), facts: None }
    }

    /// Writes whole lines, above the one that lives.
    fn put(&mut self, text: &str) -> io::Result<()> {
        let (clear, status) = if self.status.is_empty() { ("", "") } else { ("\r\x1b[K", self.status.as_str()) };
        write!(self.out, "{clear}{text}\n{status}")?;
        self.out.flush()
    }

    fn status(&mut self, line: String) -> io::Result<()> {
        if !self.live {
            return self.put(&line);
        }
        // Without wrapping at the edge, or a line too long for the terminal would stay there in part.
        self.status = format!("\x1b[?7l{line}\x1b[?7h");
        write!(self.out, "\r\x1b[K{}", self.status)?;
        self.out.flush()
    }

    fn ready(&mut self, picture: &Picture, up: Duration) -> io::Result<()> {
        let Some(facts) = self.facts.clone() else { return Ok(()) };
        let (style, boot) = (self.style, &picture.boot);
        let ready = picture.ready.unwrap_or_default();
        let mut lines = Vec::new();
        lines.push(format!(
            "{} {}, build {}, {}",
            style.strong("Ringlet"),
            boot.version,
            boot.build_id.get(..12).unwrap_or(&boot.build_id),
            facts.image,
        ));
        lines.push(format!(
            "{} in {:.1} ms, {:.1} ms of them in the guest; {} MiB, {}, {}",
            style.strong("Booted"),
            up.as_secs_f64() * 1e3,
            ready.ns as f64 / 1e6,
            facts.memory,
            facts.net,
            boot.mac,
        ));
        lines.push(format!(
            "{} ({}, {} descriptors a queue): {}",
            style.strong("Features"),
            boot.transport,
            boot.queue_size,
            Features::from_bits_retain(boot.features).to_string().replace(',', " "),
        ));
        if ready.rules_failed > 0 {
            let many = ready.rules_failed;
            lines.push(style.warning(&format!("{many} of the rules could not be followed (see above)")));
        }
        lines.extend(services(&picture.services, style));
        lines.push(style.strong("Try"));
        lines.extend(suggestions(&facts, picture).into_iter().map(|line| format!("  {line}")));
        self.put(&lines.join("\n"))
    }
}

impl<W: Write> View for Text<W> {
    fn start(&mut self, facts: &Facts) -> io::Result<()> {
        self.facts = Some(facts.clone());
        Ok(())
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        let line = format!("{} {line}", self.style.faint("guest|"));
        self.put(&line)
    }

    fn complaint(&mut self, text: &str) -> io::Result<()> {
        let text = self.style.warning(&format!("ringlet: {text}"));
        self.put(&text)
    }

    fn record(&mut self, _: &Record, change: Change, picture: &Picture, up: Duration) -> io::Result<()> {
        match change {
            Change::None => Ok(()),
            Change::Ready => self.ready(picture, up),
            Change::Services => {
                let lines = services(&picture.services, self.style);
                self.put(&lines.join("\n"))
            }
            Change::Status => self.status(status_line(picture, up)),
        }
    }

    fn end(&mut self, outcome: &Outcome, _: &Picture, up: Duration) -> io::Result<()> {
        self.status.clear();
        if self.live {
            writeln!(self.out)?;
        }
        match outcome {
            Outcome::Stopped => self.put(&format!("Stopped after {:.1} s.", up.as_secs_f64())),
            // Failures are told on standard error, by whoever ends the process.
            _ => self.out.flush(),
        }
    }
}

/// The table of services.
fn services(rows: &[Row], style: Style) -> Vec<String> {
    let mut lines = vec![style.strong("Services")];
    for Row { service, destinations } in rows {
        let protocol = service.protocol.to_uppercase();
        lines.push(format!("  {protocol} {} {}", socket(&service.address, service.port), service.scheduler));
        for to in destinations {
            let address = socket(&to.address, to.port);
            lines.push(format!("    -> {address:<24} {:<7} weight {}", to.forwarding, to.weight));
        }
    }
    if rows.is_empty() {
        lines.push("  none: `ringlet ipvsadm -A ...` adds one".to_owned());
    }
    lines
}

fn socket(address: &str, port: u64) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// What to type to see it work.
fn suggestions(facts: &Facts, picture: &Picture) -> Vec<String> {
    let mut lines = Vec::new();
    let published = |ip, port| {
        let target = std::net::SocketAddr::new(ip, port);
        facts.published.iter().find(|publish| publish.target == target && publish.protocol == Protocol::Tcp)
    };
    for publish in facts.published.iter().filter(|publish| publish.protocol == Protocol::Tcp) {
        if publish.target == DEMO_SERVICE && facts.demo {
            lines.push(format!("curl http://{}/    a few times: another server answers", publish.host));
        } else if publish.target.ip() == facts.management && publish.target.port() == 9100 {
            lines.push(format!("curl http://{}/metrics", publish.host));
        } else if publish.target.ip() == facts.management && publish.target.port() == 9101 {
            let connect = match publish.host.port() {
                9101 => String::new(),
                _ => format!("--connect {} ", publish.host),
            };
            lines.push(format!("{} ipvsadm {connect}-L -n --stats", program()));
        } else {
            lines.push(format!("{} leads to {}", publish.host, publish.target));
        }
    }
    if facts.net == Net::Lan {
        for row in &picture.services {
            let (Ok(ip), Ok(port)) = (row.service.address.parse(), u16::try_from(row.service.port)) else { continue };
            if &*row.service.protocol == "tcp" && published(ip, port).is_none() {
                let address = socket(&row.service.address, port.into());
                lines.push(format!("start it with --publish PORT:{address} to reach {address} from here"));
            }
        }
    } else {
        for row in &picture.services {
            lines.push(format!("the service at {}", socket(&row.service.address, row.service.port)));
        }
        lines.push(format!("curl http://{}/metrics", socket(&facts.management.to_string(), 9100)));
    }
    lines
}

/// How this program is called: by its name, or through cargo.
fn program() -> &'static str {
    match (std::env::var_os("CARGO_PKG_NAME").is_some(), cfg!(debug_assertions)) {
        (false, _) => "ringlet",
        (true, true) => "cargo run --",
        (true, false) => "cargo run --release --",
    }
}

/// The counters in one line.
fn status_line(picture: &Picture, up: Duration) -> String {
    let (status, rates) = (&picture.status, picture.rates());
    format!(
        "up {} | connections {} now, {} in all, {}/s | in {}pps {}bit/s | out {}pps {}bit/s | dropped {}",
        clock(up),
        status.active,
        status.connections,
        scaled(rates.connections).trim_end(),
        scaled(rates.rx_packets),
        scaled(rates.rx_bits),
        scaled(rates.tx_packets),
        scaled(rates.tx_bits),
        status.drops,
    )
}

/// A time as people read it.
pub(crate) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{}:{:02}", seconds / 60, seconds % 60),
        _ => format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

/// A number with three digits and a prefix; ends so that a unit can follow.
pub(crate) fn scaled(value: f64) -> String {
    let (value, prefix) = match value {
        _ if value >= 999.5e6 => (value / 1e9, "G"),
        _ if value >= 999.5e3 => (value / 1e6, "M"),
        _ if value >= 999.5 => (value / 1e3, "k"),
        _ => return format!("{value:.0} "),
    };
    let digits = if value >= 99.95 { 0 } else { 1 };
    format!("{value:.digits$} {prefix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            image: "prebuilt core".into(),
            image_size: 1,
            memory: 128,
            net: Net::Lan,
            command_line: String::new(),
            published: ["8080:10.0.0.100:80", "9200:10.0.0.2:9100", "9101:10.0.0.2:9101", "udp:53:10.0.0.100:53"]
                .map(|text| text.parse().unwrap())
                .into(),
            management: "10.0.0.2".parse().unwrap(),
            demo: true,
        }
    }

    fn show(live: bool) -> String {
        let mut text = Text::new(Vec::new(), Style::plain(), live);
        let mut picture = Picture::default();
        text.start(&facts()).unwrap();
        text.line("hello").unwrap();
        for json in [
            r#"{"type":"boot","build_id":"0123456789abcdef","version":"0.1.0","memory":1,"transport":"mmio","features":32769,"queue_size":256,"mac":"52:54:00:12:34:02","addresses":[]}"#,
            r#"{"type":"service","protocol":"tcp","address":"10.0.0.100","port":80,"scheduler":"wlc"}"#,
            r#"{"type":"destination","address":"10.0.0.11","port":80,"forwarding":"masq","weight":1}"#,
            r#"{"type":"service","protocol":"tcp","address":"10.0.0.101","port":80,"scheduler":"rr"}"#,
            r#"{"type":"ready","ns":1500000}"#,
            r#"{"type":"status","ns":1,"rx_packets":0,"tx_packets":0,"rx_bytes":0,"tx_bytes":0,"connections":7,"active":3,"drops":0}"#,
        ] {
            let record = Record::parse(json.as_bytes()).unwrap();
            let change = picture.take(record.clone());
            text.record(&record, change, &picture, Duration::from_millis(12)).unwrap();
        }
        text.line("bye").unwrap();
        text.end(&Outcome::Stopped, &picture, Duration::from_secs(1)).unwrap();
        String::from_utf8(text.out).unwrap()
    }

    #[test]
    fn things_come_in_the_order_that_was_promised() {
        let text = show(false);
        let mut from = 0;
        for part in [
            "guest| hello\n",
            "build 0123456789ab, prebuilt core\n",
            "Booted in 12.0 ms, 1.5 ms",
            "csum mrg_rxbuf\n",
            "TCP 10.0.0.100:80 wlc\n",
            "-> 10.0.0.11:80             masq    weight 1\n",
            "curl http://127.0.0.1:8080/ ",
            "curl http://127.0.0.1:9200/metrics",
            "ipvsadm -L -n --stats",
            "--publish PORT:10.0.0.101:80",
            "connections 3 now, 7 in all",
            "guest| bye\nStopped",
        ] {
            let at = text[from..].find(part).unwrap_or_else(|| panic!("{part} is missing or too early:\n{text}"));
            from += at + part.len();
        }
        assert!(!text.contains('\x1b') && !text.contains('\r'));
    }

    #[test]
    fn the_status_lives_in_the_last_line() {
        let text = show(true);
        assert!(text.contains("\r\x1b[Kguest| bye\n\x1b[?7lup 0 s"), "{text:?}");
    }

    #[test]
    fn numbers_stay_short() {
        let shown = [0.0, 12.4, 999.4, 999.6, 12_345.0, 123_456.0, 999_600.0, 3.2e6, 9.9e9].map(scaled);
        assert_eq!(shown, ["0 ", "12 ", "999 ", "1.0 k", "12.3 k", "123 k", "1.0 M", "3.2 M", "9.9 G"]);
        assert_eq!([5, 65, 3_725].map(|seconds| clock(Duration::from_secs(seconds))), ["5 s", "1:05", "1:02:05"]);
    }
}
