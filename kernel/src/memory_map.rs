//! Which memory there is, and what becomes of it.
//!
//! The map a monitor hands over (the memory map of `hvm_start_info`) may be unsorted, have empty entries and overlap
//! itself; reserved wins over RAM. Of what is left, only whole pages between 1 MiB and 4 GiB are used: below lie the start
//! information and the firmware's own, above nothing is mapped. Reading needs no heap.

use core::fmt;

use crate::cmdline::Options;
use crate::list::List;

/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// The lowest physical address that is used.
pub const LOWEST: u64 = 1 << 20;
/// The end of the physical addresses that are used.
pub const HIGHEST: u64 = 1 << 32;

/// The most separate ranges that are kept. If there are more, the smallest are left unused.
pub const MAX_RANGES: usize = 64;

/// An entry of the monitor's memory map, in bytes of physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Where it begins.
    pub start: u64,
    /// How long it is; may be 0.
    pub size: u64,
    /// What it is.
    pub kind: Kind,
}

/// What a region of the monitor's memory map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// RAM that nobody else uses (type 1 of `hvm_start_info`).
    Usable,
    /// Everything else.
    Reserved,
}

impl Region {
    fn range(&self) -> Range {
        Range { start: self.start, end: self.start.saturating_add(self.size) }
    }
}

/// A range of physical memory: from `start` up to but not including `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    /// The first byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl Range {
    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    fn overlaps(&self, other: &Range) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// Usable memory: sorted, disjoint, not touching, page-aligned, without empty ranges.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryMap {
    ranges: List<Range, MAX_RANGES>,
}

impl MemoryMap {
    /// What `regions` leave usable once everything reserved in them and every one of `holes` (the image, the modules, the
    /// start information; whatever their kind) is taken out. The order of either does not matter.
    #[must_use]
    pub fn new(regions: impl Iterator<Item = Region> + Clone, holes: &[Region]) -> Self {
        let mut map = Self { ranges: List::new() };
        for region in regions.clone().filter(|region| region.kind == Kind::Usable) {
            map.add(region.range());
        }
        for region in regions.filter(|region| region.kind == Kind::Reserved) {
            map.take_out(region.range());
        }
        for hole in holes {
            map.take_out(hole.range());
        }
        map
    }

    /// The usable ranges, lowest first.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// The largest usable range; empty if there is none.
    #[must_use]
    pub fn largest(&self) -> Range {
        self.ranges.iter().copied().max_by_key(Range::size).unwrap_or_default()
    }

    /// Usable bytes in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.ranges.iter().map(Range::size).sum()
    }

    fn add(&mut self, range: Range) {
        let Some(start) = range.start.max(LOWEST).checked_next_multiple_of(PAGE) else { return };
        let mut new = Range { start, end: range.end.min(HIGHEST) & !(PAGE - 1) };
        if new.size() == 0 {
            return;
        }
        // Swallow what it touches, so that ranges stay disjoint.
        while let Some(at) = self.ranges.iter().position(|old| old.start <= new.end && new.start <= old.end) {
            let old = self.ranges.remove(at);
            new = Range { start: old.start.min(new.start), end: old.end.max(new.end) };
        }
        self.insert(new);
    }

    fn take_out(&mut self, hole: Range) {
        if hole.size() == 0 {
            return;
        }
        let hole =
            Range { start: hole.start & !(PAGE - 1), end: hole.end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX) };
        while let Some(at) = self.ranges.iter().position(|old| old.overlaps(&hole)) {
            let old = self.ranges.remove(at);
            for rest in [Range { start: old.start, end: hole.start }, Range { start: hole.end, end: old.end }] {
                if rest.size() > 0 {
                    self.insert(rest);
                }
            }
        }
    }

    /// Inserts a range that overlaps none, in its place. When the list is full the smallest range is given up: that
    /// memory is not used, which is always safe.
    fn insert(&mut self, range: Range) {
        if self.ranges.len() == MAX_RANGES {
            let smallest = (0..MAX_RANGES).min_by_key(|&i| self.ranges[i].size()).unwrap_or(0);
            if self.ranges[smallest].size() >= range.size() {
                return;
            }
            self.ranges.remove(smallest);
        }
        let at = self.ranges.partition_point(|old| old.start < range.start);
        // There is room: one was removed above if there was not.
        let _ = self.ranges.insert(at, range);
    }
}

/// What becomes of the usable memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The heap: everything the control path allocates, and the tables sized at start.
    pub heap: Range,
    /// Packet buffers.
    pub pool: Range,
    /// Entries the connection table is to have.
    pub connections: usize,
    /// Packet buffers asked for with `buffers=`, if they were.
    pub buffers: Option<usize>,
}

/// Heap kept for everything but the connection table and what is known about packet buffers, in bytes.
pub const HEAP_FLOOR: u64 = 6 << 20;
/// Heap per connection-table entry, in bytes: the entry itself and its share of the index.
pub const HEAP_PER_CONNECTION: u64 = 128;
/// Heap per packet buffer, in bytes: what the driver knows about it, and a place in a queue of those that wait.
pub const HEAP_PER_BUFFER: u64 = 64 + 8;
/// Pool memory per packet buffer of the usual size, in bytes: 2 KiB of frame, the header before it, and alignment.
pub const POOL_PER_BUFFER: u64 = 2304;
/// The fewest packet buffers that are of use.
pub const FEWEST_BUFFERS: u64 = 512;
/// The largest share of memory the pool takes unasked, in bytes.
const POOL_UNASKED_MOST: u64 = 64 << 20;

/// Why the memory there is does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooSmall {
    /// Bytes in one piece that are needed.
    pub needed: u64,
    /// Bytes in one piece that there are.
    pub available: u64,
    /// Connections that were asked for.
    pub connections: usize,
    /// Buffers that were asked for.
    pub buffers: u64,
}

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        write!(
            f,
            "memory is too small: {} connections and {} packet buffers need {} MiB in one piece, the largest is {} MiB; \
             give the machine {} MiB more, or lower connections= or buffers= on the command line",
            self.connections,
            self.buffers,
            mib(self.needed),
            self.available >> 20,
            mib(self.needed.saturating_sub(self.available)).max(1),
        )
    }
}

impl Layout {
    /// Divides the largest usable range between heap and pool, as the options ask, or else by its size: a quarter for
    /// packet buffers, a quarter for connections.
    ///
    /// # Errors
    /// [`TooSmall`] when what is asked for, or the least that is of use, does not fit.
    pub fn plan(map: &MemoryMap, options: &Options) -> Result<Self, TooSmall> {
        let all = map.largest();
        let quarter = all.size() / 4;

        let connections = options.connections.unwrap_or_else(|| {
            let fit = (quarter / HEAP_PER_CONNECTION).max(1);
            usize::try_from(1u64 << fit.ilog2()).unwrap_or(usize::MAX).clamp(1 << 12, 1 << 20)
        });
        let buffers = options.buffers.map_or(FEWEST_BUFFERS, |n| n as u64);
        let least_pool = (buffers * POOL_PER_BUFFER).next_multiple_of(PAGE);
        let pool = least_pool.max(if options.buffers.is_some() { 0 } else { quarter.min(POOL_UNASKED_MOST) });
        let without_buffers = HEAP_FLOOR + connections as u64 * HEAP_PER_CONNECTION;

        // A page that is not full may hold another buffer.
        let needed = without_buffers + least_pool.div_ceil(POOL_PER_BUFFER) * HEAP_PER_BUFFER + least_pool;
        if needed > all.size() {
            return Err(TooSmall { needed, available: all.size(), connections, buffers });
        }
        // A pool of unasked size gives way to the heap.
        let most = (all.size() - without_buffers) / (POOL_PER_BUFFER + HEAP_PER_BUFFER) * POOL_PER_BUFFER;
        let pool = pool.min(most) & !(PAGE - 1);
        let border = all.end - pool.max(least_pool);
        Ok(Self {
            heap: Range { start: all.start, end: border },
            pool: Range { start: border, end: all.end },
            connections,
            buffers: options.buffers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec::Vec;

    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn ram(start: u64, size: u64) -> Region {
        Region { start, size, kind: Kind::Usable }
    }

    fn reserved(start: u64, size: u64) -> Region {
        Region { start, size, kind: Kind::Reserved }
    }

    fn range(start: u64, end: u64) -> Range {
        Range { start, end }
    }

    #[test]
    fn a_map_as_microvm_gives_it() {
        // Out of order, with empty entries, and with RAM both sides of the hole below 4 GiB.
        let entries = [
            reserved(0xfeff_c000, 0x4000),
            ram(MIB, 127 * MIB),
            reserved(0, 0),
            ram(0, 0x9_fc00),
            ram(4096 * MIB, 1024 * MIB),
            ram(0, 0),
        ];
        let holes = [reserved(2 * MIB, 6 * MIB), reserved(127 * MIB + 1, MIB - 1)];
        let map = MemoryMap::new(entries.into_iter(), &holes);
        assert_eq!(map.ranges(), [range(MIB, 2 * MIB), range(8 * MIB, 127 * MIB)]);
        assert_eq!(map.largest(), range(8 * MIB, 127 * MIB));
    }

    #[test]
    fn reserved_wins_wherever_it_stands_and_pages_are_whole() {
        let entries = [reserved(3 * MIB + 5, 1), ram(MIB + 1, 4 * MIB), ram(2 * MIB, 6 * MIB + 5)];
        let map = MemoryMap::new(entries.into_iter(), &[]);
        assert_eq!(map.ranges(), [range(MIB + PAGE, 3 * MIB), range(3 * MIB + PAGE, 8 * MIB)]);
    }

    #[test]
    fn entries_at_the_end_of_the_address_space_do_no_harm() {
        let entries = [ram(u64::MAX - 5, 100), ram(0, u64::MAX), reserved(u64::MAX, u64::MAX)];
        let map = MemoryMap::new(entries.into_iter(), &[reserved(u64::MAX - 1, 1)]);
        assert_eq!(map.ranges(), [range(LOWEST, HIGHEST)]);
    }

    fn map_of(size: u64) -> MemoryMap {
        MemoryMap::new([ram(8 * MIB, size)].into_iter(), &[])
    }

    #[test]
    fn the_default_harness_machine_gets_room_for_a_hundred_thousand_connections() {
        let layout = Layout::plan(&map_of(119 * MIB), &Options::default()).unwrap();
        assert_eq!(layout.connections, 131_072);
        assert!(layout.pool.size() >= 29 * MIB, "{layout:?}");
        assert_eq!(layout.heap.end, layout.pool.start);
    }

    #[test]
    fn the_smallest_harness_machine_still_does() {
        let layout = Layout::plan(&map_of(23 * MIB), &Options::default()).unwrap();
        assert_eq!(layout.connections, 32_768);
        assert!(layout.pool.size() >= 5 * MIB);
    }

    #[test]
    fn options_are_followed_or_refused_with_what_would_do() {
        let options = Options { connections: Some(1 << 20), buffers: Some(4096), ..Options::default() };
        let layout = Layout::plan(&map_of(512 * MIB), &options).unwrap();
        assert_eq!(layout.connections, 1 << 20);
        assert_eq!(layout.pool.size(), 4096 * POOL_PER_BUFFER);
        let error = Layout::plan(&map_of(100 * MIB), &options).unwrap_err();
        assert_eq!(
            error.to_string(),
            "memory is too small: 1048576 connections and 4096 packet buffers need 144 MiB in one piece, the largest is \
             100 MiB; give the machine 44 MiB more, or lower connections= or buffers= on the command line"
        );
        assert!(Layout::plan(&MemoryMap::new([].into_iter(), &[]), &Options::default()).is_err());
    }

    fn region() -> impl Strategy<Value = Region> {
        let start = prop_oneof![0u64..64 * PAGE, Just(HIGHEST - PAGE * 3), any::<u64>()];
        let size = prop_oneof![Just(0u64), 0u64..40 * PAGE, any::<u64>()];
        let kind = prop_oneof![Just(Kind::Usable), Just(Kind::Reserved)];
        (start, size, kind).prop_map(|(start, size, kind)| Region { start: start.wrapping_add(LOWEST), size, kind })
    }

    proptest! {
        #[test]
        fn usable_memory_is_what_it_promises(
            regions in proptest::collection::vec(region(), 0..20),
            holes in proptest::collection::vec((0u64..100 * PAGE, 0u64..9 * PAGE), 0..8),
        ) {
            let holes: Vec<Region> = holes.into_iter().map(|(start, size)| reserved(LOWEST + start, size)).collect();
            let map = MemoryMap::new(regions.iter().copied(), &holes);
            for pair in map.ranges().windows(2) {
                prop_assert!(pair[0].end < pair[1].start);
            }
            for range in map.ranges() {
                prop_assert!(range.start < range.end && range.start >= LOWEST && range.end <= HIGHEST);
                prop_assert!(range.start % PAGE == 0 && range.end % PAGE == 0);
            }
            // A page is usable if RAM covers it and nothing else touches it.
            for page in (LOWEST..LOWEST + 120 * PAGE).step_by(PAGE as usize) {
                let page = range(page, page + PAGE);
                let usable = map.ranges().iter().any(|r| r.start <= page.start && page.end <= r.end);
                let touches = |r: &Region| r.size > 0 && r.range().overlaps(&page);
                let forbidden =
                    regions.iter().any(|r| r.kind == Kind::Reserved && touches(r)) || holes.iter().any(touches);
                let covers = |r: &Region| r.range().start <= page.start && page.end <= r.range().end;
                let covered = regions.iter().any(|r| r.kind == Kind::Usable && covers(r));
                prop_assert!(!(usable && forbidden));
                prop_assert!(usable || forbidden || !covered, "page {:#x} lost", page.start);
            }
        }

        #[test]
        fn a_plan_stays_within_memory(
            size in 0u64..4000 * MIB,
            connections in proptest::option::of(64usize..1 << 24),
            buffers in proptest::option::of(64usize..1 << 20),
        ) {
            let map = map_of(size);
            let options = Options { connections, buffers, ..Options::default() };
            match Layout::plan(&map, &options) {
                Ok(plan) => {
                    let all = map.largest();
                    prop_assert!(all.start == plan.heap.start && plan.heap.end == plan.pool.start && plan.pool.end == all.end);
                    let buffers_there = plan.pool.size() / POOL_PER_BUFFER;
                    let heap =
                        HEAP_FLOOR + plan.connections as u64 * HEAP_PER_CONNECTION + buffers_there * HEAP_PER_BUFFER;
                    prop_assert!(plan.heap.size() >= heap, "{:?}", plan);
                    prop_assert!(plan.pool.size() >= buffers.map_or(FEWEST_BUFFERS, |n| n as u64) * POOL_PER_BUFFER);
                    prop_assert!(connections.is_none_or(|n| n == plan.connections));
                    prop_assert!(plan.pool.start % PAGE == 0);
                }
                Err(error) => prop_assert!(error.needed > error.available),
            }
        }
    }
}
