//! What IPVS cannot: see docs/beyond.md.

mod full_nat;

use super::*;

/// Lets the service do something.
pub fn set(world: &mut World, service: &ServiceKey, extras: Extras) {
    world.balancer.set_extras(service, extras).unwrap();
}
