//! The way of frames through the machine: in by the receive queue, through the balancer, out by the transmit queue.

mod backlog;
mod egress;
mod link;
mod waiting;

pub(crate) use backlog::Backlog;
pub(crate) use egress::{BalancerSink, Egress, FragmentIds};
pub(crate) use link::with_link;
pub use link::{AnyLink, Link, LinkError};
pub(crate) use waiting::{Outcome, Waiting};

/// Frames that are worked on together.
pub const BURST: usize = 32;
