//! IPVS_CMD_ATTR_SERVICE: what names a service and what is configured of it.

use core::net::IpAddr;

use super::attribute::{Attribute, Violation, Writer};
use super::ipvs::{AF_INET, AF_INET6, NAME_MAX, service};
use super::statistics;
use crate::{
    Errno, Family, PersistenceEngine, Protocol, Rates, Scheduler, ServiceConfig, ServiceFlags, ServiceInfo, ServiceKey,
    Stats,
};

/// The attributes of a service that were there, as they were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service<'a> {
    /// Address family (AF_INET, AF_INET6).
    pub family: Option<u16>,
    /// Protocol number.
    pub protocol: Option<u16>,
    /// Virtual address; IPv4 in the first four bytes.
    pub address: Option<[u8; 16]>,
    /// Virtual port, in host order.
    pub port: Option<u16>,
    /// Firewall mark.
    pub mark: Option<u32>,
    /// Name of the scheduler, without NUL.
    pub scheduler: Option<&'a [u8]>,
    /// Flags, and the mask of those that are to be set.
    pub flags: Option<(u32, u32)>,
    /// Persistence timeout in seconds.
    pub timeout: Option<u32>,
    /// The four bytes of the persistence mask: for IPv4 in network order, for IPv6 a prefix length, little endian.
    pub netmask: Option<[u8; 4]>,
    /// Name of the persistence engine, without NUL.
    pub persistence_engine: Option<&'a [u8]>,
    /// Counters and rates: those of 64 bits if both are there.
    pub stats: Option<(Stats, Rates)>,
}

/// The family of a number, as ip_vs_genl_parse_service takes it.
pub(crate) fn family(number: u16) -> Result<Family, Errno> {
    match number {
        AF_INET => Ok(Family::V4),
        AF_INET6 => Ok(Family::V6),
        _ => Err(Errno::AddressFamily),
    }
}

/// The number of a family.
pub(crate) const fn family_number(family: Family) -> u16 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

/// 16 bytes as an address of a family.
pub(crate) fn address(family: Family, bytes: [u8; 16]) -> IpAddr {
    let [a, b, c, d, ..] = bytes;
    match family {
        Family::V4 => IpAddr::from([a, b, c, d]),
        Family::V6 => IpAddr::from(bytes),
    }
}

/// An address as 16 bytes.
pub(crate) fn address_bytes(address: &IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

impl<'a> Service<'a> {
    /// The service in a nest. Nothing is missed here: see [`Service::key`] and [`Service::config`].
    ///
    /// # Errors
    /// An attribute has not the form its type must have; Linux says EINVAL.
    pub fn read(nest: &Attribute<'a>) -> Result<Self, Violation> {
        let mut s = Service::default();
        let mut short = None;
        for attribute in nest.nested()? {
            match attribute.kind {
                service::AF => s.family = Some(attribute.u16()?),
                service::PROTOCOL => s.protocol = Some(attribute.u16()?),
                service::ADDR => s.address = Some(attribute.binary()?),
                service::PORT => s.port = Some(attribute.be16()?),
                service::FWMARK => s.mark = Some(attribute.u32()?),
                service::SCHED_NAME => s.scheduler = Some(attribute.string(NAME_MAX)?),
                service::FLAGS => {
                    let [a, b, c, d, e, f, g, h] = attribute.binary()?;
                    s.flags = Some((u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])));
                }
                service::TIMEOUT => s.timeout = Some(attribute.u32()?),
                service::NETMASK => s.netmask = Some(attribute.u32()?.to_le_bytes()),
                service::PE_NAME => s.persistence_engine = Some(attribute.string(NAME_MAX)?),
                service::STATS => short = Some(statistics::read(&attribute)?),
                service::STATS64 => s.stats = Some(statistics::read(&attribute)?),
                _ => {}
            }
        }
        s.stats = s.stats.or(short);
        Ok(s)
    }

    /// What names it.
    ///
    /// # Errors
    /// As ip_vs_genl_parse_service: [`Errno::Invalid`] if something is missing, [`Errno::AddressFamily`],
    /// [`Errno::Protocol`].
    pub fn key(&self) -> Result<ServiceKey, Errno> {
        let number = self.family.ok_or(Errno::Invalid)?;
        if let Some(mark) = self.mark {
            return Ok(ServiceKey::Mark { family: family(number)?, mark });
        }
        let (Some(protocol), Some(bytes), Some(port)) = (self.protocol, self.address, self.port) else {
            return Err(Errno::Invalid);
        };
        let address = address(family(number)?, bytes);
        Ok(ServiceKey::Address { protocol: Protocol::from_number(protocol)?, address, port })
    }

    /// Whether all is there that [`Service::config`] needs.
    ///
    /// # Errors
    /// [`Errno::Invalid`] if not.
    pub fn complete(&self) -> Result<(), Errno> {
        let complete = self.scheduler.is_some() && self.flags.is_some() && self.timeout.is_some();
        if complete && self.netmask.is_some() { Ok(()) } else { Err(Errno::Invalid) }
    }

    /// What is configured of it. Flags that the mask leaves out are those of `old`.
    ///
    /// # Errors
    /// [`Errno::Invalid`] if something is missing; [`Errno::NotFound`] for a scheduler or persistence engine of another
    /// name.
    pub fn config(&self, family: Family, old: ServiceFlags) -> Result<ServiceConfig, Errno> {
        let (Some(scheduler), Some((flags, mask)), Some(timeout), Some(netmask)) =
            (self.scheduler, self.flags, self.timeout, self.netmask)
        else {
            return Err(Errno::Invalid);
        };
        let engine = match self.persistence_engine {
            None | Some(b"") => None,
            Some(name) => Some(PersistenceEngine::from_name(utf8(name)?)?),
        };
        Ok(ServiceConfig {
            scheduler: Scheduler::from_name(utf8(scheduler)?)?,
            flags: ServiceFlags::from_bits_retain((old.bits() & !mask) | (flags & mask)),
            timeout,
            netmask: netmask_of(family, netmask),
            persistence_engine: engine,
        })
    }

    /// The attributes that name a service.
    pub fn of_key(key: &ServiceKey) -> Self {
        let family = Some(family_number(key.family()));
        match key {
            ServiceKey::Address { protocol, address, port } => Service {
                family,
                protocol: Some(protocol.number().into()),
                address: Some(address_bytes(address)),
                port: Some(*port),
                ..Service::default()
            },
            ServiceKey::Mark { mark, .. } => Service { family, mark: Some(*mark), ..Service::default() },
        }
    }

    /// The attributes of a service as listed.
    pub fn of_info(info: &ServiceInfo) -> Self {
        let config = &info.config;
        Service {
            scheduler: Some(config.scheduler.name().as_bytes()),
            flags: Some((config.flags.bits(), u32::MAX)),
            timeout: Some(config.timeout),
            netmask: Some(netmask_bytes(info.key.family(), config.netmask)),
            persistence_engine: config.persistence_engine.map(|engine| engine.name().as_bytes()),
            stats: Some((info.stats, info.rates)),
            ..Service::of_key(&info.key)
        }
    }

    /// Writes the attributes that are there, in the order of Linux.
    pub fn write(&self, w: &mut Writer<'_>) {
        self.family.inspect(|&v| _ = w.u16(service::AF, v));
        self.mark.inspect(|&v| _ = w.u32(service::FWMARK, v));
        self.protocol.inspect(|&v| _ = w.u16(service::PROTOCOL, v));
        self.address.inspect(|v| _ = w.put(service::ADDR, v));
        self.port.inspect(|&v| _ = w.be16(service::PORT, v));
        self.scheduler.inspect(|v| _ = w.string(service::SCHED_NAME, v));
        self.persistence_engine.inspect(|v| _ = w.string(service::PE_NAME, v));
        if let Some((flags, mask)) = self.flags {
            w.u64(service::FLAGS, u64::from(flags) | u64::from(mask) << 32);
        }
        self.timeout.inspect(|&v| _ = w.u32(service::TIMEOUT, v));
        self.netmask.inspect(|v| _ = w.put(service::NETMASK, v));
        if let Some((stats, rates)) = &self.stats {
            statistics::write(w, service::STATS, service::STATS64, stats, rates);
        }
    }
}

/// The four bytes of a persistence mask.
pub(crate) fn netmask_bytes(family: Family, netmask: u32) -> [u8; 4] {
    match family {
        Family::V4 => netmask.to_be_bytes(),
        Family::V6 => netmask.to_le_bytes(),
    }
}

/// The persistence mask in four bytes.
pub(crate) fn netmask_of(family: Family, bytes: [u8; 4]) -> u32 {
    match family {
        Family::V4 => u32::from_be_bytes(bytes),
        Family::V6 => u32::from_le_bytes(bytes),
    }
}

/// A name that is no UTF-8 is the name of nothing.
fn utf8(name: &[u8]) -> Result<&str, Errno> {
    core::str::from_utf8(name).map_err(|_| Errno::NotFound)
}

#[cfg(test)]
mod tests {
    use super::super::attribute::Attributes;
    use super::*;
    use std::{vec, vec::Vec};

    fn nest(inside: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut bytes = vec![];
        Writer::new(&mut bytes).nest(1, inside);
        bytes
    }

    fn attribute(bytes: &[u8]) -> Attribute<'_> {
        Attributes::new(bytes).next().unwrap()
    }

    #[test]
    fn a_listed_service_comes_back() {
        let v6 = ServiceKey::udp("fd00::100".parse().unwrap(), 53);
        for (key, netmask) in [
            (ServiceKey::tcp("10.0.0.100".parse().unwrap(), 80), 0xffff_ff00),
            (v6, 64),
            (ServiceKey::Mark { family: Family::V6, mark: 7 }, 128),
        ] {
            let config = ServiceConfig {
                netmask,
                timeout: 360,
                flags: ServiceFlags::PERSISTENT | ServiceFlags::HASHED,
                persistence_engine: Some(PersistenceEngine::Sip),
                ..ServiceConfig::new(key.family(), Scheduler::WeightedRoundRobin)
            };
            let stats = Stats { connections: 1 << 33, ..Stats::default() };
            let info = ServiceInfo { key, config, destinations: 0, stats, rates: Rates::default() };
            let bytes = nest(|w| Service::of_info(&info).write(w));
            let back = Service::read(&attribute(&bytes)).unwrap();
            assert_eq!(back, Service::of_info(&info));
            assert_eq!(back.key(), Ok(key));
            assert_eq!(back.config(key.family(), ServiceFlags::empty()), Ok(config));
        }
    }

    #[test]
    fn ports_and_masks_are_in_network_order() {
        let service =
            Service { port: Some(80), netmask: Some(netmask_bytes(Family::V4, 0xffff_ff00)), ..Service::default() };
        let bytes = nest(|w| service.write(w));
        assert_eq!(bytes[4..], [6, 0, 4, 0, 0, 80, 0, 0, 8, 0, 9, 0, 255, 255, 255, 0]);
    }

    #[test]
    fn what_is_missing_is_said_as_linux_says_it() {
        let full = Service::of_key(&ServiceKey::tcp("10.0.0.100".parse().unwrap(), 80));
        assert_eq!(Service { family: None, ..full }.key(), Err(Errno::Invalid));
        assert_eq!(Service { port: None, ..full }.key(), Err(Errno::Invalid));
        assert_eq!(Service { family: Some(1), ..full }.key(), Err(Errno::AddressFamily));
        assert_eq!(Service { family: Some(1), port: None, ..full }.key(), Err(Errno::Invalid));
        assert_eq!(Service { protocol: Some(1), ..full }.key(), Err(Errno::Protocol));
        assert_eq!(full.config(Family::V4, ServiceFlags::empty()), Err(Errno::Invalid));
        let named = |scheduler| Service {
            scheduler: Some(scheduler),
            flags: Some((0, u32::MAX)),
            timeout: Some(0),
            netmask: Some([255; 4]),
            ..full
        };
        assert_eq!(named(b"nosuch").config(Family::V4, ServiceFlags::empty()), Err(Errno::NotFound));
        assert_eq!(named(b"\xff").config(Family::V4, ServiceFlags::empty()), Err(Errno::NotFound));
        let kept = Service { flags: Some((8, 8)), ..named(b"rr") };
        assert_eq!(kept.config(Family::V4, ServiceFlags::HASHED).unwrap().flags.bits(), 8 | 2);
    }

    #[test]
    fn torn_values_are_refused() {
        for (kind, payload) in [(1, &[2][..]), (3, &[0; 17]), (6, b"rr"), (7, &[0; 9]), (8, &[0; 3]), (10, &[1])] {
            let bytes = nest(|w| _ = w.put(kind, payload));
            assert!(Service::read(&attribute(&bytes)).is_err(), "{kind}");
        }
        let bytes = nest(|w| _ = w.put(99, &[1]).u16(1, 2).u16(1, 10));
        assert_eq!(Service::read(&attribute(&bytes)).unwrap().family, Some(10), "unknown skipped, last one counts");
    }
}
