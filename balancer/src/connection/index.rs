//! The hash index of the connection table: every connection is found by the tuple of either direction.
//!
//! Linear hashing (Litwin 1980): one bucket more for every node more, one bucket split at each growth. Memory is touched
//! only as connections come, no insertion is dear, and chains stay about one node long. The buckets never shrink.

use alloc::vec::Vec;

use super::entry::{Direction, Entry};

/// A connection in one of its two directions: 0 for none, else twice its place plus one for the direction, plus one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node(u32);

impl Node {
    pub const NONE: Node = Node(0);

    /// Places above this cannot be told apart.
    pub const LIMIT: u32 = (u32::MAX - 2) / 2;

    pub fn new(place: u32, direction: Direction) -> Self {
        Node(2 * place + direction as u32 + 1)
    }

    fn raw(raw: u32) -> Option<Node> {
        (raw != 0).then_some(Node(raw))
    }

    pub fn get(self) -> Option<(u32, Direction)> {
        let raw = self.0.checked_sub(1)?;
        let direction = if raw & 1 == 0 { Direction::Inbound } else { Direction::Outbound };
        Some((raw / 2, direction))
    }
}

/// Buckets there are at least, if there are to be that many at all.
const INITIAL: usize = 256;

/// The index. Chains go through [`Entry::chain`].
#[derive(Debug)]
pub(crate) struct Index {
    /// First nodes of the chains.
    buckets: Vec<u32>,
    /// Buckets there may be.
    limit: usize,
    /// Nodes there are.
    nodes: usize,
}

impl Index {
    /// An index for up to `nodes` nodes. Takes 4 bytes for each at once, and touches few of them.
    pub fn new(nodes: usize) -> Self {
        let limit = nodes.max(1);
        let mut buckets = Vec::with_capacity(limit);
        buckets.resize(limit.min(INITIAL), 0);
        Index { buckets, limit, nodes: 0 }
    }

    /// The bucket of a hash: by as many low bits as name more buckets than there are, or else by one bit less.
    fn bucket(&self, hash: u32) -> usize {
        let len = self.buckets.len();
        let mask = len.next_power_of_two() - 1;
        let bucket = hash as usize & mask;
        if bucket < len { bucket } else { bucket & (mask >> 1) }
    }

    /// The first node of the chain a hash belongs to.
    pub fn first(&self, hash: u32) -> Node {
        Node(self.buckets[self.bucket(hash)])
    }

    /// The node after `node`.
    pub fn next(entries: &[Entry], node: Node) -> Node {
        match node.get() {
            Some((place, direction)) => Node(entries[place as usize].chain[direction as usize]),
            None => Node::NONE,
        }
    }

    /// Puts a node at the head of its chain, so that the newest of equal ones is found.
    pub fn insert(&mut self, entries: &mut [Entry], place: u32, direction: Direction) {
        self.nodes += 1;
        if self.nodes > self.buckets.len() && self.buckets.len() < self.limit {
            self.split(entries);
        }
        let hash = entries[place as usize].hashes[direction as usize];
        let bucket = self.bucket(hash);
        entries[place as usize].chain[direction as usize] = self.buckets[bucket];
        self.buckets[bucket] = Node::new(place, direction).0;
    }

    /// Takes a node out of its chain.
    pub fn remove(&mut self, entries: &mut [Entry], place: u32, direction: Direction) {
        let node = Node::new(place, direction);
        let entry = &mut entries[place as usize];
        let after = core::mem::take(&mut entry.chain[direction as usize]);
        let bucket = self.bucket(entry.hashes[direction as usize]);
        if self.buckets[bucket] == node.0 {
            self.buckets[bucket] = after;
            self.nodes -= 1;
            return;
        }
        let mut at = Node(self.buckets[bucket]);
        while let Some((before, way)) = at.get() {
            let link = &mut entries[before as usize].chain[way as usize];
            if *link == node.0 {
                *link = after;
                self.nodes -= 1;
                return;
            }
            at = Node(*link);
        }
        debug_assert!(false, "a node that was inserted is in its chain");
    }

    /// One bucket more: the nodes of the bucket that shared its low bits are dealt out, in order.
    fn split(&mut self, entries: &mut [Entry]) {
        let new = self.buckets.len();
        self.buckets.push(0);
        let old = new & ((new + 1).next_power_of_two() / 2 - 1);
        let mut at = Node::raw(core::mem::take(&mut self.buckets[old]));
        let mut tails = [None; 2];
        while let Some(node) = at {
            let Some((place, direction)) = node.get() else { break };
            let entry = &mut entries[place as usize];
            at = Node::raw(core::mem::take(&mut entry.chain[direction as usize]));
            let bucket = self.bucket(entry.hashes[direction as usize]);
            match tails[usize::from(bucket == new)].replace((place, direction)) {
                None => self.buckets[bucket] = node.0,
                Some((before, way)) => entries[before as usize].chain[way as usize] = node.0,
            }
        }
    }
}
