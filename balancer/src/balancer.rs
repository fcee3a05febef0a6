//! The balancer as a whole, and its control operations.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use crate::config::Config;
use crate::connection::{Annex, CALL_ID_SIZE, ConnectionInfo, Extra, FTP_SIZE, New, State, Table};
use crate::icmp::Errors;
use crate::limit::TokenBucket;
use crate::neighbour::{Hop, Neighbours};
use crate::packet::{NextHop, Packet, Reason, Sink, Verdict};
use crate::path::{Defense, Fragments, Moment, Openings, Scan, Timers, Workbench};
use crate::route::Routes;
use crate::scheduler::Expirations;
use crate::service::table::{Limits, NOBODY, Services};
use crate::service::{
    DestinationConfig, DestinationInfo, DestinationKey, Family, Forward, PersistenceEngine, Protocol, ServiceConfig,
    ServiceInfo, ServiceKey, Timeouts,
};
use crate::source::Sources;
use crate::stats::{Meter, Rates, Stats};
use crate::sync::Sync;
use crate::syncookie::Cookies;
use crate::time::Instant;
use crate::{Cidr, Errno, ExtraInfo, Extras, MarkRule, Sysctls};

/// What was counted besides services and destinations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames given to [`Balancer::process`].
    pub frames: u64,
    /// Frames sent on at once.
    pub forwarded: u64,
    /// Frames handed to the local stack.
    pub local: u64,
    /// Frames for the balancer itself: messages of synchronization.
    pub taken: u64,
    /// Frames left waiting for a neighbour.
    pub waiting: u64,
    /// Frames that are held now: fragments that go on, or are dropped, when more of their datagram has come.
    pub held: u64,
    /// Frames dropped, by [`Reason`] (`dropped[reason as usize]`).
    pub dropped: [u64; Reason::COUNT],
    /// ICMP and ICMPv6 errors made here.
    pub icmp_sent: u64,
    /// ICMP and ICMPv6 errors not made because of the rate limit.
    pub icmp_limited: u64,
    /// ARP and neighbour-discovery requests made here.
    pub neighbour_requests: u64,
}

/// A balancer: see the [crate documentation](crate).
#[derive(Debug)]
pub struct Balancer {
    pub(crate) config: Config,
    pub(crate) services: Services,
    pub(crate) total: Meter,
    pub(crate) counters: Counters,
    timeouts: Timeouts,
    pub(crate) sysctls: Sysctls,
    pub(crate) defense: Defense,
    /// The walk over the table for connections whose destination was removed.
    pub(crate) orphans: Scan,
    pub(crate) table: Table,
    pub(crate) timers: Timers,
    pub(crate) routes: Routes,
    pub(crate) neighbours: Neighbours,
    /// To the gateways, IPv4's and IPv6's.
    pub(crate) gateways: [Hop; 2],
    pub(crate) errors: Errors,
    pub(crate) cookies: Cookies,
    pub(crate) openings: Openings,
    /// Resets to sources that are over a limit, as many a second as errors.
    pub(crate) resets: TokenBucket,
    /// The local stack has got packets that were rewritten for it: what it sends may have to be rewritten too.
    pub(crate) serves_itself: bool,
    pub(crate) fragments: Fragments,
    /// The daemons that synchronize connections.
    pub(crate) sync: Sync,
    /// There except while a burst is worked on.
    pub(crate) bench: Option<Box<Workbench>>,
}

/// The largest timeout `ipvsadm --set` takes: Linux counts ticks, 250 a second, in an `int`.
const TIMEOUT_LIMIT: u32 = i32::MAX as u32 / 250;

impl Balancer {
    /// A balancer without services. Allocates all it will need for packets.
    pub fn new(config: Config) -> Self {
        let timeouts = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };
        Balancer {
            services: Services::new(
                Limits {
                    services: config.services,
                    destinations: config.destinations,
                    table_memory: config.table_memory,
                },
                config.seed[0].rotate_left(32) ^ config.seed[1],
            ),
            total: Meter::default(),
            counters: Counters::default(),
            timeouts,
            sysctls: Sysctls::default(),
            defense: Defense::default(),
            orphans: Scan::default(),
            table: Table::new(config.connections, config.connections_v6, config.seed),
            timers: Timers::new(&timeouts),
            routes: Routes::new(&config),
            neighbours: Neighbours::new(&config),
            gateways: [Hop::UNKNOWN; 2],
            errors: Errors::new(&config),
            cookies: Cookies::new(config.seed),
            openings: Openings::default(),
            resets: TokenBucket::new(1000, 50),
            serves_itself: false,
            fragments: Fragments::new(&config),
            sync: Sync::new(config.seed[1] ^ 0x5bd1_e995),
            bench: Some(Box::new(Workbench::new())),
            config,
        }
    }

    /// Decides on a burst of frames, in order: rewrites each in place and sets its verdict. Any number will do; 32 at a
    /// time is good for the caches.
    pub fn process(&mut self, burst: &mut [Packet<'_>], now: Instant, sink: &mut dyn Sink) {
        self.run(burst, &mut Moment { now, sink });
    }

    /// Makes a frame that the local stack sends what its client expects: a reply of a destination with an address of our own, under NAT,
    /// comes from the service. All others are left as they are. The frame has its Ethernet addresses, and is to be sent in any case.
    pub fn process_own(&mut self, packet: &mut Packet<'_>, now: Instant) {
        if self.serves_itself {
            self.translate_own(packet, now);
        }
    }

    /// Whether [`Balancer::process_own`] has anything to do yet.
    pub fn serves_itself(&self) -> bool {
        self.serves_itself
    }

    /// Runs what is due: expiry, neighbours, rates. Returns when to call again at the latest; that is not after `now` if
    /// so much was due that some of it is left.
    pub fn poll(&mut self, now: Instant, sink: &mut dyn Sink) -> Instant {
        self.tick(&mut Moment { now, sink })
    }

    /// Finishes a frame that was to wait for `next_hop`, whose first bytes are `head`. The verdict is
    /// [`Verdict::Transmit`], [`Verdict::Wait`] if the neighbour is still not known, or [`Verdict::Drop`].
    pub fn complete(&mut self, head: &mut [u8], next_hop: NextHop) -> Verdict {
        match (self.neighbours.get(next_hop), head.first_chunk_mut::<12>()) {
            (Some(mac), Some(addresses)) => {
                addresses[..6].copy_from_slice(&mac);
                addresses[6..].copy_from_slice(&self.config.mac);
                Verdict::Transmit
            }
            (None, _) if self.neighbours.is_pending(next_hop) => Verdict::Wait(next_hop),
            _ => {
                self.counters.dropped[Reason::Unreachable as usize] += 1;
                Verdict::Drop(Reason::Unreachable)
            }
        }
    }

    /// Tells the source of a frame, which waited for a next hop that does not answer, that its destination is unreachable
    /// (ICMP 3/1, ICMPv6 1/3). The frame is to be as it was left with [`Verdict::Wait`]; it is of no use afterwards.
    pub fn undeliverable(&mut self, packet: &mut Packet<'_>, now: Instant, sink: &mut dyn Sink) {
        self.give_up(packet, &mut Moment { now, sink });
    }

    /// Adds a service.
    ///
    /// # Errors
    /// [`Errno::Exists`]; [`Errno::OutOfMemory`] if there are [`Config::services`] already; [`Errno::Invalid`] for an address
    /// that is no unicast address or one of a [`LocalPool`](crate::LocalPool), port 0 without persistence, or an IPv6 netmask that is no prefix length;
    /// [`Errno::Protocol`], [`Errno::NotSupported`] and, for persistence engines, [`Errno::NotFound`] for what this
    /// balancer does not do.
    pub fn add_service(&mut self, key: ServiceKey, config: ServiceConfig) -> Result<(), Errno> {
        self.services.add(key, config)?;
        // Last, as it is for good.
        let reserved = self.reserve_for_ftp(&key).and_then(|()| self.reserve_for(&config));
        reserved.inspect_err(|_| _ = self.services.delete(&key))
    }

    /// Gives a service another configuration. A scheduler that stays keeps its turn.
    ///
    /// # Errors
    /// [`Errno::NoService`], and those of [`Balancer::add_service`].
    pub fn edit_service(&mut self, key: &ServiceKey, config: ServiceConfig) -> Result<(), Errno> {
        let old = self.services.get(key)?.config;
        self.services.edit(key, config)?;
        self.reserve_for(&config).inspect_err(|_| _ = self.services.edit(key, old))
    }

    /// Takes the memory a service needs besides its own.
    fn reserve_for(&mut self, config: &ServiceConfig) -> Result<(), Errno> {
        if config.persistence_engine != Some(PersistenceEngine::Sip) || self.table.has_call_ids() {
            return Ok(());
        }
        let count = (self.services.table_memory_left() / 2 / CALL_ID_SIZE).min(self.config.call_ids as usize);
        if count == 0 {
            return Err(Errno::OutOfMemory);
        }
        self.table.reserve_call_ids(count)?;
        self.services.take_table_memory(count * CALL_ID_SIZE)
    }

    /// Takes the memory for connections over which FTP is spoken, if a service can have any.
    fn reserve_for_ftp(&mut self, key: &ServiceKey) -> Result<(), Errno> {
        let can_have = match *key {
            ServiceKey::Address { protocol, port, .. } => {
                protocol == Protocol::Tcp && (port == 0 || i32::from(port) == self.sysctls.ftp_port)
            }
            ServiceKey::Mark { .. } => true,
        };
        if !can_have || self.sysctls.ftp_port == 0 || self.table.has_ftp() {
            return Ok(());
        }
        let count = (self.services.table_memory_left() / 2 / FTP_SIZE).min(self.config.ftp_connections as usize);
        if count == 0 {
            return Err(Errno::OutOfMemory);
        }
        self.table.reserve_ftp(count)?;
        self.services.take_table_memory(count * FTP_SIZE)
    }

    /// Removes a service and its destinations. Its connections stay until they time out; their packets are dropped.
    ///
    /// # Errors
    /// [`Errno::NoService`].
    pub fn delete_service(&mut self, key: &ServiceKey) -> Result<(), Errno> {
        self.services.delete(key)?;
        self.release_pools();
        self.destination_removed();
        Ok(())
    }

    /// Removes every service.
    pub fn flush(&mut self) {
        self.services.flush();
        self.release_pools();
        self.destination_removed();
    }

    /// Zeroes the counters and rates of a service and its destinations, or of everything and the totals.
    ///
    /// # Errors
    /// [`Errno::NoService`].
    pub fn zero(&mut self, key: Option<&ServiceKey>) -> Result<(), Errno> {
        match key {
            Some(key) => self.services.zero(key),
            None => {
                self.services.zero_all();
                self.total.zero();
                Ok(())
            }
        }
    }

    /// One service.
    ///
    /// # Errors
    /// [`Errno::NoService`].
    pub fn service(&self, key: &ServiceKey) -> Result<ServiceInfo, Errno> {
        self.services.get(key)
    }

    /// Every service, oldest first.
    pub fn services(&self) -> impl Iterator<Item = ServiceInfo> + '_ {
        self.services.list()
    }

    /// The destinations of a service in list order: newest first.
    ///
    /// # Errors
    /// [`Errno::NoService`].
    pub fn destinations(&self, service: &ServiceKey) -> Result<impl Iterator<Item = DestinationInfo> + '_, Errno> {
        self.services.destinations(service)
    }

    /// Adds a destination at the head of the list. One that was removed and still has connections, or was removed less
    /// than about two minutes ago, comes back with its connections and counters.
    ///
    /// # Errors
    /// [`Errno::NoService`]; [`Errno::Exists`]; [`Errno::OutOfMemory`] if there are [`Config::destinations`] already;
    /// [`Errno::OutOfRange`] for a negative weight or a lower threshold above
    /// the upper; [`Errno::Invalid`] for an upper threshold above `i32::MAX`, an address that is no unicast address or is
    /// of another family than the service; a tunnel of a kind there is not, GUE without a port; [`Errno::NotSupported`] for local
    /// and bypass, which are what the balancer makes of a destination.
    pub fn add_destination(
        &mut self,
        service: &ServiceKey,
        key: DestinationKey,
        config: DestinationConfig,
    ) -> Result<(), Errno> {
        let local = self.routes.is_own(key.address);
        self.services.add_destination(service, key, config, local)
    }

    /// Gives a destination another configuration.
    ///
    /// # Errors
    /// [`Errno::NoService`], [`Errno::NotFound`], and those of [`Balancer::add_destination`].
    pub fn edit_destination(
        &mut self,
        service: &ServiceKey,
        key: &DestinationKey,
        config: DestinationConfig,
    ) -> Result<(), Errno> {
        self.services.edit_destination(service, key, config)
    }

    /// Removes a destination. Its connections stay until they time out; packets of their clients are dropped. With
    /// the sysctl `expire_nodest_conn` the connections end with the next calls of [`Balancer::poll`], or packets.
    ///
    /// # Errors
    /// [`Errno::NoService`], [`Errno::NotFound`].
    pub fn delete_destination(&mut self, service: &ServiceKey, key: &DestinationKey) -> Result<(), Errno> {
        self.services.delete_destination(service, key)?;
        self.destination_removed();
        Ok(())
    }

    /// The timeouts `ipvsadm --set` changes.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Changes timeouts; 0 leaves one as it is. Connections take the new one with their next packet.
    ///
    /// # Errors
    /// [`Errno::Invalid`] if one is above `i32::MAX / 250` seconds; nothing is changed then.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), Errno> {
        let Timeouts { tcp, tcp_fin, udp } = timeouts;
        if [tcp, tcp_fin, udp].into_iter().any(|t| t > TIMEOUT_LIMIT) {
            return Err(Errno::Invalid);
        }
        let set = |old: &mut u32, new: u32| {
            if new != 0 {
                *old = new;
            }
        };
        set(&mut self.timeouts.tcp, tcp);
        set(&mut self.timeouts.tcp_fin, tcp_fin);
        set(&mut self.timeouts.udp, udp);
        self.timers.set(&self.timeouts);
        Ok(())
    }

    /// The knobs of net.ipv4.vs.
    pub fn sysctls(&self) -> &Sysctls {
        &self.sysctls
    }

    /// Gives a knob a value. The name is one of [`Sysctls::NAMES`].
    ///
    /// # Errors
    /// [`Errno::NotFound`] if there is none of that name; [`Errno::Invalid`] for a value it cannot have; [`Errno::OutOfMemory`] for
    /// `ftp_port`, if there is no memory for its connections.
    pub fn set_sysctl(&mut self, name: &str, value: i32) -> Result<(), Errno> {
        let old = self.sysctls;
        self.sysctls.set(name, value)?;
        if name == "ftp_port" {
            let keys: Vec<ServiceKey> = self.services.list().map(|service| service.key).collect();
            let reserved = keys.iter().try_for_each(|key| self.reserve_for_ftp(key));
            reserved.inspect_err(|_| self.sysctls = old)?;
        }
        // The defence begins or ends at once, as in Linux; later it is looked at every second.
        if matches!(name, "amemthresh" | "am_droprate" | "drop_entry" | "drop_packet" | "secure_tcp") {
            self.defend();
        }
        Ok(())
    }

    /// Gives a knob a value, or two if it is one that takes two: `sync_threshold`, whose second is `sync_period`.
    ///
    /// # Errors
    /// Those of [`Balancer::set_sysctl`]; [`Errno::Invalid`] for two values where there can be one.
    pub fn set_sysctls(&mut self, name: &str, value: i32, second: Option<i32>) -> Result<(), Errno> {
        match second {
            None => self.set_sysctl(name, value),
            Some(period) if name == "sync_threshold" => self.sysctls.set_threshold(value, period),
            Some(_) => Err(Errno::Invalid),
        }
    }

    /// Adds a rule that gives packets a mark, after the others: of several that fit the last counts. Rules matter to packets
    /// that are of no connection.
    ///
    /// # Errors
    /// [`Errno::Exists`]; [`Errno::Invalid`] for an address of a [`LocalPool`](crate::LocalPool), mark 0, networks of different families, a first port above the last, or a
    /// protocol that is none of TCP, UDP and SCTP; [`Errno::OutOfMemory`] if there are [`MARK_RULES_MAX`](crate::MARK_RULES_MAX)
    /// already.
    pub fn add_mark_rule(&mut self, rule: MarkRule) -> Result<(), Errno> {
        // A pool could not be given that address either.
        if rule.host().is_some_and(|host| self.services.is_local(&host)) {
            return Err(Errno::Invalid);
        }
        self.services.change_marks(|marks| marks.add(rule))
    }

    /// Removes a rule that gives packets a mark.
    ///
    /// # Errors
    /// [`Errno::NotFound`].
    pub fn delete_mark_rule(&mut self, rule: &MarkRule) -> Result<(), Errno> {
        self.services.change_marks(|marks| marks.delete(rule))
    }

    /// Removes every rule that gives packets a mark.
    pub fn clear_mark_rules(&mut self) {
        let _ = self.services.change_marks(|marks| {
            marks.clear();
            Ok(())
        });
    }

    /// The rules that give packets marks, in order.
    pub fn mark_rules(&self) -> impl Iterator<Item = &MarkRule> + '_ {
        self.services.marks.iter()
    }

    /// Lets a service, or without one all together, do what IPVS cannot, in place of what it did so far; its connections keep what they have. Beside what
    /// services need, this takes memory for as many connections as [`Config::extras`] says, the first time.
    ///
    /// # Errors
    /// [`Errno::NoService`]; [`Errno::Invalid`] for [`SourceLimits`](crate::SourceLimits) that make no sense, for anything else without
    /// a service, for a [`LocalPool`](crate::LocalPool) that is empty or too large, of another
    /// family than the service, or with an address that is no unicast address, or is one of our own, of a service, or of a
    /// destination, and for SYN cookies from more half-open connections on than seven eighths of [`Config::extras`]; [`Errno::NotSupported`] for an [`Announce`](crate::Announce) or SYN cookies where TCP is not; for that or a pool beside one-packet scheduling, FTP's port, or destinations that are not
    /// reached by NAT; [`Errno::OutOfMemory`].
    pub fn set_extras(&mut self, service: Option<&ServiceKey>, extras: Extras) -> Result<(), Errno> {
        let Some(service) = service else {
            let old = self.services.all;
            self.services.set_all(extras)?;
            return self.reserve_extras(&extras).inspect_err(|_| _ = self.services.set_all(old));
        };
        let old = self.services.extras_of(service)?;
        // Before it is looked at one by one.
        extras.check(service)?;
        if extras.pool.is_some_and(|pool| pool.addresses().any(|address| self.routes.is_taken(address))) {
            return Err(Errno::Invalid);
        }
        self.services.set_extras(service, extras)?;
        let done = self.reserve_extras(&extras).inspect_err(|_| _ = self.services.set_extras(service, old));
        self.release_pools();
        done
    }

    /// Gives up the addresses of pools that are of no service any more, and that no connection has.
    pub(crate) fn release_pools(&mut self) {
        let table = &self.table;
        self.services.release_pools(|pool| table.uses(pool));
    }

    /// Takes the memory for what IPVS knows nothing of, if that was not done yet.
    fn reserve_extras(&mut self, extras: &Extras) -> Result<(), Errno> {
        if !extras.limits.is_none() && !self.table.has_counted() {
            let left = self.services.table_memory_left();
            let counted = (left / 2 / Annex::<[u32; 2]>::SIZE).min(self.config.connections as usize);
            // As many as can have a connection.
            let sources = (left / 4 / Sources::SIZE).min(self.config.sources.max(self.config.connections) as usize);
            if !self.table.sources.is_reserved() {
                let taken = self.table.sources.reserve(sources)?;
                self.services.take_table_memory(taken)?;
            }
            self.table.reserve_counted(counted)?;
            self.services.take_table_memory(counted * Annex::<[u32; 2]>::SIZE)?;
        }
        if extras.needs_nat() && !self.table.has_extras() {
            let size = Annex::<Extra>::SIZE;
            let count = (self.services.table_memory_left() / 2 / size).min(self.config.extras as usize);
            if count == 0 {
                return Err(Errno::OutOfMemory);
            }
            self.table.reserve_extras(count)?;
            self.services.take_table_memory(count * size)?;
        }
        // So many could never be half open.
        if extras.syn_cookies.is_some_and(|n| n > self.table.extras_usable()) {
            return Err(Errno::Invalid);
        }
        if extras.syn_cookies.is_some() && !self.openings.is_reserved() {
            let count = self.table.extras_capacity() as usize;
            self.openings.reserve(count)?;
            self.services.take_table_memory(count * Openings::SIZE)?;
        }
        Ok(())
    }

    /// What goes for all services, if anything does, and what services do that IPVS cannot, oldest service first.
    pub fn extras(&self) -> impl Iterator<Item = ExtraInfo> + '_ {
        self.services.extras()
    }

    /// After which time schedulers forget.
    pub(crate) fn expirations(&self) -> Expirations {
        let seconds = |value: i32| Duration::from_secs(value.max(0) as u64);
        Expirations { lblc: seconds(self.sysctls.lblc_expiration), lblcr: seconds(self.sysctls.lblcr_expiration) }
    }

    /// Our own addresses.
    pub fn addresses(&self) -> &[Cidr] {
        &self.config.addresses
    }

    /// The addresses of all services, each once, in order. The local stack answers for them too.
    pub fn virtual_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.services.virtual_addresses()
    }

    /// A number that changes whenever [`Balancer::virtual_addresses`] does.
    pub fn generation(&self) -> u64 {
        self.services.generation
    }

    /// A number that changes whenever services, destinations or their configurations do.
    pub fn revision(&self) -> u64 {
        self.services.revision
    }

    /// How many connections the table holds: IPVS_INFO_ATTR_CONN_TAB_SIZE.
    pub fn capacity(&self) -> u32 {
        self.config.connections
    }

    /// How many connections there are.
    pub fn connections(&self) -> u32 {
        self.table.len()
    }

    /// Every connection, in no particular order: what `ipvsadm -Lc` shows.
    pub fn connection_list(&self, now: Instant) -> impl Iterator<Item = ConnectionInfo> + '_ {
        self.table.places_from(0).map(move |place| self.connection(place, now))
    }

    /// Every connection from a place of the table on, with its place, as [`Balancer::poll`] last knew the time: for lists
    /// that are made piece by piece.
    pub(crate) fn connections_from(&self, first: u32) -> impl Iterator<Item = (u32, ConnectionInfo)> + '_ {
        let now = self.table.clock();
        self.table.places_from(first).map(move |place| (place, self.connection(place, now)))
    }

    fn connection(&self, place: u32, now: Instant) -> ConnectionInfo {
        let New {
            protocol,
            client,
            client_port,
            virtual_address,
            virtual_port,
            address,
            port,
            forward,
            destination,
            template,
        } = self.table.parts(place);
        let is_unbound = destination == NOBODY;
        let destination = &self.services.pool[destination as usize];
        let service = match destination.service_key {
            _ if !is_unbound => destination.service_key,
            // A mark's templates have it in the place of the address.
            _ if protocol == Protocol::Ip => {
                let mark = match virtual_address {
                    IpAddr::V4(a) => a.to_bits(),
                    IpAddr::V6(a) => (a.to_bits() >> 96) as u32,
                };
                ServiceKey::Mark { family: Family::of(&virtual_address), mark }
            }
            _ => ServiceKey::Address { protocol, address: virtual_address, port: virtual_port },
        };
        // A tunnel may lead to the other family, for which the connection has no room.
        let address = match forward {
            Forward::Tunnel if !is_unbound => destination.key.address,
            _ => address,
        };
        ConnectionInfo {
            protocol,
            client,
            client_port,
            virtual_address,
            virtual_port,
            destination: address,
            destination_port: port,
            service,
            forward,
            local: self.table.local(place),
            state: State::from_number(protocol, self.table.get(place).state()),
            template,
            assured: self.table.get(place).is_assured(),
            synced: self.table.get(place).is_synced(),
            expires: self.table.remaining(place, now),
        }
    }

    /// How many connections are in an active state.
    pub fn active_connections(&self) -> u32 {
        self.services.pool.iter().map(|d| d.active).sum()
    }

    /// Counters over all services, since the last zeroing.
    pub fn total(&self) -> Stats {
        self.total.stats()
    }

    /// Rates over all services.
    pub fn rates(&self) -> Rates {
        self.total.rates()
    }

    /// What was counted besides services and destinations.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
