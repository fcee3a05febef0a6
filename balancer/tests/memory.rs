//! What the balancer says of its memory: everything is taken at the start, little of it per connection, and none for a
//! packet.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use etherparse::PacketBuilder;
use ringlet_balancer::*;

thread_local! {
    /// Allocations of this thread, and their bytes.
    static TAKEN: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

struct Counting;

// SAFETY: both calls are passed on to the system's allocator as they are; counting allocates nothing itself, for the
// counter is initialized by a constant and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (count, bytes) = TAKEN.get();
        TAKEN.set((count + 1, bytes + layout.size()));
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from `alloc`, and so from `System`, with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Hears nothing.
struct Deaf;

impl Sink for Deaf {
    fn transmit(&mut self, _: &[u8]) {}
    fn resolved(&mut self, _: NextHop) {}
    fn unreachable(&mut self, _: NextHop) {}
}

fn config(connections: u32, connections_v6: u32) -> Config {
    Config {
        addresses: vec!["10.0.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
        gateways: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        connections,
        connections_v6,
        ..Config::new(MAC, [1, 2])
    }
}

/// Bytes a balancer takes.
fn size(connections: u32, connections_v6: u32) -> usize {
    let config = config(connections, connections_v6);
    let (_, before) = TAKEN.get();
    let balancer = Balancer::new(config);
    let (_, after) = TAKEN.get();
    assert_eq!(balancer.capacity(), connections);
    after - before
}

#[test]
fn a_connection_takes_72_bytes_and_48_more_if_it_is_ipv6() {
    let (none, v4, all) = (size(1024, 0), size(65536, 0), size(65536, 65536));
    assert_eq!((v4 - none) as f64 / 64512.0, 72.0);
    assert_eq!((all - v4) / 65536, 48);
}

fn frame(client: u16, v6: bool, tcp: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], MAC);
    let builder = if v6 {
        let client = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, client);
        builder.ipv6(client.octets(), "fd00::100".parse::<Ipv6Addr>().unwrap().octets(), 64)
    } else {
        builder.ipv4([10, 9, (client >> 8) as u8, client as u8], [10, 0, 0, 100], 64)
    };
    let mut frame = Vec::new();
    if tcp {
        builder.tcp(4000, 80, 1, 2).syn().write(&mut frame, b"").unwrap();
    } else {
        builder.udp(4000, 80).write(&mut frame, b"payload").unwrap();
    }
    frame
}

#[test]
fn no_packet_and_no_timer_allocates() {
    let mut balancer = Balancer::new(config(700, 300));
    for (address, server) in [("10.0.0.100", "10.0.0.11"), ("fd00::100", "fd00::b")] {
        let [address, server]: [IpAddr; 2] = [address, server].map(|a| a.parse().unwrap());
        for key in [ServiceKey::tcp(address, 80), ServiceKey::udp(address, 80)] {
            balancer.add_service(key, ServiceConfig::new(key.family(), Scheduler::WeightedLeastConnections)).unwrap();
            let server = DestinationKey { address: server, port: 8080 };
            balancer.add_destination(&key, server, DestinationConfig::new(Forward::Masquerade, 1)).unwrap();
        }
    }
    let frames: Vec<_> = (1..=1000).map(|n| frame(n, n % 2 == 0, n % 3 == 0)).collect();
    let (before, _) = TAKEN.get();
    let mut now = Instant::from_secs(1);
    for round in 0..3 {
        for frame in &frames {
            let mut copy = [0; 128];
            let copy = &mut copy[..frame.len()];
            copy.copy_from_slice(frame);
            balancer.process(&mut [Packet::new(copy)], now, &mut Deaf);
        }
        assert_eq!(balancer.connections(), 700, "round {round}: the table is full");
        now = now + Duration::from_secs(400);
        while balancer.poll(now, &mut Deaf) <= now {}
        assert_eq!(balancer.connections(), 0);
    }
    let (after, _) = TAKEN.get();
    assert_eq!(after - before, 0);
}
