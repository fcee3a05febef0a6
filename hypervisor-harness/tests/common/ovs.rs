//! Open vSwitch with DPDK: a database, a switch and a bridge of a test's own, in a directory of its own, without huge pages.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::program::{Program, absent, find};
use super::testpmd::Directory;

/// Where a distribution keeps the switch that has DPDK beside one that has not (Debian); elsewhere there is only one.
const BESIDE: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
/// What the database is to hold.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// How the switch is to be. It makes its packet buffers where memory is, without huge pages: `--no-huge` wants `--legacy-mem`
/// from OVS, which would add `--in-memory` otherwise. Each port has buffers of its own: one pool for all would take what memory
/// there is, and leave none for the one that OVS makes anew when a port gets its guest, so that the port is lost. The thread
/// that forwards sleeps when there is nothing to do.
const CONFIGURATION: [&str; 4] = [
    "other_config:dpdk-init=true",
    "other_config:dpdk-extra=\"--no-huge --legacy-mem -m 512 --no-pci --no-shconf --no-telemetry\"",
    "other_config:per-port-memory=true",
    "other_config:pmd-maxsleep=50",
];

fn switch() -> Option<PathBuf> {
    Some(PathBuf::from(BESIDE)).filter(|path| path.is_file()).or_else(|| find("ovs-vswitchd"))
}

/// Whether a switch was built with DPDK, which it says where it tells its version.
fn has_dpdk(switch: &Path) -> bool {
    let version = Command::new(switch).arg("--version").output();
    version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("DPDK"))
}

/// Whether it is there. Where it is not, this fails in CI, and says loudly elsewhere what to install.
pub fn is_there() -> bool {
    let tools = ["ovs-vsctl", "ovsdb-tool", "ovsdb-server"].iter().all(|tool| find(tool).is_some());
    let there = tools && Path::new(SCHEMA).is_file() && switch().is_some_and(|switch| has_dpdk(&switch));
    there || absent("openvswitch-switch-dpdk")
}

/// A running switch with a bridge, `br0`, which is an interface of that name for Linux. It ends when it is dropped.
pub struct Ovs<'d> {
    directory: &'d Directory,
    _database: Program,
    switch: Option<Program>,
}

impl<'d> Ovs<'d> {
    /// Starts it, in the caller's network namespace.
    pub fn start(directory: &'d Directory) -> Self {
        let [data, socket] = ["conf.db", "db.sock"].map(|name| directory.path(name));
        run(tool(directory, "ovsdb-tool").args(["create", &data, SCHEMA]));
        let remote = format!("--remote=punix:{socket}");
        let database = Program::start(tool(directory, "ovsdb-server").args([&data, &remote]));
        let mut ovs = Self { directory, _database: database, switch: None };
        ovs.vsctl(&[&["--no-wait", "init", "--", "set", "Open_vSwitch", "."][..], &CONFIGURATION].concat());
        ovs.start_switch();
        ovs.vsctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"]);
        ovs
    }

    /// Starts the switch. It has what is in the database when the next [`Ovs::vsctl`] returns.
    pub fn start_switch(&mut self) {
        let path = switch().expect("it is there");
        let database = format!("unix:{}", self.directory.path("db.sock"));
        let mut switch = Program::start(tool(self.directory, path.to_str().expect("a path in text")).arg(&database));
        switch.wait_for("DPDK Enabled - initialized");
        self.switch = Some(switch);
    }

    /// Kills the switch.
    pub fn kill_switch(&mut self) {
        self.switch = None;
    }

    /// Runs `ovs-vsctl` with these words, and waits until the switch has done it.
    pub fn vsctl(&self, words: &[&str]) {
        let database = format!("--db=unix:{}", self.directory.path("db.sock"));
        run(tool(self.directory, "ovs-vsctl").args([&database, "--retry", "--timeout=60"]).args(words));
    }

    /// Adds a port to the bridge. The switch connects to the socket, again and again until somebody listens there.
    pub fn add_port(&self, name: &str, socket: &str) {
        let path = format!("options:vhost-server-path={socket}");
        self.vsctl(&["add-port", "br0", name, "--", "set", "Interface", name, "type=dpdkvhostuserclient", &path]);
    }
}

/// A program of OVS that leaves nothing outside of the directory, and ends with the thread that starts it: however that ends.
fn tool(directory: &Directory, name: &str) -> Command {
    let mut command = Command::new(find(name).unwrap_or_else(|| name.into()));
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR", "RUNTIME_DIRECTORY"] {
        command.env(variable, directory.path(""));
    }
    // SAFETY: between fork and exec only prctl is called, which is a plain system call.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command
}

/// Runs a program that must succeed.
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
