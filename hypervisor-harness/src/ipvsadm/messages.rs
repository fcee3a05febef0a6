//! What is said when the balancer refuses: the words of ipvsadm.

use ringlet_balancer::ipvsadm::Command;
use ringlet_balancer::{MARK_RULES_MAX, Scheduler};

use super::client::Failure;

const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EPERM: i32 = 1;
const ENOMEM: i32 = 12;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const EPROTONOSUPPORT: i32 = 93;
const EOPNOTSUPP: i32 = 95;
const EAFNOSUPPORT: i32 = 97;

/// The line to print for a failure of a command.
pub(super) fn of(command: &Command, failure: &Failure) -> String {
    let Failure::Refused(number) = failure else { return failure.to_string() };
    let text = match (command, *number) {
        (Command::AddService(_), EEXIST) => "Service already exists",
        (Command::AddService(_) | Command::EditService(_), ENOENT) => {
            let names: Vec<&str> = Scheduler::ALL.iter().map(|scheduler| scheduler.name()).collect();
            return format!("Scheduler or persistence engine not found (schedulers: {})", names.join(", "));
        }
        (Command::AddServer { .. }, EEXIST) => "Destination already exists",
        (Command::AddServer { .. } | Command::EditServer { .. } | Command::DeleteServer { .. }, ESRCH) => {
            "Service not defined"
        }
        (Command::EditServer { .. } | Command::DeleteServer { .. }, ENOENT) => "No such destination",
        (Command::StartDaemon(_), EEXIST) => "Daemon has already run",
        (Command::StopDaemon(_), ESRCH) => "No daemon is running",
        (Command::StartDaemon(_), ENODEV) => "No such device: the only interface is eth0",
        (Command::StartDaemon(_), EINVAL) => {
            "Invalid argument: the balancer has no address of the group's family, or a server of another family than its service"
        }
        (Command::SetSysctl { .. } | Command::ShowSysctl(_), ENOENT) => {
            "this balancer has no such knob: `ringlet sysctl' lists those it has"
        }
        (Command::SetSysctl { .. }, EINVAL) => {
            "Invalid argument: the knob cannot have this value: docs/control.md#knobs says which it can"
        }
        (Command::AddMark(_), EEXIST) => "this mark rule is there already",
        (Command::DeleteMark(_), ENOENT) => "No such mark rule: `ringlet mark' lists them",
        (Command::AddMark(_), ENOMEM) => {
            return format!(
                "no room for another mark rule (there can be {MARK_RULES_MAX}): `ringlet mark delete' one, or let one name a network"
            );
        }
        (Command::SetExtras { .. }, EINVAL) => {
            "Invalid argument: for all services there are only limits; a pool has 1 to 1024 unicast addresses of the service's family, none of which is the balancer's own, a service's, or a server's; N of --syn-cookies is at most 57344 (fewer if memory is short: give a smaller one)"
        }
        (Command::SetExtras { .. }, EOPNOTSUPP) => {
            "Operation not supported: full NAT, --client-address and --syn-cookies go with servers of -m only, the latter two with TCP, and not with -o or FTP's port; is the balancer older than this command?"
        }
        (_, ESRCH) => "No such service",
        (_, EPERM) => "Permission denied (you must be root)",
        (_, EINVAL) => "Invalid operation.  Possibly wrong module version, address not unicast, ...",
        (Command::AddService(_) | Command::AddServer { .. }, ENOMEM) => {
            "Memory allocation problem: the balancer has no room for more"
        }
        (_, ENOMEM) => "Memory allocation problem",
        (_, EPROTONOSUPPORT) => "Protocol not supported: this balancer balances TCP and UDP",
        (Command::AddServer { .. } | Command::EditServer { .. }, EOPNOTSUPP) => {
            "Operation not supported: local and bypass are no methods to ask for: use -m, -g or -i"
        }
        // ipvsadm blames IPv6 here, for which Linux once had this number.
        (_, EOPNOTSUPP) => {
            "Operation not supported by this balancer: README.md (\"What is supported\") says what is; is it older than this command?"
        }
        (_, EAFNOSUPPORT) => "Operation not supported with specified address family",
        (_, other) => {
            // "Numerical result out of range (os error 34)": ipvsadm prints the words alone.
            let text = std::io::Error::from_raw_os_error(other).to_string();
            return text.split(" (os error").next().unwrap_or(&text).to_owned();
        }
    };
    text.to_owned()
}
