//! Listings as one JSON object: `--json`.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

use ringlet_balancer::ipvsadm::{Listing, ServiceEntry};
use ringlet_balancer::{
    ConnectionInfo, Daemon, DestinationInfo, Family, Forward, Protocol, Rates, ServiceFlags, ServiceKey, State, Stats,
    SyncCounters,
};
use serde_json::{Value, json};

use super::client::{Client, Failure};
use super::listing::Listed;
use super::table::is_of;

/// Prints services, destinations, counters, rates and timeouts, whatever else `what` asks for. A line, so that a poller
/// can append them to a file.
pub(super) fn list(client: &mut Client, what: &Listing, out: &mut dyn Write) -> Result<(), Failure> {
    if what.connections {
        let list = client.connections()?;
        let wanted = |info: &&ConnectionInfo| what.service.as_ref().is_none_or(|key| is_of(info, key));
        let connections: Vec<Value> = list.iter().filter(wanted).map(connection).collect();
        let _ = writeln!(out, "{}", json!({ "connections": connections }));
        return Ok(());
    }
    if what.daemon {
        let list: Vec<Value> = client.daemons()?.iter().map(|(daemon, count)| self::daemon(daemon, count)).collect();
        let _ = writeln!(out, "{}", json!({ "daemons": list }));
        return Ok(());
    }
    let info = client.info()?;
    let [major, minor, patch] = info.version;
    let timeouts = client.timeouts()?;
    let listed = client.list(what.service.as_ref(), !what.unsorted)?;
    let object = json!({
        "version": format!("{major}.{minor}.{patch}"),
        "size": info.size,
        "timeouts": { "tcp": timeouts.tcp, "tcp_fin": timeouts.tcp_fin, "udp": timeouts.udp },
        "services": listed.iter().map(service).collect::<Vec<_>>(),
    });
    let _ = writeln!(out, "{object}");
    Ok(())
}

fn connection(info: &ConnectionInfo) -> Value {
    json!({
        "protocol": match info.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
            _ => "ip",
        },
        "template": info.template,
        "client": SocketAddr::new(info.client, info.client_port),
        "service": SocketAddr::new(info.virtual_address, info.virtual_port),
        "destination": SocketAddr::new(info.destination, info.destination_port),
        "local": info.local.map(|(address, port)| SocketAddr::new(address, port)),
        "state": (info.state != State::Only && !info.template).then(|| info.words().1),
        "expires": info.expires,
        "origin": if info.synced { "sync" } else { "local" },
    })
}

fn daemon(daemon: &Daemon, count: &Option<SyncCounters>) -> Value {
    // Both daemons count in one place.
    let counters = count.map(|count| {
        let named = SyncCounters::NAMES.iter().zip(count.values());
        named.map(|(name, value)| ((*name).to_owned(), json!(value))).collect::<serde_json::Map<_, _>>()
    });
    json!({
        "role": daemon.role.name(),
        "interface": daemon.interface.as_str(),
        "syncid": daemon.syncid,
        "maxlen": daemon.max_len,
        "group": daemon.group,
        "port": daemon.port,
        "ttl": daemon.ttl,
        "counters": counters,
    })
}

/// The protocol of a service, and its address and port or its mark.
pub(super) fn name(key: &ServiceKey) -> (&'static str, Value) {
    match key {
        ServiceKey::Address { protocol, address, port } => {
            let protocol = match protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
                _ => "unknown",
            };
            (protocol, json!(SocketAddr::new(*address, *port)))
        }
        ServiceKey::Mark { mark, .. } => ("mark", json!(mark)),
    }
}

fn service(listed: &Listed) -> Value {
    let ServiceEntry { key, scheduler, flags, timeout, netmask, persistence_engine } = &listed.service.entry;
    let (protocol, name) = name(key);
    let persistence = flags.contains(ServiceFlags::PERSISTENT).then(|| {
        let mask = match key.family() {
            Family::V4 => json!(Ipv4Addr::from_bits(*netmask)),
            Family::V6 => json!(netmask),
        };
        json!({ "timeout": timeout, "mask": mask, "engine": persistence_engine.as_ref().map(|name| name.as_str()) })
    });
    json!({
        "protocol": protocol,
        "service": name,
        "family": if key.family() == Family::V4 { 4 } else { 6 },
        "scheduler": scheduler.as_str(),
        "flags": flags.bits(),
        "persistence": persistence,
        "stats": stats(&listed.service.stats),
        "rates": rates(&listed.service.rates),
        "destinations": listed.destinations.iter().map(destination).collect::<Vec<_>>(),
    })
}

fn destination(info: &DestinationInfo) -> Value {
    let forward = match info.config.forward {
        Forward::Masquerade => "masq",
        Forward::Local => "local",
        Forward::Tunnel => "tunnel",
        Forward::Direct => "route",
        Forward::Bypass => "bypass",
    };
    json!({
        "address": SocketAddr::new(info.key.address, info.key.port),
        "forward": forward,
        "weight": info.config.weight,
        "upper_threshold": info.config.upper_threshold,
        "lower_threshold": info.config.lower_threshold,
        "active": info.active,
        "inactive": info.inactive,
        "persistent": info.persistent,
        "stats": stats(&info.stats),
        "rates": rates(&info.rates),
    })
}

fn stats(stats: &Stats) -> Value {
    json!({
        "connections": stats.connections,
        "in_packets": stats.in_packets,
        "out_packets": stats.out_packets,
        "in_bytes": stats.in_bytes,
        "out_bytes": stats.out_bytes,
    })
}

fn rates(rates: &Rates) -> Value {
    json!({
        "connections": rates.connections,
        "in_packets": rates.in_packets,
        "out_packets": rates.out_packets,
        "in_bytes": rates.in_bytes,
        "out_bytes": rates.out_bytes,
    })
}
