//! The portable part of the Ringlet unikernel: everything that does not touch the machine, testable on the host.
//!
//! What touches the machine (boot, traps, time, the console, PCI configuration space) lives in the image's own
//! `arch` module and reaches this crate through one small trait, [`platform::Platform`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod cmdline;
pub mod console;
mod dataplane;
pub mod exit_code;
mod kernel;
pub mod list;
pub mod machine;
pub mod memory_map;
pub mod platform;
pub mod record;
mod report;
mod round_trip;
mod run;
pub mod services;
mod spin;
pub mod stack;
pub mod status;
pub use run::run;

#[cfg(test)]
#[allow(dead_code, reason = "each test uses what it needs")]
mod testing;
