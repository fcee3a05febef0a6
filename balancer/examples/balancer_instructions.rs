//! What `cargo xtask test instructions` counts: bursts of packets through a balancer, under callgrind, which counts in
//! [`measured`] only. `balancer_instructions WORKLOAD PACKETS`, where a workload is one of [`workload`]'s or the name of a scheduler and
//! a number of servers, as in `wlc-100`.

#[path = "../benches/common/mod.rs"]
mod common;

use common::{BURST, Deaf, Kind, NOW, Setup, balancer, burst, frame, play};
use ringlet_balancer::*;

/// Clients that come again and again.
const FLOWS: u32 = 4096;
/// Clients whose old connection is over, and still in the table, when they open the next.
const AGAIN: &str = "again-tcp";

/// What is counted.
#[inline(never)]
fn measured(balancer: &mut Balancer, burst: &mut [Packet<'_>]) {
    balancer.process(burst, NOW, &mut Deaf);
    // Callgrind must see this function end: the call is not to become a jump.
    std::hint::black_box(());
}

/// What is counted, what of the same flows has gone before, if anything, and for how many connections there is room.
fn workload(name: &str) -> (Setup, Kind, Option<Kind>) {
    let by = |forward| Setup { forward, ..Setup::PLAIN };
    match name {
        "nat-udp" => (Setup::PLAIN, Kind::Udp, Some(Kind::Udp)),
        "nat-tcp" => (Setup::PLAIN, Kind::Ack, Some(Kind::Syn)),
        "direct-udp" => (by(Forward::Direct), Kind::Udp, Some(Kind::Udp)),
        "ipip-udp" => (by(Forward::Tunnel), Kind::Udp, Some(Kind::Udp)),
        "new-udp" => (Setup::PLAIN, Kind::Udp, None),
        AGAIN => (Setup::PLAIN, Kind::Syn, Some(Kind::Syn)),
        // One packet a connection: one is scheduled, put in, found a way, and taken out with each.
        name => {
            let (scheduler, servers) = name.rsplit_once('-').expect("a workload");
            let setup = Setup {
                scheduler: Scheduler::from_name(scheduler).expect("a workload, or the name of a scheduler"),
                servers: servers.parse().expect("a number of servers"),
                flags: ServiceFlags::ONE_PACKET,
                ..Setup::PLAIN
            };
            (setup, Kind::Udp, None)
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (name, packets) = match &arguments[..] {
        [_, name, packets] => (name.as_str(), packets.parse::<u32>().expect("a number of packets")),
        _ => panic!("expected a workload and a number of packets"),
    };
    let (setup, kind, before) = workload(name);
    let mut balancer = balancer(&setup);
    if let Some(kind) = before {
        play(&mut balancer, 0..FLOWS, kind);
    }
    let mut transmitted = 0;
    for first in (0..packets).step_by(BURST) {
        let flow = |nth: u32| if before.is_some() { (first + nth) % FLOWS } else { FLOWS + first + nth };
        if name == AGAIN {
            for kind in [Kind::Ack, Kind::Rst] {
                play(&mut balancer, flow(0)..flow(0) + BURST as u32, kind);
            }
        }
        let mut frames: Vec<_> = (0..BURST as u32).map(|nth| frame(flow(nth), kind)).collect();
        transmitted += burst(&mut frames, |packets| measured(&mut balancer, packets)).0;
    }
    assert_eq!(transmitted, packets.next_multiple_of(BURST as u32) as usize, "each packet goes on");
    println!("{transmitted}");
}
