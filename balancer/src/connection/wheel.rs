//! The timers of the connections: a hierarchical wheel whose lists go through the entries.
//!
//! A tick is 2²⁴ ns, about 17 ms. Five levels of 64 slots reach 2³⁰ ticks, 208 days. A connection lies on the
//! level of the highest digit of how far ahead its tick is, and comes down when its slot there is reached. A packet only
//! writes the new end into the entry; the wheel looks at it when the old one comes, unless the new one is sooner.

use super::entry::Entry;
use crate::time::Instant;

const LEVELS: usize = 5;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Nanoseconds in a tick, as a shift.
const TICK_SHIFT: u32 = 24;
/// The longest way ahead a timer is filed for; longer ones are looked at again then.
const REACH: u32 = (1 << (SLOT_BITS * LEVELS as u32)) - 1;
/// In [`Entry::previous`]: the link comes from a slot and not from an entry.
const SLOT: u32 = 1 << 31;

/// The tick an instant lies in.
pub(crate) fn tick(now: Instant) -> u64 {
    now.nanos() >> TICK_SHIFT
}

/// The longest anything lasts. Ticks wrap around, and what looks at one may be behind what has set it.
const LONGEST: u32 = i32::MAX as u32 / 2;

/// Ticks that cover a number of seconds, up to 208 days.
pub(crate) const fn ticks(seconds: u32) -> u32 {
    let ticks = (seconds as u64 * 1_000_000_000).div_ceil(1 << TICK_SHIFT);
    if ticks > LONGEST as u64 { LONGEST } else { ticks as u32 }
}

/// Whole seconds from `now` to `tick`; 0 if it has come.
pub(crate) fn seconds(tick: u32, now: u32) -> u32 {
    let ahead = (tick.wrapping_sub(now) as i32).max(0);
    ((u64::from(ahead.unsigned_abs()) << TICK_SHIFT) / 1_000_000_000) as u32
}

/// Whether `tick` has come by `now`. Ticks wrap around.
pub(crate) fn is_due(tick: u32, now: u32) -> bool {
    now.wrapping_sub(tick) as i32 >= 0
}

/// The wheel.
#[derive(Debug)]
pub(crate) struct Wheel {
    /// First entries of the slots, level after level; then of the slots that were reached and are being emptied.
    heads: [u32; SLOTS * LEVELS + LEVELS],
    /// Which slots of a level are not empty.
    occupied: [u64; LEVELS],
    /// Ticks up to here are done, but for the slots being emptied.
    now: u64,
}

impl Wheel {
    pub fn new() -> Self {
        Wheel { heads: [0; _], occupied: [0; LEVELS], now: 0 }
    }

    /// Files an entry for its `expires`. It must not be in the wheel.
    pub fn insert(&mut self, entries: &mut [Entry], place: u32) {
        let now = self.now as u32;
        let ahead = entries[place as usize].expires.wrapping_sub(now);
        // What is due already is looked at with the next tick.
        let ahead = if (ahead as i32) < 1 { 1 } else { ahead.min(REACH) };
        let filed = self.now + u64::from(ahead);
        let level = (31 - ahead.leading_zeros()) / SLOT_BITS;
        let slot = (filed >> (SLOT_BITS * level)) as usize % SLOTS;
        self.occupied[level as usize] |= 1 << slot;
        let slot = level as usize * SLOTS + slot;
        let first = core::mem::replace(&mut self.heads[slot], place + 1);
        let entry = &mut entries[place as usize];
        (entry.filed, entry.next, entry.previous) = (filed as u32, first, SLOT | slot as u32);
        if let Some(next) = first.checked_sub(1) {
            entries[next as usize].previous = place + 1;
        }
    }

    /// Takes an entry out.
    pub fn remove(&mut self, entries: &mut [Entry], place: u32) {
        let entry = &mut entries[place as usize];
        let (next, previous) = (core::mem::take(&mut entry.next), core::mem::take(&mut entry.previous));
        if let Some(next) = next.checked_sub(1) {
            entries[next as usize].previous = previous;
        }
        if previous & SLOT == 0 {
            if let Some(previous) = previous.checked_sub(1) {
                entries[previous as usize].next = next;
            }
            return;
        }
        let slot = (previous & !SLOT) as usize;
        self.heads[slot] = next;
        if next == 0 && slot < SLOTS * LEVELS {
            self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
        }
    }

    /// Gives an entry another end.
    #[inline]
    pub fn set(&mut self, entries: &mut [Entry], place: u32, expires: u32) {
        let entry = &mut entries[place as usize];
        entry.expires = expires;
        // The wheel looks at it at the old end, and finds the new one.
        if (expires.wrapping_sub(entry.filed) as i32) < 0 {
            self.refile(entries, place);
        }
    }

    /// Files an entry that ends sooner than it was filed for.
    #[inline(never)]
    fn refile(&mut self, entries: &mut [Entry], place: u32) {
        self.remove(entries, place);
        self.insert(entries, place);
    }

    /// The next tick at which a slot is reached, and which levels' it is.
    fn event(&self) -> Option<u64> {
        let of_level = |(level, &bits): (usize, &u64)| {
            if bits == 0 {
                return None;
            }
            let shift = SLOT_BITS * level as u32;
            let at = self.now >> shift;
            // The slot we are in is a whole turn ahead: what is in it was filed for the next time.
            let ahead = bits.rotate_right((at as u32 + 1) % SLOTS as u32).trailing_zeros() + 1;
            Some((at + u64::from(ahead)) << shift)
        };
        self.occupied.iter().enumerate().filter_map(of_level).min()
    }

    /// The start of the tick up to which all is done.
    pub fn clock(&self) -> Instant {
        Instant(self.now << TICK_SHIFT)
    }

    /// When there is work next.
    pub fn deadline(&self) -> Option<Instant> {
        if self.heads[SLOTS * LEVELS..].iter().any(|&head| head != 0) {
            return Some(Instant(self.now << TICK_SHIFT));
        }
        self.event().map(|tick| Instant(tick << TICK_SHIFT))
    }

    /// The next entry whose end has come by `now`, taken out of the wheel; `None` if there is none, or if `budget` entries
    /// were looked at, of which there may be more then.
    pub fn expire(&mut self, entries: &mut [Entry], now: Instant, budget: &mut usize) -> Option<u32> {
        loop {
            while let Some(place) = self.reached() {
                if *budget == 0 {
                    return None;
                }
                *budget -= 1;
                self.remove(entries, place);
                if is_due(entries[place as usize].expires, self.now as u32) {
                    return Some(place);
                }
                self.insert(entries, place);
            }
            if !self.advance(entries, tick(now)) {
                return None;
            }
        }
    }

    /// An entry of a slot that was reached.
    fn reached(&self) -> Option<u32> {
        self.heads[SLOTS * LEVELS..].iter().find_map(|head| head.checked_sub(1))
    }

    /// Goes on to the next tick with work, but not beyond `to`, and moves the slots reached aside, so that what is filed
    /// anew does not fall into them. Whether any was.
    fn advance(&mut self, entries: &mut [Entry], to: u64) -> bool {
        let event = match self.event() {
            Some(event) if event <= to => event,
            _ => {
                self.now = self.now.max(to);
                return false;
            }
        };
        self.now = event;
        for level in 0..LEVELS {
            let shift = SLOT_BITS * level as u32;
            if event & ((1 << shift) - 1) != 0 {
                break;
            }
            let slot = (event >> shift) as usize % SLOTS;
            if self.occupied[level] & (1 << slot) == 0 {
                continue;
            }
            self.occupied[level] &= !(1 << slot);
            let first = core::mem::take(&mut self.heads[level * SLOTS + slot]);
            let aside = SLOTS * LEVELS + level;
            self.heads[aside] = first;
            if let Some(first) = first.checked_sub(1) {
                entries[first as usize].previous = SLOT | aside as u32;
            }
        }
        true
    }
}
