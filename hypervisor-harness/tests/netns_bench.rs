//! `ringlet bench` in network namespaces of its own, with the programs that it compares with: that each side is measured, and
//! that nothing stays behind. Nothing here says how fast anything is. Needs root and KVM.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use common::program::there;
use common::ringlet::PROGRAM;
use serde_json::Value;

/// What every process that a bench of these tests starts has in its environment: others may run meanwhile.
const MARK: &str = "RINGLET_TEST_NETNS_BENCH";

/// The command, whose processes can be found by `mark`.
fn bench(mark: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env(MARK, mark).arg("bench").stdin(Stdio::null());
    command
}

/// Processes with the mark.
fn left(mark: &str) -> Vec<String> {
    let mark = format!("{MARK}={mark}");
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let marked = entries.filter(|entry| {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    });
    marked.map(|entry| std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default()).collect()
}

#[test]
fn each_side_is_measured_and_goes() {
    needs_kvm!();
    if !there(&[
        ("ip", "iproute2"),
        ("nft", "nftables"),
        ("haproxy", "haproxy"),
        ("nginx", "nginx-light libnginx-mod-stream"),
        ("ethtool", "ethtool"),
        ("dpdk-testpmd", "dpdk-dev"),
    ]) {
        return;
    }
    let mark = format!("{}-sides", std::process::id());
    let cases = ["nat-1-flow", "connections-tap", "bulk-tap", "latency-idle", "latency-half-load"];
    let mut command = bench(&mark);
    command.args(["--rounds", "1", "--seconds", "0.25", "--json"]);
    for case in cases {
        command.args(["--only", case]);
    }
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    for case in report["cases"].as_array().expect("cases") {
        for side in case["sides"].as_array().expect("sides") {
            // Not every kernel has IPVS; the report says so.
            if side["name"] == "ipvs" && side["missing"].is_string() {
                continue;
            }
            let values = side["rounds"][0]["values"].as_array().unwrap_or_else(|| panic!("{}: {side:#}", case["name"]));
            assert_eq!(values.len(), case["values"].as_array().map_or(0, Vec::len), "{side:#}");
            assert!(values.iter().all(|value| value.as_f64().is_some_and(|value| value > 0.0)), "{side:#}");
        }
    }
    assert_eq!(left(&mark), [""; 0]);
}

#[test]
fn an_interrupted_run_tells_what_it_has_and_leaves_nothing() {
    needs_kvm!();
    if !there(&[("ip", "iproute2"), ("nft", "nftables")]) {
        return;
    }
    let mark = format!("{}-interrupted", std::process::id());
    let mut command = bench(&mark);
    command.args(["--rounds", "1000", "--seconds", "0.05", "--only", "image", "--only", "bulk-tap"]);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = command.spawn().expect("it starts");
    let mut output = BufReader::new(running.stdout.take().expect("a pipe"));
    let mut line = String::new();
    // The facts come first; the handler is there by then.
    output.read_line(&mut line).expect("a line");
    let id = running.id().cast_signed();
    // SAFETY: `kill` takes no pointers; the process is ours and has not been waited for.
    assert_eq!(unsafe { libc::kill(id, libc::SIGINT) }, 0);
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("text");
    assert!(running.wait().expect("a status").success(), "{rest}");
    assert!(rest.contains("This is not all: it was stopped."), "{rest}");
    assert!(rest.contains("\nimage: ") && rest.contains("\nbulk-tap: "), "{rest}");
    assert_eq!(left(&mark), [""; 0]);
}
