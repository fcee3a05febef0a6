//! What holds whatever happens: every counter equals a recount, no connection outlives its timer, replies find their
//! connection and come back as if nothing had been rewritten, and no checksum is ever wrong.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    /// A client sends to a service.
    Request {
        client: u8,
        v6: bool,
        flags: Option<u8>,
    },
    /// Whoever serves that client answers.
    Reply {
        client: u8,
        v6: bool,
        flags: Option<u8>,
    },
    Pass(u64),
    Add {
        service: usize,
        server: u8,
        direct: bool,
        upper: u32,
    },
    Remove {
        service: usize,
        server: u8,
    },
    Weight {
        service: usize,
        server: u8,
        weight: i32,
    },
    Reset {
        service: usize,
        scheduler: usize,
    },
    Reschedule {
        service: usize,
        scheduler: usize,
        persistent: bool,
    },
    Knob {
        which: usize,
        value: i32,
    },
}

const SCHEDULERS: usize = Scheduler::ALL.len();

fn flags() -> impl Strategy<Value = Option<u8>> {
    proptest::option::of(prop_oneof![Just(SYN), Just(SYN_ACK), Just(ACK), Just(FIN), Just(RST)].prop_map(|f| f.bits()))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u8..40, any::<bool>(), flags()).prop_map(|(client, v6, flags)| Step::Request { client, v6, flags }),
        4 => (0u8..40, any::<bool>(), flags()).prop_map(|(client, v6, flags)| Step::Reply { client, v6, flags }),
        1 => prop_oneof![0u64..20_000, 0u64..400_000].prop_map(Step::Pass),
        2 => (0usize..4, 0u8..4, any::<bool>(), prop_oneof![Just(0), 1u32..9])
            .prop_map(|(service, server, direct, upper)| Step::Add { service, server, direct, upper }),
        1 => (0usize..4, 0u8..4).prop_map(|(service, server)| Step::Remove { service, server }),
        1 => (0usize..4, 0u8..4, 0..3).prop_map(|(service, server, weight)| Step::Weight { service, server, weight }),
        1 => (0usize..4, 0..SCHEDULERS).prop_map(|(service, scheduler)| Step::Reset { service, scheduler }),
        1 => (0usize..4, 0..SCHEDULERS, any::<bool>())
            .prop_map(|(service, scheduler, persistent)| Step::Reschedule { service, scheduler, persistent }),
        1 => (0..crate::Sysctls::NAMES.len(), 0..4).prop_map(|(which, value)| Step::Knob { which, value }),
    ]
}

fn server_key(service: usize, server: u8) -> DestinationKey {
    let address = if service < 2 { [10, 0, 0, 20 + server].into() } else { ip(&std::format!("fd00::2{server}")) };
    DestinationKey { address, port: 8080 }
}

/// Counts every connection again and compares.
fn recount(world: &World) {
    let mut expected: BTreeMap<(Protocol, IpAddr, IpAddr), (u32, u32, u32)> = BTreeMap::new();
    let list: Vec<_> = world.balancer.connection_list(world.now).collect();
    for c in &list {
        let count = expected.entry((c.protocol, c.virtual_address, c.destination)).or_default();
        if c.template {
            count.2 += 1;
        } else if c.state.is_active() {
            count.0 += 1;
        } else {
            count.1 += 1;
        }
    }
    assert_eq!(list.len(), world.balancer.connections() as usize);
    let active: u32 = expected.values().map(|c| c.0).sum();
    assert_eq!(active, world.balancer.active_connections(), "removed destinations count as well");
    for service in services() {
        let ServiceKey::Address { protocol, address, .. } = service else { panic!() };
        let Ok(destinations) = world.balancer.destinations(&service) else { continue };
        for d in destinations {
            let count = expected.get(&(protocol, address, d.key.address)).copied().unwrap_or_default();
            assert_eq!((d.active, d.inactive, d.persistent), count, "{:?}", d.key);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_books_are_right(steps in proptest::collection::vec(step(), 1..400)) {
        let mut world = World::with(|config| {
            config.connections = 60;
            config.connections_v6 = 25;
        });
        let mut forwarded = 0u64;
        // Where the requests of a client went.
        let mut served: BTreeMap<(u8, bool, bool), End> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Request { client, v6, flags } => {
                    let from = (ip(&std::format!("{}{client}", if v6 { "fd09::" } else { "10.9.0." })), 4000);
                    let to = end(if v6 { VIRTUAL_V6 } else { VIRTUAL }, 80);
                    let flags = flags.map(TcpFlags::from_bits_retain);
                    let request = Segment { from, to, flags };
                    if let Ok(sent) = world.send(request) {
                        forwarded += 1;
                        prop_assert_eq!((sent.from, sent.flags), (from, flags));
                        if sent.to == to {
                            served.remove(&(client, v6, flags.is_some()));
                        } else {
                            served.insert((client, v6, flags.is_some()), sent.to);
                        }
                    }
                }
                Step::Reply { client, v6, flags } => {
                    let Some(&from) = served.get(&(client, v6, flags.is_some())) else { continue };
                    let to = (ip(&std::format!("{}{client}", if v6 { "fd09::" } else { "10.9.0." })), 4000);
                    let flags = flags.map(TcpFlags::from_bits_retain);
                    let alive = world
                        .balancer
                        .connection_list(world.now)
                        .any(|c| !c.template && (c.destination, c.client) == (from.0, to.0) && (c.protocol == Protocol::Tcp) == flags.is_some());
                    match world.send(Segment { from, to, flags }) {
                        Ok(sent) => {
                            forwarded += 1;
                            let service = end(if v6 { VIRTUAL_V6 } else { VIRTUAL }, 80);
                            prop_assert_eq!(sent, Segment { from: service, to, flags });
                        }
                        Err(verdict) => {
                            prop_assert!(!alive, "{:?}: a reply always finds its connection", verdict);
                            prop_assert_eq!(verdict, Verdict::Drop(Reason::NotOurs));
                        }
                    }
                }
                Step::Pass(milliseconds) => world.pass(Duration::from_millis(milliseconds)),
                Step::Add { service, server, direct, upper } => {
                    let forward = if direct { Forward::Direct } else { Forward::Masquerade };
                    let config = DestinationConfig { upper_threshold: upper, ..DestinationConfig::new(forward, 1) };
                    let _ = world.balancer.add_destination(&services()[service], server_key(service, server), config);
                }
                Step::Remove { service, server } => {
                    let _ = world.balancer.delete_destination(&services()[service], &server_key(service, server));
                }
                Step::Weight { service, server, weight } => {
                    let config = DestinationConfig::new(Forward::Masquerade, weight);
                    let key = server_key(service, server);
                    let _ = world.balancer.edit_destination(&services()[service], &key, config);
                }
                Step::Reset { service, scheduler } => {
                    let key = services()[service];
                    world.balancer.delete_service(&key).unwrap();
                    let config = ServiceConfig::new(key.family(), Scheduler::ALL[scheduler]);
                    world.balancer.add_service(key, config).unwrap();
                }
                Step::Knob { which, value } => {
                    // Some have to go together with others.
                    let name = crate::Sysctls::NAMES[which];
                    let set = world.balancer.set_sysctl(name, value);
                    prop_assert!(set.is_ok() || name.starts_with("sync_") && set == Err(Errno::Invalid));
                }
                Step::Reschedule { service, scheduler, persistent } => {
                    let key = services()[service];
                    let mut config = ServiceConfig::new(key.family(), Scheduler::ALL[scheduler]);
                    if persistent {
                        (config.flags, config.timeout) = (ServiceFlags::PERSISTENT, 100);
                    }
                    world.balancer.edit_service(&key, config).unwrap();
                }
            }
            recount(&world);
        }
        let c = world.balancer.counters();
        prop_assert_eq!(c.forwarded + c.waiting, forwarded);
        // However it went, in the end all are gone and nothing is left of them.
        // Templates have a minute more than the last connection.
        world.seconds(1000);
        recount(&world);
        prop_assert_eq!(world.balancer.connections(), 0);
    }
}
