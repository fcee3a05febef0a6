//! vhost-user: virtqueues that another process serves, or that we serve for another process (docs/vhost-user.md).
//!
//! - [`frontend`]: the machine's network device is served by another process: OVS-DPDK, VPP, dpdk-testpmd.
//! - [`backend`]: our network device serves the guest of another process: QEMU, a program on dpdk.

pub mod backend;
mod connect;
pub mod frontend;

use connect::connect;
