//! What can be said.

use core::fmt;

use crate::wire::ipvs::NAME_MAX;
use crate::wire::service::{netmask_bytes, netmask_of};
use crate::{
    Daemon, DaemonRole, DestinationConfig, DestinationKey, Errno, Extras, MarkRule, ServiceConfig, ServiceFlags,
    ServiceInfo, ServiceKey, Timeouts, wire,
};

/// The name of a scheduler or persistence engine: 1 to 15 bytes. Whether there is one of that name, the balancer says.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name {
    bytes: [u8; NAME_MAX],
    length: u8,
}

impl Name {
    /// The name in `text`; `None` if it is empty, longer than 15 bytes, or has bytes that are no printable ASCII.
    pub const fn new(text: &str) -> Option<Self> {
        let (text, mut bytes, mut at) = (text.as_bytes(), [0; NAME_MAX], 0);
        if text.is_empty() || text.len() > NAME_MAX {
            return None;
        }
        while at < text.len() {
            if !text[at].is_ascii_graphic() {
                return None;
            }
            bytes[at] = text[at];
            at += 1;
        }
        Some(Name { bytes, length: at as u8 })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// A service as it is added or edited (`-A`, `-E`): what is not said has its default, in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// What names it.
    pub key: ServiceKey,
    /// `-s`: its scheduler, of any name.
    pub scheduler: Name,
    /// `-p`, `-o` and `-b`.
    pub flags: ServiceFlags,
    /// `-p`: the timeout in seconds; 0 if it is not persistent.
    pub timeout: u32,
    /// `-M`, as in [`ServiceConfig::netmask`].
    pub netmask: u32,
    /// `--pe`: the persistence engine, of any name.
    pub persistence_engine: Option<Name>,
}

impl ServiceEntry {
    /// The entry that would make a service as it is listed.
    pub fn of(info: &ServiceInfo) -> Self {
        let ServiceConfig { scheduler, flags, timeout, netmask, persistence_engine } = info.config;
        ServiceEntry {
            key: info.key,
            // A name of Linux is never too long.
            scheduler: Name::new(scheduler.name()).unwrap_or(super::DEFAULT_SCHEDULER),
            flags: flags - ServiceFlags::HASHED,
            timeout: if flags.contains(ServiceFlags::PERSISTENT) { timeout } else { 0 },
            netmask,
            persistence_engine: persistence_engine.and_then(|engine| Name::new(engine.name())),
        }
    }

    /// The entry of a service as it came by wire, back from [`ServiceEntry::wire`] or from a listing.
    ///
    /// # Errors
    /// [`Errno::Invalid`] if something is missing or a name is none; those of [`wire::Service::key`].
    pub fn read(service: &wire::Service<'_>) -> Result<Self, Errno> {
        let key = service.key()?;
        let (Some(scheduler), Some((flags, _)), Some(timeout), Some(netmask)) =
            (service.scheduler, service.flags, service.timeout, service.netmask)
        else {
            return Err(Errno::Invalid);
        };
        let name = |bytes| core::str::from_utf8(bytes).ok().and_then(Name::new).ok_or(Errno::Invalid);
        let flags = ServiceFlags::from_bits_retain(flags) - ServiceFlags::HASHED;
        Ok(ServiceEntry {
            key,
            scheduler: name(scheduler)?,
            flags,
            timeout: if flags.contains(ServiceFlags::PERSISTENT) { timeout } else { 0 },
            netmask: netmask_of(key.family(), netmask),
            persistence_engine: service.persistence_engine.filter(|engine| !engine.is_empty()).map(name).transpose()?,
        })
    }

    /// Its wire form.
    pub fn wire(&self) -> wire::Service<'_> {
        wire::Service {
            scheduler: Some(self.scheduler.as_str().as_bytes()),
            flags: Some((self.flags.bits(), u32::MAX)),
            timeout: Some(self.timeout),
            netmask: Some(netmask_bytes(self.key.family(), self.netmask)),
            persistence_engine: self.persistence_engine.as_ref().map(|name| name.as_str().as_bytes()),
            ..wire::Service::of_key(&self.key)
        }
    }
}

/// What `-L` shows, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// This service only.
    pub service: Option<ServiceKey>,
    /// `-c`: the connections instead.
    pub connections: bool,
    /// `--timeout`: the timeouts instead.
    pub timeout: bool,
    /// `--daemon`: the synchronization daemons instead.
    pub daemon: bool,
    /// `--stats`: counters.
    pub stats: bool,
    /// `--rate`: rates.
    pub rate: bool,
    /// `--thresholds`: thresholds.
    pub thresholds: bool,
    /// `--persistent-conn`: persistence templates.
    pub persistent: bool,
    /// `--tun-info`: tunnels.
    pub tunnels: bool,
    /// `--exact`: numbers in full.
    pub exact: bool,
    /// `--nosort`: in the order of the balancer.
    pub unsorted: bool,
    /// `-n`: no names; there are none here anyway.
    pub numeric: bool,
}

/// A command of ipvsadm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// `-A`: adds a service.
    AddService(ServiceEntry),
    /// `-E`: edits a service.
    EditService(ServiceEntry),
    /// `-D`: removes a service.
    DeleteService(ServiceKey),
    /// `-a`: adds a destination.
    AddServer {
        /// The service.
        service: ServiceKey,
        /// What names the destination.
        server: DestinationKey,
        /// Its configuration.
        config: DestinationConfig,
    },
    /// `-e`: edits a destination.
    EditServer {
        /// The service.
        service: ServiceKey,
        /// What names the destination.
        server: DestinationKey,
        /// Its configuration.
        config: DestinationConfig,
    },
    /// `-d`: removes a destination.
    DeleteServer {
        /// The service.
        service: ServiceKey,
        /// What names the destination.
        server: DestinationKey,
    },
    /// `-C`: removes every service.
    Clear,
    /// `-Z`: zeroes the counters of a service, or of all.
    Zero(Option<ServiceKey>),
    /// `--set`: changes timeouts; 0 leaves one.
    SetTimeouts(Timeouts),
    /// `sysctl NAME=VALUE`: gives a knob of net.ipv4.vs a value. Not of ipvsadm.
    SetSysctl {
        /// One of [`Sysctls::NAMES`](crate::Sysctls::NAMES).
        name: &'static str,
        /// The value.
        value: i32,
        /// The second of two values, which `sync_threshold` may have.
        second: Option<i32>,
    },
    /// `sysctl NAME`, or `sysctl` for all: shows knobs. Not of ipvsadm.
    ShowSysctl(Option<&'static str>),
    /// `mark add RULE`: adds a rule that gives packets a mark. Not of ipvsadm, nor are the next three.
    AddMark(MarkRule),
    /// `mark delete RULE`: removes one.
    DeleteMark(MarkRule),
    /// `mark clear`: removes all.
    ClearMarks,
    /// `mark`: lists them.
    ShowMarks,
    /// `extra set`, and `extra clear` for nothing: says what a service does that IPVS cannot. Not of ipvsadm, nor is the next.
    SetExtras {
        /// The service; `None` for all.
        service: Option<ServiceKey>,
        /// What it does.
        extras: Extras,
    },
    /// `extra`: lists what services do that IPVS cannot.
    ShowExtras,
    /// `-L`: lists.
    List(Listing),
    /// `-S`: writes rules.
    Save,
    /// `-R`: reads rules.
    Restore,
    /// `--start-daemon`.
    StartDaemon(Daemon),
    /// `--stop-daemon`.
    StopDaemon(DaemonRole),
    /// `-h`: tells the syntax.
    Help,
    /// `-v`: tells the version.
    Version,
}
