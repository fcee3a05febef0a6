//! `ringlet bench`: that it measures, and tells what it has measured in every form. Nothing here says how fast anything is.

mod common;

use std::process::{Command, Stdio};

use common::ringlet::PROGRAM;
use common::scratch::Scratch;
use serde_json::Value;

/// Runs some cases with tiny times. Returns what was told, in every form.
fn bench(scratch: &Scratch, words: &str) -> (Value, String, String) {
    let (html, markdown) = (scratch.file("report.html"), scratch.file("report.md"));
    let mut command = Command::new(PROGRAM);
    command.args(["bench", "--rounds", "2", "--seconds", "0.25", "--json", "--html", &html, "--markdown", &markdown]);
    let output = command.args(words.split_whitespace()).stdin(Stdio::null()).output().expect("it starts");
    let (said, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complaints}");
    let report = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    let read = |path: &str| std::fs::read_to_string(path).expect("it was written");
    (report, read(&html), read(&markdown))
}

/// The guest says itself that its table has all of them.
#[test]
fn ten_million_connections_fit_into_a_guest_of_2_gib() {
    needs_kvm!();
    let output = Command::new(PROGRAM).args(["bench", "--footprint", "10000000"]).output().expect("it starts");
    let (said, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{complaints}");
    let bytes: u64 = said.trim().parse().expect("a number of bytes");
    // All of the process, the guest's rings and buffers and the host's own memory included.
    let each = bytes / 10_000_000;
    assert!((64..=128).contains(&each), "{bytes} bytes, {each} a connection");
}

#[test]
fn cases_are_measured_and_told() {
    needs_kvm!();
    let scratch = Scratch::new("bench");
    let (report, html, markdown) = bench(
        &scratch,
        "--only image --only boot --only rings --only super-tcp4 --only http --only idle --only connections --only direct-10k-flows --only ipip-10k-flows --against packed",
    );
    let cases = report["cases"].as_array().expect("cases");
    let names: Vec<_> = cases.iter().map(|case| case["name"].as_str().expect("a name")).collect();
    assert_eq!(
        names,
        ["direct-10k-flows", "ipip-10k-flows", "rings", "super-tcp4", "connections", "boot", "http", "image", "idle"]
    );
    let page = roxmltree::Document::parse(&html).unwrap_or_else(|error| panic!("{error}:\n{html}"));
    for case in cases {
        let name = case["name"].as_str().expect("a name");
        let side = &case["sides"][0];
        assert_eq!(side["rounds"].as_array().map(Vec::len), Some(2), "{case:#}");
        let summary = &side["summary"][0];
        let value = |name: &str| summary[name].as_f64().expect("a number");
        // An idle guest may really do nothing.
        assert!(value("least") > 0.0 || name == "idle" && value("least") == 0.0, "{name}");
        assert!(value("least") <= value("median") && value("median") <= value("greatest"));
        assert!(page.descendants().any(|node| node.attribute("id") == Some(name)), "{name} is not on the page");
        assert!(markdown.contains(&format!("| `{name}` |")), "{name} is not in the table");
    }
    // The size is the same each time, and known.
    let size = cases[7]["sides"][0]["summary"][0]["median"].as_f64().expect("a number");
    assert_eq!(size * 1024.0, ringlet::image::EMBEDDED.len() as f64);
    // The form for people, from what was written for programs.
    let file = scratch.file("report.json");
    std::fs::write(&file, report.to_string()).expect("written");
    let output = Command::new(PROGRAM).args(["bench", "--from", &file]).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && names.iter().all(|name| text.contains(&format!("{name}: "))), "{text}");
}

#[test]
fn memory_is_measured_in_processes_of_their_own() {
    needs_kvm!();
    let of = |flows: &str| -> u64 {
        let output = Command::new(PROGRAM).args(["bench", "--footprint", flows]).output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
    };
    let (none, many) = (of("0"), of("100000"));
    // What the guest has touched for so many connections, which is a good deal more than 32 bytes each.
    assert!(none > 1 << 20 && many > none + 32 * 100_000, "{none}, {many}");
}

#[test]
fn what_cannot_be_is_refused() {
    for (words, part) in [
        ("bench --only nonsense", "no case has nonsense in its name"),
        ("bench --pin-vcpu 9999", "this process may only use the processors"),
        ("bench --from /nonexistent", "cannot read /nonexistent"),
        ("run --pin-device 9999", "this process may only use the processors"),
        ("run --net vhost-user=/s --pin-device 0 --ip 10.0.0.2/24", "another process serves the device"),
    ] {
        let output = Command::new(PROGRAM).args(words.split_whitespace()).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(part), "{words}: {said}");
    }
    let output = Command::new(PROGRAM).args(["bench", "--list"]).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("nat-10k-flows: ") && said.contains("\n  nftables "), "{said}");
}

#[test]
fn threads_stay_where_they_are_put() {
    needs_kvm!();
    // The first processor that this process may use.
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a list").trim();
    let first = list.split([',', '-']).next().expect("a processor").to_owned();
    let ringlet = common::ringlet::Ringlet::start(&["run", "--pin-vcpu", &first, "--pin-device", &first]);
    let tasks = std::fs::read_dir(format!("/proc/{}/task", ringlet.id())).expect("its threads");
    let mut pinned = Vec::new();
    for task in tasks {
        let task = task.expect("a thread").path();
        let read = |name: &str| std::fs::read_to_string(task.join(name)).expect("it lives");
        let name = read("comm").trim().to_owned();
        let allowed = read("status");
        let allowed = allowed.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a list");
        if matches!(name.as_str(), "vcpu0" | "net0") {
            assert_eq!(allowed.trim(), first, "{name}");
            pinned.push(name);
        }
    }
    pinned.sort();
    assert_eq!(pinned, ["net0", "vcpu0"]);
    assert_eq!(ringlet.interrupt(), 0);
}
