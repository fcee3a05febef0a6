//! From nothing to the first answer: another process, timed from outside.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::http::get;
use crate::bench::case::Measured;
use crate::bench::peers::{Process, Scratch, qemu};
use crate::bench::{Args, stop};
use crate::run::guest::DEMO_SERVICE;

/// A machine that does not answer by then never will.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often to try to connect before the port is bound.
const PAUSE: Duration = Duration::from_micros(200);
/// How long a connection may take at first. Whoever carries it to a guest that is not up yet asks again only after a while,
/// which is not the guest's time: a new connection is tried instead. The longer it takes the longer each try may.
const TRY: Duration = Duration::from_millis(5);
/// The status page of a guest in the demonstration's network.
const STATUS_PAGE: &str = "10.0.0.2:9100";
/// Of a guest in QEMU's user network.
const STATUS_PAGE_IN_QEMU: &str = "10.0.2.15:9100";

/// Measures the time from the start of `ringlet run` to the first HTTP answer of the guest's own, in milliseconds.
///
/// # Errors
/// If the process does not start, or ends, or does not answer in time.
pub fn status_page(args: &Args) -> anyhow::Result<Measured> {
    let address = free_port()?;
    run(args, address, &[format!("{address}:{STATUS_PAGE}"), format!("{}:{DEMO_SERVICE}", free_port()?)])
}

/// Measures the time from the start of `ringlet run` to the first HTTP answer through the balancer, in milliseconds.
///
/// # Errors
/// As [`status_page`].
pub fn balanced(args: &Args) -> anyhow::Result<Measured> {
    let address = free_port()?;
    run(args, address, &[format!("{address}:{DEMO_SERVICE}")])
}

fn run(args: &Args, address: SocketAddr, publish: &[String]) -> anyhow::Result<Measured> {
    let mut command = command(args, publish)?;
    let began = Instant::now();
    let mut process = Process::start("ringlet run", &mut command)?;
    until_it_answers(&mut process, address)?;
    Ok(Measured::one(began.elapsed().as_secs_f64() * 1e3, format!("{} MiB of memory", args.memory)))
}

/// Measures the time from the start of QEMU, with the same image in its machine `microvm`, to the first HTTP answer of the
/// guest's own, in milliseconds.
///
/// # Errors
/// [`Missing`](crate::bench::case::Missing) if QEMU is not installed; else as [`status_page`].
pub fn in_qemu(args: &Args) -> anyhow::Result<Measured> {
    let address = free_port()?;
    let scratch = Scratch::new()?;
    let netdev = format!("user,id=net,hostfwd=tcp:{address}-{STATUS_PAGE_IN_QEMU}");
    let command_line = "ip=10.0.2.15/24 gateway=10.0.2.2";
    let began = Instant::now();
    let plan = qemu::Plan { netdev: &netdev, command_line, rules: "", namespace: None };
    let mut process = qemu::boot(args, &scratch, &plan)?;
    until_it_answers(&mut process, address)?;
    Ok(Measured::one(began.elapsed().as_secs_f64() * 1e3, format!("{} MiB of memory", args.memory)))
}

/// `ringlet run`, with these ports of the host.
///
/// # Errors
/// If this program cannot be found.
pub fn command(args: &Args, publish: &[String]) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command.args(["run", "--json", "--status-interval", "3600", "--memory", &args.memory.to_string()]);
    command.args(["--transport", &args.transport.to_string()]);
    for publish in publish {
        command.args(["--publish", publish]);
    }
    for (flag, cpu) in [("--pin-vcpu", args.pin.vcpu), ("--pin-device", args.pin.device)] {
        if let Some(cpu) = cpu {
            command.args([flag, &cpu.to_string()]);
        }
    }
    if let Some(kernel) = &args.kernel {
        command.arg("--kernel").arg(kernel);
    }
    Ok(command)
}

/// Waits until there is an HTTP answer.
///
/// # Errors
/// If the process ends, or there is none in time.
pub fn until_it_answers(process: &mut Process, address: SocketAddr) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        match get(address, TRY.max(began.elapsed() / 10)) {
            Ok(_) => return Ok(()),
            Err(error) => {
                stop::check()?;
                process.alive()?;
                if began.elapsed() > PATIENCE {
                    bail!("no answer after {} s: {error}", PATIENCE.as_secs());
                }
                thread::sleep(PAUSE);
            }
        }
    }
}

/// A port of this host that was free a moment ago.
///
/// # Errors
/// If there is none.
pub fn free_port() -> anyhow::Result<SocketAddr> {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    address.context("no free port")
}
