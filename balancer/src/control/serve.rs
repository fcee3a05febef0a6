//! One request carried out.
//!
//! Follows netlink_rcv_skb and genl_rcv_msg for what every family has in common, and ip_vs_genl_set_cmd,
//! ip_vs_genl_get_cmd and the dump functions of net/netfilter/ipvs/ip_vs_ctl.c for the rest: in which order things are
//! checked decides which error a client sees.

use alloc::vec::Vec;

use super::dump::{Dump, Subject, write_family, write_sysctl};
use super::frame::FrameError;
use crate::wire::attribute::{Attribute, Attributes, Violation};
use crate::wire::ipvs::{self, Command, command, controller, info};
use crate::wire::message::{self, Message, flag};
use crate::wire::{self, Destination, Service, Sysctl, daemon};
use crate::{Balancer, Errno, Family, Forward, ServiceFlags, ServiceKey, Timeouts};

/// Carries out the message in `request`, a frame without its length, and appends framed replies to `reply`: at most one
/// kilobyte. A list is not written here: it comes back as a [`Dump`], from which the caller takes it piece by piece
/// before the next request.
///
/// A refused request is answered by NLMSG_ERROR with the number of Linux; a successful one by NLMSG_ERROR with 0 if
/// NLM_F_ACK asks for it.
///
/// # Errors
/// [`FrameError::Malformed`] if `request` is no netlink message: close the connection.
pub fn serve(request: &[u8], balancer: &mut Balancer, reply: &mut Vec<u8>) -> Result<Option<Dump>, FrameError> {
    let message = Message::read(request).ok_or(FrameError::Malformed)?;
    let header = &message.header;
    // netlink_rcv_skb: what is no request, or is for netlink itself, is done as soon as it came.
    let done = if header.flags & flag::REQUEST == 0 || header.kind < message::MIN_TYPE {
        Ok(None)
    } else {
        dispatch(&message, balancer, reply)
    };
    match done {
        Ok(Some(subject)) => return Ok(Some(Dump::new(subject, header))),
        Ok(None) if header.flags & flag::ACK != 0 => message::write_error(reply, header, 0),
        Ok(None) => {}
        Err(errno) => message::write_error(reply, header, -errno.number()),
    }
    Ok(None)
}

/// What was done: nothing is left to do, or a list is to be written.
type Done = Result<Option<Subject>, Errno>;

fn dispatch(message: &Message<'_>, balancer: &mut Balancer, reply: &mut Vec<u8>) -> Done {
    let ids = (message.header.sequence, message.header.port);
    let known = matches!(message.header.kind, controller::ID | wire::FAMILY_ID);
    let (generic, attributes) = match message.generic() {
        _ if !known => return Err(Errno::NotFound),
        Some(parts) => parts,
        None => return Err(Errno::Invalid),
    };
    let dump = message.header.is_dump();
    if message.header.kind == controller::ID {
        return get_family(generic.command, dump, attributes, reply, ids);
    }
    let command = Command::from_number(generic.command).ok_or(Errno::NotSupported)?;
    match (command, dump) {
        (Command::GetService, true) => Ok(Some(Subject::Services)),
        (Command::GetDest, true) => Ok(Some(destinations(attributes))),
        (Command::GetDaemon, true) => Ok(Some(Subject::Daemons)),
        (Command::GetConnection, true) => Ok(Some(Subject::Connections)),
        (Command::GetExtra, true) => Ok(Some(Subject::Extras)),
        (Command::GetMark, true) => Ok(Some(Subject::Marks)),
        (Command::GetSysctl, true) => Ok(Some(Subject::Sysctls)),
        // Linux has no dump of these, and these only as dumps; the two below are replies and no requests.
        (_, true)
        | (Command::GetDest | Command::GetDaemon | Command::GetConnection | Command::GetMark | Command::GetExtra, _) => {
            Err(Errno::NotSupported)
        }
        (Command::SetInfo | Command::NewConnection, _) => Err(Errno::NotSupported),
        (Command::NewDaemon | Command::DelDaemon, _) => {
            let nest = Request::read(attributes)?.daemon.ok_or(Errno::Invalid)?;
            let fields = daemon::Fields::read(&nest).map_err(|_| Errno::Invalid)?;
            match command {
                Command::NewDaemon => balancer.start_daemon(fields.daemon()?),
                _ => balancer.stop_daemon(fields.role()?),
            }
            .map(|()| None)
        }
        (Command::GetService, _) => {
            let key = key(&Request::read(attributes)?.service()?)?;
            let found = balancer.service(&key)?;
            message::write_ipvs(reply, Command::NewService, 0, ids, |w| {
                w.nest(command::SERVICE, |w| Service::of_info(&found).write(w));
            });
            Ok(None)
        }
        (Command::GetSysctl, _) => {
            let (name, ..) = Request::read(attributes)?.sysctl()?;
            let value = balancer.sysctls().get(name).ok_or(Errno::NotFound)?;
            message::write_ipvs(reply, Command::SetSysctl, 0, ids, |w| write_sysctl(w, name, value));
            Ok(None)
        }
        (Command::NewMark | Command::DelMark, _) => {
            let rule = wire::mark::read(&Request::read(attributes)?.mark.ok_or(Errno::Invalid)?)?;
            match command {
                Command::NewMark => balancer.add_mark_rule(rule),
                _ => balancer.delete_mark_rule(&rule),
            }
            .map(|()| None)
        }
        (Command::SetExtra, _) => {
            let request = Request::read(attributes)?;
            let key = request.service.map(|_| key(&request.service()?)).transpose()?;
            let family = key.map_or(Family::V4, |key| key.family());
            let (extras, _) = wire::extra::read(family, &request.extra.ok_or(Errno::Invalid)?)?;
            balancer.set_extras(key.as_ref(), extras).map(|()| None)
        }
        (Command::FlushMarks, _) => {
            balancer.clear_mark_rules();
            Ok(None)
        }
        (Command::SetSysctl, _) => {
            let (name, value, second) = Request::read(attributes)?.sysctl()?;
            balancer.set_sysctls(name, value.ok_or(Errno::Invalid)?, second).map(|()| None)
        }
        (Command::GetConfig, _) => {
            Request::read(attributes)?;
            let timeouts = balancer.timeouts();
            message::write_ipvs(reply, Command::SetConfig, 0, ids, |w| {
                w.u32(command::TIMEOUT_TCP, timeouts.tcp)
                    .u32(command::TIMEOUT_TCP_FIN, timeouts.tcp_fin)
                    .u32(command::TIMEOUT_UDP, timeouts.udp);
            });
            Ok(None)
        }
        (Command::GetInfo, _) => {
            Request::read(attributes)?;
            message::write_ipvs(reply, Command::SetInfo, 0, ids, |w| {
                w.u32(info::VERSION, ipvs::IPVS_VERSION).u32(info::CONN_TAB_SIZE, balancer.capacity());
            });
            Ok(None)
        }
        _ => change(command, &Request::read(attributes)?, balancer).map(|()| None),
    }
}

/// CTRL_CMD_GETFAMILY, by name or by number: libnl asks so before anything else.
fn get_family(command: u8, dump: bool, attributes: Attributes<'_>, reply: &mut Vec<u8>, ids: (u32, u32)) -> Done {
    if command != controller::GET_FAMILY {
        return Err(Errno::NotSupported);
    }
    if dump {
        return Ok(Some(Subject::Families));
    }
    let (mut name, mut number) = (None, None);
    for attribute in attributes {
        match attribute.kind {
            controller::FAMILY_NAME => name = Some(attribute.string(ipvs::NAME_MAX).map_err(errno)?),
            controller::FAMILY_ID => number = Some(attribute.u16().map_err(errno)?),
            _ => {}
        }
    }
    match (name, number) {
        (None, None) => Err(Errno::Invalid),
        // Of both, Linux looks at the name.
        (Some(wire::FAMILY), _) | (None, Some(wire::FAMILY_ID)) => {
            write_family(reply, 0, ids);
            Ok(None)
        }
        _ => Err(Errno::NotFound),
    }
}

/// The number Linux gives for an attribute of a command; inside a nest it is always EINVAL.
fn errno(violation: Violation) -> Errno {
    match violation {
        Violation::Length => Errno::OutOfRange,
        Violation::Unterminated => Errno::Invalid,
    }
}

/// The attributes of a command (`ip_vs_cmd_policy`).
#[derive(Clone, Copy, Debug, Default)]
struct Request<'a> {
    service: Option<Attribute<'a>>,
    destination: Option<Attribute<'a>>,
    sysctl: Option<Attribute<'a>>,
    mark: Option<Attribute<'a>>,
    extra: Option<Attribute<'a>>,
    daemon: Option<Attribute<'a>>,
    /// tcp, tcp_fin, udp.
    timeouts: [Option<u32>; 3],
}

impl<'a> Request<'a> {
    fn read(attributes: Attributes<'a>) -> Result<Self, Errno> {
        let mut request = Request::default();
        for attribute in attributes {
            match attribute.kind {
                command::SERVICE
                | command::DEST
                | command::DAEMON
                | command::SYSCTL
                | command::MARK
                | command::EXTRA => {
                    attribute.nested().map_err(errno)?;
                    match attribute.kind {
                        command::SERVICE => request.service = Some(attribute),
                        command::DEST => request.destination = Some(attribute),
                        command::EXTRA => request.extra = Some(attribute),
                        command::MARK => request.mark = Some(attribute),
                        command::DAEMON => request.daemon = Some(attribute),
                        command::SYSCTL => request.sysctl = Some(attribute),
                        _ => {}
                    }
                }
                command::TIMEOUT_TCP..=command::TIMEOUT_UDP => {
                    let place = usize::from(attribute.kind - command::TIMEOUT_TCP);
                    request.timeouts[place] = Some(attribute.u32().map_err(errno)?);
                }
                _ => {}
            }
        }
        Ok(request)
    }

    fn service(&self) -> Result<Service<'a>, Errno> {
        Service::read(&self.service.ok_or(Errno::Invalid)?).map_err(|_| Errno::Invalid)
    }

    /// The name of a knob, and its value, or two, if there is one.
    fn sysctl(&self) -> Result<(&'a str, Option<i32>, Option<i32>), Errno> {
        let knob = Sysctl::read(&self.sysctl.ok_or(Errno::Invalid)?).map_err(|_| Errno::Invalid)?;
        let name = knob.name.ok_or(Errno::Invalid)?;
        Ok((core::str::from_utf8(name).map_err(|_| Errno::NotFound)?, knob.value, knob.second))
    }

    fn destination(&self) -> Result<Destination, Errno> {
        Destination::read(&self.destination.ok_or(Errno::Invalid)?).map_err(|_| Errno::Invalid)
    }
}

/// The name of a service that must be there. One of a protocol that is not balanced is not there.
fn key(service: &Service<'_>) -> Result<ServiceKey, Errno> {
    service.key().map_err(|errno| if errno == Errno::Protocol { Errno::NoService } else { errno })
}

/// The list ip_vs_genl_dump_dests makes: empty, and no error, if the service cannot be understood.
fn destinations(attributes: Attributes<'_>) -> Subject {
    let key = Request::read(attributes).and_then(|request| key(&request.service()?));
    key.map_or(Subject::Nothing, Subject::Destinations)
}

/// ip_vs_genl_set_cmd.
fn change(command: Command, request: &Request<'_>, balancer: &mut Balancer) -> Result<(), Errno> {
    match command {
        Command::Flush => {
            balancer.flush();
            return Ok(());
        }
        Command::SetConfig => {
            // What is left out keeps its value, which is what 0 says here.
            let [tcp, tcp_fin, udp] = request.timeouts.map(|timeout| timeout.unwrap_or(0));
            return balancer.set_timeouts(Timeouts { tcp, tcp_fin, udp });
        }
        Command::Zero if request.service.is_none() => return balancer.zero(None),
        _ => {}
    }
    let service = request.service()?;
    if command == Command::NewService {
        let key = service.key()?;
        service.complete()?;
        return match balancer.service(&key) {
            Ok(_) => Err(Errno::Exists),
            Err(_) => balancer.add_service(key, service.config(key.family(), ServiceFlags::empty())?),
        };
    }
    let key = key(&service)?;
    if command == Command::SetService {
        service.complete()?;
        let old = balancer.service(&key)?.config.flags;
        return balancer.edit_service(&key, service.config(key.family(), old)?);
    }
    balancer.service(&key)?;
    match command {
        Command::DelService => balancer.delete_service(&key),
        Command::Zero => balancer.zero(Some(&key)),
        Command::NewDest | Command::SetDest => {
            let destination = request.destination()?;
            let config = destination.config()?;
            let name = destination.key(key.family())?;
            // Synchronization has no words for two families in one connection.
            let is_synchronized = balancer.daemons().next().is_some();
            if Family::of(&name.address) != key.family() && (config.forward != Forward::Tunnel || is_synchronized) {
                return Err(Errno::Invalid);
            }
            match command {
                Command::NewDest => balancer.add_destination(&key, name, config),
                _ => balancer.edit_destination(&key, &name, config),
            }
        }
        Command::DelDest => balancer.delete_destination(&key, &request.destination()?.key(key.family())?),
        _ => Err(Errno::Invalid),
    }
}
