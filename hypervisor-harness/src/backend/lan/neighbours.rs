//! What a host knows of the others on its segment (RFC 826; RFC 4861, section 5.1), and what waits to be known.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::fabric::Frame;
use super::plan::Mac;

/// For how long an answer is taken as true without a new question.
const FRESH: Duration = Duration::from_secs(30);
/// Between two questions.
const INTERVAL: Duration = Duration::from_millis(250);
/// Questions without an answer until a neighbour is given up.
const TRIES: u8 = 12;
/// Frames that wait for one neighbour.
const WAITING: usize = 128;
/// Neighbours that are remembered. The addresses are the guest's to invent.
const ENTRIES: usize = 1024;

/// The neighbours of one host.
#[derive(Debug, Default)]
pub struct Neighbours {
    entries: HashMap<IpAddr, Entry>,
}

#[derive(Debug)]
struct Entry {
    mac: Option<Mac>,
    /// When it last spoke.
    heard: Instant,
    /// When it was last asked since it spoke, and how often.
    asked: Option<(Instant, u8)>,
    waiting: Vec<Frame>,
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self { mac: None, heard: now, asked: None, waiting: Vec::new() }
    }

    /// Whether it is time to ask, and notes that it is done.
    fn ask(&mut self, now: Instant) -> bool {
        let (last, count) = self.asked.map_or((None, 0), |(last, count)| (Some(last), count));
        if last.is_some_and(|last| now < last + INTERVAL) {
            return false;
        }
        self.asked = Some((now, count.saturating_add(1)));
        true
    }
}

/// Where a frame can go.
#[derive(Debug)]
pub enum Way {
    /// To this address.
    To(Mac, Frame),
    /// Nowhere yet; it waits.
    Waits,
    /// Nowhere: too many wait.
    Dropped(Frame),
}

impl Neighbours {
    /// Finds the way to `address` for `frame`. The second answer tells whether the address is to be asked for.
    pub fn way(&mut self, address: IpAddr, frame: Frame, now: Instant) -> (Way, bool) {
        if self.entries.len() >= ENTRIES && !self.entries.contains_key(&address) {
            return (Way::Dropped(frame), false);
        }
        let entry = self.entries.entry(address).or_insert_with(|| Entry::new(now));
        if let Some(mac) = entry.mac {
            let stale = now > entry.heard + FRESH;
            let silent = entry.asked.is_some_and(|(_, count)| count >= TRIES);
            if !(stale && silent) {
                let ask = stale && entry.ask(now);
                return (Way::To(mac, frame), ask);
            }
            *entry = Entry::new(now);
        }
        if entry.waiting.len() >= WAITING {
            return (Way::Dropped(frame), entry.ask(now));
        }
        entry.waiting.push(frame);
        (Way::Waits, entry.ask(now))
    }

    /// Takes in that `address` is at `mac`. Returns the frames that waited for it. Strangers are only remembered if they
    /// asked for us (`solicited` by them or us).
    pub fn heard(&mut self, address: IpAddr, mac: Mac, solicited: bool, now: Instant) -> Vec<Frame> {
        let full = self.entries.len() >= ENTRIES;
        let entry = match self.entries.get_mut(&address) {
            Some(entry) => entry,
            None if solicited && !full => self.entries.entry(address).or_insert_with(|| Entry::new(now)),
            None => return Vec::new(),
        };
        entry.mac = Some(mac);
        entry.heard = now;
        entry.asked = None;
        std::mem::take(&mut entry.waiting)
    }

    /// Time passes: pushes those to be asked for again, gives up those who never answer, and returns when to come back, with
    /// the frames that nobody will have.
    pub fn tick(&mut self, now: Instant, ask: &mut Vec<IpAddr>, lost: &mut Vec<Frame>) -> Option<Instant> {
        let mut next = None;
        self.entries.retain(|address, entry| {
            if entry.mac.is_some() {
                return true;
            }
            if entry.ask(now) {
                if entry.asked.is_some_and(|(_, count)| count > TRIES) {
                    lost.append(&mut entry.waiting);
                    return false;
                }
                ask.push(*address);
            }
            let due = entry.asked.map_or(now, |(last, _)| last) + INTERVAL;
            next = Some(next.map_or(due, |next: Instant| next.min(due)));
            true
        });
        next
    }

    /// Forgets when it last asked, since nobody can have heard it.
    pub fn ask_again(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.asked = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    fn address() -> IpAddr {
        "10.0.0.100".parse().expect("an address")
    }

    #[test]
    fn frames_wait_for_the_answer() {
        let (mut neighbours, now) = (Neighbours::default(), Instant::now());
        assert!(matches!(neighbours.way(address(), Frame::small(60), now), (Way::Waits, true)));
        assert!(matches!(neighbours.way(address(), Frame::small(60), now), (Way::Waits, false)));
        assert_eq!(neighbours.heard(address(), MAC, false, now).len(), 2);
        assert!(matches!(neighbours.way(address(), Frame::small(60), now), (Way::To(MAC, _), false)));
        let later = now + FRESH + INTERVAL;
        assert!(
            matches!(neighbours.way(address(), Frame::small(60), later), (Way::To(MAC, _), true)),
            "asked, yet used"
        );
    }

    #[test]
    fn who_never_answers_is_given_up() {
        let (mut neighbours, mut now) = (Neighbours::default(), Instant::now());
        for _ in 0..WAITING {
            neighbours.way(address(), Frame::small(60), now);
        }
        assert!(matches!(neighbours.way(address(), Frame::small(60), now).0, Way::Dropped(_)));
        let (mut asked, mut lost) = (Vec::new(), Vec::new());
        while let Some(next) = neighbours.tick(now, &mut asked, &mut lost) {
            assert!(next > now);
            now = next;
        }
        assert_eq!((asked.len(), lost.len()), (usize::from(TRIES) - 1, WAITING));
        assert_eq!(neighbours.tick(now, &mut asked, &mut lost), None);
    }

    #[test]
    fn strangers_are_not_remembered_unasked() {
        let (mut neighbours, now) = (Neighbours::default(), Instant::now());
        neighbours.heard(address(), MAC, false, now);
        assert!(neighbours.entries.is_empty());
        for last in 0..2 * ENTRIES as u32 {
            neighbours.heard(IpAddr::from(last.to_be_bytes()), MAC, true, now);
        }
        assert_eq!(neighbours.entries.len(), ENTRIES);
    }
}
