//! `ringlet sysctl`: the knobs of net.ipv4.vs of a running load balancer, as `sysctl` shows and sets them.

use std::io::Write;

use ringlet_balancer::ipvsadm::Command;
use ringlet_balancer::sysctl::PREFIX;

use super::client::{Client, Failure};

pub(super) const HELP: &str = "\
The knobs of net.ipv4.vs of a running load balancer.

  ringlet sysctl                                 all of them
  ringlet sysctl net.ipv4.vs.sloppy_tcp          one
  ringlet sysctl net.ipv4.vs.sloppy_tcp=1 ...    give it a value
  ringlet sysctl --connect HOST[:PORT] ...       of the balancer there (default 127.0.0.1:9101)

`net.ipv4.vs.' may be left out. In a file of rules (`ringlet --rules', `ringlet ipvsadm -R') a line
`sysctl net.ipv4.vs.sloppy_tcp=1' does the same.

Exit code: 0; 2 wrong usage, or no balancer reached; 255 refused by the balancer.
";

/// Prints a knob, or all.
pub(super) fn show(client: &mut Client, name: Option<&str>, out: &mut dyn Write) -> Result<(), Failure> {
    for (name, value) in client.sysctls(name)? {
        let _ = writeln!(out, "{PREFIX}{name} = {value}");
    }
    Ok(())
}

/// The words of `ringlet sysctl`, of which each is a knob of its own, as those of `ringlet ipvsadm`.
pub(super) fn commands(words: &[&str]) -> Result<Vec<Command>, String> {
    if words.is_empty() {
        return Ok(vec![Command::ShowSysctl(None)]);
    }
    let parse = |word: &&str| ringlet_balancer::ipvsadm::parse(&["sysctl", word]).map_err(|error| error.to_string());
    words.iter().map(parse).collect()
}
