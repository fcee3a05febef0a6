//! Programs of others, whose output is read line by line, and which end with the test.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longer than anything takes that works, in an emulated machine too.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Whether these programs are there. Where one is missing this fails in CI, and says loudly elsewhere that the test does not
/// run, and what to install.
pub fn there(programs: &[(&str, &str)]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|(program, _)| find(program).is_none()).collect();
    missing.is_empty() || absent(&missing.iter().map(|(_, package)| *package).collect::<Vec<_>>().join(" "))
}

/// Says that something is not installed. Returns false.
pub fn absent(packages: &str) -> bool {
    let text = format!("not installed (Debian): {packages}");
    assert!(std::env::var_os("CI").is_none(), "{text}");
    eprintln!("==== NOT RUN, for want of programs: {text} ====");
    false
}

/// Where a program is.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    places.map(|place| place.join(program)).find(|file| file.is_file())
}

/// A running program. It ends when it is dropped.
pub struct Program {
    name: String,
    child: Child,
    lines: Receiver<String>,
    /// All that it has said so far.
    pub seen: Vec<String>,
}

impl Program {
    /// Starts it. What it says on standard error is read like the rest.
    pub fn start(command: &mut Command) -> Self {
        let name = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let (sender, lines) = channel();
        let stdout = child.stdout.take().expect("it is a pipe");
        let stderr = child.stderr.take().expect("it is a pipe");
        for pipe in [Box::new(stdout) as Box<dyn std::io::Read + Send>, Box::new(stderr)] {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(pipe);
                let mut line = Vec::new();
                while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                    if sender.send(text).is_err() {
                        break;
                    }
                    line.clear();
                }
            });
        }
        Self { name, child, lines, seen: Vec::new() }
    }

    /// The next line in which this is, from those that have not been waited for yet.
    pub fn wait_for(&mut self, part: &str) -> String {
        let until = Instant::now() + PATIENCE;
        match self.next(part, until) {
            Some(line) => line,
            None => panic!("{} never said `{part}`, but:\n{}", self.name, self.seen.join("\n")),
        }
    }

    fn next(&mut self, part: &str, until: Instant) -> Option<String> {
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(part) {
                        return Some(line);
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// All lines from the next one in which `first` is to the next one in which `last` is, without these two.
    pub fn between(&mut self, first: &str, last: &str) -> String {
        self.wait_for(first);
        let from = self.seen.len();
        self.wait_for(last);
        self.seen[from..self.seen.len() - 1].join("\n")
    }

    /// Types a line.
    pub fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("it is a pipe");
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// Waits until it has ended by itself.
    pub fn end(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        // Its pipes are closed then.
        while self.next("\0", until).is_some() {}
        assert!(Instant::now() < until, "{} does not end:\n{}", self.name, self.seen.join("\n"));
        self.child.wait().expect("its status")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
