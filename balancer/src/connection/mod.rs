//! The connection table: flat, of fixed size, found by either direction, with its timers in the same memory.
//!
//! A connection takes 64 bytes, 8 more in the index and, if it is IPv6, 48 for its addresses. All of it is reserved at
//! the start and first touched when connections need it. Insertion, lookup and expiry cost the same however many there
//! are; a full table refuses.

mod annex;
mod call_id;
mod entry;
mod extra;
mod ftp;
pub(crate) mod hash;
mod index;
mod sctp;
mod state;
mod tcp;
mod wheel;

use alloc::vec::Vec;
use core::net::IpAddr;

pub(crate) use annex::Annex;
use call_id::CallIds;
pub(crate) use call_id::{CALL_ID_MAX, CALL_ID_SIZE};
pub(crate) use entry::{Direction, Entry, New, Tuple};
pub(crate) use extra::{Extra, Opening, Splice};
use ftp::Ftp;
use hash::Key;
use index::Index;
pub(crate) use index::Node;
pub(crate) use sctp::STATES as SCTP_STATES;
pub use sctp::SctpState;
pub use state::State;
pub(crate) use state::is_active;
pub use tcp::TcpState;
pub(crate) use tcp::{SECURE, STATES, Seen, States, TABLE};
use wheel::{Wheel, is_due, tick};
pub(crate) use wheel::{seconds, ticks};

use crate::service::{Forward, Protocol, ServiceKey};
use crate::source::Sources;
use crate::time::Instant;
use crate::{Errno, LocalPool};

/// How much longer a template stays whose time is over while it has connections.
const CONTROLLING: u32 = ticks(60);

/// The connection table.
#[derive(Debug)]
pub(crate) struct Table {
    key: Key,
    entries: Vec<Entry>,
    /// Places that were used and are free, through [`Entry::next`]; place plus one.
    free: u32,
    limit: usize,
    len: u32,
    v6: Vec<entry::AddressesV6>,
    /// Free places of `v6`; place plus one, linked through the lowest bits of the first address.
    v6_free: u32,
    v6_limit: usize,
    index: Index,
    wheel: Wheel,
    call_ids: CallIds,
    extras: Annex<Extra>,
    /// Connections that count as half open.
    half_open: u32,
    /// Whose connections are counted: the accounts of all sources, and those that connections are on.
    pub sources: Sources,
    counted: Annex<[u32; 2]>,
    ftp: Annex<Ftp>,
    /// Connections that wait for their client's port.
    open: u32,
    /// Grows whenever a connection comes or goes: what was found before may not be there any more.
    version: u64,
}

/// What became of something whose time was over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Over {
    /// It was taken out.
    Ended(Entry),
    /// The template at this place stays for a while.
    Stays(u32),
}

/// The table, or the part of it for IPv6, is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Table {
    /// An empty table for `connections`, of which `connections_v6` can be IPv6.
    pub fn new(connections: u32, connections_v6: u32, seed: [u64; 2]) -> Self {
        let limit = connections.min(Node::LIMIT) as usize;
        let v6_limit = connections_v6.min(connections) as usize;
        Table {
            key: Key(seed),
            entries: Vec::with_capacity(limit),
            free: 0,
            limit,
            len: 0,
            v6: Vec::with_capacity(v6_limit),
            v6_free: 0,
            v6_limit,
            index: Index::new(2 * limit),
            wheel: Wheel::new(),
            call_ids: CallIds::default(),
            extras: Annex::default(),
            half_open: 0,
            sources: Sources::new(seed),
            counted: Annex::default(),
            ftp: Annex::default(),
            open: 0,
            version: 0,
        }
    }

    /// How many connections there are.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// How many more connections there is room for: of any kind, if some need more than others.
    pub fn room(&self) -> u32 {
        let room = self.limit as u32 - self.len;
        if self.extras.is_reserved() { room.min(self.extras.room()) } else { room }
    }

    /// How many connections there is room for when there are none.
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// How many places were ever used: all connections are at places below.
    pub fn places(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Whether there is a connection at a place.
    pub fn is_used(&self, place: u32) -> bool {
        // A free entry is in no wheel; one in use always is.
        self.get(place).previous != 0
    }

    /// A number that changes whenever a connection comes or goes.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The hash of a tuple.
    #[inline(always)]
    pub fn hash(&self, tuple: &Tuple) -> u32 {
        let ports = u64::from(tuple.source_port) << 16 | u64::from(tuple.destination_port);
        self.hash_with(tuple, u64::from(tuple.protocol.number()) << 32 | ports)
    }

    /// The hash under which the template of a client and a service is found: no packet's.
    fn template_hash(&self, key: &Tuple) -> u32 {
        self.hash_with(key, 1 << 48 | u64::from(key.protocol.number()) << 32 | u64::from(key.destination_port))
    }

    #[inline(always)]
    fn hash_with(&self, tuple: &Tuple, rest: u64) -> u32 {
        match (tuple.source, tuple.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.key.hash([u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits()), rest])
            }
            (source, destination) => {
                let halves = |address: IpAddr| {
                    let bits = match address {
                        IpAddr::V4(a) => u128::from(a.to_bits()),
                        IpAddr::V6(a) => a.to_bits(),
                    };
                    [(bits >> 64) as u64, bits as u64]
                };
                let ([a, b], [c, d]) = (halves(source), halves(destination));
                self.key.hash([a, b, c, d, rest])
            }
        }
    }

    /// The chain of a hash: to be read for many packets at once, before [`Table::find_from`].
    pub fn first(&self, hash: u32) -> Node {
        self.index.first(hash)
    }

    /// The connection of a packet, looked for from `node` on: its place and the direction of the packet.
    #[inline(always)]
    pub fn find_from(&self, mut node: Node, hash: u32, tuple: &Tuple) -> Option<(u32, Direction)> {
        while let Some((place, direction)) = node.get() {
            let entry = &self.entries[place as usize];
            if entry.hashes[direction as usize] == hash
                && (entry.matches(direction, tuple, &self.v6)
                    || entry.is_local() && direction == Direction::Outbound && self.is_to_local(place, tuple))
            {
                return Some((place, direction));
            }
            node = Index::next(&self.entries, node);
        }
        None
    }

    /// Whether a packet is from the server of a connection to the address that stands for its client.
    #[cold]
    fn is_to_local(&self, place: u32, tuple: &Tuple) -> bool {
        self.get(place).protocol() == tuple.protocol
            && self.server(place) == (tuple.source, tuple.source_port)
            && self.local(place) == Some((tuple.destination, tuple.destination_port))
    }

    /// The connection of a packet and the direction of the packet.
    pub fn find(&self, tuple: &Tuple) -> Option<(u32, Direction)> {
        let hash = self.hash(tuple);
        self.find_from(self.first(hash), hash, tuple)
    }

    /// The template of a client (as far as the netmask of the service tells it from others) and a service, or a mark in
    /// the place of its address; and the Call-ID, if the service has a persistence engine, else nothing.
    pub fn find_template(&self, key: &Tuple, call_id: &[u8]) -> Option<u32> {
        let hash = self.template_hash(key) ^ call_id::hash(&self.key, call_id);
        let mut node = self.first(hash);
        while let Some((place, direction)) = node.get() {
            let entry = &self.entries[place as usize];
            if direction == Direction::Inbound
                && entry.hashes[0] == hash
                && entry.is_template_of(key, &self.v6)
                && self.call_ids.get(entry.call_id()) == call_id
            {
                return Some(place);
            }
            node = Index::next(&self.entries, node);
        }
        None
    }

    /// Lets a template be found no more; it stays until its time is over. Its ports tell of it, as in Linux.
    pub fn invalidate(&mut self, place: u32) {
        self.index.remove(&mut self.entries, place, Direction::Inbound);
        let entry = &mut self.entries[place as usize];
        (entry.client_port, entry.virtual_port, entry.port) = (0, u16::MAX, u16::MAX);
        // Not under a hash by which templates are looked for, as a service can have port 65535; but each under its own:
        // the calls of one client are many.
        entry.hashes[0] = !entry.hashes[0];
        self.index.insert(&mut self.entries, place, Direction::Inbound);
        self.version += 1;
    }

    /// Says that a connection comes from a template, which stays as long as the connection.
    pub fn set_template(&mut self, place: u32, template: u32) {
        self.entries[template as usize].control += 1;
        self.entries[template as usize].witness();
        self.entries[place as usize].control = template + 1;
    }

    /// Says that a connection carries data for another, over which FTP is spoken and which stays as long.
    pub fn set_control(&mut self, place: u32, control: u32) {
        if let Some(ftp) = self.ftp.get_mut(control) {
            ftp.controls += 1;
            self.entries[control as usize].set_controls(true);
            self.entries[place as usize].control = control + 1;
        }
    }

    /// What a connection has over which FTP is spoken.
    pub fn ftp(&self, place: u32) -> Option<&Ftp> {
        self.ftp.get(place)
    }

    /// The same, to be changed.
    pub fn ftp_mut(&mut self, place: u32) -> Option<&mut Ftp> {
        self.ftp.get_mut(place)
    }

    /// Whether there is room for connections over which FTP is spoken.
    pub fn has_ftp(&self) -> bool {
        self.ftp.is_reserved()
    }

    /// Makes room for so many connections over which FTP is spoken. Once is enough.
    pub fn reserve_ftp(&mut self, count: usize) -> Result<(), Errno> {
        self.ftp.reserve(count)
    }

    /// Says that FTP is spoken over a connection. It takes room when there is something to listen to.
    pub fn speak_ftp(&mut self, place: u32) {
        self.entries[place as usize].set_ftp();
    }

    /// Takes the room for what is said over a connection, from this number of the server's on. There may be none.
    pub fn listen_to_ftp(&mut self, place: u32, number: u32) {
        if self.ftp.get(place).is_none() {
            let _ = self.ftp.insert(place, Ftp::new(number));
        }
    }

    /// How many connections wait for their client's port.
    pub fn open_count(&self) -> u32 {
        self.open
    }

    /// Says that any port of the client will do for a connection. It is found by [`Table::find_open`] alone then.
    pub fn open(&mut self, place: u32) {
        self.open += 1;
        self.reindex(place, |table| {
            let entry = &mut table.entries[place as usize];
            entry.set_open(true);
            entry.hashes = entry.hashes.map(|hash| !hash);
        });
    }

    /// The connection for which any port of the client will do, by a tuple with 0 in its place.
    pub fn find_open(&self, tuple: &Tuple) -> Option<(u32, Direction)> {
        let hash = !self.hash(tuple);
        self.find_from(self.first(hash), hash, tuple).filter(|&(place, _)| self.get(place).is_open())
    }

    /// Gives a connection the port of its client, which it did not have.
    pub fn close(&mut self, place: u32, client_port: u16) {
        self.reindex(place, |table| {
            table.entries[place as usize].set_open(false);
            table.open -= 1;
            table.entries[place as usize].client_port = client_port;
            let New { protocol, client, virtual_address, virtual_port, address, port, .. } = table.parts(place);
            let tuple = |source, source_port, destination, destination_port| Tuple {
                protocol,
                source,
                source_port,
                destination,
                destination_port,
            };
            let inbound = table.hash(&tuple(client, client_port, virtual_address, virtual_port));
            let outbound = table.hash(&tuple(address, port, client, client_port));
            table.entries[place as usize].hashes = [inbound, outbound];
        });
    }

    /// Lets a connection under NAT be found no more. It goes when its time is over, and as long as it has data connections it is not.
    pub fn abandon(&mut self, place: u32) {
        if self.get(place).client_port == 0 {
            return;
        }
        self.reindex(place, |table| {
            let entry = &mut table.entries[place as usize];
            entry.hashes = entry.hashes.map(|hash| !hash);
            // No connection that is found has this.
            entry.client_port = 0;
        });
    }

    /// Changes what a connection under NAT is found by.
    fn reindex(&mut self, place: u32, change: impl FnOnce(&mut Self)) {
        for direction in [Direction::Inbound, Direction::Outbound] {
            self.index.remove(&mut self.entries, place, direction);
        }
        change(self);
        for direction in [Direction::Inbound, Direction::Outbound] {
            self.index.insert(&mut self.entries, place, direction);
        }
        self.version += 1;
    }

    /// Gives a template another time to end, `timeout` ticks from now.
    pub fn renew(&mut self, place: u32, now: Instant, timeout: u32) {
        let expires = (tick(now) as u32).wrapping_add(timeout);
        self.wheel.set(&mut self.entries, place, expires);
    }

    /// Says that a template had a connection that came about.
    pub fn assure(&mut self, template: u32) {
        self.entries[template as usize].assure();
    }

    pub fn get(&self, place: u32) -> &Entry {
        &self.entries[place as usize]
    }

    /// What a connection was made of.
    pub fn parts(&self, place: u32) -> New {
        self.get(place).parts(&self.v6)
    }

    /// Address and port of the server of a connection.
    #[inline(always)]
    pub fn server(&self, place: u32) -> (IpAddr, u16) {
        let entry = self.get(place);
        (entry.addresses(&self.v6)[2], entry.port)
    }

    /// Address and port of the service of a connection.
    #[inline(always)]
    pub fn service(&self, place: u32) -> (IpAddr, u16) {
        let entry = self.get(place);
        (entry.addresses(&self.v6)[1], entry.virtual_port)
    }

    /// Address and port of the client of a connection.
    pub fn client(&self, place: u32) -> (IpAddr, u16) {
        let entry = self.get(place);
        (entry.addresses(&self.v6)[0], entry.client_port)
    }

    /// Full NAT: the address and port that stand for the client's of a connection.
    pub fn local(&self, place: u32) -> Option<(IpAddr, u16)> {
        self.extras.get(place)?.local
    }

    /// What is different about the stream of a connection.
    pub fn splice(&self, place: u32) -> Option<Splice> {
        self.extras.get(place)?.splice
    }

    /// Says of a connection that began with a cookie what it is opened with; its stream begins with this number. Whether it is one
    /// that can be.
    pub fn open_by_cookie(&mut self, place: u32, start: u32, opening: Opening) -> bool {
        let Some(extra) = self.extras.get_mut(place) else { return false };
        // Who has answered is there.
        self.half_open -= u32::from(core::mem::take(&mut extra.is_half_open));
        extra.splice.get_or_insert(Splice::new(start)).opening = Some(opening);
        true
    }

    /// What lies beside a connection that counts as half open, to be changed.
    pub fn half_open_mut(&mut self, place: u32) -> Option<&mut Extra> {
        self.extras.get_mut(place).filter(|extra| extra.is_half_open)
    }

    /// How many connections count as half open.
    pub fn half_open(&self) -> u32 {
        self.half_open
    }

    /// Says that a connection is half open no longer, if it counted as that.
    pub fn settle(&mut self, place: u32) {
        let Some(extra) = self.extras.get_mut(place) else { return };
        self.half_open -= u32::from(core::mem::take(&mut extra.is_half_open));
        if extra.is_plain() {
            self.extras.remove(place);
            self.entries[place as usize].clear_extra();
        }
    }

    /// The same, to be changed.
    pub fn splice_mut(&mut self, place: u32) -> Option<&mut Splice> {
        self.extras.get_mut(place)?.splice.as_mut()
    }

    /// Whether a connection has an address of a pool.
    pub fn uses(&self, pool: &LocalPool) -> bool {
        self.extras.values().any(|extra| extra.local.is_some_and(|(address, _)| pool.contains(&address)))
    }

    /// Whether there is room for what IPVS knows nothing of.
    pub fn has_extras(&self) -> bool {
        self.extras.is_reserved()
    }

    /// Of how many connections that begin now something can lie beside them before [`Table::are_extras_short`].
    pub fn extras_usable(&self) -> u32 {
        self.extras_capacity() - self.extras_capacity() / 8
    }

    /// Beside how many connections something can lie.
    pub fn extras_capacity(&self) -> u32 {
        self.extras.room() + self.extras.len()
    }

    /// Whether what is left is for those that have answered a cookie: an eighth.
    pub fn are_extras_short(&self) -> bool {
        self.extras.len() >= self.extras_usable()
    }

    /// Makes room for so many connections that are on the accounts of their sources. Once is enough.
    pub fn reserve_counted(&mut self, count: usize) -> Result<(), Errno> {
        self.counted.reserve(count)
    }

    /// Whether there is room for connections on the accounts of their sources.
    pub fn has_counted(&self) -> bool {
        self.counted.is_reserved()
    }

    /// Whether there is room for one more that is on the accounts of its source.
    pub fn can_count(&self) -> bool {
        self.counted.has_room()
    }

    /// Says on which accounts a connection is: they get it back when it ends.
    pub fn count_on(&mut self, place: u32, accounts: [u32; 2]) {
        if self.counted.insert(place, accounts).is_ok() {
            self.entries[place as usize].set_counted();
        } else {
            accounts.into_iter().for_each(|account| self.sources.release(account));
        }
    }

    /// Makes room for so many connections of which IPVS knows nothing. Once is enough.
    pub fn reserve_extras(&mut self, count: usize) -> Result<(), Errno> {
        self.extras.reserve(count)
    }

    /// Whether there is room for Call-IDs.
    pub fn has_call_ids(&self) -> bool {
        self.call_ids.is_reserved()
    }

    /// Makes room for so many Call-IDs. Once is enough.
    pub fn reserve_call_ids(&mut self, count: usize) -> Result<(), Errno> {
        self.call_ids.reserve(count)
    }

    /// Puts a template in that ends `timeout` ticks from now, with the Call-ID it is for, or nothing.
    pub fn insert_template(&mut self, new: &New, call_id: &[u8], now: Instant, timeout: u32) -> Result<u32, Full> {
        let link = if call_id.is_empty() { 0 } else { self.call_ids.insert(call_id)? };
        let place = self.insert(new, now, timeout).inspect_err(|Full| self.call_ids.remove(link))?;
        if link != 0 {
            let hash = call_id::hash(&self.key, call_id);
            self.index.remove(&mut self.entries, place, Direction::Inbound);
            let entry = &mut self.entries[place as usize];
            entry.hashes = [entry.hashes[0] ^ hash, link];
            self.index.insert(&mut self.entries, place, Direction::Inbound);
        }
        Ok(place)
    }

    /// Puts a connection in that ends `timeout` ticks from now.
    pub fn insert(&mut self, new: &New, now: Instant, timeout: u32) -> Result<u32, Full> {
        self.insert_with(new, None, now, timeout)
    }

    /// Puts a connection in with what lies beside it.
    pub fn insert_with(&mut self, new: &New, extra: Option<Extra>, now: Instant, timeout: u32) -> Result<u32, Full> {
        if self.free == 0 && self.entries.len() >= self.limit || extra.is_some() && !self.extras.has_room() {
            return Err(Full);
        }
        let local = extra.and_then(|extra| extra.local);
        let (client, client_port) = local.unwrap_or((new.client, new.client_port));
        let v6 = if new.client.is_ipv6() { self.insert_v6(new)? } else { 0 };
        let inbound = Tuple {
            protocol: new.protocol,
            source: new.client,
            source_port: new.client_port,
            destination: new.virtual_address,
            destination_port: new.virtual_port,
        };
        let outbound = Tuple {
            protocol: new.protocol,
            source: new.address,
            source_port: new.port,
            destination: client,
            destination_port: client_port,
        };
        let inbound = if new.template { self.template_hash(&inbound) } else { self.hash(&inbound) };
        let outbound = if new.template { 0 } else { self.hash(&outbound) };
        let mut entry = Entry::new(new, v6, [inbound, outbound]);
        entry.expires = (tick(now) as u32).wrapping_add(timeout);
        if extra.is_some() {
            entry.set_extra(local.is_some());
        }
        let place = match self.free.checked_sub(1) {
            Some(place) => {
                self.free = self.entries[place as usize].next;
                self.entries[place as usize] = entry;
                place
            }
            None => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
        };
        if let Some(extra) = extra {
            // There is room: it was looked for.
            let _ = self.extras.insert(place, extra);
            self.half_open += u32::from(extra.is_half_open);
        }
        self.index.insert(&mut self.entries, place, Direction::Inbound);
        if entry.is_two_way() {
            self.index.insert(&mut self.entries, place, Direction::Outbound);
        }
        self.wheel.insert(&mut self.entries, place);
        self.len += 1;
        self.version += 1;
        Ok(place)
    }

    fn insert_v6(&mut self, new: &New) -> Result<u32, Full> {
        let addresses = [new.client, new.virtual_address, new.address].map(|a| match a {
            IpAddr::V4(a) => u128::from(a.to_bits()),
            IpAddr::V6(a) => a.to_bits(),
        });
        if let Some(place) = self.v6_free.checked_sub(1) {
            let slot = &mut self.v6[place as usize];
            self.v6_free = slot[0] as u32;
            *slot = addresses;
            Ok(place)
        } else if self.v6.len() < self.v6_limit {
            self.v6.push(addresses);
            Ok(self.v6.len() as u32 - 1)
        } else {
            Err(Full)
        }
    }

    /// Takes a connection out. Returns what it was.
    pub fn remove(&mut self, place: u32) -> Entry {
        self.wheel.remove(&mut self.entries, place);
        self.forget(place)
    }

    /// Takes a connection out that is in the wheel no longer.
    fn forget(&mut self, place: u32) -> Entry {
        self.index.remove(&mut self.entries, place, Direction::Inbound);
        let entry = self.entries[place as usize];
        if let Some(control) = entry.template() {
            self.release(control);
        }
        if entry.is_open() {
            self.open -= 1;
        }
        if entry.is_ftp() {
            self.ftp.remove(place);
        }
        if entry.is_two_way() {
            self.index.remove(&mut self.entries, place, Direction::Outbound);
        }
        self.call_ids.remove(entry.call_id());
        if entry.is_extra() {
            let extra = self.extras.remove(place);
            self.half_open -= u32::from(extra.is_some_and(|extra| extra.is_half_open));
        }
        if entry.is_counted() {
            let accounts = self.counted.remove(place).unwrap_or_default();
            accounts.into_iter().for_each(|account| self.sources.release(account));
        }
        if let Some(v6) = entry.v6() {
            self.v6[v6 as usize][0] = u128::from(self.v6_free);
            self.v6_free = v6 + 1;
        }
        self.entries[place as usize] = Entry::default();
        self.entries[place as usize].next = self.free;
        self.free = place + 1;
        self.len -= 1;
        self.version += 1;
        entry
    }

    /// A template, or a connection over which FTP is spoken, has a connection less.
    fn release(&mut self, control: u32) {
        let entry = &mut self.entries[control as usize];
        if entry.is_template() {
            entry.control -= 1;
        } else if let Some(ftp) = self.ftp.get_mut(control) {
            ftp.controls -= 1;
            entry.set_controls(ftp.controls != 0);
        }
    }

    /// Whether the time of a connection is over, though the wheel has not come by.
    pub fn is_over(&self, place: u32, now: Instant) -> bool {
        is_due(self.get(place).expires, tick(now) as u32)
    }

    /// Gives a connection a state, of its protocol's, and lets it end `timeout` ticks from now; it had so many packets from the client.
    #[inline(always)]
    pub fn touch(&mut self, place: u32, state: u8, packets: u8, now: Instant, timeout: u32) {
        let entry = &mut self.entries[place as usize];
        entry.set_state(state);
        entry.count(packets);
        let expires = (tick(now) as u32).wrapping_add(timeout);
        self.wheel.set(&mut self.entries, place, expires);
    }

    /// Marks a connection as active or not.
    pub fn set_active(&mut self, place: u32, active: bool) {
        self.entries[place as usize].set_active(active);
    }

    /// Looks at the next connection whose time is over: takes it out, unless it is a template that has connections. `None` if
    /// there is none, or once `budget` was used up.
    pub fn expire(&mut self, now: Instant, budget: &mut usize) -> Option<Over> {
        let place = self.wheel.expire(&mut self.entries, now, budget)?;
        let entry = &mut self.entries[place as usize];
        if !entry.is_controlling() {
            return Some(Over::Ended(self.forget(place)));
        }
        entry.expires = (tick(now) as u32).wrapping_add(CONTROLLING);
        self.wheel.insert(&mut self.entries, place);
        Some(Over::Stays(place))
    }

    /// Says that another balancer has told of a connection.
    pub fn set_synced(&mut self, place: u32) {
        self.entries[place as usize].set_synced();
    }

    /// Says that a packet of a connection has come, whatever others have told of it.
    pub fn witness(&mut self, place: u32) {
        self.entries[place as usize].witness();
    }

    /// Takes over how far a connection has come elsewhere.
    pub fn take_over(&mut self, place: u32, state: u8, packets: u8) {
        self.entries[place as usize].take_over(state, packets);
    }

    /// The Call-ID of a template; empty if it has none.
    pub fn call_id(&self, place: u32) -> &[u8] {
        self.call_ids.get(self.get(place).call_id())
    }

    /// When [`Table::expire`] has something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        self.wheel.deadline()
    }

    /// Seconds a connection has left, rounded down.
    pub fn remaining(&self, place: u32, now: Instant) -> u32 {
        wheel::seconds(self.get(place).expires, tick(now) as u32)
    }

    /// The places of all connections, from a place of the table on.
    pub fn places_from(&self, first: u32) -> impl Iterator<Item = u32> + '_ {
        (first..self.places()).filter(|&place| self.is_used(place))
    }

    /// The time of the last look for what is over.
    pub fn clock(&self) -> Instant {
        self.wheel.clock()
    }
}

/// Bytes that a connection takes over which FTP is spoken, beside its own.
pub(crate) const FTP_SIZE: usize = Annex::<Ftp>::SIZE;

/// A connection as listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address of the client.
    pub client: IpAddr,
    /// Port of the client, host order.
    pub client_port: u16,
    /// Address of the service.
    pub virtual_address: IpAddr,
    /// Port of the service, host order.
    pub virtual_port: u16,
    /// Address of the destination.
    pub destination: IpAddr,
    /// Port of the destination, host order.
    pub destination_port: u16,
    /// The service that the connection is of, which may be gone: of a mark, of port 0, or of FTP's port, it is not named by the
    /// virtual address and port.
    pub service: ServiceKey,
    /// How packets get there.
    pub forward: Forward,
    /// Full NAT: the address and port of ours that stand for the client's there.
    pub local: Option<(IpAddr, u16)>,
    /// Its state; that of a template means nothing.
    pub state: State,
    /// It is no connection but a persistence template: the client's address is cut off by the netmask, its port is 0; the
    /// virtual address of a mark's template is the mark, and its protocol is [`Protocol::Ip`].
    pub template: bool,
    /// A template of which a connection came about.
    pub assured: bool,
    /// Another balancer has told of it.
    pub synced: bool,
    /// Seconds left without a further packet, rounded down.
    pub expires: u32,
}

impl ConnectionInfo {
    /// The protocol and the state, as `ipvsadm -Lc` shows them. A template has no state but that it is to be kept.
    pub fn words(&self) -> (&'static str, &'static str) {
        let protocol = match self.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
            Protocol::Ip => "IP",
        };
        let state = match self.state {
            State::Tcp(state) => state.name(),
            State::Sctp(state) => state.name(),
            State::Only => protocol,
        };
        match (self.template, self.assured) {
            (false, _) => (protocol, state),
            (true, false) => (protocol, "NONE"),
            (true, true) => (protocol, "ASSURED"),
        }
    }
}

#[cfg(test)]
mod tests;
