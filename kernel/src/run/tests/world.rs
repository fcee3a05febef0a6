//! A little network around the machine: a fake device, and stacks like the machine's own as its neighbours.

use std::boxed::Box;
use std::collections::VecDeque;
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use ringlet_driver::fake::{Device, FakeHal, FakeTransport};
use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

use super::super::{AnyLink, Running, with_link};
use crate::cmdline::{self, Cidr};
use crate::console::Console;
use crate::machine::Machine;
use crate::stack::{LinkFacts, Outlet, Stack};
use crate::testing::TestPlatform;

pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 2];
pub const COMMAND_LINE: &str = "ip=10.0.0.2/24 ip=fd00::2/64 gateway=10.0.0.1 gateway=fd00::1 status=1000 idle_spin=50";
pub const RULES: &str = "-A -t 10.0.0.100:80 -s wlc\n-a -t 10.0.0.100:80 -r 10.0.0.11:80 -m -w 1\n\
                         -A -u 10.0.0.100:53 -s rr\n-a -u 10.0.0.100:53 -r 10.0.0.11:53 -m -w 1\n\
                         -A -t [fd00::100]:80 -s rr\n-a -t [fd00::100]:80 -r [fd00::b]:80 -m\n";
/// What a device offers that has everything.
pub const ALL: Features = Features::IMPLEMENTED;

/// A wire that ends in a list.
#[derive(Default)]
pub struct Wire(pub VecDeque<(NetHdr, Vec<u8>)>);

impl Outlet for Wire {
    fn is_ready(&mut self) -> bool {
        self.0.len() < 128
    }

    fn send(&mut self, frame: &[u8], header: NetHdr) {
        self.0.push_back((header, frame.to_vec()));
    }
}

/// A host of the network: like the machine's stack, but on its own.
pub struct Peer {
    pub mac: [u8; 6],
    pub stack: Stack,
    pub out: Wire,
    pub seen: Vec<(NetHdr, Vec<u8>)>,
}

impl Peer {
    pub fn new(last: u8, addresses: &[&str], gateways: [Option<&str>; 2], features: Features) -> Self {
        let mac = [2, 0, 0, 0, 0, last];
        let cidrs: Vec<Cidr> = addresses
            .iter()
            .map(|text| {
                let (address, prefix) = text.split_once('/').unwrap();
                Cidr { address: address.parse().unwrap(), prefix: prefix.parse().unwrap() }
            })
            .collect();
        let [v4, v6] = gateways;
        let facts = LinkFacts::new(features, mac, 1500);
        let (v4, v6) = (v4.map(|a| a.parse().unwrap()), v6.map(|a| a.parse().unwrap()));
        Self { mac, stack: Stack::new(facts, &cidrs, v4, v6, last.into(), 0), out: Wire::default(), seen: vec![] }
    }

    /// The gateway of the network, behind which the client 10.9.0.5 and fd09::5 is.
    pub fn gateway(features: Features) -> Self {
        Self::new(1, &["10.0.0.1/24", "10.9.0.5/32", "fd00::1/64", "fd09::5/128"], [None, None], features)
    }

    /// The server alpha.
    pub fn server(features: Features) -> Self {
        Self::new(11, &["10.0.0.11/24", "fd00::b/64"], [Some("10.0.0.2"), Some("fd00::2")], features)
    }

    pub fn socket(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 1 << 18]);
        self.stack.sockets().add(tcp::Socket::new(buffer(), buffer()))
    }

    pub fn listen(&mut self, port: u16) -> SocketHandle {
        let handle = self.socket();
        self.tcp(handle).listen(port).unwrap();
        handle
    }

    pub fn connect(&mut self, from: (&str, u16), to: (&str, u16)) -> SocketHandle {
        let handle = self.socket();
        let ip = |text: &str| text.parse::<core::net::IpAddr>().unwrap();
        self.stack.connect(handle, (ip(to.0), to.1).into(), (ip(from.0), from.1).into());
        handle
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.stack.sockets().get_mut(handle)
    }

    pub fn send(&mut self, handle: SocketHandle, bytes: &[u8]) {
        assert_eq!(self.tcp(handle).send_slice(bytes).unwrap(), bytes.len());
    }

    pub fn receive(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut bytes = vec![];
        let socket = self.tcp(handle);
        while socket.can_recv() {
            socket
                .recv(|piece| {
                    bytes.extend_from_slice(piece);
                    (piece.len(), ())
                })
                .unwrap();
        }
        bytes
    }
}

/// The machine and its network.
pub struct World {
    pub device: Device,
    pub platform: Box<TestPlatform>,
    pub running: Running<FakeHal, FakeTransport>,
    pub peers: Vec<Peer>,
    /// Every frame the device was given.
    pub injected: Vec<Vec<u8>>,
    /// The exit code, once the machine has ended.
    pub ended: Option<u8>,
}

/// What a machine is made of for a test.
pub fn machine<'a>(device: &Device, command_line: &str, rules: &'a str) -> Machine<'a, FakeTransport> {
    let options = cmdline::parse(command_line.as_bytes(), &mut |diagnostic| panic!("{diagnostic}"));
    Machine {
        transport: device.transport(),
        pool: vec![0; options.buffers.unwrap_or(2048) * 2304].leak(),
        options,
        connections: 1024,
        memory: 64 << 20,
        rules: Some(rules.as_bytes()),
        build_id: "ab12",
    }
}

impl World {
    pub fn new(offered: Features, options: &str, rules: &str) -> Self {
        let device = Device::new(offered, MAC, 1500);
        Self::with(device, &format!("{COMMAND_LINE} {options}"), rules).unwrap_or_else(|(code, said)| {
            panic!("exit code {code:#x}: {said}");
        })
    }

    pub fn with(device: Device, command_line: &str, rules: &str) -> Result<Self, (u8, String)> {
        let platform = Box::new(TestPlatform::new());
        let console = Console::new(&*platform, true);
        let running = Running::boot(machine(&device, command_line, rules), &*platform, &console);
        let running = running.map_err(|code| (code, platform.console()))?;
        Ok(Self { device, platform, running, peers: vec![], injected: vec![], ended: None })
    }

    /// Sends a frame as the stack does.
    pub fn send(&mut self, frame: &[u8], header: NetHdr) {
        with_link!(self.running.link.as_mut().unwrap(), link => self.running.kernel.send(link, frame, header));
    }

    /// Stops the device and sees that every buffer is there.
    pub fn assert_nothing_is_lost(mut self) {
        let gauges = self.running.kernel.gauges(&*self.platform, 0);
        assert_eq!((gauges.waiting, gauges.backlog), (0, 0));
        self.running.link.take().unwrap().close().unwrap();
        assert_eq!(self.running.pool.available(), self.running.pool.capacity());
    }

    /// What the loop has counted.
    pub fn counters(&self) -> crate::status::Counters {
        self.running.kernel.gauges(&*self.platform, 0).counters
    }

    /// Frames that wait for room.
    pub fn backlog(&self) -> u64 {
        self.running.kernel.gauges(&*self.platform, 0).backlog
    }

    /// One turn of the machine; nothing else happens.
    pub fn turn(&mut self) {
        let console = Console::new(&*self.platform, true);
        self.ended = self.running.turn(&*self.platform, &console).err();
    }

    /// Lets everybody work for a while, in steps of 100 us.
    pub fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
        }
    }

    pub fn step(&mut self) {
        self.platform.advance(100_000);
        for _ in 0..2 {
            if self.ended.is_none() {
                let console = Console::new(&*self.platform, true);
                self.ended = self.running.turn(&*self.platform, &console).err();
            }
        }
        self.deliver();
    }

    /// Carries frames between the device and the peers.
    fn deliver(&mut self) {
        let now = crate::platform::Platform::now_ns(&*self.platform);
        let mut on_wire: Vec<(NetHdr, Vec<u8>)> = self.device.take_sent();
        for peer in &mut self.peers {
            peer.stack.poll(now, &mut peer.out);
        }
        loop {
            for peer in &mut self.peers {
                on_wire.extend(peer.out.0.drain(..));
            }
            if on_wire.is_empty() {
                return;
            }
            for (header, frame) in on_wire.split_off(0) {
                let to_all = frame[0] & 1 != 0;
                for peer in &mut self.peers {
                    if (to_all || frame[..6] == peer.mac) && frame[6..12] != peer.mac {
                        peer.stack.receive(&frame, &header, now, &mut peer.out);
                        peer.seen.push((header, frame.clone()));
                    }
                }
                if (to_all || frame[..6] == MAC) && frame[6..12] != MAC {
                    self.device.inject(header, &frame);
                    self.injected.push(frame);
                }
            }
        }
    }

    /// Asks the machine over HTTP, from behind the gateway (the first peer), and gives everything it answers.
    pub fn http(&mut self, request: &str) -> String {
        self.http_at(("10.0.0.2", 9100), request)
    }

    /// The same at another address and port.
    pub fn http_at(&mut self, (to, at): (&str, u16), request: &str) -> String {
        let port = 40000 + (self.platform.idles() as u16 ^ request.len() as u16) % 10000;
        let socket = self.peers[0].connect(("10.9.0.5", port), (to, at));
        self.run(60);
        self.peers[0].send(socket, request.as_bytes());
        let mut answer = vec![];
        for _ in 0..400 {
            self.run(5);
            answer.extend(self.peers[0].receive(socket));
            if !self.peers[0].tcp(socket).may_recv() {
                break;
            }
        }
        self.peers[0].tcp(socket).abort();
        self.run(5);
        self.peers[0].stack.sockets().remove(socket);
        String::from_utf8(answer).unwrap()
    }
}
