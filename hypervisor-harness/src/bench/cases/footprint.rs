//! What it takes: the image's size, and the memory of the host's process.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::forward::{rules, with_room};
use crate::backend::generator::{Generator, Load};
use crate::bench::case::Measured;
use crate::bench::guest::{Guest, Plan};
use crate::bench::peers::process::leash;
use crate::bench::{Args, stop};
use crate::image;
use crate::run::events::Event;
use crate::vmm::console::{Record, Said};

/// Numbers of connections for which memory is measured.
pub const CONNECTIONS: [u32; 4] = [0, 10_000, 1_000_000, 10_000_000];
/// MiB of memory of a guest with the most of them.
const LARGE: u32 = 2048;
/// A guest that does not have its connections by then will not.
const PATIENCE: Duration = Duration::from_secs(240);
/// How often the guest says how many connections it has.
const STATUS_MS: u32 = 50;

/// The image's size, in KiB.
///
/// # Errors
/// If it cannot be read.
pub fn image_size(args: &Args) -> anyhow::Result<Measured> {
    let image = image::load(args.kernel.as_deref())?;
    Ok(Measured::one(image.len() as f64 / 1024.0, format!("{} bytes, an ELF file", image.len())))
}

/// The memory of a process with a guest in it, in MiB, for each number of connections; measured in processes of their own.
///
/// # Errors
/// If one of them fails.
pub fn memory(args: &Args) -> anyhow::Result<Measured> {
    let mut bytes = Vec::new();
    for flows in CONNECTIONS {
        stop::check()?;
        bytes.push(of_another_process(args, flows)?);
    }
    let each = |nth: usize| (bytes[nth] as f64 - bytes[0] as f64) / f64::from(CONNECTIONS[nth]);
    let remark =
        format!("{:.0} and {:.0} bytes a connection at 1M and 10M; the guest of 10M has {LARGE} MiB", each(2), each(3));
    Ok(Measured { values: bytes.iter().map(|bytes| *bytes as f64 / f64::from(1 << 20)).collect(), remark })
}

fn of_another_process(args: &Args, flows: u32) -> anyhow::Result<u64> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command.args(["bench", "--footprint", &flows.to_string(), "--memory", &args.memory.to_string()]);
    command.args(["--transport", &args.transport.to_string()]);
    if let Some(kernel) = &args.kernel {
        command.arg("--kernel").arg(kernel);
    }
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let output = leash(&mut command).output().context("cannot start this program again")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("the process with {flows} connections: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    said.trim().parse().with_context(|| format!("the process with {flows} connections says: {said}"))
}

/// Boots a guest, gives it frames until its table has so many connections, and tells the bytes of memory that this process has
/// then. Tables, of the guest and of the host, have grown by then to what so many connections need.
///
/// # Errors
/// If the guest does not boot, or does not come to have the connections.
pub fn of_this_process(args: &Args, flows: u32) -> anyhow::Result<u64> {
    let load = Load { flows: flows.max(1), ..Load::default() };
    let mut plan = Plan { rules: rules(&load), status_ms: STATUS_MS, ..with_room(args, flows) };
    if flows >= CONNECTIONS[3] {
        // No more room than is needed, in as much memory as is promised.
        plan = Plan { words: format!("{} connections={flows}", Plan::new(args).words), memory: LARGE, ..plan };
    }
    let (generator, meter) = Generator::new(load)?;
    let guest = Guest::boot(args, generator, plan)?;
    if flows > 0 {
        meter.start();
        has_connections(&guest, flows).with_context(|| format!("the guest's work: {:?}", meter.tally()))?;
        meter.stop();
    }
    let bytes = resident("self")?;
    guest.end()?;
    Ok(bytes)
}

/// Waits until the guest says that its table has so many connections.
fn has_connections(guest: &Guest, connections: u32) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut last = 0;
    while last < u64::from(connections) {
        stop::check()?;
        match guest.next(until) {
            Some(Event::Said(_, Said::Record(Record::Status(status)))) => last = status.active,
            Some(Event::Ended) => bail!("the guest has ended"),
            Some(_) => {}
            None => bail!("the guest has {last} of {connections} connections after {} s", PATIENCE.as_secs()),
        }
    }
    Ok(())
}

/// The bytes of memory that a process has now, shared ones included.
fn resident(process: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    in_status(&status).with_context(|| format!("{path} does not say VmRSS"))
}

fn in_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_a_process_has() {
        assert_eq!(in_status("Name:\ta\nVmRSS:\t    1234 kB\n"), Some(1234 << 10));
        assert_eq!(in_status("Name:\ta\n"), None);
        assert!(resident("self").unwrap() > 1 << 16);
    }
}
