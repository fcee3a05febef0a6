//! `ringlet extra`: what services of a running load balancer do that IPVS cannot.

use std::io::Write;

use ringlet_balancer::ipvsadm::Command;
use ringlet_balancer::{Announce, ExtraInfo, LocalPool, SourceLimits};
use serde_json::{Value, json};

use super::client::{Client, Failure};

pub(super) const HELP: &str = "\
What services do that IPVS cannot: nothing, unless it is said here. docs/beyond.md explains each.

  ringlet extra                                           what each service does, and what was counted; --json as an object
  ringlet extra set -t 10.0.0.100:80 --full-nat 10.0.0.200-10.0.0.203
  ringlet extra clear -t 10.0.0.100:80                    nothing of it any more

`set' says everything at once: what is not named, the service does not do any more.

SERVICE: -t, -u ADDRESS:PORT, or -f MARK [-6], as for `ringlet ipvsadm'; or --all, for limits over all services together.
Options:
  --full-nat FIRST[-LAST]       full NAT: to the servers, clients come from these addresses, which this balancer answers for. The
                                servers' replies come back here whatever their routes are
  --client-address toa|proxy    servers of TCP are told of their clients: by TCP option 254 (TOA, as of Alibaba's LVS and DPVS), or by
                                the PROXY protocol, version 2
  --syn-cookies N               while N connections of such services are half open, SYNs are answered by cookies: servers hear of a
                                client only when it has answered; TCP with servers of -m
  --source-connections N        a client has at most so many connections
  --source-rate N[/BURST]       and makes at most so many new ones a second, and so many at once (default N)
  --source-prefix BITS          what counts as one client: IPv4 addresses that begin alike (default 32)
  --source-prefix-v6 BITS       the same of IPv6 (default 64)
  --source-reset                who is over a limit is told, by a reset or an ICMP error
  --ports FIRST[-LAST]          ports that are used of these addresses (default 1024-65535)

      --connect HOST[:PORT]     where the balancer is (default 127.0.0.1:9101)

In a file of rules the same lines do, without `ringlet'.
";

/// The command that makes what a service does.
pub(super) fn command(info: &ExtraInfo) -> Command {
    Command::SetExtras { service: info.service, extras: info.extras }
}

/// Prints the commands that make what services do, and what was counted behind each.
pub(super) fn show(client: &mut Client, out: &mut dyn Write) -> Result<(), Failure> {
    for info in client.extras()? {
        let _ = write!(out, "{}", command(&info));
        let mut counted = Vec::new();
        if info.extras.pool.is_some() {
            counted.push(format!("no port free: {}", info.counters.exhausted));
        }
        if info.extras.syn_cookies.is_some() {
            let counters = &info.counters;
            let (sent, taken, wrong) = (counters.cookies_sent, counters.cookies_taken, counters.cookies_wrong);
            counted.push(format!("cookies sent: {sent}, taken: {taken}, wrong: {wrong}"));
        }
        if !info.extras.limits.is_none() {
            counted.push(format!("over a limit: {}", info.counters.limited));
        }
        let counted = if counted.is_empty() { String::new() } else { format!("  # {}", counted.join(", ")) };
        let _ = writeln!(out, "{counted}");
    }
    Ok(())
}

/// Prints the same as an object.
pub(super) fn json(client: &mut Client, out: &mut dyn Write) -> Result<(), Failure> {
    let services: Vec<Value> = client.extras()?.iter().map(object).collect();
    let _ = writeln!(out, "{}", json!({ "services": services }));
    Ok(())
}

fn object(info: &ExtraInfo) -> Value {
    let (protocol, service) = info.service.as_ref().map_or(("all", Value::Null), super::json::name);
    let limits = &info.extras.limits;
    let pool = |pool: LocalPool| {
        json!({
            "first": pool.first,
            "last": pool.last,
            "ports": [pool.ports.0, pool.ports.1],
            "exhausted": info.counters.exhausted,
        })
    };
    json!({ "protocol": protocol, "service": service, "full_nat": info.extras.pool.map(pool), "client_address": (info.extras.announce != Announce::Nothing).then(|| info.extras.announce.name()), "syn_cookies": info.extras.syn_cookies.map(|threshold| json!({ "threshold": threshold, "sent": info.counters.cookies_sent, "taken": info.counters.cookies_taken, "wrong": info.counters.cookies_wrong })), "limits": (!limits.is_none()).then(|| limits_of(limits, info.counters.limited)) })
}

fn limits_of(limits: &SourceLimits, limited: u64) -> Value {
    json!({
        "connections": limits.connections,
        "rate": limits.rate,
        "burst": limits.burst,
        "prefix_v4": limits.prefix_v4,
        "prefix_v6": limits.prefix_v6,
        "reset": limits.reset,
        "limited": limited,
    })
}
