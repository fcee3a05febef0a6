//! The virtual machine monitor: guest memory, the image and how it is started, the vCPU, the port and MMIO devices.
//!
//! The guest is not trusted. Whatever it writes, wherever it reaches, the monitor neither panics nor hangs: a port or an
//! address with nothing behind it reads as ones, and a fault ends the machine with a report.

pub mod acpi;
pub mod boot;
pub mod bus;
pub mod console;
pub mod cpuid;
pub mod elf;
pub mod host;
pub mod layout;
pub mod machine;
pub mod memory;
pub mod pci;
pub mod ports;
pub mod profile;
pub mod report;
pub mod symbols;
pub mod vcpu;
pub mod wiring;

pub use bus::MmioDevice;
pub use machine::{Error, Machine, Running};
pub use memory::GuestRam;
pub use vcpu::Outcome;
