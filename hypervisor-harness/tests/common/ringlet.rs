//! The real program, started as a user would, and read by its JSON.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlet");

/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running `ringlet`. Ends when it is dropped.
pub struct Ringlet {
    child: Child,
    records: Receiver<Value>,
    /// All that came so far.
    pub seen: Vec<Value>,
    published: Vec<(SocketAddr, SocketAddr)>,
}

impl Ringlet {
    /// Starts `ringlet ARGUMENTS --json` (in QEMU where there is no KVM), with the management ports on any free ports, and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Self {
        let mut ringlet = Self::begin(arguments);
        ringlet.wait("ready");
        ringlet
    }

    /// As [`Ringlet::start`], without waiting.
    pub fn begin(arguments: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(super::runnable(arguments))
            .args(["--json", "--status-interval", "0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let (sender, records) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if sender.send(value).is_err() {
                    break;
                }
            }
        });
        Self { child, records, seen: Vec::new(), published: Vec::new() }
    }

    /// The next record of this type.
    pub fn wait(&mut self, kind: &str) -> Value {
        let until = Instant::now() + PATIENCE;
        self.next(kind, until).unwrap_or_else(|| panic!("no record `{kind}` came; these did: {:#?}", self.seen))
    }

    fn next(&mut self, kind: &str, until: Instant) -> Option<Value> {
        loop {
            match self.records.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(value) => {
                    if value["type"] == "start" {
                        self.remember(&value);
                    }
                    let found = value["type"] == kind;
                    if value["type"] != "status" {
                        self.seen.push(value.clone());
                    }
                    if found {
                        return Some(value);
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Waits for a status of which this holds.
    pub fn wait_for_status(&mut self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        let mut last = Value::Null;
        while let Some(status) = self.next("status", until) {
            if holds(&status) {
                return status;
            }
            last = status;
        }
        panic!("no status with {what} came; the last one was {last}")
    }

    fn remember(&mut self, start: &Value) {
        for text in start["published"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let publish: ::ringlet::backend::options::Publish = text.parse().expect("a published port");
            self.published.push((publish.target, publish.host));
        }
    }

    /// Where on this host an address of the network is to be reached.
    pub fn host(&self, target: &str) -> SocketAddr {
        let target: SocketAddr = target.parse().expect("an address and a port");
        let found = self.published.iter().find(|(inside, _)| *inside == target);
        found.unwrap_or_else(|| panic!("{target} is not published: {:?}", self.published)).1
    }

    /// Runs `ringlet ipvsadm ARGUMENTS` on it. Returns what it wrote.
    ///
    /// # Panics
    /// If that fails.
    pub fn ipvsadm(&self, arguments: &str) -> String {
        let output = self.try_ipvsadm(arguments);
        assert!(output.status.success(), "ipvsadm {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs `ringlet ipvsadm ARGUMENTS` on it.
    pub fn try_ipvsadm(&self, arguments: &str) -> Output {
        Command::new(PROGRAM)
            .args(["ipvsadm", "--connect", &self.host("10.0.0.2:9101").to_string()])
            .args(arguments.split_whitespace())
            .stdin(Stdio::null())
            .output()
            .expect("the program starts")
    }

    /// Waits until the device's interrupts have been seen to end sleeps of the guest. Without them everything goes on, at the
    /// pace of the guest's timers, so that nothing else would notice.
    pub fn wait_for_wakeups(&self) {
        let metrics = self.host("10.0.0.2:9100");
        assert!((0..40).any(|_| wakeups(metrics) > 3), "no sleep of the guest was ended by an interrupt");
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, as Ctrl-C does, and waits for that. Returns its exit code.
    pub fn interrupt(self) -> i32 {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: a plain system call; the process is our child and has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
        self.end().0
    }

    /// Waits for its end by itself. Returns its exit code, and all that it said.
    pub fn end(mut self) -> (i32, Vec<Value>) {
        let until = Instant::now() + PATIENCE;
        while self.next("end", until).is_some() {}
        let status = self.child.wait().expect("it can be waited for");
        (status.code().unwrap_or_else(|| panic!("ended by {status}")), std::mem::take(&mut self.seen))
    }
}

impl Drop for Ringlet {
    fn drop(&mut self) {
        // Both fail if it has ended and was waited for, and then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many sleeps of a guest were ended by an interrupt, by its metrics.
pub fn wakeups(metrics: SocketAddr) -> u64 {
    let text = super::http::get(metrics, "/metrics").expect("metrics");
    let line = text.lines().find_map(|line| line.strip_prefix("ringlet_wakeups_total "));
    line.expect("a counter").parse().expect("a number")
}

/// Runs `ringlet ARGUMENTS` (in QEMU where there is no KVM) to its end, which has to come within [`PATIENCE`]. Returns its
/// exit code, and standard output and error together.
pub fn run(arguments: &[&str]) -> (i32, String) {
    run_exactly(super::runnable(arguments))
}

/// As [`run`], with these very arguments.
pub fn run_exactly(arguments: Vec<String>) -> (i32, String) {
    let mut child = Command::new(PROGRAM)
        .args(&arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let stdout = collect(child.stdout.take().expect("it is a pipe"));
    let stderr = collect(child.stderr.take().expect("it is a pipe"));
    let until = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            break Some(status);
        }
        if Instant::now() > until {
            // Fails only if it has ended just now.
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = [stdout, stderr].map(|text| text.join().expect("it reads to the end")).concat();
    match status.and_then(|status| status.code()) {
        Some(code) => (code, text),
        None => panic!("{arguments:?} did not end by itself: {text}"),
    }
}

fn collect(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is all there is.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
