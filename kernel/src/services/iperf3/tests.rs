//! The server on a stack of its own, and clients on another, over a wire made of a list. That real clients are content is
//! for the harness's tests to show; these are about clients that no iperf3 is.

use super::*;
use crate::cmdline::Cidr;
use crate::stack::{LinkFacts, Outlet, Stack};
use crate::status::{Facts, Gauges};
use core::net::IpAddr;
use proptest::prelude::*;
use ringlet_balancer::{Balancer, Config};
use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;
use std::collections::VecDeque;
use std::format;
use std::vec;

const COOKIE: &[u8; 37] = b"abcdefghijklmnopqrstuvwxyz0123456789\0";
const MIB: u64 = 1 << 20;
const SECOND: u64 = 1_000_000_000;

#[derive(Default)]
struct Wire(VecDeque<(Vec<u8>, NetHdr)>);

impl Outlet for Wire {
    fn is_ready(&mut self) -> bool {
        self.0.len() < 64
    }

    fn send(&mut self, frame: &[u8], header: NetHdr) {
        self.0.push_back((frame.to_vec(), header));
    }
}

/// A server, and a host for clients.
struct World {
    server: Stack,
    service: Iperf3,
    balancer: Balancer,
    facts: Facts,
    host: Stack,
    clients: Vec<SocketHandle>,
    now: u64,
    port: u16,
    /// Nothing reaches the clients' host any more.
    silent: bool,
}

impl World {
    fn new(memory: u64) -> Self {
        let stack = |last: u8| {
            let facts = LinkFacts::new(Features::CSUM | Features::HOST_TSO4, [2, 0, 0, 0, 0, last], 1500);
            let cidr = Cidr { address: IpAddr::from([10, 0, 0, last]), prefix: 24 };
            Stack::new(facts, &[cidr], None, None, 7, 0)
        };
        let mut server = stack(2);
        let endpoint: SocketAddr = "10.0.0.2:5201".parse().unwrap();
        let service = Iperf3::new([endpoint].into_iter(), memory, server.sockets());
        let mac = [2, 0, 0, 0, 0, 2];
        let facts = Facts {
            build_id: Default::default(),
            transport: "mmio",
            mac,
            mtu: 1500,
            offered: Features::empty(),
            features: Features::empty(),
            queue_size: 256,
            memory: 0,
            addresses: vec![],
        };
        let balancer = Balancer::new(Config { connections: 64, ..Config::new(mac, [1, 2]) });
        Self { server, service, balancer, facts, host: stack(1), clients: vec![], now: 0, port: 40_000, silent: false }
    }

    /// Lets time pass, in steps of a millisecond.
    fn run(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds {
            self.step(1_000_000);
        }
    }

    fn step(&mut self, nanoseconds: u64) {
        self.now += nanoseconds;
        let (mut to_server, mut to_host) = (Wire::default(), Wire::default());
        self.host.poll(self.now, &mut to_server);
        // As the kernel does: a few turns for what the other has made.
        for _ in 0..4 {
            while let Some((frame, header)) = to_server.0.pop_front() {
                self.server.receive(&frame, &header, self.now, &mut to_host);
            }
            let gauges = Gauges { now_ns: self.now, ..Gauges::default() };
            let mut view = View { balancer: &mut self.balancer, facts: &self.facts, gauges: &gauges };
            self.service.poll(self.server.sockets(), &mut view);
            self.server.poll(self.now, &mut to_host);
            if self.silent {
                to_host.0.clear();
            }
            while let Some((frame, header)) = to_host.0.pop_front() {
                self.host.receive(&frame, &header, self.now, &mut to_server);
            }
            self.host.poll(self.now, &mut to_server);
        }
    }

    /// Connects, and waits until that is done.
    fn connect(&mut self) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 64 << 10]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_ack_delay(None);
        let handle = self.host.sockets().add(socket);
        self.port += 1;
        self.host.connect(handle, "10.0.0.2:5201".parse().unwrap(), format!("10.0.0.1:{}", self.port).parse().unwrap());
        self.clients.push(handle);
        self.run(5);
        handle
    }

    fn say(&mut self, handle: SocketHandle, bytes: &[u8]) {
        let _ = self.host.sockets().get_mut::<Socket<'_>>(handle).send_slice(bytes);
        self.run(5);
    }

    fn parameters(&mut self, handle: SocketHandle, json: &str) {
        self.say(handle, &[&(json.len() as u32).to_be_bytes()[..], json.as_bytes()].concat());
    }

    /// All that has come.
    fn hear(&mut self, handle: SocketHandle) -> Vec<u8> {
        let socket = self.host.sockets().get_mut::<Socket<'_>>(handle);
        let mut bytes = vec![0; socket.recv_queue()];
        if !bytes.is_empty() {
            socket.recv_slice(&mut bytes).unwrap();
        }
        bytes
    }

    /// A client that runs a test; its control connection and its stream.
    fn running(&mut self, json: &str) -> (SocketHandle, SocketHandle) {
        let control = self.connect();
        self.say(control, COOKIE);
        self.parameters(control, json);
        assert_eq!(self.hear(control), [9, 10]);
        let stream = self.connect();
        self.say(stream, COOKIE);
        assert_eq!(self.hear(control), [1, 2]);
        (control, stream)
    }

    /// The network loses the client.
    fn vanish(&mut self) {
        for handle in self.clients.drain(..) {
            self.host.sockets().remove(handle);
        }
        // Nor does anybody answer for it.
        self.silent = true;
    }

    fn sockets(&mut self) -> usize {
        self.server.sockets().iter().count()
    }

    /// Nothing is left of any test, and the next one is served.
    fn assert_as_new(&mut self) {
        // Clients of this kind do not end their connections.
        (0..60).for_each(|_| self.step(SECOND / 10));
        assert!(self.service.session.is_none() && self.service.dying.is_empty());
        assert_eq!(self.sockets(), DOORS);
        self.silent = false;
        let before = self.service.counters().completed;
        let (control, _) = self.running(r#"{"tcp":true,"time":1}"#);
        self.say(control, &[4]);
        assert_eq!(self.hear(control), [13]);
        self.parameters(control, "{}");
        assert_eq!(self.hear(control).last(), Some(&14));
        self.say(control, &[16]);
        assert_eq!(self.service.counters().completed, before + 1);
    }
}

#[test]
fn others_are_denied_and_strangers_get_no_stream() {
    let mut world = World::new(4 * MIB);
    let control = world.connect();
    world.say(control, COOKIE);
    // A second client, before streams are expected.
    let second = world.connect();
    assert_eq!(world.hear(second), [0xff]);
    world.parameters(control, r#"{"tcp":true,"time":1,"parallel":2}"#);
    assert_eq!(world.hear(control), [9, 10]);
    // Another one takes a stream's place for a while.
    let stranger = world.connect();
    world.say(stranger, &[b'x'; 37]);
    assert_eq!(world.hear(stranger), [0xff]);
    for _ in 0..2 {
        assert!(world.hear(control).is_empty());
        let stream = world.connect();
        world.say(stream, COOKIE);
    }
    assert_eq!(world.hear(control), [1, 2]);
    // Those who do not go are shown out, so that the next is heard.
    world.run(1500);
    let third = world.connect();
    assert_eq!(world.hear(third), [0xff]);
    assert_eq!(world.service.counters().denied, 3);
    world.say(control, &[12]);
    world.run(20);
    assert_eq!(world.service.counters().failed, 1);
    world.assert_as_new();
}

#[test]
fn bytes_are_counted_and_told() {
    let mut world = World::new(4 * MIB);
    let (control, stream) = world.running(r#"{"tcp":true,"time":1}"#);
    for _ in 0..10 {
        world.say(stream, &[7; 10_000]);
    }
    world.say(control, &[4]);
    world.parameters(control, r#"{"streams":[]}"#);
    let heard = world.hear(control);
    assert_eq!((heard[0], heard[heard.len() - 1]), (13, 14));
    let json: serde_json::Value = serde_json::from_slice(&heard[5..heard.len() - 1]).unwrap();
    assert_eq!((&json["streams"][0]["bytes"], &json["streams"][0]["id"]), (&100_000.into(), &1.into()));
    assert_eq!(world.service.counters().received, 100_000);
    world.say(control, &[16]);
    world.run(20);
    world.assert_as_new();
}

#[test]
fn what_it_sends_is_what_was_asked_for() {
    let mut world = World::new(4 * MIB);
    let (control, stream) =
        world.running(r#"{"tcp":true,"time":1,"reverse":true,"repeating_payload":1,"bandwidth":8e6}"#);
    let mut all = Vec::new();
    for nth in 0..100 {
        world.run(7 + nth % 7);
        all.extend(world.hear(stream));
    }
    // A megabyte a second, for a second.
    assert!((900_000..1_100_000).contains(&all.len()), "{}", all.len());
    assert!(all.iter().enumerate().all(|(nth, byte)| *byte == b'0' + (nth % 10) as u8));
    world.say(control, &[4]);
    assert_eq!(world.hear(control), [13]);
    world.parameters(control, "{}");
    world.say(control, &[16]);
    world.run(20);
    world.assert_as_new();
}

#[test]
fn a_client_that_vanishes_is_noticed_at_every_step() {
    for step in 0..4 {
        let mut world = World::new(4 * MIB);
        let control = world.connect();
        if step > 0 {
            world.say(control, COOKIE);
        }
        if step > 1 {
            world.parameters(control, r#"{"tcp":true,"reverse":true}"#);
        }
        if step > 2 {
            let stream = world.connect();
            world.say(stream, COOKIE);
        }
        world.vanish();
        (0..600).for_each(|_| world.step(SECOND / 10));
        assert_eq!(world.service.counters().failed, 1, "step {step}");
        world.assert_as_new();
    }
}

#[test]
fn there_is_no_more_memory_than_there_is() {
    // As much as is left of the smallest machine, and nothing.
    for (memory, streams, expected) in [(64 << 10, 8, true), (64 << 10, 64, false), (0, 1, false)] {
        let mut world = World::new(memory);
        let control = world.connect();
        world.say(control, COOKIE);
        world.parameters(control, &format!(r#"{{"tcp":true,"parallel":{streams}}}"#));
        let heard = world.hear(control);
        let refused = [9, 0xfe, 0, 0, 0, 200, 0, 0, 0, 12];
        assert_eq!(heard, if expected { vec![9, 10] } else { refused.to_vec() }, "{memory}");
    }
    let mut world = World::new(MIB);
    let control = world.connect();
    world.say(control, COOKIE);
    world.parameters(control, r#"{"tcp":true,"window":1000000}"#);
    assert_eq!(world.hear(control), [9, 0xfe, 0, 0, 0, 141, 0, 0, 0, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_client_breaks_it(
        parameters in prop::sample::select(vec![
            r#"{"tcp":true}"#, r#"{"udp":true}"#, r#"{"tcp":true,"bidirectional":true,"parallel":3}"#,
            r#"{"tcp":true,"reverse":true,"omit":1}"#, "{}",
        ]),
        steps in proptest::collection::vec((0..6u8, proptest::collection::vec(any::<u8>(), 0..60)), 1..25),
    ) {
        let mut world = World::new(2 * MIB);
        let control = world.connect();
        let mut last = control;
        for (what, bytes) in steps {
            match what {
                0 => world.say(control, COOKIE),
                1 => world.parameters(control, parameters),
                2 => last = world.connect(),
                3 => world.say(last, COOKIE),
                4 => world.say(last, &bytes),
                _ => world.say(control, &bytes[..bytes.len().min(1)]),
            }
            prop_assert!(world.sockets() <= DOORS + 2 * (6 + tcp::GUESTS));
        }
        world.vanish();
        (0..400).for_each(|_| world.step(SECOND));
        world.assert_as_new();
    }
}
