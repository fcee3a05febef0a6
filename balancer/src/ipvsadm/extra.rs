//! `extra`: what services do that IPVS cannot. Not of ipvsadm.

use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use super::parse::{endpoint, number};
use super::show::ServiceOptions;
use super::{Command, ParseError, Problem};
use crate::{Extras, Family, LocalPool, Protocol, ServiceKey};

/// What follows `extra`: nothing for a list, `set` with a service and what it is to do, `clear` with a service.
pub(super) fn parse(words: &[&str]) -> Result<Command, ParseError> {
    match words {
        [] => Ok(Command::ShowExtras),
        ["set", rest @ ..] => {
            let (service, extras) = entry(rest)?;
            match extras.is_none() {
                true => Err(ParseError::new("set", Problem::Extra)),
                false => Ok(Command::SetExtras { service, extras }),
            }
        }
        ["clear", rest @ ..] => {
            let (service, extras) = entry(rest)?;
            match extras.is_none() {
                true => Ok(Command::SetExtras { service, extras }),
                false => Err(ParseError::new("clear", Problem::Stray)),
            }
        }
        [other, ..] => Err(ParseError::new(other, Problem::ExtraCommand)),
    }
}

/// A service, and what it is to do: what is not said it is not to do.
fn entry(words: &[&str]) -> Result<(ServiceKey, Extras), ParseError> {
    // `--option=value` is as `--option value`.
    let pieces: Vec<&str> = words.iter().flat_map(|word| word.splitn(2, '=')).collect();
    let mut pieces = pieces.into_iter();
    let (mut service, mut is_v6) = (None, false);
    let (mut range, mut ports) = (None, None);
    while let Some(option) = pieces.next() {
        let repeated = |name| ParseError::new(option, Problem::Repeated(name));
        let mut value = |what| pieces.next().ok_or_else(|| ParseError::new(option, Problem::MissingValue(what)));
        match option {
            "-t" | "--tcp-service" | "-u" | "--udp-service" => {
                let text = value("ADDRESS:PORT")?;
                let (address, port) = endpoint(text).ok_or_else(|| ParseError::new(text, Problem::ServiceAddress))?;
                let protocol = if matches!(option, "-t" | "--tcp-service") { Protocol::Tcp } else { Protocol::Udp };
                let key = ServiceKey::Address { protocol, address, port: port.unwrap_or(0) };
                once(&mut service, key).ok_or_else(|| repeated("service"))?;
            }
            "-f" | "--fwmark-service" => {
                let text = value("MARK")?;
                let mark = number(text, 1, u32::MAX).ok_or_else(|| ParseError::new(text, Problem::Mark))?;
                once(&mut service, ServiceKey::Mark { family: Family::V4, mark }).ok_or_else(|| repeated("service"))?;
            }
            "-6" | "--ipv6" => is_v6 = true,
            "--full-nat" => {
                let text = value("ADDRESS or FIRST-LAST")?;
                let read = addresses(text).ok_or_else(|| ParseError::new(text, Problem::Pool))?;
                once(&mut range, read).ok_or_else(|| repeated("pool"))?;
            }
            "--ports" => {
                let text = value("FIRST-LAST")?;
                let read = port_range(text).ok_or_else(|| ParseError::new(text, Problem::PoolPorts))?;
                once(&mut ports, (option, read)).ok_or_else(|| repeated("range of ports"))?;
            }
            _ => return Err(ParseError::new(option, Problem::ExtraOption)),
        }
    }
    let service = match service {
        None => return Err(ParseError::new("", Problem::Needs("a service: -t, -u or -f"))),
        Some(ServiceKey::Mark { mark, .. }) if is_v6 => ServiceKey::Mark { family: Family::V6, mark },
        Some(ServiceKey::Address { .. }) if is_v6 => return Err(ParseError::new("-6", Problem::FamilyOfAddress)),
        Some(service) => service,
    };
    let pool = match (range, ports) {
        (None, Some((word, _))) => return Err(ParseError::new(word, Problem::NotWith("no --full-nat"))),
        (None, None) => None,
        (Some((first, last)), ports) => {
            Some(LocalPool { first, last, ports: ports.map_or(LocalPool::PORTS, |(_, ports)| ports) })
        }
    };
    Ok((service, Extras { pool }))
}

/// Puts something where nothing is; `None` if something is.
fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

/// `10.0.0.200` or `10.0.0.200-10.0.0.203`.
fn addresses(text: &str) -> Option<(IpAddr, IpAddr)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// `5000` or `1024-65535`.
fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text| number(text, 1, u16::MAX.into()).map(|port| port as u16);
    Some((port(first)?, port(last)?)).filter(|(first, last)| first <= last)
}

/// The words after `extra`; what is said by default is left out.
pub(super) struct ExtraOptions<'a>(pub &'a ServiceKey, pub &'a Extras);

impl fmt::Display for ExtraOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ExtraOptions(service, Extras { pool }) = self;
        write!(f, "{} {}", if self.1.is_none() { "clear" } else { "set" }, ServiceOptions(service))?;
        if let Some(LocalPool { first, last, ports }) = pool {
            write!(f, " --full-nat {first}")?;
            if first != last {
                write!(f, "-{last}")?;
            }
            match *ports {
                LocalPool::PORTS => {}
                (first, last) if first == last => write!(f, " --ports {first}")?,
                (first, last) => write!(f, " --ports {first}-{last}")?,
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
            "extra",
            "extra clear -t 10.0.0.100:80",
            "extra set -t 10.0.0.100:80 --full-nat 10.0.0.200-10.0.0.203",
            "extra set -u [fd00::100]:53 --full-nat fd00::200-fd00::2ff --ports 5000-5999",
            "extra set -f 7 -6 --full-nat fd00::200 --ports 5000",
        ] {
            assert_eq!(parse(line).map(|command| command.to_string()), Ok(line.into()));
        }
        let long = "extra set --tcp-service=10.0.0.100:80 --full-nat=10.0.0.200-10.0.0.200 --ports=1024-65535";
        assert_eq!(parse(long), parse("extra set -t 10.0.0.100:80 --full-nat 10.0.0.200"));
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (line, word, problem) in [
            ("extra add", "add", Problem::ExtraCommand),
            ("extra set", "", Problem::Needs("a service: -t, -u or -f")),
            ("extra set -t 10.0.0.100:80", "set", Problem::Extra),
            ("extra clear -t 10.0.0.100:80 --full-nat 10.0.0.200", "clear", Problem::Stray),
            ("extra set -t nowhere", "nowhere", Problem::ServiceAddress),
            ("extra set -t 10.0.0.100:80 -u 10.0.0.100:80", "-u", Problem::Repeated("service")),
            ("extra set -t 10.0.0.100:80 -6", "-6", Problem::FamilyOfAddress),
            ("extra set -t 10.0.0.100:80 --full-nat", "--full-nat", Problem::MissingValue("ADDRESS or FIRST-LAST")),
            ("extra set -t 10.0.0.100:80 --full-nat 10.0.0", "10.0.0", Problem::Pool),
            ("extra set -t 10.0.0.100:80 --full-nat 10.0.0.1 --ports 0", "0", Problem::PoolPorts),
            ("extra set -t 10.0.0.100:80 --full-nat 10.0.0.1 --ports 2-1", "2-1", Problem::PoolPorts),
            ("extra set -t 10.0.0.100:80 --ports 1-2", "--ports", Problem::NotWith("no --full-nat")),
            ("extra set -t 10.0.0.100:80 --snat", "--snat", Problem::ExtraOption),
        ] {
            assert_eq!(parse(line), Err(ParseError::new(word, problem)), "{line}");
        }
    }
}
