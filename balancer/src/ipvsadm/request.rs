//! Commands as the messages by which a balancer, or Linux, is asked for them.

use alloc::vec::Vec;

use super::Command;
use crate::wire::ipvs::{Command as Wire, command};
use crate::wire::message::{self, flag};
use crate::wire::{Destination, Service, Sysctl, daemon, extra, mark};
use crate::{ServiceKey, Timeouts};

/// Appends the netlink message that asks for a command, behind its length of 32 bits in network order, with a wish for an
/// acknowledgement. `ids` are its sequence number and the port of who asks. Returns false, and appends nothing, for a command that
/// changes nothing but shows, saves or restores.
pub fn request(wanted: &Command, ids: (u32, u32), out: &mut Vec<u8>) -> bool {
    let name = |key: &ServiceKey| Service::of_key(key);
    let (kind, service, destination) = match wanted {
        Command::AddService(entry) => (Wire::NewService, Some(entry.wire()), None),
        Command::EditService(entry) => (Wire::SetService, Some(entry.wire()), None),
        Command::DeleteService(key) => (Wire::DelService, Some(name(key)), None),
        Command::AddServer { service, server, config } => {
            (Wire::NewDest, Some(name(service)), Some(Destination::of_config(server, config)))
        }
        Command::EditServer { service, server, config } => {
            (Wire::SetDest, Some(name(service)), Some(Destination::of_config(server, config)))
        }
        Command::DeleteServer { service, server } => {
            (Wire::DelDest, Some(name(service)), Some(Destination::of_key(server)))
        }
        Command::Clear => (Wire::Flush, None, None),
        Command::Zero(key) => (Wire::Zero, key.as_ref().map(name), None),
        Command::SetTimeouts(_) => (Wire::SetConfig, None, None),
        Command::SetSysctl { .. } => (Wire::SetSysctl, None, None),
        Command::AddMark(_) => (Wire::NewMark, None, None),
        Command::DeleteMark(_) => (Wire::DelMark, None, None),
        Command::ClearMarks => (Wire::FlushMarks, None, None),
        Command::SetExtras { service, .. } => (Wire::SetExtra, service.as_ref().map(name), None),
        Command::StartDaemon(_) => (Wire::NewDaemon, None, None),
        Command::StopDaemon(_) => (Wire::DelDaemon, None, None),
        _ => return false,
    };
    message::write_ipvs(out, kind, flag::REQUEST | flag::ACK, ids, |w| {
        if let Some(service) = &service {
            w.nest(command::SERVICE, |w| service.write(w));
        }
        if let Some(destination) = &destination {
            w.nest(command::DEST, |w| destination.write(w));
        }
        match wanted {
            Command::SetTimeouts(Timeouts { tcp, tcp_fin, udp }) => {
                w.u32(command::TIMEOUT_TCP, *tcp)
                    .u32(command::TIMEOUT_TCP_FIN, *tcp_fin)
                    .u32(command::TIMEOUT_UDP, *udp);
            }
            Command::SetSysctl { name, value, second } => {
                let knob = Sysctl { name: Some(name.as_bytes()), value: Some(*value), second: *second };
                w.nest(command::SYSCTL, |w| knob.write(w));
            }
            Command::SetExtras { extras, .. } => {
                w.nest(command::EXTRA, |w| extra::write(extras, None, w));
            }
            Command::AddMark(rule) | Command::DeleteMark(rule) => {
                w.nest(command::MARK, |w| mark::write(rule, w));
            }
            Command::StartDaemon(daemon) => {
                w.nest(command::DAEMON, |w| daemon::write(daemon, None, w));
            }
            Command::StopDaemon(role) => {
                w.nest(command::DAEMON, |w| daemon::write_role(*role, w));
            }
            _ => {}
        }
    });
    true
}
