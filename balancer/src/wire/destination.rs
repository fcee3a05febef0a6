//! IPVS_CMD_ATTR_DEST: what names a destination and what is configured of it.

use super::attribute::{Attribute, Violation, Writer};
use super::ipvs::destination as kind;
use super::service::{address, address_bytes, family, family_number};
use super::statistics;
use crate::{
    DestinationConfig, DestinationInfo, DestinationKey, Errno, Family, Forward, Rates, ServiceKey, Stats, Tunnel,
};

/// The attributes of a destination that were there, as they were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// Address; IPv4 in the first four bytes.
    pub address: Option<[u8; 16]>,
    /// Port, in host order.
    pub port: Option<u16>,
    /// Forwarding method (IP_VS_CONN_F_FWD_MASK).
    pub forward: Option<u32>,
    /// Weight.
    pub weight: Option<i32>,
    /// Upper threshold.
    pub upper_threshold: Option<u32>,
    /// Lower threshold.
    pub lower_threshold: Option<u32>,
    /// Active connections.
    pub active: Option<u32>,
    /// Other connections.
    pub inactive: Option<u32>,
    /// Persistence templates.
    pub persistent: Option<u32>,
    /// Address family; the service's if it is missing.
    pub family: Option<u16>,
    /// Type of the tunnel.
    pub tunnel_kind: Option<u8>,
    /// Port of the tunnel, in host order.
    pub tunnel_port: Option<u16>,
    /// Flags of the tunnel.
    pub tunnel_flags: Option<u16>,
    /// Counters and rates: those of 64 bits if both are there.
    pub stats: Option<(Stats, Rates)>,
}

impl Destination {
    /// The destination in a nest. Nothing is missed here: see [`Destination::key`] and [`Destination::config`].
    ///
    /// # Errors
    /// An attribute has not the form its type must have; Linux says EINVAL.
    pub fn read(nest: &Attribute<'_>) -> Result<Self, Violation> {
        let mut d = Destination::default();
        let mut short = None;
        for attribute in nest.nested()? {
            match attribute.kind {
                kind::ADDR => d.address = Some(attribute.binary()?),
                kind::PORT => d.port = Some(attribute.be16()?),
                kind::FWD_METHOD => d.forward = Some(attribute.u32()?),
                kind::WEIGHT => d.weight = Some(attribute.u32()? as i32),
                kind::U_THRESH => d.upper_threshold = Some(attribute.u32()?),
                kind::L_THRESH => d.lower_threshold = Some(attribute.u32()?),
                kind::ACTIVE_CONNS => d.active = Some(attribute.u32()?),
                kind::INACT_CONNS => d.inactive = Some(attribute.u32()?),
                kind::PERSIST_CONNS => d.persistent = Some(attribute.u32()?),
                kind::ADDR_FAMILY => d.family = Some(attribute.u16()?),
                kind::TUN_TYPE => d.tunnel_kind = Some(attribute.u8()?),
                kind::TUN_PORT => d.tunnel_port = Some(attribute.be16()?),
                kind::TUN_FLAGS => d.tunnel_flags = Some(attribute.u16()?),
                kind::STATS => short = Some(statistics::read(&attribute)?),
                kind::STATS64 => d.stats = Some(statistics::read(&attribute)?),
                _ => {}
            }
        }
        d.stats = d.stats.or(short);
        Ok(d)
    }

    /// What names it, in a service of family `of_service`.
    ///
    /// # Errors
    /// As ip_vs_genl_parse_dest: [`Errno::Invalid`] if something is missing, [`Errno::AddressFamily`].
    pub fn key(&self, of_service: Family) -> Result<DestinationKey, Errno> {
        let (Some(bytes), Some(port)) = (self.address, self.port) else { return Err(Errno::Invalid) };
        // Tools from before mixed families leave the family out or zero.
        let family = match self.family {
            None | Some(0) => of_service,
            Some(number) => family(number)?,
        };
        Ok(DestinationKey { address: address(family, bytes), port })
    }

    /// What is configured of it.
    ///
    /// # Errors
    /// [`Errno::Invalid`] if something is missing or the forwarding method is none.
    pub fn config(&self) -> Result<DestinationConfig, Errno> {
        let (Some(forward), Some(weight), Some(upper_threshold), Some(lower_threshold)) =
            (self.forward, self.weight, self.upper_threshold, self.lower_threshold)
        else {
            return Err(Errno::Invalid);
        };
        let tunnel = Tunnel {
            kind: self.tunnel_kind.unwrap_or(0),
            port: self.tunnel_port.unwrap_or(0),
            flags: self.tunnel_flags.unwrap_or(0),
        };
        Ok(DestinationConfig {
            forward: Forward::from_flags(forward)?,
            weight,
            upper_threshold,
            lower_threshold,
            tunnel,
        })
    }

    /// The attributes that name a destination.
    pub fn of_key(key: &DestinationKey) -> Self {
        Destination {
            address: Some(address_bytes(&key.address)),
            port: Some(key.port),
            family: Some(family_number(Family::of(&key.address))),
            ..Destination::default()
        }
    }

    /// The attributes that name and configure a destination.
    pub fn of_config(key: &DestinationKey, config: &DestinationConfig) -> Self {
        Destination {
            forward: Some(config.forward as u32),
            weight: Some(config.weight),
            upper_threshold: Some(config.upper_threshold),
            lower_threshold: Some(config.lower_threshold),
            tunnel_kind: Some(config.tunnel.kind),
            tunnel_port: Some(config.tunnel.port),
            tunnel_flags: Some(config.tunnel.flags),
            ..Destination::of_key(key)
        }
    }

    /// The attributes of a destination as listed.
    pub fn of_info(info: &DestinationInfo) -> Self {
        Destination {
            active: Some(info.active),
            inactive: Some(info.inactive),
            persistent: Some(info.persistent),
            stats: Some((info.stats, info.rates)),
            ..Destination::of_config(&info.key, &info.config)
        }
    }

    /// A destination as listed, back from its attributes. Whether it is overloaded is not told: `false`.
    ///
    /// # Errors
    /// [`Errno::Invalid`] if something is missing, [`Errno::AddressFamily`].
    pub fn info(&self, service: &ServiceKey) -> Result<DestinationInfo, Errno> {
        let (Some(active), Some(inactive), Some(persistent), Some((stats, rates))) =
            (self.active, self.inactive, self.persistent, self.stats)
        else {
            return Err(Errno::Invalid);
        };
        let (key, config) = (self.key(service.family())?, self.config()?);
        Ok(DestinationInfo { key, config, active, inactive, persistent, overloaded: false, stats, rates })
    }

    /// Writes the attributes that are there, in the order of Linux.
    pub fn write(&self, w: &mut Writer<'_>) {
        self.address.inspect(|v| _ = w.put(kind::ADDR, v));
        self.port.inspect(|&v| _ = w.be16(kind::PORT, v));
        self.forward.inspect(|&v| _ = w.u32(kind::FWD_METHOD, v));
        self.weight.inspect(|&v| _ = w.u32(kind::WEIGHT, v as u32));
        self.tunnel_kind.inspect(|&v| _ = w.u8(kind::TUN_TYPE, v));
        self.tunnel_port.inspect(|&v| _ = w.be16(kind::TUN_PORT, v));
        self.tunnel_flags.inspect(|&v| _ = w.u16(kind::TUN_FLAGS, v));
        self.upper_threshold.inspect(|&v| _ = w.u32(kind::U_THRESH, v));
        self.lower_threshold.inspect(|&v| _ = w.u32(kind::L_THRESH, v));
        self.active.inspect(|&v| _ = w.u32(kind::ACTIVE_CONNS, v));
        self.inactive.inspect(|&v| _ = w.u32(kind::INACT_CONNS, v));
        self.persistent.inspect(|&v| _ = w.u32(kind::PERSIST_CONNS, v));
        self.family.inspect(|&v| _ = w.u16(kind::ADDR_FAMILY, v));
        if let Some((stats, rates)) = &self.stats {
            statistics::write(w, kind::STATS, kind::STATS64, stats, rates);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::attribute::Attributes;
    use super::*;
    use std::{vec, vec::Vec};

    fn nest(inside: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut bytes = vec![];
        Writer::new(&mut bytes).nest(2, inside);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Destination, Violation> {
        Destination::read(&Attributes::new(bytes).next().unwrap())
    }

    #[test]
    fn a_listed_destination_comes_back() {
        let service = ServiceKey::tcp("10.0.0.100".parse().unwrap(), 80);
        for address in ["10.0.0.11", "fd00::b"] {
            let info = DestinationInfo {
                key: DestinationKey { address: address.parse().unwrap(), port: 8080 },
                config: DestinationConfig {
                    upper_threshold: 100,
                    lower_threshold: 50,
                    tunnel: Tunnel { kind: 1, port: 6080, flags: 2 },
                    ..DestinationConfig::new(Forward::Tunnel, 3)
                },
                active: 1,
                inactive: 2,
                persistent: 3,
                overloaded: false,
                stats: Stats { in_bytes: u64::MAX, ..Stats::default() },
                rates: Rates { connections: 9, ..Rates::default() },
            };
            let bytes = nest(|w| Destination::of_info(&info).write(w));
            assert_eq!(read(&bytes).unwrap().info(&service), Ok(info));
        }
    }

    #[test]
    fn what_is_missing_is_said_as_linux_says_it() {
        let key = DestinationKey { address: "10.0.0.11".parse().unwrap(), port: 80 };
        let full = Destination::of_config(&key, &DestinationConfig::new(Forward::Masquerade, 1));
        assert_eq!(Destination { family: None, ..full }.key(Family::V4), Ok(key));
        assert_eq!(Destination { family: Some(0), ..full }.key(Family::V4), Ok(key));
        assert_eq!(Destination { family: Some(3), ..full }.key(Family::V4), Err(Errno::AddressFamily));
        assert_eq!(Destination { port: None, ..full }.key(Family::V4), Err(Errno::Invalid));
        assert_eq!(Destination { weight: None, ..full }.config(), Err(Errno::Invalid));
        assert_eq!(Destination { forward: Some(7), ..full }.config(), Err(Errno::Invalid));
        let untunnelled = Destination { tunnel_kind: None, tunnel_port: None, tunnel_flags: None, ..full };
        assert_eq!(untunnelled.config(), full.config());
        let more = Destination { forward: Some(0x83), ..full };
        assert_eq!(more.config().unwrap().forward, Forward::Direct, "flags beside the method are ignored");
    }

    #[test]
    fn torn_values_are_refused() {
        for (kind, payload) in [(1, &[0; 17][..]), (2, &[0]), (4, &[0; 3]), (13, &[]), (15, &[0]), (12, &[0; 2])] {
            assert!(read(&nest(|w| _ = w.put(kind, payload))).is_err(), "{kind}");
        }
    }
}
