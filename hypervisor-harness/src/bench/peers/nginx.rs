//! nginx, carrying TCP connections from one to another (its `stream` module).

use std::net::SocketAddrV4;
use std::path::Path;

use super::{Process, Scratch, need};
use crate::bench::case::Missing;
use crate::bench::net::Namespace;

/// Where Debian and Fedora put the module.
const MODULES: [&str; 2] =
    ["/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so"];

/// Starts it in a namespace: it carries connections to `service` on to `server`, by as many processes as there are
/// processors.
///
/// # Errors
/// [`Missing`] if it is not installed; or if it cannot be started.
pub fn start(
    namespace: &Namespace,
    scratch: &Scratch,
    service: &SocketAddrV4,
    server: &SocketAddrV4,
) -> anyhow::Result<Process> {
    let program = need("nginx")?;
    let module = MODULES.iter().find(|path| Path::new(path).exists());
    let module = module.ok_or_else(|| {
        Missing("nginx has no module `stream` (Debian: apt-get install libnginx-mod-stream)".to_owned())
    })?;
    let pid = scratch.join("nginx.pid");
    let file = scratch.file("nginx.conf", configuration(module, &pid, service, server))?;
    let mut command = namespace.command(&program);
    command.arg("-p").arg(scratch.join("")).args(["-e", "stderr", "-c"]).arg(file);
    Process::start("nginx", &mut command)
}

fn configuration(module: &str, pid: &Path, service: &SocketAddrV4, server: &SocketAddrV4) -> String {
    format!(
        "load_module {module};\nuser root;\ndaemon off;\nworker_processes auto;\npid {};\n\
         events {{ worker_connections 16384; multi_accept on; }}\n\
         stream {{ server {{ listen {service} backlog=16384 reuseport; proxy_pass {server}; }} }}\n",
        pid.display()
    )
}
