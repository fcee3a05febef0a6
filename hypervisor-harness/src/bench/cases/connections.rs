//! Connections through what is between client and server: opened, one request, one answer, closed.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::bench::case::Measured;
use crate::bench::net::{Path, Way, traffic};
use crate::bench::{Args, stop};

/// Clients and servers at the same time.
const CLIENTS: usize = 16;
const SERVERS: usize = 8;
const WARM_UP: Duration = Duration::from_millis(300);

/// Measures connections a second, as the clients count them.
///
/// # Errors
/// [`Missing`](crate::bench::case::Missing) without root or the program; or if connections fail.
pub fn connections(args: &Args, way: Way) -> anyhow::Result<Measured> {
    let mut path = Path::open(args, way)?;
    let server = traffic::answer(&path.server, path.listen, SERVERS)?;
    path.wait()?;
    let clients = traffic::ask(&path.client, path.service, CLIENTS)?;
    stop::pause(WARM_UP)?;
    let (before, from) = (clients.done(), Instant::now());
    stop::pause(args.time())?;
    let (done, time) = (clients.done() - before, from.elapsed().as_secs_f64());
    let failed = clients.failed();
    let remark = format!("{CLIENTS} clients, {failed} failed; {}", path.remark());
    clients.end()?;
    server.end()?;
    path.end()?;
    ensure!(done > 100 * failed, "{failed} connections failed, beside {done} that did not");
    Ok(Measured::one(done as f64 / time, remark.trim_end_matches("; ")))
}
