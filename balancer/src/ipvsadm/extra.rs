//! `extra`: what services do that IPVS cannot. Not of ipvsadm.

use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use super::parse::{endpoint, number};
use super::show::ServiceOptions;
use super::{Command, ParseError, Problem};
use crate::{Announce, Extras, Family, LocalPool, Protocol, ServiceKey, SourceLimits};

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
fn entry(words: &[&str]) -> Result<(Option<ServiceKey>, Extras), ParseError> {
    // `--option=value` is as `--option value`.
    let pieces: Vec<&str> = words.iter().flat_map(|word| word.splitn(2, '=')).collect();
    let mut pieces = pieces.into_iter();
    let (mut service, mut is_v6) = (None, false);
    let (mut range, mut ports, mut all) = (None, None, false);
    let (mut announce, mut cookies) = (None, None);
    let (mut connections, mut rate, mut prefix, mut reset) = (None, None, [None; 2], None);
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
            "--all" => all = true,
            "--syn-cookies" => {
                let text = value("a number")?;
                let read =
                    number(text, 0, u32::MAX).ok_or_else(|| ParseError::new(text, Problem::Number("threshold")))?;
                once(&mut cookies, read).ok_or_else(|| repeated("threshold"))?;
            }
            "--client-address" => {
                let text = value("toa or proxy")?;
                let read = Announce::ALL.into_iter().find(|way| *way != Announce::Nothing && way.name() == text);
                let read = read.ok_or_else(|| ParseError::new(text, Problem::Announce))?;
                once(&mut announce, read).ok_or_else(|| repeated("way"))?;
            }
            "--source-connections" => {
                let text = value("a number")?;
                let read = number(text, 1, u32::MAX).ok_or_else(|| ParseError::new(text, Problem::Number("limit")))?;
                once(&mut connections, read).ok_or_else(|| repeated("limit"))?;
            }
            "--source-rate" => {
                let text = value("RATE or RATE/BURST")?;
                let read = rate_of(text).ok_or_else(|| ParseError::new(text, Problem::Rate))?;
                once(&mut rate, read).ok_or_else(|| repeated("rate"))?;
            }
            "--source-prefix" | "--source-prefix-v6" => {
                let is_v6 = option.ends_with("v6");
                let text = value("a prefix length")?;
                let read = number(text, 1, if is_v6 { 128 } else { 32 });
                let read = read.ok_or_else(|| ParseError::new(text, Problem::Number("prefix length")))?;
                once(&mut prefix[usize::from(is_v6)], (option, read as u8)).ok_or_else(|| repeated("prefix length"))?;
            }
            "--source-reset" => reset = Some(option),
            _ => return Err(ParseError::new(option, Problem::ExtraOption)),
        }
    }
    let service = match service {
        None if all => None,
        Some(_) if all => return Err(ParseError::new("--all", Problem::AllAndService)),
        None => return Err(ParseError::new("", Problem::Needs("a service: -t, -u or -f, or --all"))),
        Some(ServiceKey::Mark { mark, .. }) if is_v6 => Some(ServiceKey::Mark { family: Family::V6, mark }),
        Some(ServiceKey::Address { .. }) if is_v6 => return Err(ParseError::new("-6", Problem::FamilyOfAddress)),
        service => service,
    };
    let pool = match (range, ports) {
        (None, Some((word, _))) => return Err(ParseError::new(word, Problem::NotWith("no --full-nat"))),
        (None, None) => None,
        (Some((first, last)), ports) => {
            Some(LocalPool { first, last, ports: ports.map_or(LocalPool::PORTS, |(_, ports)| ports) })
        }
    };
    let default = SourceLimits::default();
    let ((rate, burst), [v4, v6]) = (rate.unwrap_or((0, default.burst)), prefix);
    let limits = SourceLimits {
        connections: connections.unwrap_or(0),
        rate,
        burst,
        prefix_v4: v4.map_or(default.prefix_v4, |(_, length)| length),
        prefix_v6: v6.map_or(default.prefix_v6, |(_, length)| length),
        reset: reset.is_some(),
    };
    if let (true, Some(word)) = (limits.is_none(), v4.or(v6).map(|(word, _)| word).or(reset)) {
        return Err(ParseError::new(word, Problem::NotWith("no limit: --source-connections or --source-rate")));
    }
    Ok((service, Extras { pool, announce: announce.unwrap_or_default(), syn_cookies: cookies, limits }))
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

/// `50` or `50/100`: without a burst, as many at once as a second.
fn rate_of(text: &str) -> Option<(u32, u32)> {
    let (rate, burst) = text.split_once('/').unwrap_or((text, text));
    Some((number(rate, 1, 1_000_000)?, number(burst, 1, 1_000_000)?))
}

/// `5000` or `1024-65535`.
fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text| number(text, 1, u16::MAX.into()).map(|port| port as u16);
    Some((port(first)?, port(last)?)).filter(|(first, last)| first <= last)
}

/// The words after `extra`; what is said by default is left out.
pub(super) struct ExtraOptions<'a>(pub Option<&'a ServiceKey>, pub &'a Extras);

impl fmt::Display for ExtraOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ExtraOptions(service, Extras { pool, announce, syn_cookies, limits }) = self;
        f.write_str(if self.1.is_none() { "clear" } else { "set" })?;
        match service {
            Some(service) => write!(f, " {}", ServiceOptions(service))?,
            None => f.write_str(" --all")?,
        }
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
        if *announce != Announce::Nothing {
            write!(f, " --client-address {}", announce.name())?;
        }
        if let Some(threshold) = syn_cookies {
            write!(f, " --syn-cookies {threshold}")?;
        }
        if limits.connections > 0 {
            write!(f, " --source-connections {}", limits.connections)?;
        }
        match (limits.rate, limits.burst) {
            (0, _) => {}
            (rate, burst) if rate == burst => write!(f, " --source-rate {rate}")?,
            (rate, burst) => write!(f, " --source-rate {rate}/{burst}")?,
        }
        if limits.is_none() {
            return Ok(());
        }
        let default = SourceLimits::default();
        if limits.prefix_v4 != default.prefix_v4 {
            write!(f, " --source-prefix {}", limits.prefix_v4)?;
        }
        if limits.prefix_v6 != default.prefix_v6 {
            write!(f, " --source-prefix-v6 {}", limits.prefix_v6)?;
        }
        if limits.reset {
            f.write_str(" --source-reset")?;
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
            "extra set --all --source-connections 100",
            "extra set -t 10.0.0.100:80 --syn-cookies 0",
            "extra set -t 10.0.0.100:80 --client-address proxy --syn-cookies 1000 --source-rate 5",
            "extra set -t 10.0.0.100:80 --client-address toa",
            "extra set -t 10.0.0.100:80 --full-nat 10.0.0.200 --client-address proxy",
            "extra clear --all",
            "extra set -t 10.0.0.100:80 --full-nat 10.0.0.200 --source-connections 9 --source-rate 50/100 --source-prefix 24 --source-prefix-v6 56 --source-reset",
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
            ("extra set", "", Problem::Needs("a service: -t, -u or -f, or --all")),
            ("extra set --all -t 10.0.0.100:80", "--all", Problem::AllAndService),
            ("extra set --all --source-rate 5/0", "5/0", Problem::Rate),
            ("extra set --all --source-connections 0", "0", Problem::Number("limit")),
            ("extra set --all --source-prefix 33", "33", Problem::Number("prefix length")),
            (
                "extra set --all --source-reset",
                "--source-reset",
                Problem::NotWith("no limit: --source-connections or --source-rate"),
            ),
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
            ("extra set -t 10.0.0.100:80 --client-address nothing", "nothing", Problem::Announce),
            ("extra set -t 10.0.0.100:80 --snat", "--snat", Problem::ExtraOption),
        ] {
            assert_eq!(parse(line), Err(ParseError::new(word, problem)), "{line}");
        }
    }
}
