//! What was last found out about the way to a neighbour, kept where packets to it pass by.

use super::Mac;
use crate::route::Way;

/// The way to an address, and the Ethernet address at its beginning, as they were when the cache had this
/// [`generation`](super::Neighbours::generation). Each change in the cache makes it worthless, and so does the next second, so that
/// the cache sees who is in use and when to ask again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hop {
    /// 0 if nothing is known: no cache has that generation.
    generation: u64,
    mac: Mac,
    way: Way,
}

impl Hop {
    /// Nothing is known.
    pub const UNKNOWN: Hop = Hop { generation: 0, mac: [0; 6], way: Way::Link };

    /// What was found out in this generation of the cache.
    pub fn new(generation: u64, way: Way, mac: Mac) -> Self {
        Hop { generation, mac, way }
    }

    /// The way and the Ethernet address, if they are still good.
    #[inline(always)]
    pub fn get(&self, generation: u64) -> Option<(Way, Mac)> {
        (self.generation == generation).then_some((self.way, self.mac))
    }
}
