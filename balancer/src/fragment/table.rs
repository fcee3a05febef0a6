//! Datagrams of which fragments have come, found by what their fragments have in common, forgotten in the order they began.

use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use super::ranges::{Added, Ranges};
use crate::connection::{Direction, hash};
use crate::frame::fragment::Piece;
use crate::packet::Reason;
use crate::time::Instant;

/// How long fragments of a datagram may follow each other (Linux: `net.ipv4.ipfrag_time`).
const LIFETIME: Duration = Duration::from_secs(30);

/// What the fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub identification: u32,
    pub protocol: u8,
}

/// How the fragments of a connection's datagram go on. It outlives the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Follow {
    pub direction: Direction,
    pub is_tunnel: bool,
    /// It goes around the balancer.
    pub is_bypass: bool,
    /// Place of the destination in the pool.
    pub destination: u32,
    /// The address of that, as it was then; of a connection without one here, where it goes.
    pub server: IpAddr,
    /// Where the first came from and went to once it was rewritten, if it was.
    pub ends: (IpAddr, IpAddr),
    /// It stays here, at the local stack.
    pub is_local: bool,
    /// Of the connection.
    pub hash: u32,
}

/// What is to become of the fragments of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its first has not been decided on.
    Unknown,
    Follow(Follow),
    Local,
    Refused(Reason),
}

/// A datagram. Links are places plus one, 0 for none.
#[derive(Clone, Copy, Debug)]
struct Datagram {
    key: Key,
    hash: u32,
    /// In the chain of the hash, or of the free places.
    next: u32,
    /// Whose it is.
    share: u32,
    /// By [`Order`].
    links: [Links; 4],
    ends: Instant,
    ranges: Ranges,
    /// How long it is, once its last fragment has come; else 0.
    len: u16,
    /// Where its first fragment ends, once that has come; else 0.
    first: u16,
    fate: Fate,
    /// Its first fragment is held.
    has_first: bool,
    /// Frames that are held of it.
    held: u32,
}

/// Neighbours in a list.
#[derive(Clone, Copy, Debug, Default)]
struct Links {
    older: u32,
    newer: u32,
}

/// The ends of a list.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    oldest: u32,
    newest: u32,
}

/// The lists datagrams are in.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// All of them, as they began.
    Age = 0,
    /// Those with frames that are held, as they came to have some.
    Holding = 1,
    /// As [`Order::Age`], of one share.
    OwnAge = 2,
    /// As [`Order::Holding`], of one share.
    OwnHolding = 3,
}

/// What the datagrams of one source have, or of few that a hash takes for one.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    datagrams: u32,
    lists: [Ends; 2],
}

/// What is known of a datagram with a fragment that has just come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Noted {
    /// Where it is.
    pub place: u32,
    pub fate: Fate,
    /// Its length, once known.
    pub len: Option<usize>,
    /// Its first fragment is held.
    pub has_first: bool,
    /// Frames that were held of an older datagram in its place.
    pub stale: u32,
}

/// The datagrams.
#[derive(Debug)]
pub(crate) struct Table {
    key: hash::Key,
    datagrams: Vec<Datagram>,
    limit: usize,
    chains: Vec<u32>,
    free: u32,
    /// By [`Order`].
    lists: [Ends; 2],
    shares: Vec<Share>,
    /// Datagrams a share may have.
    most: u32,
}

impl Table {
    /// Room for so many datagrams, at least one. A source may have an eighth of it.
    pub fn new(limit: u32, seed: [u64; 2]) -> Self {
        let most = limit.div_ceil(8).max(1);
        let limit = limit.max(1) as usize;
        Table {
            key: hash::Key(seed),
            datagrams: Vec::with_capacity(limit),
            limit,
            chains: vec![0; limit.next_power_of_two()],
            free: 0,
            lists: [Ends::default(); 2],
            shares: vec![Share::default(); limit.next_power_of_two()],
            most,
        }
    }

    /// How many shares there are.
    pub fn shares(&self) -> usize {
        self.shares.len()
    }

    /// Whose the datagrams from an address are. IPv6 gives every network 64 bits of addresses, which count as one.
    pub fn share(&self, source: IpAddr) -> u32 {
        let source = match source {
            IpAddr::V4(a) => u64::from(a.to_bits()),
            IpAddr::V6(a) => (a.to_bits() >> 64) as u64,
        };
        self.key.hash([source, 0, 0, 0, 0]) & (self.shares.len() - 1) as u32
    }

    /// A list that a datagram is in or may be.
    fn list(&mut self, order: Order, place: u32) -> &mut Ends {
        let share = self.datagrams[place as usize].share as usize;
        match order {
            Order::Age | Order::Holding => &mut self.lists[order as usize],
            Order::OwnAge => &mut self.shares[share].lists[0],
            Order::OwnHolding => &mut self.shares[share].lists[1],
        }
    }

    /// Puts a datagram at the new end of a list.
    fn append(&mut self, order: Order, place: u32) {
        let list = self.list(order, place);
        let older = core::mem::replace(&mut list.newest, place + 1);
        match older.checked_sub(1) {
            Some(older) => self.datagrams[older as usize].links[order as usize].newer = place + 1,
            None => self.list(order, place).oldest = place + 1,
        }
        self.datagrams[place as usize].links[order as usize] = Links { older, newer: 0 };
    }

    /// Takes a datagram out of a list it is in.
    fn unlink(&mut self, order: Order, place: u32) {
        let Links { older, newer } = self.datagrams[place as usize].links[order as usize];
        match older.checked_sub(1) {
            Some(older) => self.datagrams[older as usize].links[order as usize].newer = newer,
            None => self.list(order, place).oldest = newer,
        }
        match newer.checked_sub(1) {
            Some(newer) => self.datagrams[newer as usize].links[order as usize].older = older,
            None => self.list(order, place).newest = older,
        }
    }

    /// Takes the frames that are held of a datagram.
    fn take_held(&mut self, place: u32) -> u32 {
        let held = core::mem::take(&mut self.datagrams[place as usize].held);
        if held != 0 {
            self.unlink(Order::Holding, place);
            self.unlink(Order::OwnHolding, place);
        }
        held
    }

    fn hash(&self, key: &Key) -> u32 {
        let [a, b] = [key.source, key.destination].map(|address| match address {
            IpAddr::V4(a) => [0, u64::from(a.to_bits())],
            IpAddr::V6(a) => [(a.to_bits() >> 64) as u64, a.to_bits() as u64],
        });
        let rest =
            u64::from(key.protocol) << 40 | u64::from(key.source.is_ipv6()) << 32 | u64::from(key.identification);
        self.key.hash([a[0], a[1], b[0], b[1], rest])
    }

    fn chain(&self, hash: u32) -> usize {
        hash as usize & (self.chains.len() - 1)
    }

    fn find(&self, key: &Key, hash: u32) -> Option<u32> {
        let mut link = self.chains[self.chain(hash)];
        while let Some(place) = link.checked_sub(1) {
            let datagram = &self.datagrams[place as usize];
            if datagram.hash == hash && datagram.key == *key {
                return Some(place);
            }
            link = datagram.next;
        }
        None
    }

    /// The datagram that began first.
    fn oldest(&self) -> Option<u32> {
        self.lists[Order::Age as usize].oldest.checked_sub(1)
    }

    /// The datagram of which frames are held for the longest time.
    pub fn oldest_holding(&self) -> Option<u32> {
        self.lists[Order::Holding as usize].oldest.checked_sub(1)
    }

    /// The datagram of a share of which frames are held for the longest time.
    pub fn oldest_holding_of(&self, share: u32) -> Option<u32> {
        self.shares.get(share as usize)?.lists[1].oldest.checked_sub(1)
    }

    /// The oldest datagram, if its time is over.
    pub fn over(&self, now: Instant) -> Option<u32> {
        self.oldest().filter(|&place| self.datagrams[place as usize].ends <= now)
    }

    /// When [`Table::over`] has something next.
    pub fn deadline(&self) -> Option<Instant> {
        self.oldest().map(|place| self.datagrams[place as usize].ends)
    }

    /// The datagram to be given up for a fragment of another, if there is no room for that or its source has its share already: the
    /// one that began first, of that source if it has its share.
    pub fn in_the_way_of(&self, key: &Key) -> Option<u32> {
        let share = &self.shares[self.share(key.source) as usize];
        let oldest = if share.datagrams >= self.most {
            share.lists[0].oldest.checked_sub(1)
        } else if self.free == 0 && self.datagrams.len() >= self.limit {
            self.oldest()
        } else {
            None
        };
        oldest.filter(|_| self.find(key, self.hash(key)).is_none())
    }

    /// Takes notice of a fragment. There has to be room; nothing may be over.
    ///
    /// A first fragment begins its datagram anew if another first one has come before and been decided on: identifications come
    /// again, and what was lost of an old datagram is not to spoil a new one. One that is as long as that is taken for a duplicate.
    ///
    /// # Errors
    /// [`Reason::Fragment`] if it has come before, leaves too many gaps, or contradicts others; the datagram is refused from then on,
    /// in the last case.
    pub fn note(&mut self, key: &Key, piece: &Piece, now: Instant) -> Result<Noted, (Reason, u32)> {
        let hash = self.hash(key);
        let place = match self.find(key, hash) {
            Some(place) => place,
            None => self.begin(key, hash, now),
        };
        let mut stale = 0;
        // Both were checked to be no more.
        let (start, end) = (piece.start as u16, piece.end as u16);
        let Datagram { fate, first, .. } = self.datagrams[place as usize];
        if start == 0 && fate != Fate::Unknown && first != end {
            stale = self.decide(place, Fate::Unknown);
            let datagram = &mut self.datagrams[place as usize];
            (datagram.ranges, datagram.len, datagram.first) = (Ranges::default(), 0, 0);
        }
        let datagram = &mut self.datagrams[place as usize];
        let is_beyond = datagram.len != 0 && end > datagram.len;
        let is_other_end = piece.is_last && (datagram.len != 0 && datagram.len != end || datagram.ranges.end() > end);
        let is_other_first = start == 0 && datagram.first != 0 && datagram.first != end;
        let added =
            if is_beyond || is_other_end || is_other_first { Added::Wrong } else { datagram.ranges.add(start, end) };
        match added {
            Added::New => {}
            Added::Again | Added::TooMany => return Err((Reason::Fragment, 0)),
            Added::Wrong => return Err((Reason::Fragment, self.decide(place, Fate::Refused(Reason::Fragment)))),
        }
        if piece.is_last {
            datagram.len = end;
        }
        if start == 0 {
            datagram.first = end;
        }
        Ok(Noted {
            place,
            fate: datagram.fate,
            len: (datagram.len != 0).then_some(datagram.len.into()),
            has_first: datagram.has_first,
            stale,
        })
    }

    fn begin(&mut self, key: &Key, hash: u32, now: Instant) -> u32 {
        let share = self.share(key.source);
        let datagram = Datagram {
            key: *key,
            hash,
            next: 0,
            share,
            links: [Links::default(); 4],
            ends: now + LIFETIME,
            ranges: Ranges::default(),
            len: 0,
            first: 0,
            fate: Fate::Unknown,
            has_first: false,
            held: 0,
        };
        let place = match self.free.checked_sub(1) {
            Some(place) => {
                self.free = self.datagrams[place as usize].next;
                self.datagrams[place as usize] = datagram;
                place
            }
            None => {
                self.datagrams.push(datagram);
                self.datagrams.len() as u32 - 1
            }
        };
        let chain = self.chain(hash);
        self.datagrams[place as usize].next = core::mem::replace(&mut self.chains[chain], place + 1);
        self.append(Order::Age, place);
        self.append(Order::OwnAge, place);
        self.shares[share as usize].datagrams += 1;
        place
    }

    /// Says what is to become of a datagram. Its frames that were held until now.
    pub fn decide(&mut self, place: u32, fate: Fate) -> u32 {
        let datagram = &mut self.datagrams[place as usize];
        (datagram.fate, datagram.has_first) = (fate, false);
        self.take_held(place)
    }

    /// The frames that are held of a datagram.
    pub fn held(&self, place: u32) -> u32 {
        self.datagrams[place as usize].held
    }

    /// Another frame is held, and all others behind it; it is the first fragment or not.
    pub fn hold(&mut self, place: u32, held: u32, is_first: bool) {
        let datagram = &mut self.datagrams[place as usize];
        datagram.has_first |= is_first;
        if core::mem::replace(&mut datagram.held, held) == 0 {
            self.append(Order::Holding, place);
            self.append(Order::OwnHolding, place);
        }
    }

    /// Whether all of a datagram has come.
    pub fn is_whole(&self, place: u32) -> bool {
        let datagram = &self.datagrams[place as usize];
        datagram.len != 0 && datagram.ranges.is_whole(datagram.len)
    }

    /// Forgets a datagram. Its frames that are held.
    pub fn remove(&mut self, place: u32) -> u32 {
        let held = self.take_held(place);
        self.unlink(Order::Age, place);
        self.unlink(Order::OwnAge, place);
        let Datagram { hash, next, share, .. } = self.datagrams[place as usize];
        let share = &mut self.shares[share as usize];
        share.datagrams = share.datagrams.saturating_sub(1);
        let chain = self.chain(hash);
        if self.chains[chain] == place + 1 {
            self.chains[chain] = next;
        } else {
            let mut link = self.chains[chain];
            while let Some(at) = link.checked_sub(1) {
                let datagram = &mut self.datagrams[at as usize];
                if datagram.next == place + 1 {
                    datagram.next = next;
                    break;
                }
                link = datagram.next;
            }
        }
        self.datagrams[place as usize].next = core::mem::replace(&mut self.free, place + 1);
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    fn key(identification: u32) -> Key {
        let source = IpAddr::V4(Ipv4Addr::new(10, 0, 0, identification as u8));
        Key { source, destination: source, identification, protocol: 17 }
    }

    fn piece(start: u32, end: u32, is_last: bool) -> Piece {
        Piece { identification: 0, protocol: 17, start, end, is_last }
    }

    const NOW: Instant = Instant::from_secs(5);

    #[test]
    fn a_datagram_takes_what_the_configuration_says() {
        let size = size_of::<Datagram>() + size_of::<Share>() + size_of::<u32>();
        assert!((300..=340).contains(&size), "{size}");
    }

    #[test]
    fn what_begins_first_is_given_up_first() {
        let mut table = Table::new(3, [1, 2]);
        let places: Vec<_> = (0..3).map(|id| table.note(&key(id), &piece(8, 16, false), NOW).unwrap().place).collect();
        assert_eq!((table.in_the_way_of(&key(3)), table.in_the_way_of(&key(2))), (Some(places[0]), None));
        assert_eq!((table.oldest(), table.over(NOW), table.deadline()), (Some(places[0]), None, Some(NOW + LIFETIME)));
        table.remove(places[1]);
        assert_eq!(table.over(NOW + LIFETIME), Some(places[0]));
        table.remove(places[0]);
        assert_eq!(table.oldest(), Some(places[2]));
        table.note(&key(4), &piece(8, 16, false), NOW).unwrap();
        table.remove(places[2]);
        assert_eq!(table.in_the_way_of(&key(9)), None);
        assert_eq!(table.note(&key(4), &piece(8, 16, false), NOW), Err((Reason::Fragment, 0)), "it is still there");
    }

    #[test]
    fn contradictions_spoil_a_datagram_until_it_begins_anew() {
        for wrong in [piece(8, 32, false), piece(24, 48, false), piece(16, 32, true)] {
            let mut table = Table::new(3, [1, 2]);
            let note = |table: &mut Table, piece: Piece| table.note(&key(1), &piece, NOW).map(|noted| noted.fate);
            assert_eq!(note(&mut table, piece(24, 40, true)), Ok(Fate::Unknown));
            assert_eq!(note(&mut table, piece(8, 16, false)), Ok(Fate::Unknown));
            assert_eq!(note(&mut table, wrong), Err((Reason::Fragment, 0)), "{wrong:?}");
            let after = note(&mut table, piece(16, 24, false));
            assert_eq!(after, Ok(Fate::Refused(Reason::Fragment)), "{wrong:?}");
            assert_eq!(note(&mut table, piece(0, 8, false)), Ok(Fate::Unknown));
            assert_eq!(note(&mut table, piece(8, 16, true)), Ok(Fate::Unknown));
            assert!(table.is_whole(0));
        }
    }
}
