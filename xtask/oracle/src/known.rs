//! Where the two sides differ and are known to.

/// A case that needs what the balancer does not have yet. It has to fail: when it does not any more, it goes from this list.
pub const NOT_BUILT: &[(&str, &str)] = &[];

/// Where the balancer is not Linux on purpose. A case names one (`! NAME`) before the step where it shows. docs/oracle.md has the
/// same list.
pub const CHOICES: &[(&str, &str)] = &[
    (
        "counters",
        "Counters are told as they are. Linux tells them, and takes what is to be zeroed, as of its last estimation of rates, up to two seconds ago.",
    ),
    (
        "no router",
        "What belongs to no connection and is not for the balancer is dropped. Linux with `ip_forward`, which NAT needs there, sends it on.",
    ),
    (
        "own errors",
        "ICMP errors that the balancer makes are no packets of the connection. Linux counts them as such, going out, where the forwarding method is not NAT.",
    ),
    (
        "quoted hops",
        "A packet that is too big is quoted as it came. Linux has counted down its TTL before it looks at the size.",
    ),
    (
        "foreign addresses",
        "Who sends to an address that is not this machine's, to a service of a mark, is told of an error. Linux, where routing makes such an address its own, is silent.",
    ),
    (
        "unicast services",
        "A service whose address is no unicast address is refused (EINVAL). Linux takes it, and no packet ever meets it.",
    ),
    (
        "quoted fragments",
        "An error about a datagram in fragments quotes the first as it came. Linux has put them together and quotes the whole.",
    ),
    (
        "tunnelled fragments",
        "Each fragment goes through a tunnel by itself. Linux puts the whole datagram into the tunnel, and cuts what comes of that.",
    ),
    (
        "hop-by-hop options",
        "A packet with hop-by-hop options reaches its server. Linux 6.1 balances and counts it, and loses it then.",
    ),
    (
        "routing headers",
        "A packet with a routing header and segments left has another destination than the one to be seen, and is not balanced. Linux balances it.",
    ),
    (
        "atomic fragments",
        "An IPv6 fragment that is all of its datagram goes on as it came, and counts with its fragment header. Linux takes that off.",
    ),
    (
        "SCTP checksums",
        "An SCTP packet that came damaged leaves as damaged. Linux sums it anew where NAT changes its port, and so makes it right.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_every_choice_and_no_other() {
        let text = include_str!("../../../docs/oracle.md");
        let (_, table) = text.split_once("| choice | |\n|---|---|\n").expect("the table of choices");
        let lines: Vec<_> = table.lines().take_while(|line| line.starts_with('|')).map(str::to_owned).collect();
        let expected: Vec<_> = CHOICES.iter().map(|(name, reason)| format!("| {name} | {reason} |")).collect();
        assert_eq!(lines, expected, "docs/oracle.md is to have this table");
    }
}
