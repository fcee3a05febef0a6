//! The portable part of the Ringlet unikernel: everything that does not touch the machine, testable on the host.
#![no_std]

pub mod exit_code;
