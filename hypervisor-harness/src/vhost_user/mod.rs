//! vhost-user: virtqueues that another process serves, or that we serve for another process.
//!
//! - [`frontend`]: the machine's network device is served by another process: OVS-DPDK, VPP, dpdk-testpmd.

pub mod frontend;
