//! JSON lines, for programs (docs/command.md).

use std::io::{self, Write};
use std::time::Duration;

use ringlet_driver::features::Features;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Change, Facts, Picture, View};
use crate::vmm::Outcome;
use crate::vmm::console::Record;

/// Writes JSON lines.
#[derive(Debug)]
pub struct Json<W> {
    out: W,
}

impl<W: Write> Json<W> {
    /// To this output.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    fn put(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        self.out.write_all(b"\n")?;
        self.out.flush()
    }
}

impl<W: Write> View for Json<W> {
    fn start(&mut self, facts: &Facts) -> io::Result<()> {
        self.put(&json!({
            "type": "start",
            "version": env!("CARGO_PKG_VERSION"),
            "image": facts.image,
            "image_size": facts.image_size,
            "memory_mib": facts.memory,
            "net": facts.net.to_string(),
            "command_line": facts.command_line,
            "published": facts.published.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }))
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        self.put(&json!({ "type": "console", "line": line }))
    }

    fn complaint(&mut self, text: &str) -> io::Result<()> {
        self.put(&json!({ "type": "complaint", "text": text }))
    }

    fn record(&mut self, record: &Record, _: Change, _: &Picture, up: Duration) -> io::Result<()> {
        let mut value = serde_json::to_value(record)?;
        match (record, &mut value) {
            (Record::Boot(boot), Value::Object(fields)) => {
                let names = Features::from_bits_retain(boot.features).to_string();
                fields.insert("feature_names".into(), names.split(',').collect());
            }
            (Record::Ready(_), Value::Object(fields)) => {
                fields.insert("boot_ms".into(), json!(up.as_secs_f64() * 1e3));
            }
            _ => {}
        }
        self.put(&value)
    }

    fn end(&mut self, outcome: &Outcome, _: &Picture, up: Duration) -> io::Result<()> {
        self.put(&json!({
            "type": "end",
            "exit_code": outcome.exit_code(),
            "message": outcome.to_string(),
            "up_ms": up.as_secs_f64() * 1e3,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::console::record::{Boot, Ready};

    #[test]
    fn every_line_is_one_object_with_a_type() {
        let mut json = Json::new(Vec::new());
        let picture = Picture::default();
        let up = Duration::from_micros(12_500);
        json.line("a \"line\"\u{1b}").unwrap();
        json.complaint("so not").unwrap();
        let boot = Boot { features: 1 << 15 | 1, ..Default::default() };
        json.record(&Record::Boot(boot), Change::None, &picture, up).unwrap();
        json.record(&Record::Ready(Ready::default()), Change::Ready, &picture, up).unwrap();
        json.end(&Outcome::Exit(0x11), &picture, up).unwrap();
        let text = String::from_utf8(json.out).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let types: Vec<_> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["console", "complaint", "boot", "ready", "end"]);
        assert_eq!(lines[2]["feature_names"], json!(["csum", "mrg_rxbuf"]));
        assert_eq!(lines[3]["boot_ms"], json!(12.5));
        assert_eq!(lines[4]["exit_code"], json!(0x11));
    }
}
