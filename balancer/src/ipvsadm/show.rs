//! Commands as lines of a file of rules, in the form `ipvsadm-save -n` writes them.

use core::fmt;
use core::net::{Ipv4Addr, SocketAddr};

use super::extra::ExtraOptions;
use super::mark::RuleOptions;
use super::{Command, ServiceEntry};
use crate::{
    Daemon, DestinationConfig, DestinationKey, Family, Forward, Protocol, ServiceFlags, ServiceInfo, ServiceKey,
    Timeouts, sysctl,
};

/// A service's name as options: `-t 10.0.0.100:80`, `-f 7 -6`.
pub(super) struct ServiceOptions<'a>(pub &'a ServiceKey);

impl fmt::Display for ServiceOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.0 {
            ServiceKey::Address { protocol, address, port } => {
                let option = match protocol {
                    Protocol::Tcp => "-t",
                    Protocol::Udp => "-u",
                    Protocol::Sctp => "--sctp-service",
                    // No service is of it.
                    Protocol::Ip => "--ip-service",
                };
                write!(f, "{option} {}", SocketAddr::new(address, port))
            }
            ServiceKey::Mark { family: Family::V4, mark } => write!(f, "-f {mark}"),
            ServiceKey::Mark { family: Family::V6, mark } => write!(f, "-f {mark} -6"),
        }
    }
}

/// The flags of a scheduler by their names, most telling first: bit, name with `sh`, with `mh`, with any other.
pub(super) const SCHEDULER_FLAGS: [(ServiceFlags, [&str; 3]); 3] = [
    (ServiceFlags::SCHEDULER_1, ["sh-fallback", "mh-fallback", "flag-1"]),
    (ServiceFlags::SCHEDULER_2, ["sh-port", "mh-port", "flag-2"]),
    (ServiceFlags::SCHEDULER_3, ["flag-3", "flag-3", "flag-3"]),
];

/// The flags of an entry's scheduler, with commas.
struct SchedulerFlags<'a>(&'a ServiceEntry);

impl ServiceEntry {
    /// The flags of its scheduler as `-b` takes them, `sh-fallback,sh-port` say; `None` if it has none.
    pub fn scheduler_flags(&self) -> Option<impl fmt::Display + '_> {
        SCHEDULER_FLAGS.iter().any(|(flag, _)| self.flags.contains(*flag)).then_some(SchedulerFlags(self))
    }
}

impl fmt::Display for SchedulerFlags<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = match self.0.scheduler.as_str() {
            "sh" => 0,
            "mh" => 1,
            _ => 2,
        };
        let names = SCHEDULER_FLAGS.iter().filter(|(flag, _)| self.0.flags.contains(*flag));
        for (position, (_, name)) in names.enumerate() {
            write!(f, "{}{}", if position == 0 { "" } else { "," }, name[column])?;
        }
        Ok(())
    }
}

impl fmt::Display for ServiceEntry {
    /// The options of `-A`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -s {}", ServiceOptions(&self.key), self.scheduler.as_str())?;
        if self.flags.contains(ServiceFlags::PERSISTENT) {
            write!(f, " -p {}", self.timeout)?;
        }
        match self.key.family() {
            Family::V4 if self.netmask != u32::MAX => write!(f, " -M {}", Ipv4Addr::from_bits(self.netmask))?,
            Family::V6 if self.netmask != 128 => write!(f, " -M {}", self.netmask)?,
            _ => {}
        }
        if let Some(engine) = &self.persistence_engine {
            write!(f, " --pe {}", engine.as_str())?;
        }
        if self.flags.contains(ServiceFlags::ONE_PACKET) {
            f.write_str(" -o")?;
        }
        self.scheduler_flags().map_or(Ok(()), |flags| write!(f, " -b {flags}"))
    }
}

/// The options of `-a`.
struct ServerOptions<'a>(&'a ServiceKey, &'a DestinationKey, &'a DestinationConfig);

impl fmt::Display for ServerOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServerOptions(service, server, config) = self;
        let forward = match config.forward {
            Forward::Masquerade => "-m",
            Forward::Tunnel => "-i",
            // Linux makes `local` of what is said to be a route or NAT to itself; ipvsadm saves it as a route.
            Forward::Direct | Forward::Local | Forward::Bypass => "-g",
        };
        let endpoint = SocketAddr::new(server.address, server.port);
        write!(f, "{} -r {endpoint} {forward} -w {}", ServiceOptions(service), config.weight)?;
        if config.forward == Forward::Tunnel {
            let checksum = match config.tunnel.flags {
                flags if flags & 2 != 0 => "--tun-remcsum",
                flags if flags & 1 != 0 => "--tun-csum",
                _ => "--tun-nocsum",
            };
            match config.tunnel.kind {
                1 => write!(f, " --tun-type gue --tun-port {} {checksum}", config.tunnel.port)?,
                2 => write!(f, " --tun-type gre {checksum}")?,
                _ => f.write_str(" --tun-type ipip")?,
            }
        }
        if config.upper_threshold != 0 {
            write!(f, " -x {}", config.upper_threshold)?;
        }
        if config.lower_threshold != 0 {
            write!(f, " -y {}", config.lower_threshold)?;
        }
        Ok(())
    }
}

impl fmt::Display for Command {
    /// The words of the command, without `ipvsadm`, in the canonical form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::AddService(entry) => write!(f, "-A {entry}"),
            Command::EditService(entry) => write!(f, "-E {entry}"),
            Command::DeleteService(key) => write!(f, "-D {}", ServiceOptions(key)),
            Command::AddServer { service, server, config } => {
                write!(f, "-a {}", ServerOptions(service, server, config))
            }
            Command::EditServer { service, server, config } => {
                write!(f, "-e {}", ServerOptions(service, server, config))
            }
            Command::DeleteServer { service, server } => {
                write!(f, "-d {} -r {}", ServiceOptions(service), SocketAddr::new(server.address, server.port))
            }
            Command::Clear => f.write_str("-C"),
            Command::Zero(None) => f.write_str("-Z"),
            Command::Zero(Some(key)) => write!(f, "-Z {}", ServiceOptions(key)),
            Command::SetTimeouts(Timeouts { tcp, tcp_fin, udp }) => write!(f, "--set {tcp} {tcp_fin} {udp}"),
            Command::AddMark(rule) => write!(f, "mark add {}", RuleOptions(rule)),
            Command::DeleteMark(rule) => write!(f, "mark delete {}", RuleOptions(rule)),
            Command::ClearMarks => f.write_str("mark clear"),
            Command::ShowMarks => f.write_str("mark"),
            Command::SetExtras { service, extras } => write!(f, "extra {}", ExtraOptions(service.as_ref(), extras)),
            Command::ShowExtras => f.write_str("extra"),
            Command::SetSysctl { name, value, second: None } => write!(f, "sysctl {}{name}={value}", sysctl::PREFIX),
            Command::SetSysctl { name, value, second: Some(second) } => {
                write!(f, "sysctl {}{name}={value} {second}", sysctl::PREFIX)
            }
            Command::ShowSysctl(None) => f.write_str("sysctl"),
            Command::ShowSysctl(Some(name)) => write!(f, "sysctl {}{name}", sysctl::PREFIX),
            Command::List(list) => {
                f.write_str("-L")?;
                if let Some(key) = &list.service {
                    write!(f, " {}", ServiceOptions(key))?;
                }
                for (given, option) in [
                    (list.numeric, "-n"),
                    (list.connections, "-c"),
                    (list.timeout, "--timeout"),
                    (list.daemon, "--daemon"),
                    (list.stats, "--stats"),
                    (list.rate, "--rate"),
                    (list.thresholds, "--thresholds"),
                    (list.persistent, "--persistent-conn"),
                    (list.tunnels, "--tun-info"),
                    (list.exact, "--exact"),
                    (list.unsorted, "--nosort"),
                ] {
                    if given {
                        write!(f, " {option}")?;
                    }
                }
                Ok(())
            }
            Command::Save => f.write_str("-S"),
            Command::Restore => f.write_str("-R"),
            Command::StartDaemon(daemon) => write!(f, "--start-daemon {}", DaemonOptions(daemon)),
            Command::StopDaemon(role) => write!(f, "--stop-daemon {}", role.name()),
            Command::Help => f.write_str("-h"),
            Command::Version => f.write_str("-v"),
        }
    }
}

/// The options of `--start-daemon`.
struct DaemonOptions<'a>(&'a Daemon);

impl fmt::Display for DaemonOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Daemon { role, interface, syncid, max_len, group, port, ttl } = self.0;
        write!(f, "{} --mcast-interface {} --syncid {syncid}", role.name(), interface.as_str())?;
        if *max_len != 0 {
            write!(f, " --sync-maxlen {max_len}")?;
        }
        if let Some(group) = group {
            write!(f, " --mcast-group {group}")?;
        }
        if *port != 0 {
            write!(f, " --mcast-port {port}")?;
        }
        if *ttl != 0 {
            write!(f, " --mcast-ttl {ttl}")?;
        }
        Ok(())
    }
}

/// The command that would make a service as it is listed.
pub fn service_of(info: &ServiceInfo) -> Command {
    Command::AddService(ServiceEntry::of(info))
}

/// The command that would make a destination as it is listed.
pub fn destination_of(service: &ServiceKey, server: &DestinationKey, config: &DestinationConfig) -> Command {
    Command::AddServer { service: *service, server: *server, config: *config }
}
