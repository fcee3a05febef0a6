//! Lists of any length, written piece by piece.

use alloc::vec::Vec;

use crate::wire::ipvs::{COMMAND_ATTRIBUTE_MAX, Command, command, controller};
use crate::wire::message::{self, Generic, Header, flag};
use crate::wire::{self, Writer};
use crate::{Balancer, ServiceKey, Sysctls};

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Services,
    Destinations(ServiceKey),
    Connections,
    Sysctls,
    Marks,
    Extras,
    Families,
    Daemons,
    /// What there is none of.
    Nothing,
}

/// A list that is being written: it remembers how far it came.
///
/// Entries are counted, as Linux does (`cb->args`): if services or destinations come or go between two pieces, one may
/// be listed twice or not at all. A connection that is there all the time is listed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dump {
    subject: Subject,
    sequence: u32,
    port: u32,
    /// Entries written; of connections, places of the table looked at.
    written: usize,
}

impl Dump {
    pub(super) const fn new(subject: Subject, request: &Header) -> Self {
        Dump { subject, sequence: request.sequence, port: request.port, written: 0 }
    }

    /// Appends messages to `reply` until that holds at least `limit` bytes (by less than a kilobyte more), or all is
    /// written. Returns whether all is, NLMSG_DONE included; if not, there is more to come: call again.
    pub fn fill(&mut self, balancer: &Balancer, reply: &mut Vec<u8>, limit: usize) -> bool {
        if reply.len() >= limit {
            return false;
        }
        let ids = (self.sequence, self.port);
        match self.subject {
            Subject::Services => {
                for info in balancer.services().skip(self.written) {
                    message::write_ipvs(reply, Command::NewService, flag::MULTI, ids, |w| {
                        w.nest(command::SERVICE, |w| wire::Service::of_info(&info).write(w));
                    });
                    self.written += 1;
                    if reply.len() >= limit {
                        return false;
                    }
                }
            }
            Subject::Destinations(key) => {
                // A service that is not, or no longer, there has no destinations: Linux says no error either.
                let list = balancer.destinations(&key).into_iter().flatten();
                for info in list.skip(self.written) {
                    message::write_ipvs(reply, Command::NewDest, flag::MULTI, ids, |w| {
                        w.nest(command::DEST, |w| wire::Destination::of_info(&info).write(w));
                    });
                    self.written += 1;
                    if reply.len() >= limit {
                        return false;
                    }
                }
            }
            Subject::Connections => {
                for (place, info) in balancer.connections_from(self.written as u32) {
                    message::write_ipvs(reply, Command::NewConnection, flag::MULTI, ids, |w| {
                        w.nest(command::CONNECTION, |w| wire::connection::write(&info, w));
                    });
                    self.written = place as usize + 1;
                    if reply.len() >= limit {
                        return false;
                    }
                }
            }
            Subject::Sysctls => {
                for &name in Sysctls::NAMES.iter().skip(self.written) {
                    let value = balancer.sysctls().get(name).unwrap_or_default();
                    message::write_ipvs(reply, Command::SetSysctl, flag::MULTI, ids, |w| write_sysctl(w, name, value));
                    self.written += 1;
                    if reply.len() >= limit {
                        return false;
                    }
                }
            }
            Subject::Marks => {
                for rule in balancer.mark_rules().skip(self.written) {
                    message::write_ipvs(reply, Command::NewMark, flag::MULTI, ids, |w| {
                        w.nest(command::MARK, |w| wire::mark::write(rule, w));
                    });
                    self.written += 1;
                    if reply.len() >= limit {
                        return false;
                    }
                }
            }
            Subject::Extras => {
                for info in balancer.extras().skip(self.written) {
                    message::write_ipvs(reply, Command::SetExtra, flag::MULTI, ids, |w| {
                        if let Some(service) = &info.service {
                            w.nest(command::SERVICE, |w| wire::Service::of_key(service).write(w));
                        }
                        w.nest(command::EXTRA, |w| wire::extra::write(&info.extras, Some(&info.counters), w));
                    });
                    self.written += 1;
                    if reply.len() >= limit {
                        return false;
                    }
                }
            }
            Subject::Daemons => {
                for daemon in balancer.daemons() {
                    message::write_ipvs(reply, Command::NewDaemon, flag::MULTI, ids, |w| {
                        w.nest(command::DAEMON, |w| wire::daemon::write(daemon, Some(balancer.sync_counters()), w));
                    });
                }
            }
            Subject::Families => write_family(reply, flag::MULTI, ids),
            Subject::Nothing => {}
        }
        message::write_done(reply, self.sequence, self.port);
        true
    }
}

/// Writes a knob.
pub(super) fn write_sysctl(w: &mut Writer<'_>, name: &str, value: i32) {
    let knob = wire::Sysctl { name: Some(name.as_bytes()), value: Some(value), second: None };
    w.nest(command::SYSCTL, |w| knob.write(w));
}

/// Writes CTRL_CMD_NEWFAMILY: the number of the "IPVS" family.
pub(super) fn write_family(reply: &mut Vec<u8>, flags: u16, (sequence, port): (u32, u32)) {
    let header = Header { length: 0, kind: controller::ID, flags, sequence, port };
    let generic = Generic { command: controller::NEW_FAMILY, version: controller::VERSION };
    message::write_generic(reply, header, generic, |w: &mut Writer<'_>| {
        w.string(controller::FAMILY_NAME, wire::FAMILY)
            .u16(controller::FAMILY_ID, wire::FAMILY_ID)
            .u32(controller::FAMILY_VERSION, wire::VERSION.into())
            .u32(controller::HEADER_SIZE, 0)
            .u32(controller::MAX_ATTRIBUTE, COMMAND_ATTRIBUTE_MAX.into());
    });
}
