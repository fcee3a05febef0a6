//! Rules that give packets marks, in the language of nftables.

use ringlet_balancer::{MarkRule, Protocol};

/// What makes a chain for them, with nothing in it.
pub const TABLE: &str = "table inet oracle {}\nflush table inet oracle\ndelete table inet oracle\ntable inet oracle {\n  \
    chain marks { type filter hook prerouting priority mangle; }\n}\n";

/// What removes all of them.
pub const NONE: &str = "flush ruleset\n";

/// A rule. The last that matches gives the mark, as with those of the balancer.
pub fn rule(rule: &MarkRule) -> String {
    let family = if rule.source.address.is_ipv4() { "ip" } else { "ip6" };
    let protocols = match rule.protocol {
        Some(Protocol::Tcp) => "tcp",
        Some(Protocol::Sctp) => "sctp",
        Some(_) => "udp",
        None => "{ tcp, udp, sctp }",
    };
    let mut text = format!("add rule inet oracle marks meta l4proto {protocols}");
    for (side, cidr) in [("saddr", rule.source), ("daddr", rule.destination)] {
        text += &format!(" {family} {side} {cidr}");
    }
    for (side, (first, last)) in [("sport", rule.source_ports), ("dport", rule.destination_ports)] {
        text += &format!(" th {side} {first}-{last}");
    }
    text + &format!(" meta mark set {}\n", rule.mark)
}
