//! What IPVS cannot: see docs/beyond.md.

mod announce;
mod cookies;
mod full_nat;
mod limits;

use super::*;

/// Lets the service do something.
pub fn set(world: &mut World, service: &ServiceKey, extras: Extras) {
    world.balancer.set_extras(Some(service), extras).unwrap();
}
