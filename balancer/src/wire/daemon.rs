//! The attribute of a synchronization daemon.

use alloc::string::String;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::attribute::{Attribute, Violation, Writer};
use super::ipvs::{NAME_MAX, daemon as kind};
use crate::ipvsadm::Name;
use crate::{Daemon, DaemonRole, Errno, SyncCounters};

/// What there is of a daemon in a nest, as ip_vs_daemon_policy lets it through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    state: Option<u32>,
    interface: Option<&'a [u8]>,
    syncid: Option<u32>,
    max_len: u16,
    group: Option<IpAddr>,
    port: u16,
    ttl: u8,
    counters: Option<Attribute<'a>>,
}

impl<'a> Fields<'a> {
    /// What is in a nest.
    ///
    /// # Errors
    /// An attribute has not the form its type must have.
    pub fn read(nest: &Attribute<'a>) -> Result<Self, Violation> {
        let mut fields = Fields::default();
        let mut group6 = None;
        for attribute in nest.nested()? {
            match attribute.kind {
                kind::STATE => fields.state = Some(attribute.u32()?),
                kind::MCAST_IFN => fields.interface = Some(attribute.string(NAME_MAX)?),
                kind::SYNC_ID => fields.syncid = Some(attribute.u32()?),
                kind::SYNC_MAXLEN => fields.max_len = attribute.u16()?,
                kind::MCAST_GROUP => {
                    fields.group = Some(IpAddr::V4(Ipv4Addr::from(attribute.u32()?.to_ne_bytes())));
                }
                kind::MCAST_GROUP6 => group6 = Some(IpAddr::V6(Ipv6Addr::from(attribute.binary::<16>()?))),
                kind::MCAST_PORT => fields.port = attribute.u16()?,
                kind::MCAST_TTL => fields.ttl = attribute.u8()?,
                kind::COUNTERS => fields.counters = Some(attribute),
                _ => {}
            }
        }
        // IPv4's counts if both are there.
        fields.group = fields.group.or(group6);
        Ok(fields)
    }

    /// The daemon that is to be stopped.
    ///
    /// # Errors
    /// [`Errno::Invalid`] if none is named, or one there is not.
    pub fn role(&self) -> Result<DaemonRole, Errno> {
        self.state.and_then(DaemonRole::from_number).ok_or(Errno::Invalid)
    }

    /// The daemon that is to be started, or that is told of.
    ///
    /// # Errors
    /// [`Errno::Invalid`] if role, interface or syncid are missing, or the group is none; [`Errno::NoDevice`] for an interface of no
    /// name.
    pub fn daemon(&self) -> Result<Daemon, Errno> {
        let (Some(_), Some(interface), Some(syncid)) = (self.state, self.interface, self.syncid) else {
            return Err(Errno::Invalid);
        };
        if self.group.is_some_and(|group| !group.is_multicast()) {
            return Err(Errno::Invalid);
        }
        let interface = core::str::from_utf8(interface).ok().and_then(Name::new).ok_or(Errno::NoDevice)?;
        let Fields { max_len, group, port, ttl, .. } = *self;
        Ok(Daemon { role: self.role()?, interface, syncid, max_len, group, port, ttl })
    }

    /// What is counted, if that is told: Ringlet's own.
    pub fn counters(&self) -> Option<SyncCounters> {
        let mut values = [0; SyncCounters::NAMES.len()];
        for attribute in self.counters?.nested().ok()? {
            if let Some(value) = values.get_mut(usize::from(attribute.kind).wrapping_sub(1)) {
                *value = attribute.u64().ok()?;
            }
        }
        Some(SyncCounters::from_values(values))
    }
}

/// Writes a daemon, and what is counted, as it is told of or started: what is 0 or missing is left out.
pub fn write(daemon: &Daemon, counters: Option<&SyncCounters>, w: &mut Writer<'_>) {
    w.u32(kind::STATE, daemon.role.number())
        .string(kind::MCAST_IFN, daemon.interface.as_str().as_bytes())
        .u32(kind::SYNC_ID, daemon.syncid);
    let Daemon { max_len, group, port, ttl, .. } = *daemon;
    if max_len != 0 {
        w.u16(kind::SYNC_MAXLEN, max_len);
    }
    if port != 0 {
        w.u16(kind::MCAST_PORT, port);
    }
    if ttl != 0 {
        w.u8(kind::MCAST_TTL, ttl);
    }
    match group {
        Some(IpAddr::V4(group)) => _ = w.u32(kind::MCAST_GROUP, u32::from_ne_bytes(group.octets())),
        Some(IpAddr::V6(group)) => _ = w.put(kind::MCAST_GROUP6, &group.octets()),
        None => {}
    }
    if let Some(counters) = counters {
        w.nest(kind::COUNTERS, |w| {
            for (place, value) in counters.values().into_iter().enumerate() {
                w.u64(place as u16 + 1, value);
            }
        });
    }
}

/// Writes the name of a daemon that is to be stopped.
pub fn write_role(role: DaemonRole, w: &mut Writer<'_>) {
    w.u32(kind::STATE, role.number());
}

/// A daemon as ipvsadm lists it: `master sync daemon (mcast=eth0, syncid=7, ...)`.
pub fn describe(daemon: &Daemon) -> String {
    use core::fmt::Write;
    let mut text = String::new();
    let Daemon { role, interface, syncid, max_len, group, port, ttl } = daemon;
    // Writing to a string does not fail.
    let _ = write!(text, "{} sync daemon (mcast={}, syncid={syncid}", role.name(), interface.as_str());
    if *max_len != 0 {
        let _ = write!(text, ", maxlen={max_len}");
    }
    if let Some(group) = group {
        let _ = write!(text, ", group={group}");
    }
    if *port != 0 {
        let _ = write!(text, ", port={port}");
    }
    if *ttl != 0 {
        let _ = write!(text, ", ttl={ttl}");
    }
    text.push(')');
    text
}

#[cfg(test)]
mod tests {
    use super::super::attribute::Attributes;
    use super::*;
    use std::vec;

    #[test]
    fn a_daemon_comes_back_with_what_is_counted() {
        let plain = Daemon { syncid: 7, ..Daemon::new(DaemonRole::Backup) };
        let full = Daemon { max_len: 1000, group: Some("ff02::81".parse().unwrap()), port: 9, ttl: 3, ..plain };
        let values = core::array::from_fn(|place| place as u64 + 1);
        let counters = SyncCounters::from_values(values);
        assert_eq!((counters.values(), counters.lost_messages), (values, values.len() as u64));
        for (daemon, counters) in
            [(plain, None), (full, Some(counters)), (Daemon { group: Some([224, 0, 0, 81].into()), ..full }, None)]
        {
            let mut bytes = vec![];
            Writer::new(&mut bytes).nest(3, |w| write(&daemon, counters.as_ref(), w));
            let fields = Fields::read(&Attributes::new(&bytes).next().unwrap()).unwrap();
            assert_eq!((fields.daemon(), fields.counters()), (Ok(daemon), counters));
        }
        assert_eq!(
            describe(&full),
            "backup sync daemon (mcast=eth0, syncid=7, maxlen=1000, group=ff02::81, port=9, ttl=3)"
        );
        assert_eq!(describe(&plain), "backup sync daemon (mcast=eth0, syncid=7)");
    }

    #[test]
    fn what_is_missing_or_wrong_is_refused_by_linux_s_numbers() {
        let outcome = |fill: &dyn Fn(&mut Writer<'_>)| {
            let mut bytes = vec![];
            Writer::new(&mut bytes).nest(3, |w| fill(w));
            Fields::read(&Attributes::new(&bytes).next().unwrap()).unwrap().daemon()
        };
        let base = |w: &mut Writer<'_>, state| _ = w.u32(1, state).string(2, b"eth0").u32(3, 0);
        assert!(outcome(&|w| base(w, 1)).is_ok());
        assert_eq!(outcome(&|w| base(w, 3)), Err(Errno::Invalid));
        assert_eq!(outcome(&|w| _ = w.u32(1, 1).u32(3, 0)), Err(Errno::Invalid));
        assert_eq!(
            outcome(&|w| {
                base(w, 1);
                w.u32(5, 0x0100_000a);
            }),
            Err(Errno::Invalid),
            "10.0.0.1"
        );
        assert_eq!(outcome(&|w| _ = w.u32(1, 1).string(2, b"").u32(3, 0)), Err(Errno::NoDevice));
    }
}
