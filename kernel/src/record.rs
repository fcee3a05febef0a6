//! Records for the program that runs this machine: one JSON object a line.
//!
//! [`Console::record`](crate::console::Console::record) sends them, only where `status=` asks for them. Every number is
//! an unsigned 64-bit integer, every address and name a string.
//!
//! | `type` | sent | fields |
//! |---|---|---|
//! | `boot` | once, when the device works | `build_id`, `version`, `memory` (bytes), `transport` (`mmio`, `pci`), `features` (bit mask), `queue_size`, `mac`, `addresses` (list of `address/prefix`) |
//! | `service` | each service, before `ready` and after every change of the configuration | `protocol`, `address`, `port`, `scheduler`, `destinations`, `connections`, `in_packets`, `out_packets`, `in_bytes`, `out_bytes` |
//! | `destination` | after its service | `protocol`, `service_address`, `service_port`, `address`, `port`, `forwarding` (`masq`, `direct`, ...), `weight`, `active`, `inactive`, and the counters of a service |
//! | `ready` | once, when everything is up | `ns` (since the boot stub), `services`, `destinations`, `rules_failed` |
//! | `status` | every `status=` milliseconds | `ns`, `rx_packets`, `tx_packets`, `rx_bytes`, `tx_bytes`, `connections` (scheduled in all), `active` (in the table), `drops` |
//! | `roundtrip` | after each `status`, with `roundtrip=` | `ns`, `returned` (frames that came back, each of which was sent again), `injected` (frames put into circulation), `wrong` (frames that came back changed) |
//!
//! Before the services of a changed configuration come, `{"type":"configuration","services":n,"destinations":n}` says how
//! many there will be: the ones known before are no more.

use alloc::string::String;
use core::fmt::{Display, Write};

/// One JSON object in the making. Fields appear in the order they are added.
#[derive(Debug)]
pub struct Record {
    text: String,
}

impl Record {
    /// Begins a record of this type.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        Self { text: String::from("{") }.string("type", kind)
    }

    /// Adds a string.
    #[must_use]
    pub fn string(mut self, name: &str, value: impl Display) -> Self {
        self.name(name);
        quote(&mut self.text, value);
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, name: &str, value: u64) -> Self {
        self.name(name);
        // A `String` takes all it is given.
        let _ = write!(self.text, "{value}");
        self
    }

    /// Adds a list of strings.
    #[must_use]
    pub fn strings<T: Display>(mut self, name: &str, values: impl IntoIterator<Item = T>) -> Self {
        self.name(name);
        self.text.push('[');
        for (i, value) in values.into_iter().enumerate() {
            if i > 0 {
                self.text.push(',');
            }
            quote(&mut self.text, value);
        }
        self.text.push(']');
        self
    }

    /// The finished object, a single line.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.text.push('}');
        self.text
    }

    fn name(&mut self, name: &str) {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        quote(&mut self.text, name);
        self.text.push(':');
    }
}

/// Appends `value` as a JSON string (RFC 8259, section 7). Everything but printable ASCII is escaped, so that the line
/// survives any console.
fn quote(out: &mut String, value: impl Display) {
    struct Escape<'a>(&'a mut String);

    impl Write for Escape<'_> {
        fn write_str(&mut self, s: &str) -> core::fmt::Result {
            for c in s.chars() {
                match c {
                    '"' => self.0.push_str("\\\""),
                    '\\' => self.0.push_str("\\\\"),
                    ' '..='~' => self.0.push(c),
                    _ => {
                        for unit in c.encode_utf16(&mut [0; 2]) {
                            write!(self.0, "\\u{unit:04x}")?;
                        }
                    }
                }
            }
            Ok(())
        }
    }

    out.push('"');
    // A `String` takes all it is given.
    let _ = write!(Escape(out), "{value}");
    out.push('"');
}

/// Shows an Ethernet address the usual way, `52:54:00:12:34:02`.
#[derive(Debug, Clone, Copy)]
pub struct Mac(pub [u8; 6]);

impl Display for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    use proptest::prelude::*;

    #[test]
    fn fields_come_in_order_and_escaped() {
        let record = Record::new("boot")
            .string("mac", Mac([0x52, 0x54, 0, 0x12, 0x34, 2]))
            .number("features", u64::MAX)
            .strings("addresses", ["10.0.0.2/24", "a\"b\\c\u{1e}\n\u{e9}\u{1f600}"])
            .strings::<&str>("none", [])
            .finish();
        assert_eq!(
            record,
            "{\"type\":\"boot\",\"mac\":\"52:54:00:12:34:02\",\"features\":18446744073709551615,\
             \"addresses\":[\"10.0.0.2/24\",\"a\\\"b\\\\c\\u001e\\u000a\\u00e9\\ud83d\\ude00\"],\"none\":[]}"
        );
    }

    proptest! {
        #[test]
        fn any_text_survives(text in any::<std::string::String>()) {
            let record = Record::new("x").string("text", &text).finish();
            prop_assert!(record.bytes().all(|b| (0x20..0x7f).contains(&b)));
            let value: serde_json::Value = serde_json::from_str(&record).unwrap();
            prop_assert_eq!(value["text"].as_str().map(ToString::to_string), Some(text));
        }
    }
}
