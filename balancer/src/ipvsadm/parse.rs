//! From words to a command.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::options::{Opt, Piece, Pieces};
use super::show::SCHEDULER_FLAGS;
use super::{Command, Listing, Name, ParseError, Problem, ServiceEntry};
use crate::{
    Daemon, DaemonRole, DestinationConfig, DestinationKey, Family, Forward, Protocol, ServiceFlags, ServiceKey,
    Sysctls, Timeouts, Tunnel,
};

/// The scheduler of a service for which none is named: wlc.
pub const DEFAULT_SCHEDULER: Name = match Name::new("wlc") {
    Some(name) => name,
    None => unreachable!(),
};
/// The persistence timeout in seconds of `-p` without one.
pub const DEFAULT_PERSISTENCE: u32 = 360;
/// The longest timeout in seconds that ipvsadm takes: 31 days.
pub const TIMEOUT_MAX: u32 = 31 * 24 * 60 * 60;

/// The command that `words` are: those of ipvsadm's command line after its name. No words list the services.
///
/// # Errors
/// The first word at fault.
pub fn parse(words: &[&str]) -> Result<Command, ParseError> {
    match words {
        ["sysctl", rest @ ..] => return sysctl(rest),
        ["mark", rest @ ..] => return super::mark::parse(rest),
        ["extra", rest @ ..] => return super::extra::parse(rest),
        _ => {}
    }
    let given = Given::read(words)?;
    let Some((command, word, value)) = given.command else {
        return match words.first() {
            None => Ok(Command::List(Listing::default())),
            Some(first) => Err(ParseError::new(first, Problem::NoCommand)),
        };
    };
    if matches!(command, Opt::Help | Opt::Version) {
        return Ok(if command == Opt::Help { Command::Help } else { Command::Version });
    }
    given.check(command)?;
    let needs = |what| ParseError::new(word, Problem::Needs(what));
    let service = || given.service()?.ok_or_else(|| needs("a service: -t, -u or -f"));
    let server = || given.server(&service()?)?.ok_or_else(|| needs("a server: -r ADDRESS:PORT"));
    Ok(match command {
        Opt::AddService => Command::AddService(given.entry(service()?, true)?),
        Opt::EditService => Command::EditService(given.entry(service()?, false)?),
        Opt::DeleteService => Command::DeleteService(service()?),
        Opt::AddServer | Opt::EditServer => {
            let (service, mut server, config) = (service()?, server()?, given.config()?);
            if config.forward != Forward::Tunnel && Family::of(&server.address) != service.family() {
                return Err(ParseError::new(given.text(Opt::Server).unwrap_or_default(), Problem::OtherFamily));
            }
            // Only NAT can change the port: the others take the service's whatever is said.
            if config.forward != Forward::Masquerade {
                server.port = port_of(&service);
            }
            match command {
                Opt::AddServer => Command::AddServer { service, server, config },
                _ => Command::EditServer { service, server, config },
            }
        }
        Opt::DeleteServer => Command::DeleteServer { service: service()?, server: server()? },
        Opt::Clear => Command::Clear,
        Opt::Zero => Command::Zero(given.service()?),
        Opt::Set => {
            let [tcp, tcp_fin, udp] = given.strays[..] else {
                return Err(ParseError::new(word, Problem::ThreeTimeouts));
            };
            Command::SetTimeouts(Timeouts {
                tcp: timeout(tcp, 0)?,
                tcp_fin: timeout(tcp_fin, 0)?,
                udp: timeout(udp, 0)?,
            })
        }
        Opt::List => Command::List(given.listing()?),
        Opt::Save => Command::Save,
        Opt::Restore => Command::Restore,
        Opt::StartDaemon => Command::StartDaemon(given.daemon(value.unwrap_or_default())?),
        Opt::StopDaemon => Command::StopDaemon(Given::role(value.unwrap_or_default())?),
        _ => return Err(ParseError::new(word, Problem::NoCommand)),
    })
}

/// What follows `sysctl`: nothing, a name, or a name and a value, or two, as `sysctl` of Linux takes them.
fn sysctl(words: &[&str]) -> Result<Command, ParseError> {
    // `a = 1` is three words for a shell, and one for sysctl.conf; `a=1 2` has two values.
    let text = words.join(" ");
    let (name, values) = match text.split_once('=') {
        Some((name, values)) => (name.trim(), values),
        None if words.len() > 1 => return Err(ParseError::new(words[1], Problem::Stray)),
        None if text.is_empty() => return Ok(Command::ShowSysctl(None)),
        None => {
            let name = Sysctls::find(&text).ok_or_else(|| ParseError::new(&text, Problem::Sysctl))?;
            return Ok(Command::ShowSysctl(Some(name)));
        }
    };
    let name = Sysctls::find(name).ok_or_else(|| ParseError::new(name, Problem::Sysctl))?;
    let read = |text: &str| match number(text, 0, i32::MAX as u32) {
        Some(number) => Ok(number as i32),
        None => Err(ParseError::new(text, Problem::Number("value"))),
    };
    let mut values = values.split_ascii_whitespace();
    let value = read(values.next().unwrap_or_default())?;
    let second = values.next().map(read).transpose()?;
    match values.next() {
        Some(stray) => Err(ParseError::new(stray, Problem::Stray)),
        None => Ok(Command::SetSysctl { name, value, second }),
    }
}

/// The options that go with a command.
fn allowed(command: Opt) -> &'static [Opt] {
    use Opt::*;
    match command {
        AddService | EditService => {
            &[Tcp, Udp, Sctp, Mark, Ipv6, Scheduler, SchedulerFlags, Persistent, Netmask, Engine, OnePacket]
        }
        DeleteService | Zero => &[Tcp, Udp, Sctp, Mark, Ipv6],
        AddServer | EditServer => &[
            Tcp, Udp, Sctp, Mark, Ipv6, Server, Gateway, Ipip, Masquerade, Weight, Upper, Lower, TunType, TunPort,
            TunNoCsum, TunCsum, TunRemCsum,
        ],
        DeleteServer => &[Tcp, Udp, Sctp, Mark, Ipv6, Server],
        List => &[
            Tcp,
            Udp,
            Sctp,
            Mark,
            Ipv6,
            Connection,
            Timeout,
            Daemon,
            Stats,
            Rate,
            Exact,
            Thresholds,
            PersistentConn,
            TunInfo,
            Sort,
            NoSort,
            Numeric,
        ],
        Save => &[Numeric],
        StartDaemon => &[SyncId, SyncMaxLen, McastInterface, McastGroup, McastPort, McastTtl],
        StopDaemon => &[SyncId],
        _ => &[],
    }
}

/// Options of which one excludes the others, and what they are called together. All others can be given once.
const GROUPS: [(&[Opt], &str); 3] = [
    (&[Opt::Tcp, Opt::Udp, Opt::Sctp, Opt::Mark], "service"),
    (&[Opt::Gateway, Opt::Ipip, Opt::Masquerade], "forwarding method"),
    (&[Opt::TunNoCsum, Opt::TunCsum, Opt::TunRemCsum], "tunnel checksum"),
];

/// What was said, not yet understood.
struct Given<'a> {
    /// The command, its word and its value.
    command: Option<(Opt, &'a str, Option<&'a str>)>,
    /// The other options, their words and values.
    options: Vec<(Opt, &'a str, Option<&'a str>)>,
    /// Words that belong to no option.
    strays: Vec<&'a str>,
}

impl<'a> Given<'a> {
    fn read(words: &'a [&'a str]) -> Result<Self, ParseError> {
        let mut given = Given { command: None, options: Vec::new(), strays: Vec::new() };
        for piece in Pieces::new(words) {
            match piece? {
                Piece::Word(word) => given.strays.push(word),
                Piece::Option(option @ (Opt::Help | Opt::Version), word, _) => {
                    // Whatever else is said: somebody is lost.
                    return Ok(Given { command: Some((option, word, None)), ..given });
                }
                Piece::Option(option, word, value) if option.is_command() => {
                    if given.command.replace((option, word, value)).is_some() {
                        return Err(ParseError::new(word, Problem::SecondCommand));
                    }
                }
                Piece::Option(option, word, value) => {
                    let group = GROUPS.iter().find(|(group, _)| group.contains(&option));
                    let rival = |other: Opt| group.map_or(other == option, |(group, _)| group.contains(&other));
                    if given.options.iter().any(|(other, ..)| rival(*other)) {
                        let name = group.map_or(option.name(), |(_, name)| name);
                        return Err(ParseError::new(word, Problem::Repeated(name)));
                    }
                    given.options.push((option, word, value));
                }
            }
        }
        Ok(given)
    }

    /// Whether every word has its place with the command.
    fn check(&self, command: Opt) -> Result<(), ParseError> {
        let fits = allowed(command);
        if let Some((_, word, _)) = self.options.iter().find(|(option, ..)| !fits.contains(option)) {
            return Err(ParseError::new(word, Problem::NotWith(command.name())));
        }
        match self.strays.first() {
            Some(stray) if command != Opt::Set => Err(ParseError::new(stray, Problem::Stray)),
            _ => Ok(()),
        }
    }

    fn has(&self, option: Opt) -> bool {
        self.options.iter().any(|(given, ..)| *given == option)
    }

    fn find(&self, option: Opt) -> Option<(&'a str, Option<&'a str>)> {
        self.options.iter().find(|(given, ..)| *given == option).map(|&(_, word, value)| (word, value))
    }

    /// The value of an option.
    fn text(&self, option: Opt) -> Option<&'a str> {
        self.find(option)?.1
    }

    /// The value of an option, read by `read`, which gives `None` if it cannot.
    fn value<T>(
        &self,
        option: Opt,
        problem: Problem,
        read: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<Option<T>, ParseError> {
        let Some(text) = self.text(option) else { return Ok(None) };
        read(text).map(Some).ok_or_else(|| ParseError::new(text, problem))
    }

    fn service(&self) -> Result<Option<ServiceKey>, ParseError> {
        if let (false, Some((word, _))) = (self.has(Opt::Mark), self.find(Opt::Ipv6)) {
            return Err(ParseError::new(word, Problem::FamilyOfAddress));
        }
        for (option, protocol) in [(Opt::Tcp, Protocol::Tcp), (Opt::Udp, Protocol::Udp), (Opt::Sctp, Protocol::Sctp)] {
            if let Some((address, port)) = self.value(option, Problem::ServiceAddress, endpoint)? {
                return Ok(Some(ServiceKey::Address { protocol, address, port: port.unwrap_or(0) }));
            }
        }
        let family = if self.has(Opt::Ipv6) { Family::V6 } else { Family::V4 };
        let mark = self.value(Opt::Mark, Problem::Mark, |text| number(text, 1, u32::MAX))?;
        Ok(mark.map(|mark| ServiceKey::Mark { family, mark }))
    }

    fn server(&self, service: &ServiceKey) -> Result<Option<DestinationKey>, ParseError> {
        let found = self.value(Opt::Server, Problem::ServerAddress, endpoint)?;
        Ok(found.map(|(address, port)| DestinationKey { address, port: port.unwrap_or(port_of(service)) }))
    }

    fn entry(&self, key: ServiceKey, new: bool) -> Result<ServiceEntry, ParseError> {
        let mut flags = ServiceFlags::empty();
        let mut persistence = 0;
        if let Some((_, value)) = self.find(Opt::Persistent) {
            flags |= ServiceFlags::PERSISTENT;
            persistence = value.map_or(Ok(DEFAULT_PERSISTENCE), |text| timeout(text, 1))?;
        }
        if let Some((word, _)) = self.find(Opt::OnePacket) {
            flags |= ServiceFlags::ONE_PACKET;
            if matches!(key, ServiceKey::Address { protocol: Protocol::Tcp | Protocol::Sctp, .. }) {
                return Err(ParseError::new(word, Problem::OnePacket));
            }
        }
        // An edit of a service that is there needs no such check, and one that is not there is refused anyway.
        if new && !flags.contains(ServiceFlags::PERSISTENT) && matches!(key, ServiceKey::Address { port: 0, .. }) {
            let text = [Opt::Tcp, Opt::Udp, Opt::Sctp].into_iter().find_map(|option| self.text(option));
            return Err(ParseError::new(text.unwrap_or_default(), Problem::ZeroPort));
        }
        let netmask = match key.family() {
            Family::V4 => {
                let read = |text: &str| text.parse().ok().map(Ipv4Addr::to_bits);
                self.value(Opt::Netmask, Problem::Netmask, read)?.unwrap_or(u32::MAX)
            }
            Family::V6 => self.value(Opt::Netmask, Problem::NetmaskV6, |text| number(text, 1, 128))?.unwrap_or(128),
        };
        let scheduler = self.value(Opt::Scheduler, Problem::Name, Name::new)?.unwrap_or(DEFAULT_SCHEDULER);
        if let Some(text) = self.text(Opt::SchedulerFlags) {
            flags |= scheduler_flags(text, &scheduler)?;
        }
        let persistence_engine = self.value(Opt::Engine, Problem::Name, Name::new)?;
        Ok(ServiceEntry { key, scheduler, flags, timeout: persistence, netmask, persistence_engine })
    }

    fn config(&self) -> Result<DestinationConfig, ParseError> {
        let count = |option, what: &'static str| {
            let read = |text: &str| number(text, 0, i32::MAX as u32);
            self.value(option, Problem::Number(what), read)
        };
        let forward = match () {
            () if self.has(Opt::Masquerade) => Forward::Masquerade,
            () if self.has(Opt::Ipip) => Forward::Tunnel,
            () => Forward::Direct,
        };
        Ok(DestinationConfig {
            forward,
            weight: count(Opt::Weight, "weight")?.unwrap_or(1) as i32,
            upper_threshold: count(Opt::Upper, "upper threshold")?.unwrap_or(0),
            lower_threshold: count(Opt::Lower, "lower threshold")?.unwrap_or(0),
            tunnel: self.tunnel(forward)?,
        })
    }

    fn tunnel(&self, forward: Forward) -> Result<Tunnel, ParseError> {
        let options = [Opt::TunType, Opt::TunPort, Opt::TunNoCsum, Opt::TunCsum, Opt::TunRemCsum];
        let refuse = |refused: &[Opt], problem| match refused.iter().find_map(|&option| self.find(option)) {
            Some((word, _)) => Err(ParseError::new(word, problem)),
            None => Ok(()),
        };
        if forward != Forward::Tunnel {
            refuse(&options, Problem::TunnelWithout)?;
            return Ok(Tunnel::default());
        }
        let kinds = |text: &str| ["ipip", "gue", "gre"].iter().position(|&name| name == text);
        let kind = self.value(Opt::TunType, Problem::TunnelType, kinds)?.unwrap_or(0) as u8;
        match kind {
            0 => refuse(&options[1..], Problem::TunnelOption("ipip"))?,
            2 => refuse(&[Opt::TunPort, Opt::TunRemCsum], Problem::TunnelOption("gre"))?,
            _ => {}
        }
        let port = self.value(Opt::TunPort, Problem::TunnelPort, |text| number(text, 1, u16::MAX.into()))?;
        if kind == 1 && port.is_none() {
            return Err(ParseError::new("gue", Problem::Needs("--tun-port PORT")));
        }
        let flags = match () {
            () if self.has(Opt::TunCsum) => 1,
            () if self.has(Opt::TunRemCsum) => 2,
            () => 0,
        };
        Ok(Tunnel { kind, port: port.unwrap_or(0) as u16, flags })
    }

    fn listing(&self) -> Result<Listing, ParseError> {
        // Each of these makes another table; of two, ipvsadm takes the first of its own liking without a word.
        let tables = [
            Opt::Connection,
            Opt::Timeout,
            Opt::Daemon,
            Opt::Stats,
            Opt::Rate,
            Opt::Thresholds,
            Opt::PersistentConn,
            Opt::TunInfo,
        ];
        let mut first = None;
        for (option, word, _) in self.options.iter().filter(|(option, ..)| tables.contains(option)) {
            match first.replace(*option) {
                // What the templates of the connections hold is shown with them.
                Some(Opt::Connection) if *option == Opt::PersistentConn => first = Some(Opt::Connection),
                Some(Opt::PersistentConn) if *option == Opt::Connection => {}
                Some(other) => return Err(ParseError::new(word, Problem::ListConflict(other.name()))),
                None => {}
            }
        }
        if let (true, Some((word, _))) = (self.has(Opt::Sort), self.find(Opt::NoSort)) {
            return Err(ParseError::new(word, Problem::ListConflict("--sort")));
        }
        Ok(Listing {
            service: self.service()?,
            connections: self.has(Opt::Connection),
            timeout: self.has(Opt::Timeout),
            daemon: self.has(Opt::Daemon),
            stats: self.has(Opt::Stats),
            rate: self.has(Opt::Rate),
            thresholds: self.has(Opt::Thresholds),
            persistent: self.has(Opt::PersistentConn),
            tunnels: self.has(Opt::TunInfo),
            exact: self.has(Opt::Exact),
            unsorted: self.has(Opt::NoSort),
            numeric: self.has(Opt::Numeric),
        })
    }

    fn role(role: &str) -> Result<DaemonRole, ParseError> {
        match role {
            "master" => Ok(DaemonRole::Master),
            "backup" => Ok(DaemonRole::Backup),
            _ => Err(ParseError::new(role, Problem::Daemon)),
        }
    }

    fn daemon(&self, role: &str) -> Result<Daemon, ParseError> {
        let range = |option, (least, most)| {
            self.value(option, Problem::DaemonNumber(least, most), |text| number(text, least, most))
        };
        let group = |text: &str| text.parse::<IpAddr>().ok().filter(IpAddr::is_multicast);
        let plain = Daemon::new(Self::role(role)?);
        Ok(Daemon {
            interface: self.value(Opt::McastInterface, Problem::Interface, Name::new)?.unwrap_or(plain.interface),
            syncid: range(Opt::SyncId, (0, 255))?.unwrap_or(0),
            max_len: range(Opt::SyncMaxLen, (1, 65507))?.unwrap_or(0) as u16,
            group: self.value(Opt::McastGroup, Problem::Group, group)?,
            port: range(Opt::McastPort, (1, 65535))?.unwrap_or(0) as u16,
            ttl: range(Opt::McastTtl, (1, 255))?.unwrap_or(0) as u8,
            ..plain
        })
    }
}

/// The port a server has if none is said.
fn port_of(service: &ServiceKey) -> u16 {
    match service {
        ServiceKey::Address { port, .. } => *port,
        ServiceKey::Mark { .. } => 0,
    }
}

/// A decimal number within limits; no sign, no blanks.
pub(super) fn number(text: &str, least: u32, most: u32) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| plain && (least..=most).contains(number))
}

fn timeout(text: &str, least: u32) -> Result<u32, ParseError> {
    number(text, least, TIMEOUT_MAX).ok_or_else(|| ParseError::new(text, Problem::Timeout(least)))
}

/// `10.0.0.1`, `10.0.0.1:80`, `fd00::1`, `[fd00::1]`, `[fd00::1]:80`.
pub(super) fn endpoint(text: &str) -> Option<(IpAddr, Option<u16>)> {
    let port = |text| number(text, 0, u16::MAX.into()).map(|port| Some(port as u16));
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        return match rest {
            "" => Some((address.into(), None)),
            _ => Some((address.into(), port(rest.strip_prefix(':')?)?)),
        };
    }
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Some((address.into(), None));
    }
    match text.split_once(':') {
        None => Some((text.parse::<Ipv4Addr>().ok()?.into(), None)),
        Some((address, rest)) => Some((address.parse::<Ipv4Addr>().ok()?.into(), port(rest)?)),
    }
}

/// The flags of `-b`.
fn scheduler_flags(text: &str, scheduler: &Name) -> Result<ServiceFlags, ParseError> {
    let mut flags = ServiceFlags::empty();
    for word in text.split(',') {
        let found = SCHEDULER_FLAGS.iter().enumerate().find_map(|(position, (flag, names))| {
            let plain = word.strip_prefix("flag-") == Some(["1", "2", "3"][position]);
            (plain || names.contains(&word)).then_some((*flag, plain))
        });
        let Some((flag, plain)) = found else { return Err(ParseError::new(word, Problem::SchedulerFlag)) };
        if !plain && word.split_once('-').is_none_or(|(owner, _)| owner != scheduler.as_str()) {
            return Err(ParseError::new(word, Problem::OtherSchedulersFlag));
        }
        flags |= flag;
    }
    Ok(flags)
}
