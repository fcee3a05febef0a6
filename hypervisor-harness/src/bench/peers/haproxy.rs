//! HAProxy, carrying TCP connections from one to another.

use std::net::SocketAddrV4;

use super::{Process, Scratch, need};
use crate::bench::net::Namespace;

/// Starts it in a namespace: it carries connections to `service` on to `server`, by as many threads as there are processors,
/// without copying where the kernel can do that (splice).
///
/// # Errors
/// [`Missing`](crate::bench::case::Missing) if it is not installed; or if it cannot be started.
pub fn start(
    namespace: &Namespace,
    scratch: &Scratch,
    service: &SocketAddrV4,
    server: &SocketAddrV4,
) -> anyhow::Result<Process> {
    let program = need("haproxy")?;
    let file = scratch.file("haproxy.cfg", configuration(service, server))?;
    Process::start("haproxy", namespace.command(&program).args(["-db", "-f"]).arg(file))
}

fn configuration(service: &SocketAddrV4, server: &SocketAddrV4) -> String {
    format!(
        "global\n  maxconn 4000\n\
         defaults\n  mode tcp\n  option splice-auto\n  timeout connect 10s\n  timeout client 60s\n  timeout server 60s\n\
         frontend service\n  bind {service} backlog 16384\n  default_backend servers\n\
         backend servers\n  server one {server}\n"
    )
}
