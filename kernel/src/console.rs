//! Messages for people and records for programs, both on the machine's console.
//!
//! A message is formatted whole and written at once, since every write may cost an exit to the host.

use alloc::string::String;
use core::fmt::{self, Write};

use crate::platform::{MAX_CONSOLE_WRITE, Platform};

/// Begins a record's line: ASCII "record separator", which no message contains.
pub const RECORD_MARK: char = '\u{1e}';

/// The console of one machine.
pub struct Console<'a> {
    platform: &'a dyn Platform,
    records: bool,
}

impl<'a> Console<'a> {
    /// A console that writes through `platform`. Records are sent only if `records` is set: a person at a serial line
    /// has no use for them.
    #[must_use]
    pub fn new(platform: &'a dyn Platform, records: bool) -> Self {
        Self { platform, records }
    }

    /// Writes one message, as it is.
    pub fn info(&self, message: fmt::Arguments<'_>) {
        self.line("", message);
    }

    /// Writes something that should be put right but does not stop the work.
    pub fn warn(&self, message: fmt::Arguments<'_>) {
        self.line("warning: ", message);
    }

    /// Writes why something asked for was not done.
    pub fn error(&self, message: fmt::Arguments<'_>) {
        self.line("error: ", message);
    }

    /// Whether records are sent.
    #[must_use]
    pub fn records(&self) -> bool {
        self.records
    }

    /// Sends one record, `json`, which must be a single line.
    pub fn record(&self, json: &str) {
        if self.records {
            let mut line = String::with_capacity(json.len() + 2);
            line.push(RECORD_MARK);
            line.push_str(json);
            line.push('\n');
            self.write(line.as_bytes());
        }
    }

    fn line(&self, prefix: &str, message: fmt::Arguments<'_>) {
        let mut line = Printable(String::new());
        // A `String` takes all it is given.
        let _ = line.write_str(prefix);
        let _ = line.write_fmt(message);
        line.0.push('\n');
        self.write(line.0.as_bytes());
    }

    fn write(&self, line: &[u8]) {
        for piece in line.chunks(MAX_CONSOLE_WRITE) {
            self.platform.write_console(piece);
        }
    }
}

/// Lets only printable text and line ends through, so that nothing quoted in a message can pass for a record or drive a
/// terminal.
struct Printable(String);

impl Write for Printable {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.0.extend(s.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }));
        Ok(())
    }
}

/// Writes a message to a [`Console`]: `info!(console, "{} services", n)`.
#[macro_export]
macro_rules! info {
    ($console:expr, $($message:tt)*) => { $console.info(format_args!($($message)*)) };
}

/// Writes a warning to a [`Console`].
#[macro_export]
macro_rules! warn {
    ($console:expr, $($message:tt)*) => { $console.warn(format_args!($($message)*)) };
}

/// Writes an error to a [`Console`].
#[macro_export]
macro_rules! error {
    ($console:expr, $($message:tt)*) => { $console.error(format_args!($($message)*)) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestPlatform;

    #[test]
    fn a_message_is_one_write_and_cannot_pass_for_a_record() {
        let platform = TestPlatform::new();
        let console = Console::new(&platform, true);
        warn!(console, "{}", "a\u{1e}{}b");
        assert_eq!(platform.console(), "warning: a\u{fffd}{}b\n");
        assert_eq!(platform.console_writes(), 1);
    }

    #[test]
    fn records_are_sent_only_where_somebody_reads_them() {
        let platform = TestPlatform::new();
        Console::new(&platform, false).record("{}");
        assert_eq!(platform.console(), "");
        Console::new(&platform, true).record("{}");
        assert_eq!(platform.console(), "\u{1e}{}\n");
    }

    #[test]
    fn no_write_is_longer_than_the_block_console_takes() {
        let platform = TestPlatform::new();
        let long = "x".repeat(2 * MAX_CONSOLE_WRITE);
        info!(Console::new(&platform, false), "{long}");
        assert_eq!(platform.console_writes(), 3);
        assert_eq!(platform.console().len(), long.len() + 1);
    }
}
