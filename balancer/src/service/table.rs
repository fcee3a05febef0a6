//! The services, their destinations, and the trash where removed destinations wait for their connections to end.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use super::{
    DestinationConfig, DestinationInfo, DestinationKey, Family, Forward, Protocol, ServiceConfig, ServiceFlags,
    ServiceInfo, ServiceKey, Tunnel,
};
use crate::config::{is_unicast_v4, is_unicast_v6};
use crate::connection::Tuple;
use crate::mark::Marks;
use crate::neighbour::Hop;
use crate::path::TunnelEnd;
use crate::scheduler::{Expirations, List, Request, State};
use crate::source::{self, Scope, SourceLimits};
use crate::stats::Meter;
use crate::time::Instant;
use crate::{Errno, ExtraCounters, ExtraInfo, Extras, LocalPool, MarkRule, POOLS_MAX};

/// No place.
pub(crate) const NONE: u32 = u32::MAX;

/// The place of what takes the place of a destination for connections that have none: their packets go around the balancer.
pub(crate) const NOBODY: u32 = 0;

/// FTP's port, and that of its data connections.
pub(crate) const FTP: u16 = 21;
pub(crate) const FTP_DATA: u16 = 20;
/// Ports from here on may be those of FTP's passive data connections (net.ipv4.ip_unprivileged_port_start).
pub(crate) const UNPRIVILEGED: u16 = 1024;

/// How long a destination without connections lies in the trash before it is forgotten.
const TRASH_IDLE: Duration = Duration::from_secs(120);

/// A service.
#[derive(Debug)]
pub(crate) struct Service {
    pub key: ServiceKey,
    pub config: ServiceConfig,
    pub meter: Meter,
    /// Tells this service from one of the same name added later.
    id: u64,
    /// Places of its destinations, newest first.
    pub order: Vec<u32>,
    pub state: State,
    /// What it does beyond IPVS.
    pub extras: Extras,
    pub extra_counters: ExtraCounters,
}

/// A destination: of a service, or in the trash.
#[derive(Debug)]
pub(crate) struct Destination {
    pub key: DestinationKey,
    pub config: DestinationConfig,
    pub meter: Meter,
    /// How packets to it begin their way.
    pub hop: Hop,
    /// The place of its service; [`NONE`] once the service is gone.
    pub service: u32,
    /// It is in its service's list. If not, it is in the trash, or its place is free.
    pub available: bool,
    /// Its address is this machine's own: packets to it are the local stack's.
    pub local: bool,
    /// It is in its service's list, and packets to it leave the machine: all there is to ask about most.
    pub usual: bool,
    /// No new connections, by its thresholds.
    pub overloaded: bool,
    /// Connections in an active state.
    pub active: u32,
    /// All its connections but templates.
    pub connections: u32,
    /// Its templates.
    pub templates: u32,
    /// The last weight it had that was not 0; 0 if there was none.
    pub last_weight: i32,
    /// Tells it from what else was or will be in its place.
    pub incarnation: u32,
    /// What there is to know of the tunnel to it.
    pub tunnel: TunnelEnd,
    /// How many local addresses and ports full NAT has looked at for it.
    pub locals: u64,
    service_id: u64,
    /// The name of its service, also once that is gone.
    pub service_key: ServiceKey,
    /// Since when it lies in the trash without connections.
    idle_since: Option<Instant>,
}

impl Destination {
    #[cfg(test)]
    pub fn for_test(weight: i32) -> Self {
        let address = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 1));
        Destination {
            key: DestinationKey { address, port: 80 },
            config: DestinationConfig::new(Forward::Masquerade, weight),
            meter: Meter::default(),
            hop: Hop::UNKNOWN,
            service: 0,
            available: true,
            local: false,
            usual: true,
            overloaded: false,
            active: 0,
            connections: 0,
            templates: 0,
            last_weight: weight,
            incarnation: 0,
            tunnel: TunnelEnd::default(),
            locals: 0,
            service_id: 0,
            service_key: ServiceKey::tcp(address, 80),
            idle_since: None,
        }
    }

    /// Whether it takes new connections as far as it is concerned.
    pub fn is_open(&self) -> bool {
        self.config.weight > 0 && !self.overloaded
    }

    /// Says whether it is in its service's list.
    fn set_available(&mut self, available: bool) {
        self.available = available;
        self.usual = available && !self.local;
    }

    /// What it has to do: an active connection weighs 256 times an inactive one, and counts among all connections too
    /// (Linux 6.1.192).
    pub fn load(&self) -> u32 {
        self.active.wrapping_mul(256).wrapping_add(self.connections)
    }

    /// Takes another configuration. Whether it is overloaded by that is seen with the next connection, unless the upper
    /// threshold is raised or gone.
    pub fn configure(&mut self, config: DestinationConfig) {
        if config.upper_threshold == 0 || config.upper_threshold > self.config.upper_threshold {
            self.overloaded = false;
        }
        if config.weight != 0 {
            self.last_weight = config.weight;
        }
        self.config = config;
    }

    /// A connection was bound: it counts as inactive until its state says otherwise.
    pub fn bind(&mut self) {
        self.connections += 1;
        self.idle_since = None;
        let upper = self.config.upper_threshold;
        if upper != 0 && self.connections >= upper {
            self.overloaded = true;
        }
    }

    /// A connection ended, while it counted as active or not.
    pub fn unbind(&mut self, active: bool) {
        debug_assert!(self.connections > 0 && (!active || self.active > 0));
        self.connections = self.connections.saturating_sub(1);
        if active {
            self.active = self.active.saturating_sub(1);
        }
        let (upper, lower) = (self.config.upper_threshold, self.config.lower_threshold);
        let lower = if lower == 0 { upper - upper / 4 } else { lower };
        if upper == 0 || self.connections < lower {
            self.overloaded = false;
        }
    }

    fn info(&self) -> DestinationInfo {
        DestinationInfo {
            key: self.key,
            config: self.config,
            active: self.active,
            inactive: self.connections.saturating_sub(self.active),
            persistent: self.templates,
            overloaded: self.overloaded,
            stats: self.meter.stats(),
            rates: self.meter.rates(),
        }
    }
}

/// How many services and destinations there may be, so that whoever may configure cannot use up the memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub services: u32,
    /// Those that were removed and still have connections count.
    pub destinations: u32,
    /// Bytes for the tables of schedulers.
    pub table_memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { services: u32::MAX, destinations: u32::MAX, table_memory: usize::MAX }
    }
}

/// All services and destinations. Places stay the same for as long as a thing lives.
#[derive(Debug, Default)]
pub(crate) struct Services {
    pub slots: Vec<Option<Service>>,
    pub pool: Vec<Destination>,
    /// Places in `pool` that can be used again.
    free: Vec<u32>,
    /// Places of removed destinations.
    trash: Vec<u32>,
    /// Places of services, oldest first.
    order: Vec<u32>,
    index: BTreeMap<ServiceKey, u32>,
    /// Services of port 0, and TCP services of FTP's port: most often there are none.
    any_port: u32,
    ftp: u32,
    next_id: u64,
    next_incarnation: u32,
    /// Secret from which those of the schedulers come.
    seed: u64,
    /// Grows with every change of the set of virtual addresses.
    pub generation: u64,
    /// Grows with every change of services and destinations.
    pub revision: u64,
    limits: Limits,
    /// Bytes of [`Limits::table_memory`] that are taken.
    table_memory: usize,
    virtual_addresses: BTreeSet<IpAddr>,
    /// Destinations under NAT that are in a list, by address and port, so that it is known whether a server is one of ours. The
    /// last is the place in `pool`.
    servers: BTreeSet<(IpAddr, u16, u32)>,
    /// Those among them that are of pools of full NAT.
    local_addresses: BTreeSet<IpAddr>,
    /// Pools that were of a service, and of which connections may still have addresses. They are answered for as before.
    retired: Vec<LocalPool>,
    /// What goes for all services.
    pub all: Extras,
    pub all_counters: ExtraCounters,
    /// Rules that give packets marks.
    pub marks: Marks,
}

/// What a service must be to be balanced here.
fn check_service(key: &ServiceKey, config: &ServiceConfig) -> Result<(), Errno> {
    match key {
        ServiceKey::Mark { mark: 0, .. } => return Err(Errno::Invalid),
        ServiceKey::Mark { .. } => {}
        ServiceKey::Address { protocol: Protocol::Ip, .. } => return Err(Errno::Protocol),
        ServiceKey::Address { address, port, .. } => {
            let unicast = match address {
                IpAddr::V4(a) => is_unicast_v4(*a),
                IpAddr::V6(a) => is_unicast_v6(*a),
            };
            if !unicast || (*port == 0 && !config.flags.contains(ServiceFlags::PERSISTENT)) {
                return Err(Errno::Invalid);
            }
        }
    }
    if key.family() == Family::V6 && !(1..=128).contains(&config.netmask) {
        return Err(Errno::Invalid);
    }
    Ok(())
}

/// Whether there are such tunnels. Linux takes any kind, and makes IPIP of those it does not know.
fn check_tunnel(tunnel: &Tunnel) -> Result<(), Errno> {
    let no_port = tunnel.kind == Tunnel::GUE && tunnel.port == 0;
    if no_port || tunnel.kind > Tunnel::GRE { Err(Errno::Invalid) } else { Ok(()) }
}

/// What a destination must be to be served here.
fn check_destination(service: &ServiceKey, key: &DestinationKey, config: &DestinationConfig) -> Result<(), Errno> {
    if config.weight < 0 || config.lower_threshold > config.upper_threshold {
        return Err(Errno::OutOfRange);
    }
    if config.upper_threshold > i32::MAX as u32 {
        return Err(Errno::Invalid);
    }
    let unicast = match key.address {
        IpAddr::V4(a) => is_unicast_v4(a),
        IpAddr::V6(a) => is_unicast_v6(a) && !a.is_unicast_link_local(),
    };
    if !unicast || Family::of(&key.address) != service.family() && config.forward != Forward::Tunnel {
        return Err(Errno::Invalid);
    }
    match config.forward {
        Forward::Masquerade | Forward::Direct => Ok(()),
        Forward::Tunnel => check_tunnel(&config.tunnel),
        Forward::Local | Forward::Bypass => Err(Errno::NotSupported),
    }
}

/// What a service must be to do what IPVS cannot: full NAT needs connections, does not look into FTP's, and was not tried with SCTP,
/// whose ends tell each other of their addresses.
fn check_extras(key: &ServiceKey, config: &ServiceConfig, extras: &Extras) -> Result<(), Errno> {
    let is_other = matches!(
        key,
        ServiceKey::Address { protocol: Protocol::Tcp, port: FTP, .. }
            | ServiceKey::Address { protocol: Protocol::Sctp, .. }
    );
    let is_tcp = matches!(key, ServiceKey::Address { protocol: Protocol::Tcp, .. } | ServiceKey::Mark { .. });
    if extras.needs_tcp() && !is_tcp {
        return Err(Errno::NotSupported);
    }
    if extras.needs_nat() && (is_other || config.flags.contains(ServiceFlags::ONE_PACKET)) {
        return Err(Errno::NotSupported);
    }
    Ok(())
}

/// How many services of port 0, and how many of FTP's, one of this name is.
fn special(key: &ServiceKey) -> (u32, u32) {
    match key {
        ServiceKey::Address { port: 0, .. } => (1, 0),
        ServiceKey::Address { protocol: Protocol::Tcp, port: FTP, .. } => (0, 1),
        _ => (0, 0),
    }
}

impl Services {
    /// No services yet, and no more than that ever.
    pub fn new(limits: Limits, seed: u64) -> Self {
        // What takes the place of a destination for connections that have none.
        let key = DestinationKey { address: Ipv4Addr::UNSPECIFIED.into(), port: 0 };
        let nobody = Destination {
            available: false,
            usual: false,
            key,
            config: DestinationConfig::new(Forward::Bypass, 1),
            meter: Meter::default(),
            hop: Hop::UNKNOWN,
            service: NONE,
            locals: 0,
            local: false,
            overloaded: false,
            active: 0,
            connections: 0,
            templates: 0,
            last_weight: 0,
            incarnation: 0,
            tunnel: TunnelEnd::default(),
            service_id: 0,
            service_key: ServiceKey::tcp(key.address, 0),
            idle_since: None,
        };
        Services { limits, seed, pool: vec![nobody], ..Services::default() }
    }

    /// The place of a service.
    pub fn find(&self, key: &ServiceKey) -> Option<u32> {
        self.index.get(key).copied()
    }

    /// Bytes that are left for tables.
    pub fn table_memory_left(&self) -> usize {
        self.limits.table_memory.saturating_sub(self.table_memory)
    }

    /// Takes bytes for tables.
    pub fn take_table_memory(&mut self, bytes: usize) -> Result<(), Errno> {
        if bytes > self.table_memory_left() {
            return Err(Errno::OutOfMemory);
        }
        self.table_memory += bytes;
        Ok(())
    }

    /// Changes the rules that give packets marks.
    pub fn change_marks(&mut self, change: impl FnOnce(&mut Marks) -> Result<(), Errno>) -> Result<(), Errno> {
        change(&mut self.marks)?;
        self.revision += 1;
        self.addresses_changed();
        Ok(())
    }

    /// The service of the mark that the rules give a packet, if there is one.
    pub fn marked(&self, tuple: &Tuple) -> Option<u32> {
        let mark = self.marks.of(tuple)?;
        self.find(&ServiceKey::Mark { family: Family::of(&tuple.destination), mark })
    }

    /// The service a packet that begins a connection is for, if it has no mark (ip_vs_service_find).
    pub fn lookup(&self, tuple: &Tuple) -> Option<u32> {
        let named = |port| ServiceKey::Address { protocol: tuple.protocol, address: tuple.destination, port };
        let port = tuple.destination_port;
        let mut found = self.find(&named(port));
        let is_data = tuple.protocol == Protocol::Tcp && (port == FTP_DATA || port >= UNPRIVILEGED);
        if found.is_none() && self.ftp > 0 && is_data {
            found = self.find(&named(FTP));
        }
        if found.is_none() && self.any_port > 0 {
            found = self.find(&named(0));
        }
        found
    }

    /// Whether connections of a service last one packet.
    pub fn is_one_packet(&self, place: u32, protocol: Protocol) -> bool {
        protocol == Protocol::Udp
            && self.service(place).is_some_and(|s| s.config.flags.contains(ServiceFlags::ONE_PACKET))
    }

    /// Whether a packet came to a service of FTP by a port that may be one of its data connections.
    pub fn is_ftp_data(&self, place: u32, tuple: &Tuple) -> bool {
        self.service(place).is_some_and(|s| s.key.other_port(tuple.destination_port) == Some(FTP))
    }

    pub fn service(&self, place: u32) -> Option<&Service> {
        self.slots.get(place as usize)?.as_ref()
    }

    fn place(&self, key: &ServiceKey) -> Result<u32, Errno> {
        self.find(key).ok_or(Errno::NoService)
    }

    /// The place of a destination of a service.
    pub fn destination(&self, service: u32, key: &DestinationKey) -> Option<u32> {
        self.position(service, key).map(|(_, place)| place)
    }

    /// Whether any destination is of another family than its service.
    pub fn is_mixed(&self) -> bool {
        let of = |service: &Service| {
            service
                .order
                .iter()
                .any(|&place| Family::of(&self.pool[place as usize].key.address) != service.key.family())
        };
        self.slots.iter().flatten().any(of)
    }

    /// Whether an address is one of a service.
    pub fn is_virtual(&self, address: &IpAddr) -> bool {
        self.virtual_addresses.contains(address)
    }

    pub fn virtual_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.virtual_addresses.iter().copied()
    }

    fn addresses_changed(&mut self) {
        let of_key = |key: &ServiceKey| match key {
            ServiceKey::Address { address, .. } => Some(*address),
            ServiceKey::Mark { .. } => None,
        };
        let is_served =
            |rule: &&MarkRule| self.find(&ServiceKey::Mark { family: rule.family(), mark: rule.mark }).is_some();
        let marked = self.marks.iter().filter(is_served).filter_map(MarkRule::host);
        let pools = self.slots.iter().flatten().filter_map(|service| service.extras.pool.as_ref());
        let pools = pools.chain(&self.retired);
        let local: BTreeSet<IpAddr> = pools.flat_map(|pool| pool.addresses()).collect();
        let locals = local.iter().copied();
        let now: BTreeSet<IpAddr> = self.index.keys().filter_map(of_key).chain(marked).chain(locals).collect();
        self.local_addresses = local;
        if now != self.virtual_addresses {
            self.virtual_addresses = now;
            self.generation += 1;
        }
    }

    pub fn add(&mut self, key: ServiceKey, mut config: ServiceConfig) -> Result<(), Errno> {
        check_service(&key, &config)?;
        if self.index.contains_key(&key) {
            return Err(Errno::Exists);
        }
        if let ServiceKey::Address { address, .. } = &key
            && self.local_addresses.contains(address)
        {
            return Err(Errno::Invalid);
        }
        if self.index.len() >= self.limits.services as usize {
            return Err(Errno::OutOfMemory);
        }
        config.flags |= ServiceFlags::HASHED;
        self.next_id += 1;
        let is_mark = matches!(key, ServiceKey::Mark { .. });
        let seed = self.seed.wrapping_add(self.next_id);
        let state = State::new(config.scheduler, List { order: &[], pool: &self.pool }, is_mark, seed)?;
        self.take_table_memory(state.memory())?;
        let service = Service {
            key,
            config,
            meter: Meter::default(),
            id: self.next_id,
            order: Vec::new(),
            state,
            extras: Extras::default(),
            extra_counters: ExtraCounters::default(),
        };
        let place = match self.slots.iter().position(Option::is_none) {
            Some(place) => {
                self.slots[place] = Some(service);
                place
            }
            None => {
                self.slots.push(Some(service));
                self.slots.len() - 1
            }
        } as u32;
        self.index.insert(key, place);
        let (any_port, ftp) = special(&key);
        (self.any_port, self.ftp) = (self.any_port + any_port, self.ftp + ftp);
        self.order.push(place);
        self.revision += 1;
        self.addresses_changed();
        Ok(())
    }

    pub fn edit(&mut self, key: &ServiceKey, mut config: ServiceConfig) -> Result<(), Errno> {
        let place = self.place(key)?;
        check_service(key, &config)?;
        config.flags |= ServiceFlags::HASHED;
        let Some(service) = self.slots[place as usize].as_mut() else { return Err(Errno::NoService) };
        check_extras(key, &config, &service.extras)?;
        if service.config.scheduler != config.scheduler {
            let is_mark = matches!(key, ServiceKey::Mark { .. });
            let seed = self.seed.wrapping_add(service.id);
            let list = List { order: &service.order, pool: &self.pool };
            let state = State::new(config.scheduler, list, is_mark, seed)?;
            let taken = self.table_memory - service.state.memory() + state.memory();
            if taken > self.limits.table_memory {
                return Err(Errno::OutOfMemory);
            }
            (self.table_memory, service.state) = (taken, state);
        }
        service.config = config;
        self.revision += 1;
        Ok(())
    }

    pub fn delete(&mut self, key: &ServiceKey) -> Result<(), Errno> {
        self.remove(key)?;
        self.addresses_changed();
        Ok(())
    }

    fn remove(&mut self, key: &ServiceKey) -> Result<(), Errno> {
        let place = self.place(key)?;
        let Some(service) = self.slots[place as usize].take() else { return Err(Errno::NoService) };
        self.table_memory -= service.state.memory();
        for &destination in &service.order {
            let d = &mut self.pool[destination as usize];
            self.servers.remove(&(d.key.address, d.key.port, destination));
            d.set_available(false);
            d.idle_since = None;
            self.trash.push(destination);
        }
        for &destination in &self.trash {
            let d = &mut self.pool[destination as usize];
            if d.service == place {
                d.service = NONE;
            }
        }
        self.index.remove(key);
        let (any_port, ftp) = special(key);
        (self.any_port, self.ftp) = (self.any_port - any_port, self.ftp - ftp);
        self.order.retain(|&p| p != place);
        self.revision += 1;
        self.retire(service.extras.pool);
        Ok(())
    }

    pub fn flush(&mut self) {
        while let Some(key) = self.index.keys().next().copied() {
            let _ = self.remove(&key);
        }
        self.addresses_changed();
    }

    pub fn zero(&mut self, key: &ServiceKey) -> Result<(), Errno> {
        let place = self.place(key)?;
        if let Some(service) = self.slots[place as usize].as_mut() {
            service.meter.zero();
            service.extra_counters = ExtraCounters::default();
            for &destination in &service.order {
                self.pool[destination as usize].meter.zero();
            }
        }
        Ok(())
    }

    pub fn zero_all(&mut self) {
        self.all_counters = ExtraCounters::default();
        for service in self.slots.iter_mut().flatten() {
            service.meter.zero();
            service.extra_counters = ExtraCounters::default();
            for &destination in &service.order {
                self.pool[destination as usize].meter.zero();
            }
        }
    }

    pub fn estimate(&mut self) {
        self.slots.iter_mut().flatten().for_each(|s| s.meter.estimate());
        self.pool.iter_mut().for_each(|d| d.meter.estimate());
    }

    /// Whether a service can have a destination besides its extras: full NAT leads to others by NAT only, and not to itself.
    fn check_beside(&self, at: u32, key: &DestinationKey, config: &DestinationConfig) -> Result<(), Errno> {
        if self.local_addresses.contains(&key.address) {
            return Err(Errno::Invalid);
        }
        let needs_nat = self.service(at).is_some_and(|service| service.extras.needs_nat());
        if needs_nat && config.forward != Forward::Masquerade { Err(Errno::NotSupported) } else { Ok(()) }
    }

    /// Whether an address is one of a pool, or was, and a connection may still have it.
    pub fn is_local(&self, address: &IpAddr) -> bool {
        self.local_addresses.contains(address)
    }

    /// Keeps the addresses of a pool that is a service's no more.
    fn retire(&mut self, pool: Option<LocalPool>) {
        if let Some(pool) = pool.filter(|pool| !self.retired.contains(pool)) {
            self.retired.push(pool);
        }
    }

    /// Forgets pools that are no service's any more, and that are not used.
    pub fn release_pools(&mut self, is_used: impl Fn(&LocalPool) -> bool) {
        let before = self.retired.len();
        self.retired.retain(is_used);
        if self.retired.len() != before {
            self.addresses_changed();
        }
    }

    /// Lets a service do what IPVS cannot, instead of what it did so far.
    pub fn set_extras(&mut self, key: &ServiceKey, extras: Extras) -> Result<(), Errno> {
        let place = self.place(key)?;
        let extras = extras.normal();
        extras.check(key)?;
        let Some(service) = self.service(place) else { return Err(Errno::NoService) };
        check_extras(key, &service.config, &extras)?;
        let mut destinations = service.order.iter().map(|&place| &self.pool[place as usize]);
        if extras.needs_nat() && destinations.any(|d| d.config.forward != Forward::Masquerade) {
            return Err(Errno::NotSupported);
        }
        if let Some(pool) = &extras.pool {
            let is_taken =
                |address: IpAddr| self.virtual_addresses.contains(&address) && !self.local_addresses.contains(&address);
            let is_server = |d: &Destination| d.available && pool.contains(&d.key.address);
            if pool.addresses().any(is_taken) || self.pool.iter().any(is_server) {
                return Err(Errno::Invalid);
            }
            let others = self.slots.iter().flatten().filter(|other| other.key != *key);
            let others = others.filter_map(|other| other.extras.pool.as_ref()).chain(&self.retired);
            if others.map(LocalPool::len).sum::<u32>().saturating_add(pool.len()) > POOLS_MAX {
                return Err(Errno::OutOfMemory);
            }
        }
        let old = self.slots[place as usize].as_mut().map(|service| core::mem::replace(&mut service.extras, extras));
        self.retired.retain(|pool| extras.pool != Some(*pool));
        self.retire(old.and_then(|old| old.pool).filter(|pool| extras.pool != Some(*pool)));
        self.revision += 1;
        self.addresses_changed();
        Ok(())
    }

    /// Lets something go for all services: nothing but limits can.
    pub fn set_all(&mut self, extras: Extras) -> Result<(), Errno> {
        let extras = extras.normal();
        extras.limits.check()?;
        if extras != (Extras { limits: extras.limits, ..Extras::default() }) {
            return Err(Errno::Invalid);
        }
        self.all = extras;
        self.revision += 1;
        Ok(())
    }

    /// The limits of sources that go for connections of a service: those of all, and its own.
    pub fn limits(&self, place: u32) -> [Option<(Scope, SourceLimits)>; 2] {
        let some = |scope, limits: SourceLimits| (!limits.is_none()).then_some((scope, limits));
        let own = self.service(place).and_then(|service| some(service.id as Scope, service.extras.limits));
        [some(source::ALL, self.all.limits), own]
    }

    /// Counts what a service does that IPVS cannot, or, in the first of both places, what goes for all.
    pub fn count_extra(&mut self, place: Option<u32>, add: impl FnOnce(&mut ExtraCounters)) {
        match place {
            None => add(&mut self.all_counters),
            Some(place) => {
                if let Some(Some(service)) = self.slots.get_mut(place as usize) {
                    add(&mut service.extra_counters);
                }
            }
        }
    }

    /// What a service does that IPVS cannot.
    pub fn extras_of(&self, key: &ServiceKey) -> Result<Extras, Errno> {
        self.service(self.place(key)?).map(|service| service.extras).ok_or(Errno::NoService)
    }

    /// What goes for all services, if anything does, and what services do that IPVS cannot, oldest first.
    pub fn extras(&self) -> impl Iterator<Item = ExtraInfo> + '_ {
        let all = ExtraInfo { service: None, extras: self.all, counters: self.all_counters };
        let services = self.order.iter().filter_map(|&place| self.service(place));
        let services = services.filter(|service| !service.extras.is_none()).map(|service| ExtraInfo {
            service: Some(service.key),
            extras: service.extras,
            counters: service.extra_counters,
        });
        (!self.all.is_none()).then_some(all).into_iter().chain(services)
    }

    fn info(service: &Service) -> ServiceInfo {
        ServiceInfo {
            key: service.key,
            config: service.config,
            destinations: service.order.len(),
            stats: service.meter.stats(),
            rates: service.meter.rates(),
        }
    }

    pub fn get(&self, key: &ServiceKey) -> Result<ServiceInfo, Errno> {
        self.service(self.place(key)?).map(Self::info).ok_or(Errno::NoService)
    }

    /// Services, oldest first.
    pub fn list(&self) -> impl Iterator<Item = ServiceInfo> + '_ {
        self.order.iter().filter_map(|&place| self.service(place)).map(Self::info)
    }

    /// Destinations of a service in list order.
    pub fn destinations(&self, key: &ServiceKey) -> Result<impl Iterator<Item = DestinationInfo> + '_, Errno> {
        let service = self.service(self.place(key)?).ok_or(Errno::NoService)?;
        Ok(service.order.iter().map(|&place| self.pool[place as usize].info()))
    }

    /// The position of a destination in the list of its service, and its place.
    fn position(&self, service: u32, key: &DestinationKey) -> Option<(usize, u32)> {
        let order = &self.service(service)?.order;
        let position = order.iter().position(|&place| self.pool[place as usize].key == *key)?;
        Some((position, order[position]))
    }

    /// Adds a destination; `local` if its address is one of our own.
    pub fn add_destination(
        &mut self,
        service: &ServiceKey,
        key: DestinationKey,
        config: DestinationConfig,
        local: bool,
    ) -> Result<(), Errno> {
        let at = self.place(service)?;
        check_destination(service, &key, &config)?;
        self.check_beside(at, &key, &config)?;
        if self.position(at, &key).is_some() {
            return Err(Errno::Exists);
        }
        let Some(service_at) = self.slots[at as usize].as_mut() else { return Err(Errno::NoService) };
        let (id, len) = (service_at.id, service_at.order.len());
        service_at.state.reserve(len + 1)?;
        let in_trash = |&place: &u32| {
            let d = &self.pool[place as usize];
            d.key == key && d.service_key == *service
        };
        let place = match self.trash.iter().position(in_trash) {
            Some(position) => {
                // The same destination as before, with its connections; and with its counters, unless the service
                // is another one of the same name.
                let place = self.trash.swap_remove(position);
                let d = &mut self.pool[place as usize];
                if d.service_id != id {
                    d.meter = Meter::default();
                }
                d.configure(config);
                (d.service, d.service_id, d.idle_since) = (at, id, None);
                d.set_available(true);
                place
            }
            None => {
                self.make_room()?;
                self.next_incarnation = self.next_incarnation.wrapping_add(1);
                let d = Destination {
                    key,
                    config,
                    meter: Meter::default(),
                    hop: Hop::UNKNOWN,
                    service: at,
                    available: true,
                    local,
                    usual: !local,
                    overloaded: false,
                    active: 0,
                    connections: 0,
                    templates: 0,
                    last_weight: config.weight,
                    incarnation: self.next_incarnation,
                    tunnel: TunnelEnd::default(),
                    locals: 0,
                    service_id: id,
                    service_key: *service,
                    idle_since: None,
                };
                match self.free.pop() {
                    Some(place) => {
                        self.pool[place as usize] = d;
                        place
                    }
                    None => {
                        self.pool.push(d);
                        self.pool.len() as u32 - 1
                    }
                }
            }
        };
        self.file(place);
        if let Some(service) = self.slots[at as usize].as_mut() {
            service.order.insert(0, place);
            self.revision += 1;
            service.state.added(List { order: &service.order, pool: &self.pool });
        }
        Ok(())
    }

    /// Puts a destination among the servers, if it is one.
    fn file(&mut self, place: u32) {
        let d = &self.pool[place as usize];
        let name = (d.key.address, d.key.port, place);
        if d.config.forward == Forward::Masquerade {
            self.servers.insert(name);
        } else {
            self.servers.remove(&name);
        }
    }

    /// The places of destinations under NAT with this address and port, for packets of a protocol: one of a mark is for all.
    fn servers(&self, protocol: Protocol, address: IpAddr, port: u16) -> impl Iterator<Item = u32> + '_ {
        let all = self.servers.range((address, port, 0)..=(address, port, u32::MAX)).map(|&(_, _, place)| place);
        all.filter(move |&place| match self.pool[place as usize].service_key {
            ServiceKey::Address { protocol: own, .. } => own == protocol,
            ServiceKey::Mark { .. } => true,
        })
    }

    /// Whether there is a destination under NAT with this address and port (ip_vs_has_real_service).
    pub fn has_server(&self, protocol: Protocol, address: IpAddr, port: u16) -> bool {
        self.servers(protocol, address, port).next().is_some()
    }

    /// Makes sure of a place for one more destination: at the limit, one in the trash without connections gives up its
    /// own before its time. Room in the trash is made here too, so that nothing is allocated when one is removed.
    fn make_room(&mut self) -> Result<(), Errno> {
        if !self.free.is_empty() {
            return Ok(());
        }
        if self.pool.len() <= self.limits.destinations as usize {
            let places = (self.pool.len() + 1).saturating_sub(self.trash.len());
            let room = self.pool.try_reserve(1).and(self.trash.try_reserve(places));
            return room.map_err(|_| Errno::OutOfMemory);
        }
        let pool = &self.pool;
        let idle = |&place: &u32| pool[place as usize].connections == 0 && pool[place as usize].templates == 0;
        let position = self.trash.iter().position(idle).ok_or(Errno::OutOfMemory)?;
        self.free.push(self.trash.swap_remove(position));
        Ok(())
    }

    pub fn edit_destination(
        &mut self,
        service: &ServiceKey,
        key: &DestinationKey,
        config: DestinationConfig,
    ) -> Result<(), Errno> {
        let at = self.place(service)?;
        check_destination(service, key, &config)?;
        self.check_beside(at, key, &config)?;
        let (_, place) = self.position(at, key).ok_or(Errno::NotFound)?;
        let d = &mut self.pool[place as usize];
        d.configure(config);
        self.file(place);
        self.revision += 1;
        if let Some(service) = self.slots[at as usize].as_mut() {
            service.state.edited(List { order: &service.order, pool: &self.pool });
        }
        Ok(())
    }

    pub fn delete_destination(&mut self, service: &ServiceKey, key: &DestinationKey) -> Result<(), Errno> {
        let at = self.place(service)?;
        let (position, place) = self.position(at, key).ok_or(Errno::NotFound)?;
        let d = &mut self.pool[place as usize];
        d.set_available(false);
        d.idle_since = None;
        self.servers.remove(&(key.address, key.port, place));
        self.trash.push(place);
        if let Some(service) = self.slots[at as usize].as_mut() {
            service.order.remove(position);
            self.revision += 1;
            service.state.removed(position, List { order: &service.order, pool: &self.pool });
        }
        Ok(())
    }

    /// Chooses the destination of a new connection.
    pub fn choose(&mut self, service: u32, request: &Request) -> Option<u32> {
        let service = self.slots.get_mut(service as usize)?.as_mut()?;
        service.state.choose(List { order: &service.order, pool: &self.pool }, request)
    }

    /// Lets the schedulers forget what is old. Due every 60 s.
    pub fn look(&mut self, now: Instant, expirations: &Expirations) {
        self.slots.iter_mut().flatten().for_each(|service| service.state.look(now, expirations));
    }

    /// Forgets destinations that have lain in the trash long enough without connections. Due every 60 s.
    pub fn sweep_trash(&mut self, now: Instant) {
        let (pool, free) = (&mut self.pool, &mut self.free);
        self.trash.retain(|&place| {
            let d = &mut pool[place as usize];
            if d.connections > 0 || d.templates > 0 {
                d.idle_since = None;
                return true;
            }
            let since = *d.idle_since.get_or_insert(now);
            let keep = now.since(since) < TRASH_IDLE;
            if !keep {
                free.push(place);
            }
            keep
        });
    }
}
