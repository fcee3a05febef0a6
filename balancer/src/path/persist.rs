//! Persistence: a client's connections go to one destination, as its template says.
//!
//! Follows ip_vs_sched_persist and ip_vs_check_template of Linux.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Moment;
use super::schedule::Chosen;
use crate::Balancer;
use crate::connection::{Full, New, SctpState, Seen, TcpState, Tuple, ticks};
use crate::packet::Reason;
use crate::scheduler::Request;
use crate::service::table::FTP;
use crate::service::{PersistenceEngine, Protocol, ServiceKey};
use crate::sip;

/// The part of a client's address that the netmask of a service leaves.
fn masked(client: IpAddr, netmask: u32) -> IpAddr {
    match client {
        IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() & netmask).into(),
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - netmask.min(128)).unwrap_or(0);
            Ipv6Addr::from_bits(a.to_bits() & mask).into()
        }
    }
}

/// A mark in the place of an address.
fn mark_address(mark: u32, client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => Ipv4Addr::from_bits(mark).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(u128::from(mark) << 96).into(),
    }
}

/// Whether a client sent to the very port of its service; to others there are ways by marks, port 0, and FTP's data.
fn is_own_port(key: &ServiceKey, port: u16) -> bool {
    matches!(key, ServiceKey::Address { port: own, .. } if *own == port)
}

impl Balancer {
    /// The destination of a new connection of a persistent service: that of the client's template, which is made if there
    /// is none, or none that is of use. The port is that of the template's service if that is the one asked for.
    pub(super) fn persist(
        &mut self,
        service: u32,
        tuple: &Tuple,
        payload: &[u8],
        request: &Request,
        moment: &mut Moment<'_>,
    ) -> Result<Chosen, Reason> {
        let Some((key, config)) = self.services.service(service).map(|s| (s.key, s.config)) else {
            return Err(Reason::NoDestination);
        };
        let own_port = is_own_port(&key, tuple.destination_port);
        let name = Tuple {
            protocol: if matches!(key, ServiceKey::Mark { .. }) { Protocol::Ip } else { tuple.protocol },
            source: masked(tuple.source, config.netmask),
            source_port: 0,
            destination: match key {
                ServiceKey::Mark { mark, .. } => mark_address(mark, tuple.source),
                ServiceKey::Address { .. } => tuple.destination,
            },
            // FTP's data connections belong to those of its port.
            destination_port: if own_port && tuple.destination_port != FTP { tuple.destination_port } else { 0 },
        };
        let call_id: &[u8] = match config.persistence_engine {
            None => &[],
            // The engine has nothing to say of anything but datagrams, and Linux does not let them through then.
            Some(PersistenceEngine::Sip) if tuple.protocol != Protocol::Udp => return Err(Reason::PersistenceEngine),
            Some(PersistenceEngine::Sip) => sip::call_id(payload).ok_or(Reason::PersistenceEngine)?,
        };
        // Not over within this very tick, or it could be taken out before its connection is in.
        let timeout = ticks(config.timeout).max(1);
        let template = match self.table.find_template(&name, call_id).filter(|&place| self.is_of_use(place, moment)) {
            Some(place) => {
                self.table.renew(place, moment.now, timeout);
                place
            }
            None => {
                let destination = self.services.choose(service, request).ok_or(Reason::NoDestination)?;
                let to = &self.services.pool[destination as usize];
                let new = New {
                    protocol: name.protocol,
                    client: name.source,
                    client_port: 0,
                    virtual_address: name.destination,
                    virtual_port: name.destination_port,
                    address: to.key.address,
                    port: if own_port && tuple.destination_port != FTP { to.key.port } else { 0 },
                    forward: to.config.forward,
                    destination,
                    template: true,
                };
                let place = self.insert(&new, None, call_id, moment.now, timeout).map_err(|Full| Reason::TableFull)?;
                self.services.pool[destination as usize].templates += 1;
                place
            }
        };
        let destination = self.table.get(template).destination;
        let port = self.services.pool[destination as usize].key.port;
        let port = if own_port && port != 0 { port } else { tuple.destination_port };
        Ok(Chosen { destination, port, template: Some(template) })
    }

    /// Whether a template leads somewhere. If not, it is found no more; it goes when its time is over.
    fn is_of_use(&mut self, place: u32, moment: &mut Moment<'_>) -> bool {
        let entry = self.table.get(place);
        if !entry.is_controlling() && self.table.is_over(place, moment.now) {
            self.end(place);
            return false;
        }
        let destination = &self.services.pool[entry.destination as usize];
        let is_quiescent = self.sysctls.expire_quiescent_template != 0 && destination.config.weight == 0;
        if destination.available && !is_quiescent {
            return true;
        }
        self.table.invalidate(place);
        false
    }

    /// A packet of a connection that came from a template: that stays if the connection came about.
    #[cold]
    pub(super) fn assure(&mut self, place: u32, seen: Seen) {
        let entry = self.table.get(place);
        let has_come_about = match entry.protocol() {
            Protocol::Tcp => entry.state() == TcpState::Established as u8,
            Protocol::Sctp => entry.state() == SctpState::Established as u8,
            _ => seen == Seen::Output,
        };
        if let (true, Some(template)) = (has_come_about, entry.template())
            && self.table.get(template).is_template()
        {
            self.table.assure(template);
        }
    }

    /// Ends a connection before its time, and its template if that has no other. One of which a connection came about
    /// stays, unless it is not to `even_assured`.
    pub(super) fn end_with_template(&mut self, place: u32, even_assured: bool) {
        let template = self.table.get(place).template();
        self.end(place);
        if let Some(template) = template {
            let entry = self.table.get(template);
            if !entry.is_controlling() && (even_assured || !entry.is_assured()) {
                self.end(template);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_cut_addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(masked(ip("192.0.2.77"), 0xffff_ff00), ip("192.0.2.0"));
        assert_eq!(masked(ip("192.0.2.77"), 0), ip("0.0.0.0"));
        assert_eq!(masked(ip("2001:db8:1:2::3"), 48), ip("2001:db8:1::"));
        assert_eq!(masked(ip("2001:db8::3"), 128), ip("2001:db8::3"));
        assert_eq!((mark_address(7, ip("10.0.0.1")), mark_address(7, ip("fd00::1"))), (ip("0.0.0.7"), ip("0:7::")));
    }
}
