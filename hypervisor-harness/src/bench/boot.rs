//! From nothing to the first answer: another process of this program, timed from outside.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::http::get;
use super::{Args, Measured};
use crate::run::guest::DEMO_SERVICE;

/// A machine that does not answer by then never will.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often to try to connect before the port is bound. Once it is, the connection itself waits for the guest.
const PAUSE: Duration = Duration::from_micros(200);

/// A process that does not outlive the measurement.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures the time from the start of `ringlet run` to the first HTTP answer through the balancer, in milliseconds.
///
/// # Errors
/// If the process does not start, or ends, or does not answer in time.
pub fn boot(args: &Args) -> anyhow::Result<Measured> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let address = free_port().context("no free port")?;
    let mut command = Command::new(program);
    command.args(["run", "--json", "--status-interval", "60", "--memory", &args.memory.to_string()]);
    command.args(["--transport", &args.transport.to_string()]);
    command.args(["--publish", &format!("{address}:{DEMO_SERVICE}")]);
    if let Some(kernel) = &args.kernel {
        command.arg("--kernel").arg(kernel);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let mut machine = Killed(command.spawn().context("cannot start this program again")?);
    loop {
        match get(address, PATIENCE) {
            Ok(_) => break,
            Err(error) => {
                if let Some(status) = machine.0.try_wait()? {
                    bail!("`ringlet run` has ended: {status}");
                }
                if began.elapsed() > PATIENCE {
                    bail!("no answer from `ringlet run` after {} s: {error}", PATIENCE.as_secs());
                }
                thread::sleep(PAUSE);
            }
        }
    }
    let value = began.elapsed().as_secs_f64() * 1e3;
    Ok(Measured { value, remark: format!("  {} MiB of memory", args.memory) })
}

/// A port of this host that was free a moment ago.
fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
