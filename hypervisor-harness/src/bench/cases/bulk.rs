//! Bytes through what is between client and server: TCP connections that carry as much as they can.

use std::time::Duration;

use anyhow::ensure;

use crate::bench::case::Measured;
use crate::bench::net::{Path, Way, traffic};
use crate::bench::{Args, stop};

/// Connections at the same time.
const CONNECTIONS: usize = 4;
/// Windows are open after this time.
const WARM_UP: Duration = Duration::from_millis(500);

/// Measures what arrives at the server, in gigabits a second.
///
/// # Errors
/// [`Missing`](crate::bench::case::Missing) without root or the program; or if nothing arrives.
pub fn bulk(args: &Args, way: Way) -> anyhow::Result<Measured> {
    let mut path = Path::open(args, way)?;
    let server = traffic::sink(&path.server, path.listen)?;
    path.wait()?;
    let clients = traffic::pour(&path.client, path.service, CONNECTIONS)?;
    stop::pause(WARM_UP)?;
    let before = server.done();
    let from = std::time::Instant::now();
    stop::pause(args.time())?;
    let (bytes, time) = (server.done() - before, from.elapsed().as_secs_f64());
    let remark = path.remark();
    clients.end()?;
    server.end()?;
    path.end()?;
    ensure!(bytes > 0, "nothing arrives");
    Ok(Measured::one(bytes as f64 * 8.0 / time / 1e9, remark))
}
