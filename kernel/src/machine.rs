//! What the image hands over: the machine it found itself on.

use crate::cmdline::Options;

/// Everything the portable kernel is given at start, besides the [`Platform`](crate::platform::Platform).
///
/// How the image gets there:
/// 1. [`cmdline::parse`](crate::cmdline::parse) the command line (needs no heap; what it reports is kept or printed
///    at once);
/// 2. [`MemoryMap::new`](crate::memory_map::MemoryMap::new) from the start information, the image, the modules and the
///    start information itself taken out as holes;
/// 3. [`Layout::plan`](crate::memory_map::Layout::plan): initialise the global allocator with its `heap`, make a slice of
///    its `pool`; when it refuses, print why and exit with
///    [`BAD_CONFIGURATION`](crate::exit_code::BAD_CONFIGURATION);
/// 4. find the network device (`virtio_mmio.device=`, then PCI), build its transport.
#[derive(Debug)]
pub struct Machine<'a, T> {
    /// The transport of the network device, with its interrupts routed so that they end
    /// [`idle`](crate::platform::Platform::idle).
    pub transport: T,
    /// Memory for packet buffers: [`Layout::pool`](crate::memory_map::Layout), identity-mapped.
    pub pool: &'static mut [u8],
    /// What the command line asks for.
    pub options: Options,
    /// Entries of the connection table: [`Layout::connections`](crate::memory_map::Layout).
    pub connections: usize,
    /// RAM in all, in bytes.
    pub memory: u64,
    /// The rule file (the first module), if there is one.
    pub rules: Option<&'a [u8]>,
    /// The image's build id, in hexadecimal.
    pub build_id: &'a str,
}
