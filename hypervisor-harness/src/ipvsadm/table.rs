//! Listings in ipvsadm's columns.

use std::fmt::Display;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

use ringlet_balancer::ipvsadm::{Listing, ServiceEntry};
use ringlet_balancer::{ConnectionInfo, DestinationInfo, Family, Forward, Protocol, ServiceFlags, ServiceKey};

use super::client::{Client, Failure};
use super::listing::Listed;

/// Prints what `-L` with these options shows.
pub(super) fn list(client: &mut Client, what: &Listing, out: &mut dyn Write) -> Result<(), Failure> {
    if what.timeout {
        let timeouts = client.timeouts()?;
        let (tcp, tcp_fin, udp) = (timeouts.tcp, timeouts.tcp_fin, timeouts.udp);
        let _ = writeln!(out, "Timeout (tcp tcpfin udp): {tcp} {tcp_fin} {udp}");
        return Ok(());
    }
    if what.daemon {
        for (daemon, _) in client.daemons()? {
            let _ = writeln!(out, "{}", ringlet_balancer::wire::daemon::describe(&daemon));
        }
        return Ok(());
    }
    if what.connections {
        return connections(client, what.service.as_ref(), out);
    }
    let title = match what.service {
        // A single service is asked for without the version, as ipvsadm does.
        Some(_) => String::new(),
        None => {
            let info = client.info()?;
            let [major, minor, patch] = info.version;
            format!("IP Virtual Server version {major}.{minor}.{patch} (size={})\n", info.size)
        }
    };
    let listed = client.list(what.service.as_ref(), !what.unsorted)?;
    let _ = write!(out, "{title}{}", header(what));
    for Listed { service, destinations } in &listed {
        let name = service_name(&service.entry.key);
        let _ = match numbers(what, &service.stats, &service.rates) {
            Some(numbers) => writeln!(out, "{name:<33}{numbers}"),
            None => writeln!(out, "{name} {}", properties(&service.entry)),
        };
        for destination in destinations {
            let _ = writeln!(out, "{}", row(what, destination));
        }
    }
    Ok(())
}

/// The columns of `-Lc`.
fn connections(client: &mut Client, only: Option<&ServiceKey>, out: &mut dyn Write) -> Result<(), Failure> {
    let list = client.connections()?;
    let _ = writeln!(out, "IPVS connection entries");
    let _ = writeln!(out, "pro expire {:<11} {:<18} {:<18} destination", "state", "source", "virtual");
    for info in list.iter().filter(|info| only.is_none_or(|key| is_of(info, key))) {
        let (protocol, state) = info.words();
        let expire = format!("{:02}:{:02}", info.expires / 60, info.expires % 60);
        let source = SocketAddr::new(info.client, info.client_port).to_string();
        let service = SocketAddr::new(info.virtual_address, info.virtual_port).to_string();
        let server = SocketAddr::new(info.destination, info.destination_port);
        let _ = writeln!(out, "{protocol:<3} {expire:<6} {state:<11} {source:<18} {service:<18} {server}");
    }
    Ok(())
}

/// Whether a connection is of a service: by what scheduled it, which may be a mark or a service of all ports, or by where it goes.
pub(super) fn is_of(info: &ConnectionInfo, key: &ServiceKey) -> bool {
    let ConnectionInfo { protocol, virtual_address: address, virtual_port: port, .. } = *info;
    info.service == *key || ServiceKey::Address { protocol, address, port } == *key
}

fn header(what: &Listing) -> String {
    let local = "Prot LocalAddress:Port";
    let remote = "  -> RemoteAddress:Port";
    if what.stats {
        format!(
            "{local:<33} {:>8} {:>8} {:>8} {:>8} {:>8}\n{remote}\n",
            "Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"
        )
    } else if what.rate {
        format!("{local:<33} {:>8} {:>8} {:>8} {:>8} {:>8}\n{remote}\n", "CPS", "InPPS", "OutPPS", "InBPS", "OutBPS")
    } else if what.thresholds {
        format!(
            "{local:<33} {:<10} {:<10} {:<10} {:<10}\n{remote}\n",
            "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"
        )
    } else if what.persistent {
        format!(
            "{local:<33} {:<9} {:<11} {:<10} {:<10}\n{remote}\n",
            "Weight", "PersistConn", "ActiveConn", "InActConn"
        )
    } else if what.tunnels {
        format!("{local} Scheduler Flags\n{remote}           Forward TunnelInfo    Weight ActiveConn InActConn\n")
    } else {
        format!("{local} Scheduler Flags\n{remote}           Forward Weight ActiveConn InActConn\n")
    }
}

fn service_name(key: &ServiceKey) -> String {
    match key {
        ServiceKey::Address { protocol, address, port } => {
            let protocol = match protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                Protocol::Sctp => "SCTP",
                _ => "?",
            };
            format!("{protocol:<4} {}", SocketAddr::new(*address, *port))
        }
        ServiceKey::Mark { family: Family::V4, mark } => format!("FWM  {mark}"),
        ServiceKey::Mark { family: Family::V6, mark } => format!("FWM  {mark} IPv6"),
    }
}

/// Scheduler and flags.
fn properties(entry: &ServiceEntry) -> String {
    let mut text = entry.scheduler.as_str().to_owned();
    let mut add = |word: &dyn Display| text.push_str(&format!(" {word}"));
    if let Some(flags) = entry.scheduler_flags() {
        add(&format_args!("({flags})"));
    }
    if entry.flags.contains(ServiceFlags::PERSISTENT) {
        add(&format_args!("persistent {}", entry.timeout));
        match entry.key.family() {
            Family::V4 if entry.netmask != u32::MAX => {
                add(&format_args!("mask {}", Ipv4Addr::from_bits(entry.netmask)));
            }
            Family::V6 if entry.netmask != 128 => add(&format_args!("mask {}", entry.netmask)),
            _ => {}
        }
        if let Some(engine) = &entry.persistence_engine {
            add(&format_args!("pe {}", engine.as_str()));
        }
    }
    if entry.flags.contains(ServiceFlags::ONE_PACKET) {
        add(&"ops");
    }
    text
}

/// The five numbers of `--stats` or `--rate`, if these are asked for.
fn numbers(what: &Listing, stats: &ringlet_balancer::Stats, rates: &ringlet_balancer::Rates) -> Option<String> {
    let five = if what.stats {
        [stats.connections, stats.in_packets, stats.out_packets, stats.in_bytes, stats.out_bytes]
    } else if what.rate {
        [rates.connections, rates.in_packets, rates.out_packets, rates.in_bytes, rates.out_bytes]
    } else {
        return None;
    };
    Some(five.iter().map(|&number| large(number, what.exact)).collect())
}

/// A number in nine columns: above a hundred million in thousands, and so on.
pub(super) fn large(number: u64, exact: bool) -> String {
    const M: u64 = 1_000_000;
    match number {
        _ if exact => format!(" {number:>8}"),
        n if n < 100 * M => format!("{n:>9}"),
        n if n < 1000 * M => format!("{:>8}K", n / 1000),
        n if n < 100_000 * M => format!("{:>8}M", n / M),
        n if n < 100_000_000 * M => format!("{:>8}G", n / (1000 * M)),
        n => format!("{:>8}T", n / (M * M)),
    }
}

fn row(what: &Listing, destination: &DestinationInfo) -> String {
    let DestinationInfo { key, config, active, inactive, .. } = destination;
    let name = format!("  -> {:<28}", SocketAddr::new(key.address, key.port).to_string());
    if let Some(numbers) = numbers(what, &destination.stats, &destination.rates) {
        return name + &numbers;
    }
    let forward = match config.forward {
        Forward::Masquerade => "Masq",
        Forward::Local => "Local",
        Forward::Tunnel => "Tunnel",
        Forward::Direct => "Route",
        Forward::Bypass => "Bypass",
    };
    if what.thresholds {
        let (upper, lower) = (config.upper_threshold, config.lower_threshold);
        format!("{name} {upper:<10} {lower:<10} {active:<10} {inactive:<10}")
    } else if what.persistent {
        format!("{name} {:<9} {:<11} {active:<10} {inactive:<10}", config.weight, destination.persistent)
    } else if what.tunnels {
        let tunnel = tunnel(config.forward, &config.tunnel);
        format!("{name} {forward:<7} {tunnel:<13} {:<6} {active:<10} {inactive:<10}", config.weight)
    } else {
        format!("{name} {forward:<7} {:<6} {active:<10} {inactive:<10}", config.weight)
    }
}

/// How a tunnel is made: type, port of GUE, checksum.
fn tunnel(forward: Forward, tunnel: &ringlet_balancer::Tunnel) -> String {
    let checksum = match tunnel.flags {
        flags if flags & 2 != 0 => "r+c",
        flags if flags & 1 != 0 => "+c",
        _ => "-c",
    };
    match (forward, tunnel.kind) {
        (Forward::Tunnel, 0) => "ipip".to_owned(),
        (Forward::Tunnel, 1) => format!("gue:{}:{checksum}", tunnel.port),
        (Forward::Tunnel, 2) => format!("gre:{checksum}"),
        _ => "n/a".to_owned(),
    }
}
