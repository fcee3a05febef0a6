//! What the balancer lists, in the order in which it is printed.

use ringlet_balancer::ipvsadm::ServiceEntry;
use ringlet_balancer::wire::ipvs::{Command as Wire, command};
use ringlet_balancer::wire::message::flag;
use ringlet_balancer::wire::{Destination, Service, Writer, connection};
use ringlet_balancer::{ConnectionInfo, DestinationInfo, Family, Rates, ServiceKey, Stats};

use super::client::{Client, Failure, missing};

/// A service as listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedService {
    /// Its name and configuration.
    pub entry: ServiceEntry,
    /// Its counters.
    pub stats: Stats,
    /// Its rates.
    pub rates: Rates,
}

/// A service and its destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The service.
    pub service: ListedService,
    /// Its destinations.
    pub destinations: Vec<DestinationInfo>,
}

/// The most entries of one kind that are taken from a balancer: it could go on for ever.
const ENTRIES_MAX: usize = 1 << 24;

impl Client {
    /// One service or all, with their destinations; sorted as ipvsadm sorts, or as the balancer has them.
    ///
    /// # Errors
    /// [`Failure::Refused`] with ESRCH if the one service is not there, or what happened to the connection.
    pub fn list(&mut self, key: Option<&ServiceKey>, sorted: bool) -> Result<Vec<Listed>, Failure> {
        let mut services = Vec::new();
        let flags = if key.is_some() { flag::ACK } else { flag::DUMP };
        let name = |w: &mut Writer<'_>| {
            if let Some(key) = key {
                w.nest(command::SERVICE, |w| Service::of_key(key).write(w));
            }
        };
        self.request(Wire::GetService, flags, name, |kind, attribute| {
            if (kind, attribute.kind) == (Wire::NewService, command::SERVICE) {
                let service = Service::read(attribute).map_err(|_| Failure::Nonsense("a torn service"))?;
                let entry = ServiceEntry::read(&service).map_err(missing)?;
                let (stats, rates) = service.stats.ok_or(Failure::Nonsense("a service without counters"))?;
                push(&mut services, ListedService { entry, stats, rates })?;
            }
            Ok(())
        })?;
        if sorted {
            services.sort_by_key(|service| order(&service.entry.key));
        }
        let with_destinations = |service: ListedService| {
            let mut destinations = self.destinations(&service.entry.key)?;
            if sorted {
                destinations.sort_by_key(|destination| destination.key);
            }
            Ok(Listed { service, destinations })
        };
        services.into_iter().map(with_destinations).collect()
    }

    /// Every connection, in the balancer's order.
    ///
    /// # Errors
    /// What happened to the connection to the balancer.
    pub fn connections(&mut self) -> Result<Vec<ConnectionInfo>, Failure> {
        let mut connections = Vec::new();
        self.request(
            Wire::GetConnection,
            flag::DUMP,
            |_| (),
            |kind, attribute| {
                if (kind, attribute.kind) == (Wire::NewConnection, command::CONNECTION) {
                    push(&mut connections, connection::read(attribute).map_err(missing)?)?;
                }
                Ok(())
            },
        )?;
        Ok(connections)
    }

    fn destinations(&mut self, key: &ServiceKey) -> Result<Vec<DestinationInfo>, Failure> {
        let mut destinations = Vec::new();
        let name = |w: &mut Writer<'_>| _ = w.nest(command::SERVICE, |w| Service::of_key(key).write(w));
        self.request(Wire::GetDest, flag::DUMP, name, |kind, attribute| {
            if (kind, attribute.kind) == (Wire::NewDest, command::DEST) {
                let destination = Destination::read(attribute).map_err(|_| Failure::Nonsense("a torn destination"))?;
                push(&mut destinations, destination.info(key).map_err(missing)?)?;
            }
            Ok(())
        })?;
        Ok(destinations)
    }
}

fn push<T>(list: &mut Vec<T>, entry: T) -> Result<(), Failure> {
    if list.len() == ENTRIES_MAX {
        return Err(Failure::Nonsense("more than sixteen million entries"));
    }
    list.push(entry);
    Ok(())
}

/// The order of ipvsadm: marks last, IPv4 before IPv6, then protocol, address, port.
fn order(key: &ServiceKey) -> (bool, Family, ServiceKey) {
    (matches!(key, ServiceKey::Mark { .. }), key.family(), *key)
}
