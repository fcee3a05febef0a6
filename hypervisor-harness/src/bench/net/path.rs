//! A way from a client to a server: two namespaces, and what is between them.
//!
//! ```text
//!   client 10.2.0.9 -- 10.2.0.1 middle 10.1.0.1 -- server 10.1.0.11      nftables, IPVS, HAProxy, nginx; 10.2.0.100:80
//!   client 10.2.0.9 --- bridge --- server 10.1.0.11                      Ringlet 10.2.0.2, 10.1.0.2, at a tap on the bridge, or by AF_XDP
//!                                                                        at the end of a pair of interfaces whose other is on it
//!   client 10.2.0.9 -------------- 10.2.0.11 server                      directly
//! ```

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::Namespace;
use crate::backend::options::Queue;
use crate::backend::tap::Tap;
use crate::backend::xdp::Xdp;
use crate::bench::Args;
use crate::bench::case::Missing;
use crate::bench::guest::{Guest, Plan};
use crate::bench::peers::{Process, Scratch, haproxy, nftables, nginx};
use crate::bench::stop;

/// The service that clients call, TCP and UDP, where there is somebody between them and the server.
pub const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 2, 0, 100), 80);
/// The server, TCP and UDP.
pub const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 11), 8080);
/// The server's address where it is joined to the client.
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 11);
/// The guest's interface.
const TAP: &str = "tap0";
/// Its end of a pair of interfaces, and the other.
const INNER: &str = "xdp0";
const PORT: &str = "guest";
/// Who does not take connections by then never will.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(5);

/// What is between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Nothing.
    Direct,
    /// The guest, by NAT, at a TAP interface.
    Ringlet,
    /// The same by AF_XDP.
    Xdp,
    /// The kernel, by nftables' destination NAT.
    Nftables,
    /// The kernel, by IPVS's NAT.
    Ipvs,
    /// HAProxy, as a proxy of TCP connections.
    Haproxy,
    /// nginx's module `stream`, as a proxy of TCP connections.
    Nginx,
}

/// A way that is ready. What is between client and server goes with it.
#[derive(Debug)]
pub struct Path {
    /// Where clients live.
    pub client: Namespace,
    /// Where servers live: they listen at [`Path::listen`].
    pub server: Namespace,
    /// What clients call.
    pub service: SocketAddrV4,
    /// Where servers listen.
    pub listen: SocketAddrV4,
    between: Between,
}

/// What is held as long as the way is needed.
#[derive(Debug)]
enum Between {
    Nothing,
    Kernel(#[allow(dead_code, reason = "held")] Namespace),
    Process(Process, #[allow(dead_code, reason = "held")] (Namespace, Scratch)),
    Guest(Box<Guest>, #[allow(dead_code, reason = "held")] Namespace),
}

impl Path {
    /// Makes it.
    ///
    /// # Errors
    /// [`Missing`] without root, or where something is not installed or not in the kernel; or if it cannot be made.
    pub fn open(args: &Args, way: Way) -> anyhow::Result<Self> {
        let (client, server) = (Namespace::new()?, Namespace::new()?);
        let (service, listen, between) = match way {
            Way::Direct => {
                client.join("eth0", &server, "eth0")?;
                client.address("eth0", "10.2.0.9/24")?;
                server.address("eth0", format_args!("{NEIGHBOUR}/24"))?;
                let listen = SocketAddrV4::new(NEIGHBOUR, SERVER.port());
                (listen, listen, Between::Nothing)
            }
            Way::Ringlet | Way::Xdp => (SERVICE, SERVER, ringlet(args, way, &client, &server)?),
            _ => (SERVICE, SERVER, middle(way, &client, &server)?),
        };
        Ok(Self { client, server, service, listen, between })
    }

    /// Waits until the service takes TCP connections. A server must listen.
    ///
    /// # Errors
    /// If it does not.
    pub fn wait(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            stop::check()?;
            if let Between::Process(process, _) = &mut self.between {
                process.alive()?;
            }
            let service = self.service.into();
            let tried = self.client.run(|| Ok(TcpStream::connect_timeout(&service, PATIENCE)))?;
            match tried {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > until => {
                    return Err(error).with_context(|| format!("{service} takes no connections"));
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    /// What there is to say about it.
    #[must_use]
    pub fn remark(&self) -> String {
        match &self.between {
            Between::Guest(guest, _) => guest.device().negotiated().to_string(),
            _ => String::new(),
        }
    }

    /// Ends what is between client and server.
    ///
    /// # Errors
    /// If it has ended already, or the guest's device had anything to complain of.
    pub fn end(self) -> anyhow::Result<()> {
        match self.between {
            Between::Nothing | Between::Kernel(_) => Ok(()),
            Between::Process(mut process, _) => process.alive(),
            Between::Guest(guest, _) => guest.end().map(drop),
        }
    }
}

/// The guest, at a bridge between the two.
fn ringlet(args: &Args, way: Way, client: &Namespace, server: &Namespace) -> anyhow::Result<Between> {
    let switch = Namespace::new()?;
    switch.ip("link add bridge0 type bridge forward_delay 0")?;
    switch.ip("link set bridge0 up")?;
    for (namespace, port, address) in [(client, "client", "10.2.0.9/24"), (server, "server", "10.1.0.11/24")] {
        switch.join(port, namespace, "eth0")?;
        switch.ip(&format!("link set {port} master bridge0"))?;
        namespace.address("eth0", address)?;
    }
    server.ip("route add default via 10.1.0.2")?;
    let rules =
        ["-t", "-u"].map(|flag| format!("-A {flag} {SERVICE} -s rr\n-a {flag} {SERVICE} -r {SERVER} -m -w 1\n"));
    let plan = Plan {
        rules: rules.concat(),
        words: "ip=10.2.0.2/24 ip=10.1.0.2/24 connections=262144".into(),
        // The table's 32 MiB beside the rest.
        memory: args.memory.max(192),
        ..Plan::new(args)
    };
    let guest = if way == Way::Xdp {
        switch.join(PORT, &switch, INNER)?;
        // What goes to the guest must be whole: it has no other checksums than those in the frames.
        switch.tool("ethtool", &format!("-K {PORT} tx off"), "")?;
        switch.ip(&format!("link set {PORT} master bridge0"))?;
        let queue = Queue { name: INNER.to_owned(), queue: None };
        let xdp = switch.run(|| Ok(Xdp::open(&queue)?))?;
        Guest::boot(args, xdp, plan)?
    } else {
        switch.ip(&format!("tuntap add dev {TAP} mode tap"))?;
        switch.ip(&format!("link set {TAP} master bridge0 up"))?;
        let tap = switch.run_with_sys(|| Ok(Tap::open(TAP)?))?;
        Guest::boot(args, tap, plan)?
    };
    Ok(Between::Guest(Box::new(guest), switch))
}

/// A namespace between the two, which routes.
fn middle(way: Way, client: &Namespace, server: &Namespace) -> anyhow::Result<Between> {
    let middle = router(client, server)?;
    let scratch = Scratch::new()?;
    match way {
        Way::Nftables => nftables::balance(&middle, &SERVICE, &[SERVER])?,
        Way::Ipvs => ipvs(&middle, &SERVICE, &[SERVER])?,
        Way::Haproxy => {
            let process = haproxy::start(&middle, &scratch, &SERVICE, &SERVER)?;
            return Ok(Between::Process(process, (middle, scratch)));
        }
        Way::Nginx => {
            let process = nginx::start(&middle, &scratch, &SERVICE, &SERVER)?;
            return Ok(Between::Process(process, (middle, scratch)));
        }
        Way::Direct | Way::Ringlet | Way::Xdp => bail!("nothing is in the middle"),
    }
    Ok(Between::Kernel(middle))
}

/// A router between the two, which has the service's address: its interfaces are `client` and `server`.
///
/// # Errors
/// If it cannot be made.
pub fn router(client: &Namespace, server: &Namespace) -> anyhow::Result<Namespace> {
    let middle = Namespace::new()?;
    middle.join("client", client, "eth0")?;
    middle.join("server", server, "eth0")?;
    middle.address("client", "10.2.0.1/24")?;
    middle.address("client", format_args!("{}/32", SERVICE.ip()))?;
    middle.address("server", "10.1.0.1/24")?;
    client.address("eth0", "10.2.0.9/24")?;
    server.address("eth0", format_args!("{}/24", SERVER.ip()))?;
    server.ip("route add default via 10.1.0.1")?;
    Ok(middle)
}

/// Has the kernel balance by IPVS.
///
/// # Errors
/// [`Missing`] if the kernel has no IPVS, or ipvsadm is not installed.
pub fn ipvs(namespace: &Namespace, service: &SocketAddrV4, servers: &[SocketAddrV4]) -> anyhow::Result<()> {
    let there = namespace.run(|| Ok(std::fs::exists("/proc/thread-self/net/ip_vs")?))?;
    if !there {
        return Err(
            Missing("this kernel has no IPVS, or has not loaded it (modprobe ip_vs; CONFIG_IP_VS)".into()).into()
        );
    }
    let mut rules = String::new();
    for flag in ["-t", "-u"] {
        rules += &format!("-A {flag} {service} -s rr\n");
        servers.iter().for_each(|server| rules += &format!("-a {flag} {service} -r {server} -m -w 1\n"));
    }
    namespace.tool("ipvsadm", "-R", &rules).map(drop)
}
