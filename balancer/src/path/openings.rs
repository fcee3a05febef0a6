//! Servers that have not answered the SYN of a client that has answered a cookie are asked again, though the client says nothing: the
//! SYN may have been lost, or could not be sent, the server's Ethernet address not being known.

use alloc::collections::VecDeque;
use core::time::Duration;

use super::Moment;
use crate::time::Instant;
use crate::{Balancer, Errno};

/// How often each is asked.
const PERIOD: Duration = Duration::from_secs(1);
/// The most that are looked at in one call, so that no call takes long.
const BUDGET: usize = 1024;

/// Connections whose servers are being asked, by their places in the table: some may be over, or others by now.
#[derive(Debug, Default)]
pub(crate) struct Openings {
    places: VecDeque<u32>,
    /// When they are looked at next; nothing if there are none.
    due: Option<Instant>,
    /// How many are left to be looked at this time.
    left: usize,
}

impl Openings {
    /// Bytes that each takes.
    pub const SIZE: usize = size_of::<u32>();

    /// Whether the memory was taken.
    pub fn is_reserved(&self) -> bool {
        self.places.capacity() != 0
    }

    /// Takes the memory for so many.
    ///
    /// # Errors
    /// [`Errno::OutOfMemory`]; nothing is taken then.
    pub fn reserve(&mut self, count: usize) -> Result<(), Errno> {
        self.places.try_reserve_exact(count).map_err(|_| Errno::OutOfMemory)
    }

    /// Adds one. If there is no room, which takes more that have ended within a second than there is room for, only the client's
    /// packets have its server asked again.
    pub fn add(&mut self, place: u32, now: Instant) {
        if self.places.len() < self.places.capacity() {
            self.places.push_back(place);
            self.due.get_or_insert(now + PERIOD);
        }
    }

    /// When they are looked at next.
    pub fn deadline(&self) -> Option<Instant> {
        self.due
    }
}

impl Balancer {
    /// Asks the servers again whose turn it is.
    pub(super) fn ask_again(&mut self, moment: &mut Moment<'_>) {
        if self.openings.due.is_none_or(|due| due > moment.now) {
            return;
        }
        if self.openings.left == 0 {
            self.openings.left = self.openings.places.len();
        }
        let count = self.openings.left.min(BUDGET);
        for _ in 0..count {
            let Some(place) = self.openings.places.pop_front() else { break };
            if self.table.splice(place).is_some_and(|splice| splice.opening.is_some()) {
                self.ask(place, moment);
                self.openings.places.push_back(place);
            }
        }
        self.openings.left -= count;
        self.openings.due = match (self.openings.left, self.openings.places.is_empty()) {
            (0, true) => None,
            (0, false) => Some(moment.now + PERIOD),
            // The others at once, in the next call.
            _ => Some(moment.now),
        };
    }
}
