//! The machine below the portable part of the unikernel. Only x86_64 has one.

#[cfg(target_arch = "x86_64")]
pub mod x86_64;
