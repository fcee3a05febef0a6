//! The real iperf3 client, and what it reports.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Command, Output};

use serde_json::Value;

/// What a client reports of a test.
#[derive(Debug)]
pub struct Report(pub Value);

impl Report {
    /// A number of its summary, such as `sum_sent` and `bytes`.
    pub fn number(&self, of: &str, what: &str) -> u64 {
        self.0["end"][of][what].as_u64().unwrap_or_else(|| panic!("no end.{of}.{what} in {:#}", self.0))
    }

    /// Bytes by the sender's count, and by the receiver's.
    pub fn bytes(&self) -> (u64, u64) {
        (self.number("sum_sent", "bytes"), self.number("sum_received", "bytes"))
    }
}

/// Runs `iperf3 ARGUMENTS --json`, for a minute at most. Returns what it reports, or its error.
pub fn run(arguments: &str) -> Result<Report, String> {
    let Output { stdout, stderr, status } = Command::new("timeout")
        .args(["60", "iperf3", "--json"])
        .args(arguments.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("cannot run timeout: {error}\nInstall it (Debian: coreutils)."));
    assert_ne!(status.code(), Some(127), "cannot run iperf3\nInstall it (Debian: iperf3).");
    assert_ne!(status.code(), Some(124), "`iperf3 {arguments}` did not end");
    let value: Value = serde_json::from_slice(&stdout).unwrap_or_else(|error| {
        panic!(
            "`iperf3 {arguments}`: {error}: {}",
            [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
        )
    });
    match value["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(Report(value)),
    }
}

/// A port of 127.0.0.1 that nobody has, neither for TCP nor for UDP.
pub fn free_port() -> u16 {
    for _ in 0..100 {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("an address").port();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port of 127.0.0.1 is free for TCP and UDP");
}

/// What the guest counted: bytes that its server received and sent.
pub fn counted(metrics: SocketAddr) -> (u64, u64) {
    let text = super::http::get(metrics, "/metrics").expect("metrics");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse::<u64>().expect("a number")
    };
    (value("ringlet_iperf3_received_bytes_total "), value("ringlet_iperf3_sent_bytes_total "))
}
