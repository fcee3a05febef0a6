//! iperf3 between Linux's TCP and the guest's own server, beside iperf3 between two namespaces of this host over a pair of veth
//! interfaces, and the same guest in QEMU.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use ringlet_driver::features::Features;
use serde_json::Value;

use crate::backend::options::Net;
use crate::backend::tap::Tap;
use crate::backend::{self, OFFLOADS};
use crate::bench::case::Measured;
use crate::bench::guest::{Guest, Plan};
use crate::bench::net::Namespace;
use crate::bench::peers::{Process, Scratch, need, qemu};
use crate::bench::{Args, stop};

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// From Linux to the guest.
    Guest,
    /// From the guest to Linux.
    Linux,
}

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The guest, behind a TAP interface.
    Guest,
    /// The same without any offload.
    Plain,
    /// The guest in QEMU, whose device is at the TAP interface.
    Qemu,
    /// iperf3 in another namespace.
    Linux,
}

/// The interface that the guest is at.
const TAP: &str = "tap0";
const GUEST: &str = "10.0.0.2";
const LOOPBACK: &str = "127.0.0.1";
/// How often a client tries to connect, and how long it waits in between, until there is a server.
const ATTEMPTS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(20);

/// Measures what arrives, in gigabits a second.
///
/// # Errors
/// [`Missing`](crate::bench::case::Missing) without root or iperf3; or if nothing can be measured.
pub fn iperf3(args: &Args, to: To, server: Server) -> anyhow::Result<Measured> {
    let program = need("iperf3")?;
    let client = Namespace::new()?;
    if server == Server::Linux {
        let other = Namespace::new()?;
        client.join("eth0", &other, "eth0")?;
        client.address("eth0", "10.0.0.1/24")?;
        other.address("eth0", format_args!("{GUEST}/24"))?;
        let mut serving = Process::start("iperf3", other.command(&program).arg("-s"))?;
        let rate = run(args, client.command(&program), GUEST, 5201, to)?;
        serving.alive()?;
        return Ok(Measured::one(rate, ""));
    }
    let at_tap = || {
        client.address(TAP, "10.0.0.1/24")?;
        client.ip(&format!("link set {TAP} up"))
    };
    if server == Server::Qemu {
        client.ip(&format!("tuntap add dev {TAP} mode tap vnet_hdr"))?;
        at_tap()?;
        let scratch = Scratch::new()?;
        let netdev = format!("tap,id=net,ifname={TAP},script=no,downscript=no,vhost=off");
        let command_line = format!("ip={GUEST}/24");
        let plan = qemu::Plan { netdev: &netdev, command_line: &command_line, rules: "", namespace: Some(&client) };
        let mut machine = qemu::boot(args, &scratch, &plan)?;
        let rate = run(args, client.command(&program), GUEST, 5201, to);
        machine.alive()?;
        return Ok(Measured::one(rate?, "virtio-net without vhost"));
    }
    client.ip(&format!("tuntap add dev {TAP} mode tap"))?;
    at_tap()?;
    let tap = client.run_with_sys(|| Ok(Tap::open(TAP)?))?;
    let without = if server == Server::Plain { OFFLOADS } else { Features::empty() };
    let guest = Guest::boot(args, tap, Plan { without, words: format!("ip={GUEST}/24"), ..Plan::new(args) })?;
    let rate = run(args, client.command(&program), GUEST, 5201, to);
    let negotiated = guest.device().negotiated();
    guest.end()?;
    Ok(Measured::one(rate?, negotiated.to_string()))
}

/// Measures what arrives through the network inside the process, from a port of this host's loopback interface, in gigabits a
/// second.
///
/// # Errors
/// [`Missing`](crate::bench::case::Missing) without iperf3; or if nothing can be measured.
pub fn in_process(args: &Args, to: To) -> anyhow::Result<Measured> {
    let program = need("iperf3")?;
    let publish = vec![format!("0:{GUEST}:5201").parse()?];
    let network = backend::open(&backend::Options { net: Net::Lan, publish, ..backend::Options::default() })?;
    let lan = network.lan.as_ref().and_then(|lan| lan.published().first().map(|publish| publish.host.port()));
    let port = lan.context("the network lan has published nothing")?;
    let guest = Guest::boot(args, network.backend, Plan::new(args))?;
    let rate = run(args, Command::new(program), LOOPBACK, port, to);
    let negotiated = guest.device().negotiated();
    guest.end()?;
    Ok(Measured::one(rate?, negotiated.to_string()))
}

/// Measures what arrives at iperf3's own server by this host's loopback interface, with nothing in between, in gigabits a second.
///
/// # Errors
/// [`Missing`](crate::bench::case::Missing) without iperf3; or if nothing can be measured.
pub fn loopback(args: &Args) -> anyhow::Result<Measured> {
    let program = need("iperf3")?;
    // A port that is free now: iperf3 does not tell which one it has taken.
    let port = TcpListener::bind((LOOPBACK, 0))?.local_addr()?.port();
    let mut server = Command::new(&program);
    server.args(["-s", "-B", LOOPBACK, "-p", &port.to_string()]);
    let mut serving = Process::start("iperf3", &mut server)?;
    let rate = run(args, Command::new(program), LOOPBACK, port, To::Guest)?;
    serving.alive()?;
    Ok(Measured::one(rate, ""))
}

/// Runs a client. Returns the gigabits a second that arrived.
fn run(args: &Args, command: Command, address: &str, port: u16, to: To) -> anyhow::Result<f64> {
    // Whole seconds are all that iperf3 knows.
    let seconds = args.time().as_secs().max(1);
    let mut words = format!("--json -c {address} -p {port} -t {seconds}");
    if to == To::Linux {
        words += " -R";
    }
    let mut command = command;
    command.args(words.split_whitespace()).stdin(Stdio::null());
    let mut said = String::new();
    for _ in 0..ATTEMPTS {
        stop::check()?;
        let output = command.output().context("cannot run iperf3")?;
        let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 did not write JSON")?;
        match report["error"].as_str() {
            None => {
                let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
                return rate.filter(|rate| *rate > 0.0).map(|rate| rate / 1e9).context("iperf3 measured nothing");
            }
            // Not yet.
            Some(error) if error.contains("unable to connect") => error.clone_into(&mut said),
            Some(error) => bail!("iperf3 {words}: {error}"),
        }
        thread::sleep(PAUSE);
    }
    bail!("iperf3 {words}: {said}")
}
