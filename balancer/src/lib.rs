//! An IPVS-style L4 load balancer as pure logic: frames and the time in, verdicts out.
#![no_std]
#![forbid(unsafe_code)]
