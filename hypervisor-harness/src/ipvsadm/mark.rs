//! `ringlet mark`: the rules that give packets the marks of services (`ipvsadm -f`) in a running load balancer.

use std::io::Write;

use ringlet_balancer::ipvsadm::Command;

use super::client::{Client, Failure};

pub(super) const HELP: &str = "\
Rules that give packets marks, for services of marks (ringlet ipvsadm -A -f MARK): what nftables or iptables do on Linux.

  ringlet mark                                            the rules, in order
  ringlet mark add 7 -p tcp -d 10.0.0.200 --dport 80:443  packets for these ports of 10.0.0.200 get mark 7
  ringlet mark delete 7 -p tcp -d 10.0.0.200 --dport 80:443
  ringlet mark clear                                      no rules

Options of a rule; what is not said fits every packet:
  -p, --protocol tcp|udp|sctp
  -s, --source ADDRESS[/PREFIX]
  -d, --destination ADDRESS[/PREFIX]
      --sport, --source-port PORT[:LAST]
      --dport, --destination-port PORT[:LAST]
  -6, --ipv6                    of IPv6, where no address says so

Of several rules that fit, the last counts. A destination that is a single host is answered for (ARP, ping) as soon as there is a
service of the mark; networks have to be routed to the balancer. In a file of rules the same lines do, without `ringlet'.
";

/// Prints the rules as the commands that make them.
pub(super) fn show(client: &mut Client, out: &mut dyn Write) -> Result<(), Failure> {
    for rule in client.marks()? {
        let _ = writeln!(out, "{}", Command::AddMark(rule));
    }
    Ok(())
}
