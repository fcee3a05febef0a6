//! `mark`: rules that give packets the marks of services (`-f`). Not of ipvsadm: on Linux they are nftables' or iptables'.

use alloc::vec::Vec;
use core::fmt;

use super::parse::number;
use super::{Command, ParseError, Problem};
use crate::{Cidr, Family, MarkRule, Protocol};

/// What follows `mark`: nothing for a list, `add` or `delete` with a rule, `clear`.
pub(super) fn parse(words: &[&str]) -> Result<Command, ParseError> {
    match words {
        [] => Ok(Command::ShowMarks),
        ["clear"] => Ok(Command::ClearMarks),
        ["add", rest @ ..] => rule(rest).map(Command::AddMark),
        ["delete", rest @ ..] => rule(rest).map(Command::DeleteMark),
        [other, ..] => Err(ParseError::new(other, Problem::MarkCommand)),
    }
}

fn rule(words: &[&str]) -> Result<MarkRule, ParseError> {
    let [first, options @ ..] = words else { return Err(ParseError::new("", Problem::Mark)) };
    let mark = number(first, 1, u32::MAX).ok_or_else(|| ParseError::new(first, Problem::Mark))?;
    let (mut family, mut protocol, mut cidrs, mut ports) = (None, None, [None; 2], [None; 2]);
    // `--option=value` is as `--option value`.
    let pieces: Vec<&str> = options.iter().flat_map(|word| word.splitn(2, '=')).collect();
    let mut pieces = pieces.into_iter();
    while let Some(option) = pieces.next() {
        let repeated = |name| Err(ParseError::new(option, Problem::Repeated(name)));
        let mut value = |what| pieces.next().ok_or_else(|| ParseError::new(option, Problem::MissingValue(what)));
        let at = usize::from(matches!(option, "-d" | "--destination" | "--dport" | "--destination-port"));
        match option {
            "-6" | "--ipv6" => family = Some(Family::V6),
            "-p" | "--protocol" => {
                let text = value("tcp, udp or sctp")?;
                let found = match text {
                    "tcp" => Protocol::Tcp,
                    "udp" => Protocol::Udp,
                    "sctp" => Protocol::Sctp,
                    _ => return Err(ParseError::new(text, Problem::MarkProtocol)),
                };
                if protocol.replace(found).is_some() {
                    return repeated("protocol");
                }
            }
            "-s" | "--source" | "-d" | "--destination" => {
                let text = value("ADDRESS or ADDRESS/PREFIX")?;
                let cidr: Cidr = text.parse().map_err(|_| ParseError::new(text, Problem::Network))?;
                if cidrs[at].replace(cidr).is_some() {
                    return repeated("address");
                }
            }
            "--sport" | "--source-port" | "--dport" | "--destination-port" => {
                let text = value("PORT or FIRST:LAST")?;
                if ports[at].replace(range(text)?).is_some() {
                    return repeated("port");
                }
            }
            _ => return Err(ParseError::new(option, Problem::MarkOption)),
        }
    }
    let of_address = |cidr: &Cidr| Family::of(&cidr.address);
    let mut families = family.into_iter().chain(cidrs.iter().flatten().map(of_address));
    let family = families.next().unwrap_or(Family::V4);
    if families.any(|other| other != family) {
        return Err(ParseError::new(first, Problem::MarkFamilies));
    }
    let all = MarkRule::new(family, mark);
    Ok(MarkRule {
        protocol,
        source: cidrs[0].unwrap_or(all.source),
        destination: cidrs[1].unwrap_or(all.destination),
        source_ports: ports[0].unwrap_or(all.source_ports),
        destination_ports: ports[1].unwrap_or(all.destination_ports),
        ..all
    })
}

/// `80` or `80:90`.
fn range(text: &str) -> Result<(u16, u16), ParseError> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    let port = |text| number(text, 0, u16::MAX.into()).map(|port| port as u16);
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(ParseError::new(text, Problem::Ports)),
    }
}

/// The words of a rule after `add` or `delete`; what is said by default is left out.
pub(super) struct RuleOptions<'a>(pub &'a MarkRule);

impl fmt::Display for RuleOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = self.0;
        let all = MarkRule::new(rule.family(), rule.mark);
        write!(f, "{}", rule.mark)?;
        if rule.family() == Family::V6 && (rule.source, rule.destination) == (all.source, all.destination) {
            f.write_str(" -6")?;
        }
        match rule.protocol {
            Some(Protocol::Tcp) => f.write_str(" -p tcp")?,
            Some(Protocol::Udp) => f.write_str(" -p udp")?,
            Some(Protocol::Sctp) => f.write_str(" -p sctp")?,
            Some(Protocol::Ip) | None => {}
        }
        if rule.source != all.source {
            write!(f, " -s {}", rule.source)?;
        }
        if rule.destination != all.destination {
            write!(f, " -d {}", rule.destination)?;
        }
        for (option, (first, last)) in [("--sport", rule.source_ports), ("--dport", rule.destination_ports)] {
            match (first, last) {
                ports if MarkRule::is_any_port(ports) => {}
                (first, last) if first == last => write!(f, " {option} {first}")?,
                (first, last) => write!(f, " {option} {first}:{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn parse(line: &str) -> Result<Command, ParseError> {
        super::super::parse(&line.split(' ').collect::<Vec<_>>())
    }

    #[test]
    fn what_is_shown_is_read_again() {
        for line in [
            "mark",
            "mark clear",
            "mark add 7",
            "mark add 7 -6",
            "mark delete 4294967295 -p udp --dport 53",
            "mark add 8 -p sctp --dport 2905",
            "mark add 7 -p tcp -s 10.9.0.0/16 -d 10.0.0.200/32 --sport 1024:65535 --dport 80:443",
            "mark add 7 -d fd00::/64",
        ] {
            assert_eq!(parse(line).map(|command| command.to_string()), Ok(line.into()));
        }
        let long = "mark add 7 --protocol=tcp --source 10.9.0.0/16 --destination 10.0.0.200 --destination-port 80";
        assert_eq!(parse(long), parse("mark add 7 -p tcp -s 10.9.0.0/16 -d 10.0.0.200/32 --dport 80:80"));
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (line, word, problem) in [
            ("mark remove", "remove", Problem::MarkCommand),
            ("mark add", "", Problem::Mark),
            ("mark add 0", "0", Problem::Mark),
            ("mark add 7 -p icmp", "icmp", Problem::MarkProtocol),
            ("mark add 7 -p", "-p", Problem::MissingValue("tcp, udp or sctp")),
            ("mark add 7 -d 10.0.0.300", "10.0.0.300", Problem::Network),
            ("mark add 7 -d fd00::1 -s 10.0.0.1", "7", Problem::MarkFamilies),
            ("mark add 7 --dport 2:1", "2:1", Problem::Ports),
            ("mark add 7 --dport 1 --dport 2", "--dport", Problem::Repeated("port")),
            ("mark add 7 -i eth0", "-i", Problem::MarkOption),
        ] {
            assert_eq!(parse(line), Err(ParseError::new(word, problem)), "{line}");
        }
    }
}
