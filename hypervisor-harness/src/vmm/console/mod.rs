//! What the guest says: bytes come in, lines of safe text and typed records come out.

mod lines;
pub mod record;
pub mod text;

use std::sync::Arc;

use self::lines::Lines;
pub use self::record::{Record, RoundTrip};
use super::symbols::Symbols;

/// Where bytes come from. Each source has its own unfinished line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// COM1, byte by byte.
    Serial,
    /// The block console, mostly whole lines.
    Block,
}

/// One thing that came out of the console.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// A line for people, without its line break, harmless to print.
    Line(String),
    /// A structured record.
    Record(Record),
    /// Something that the guest should not have said; the harness' own words.
    Complaint(String),
}

/// Receives what comes out, on the vCPU's thread: must not block.
pub type Sink = Box<dyn FnMut(Said) + Send>;

/// The first byte of a line that is a structured record.
const RECORD_MARK: u8 = 0x1e;
/// How a backtrace line begins, before 16 hexadecimal digits.
const BACKTRACE: &str = "  at 0x";

/// Turns bytes into lines and records.
pub struct Console {
    serial: Lines,
    block: Lines,
    symbols: Arc<Symbols>,
    sink: Sink,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("serial", &self.serial).field("block", &self.block).finish_non_exhaustive()
    }
}

impl Console {
    /// A console that names addresses by `symbols`.
    #[must_use]
    pub fn new(symbols: Arc<Symbols>, sink: Sink) -> Self {
        Self { serial: Lines::default(), block: Lines::default(), symbols, sink }
    }

    /// Takes bytes from the guest.
    pub fn bytes(&mut self, source: Source, bytes: &[u8]) {
        let lines = match source {
            Source::Serial => &mut self.serial,
            Source::Block => &mut self.block,
        };
        let (symbols, sink) = (&self.symbols, &mut self.sink);
        lines.feed(bytes, |line| sink(interpret(symbols, line)));
    }

    /// Says something of the harness' own about the guest.
    pub fn complaint(&mut self, text: &str) {
        (self.sink)(Said::Complaint(text::safe(text.as_bytes())));
    }

    /// The guest has ended: what it left unfinished comes out.
    pub fn finish(&mut self) {
        let (symbols, sink) = (&self.symbols, &mut self.sink);
        for lines in [&mut self.serial, &mut self.block] {
            lines.finish(|line| sink(interpret(symbols, line)));
        }
    }
}

fn interpret(symbols: &Symbols, line: &[u8]) -> Said {
    if let Some((&RECORD_MARK, json)) = line.split_first() {
        return match Record::parse(json) {
            Ok(record) => Said::Record(record),
            Err(error) => Said::Complaint(format!("a record that cannot be read ({error}): {}", text::safe(json))),
        };
    }
    let mut line = text::safe(line);
    if let Some(name) = backtrace_address(&line).and_then(|address| symbols.name(address)) {
        line.push(' ');
        line.push_str(&text::safe(name.as_bytes()));
    }
    Said::Line(line)
}

/// The address in a line `  at 0x<16 digits>`.
fn backtrace_address(line: &str) -> Option<u64> {
    let digits = line.strip_prefix(BACKTRACE)?.get(..16)?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn said(feed: impl FnOnce(&mut Console)) -> Vec<Said> {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let sink = heard.clone();
        let mut console = Console::new(Arc::default(), Box::new(move |said| sink.lock().unwrap().push(said)));
        feed(&mut console);
        console.finish();
        drop(console);
        Arc::into_inner(heard).unwrap().into_inner().unwrap()
    }

    fn line(text: &str) -> Said {
        Said::Line(text.into())
    }

    #[test]
    fn sources_do_not_mix() {
        let heard = said(|console| {
            console.bytes(Source::Serial, b"half a ");
            console.bytes(Source::Block, b"whole\nopen");
            console.bytes(Source::Serial, b"line\r\n");
        });
        assert_eq!(heard, [line("whole"), line("half a line"), line("open")]);
    }

    #[test]
    fn records_are_taken_out_and_bad_ones_named() {
        let heard = said(|console| {
            console.bytes(Source::Block, b"a\n\x1e{\"type\":\"ready\",\"ns\":5}\n\x1e{\"type\":\x1b}\n b\x1e\n")
        });
        assert_eq!(heard[0], line("a"));
        assert_eq!(heard[1], Said::Record(Record::Ready(record::Ready { ns: 5, ..Default::default() })));
        assert!(matches!(&heard[2], Said::Complaint(text) if text.ends_with(r#"{"type":\x1b}"#)), "{heard:?}");
        assert_eq!(heard[3], line(r" b\x1e"), "the mark counts only at the start of a line");
    }

    #[test]
    fn hostile_text_is_harmless() {
        let heard = said(|console| console.bytes(Source::Serial, b"\x1b[2J\x07\xff tab\there \xe2\x80\xae\n"));
        assert_eq!(heard, [line("\\x1b[2J\\x07\u{fffd} tab\there \\u{202e}")]);
    }

    #[test]
    fn backtraces_want_sixteen_digits() {
        assert_eq!(backtrace_address("  at 0x0000000000200010"), Some(0x20_0010));
        for bad in ["  at 0x20", " at 0x0000000000200010", "  at 0x+000000000200010", "  at 0xäääääääääääääääää"]
        {
            assert_eq!(backtrace_address(bad), None, "{bad}");
        }
    }
}
