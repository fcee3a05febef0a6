//! The services on the management address: the [status page and metrics](http), and [control](control).

pub mod http;
mod server;

use ringlet_balancer::Balancer;

use crate::status::{Facts, Gauges};

/// What a service sees of the machine.
pub struct View<'a> {
    /// The balancer.
    pub balancer: &'a mut Balancer,
    /// What stays as it is.
    pub facts: &'a Facts,
    /// What is measured; the time of this call is in it.
    pub gauges: &'a Gauges,
}
