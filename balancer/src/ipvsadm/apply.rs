//! Commands on a balancer at hand.

use super::Command;
use crate::{Balancer, Errno, ServiceFlags};

/// Carries out a command that changes something, with the outcome it would have by the wire
/// ([`control::serve`](crate::control::serve)).
///
/// # Errors
/// Those of the balancer; [`Errno::Invalid`] for a command that changes nothing but
/// shows, saves or restores.
pub fn apply(command: &Command, balancer: &mut Balancer) -> Result<(), Errno> {
    match command {
        Command::AddService(entry) => {
            if balancer.service(&entry.key).is_ok() {
                return Err(Errno::Exists);
            }
            let config = entry.wire().config(entry.key.family(), ServiceFlags::empty())?;
            balancer.add_service(entry.key, config)
        }
        Command::EditService(entry) => {
            let old = balancer.service(&entry.key)?.config.flags;
            balancer.edit_service(&entry.key, entry.wire().config(entry.key.family(), old)?)
        }
        Command::DeleteService(key) => balancer.delete_service(key),
        Command::AddServer { service, server, config } => balancer.add_destination(service, *server, *config),
        Command::EditServer { service, server, config } => balancer.edit_destination(service, server, *config),
        Command::DeleteServer { service, server } => balancer.delete_destination(service, server),
        Command::Clear => {
            balancer.flush();
            Ok(())
        }
        Command::Zero(key) => balancer.zero(key.as_ref()),
        Command::SetTimeouts(timeouts) => balancer.set_timeouts(*timeouts),
        Command::AddMark(rule) => balancer.add_mark_rule(*rule),
        Command::DeleteMark(rule) => balancer.delete_mark_rule(rule),
        Command::ClearMarks => {
            balancer.clear_mark_rules();
            Ok(())
        }
        Command::SetExtras { service, extras } => balancer.set_extras(service.as_ref(), *extras),
        Command::SetSysctl { name, value, second } => balancer.set_sysctls(name, *value, *second),
        Command::StartDaemon(daemon) => balancer.start_daemon(*daemon),
        Command::StopDaemon(role) => balancer.stop_daemon(*role),
        Command::ShowSysctl(_) | Command::ShowMarks | Command::ShowExtras => Err(Errno::Invalid),
        Command::List(_) | Command::Save | Command::Restore | Command::Help | Command::Version => Err(Errno::Invalid),
    }
}
