//! PCI: a host bridge, configuration space, and interrupts as messages (PCI 3.0).
//!
//! There is one bus. A guest reaches its configuration space by ports 0xcf8 and 0xcfc ("CAM"), or by memory accesses
//! ("ECAM"), where the MCFG table says. The monitor gives each memory BAR an address at the start; the guest may move it
//! within [`layout::PCI_WINDOW`](super::layout::PCI_WINDOW).
//!
//! No access of the guest, of any width and at any place, does more than the specification has: what has no meaning reads
//! as ones and is swallowed.

pub mod config;
pub mod host;
pub mod msix;

pub use config::ConfigSpace;
pub use host::{Host, SharedHost};
pub use msix::{Message, Msix, Signals, Wiring};

/// Bytes of the configuration space of a function that ECAM shows.
pub const ECAM_FUNCTION: u64 = 4096;

/// One function on the bus.
///
/// Calls come from the vCPU's thread. `data` comes filled with ones for reads: what is left alone reads so.
pub trait Function: Send {
    /// The guest reads configuration space. `offset` and what is read lie within 4096 bytes and, for accesses of up to 4
    /// bytes, within one aligned double word.
    fn read_config(&mut self, offset: usize, data: &mut [u8]);

    /// The guest writes configuration space, with the limits of [`Function::read_config`].
    fn write_config(&mut self, offset: usize, data: &[u8]);

    /// If the function answers at these physical addresses now: which BAR, and where in it.
    fn decode(&self, address: u64, length: usize) -> Option<(u8, u64)>;

    /// The guest reads in a BAR.
    fn read_bar(&mut self, bar: u8, offset: u64, data: &mut [u8]);

    /// The guest writes in a BAR.
    fn write_bar(&mut self, bar: u8, offset: u64, data: &[u8]);
}
