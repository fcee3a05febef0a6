//! Ethernet addresses of neighbours: ARP (RFC 826) and neighbour discovery (RFC 4861), in the manner of Linux's
//! neighbour table.
//!
//! Requests of others are answered by the local stack; this cache only learns from them. It asks for what packets are
//! to be sent to, [`TRIES`] times, [`RETRANSMIT`] apart. What was confirmed is used for [`REACHABLE`]; the first packet
//! after that has it asked for again by unicast, while it stays in use.
//!
//! Nobody can fill the cache against its owner: an entry is made only for what is asked for here, or for a neighbour
//! that asks for one of our addresses; the latter replaces only what is stale. Requests are limited to [`RATE`].

mod arp;
mod hop;
mod ndp;
mod table;

use core::net::IpAddr;
use core::time::Duration;

use crate::balancer::Counters;
use crate::config::{is_unicast_v4, is_unicast_v6};
use crate::limit::TokenBucket;
use crate::packet::{NextHop, Sink};
use crate::route::Routes;
use crate::{Config, Instant, Reason};
pub(crate) use hop::Hop;
use table::{Entry, Evict, State, Table};

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// How long an address is used without asking again.
const REACHABLE: Duration = Duration::from_secs(30);
/// Time between two requests for the same neighbour.
const RETRANSMIT: Duration = Duration::from_secs(1);
/// Requests sent before a neighbour counts as unreachable.
const TRIES: u8 = 3;
/// Requests a second, and as many at once. What is above waits for its turn.
const RATE: u32 = 1000;
/// Timers go off at multiples of this, so that one pass over the table serves many.
const TICK: Duration = Duration::from_millis(16);
/// Nanoseconds, as a shift, for which a [`Hop`] is good at most: about a second.
const SECOND_SHIFT: u32 = 30;

/// What the cache needs from around it: where to ask from, where to send, and what to count in.
pub(crate) struct Outlet<'a> {
    /// Our addresses.
    pub routes: &'a Routes,
    /// Takes the requests and hears of neighbours that became known or unreachable.
    pub sink: &'a mut dyn Sink,
    /// [`Counters::neighbour_requests`] counts requests.
    pub counters: &'a mut Counters,
}

/// The cache. All memory is taken when it is made.
#[derive(Debug)]
pub(crate) struct Neighbours {
    mac: Mac,
    table: Table,
    /// Not later than the first timer.
    due: Option<Instant>,
    requests: TokenBucket,
    /// Changes with everything that a [`Hop`] rests on; never 0.
    generation: u64,
    /// The second of the last packets.
    second: u64,
}

impl Neighbours {
    /// An empty cache of [`Config::neighbours`] entries (at least one).
    pub fn new(config: &Config) -> Self {
        Neighbours {
            mac: config.mac,
            table: Table::new(config.neighbours, config.seed),
            due: None,
            requests: TokenBucket::new(RATE, RATE),
            generation: 1,
            second: 0,
        }
    }

    /// The generation of what is known: a [`Hop`] of another one is worthless.
    #[inline(always)]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Says that packets follow, which is to be said before they ask for a [`Neighbours::generation`].
    #[inline]
    pub fn at(&mut self, now: Instant) {
        let second = now.nanos() >> SECOND_SHIFT;
        if second != self.second {
            self.second = second;
            self.change();
        }
    }

    /// Makes every [`Hop`] worthless.
    fn change(&mut self) {
        self.generation += 1;
    }

    /// The Ethernet address of a next hop that a packet is about to be sent to; `None` if it is being asked for, as
    /// from now. The caller then lets the packet wait for [`Sink::resolved`] or [`Sink::unreachable`].
    #[inline]
    pub fn resolve(&mut self, hop: &IpAddr, now: Instant, outlet: &mut Outlet<'_>) -> Option<Mac> {
        match self.table.get_mut(hop) {
            Some(entry) => {
                entry.used = now;
                match entry.state {
                    State::Reachable { until } if now < until => Some(entry.mac),
                    State::Reachable { .. } | State::Stale => {
                        let mac = entry.mac;
                        self.confirm(NextHop(*hop), now, outlet);
                        Some(mac)
                    }
                    State::Probe { .. } => Some(entry.mac),
                    State::Incomplete { .. } => None,
                }
            }
            None => {
                self.ask(NextHop(*hop), now, outlet);
                None
            }
        }
    }

    /// The Ethernet address of a next hop if it is known. Asks nobody.
    pub fn get(&self, hop: NextHop) -> Option<Mac> {
        self.table.get(&hop.0).and_then(Entry::known)
    }

    /// Whether a next hop is being asked for: packets may go on waiting.
    pub fn is_pending(&self, hop: NextHop) -> bool {
        self.table.get(&hop.0).is_some_and(|entry| entry.known().is_none())
    }

    /// Learns from an ARP frame (EtherType 0x0806), Ethernet header included, that came in. `is_ours` says whether an
    /// address is one of ours or a virtual one. The local stack is to have the frame as well.
    ///
    /// # Errors
    /// [`Reason::Malformed`] if it is no ARP for IPv4 over Ethernet, or from an impossible Ethernet address.
    pub fn learn_arp(
        &mut self,
        frame: &[u8],
        now: Instant,
        is_ours: impl Fn(IpAddr) -> bool,
        outlet: &mut Outlet<'_>,
    ) -> Result<(), Reason> {
        let arp = arp::parse(frame)?;
        let sender = IpAddr::V4(arp.sender);
        let is_host = is_unicast_v4(arp.sender) && !outlet.routes.is_broadcast(arp.sender);
        let is_neighbour = is_host && outlet.routes.is_on_link(sender);
        // Somebody else with one of our addresses, or our own frames coming back: nothing to learn.
        if !is_neighbour || is_ours(sender) || arp.sender_mac == self.mac {
            return Ok(());
        }
        let is_to_us = is_ours(IpAddr::V4(arp.target));
        match arp.operation {
            arp::Operation::Reply if is_to_us => self.answered(sender, arp.sender_mac, now, outlet),
            arp::Operation::Request if is_to_us => self.introduced(sender, arp.sender_mac, now, outlet),
            _ if arp.sender == arp.target => self.announced(sender, arp.sender_mac, now, outlet),
            _ => {}
        }
        Ok(())
    }

    /// Learns from a neighbour solicitation or advertisement: a whole Ethernet frame with an ICMPv6 message of type 135
    /// or 136 directly behind the IPv6 header. `is_ours` as in [`Neighbours::learn_arp`]. The local stack is to have
    /// the frame as well.
    ///
    /// # Errors
    /// [`Reason::Malformed`] or [`Reason::BadChecksum`] if it is not valid by RFC 4861 section 7.1.
    pub fn learn_ndp(
        &mut self,
        frame: &[u8],
        now: Instant,
        is_ours: impl Fn(IpAddr) -> bool,
        outlet: &mut Outlet<'_>,
    ) -> Result<(), Reason> {
        match ndp::parse(frame)? {
            ndp::Message::Solicitation { source: Some(source), target, mac: Some(mac) } => {
                let sender = IpAddr::V6(source);
                let is_neighbour = is_unicast_v6(source) && outlet.routes.is_on_link(sender);
                if is_neighbour && is_ours(IpAddr::V6(target)) && !is_ours(sender) && mac != self.mac {
                    self.introduced(sender, mac, now, outlet);
                }
            }
            ndp::Message::Advertisement { target, solicited, overriding, mac } => {
                let target = IpAddr::V6(target);
                if !is_ours(target) && mac != Some(self.mac) {
                    self.advertised(target, solicited, overriding, mac, now, outlet);
                }
            }
            ndp::Message::Solicitation { .. } => {}
        }
        Ok(())
    }

    /// Asks again and gives up, where it is time. Returns when to call again at the latest, if at all.
    pub fn poll(&mut self, now: Instant, outlet: &mut Outlet<'_>) -> Option<Instant> {
        if self.due.is_none_or(|due| now < due) {
            return self.due;
        }
        self.due = None;
        for slot in 0..self.table.capacity() {
            let Some(entry) = self.table.at(slot) else { continue };
            let (tries, at, known) = match entry.state {
                State::Incomplete { tries, at } => (tries, at, None),
                State::Probe { tries, at } => (tries, at, Some(entry.mac)),
                _ => continue,
            };
            let address = entry.address;
            let mut next = at;
            if at <= now && tries >= TRIES {
                self.table.remove(slot);
                self.change();
                // Nothing waits for one that was known: its packets went where it was.
                if known.is_none() {
                    outlet.sink.unreachable(NextHop(address));
                }
                continue;
            }
            if at <= now {
                let sent = self.request(address, known, now, outlet);
                let tries = tries + u8::from(sent);
                next = later(now, if sent { RETRANSMIT } else { TICK });
                if let Some(entry) = self.table.at(slot) {
                    entry.state = match known {
                        None => State::Incomplete { tries, at: next },
                        Some(_) => State::Probe { tries, at: next },
                    };
                }
            }
            self.expect(next);
        }
        self.due
    }

    /// Begins asking for a neighbour that has no entry.
    #[cold]
    fn ask(&mut self, hop: NextHop, now: Instant, outlet: &mut Outlet<'_>) {
        let sent = self.request(hop.0, None, now, outlet);
        let at = later(now, if sent { RETRANSMIT } else { TICK });
        let state = State::Incomplete { tries: sent.into(), at };
        self.change();
        // There is always somebody who may leave.
        if let Ok(Some(evicted)) = self.table.insert(hop.0, state, [0; 6], now, Evict::Any)
            && evicted.known().is_none()
        {
            outlet.sink.unreachable(NextHop(evicted.address));
        }
        self.expect(at);
    }

    /// Begins to confirm a neighbour that is stale and in use.
    #[cold]
    fn confirm(&mut self, hop: NextHop, now: Instant, outlet: &mut Outlet<'_>) {
        let mac = self.get(hop);
        let sent = self.request(hop.0, mac, now, outlet);
        let at = later(now, if sent { RETRANSMIT } else { TICK });
        if let Some(entry) = self.table.get_mut(&hop.0) {
            entry.state = State::Probe { tries: sent.into(), at };
        }
        self.expect(at);
    }

    /// Sends a request, to everybody or to whom it is known to be. `false` if there were too many.
    fn request(&mut self, target: IpAddr, to: Option<Mac>, now: Instant, outlet: &mut Outlet<'_>) -> bool {
        if !self.requests.take(now) {
            return false;
        }
        match (outlet.routes.source(target), target) {
            (Some(IpAddr::V4(source)), IpAddr::V4(target)) => {
                outlet.sink.transmit(&arp::request(self.mac, source, target, to));
            }
            (Some(IpAddr::V6(source)), IpAddr::V6(target)) => {
                outlet.sink.transmit(&ndp::solicitation(self.mac, source, target, to));
            }
            // Without an address of ours nobody could answer; the neighbour will count as unreachable.
            _ => return true,
        }
        outlet.counters.neighbour_requests += 1;
        true
    }

    fn expect(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// A reply, to us: what was asked for is confirmed. One that was not asked for is an announcement.
    fn answered(&mut self, address: IpAddr, mac: Mac, now: Instant, outlet: &mut Outlet<'_>) {
        match self.table.get(&address).map(|entry| entry.state) {
            Some(State::Incomplete { .. } | State::Probe { .. }) => {
                self.set(address, mac, State::Reachable { until: now + REACHABLE }, now, outlet);
            }
            _ => self.announced(address, mac, now, outlet),
        }
    }

    /// A neighbour told everybody its address: believed, if we know the neighbour, until the next use.
    fn announced(&mut self, address: IpAddr, mac: Mac, now: Instant, outlet: &mut Outlet<'_>) {
        if self.table.get(&address).is_some_and(|entry| entry.known() != Some(mac)) {
            self.set(address, mac, State::Stale, now, outlet);
        }
    }

    /// A neighbour asked for us and told its address: it will have packets from us soon.
    fn introduced(&mut self, address: IpAddr, mac: Mac, now: Instant, outlet: &mut Outlet<'_>) {
        match self.table.get(&address) {
            Some(_) => self.announced(address, mac, now, outlet),
            // Only stale ones leave for it, and nothing waits for those.
            None => {
                let _ = self.table.insert(address, State::Stale, mac, now, Evict::Stale);
                self.change();
            }
        }
    }

    /// A neighbour advertisement: RFC 4861 section 7.2.5.
    fn advertised(
        &mut self,
        address: IpAddr,
        solicited: bool,
        overriding: bool,
        mac: Option<Mac>,
        now: Instant,
        outlet: &mut Outlet<'_>,
    ) {
        let Some(entry) = self.table.get_mut(&address) else { return };
        let confirmed = State::Reachable { until: now + REACHABLE };
        let known = entry.known();
        let Some(mac) = mac.or(known) else { return };
        let state = match known {
            None if solicited => confirmed,
            None => State::Stale,
            Some(known) if known != mac && !overriding => {
                if matches!(entry.state, State::Reachable { .. }) {
                    entry.state = State::Stale;
                }
                return;
            }
            Some(_) if solicited => confirmed,
            Some(known) if known != mac => State::Stale,
            Some(_) => entry.state,
        };
        self.set(address, mac, state, now, outlet);
    }

    /// Enters what was learnt about a neighbour that has an entry, and tells of it if packets wait.
    fn set(&mut self, address: IpAddr, mac: Mac, state: State, now: Instant, outlet: &mut Outlet<'_>) {
        self.change();
        let Some(entry) = self.table.get_mut(&address) else { return };
        let was_known = entry.known().is_some();
        (entry.mac, entry.state, entry.used) = (mac, state, now);
        if !was_known {
            outlet.sink.resolved(NextHop(address));
        }
    }
}

/// The next tick at least `delay` from now.
fn later(now: Instant, delay: Duration) -> Instant {
    let tick = TICK.as_nanos() as u64;
    Instant((now + delay).nanos().checked_next_multiple_of(tick).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
