//! Requests as libipvs makes them, and as nobody should.

use super::*;
use crate::wire::ipvs::{Command, command, controller, destination, info, service};
use crate::wire::message::{self, Generic, Header, Message, flag};
use crate::wire::{self, Attributes, FAMILY_ID, Writer};
use crate::{
    Balancer, Config, Daemon, DaemonRole, DestinationConfig, DestinationKey, Errno, Forward, Scheduler, ServiceConfig,
    ServiceKey, SyncCounters, Timeouts,
};
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::{vec, vec::Vec};

const ACK: u16 = flag::REQUEST | flag::ACK;
const DUMP: u16 = flag::REQUEST | flag::DUMP;

fn balancer() -> Balancer {
    Balancer::new(Config::new([2, 0, 0, 0, 0, 1], [1, 2]))
}

fn web() -> ServiceKey {
    ServiceKey::tcp("10.0.0.100".parse().unwrap(), 80)
}

fn server(number: u32) -> DestinationKey {
    DestinationKey { address: Ipv4Addr::from_bits(0x0a00_0000 + number).into(), port: 80 }
}

fn full(key: &ServiceKey) -> wire::Service<'static> {
    wire::Service {
        scheduler: Some(b"wlc"),
        flags: Some((0, u32::MAX)),
        timeout: Some(0),
        netmask: Some([255; 4]),
        ..wire::Service::of_key(key)
    }
}

fn request(kind: Command, flags: u16, attributes: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut out = vec![];
    message::write_ipvs(&mut out, kind, flags, (7, 99), attributes);
    out.split_off(4)
}

/// A request with a service, and perhaps a destination.
fn about(kind: Command, service: &wire::Service<'_>, destination: Option<&wire::Destination>) -> Vec<u8> {
    request(kind, ACK, |w| {
        w.nest(wire::attribute::NESTED | command::SERVICE, |w| service.write(w));
        if let Some(destination) = destination {
            w.nest(wire::attribute::NESTED | command::DEST, |w| destination.write(w));
        }
    })
}

/// The messages of a reply, without their lengths.
fn messages(mut reply: &[u8]) -> Vec<Vec<u8>> {
    let mut list = vec![];
    while let Some(length) = reply.first_chunk::<4>() {
        let end = 4 + u32::from_be_bytes(*length) as usize;
        list.push(reply[4..end].to_vec());
        reply = &reply[end..];
    }
    list
}

/// The number in the only message of the answer.
fn outcome(balancer: &mut Balancer, request: &[u8]) -> i32 {
    let mut reply = vec![];
    assert_eq!(serve(request, balancer, &mut reply), Ok(None));
    let [only] = &messages(&reply)[..] else { panic!("{reply:?}") };
    let message = Message::read(only).unwrap();
    assert_eq!((message.header.sequence, message.header.port), (7, 99));
    message.error().unwrap()
}

#[test]
fn services_and_destinations_come_and_go() {
    let mut b = balancer();
    let (new, name) = (full(&web()), wire::Service::of_key(&web()));
    let config = DestinationConfig::new(Forward::Masquerade, 1);
    let real = wire::Destination::of_config(&server(11), &config);
    let real_name = wire::Destination::of_key(&server(11));
    let errno = |errno: Errno| -errno.number();
    for (kind, service, destination, expected) in [
        (Command::SetService, &new, None, errno(Errno::NoService)),
        (Command::DelService, &name, None, errno(Errno::NoService)),
        (Command::Zero, &name, None, errno(Errno::NoService)),
        (Command::NewDest, &name, Some(&real), errno(Errno::NoService)),
        (Command::NewService, &name, None, errno(Errno::Invalid)),
        (Command::NewService, &new, None, 0),
        (Command::NewService, &wire::Service { scheduler: Some(b"nosuch"), ..new }, None, errno(Errno::Exists)),
        (Command::SetService, &wire::Service { scheduler: Some(b"nosuch"), ..new }, None, errno(Errno::NotFound)),
        (Command::SetService, &wire::Service { scheduler: Some(b"rr"), ..new }, None, 0),
        (Command::SetDest, &name, Some(&real), errno(Errno::NotFound)),
        (Command::DelDest, &name, Some(&real_name), errno(Errno::NotFound)),
        (Command::NewDest, &name, Some(&real_name), errno(Errno::Invalid)),
        (Command::NewDest, &name, None, errno(Errno::Invalid)),
        (Command::NewDest, &name, Some(&real), 0),
        (Command::NewDest, &name, Some(&real), errno(Errno::Exists)),
        (Command::SetDest, &name, Some(&wire::Destination { weight: Some(-1), ..real }), errno(Errno::OutOfRange)),
        (Command::SetDest, &name, Some(&wire::Destination { weight: Some(5), ..real }), 0),
        (Command::Zero, &name, None, 0),
    ] {
        assert_eq!(outcome(&mut b, &about(kind, service, destination)), expected, "{kind:?}");
    }
    assert_eq!(b.service(&web()).unwrap().config.scheduler, Scheduler::RoundRobin);
    assert_eq!(b.destinations(&web()).unwrap().next().unwrap().config.weight, 5);
    assert_eq!(outcome(&mut b, &about(Command::DelDest, &name, Some(&real_name))), 0);
    assert_eq!(outcome(&mut b, &about(Command::DelService, &name, None)), 0);
    assert_eq!(outcome(&mut b, &about(Command::NewService, &new, None)), 0);
    assert_eq!(outcome(&mut b, &request(Command::Zero, ACK, |_| ())), 0);
    assert_eq!(outcome(&mut b, &request(Command::Flush, ACK, |_| ())), 0);
    assert_eq!(b.services().count(), 0);
}

#[test]
fn knobs_are_set_asked_for_and_listed() {
    let mut b = balancer();
    let knob = |kind, name: &'static [u8], value| {
        request(kind, ACK, |w| {
            w.nest(command::SYSCTL, |w| wire::Sysctl { name: Some(name), value, second: None }.write(w));
        })
    };
    let read = |message: &[u8]| {
        let (_, attributes) = Message::read(message).unwrap().generic().unwrap();
        let attribute = attributes.into_iter().next().unwrap();
        let wire::Sysctl { name, value, .. } = wire::Sysctl::read(&attribute).unwrap();
        (std::string::String::from_utf8(name.unwrap().to_vec()).unwrap(), value.unwrap())
    };
    for (name, value, expected) in [
        (&b"sloppy_tcp"[..], Some(1), 0),
        (b"drop_entry", Some(4), -22),
        (b"sloppy_tcp", None, -22),
        (b"ip_forward", Some(1), -2),
        (b"\xff", Some(1), -2),
    ] {
        assert_eq!(outcome(&mut b, &knob(Command::SetSysctl, name, value)), expected, "{name:?}");
    }
    assert_eq!(outcome(&mut b, &request(Command::SetSysctl, ACK, |_| ())), -22);
    assert_eq!(outcome(&mut b, &knob(Command::GetSysctl, b"ip_forward", None)), -2);
    let mut reply = vec![];
    serve(&knob(Command::GetSysctl, b"sloppy_tcp", None), &mut b, &mut reply).unwrap();
    assert_eq!(read(&messages(&reply)[0]), ("sloppy_tcp".into(), 1));
    reply.clear();
    let mut dump = serve(&request(Command::GetSysctl, DUMP, |_| ()), &mut b, &mut reply).unwrap().unwrap();
    // A piece at a time, as a slow reader has it.
    let mut limit = 1;
    while !dump.fill(&b, &mut reply, limit) {
        limit += 1;
    }
    let all = messages(&reply);
    let listed: Vec<_> = all[..all.len() - 1].iter().map(|message| read(message)).collect();
    let expected: Vec<_> = crate::Sysctls::NAMES.iter().map(|n| ((*n).into(), b.sysctls().get(n).unwrap())).collect();
    assert_eq!(listed, expected);
}

#[test]
fn mark_rules_are_added_listed_and_removed() {
    let mut b = balancer();
    let rule = |mark| crate::MarkRule {
        destination: "10.0.0.200".parse().unwrap(),
        ..crate::MarkRule::new(crate::Family::V4, mark)
    };
    let about = |kind, mark| {
        request(kind, ACK, |w| {
            w.nest(command::MARK, |w| wire::mark::write(&rule(mark), w));
        })
    };
    for (kind, mark, expected) in [
        (Command::NewMark, 7, 0),
        (Command::NewMark, 7, -17),
        (Command::NewMark, 0, -22),
        (Command::NewMark, 8, 0),
        (Command::DelMark, 9, -2),
        (Command::DelMark, 8, 0),
    ] {
        assert_eq!(outcome(&mut b, &about(kind, mark)), expected, "{kind:?} {mark}");
    }
    assert_eq!(outcome(&mut b, &request(Command::NewMark, ACK, |_| ())), -22);
    assert_eq!(outcome(&mut b, &request(Command::GetMark, ACK, |_| ())), -95, "only as a dump");
    let mut reply = vec![];
    let mut dump = serve(&request(Command::GetMark, DUMP, |_| ()), &mut b, &mut reply).unwrap().unwrap();
    assert!(dump.fill(&b, &mut reply, usize::MAX));
    let list = messages(&reply);
    let (_, attributes) = Message::read(&list[0]).unwrap().generic().unwrap();
    assert_eq!((wire::mark::read(&attributes.into_iter().next().unwrap()), list.len()), (Ok(rule(7)), 2));
    // A single host is an address of ours once there is a service of the mark.
    assert_eq!(b.virtual_addresses().count(), 0);
    let key = ServiceKey::Mark { family: crate::Family::V4, mark: 7 };
    b.add_service(key, ServiceConfig::new(crate::Family::V4, Scheduler::RoundRobin)).unwrap();
    assert_eq!(b.virtual_addresses().collect::<Vec<_>>(), [rule(7).destination.address]);
    assert_eq!(outcome(&mut b, &request(Command::FlushMarks, ACK, |_| ())), 0);
    assert_eq!((b.mark_rules().count(), b.virtual_addresses().count()), (0, 0));
}

#[test]
fn what_linux_can_and_this_cannot_is_refused() {
    let mut b = balancer();
    let icmp = wire::Service { protocol: Some(1), ..full(&web()) };
    assert_eq!(outcome(&mut b, &about(Command::NewService, &icmp, None)), -93);
    assert_eq!(outcome(&mut b, &about(Command::DelService, &icmp, None)), -3, "there is none");
    let family = wire::Service { family: Some(1), ..full(&web()) };
    assert_eq!(outcome(&mut b, &about(Command::NewService, &family, None)), -97);
    for kind in [Command::GetDaemon, Command::GetDest, Command::SetInfo] {
        assert_eq!(outcome(&mut b, &request(kind, ACK, |_| ())), -95, "{kind:?}");
    }
    for kind in [Command::NewService, Command::GetInfo, Command::GetConfig] {
        assert_eq!(outcome(&mut b, &request(kind, DUMP, |_| ())), -95, "no dump of {kind:?}");
    }
    let mut unknown = request(Command::Flush, ACK, |_| ());
    unknown[message::HEADER] = 200;
    assert_eq!(outcome(&mut b, &unknown), -95);
    let mut family = request(Command::Flush, ACK, |_| ());
    family[4] = 0x20;
    assert_eq!(outcome(&mut b, &family), -2);
}

#[test]
fn attributes_are_judged_as_linux_judges_them() {
    let mut b = balancer();
    let short = |kind, payload: &'static [u8]| move |w: &mut Writer<'_>| _ = w.put(kind, payload);
    let set = Command::SetConfig;
    assert_eq!(outcome(&mut b, &request(set, ACK, short(command::TIMEOUT_TCP, &[1, 2, 3]))), -34);
    assert_eq!(outcome(&mut b, &request(set, ACK, short(command::SERVICE, &[1]))), -34);
    assert_eq!(outcome(&mut b, &request(set, ACK, short(99, &[1]))), 0, "unknown ones are skipped");
    let torn = |w: &mut Writer<'_>| _ = w.nest(command::SERVICE, |w| _ = w.put(service::AF, &[2]));
    assert_eq!(outcome(&mut b, &request(Command::NewService, ACK, torn)), -22, "inside a nest it is EINVAL");
    b.add_service(web(), ServiceConfig::new(crate::Family::V4, Scheduler::RoundRobin)).unwrap();
    let torn = |w: &mut Writer<'_>| {
        w.nest(command::SERVICE, |w| wire::Service::of_key(&web()).write(w));
        w.nest(command::DEST, |w| _ = w.put(destination::ADDR, &[0; 17]));
    };
    assert_eq!(outcome(&mut b, &request(Command::DelDest, ACK, torn)), -22);
    // An address of four bytes is an IPv4 address.
    let four = |w: &mut Writer<'_>| {
        w.nest(command::SERVICE, |w| {
            w.u16(service::AF, 2)
                .u16(service::PROTOCOL, 6)
                .put(service::ADDR, &[10, 0, 0, 100])
                .be16(service::PORT, 80);
        });
    };
    assert_eq!(outcome(&mut b, &request(Command::DelService, ACK, four)), 0);
}

#[test]
fn single_answers_come_before_their_acknowledgement() {
    let mut b = balancer();
    b.set_timeouts(Timeouts { tcp: 1, tcp_fin: 2, udp: 3 }).unwrap();
    b.add_service(web(), ServiceConfig::new(crate::Family::V4, Scheduler::RoundRobin)).unwrap();
    let mut ask = |kind, key: Option<ServiceKey>| {
        let mut reply = vec![];
        let attributes = |w: &mut Writer<'_>| {
            if let Some(key) = key {
                w.nest(command::SERVICE, |w| wire::Service::of_key(&key).write(w));
            }
        };
        assert_eq!(serve(&request(kind, ACK, attributes), &mut b, &mut reply), Ok(None));
        messages(&reply)
    };
    for (kind, answer, expected) in [
        (Command::GetInfo, Command::SetInfo, vec![(info::VERSION, 0x010201), (info::CONN_TAB_SIZE, 65536)]),
        (Command::GetConfig, Command::SetConfig, vec![(4, 1), (5, 2), (6, 3)]),
    ] {
        let list = ask(kind, None);
        let (generic, attributes) = Message::read(&list[0]).unwrap().generic().unwrap();
        assert_eq!(generic.command, answer as u8);
        assert_eq!(attributes.map(|a| (a.kind, a.u32().unwrap())).collect::<Vec<_>>(), expected);
        assert_eq!((list.len(), Message::read(&list[1]).unwrap().error()), (2, Some(0)));
    }
    let list = ask(Command::GetService, Some(web()));
    let (_, mut attributes) = Message::read(&list[0]).unwrap().generic().unwrap();
    let found = wire::Service::read(&attributes.next().unwrap()).unwrap();
    assert_eq!((found.key(), found.scheduler), (Ok(web()), Some(&b"rr"[..])));
    assert_eq!(ask(Command::GetService, Some(ServiceKey::udp("10.0.0.100".parse().unwrap(), 80))).len(), 1);
}

#[test]
fn silence_is_kept_where_linux_keeps_it() {
    let mut b = balancer();
    let mut reply = vec![];
    let quiet = [request(Command::Flush, flag::REQUEST, |_| ()), request(Command::NewService, 0, |_| ()), {
        let mut noop = request(Command::NewService, flag::REQUEST, |_| ());
        noop[4..6].copy_from_slice(&1u16.to_le_bytes());
        noop
    }];
    for request in quiet {
        assert_eq!(serve(&request, &mut b, &mut reply), Ok(None));
        assert!(reply.is_empty());
    }
    assert_eq!(serve(&[0; 20], &mut b, &mut reply), Err(FrameError::Malformed));
}

#[test]
fn the_family_is_found_by_name_and_number() {
    let mut b = balancer();
    let mut ask = |command, flags, attributes: &dyn Fn(&mut Writer<'_>)| {
        let header = Header { length: 0, kind: controller::ID, flags, sequence: 7, port: 99 };
        let (mut bytes, mut reply) = (vec![], vec![]);
        message::write_generic(&mut bytes, header, Generic { command, version: 1 }, attributes);
        if let Some(mut dump) = serve(&bytes[4..], &mut b, &mut reply).unwrap() {
            assert!(dump.fill(&b, &mut reply, 1000));
        }
        messages(&reply)
    };
    let named = |name: &'static [u8]| move |w: &mut Writer<'_>| _ = w.string(controller::FAMILY_NAME, name);
    let error = |list: &[Vec<u8>]| Message::read(&list[0]).unwrap().error();
    let list = ask(controller::GET_FAMILY, ACK, &named(b"IPVS"));
    let (generic, attributes) = Message::read(&list[0]).unwrap().generic().unwrap();
    assert_eq!((generic.command, list.len()), (controller::NEW_FAMILY, 2));
    let number = attributes.into_iter().find(|a| a.kind == controller::FAMILY_ID).unwrap();
    assert_eq!(number.u16(), Ok(FAMILY_ID));
    assert_eq!(ask(controller::GET_FAMILY, flag::REQUEST, &|w| _ = w.u16(controller::FAMILY_ID, FAMILY_ID)).len(), 1);
    assert_eq!(error(&ask(controller::GET_FAMILY, ACK, &named(b"TASKSTATS"))), Some(-2));
    assert_eq!(error(&ask(controller::GET_FAMILY, ACK, &|_| ())), Some(-22));
    assert_eq!(error(&ask(2, ACK, &named(b"IPVS"))), Some(-95));
    let list = ask(controller::GET_FAMILY, DUMP, &|_| ());
    assert_eq!((list.len(), Message::read(&list[1]).unwrap().header.kind), (2, message::DONE));
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes()[..], message].concat()
}

#[test]
fn a_list_of_thousands_is_made_as_it_is_taken() {
    let mut b = balancer();
    b.add_service(web(), ServiceConfig::new(crate::Family::V4, Scheduler::RoundRobin)).unwrap();
    for number in 1..=3000u32 {
        b.add_destination(&web(), server(number), DestinationConfig::new(Forward::Masquerade, 1)).unwrap();
    }
    let list = request(Command::GetDest, DUMP, |w| {
        w.nest(command::SERVICE, |w| wire::Service::of_key(&web()).write(w));
    });
    let stream = [framed(&list), framed(&request(Command::GetInfo, ACK, |_| ()))].concat();
    let (mut session, mut input, mut reply) = (Session::new(), &stream[..], vec![]);
    // The peer takes 5,000 bytes at a time, and slower than they are made.
    for _ in 0..10_000 {
        input = &input[session.receive(input).unwrap()..];
        session.run(&mut b).unwrap();
        assert!(session.output().len() < OUTPUT_LIMIT + 1024);
        let taken = session.output().len().min(5000);
        reply.extend_from_slice(&session.output()[..taken]);
        session.sent(taken);
        if input.is_empty() && session.is_idle() {
            break;
        }
    }
    assert!(session.is_idle());
    assert_eq!(session.requests(), 2);
    let list = messages(&reply);
    assert_eq!(list.len(), 3000 + 1 + 2);
    for (number, message) in (1..=3000).rev().zip(&list) {
        let (_, mut attributes) = Message::read(message).unwrap().generic().unwrap();
        let found = wire::Destination::read(&attributes.next().unwrap()).unwrap();
        assert_eq!(found.key(crate::Family::V4), Ok(server(number)), "newest first, each once");
    }
    assert_eq!(Message::read(&list[3000]).unwrap().header.kind, message::DONE);
}

#[test]
fn a_list_ends_when_its_service_goes() {
    let mut b = balancer();
    b.add_service(web(), ServiceConfig::new(crate::Family::V4, Scheduler::RoundRobin)).unwrap();
    for number in 1..=10 {
        b.add_destination(&web(), server(number), DestinationConfig::new(Forward::Masquerade, 1)).unwrap();
    }
    let ask = |key: ServiceKey| {
        request(Command::GetDest, DUMP, |w| _ = w.nest(command::SERVICE, |w| wire::Service::of_key(&key).write(w)))
    };
    let mut reply = vec![];
    let mut dump = serve(&ask(web()), &mut b, &mut reply).unwrap().unwrap();
    assert!(!dump.fill(&b, &mut reply, 1));
    b.flush();
    assert!(!dump.fill(&b, &mut reply, 1), "no room");
    reply.clear();
    assert!(dump.fill(&b, &mut reply, 1));
    assert_eq!(messages(&reply).len(), 1);
    reply.clear();
    let mut dump = serve(&ask(web()), &mut b, &mut reply).unwrap().unwrap();
    assert!(dump.fill(&b, &mut reply, 1), "of a service that is not there: empty, and no error, as Linux");
    let mut dump = serve(&request(Command::GetDaemon, DUMP, |_| ()), &mut b, &mut reply).unwrap().unwrap();
    assert!(dump.fill(&b, &mut reply, 1000));
}

#[test]
fn daemons_start_are_listed_and_stop() {
    let mut b = Balancer::new(Config {
        addresses: std::vec!["10.0.0.2/24".parse().unwrap()],
        ..Config::new([2, 0, 0, 0, 0, 1], [1, 2])
    });
    let about = |kind, fill: &dyn Fn(&mut Writer<'_>)| request(kind, ACK, |w| _ = w.nest(command::DAEMON, |w| fill(w)));
    assert_eq!(outcome(&mut b, &request(Command::NewDaemon, ACK, |_| ())), -22, "no daemon is named");
    let daemon = Daemon { syncid: 7, ..Daemon::new(DaemonRole::Backup) };
    let start = about(Command::NewDaemon, &|w| wire::daemon::write(&daemon, None, w));
    assert_eq!([(); 2].map(|()| outcome(&mut b, &start)), [0, -17]);
    let wrong = about(Command::NewDaemon, &|w| _ = w.u32(1, 1).string(2, b"eth7").u32(3, 0));
    assert_eq!(outcome(&mut b, &wrong), -19);
    let mut reply = Vec::new();
    let mut dump = serve(&request(Command::GetDaemon, DUMP, |_| ()), &mut b, &mut reply).unwrap().unwrap();
    assert!(dump.fill(&b, &mut reply, 1000));
    let listed = messages(&reply).first().map(|message| {
        let (_, mut attributes) = Message::read(message).unwrap().generic().unwrap();
        let fields = wire::daemon::Fields::read(&attributes.next().unwrap()).unwrap();
        assert_eq!(fields.counters(), Some(SyncCounters::default()));
        wire::daemon::describe(&fields.daemon().unwrap())
    });
    let expected = "backup sync daemon (mcast=eth0, syncid=7, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)";
    assert_eq!(listed.as_deref(), Some(expected));
    let stop = about(Command::DelDaemon, &|w| wire::daemon::write_role(DaemonRole::Backup, w));
    assert_eq!([(); 2].map(|()| outcome(&mut b, &stop)), [0, -3]);
    let none = about(Command::DelDaemon, &|w| _ = w.u32(1, 3));
    assert_eq!(outcome(&mut b, &none), -22);
}

#[test]
fn nonsense_on_the_stream_closes_it() {
    let mut b = balancer();
    let mut session = Session::new();
    assert!(session.receive(b"GET / HTTP/1.1\r\n").is_err());
    let mut session = Session::new();
    assert_eq!(session.receive(&framed(&[0; 16])), Ok(20));
    assert_eq!(session.run(&mut b), Err(FrameError::Malformed));
}

proptest! {
    #[test]
    fn any_bytes_are_served(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut b = balancer();
        let mut reply = vec![];
        let _ = serve(&bytes, &mut b, &mut reply);
        prop_assert!(reply.len() < 1024);
    }

    #[test]
    fn any_attributes_are_served(
        kind in 0u8..20,
        flags in prop_oneof![Just(ACK), Just(DUMP), any::<u16>()],
        number in prop_oneof![Just(FAMILY_ID), Just(controller::ID), any::<u16>()],
        outer in proptest::collection::vec((1u16..8, proptest::collection::vec((0u16..17, proptest::collection::vec(any::<u8>(), 0..20)), 0..16)), 0..4),
    ) {
        let mut b = balancer();
        b.add_service(web(), ServiceConfig::new(crate::Family::V4, Scheduler::RoundRobin)).unwrap();
        let mut bytes = vec![];
        let header = Header { length: 0, kind: number, flags, sequence: 7, port: 99 };
        message::write_generic(&mut bytes, header, Generic { command: kind, version: 1 }, |w| {
            for (kind, inner) in &outer {
                w.nest(*kind, |w| inner.iter().for_each(|(kind, payload)| _ = w.put(*kind, payload)));
            }
        });
        let mut reply = vec![];
        if let Some(mut dump) = serve(&bytes[4..], &mut b, &mut reply).unwrap() {
            prop_assert!(dump.fill(&b, &mut reply, 10_000));
        }
        for message in messages(&reply) {
            let message = Message::read(&message).unwrap();
            prop_assert_eq!((message.header.sequence, message.header.port), (7, 99));
            prop_assert!(message.error().is_none_or(|number| number <= 0));
            prop_assert!(Attributes::new(message.payload).count() < 100);
        }
    }
}

#[test]
fn the_example_of_the_documentation_is_true() {
    // docs/control.md, "What it looks like".
    let mut out = vec![];
    message::write_ipvs(&mut out, Command::DelService, ACK, (1, 0), |w| {
        w.nest(command::SERVICE, |w| wire::Service::of_key(&web()).write(w));
    });
    let zeroes = [0; 12];
    let expected = [
        &[0, 0, 0, 0x44, 0x44, 0, 0, 0, 0x1d, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0, 0x30, 0, 1, 0][..],
        &[6, 0, 1, 0, 2, 0, 0, 0, 6, 0, 2, 0, 6, 0, 0, 0, 0x14, 0, 3, 0, 10, 0, 0, 100],
        &zeroes,
        &[6, 0, 4, 0, 0, 80, 0, 0],
    ]
    .concat();
    assert_eq!(out, expected);
    let mut reply = vec![];
    serve(&out[4..], &mut balancer(), &mut reply).unwrap();
    let expected =
        [&[0, 0, 0, 0x24, 0x24, 0, 0, 0, 2, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0xfd, 0xff, 0xff, 0xff][..], &out[4..20]]
            .concat();
    assert_eq!(reply, expected);
}

struct Nowhere;

impl crate::Sink for Nowhere {
    fn transmit(&mut self, _frame: &[u8]) {}

    fn resolved(&mut self, _next_hop: crate::NextHop) {}

    fn unreachable(&mut self, _next_hop: crate::NextHop) {}
}

#[test]
fn connections_are_listed_each_once() {
    let config = Config::new([2, 0, 0, 0, 0, 1], [1, 2]);
    let gateways = vec!["10.0.0.1".parse().unwrap()];
    let mut b = Balancer::new(Config { addresses: vec!["10.0.0.2/24".parse().unwrap()], gateways, ..config });
    let dns = ServiceKey::udp("10.0.0.100".parse().unwrap(), 53);
    b.add_service(dns, ServiceConfig::new(crate::Family::V4, Scheduler::RoundRobin)).unwrap();
    b.add_destination(&dns, server(11), DestinationConfig::new(Forward::Masquerade, 1)).unwrap();
    for port in 1000..1300u16 {
        let mut frame = vec![];
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1])
            .ipv4([10, 9, 0, 1], [10, 0, 0, 100], 64)
            .udp(port, 53)
            .write(&mut frame, b"?")
            .unwrap();
        b.process(&mut [crate::Packet::new(&mut frame)], crate::Instant::from_secs(1), &mut Nowhere);
    }
    assert_eq!(b.connections(), 300);
    let mut reply = vec![];
    let mut dump = serve(&request(Command::GetConnection, DUMP, |_| ()), &mut b, &mut reply).unwrap().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    loop {
        let done = dump.fill(&b, &mut reply, 1000);
        for message in messages(&reply) {
            let message = Message::read(&message).unwrap();
            let Some((_, mut attributes)) = message.generic().filter(|_| message.header.kind == FAMILY_ID) else {
                continue;
            };
            let info = wire::connection::read(&attributes.next().unwrap()).unwrap();
            assert_eq!((info.destination, info.virtual_port), (server(11).address, 53));
            assert!(seen.insert(info.client_port), "{info:?} again");
        }
        reply.clear();
        if done {
            break;
        }
    }
    assert_eq!(seen.len(), 300);
    assert_eq!(outcome(&mut b, &request(Command::GetConnection, ACK, |_| ())), -95, "only as a dump");
}

#[test]
fn what_clients_add_has_limits() {
    let mut b = Balancer::new(Config { services: 2, destinations: 3, ..Config::new([2, 0, 0, 0, 0, 1], [1, 2]) });
    let mut run = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        crate::ipvsadm::apply(&crate::ipvsadm::parse(&words).unwrap(), &mut b)
    };
    assert_eq!(run("-A -t 10.0.0.100:80"), Ok(()));
    assert_eq!(run("-A -t 10.0.0.100:81"), Ok(()));
    assert_eq!(run("-A -t 10.0.0.100:82"), Err(Errno::OutOfMemory));
    assert_eq!(run("-A -t 10.0.0.100:81"), Err(Errno::Exists));
    for port in 1..=3 {
        assert_eq!(run(&std::format!("-a -t 10.0.0.100:80 -r 10.0.0.11:{port} -m")), Ok(()));
    }
    assert_eq!(run("-a -t 10.0.0.100:81 -r 10.0.0.11:4 -m"), Err(Errno::OutOfMemory));
    // What was removed and has no connections makes room at once, in any number of turns.
    for port in 4..1000 {
        assert_eq!(run(&std::format!("-d -t 10.0.0.100:80 -r 10.0.0.11:{}", port - 1)), Ok(()), "{port}");
        assert_eq!(run(&std::format!("-a -t 10.0.0.100:80 -r 10.0.0.11:{port} -m")), Ok(()), "{port}");
    }
    assert_eq!(run("-C"), Ok(()));
    assert_eq!(run("-A -t 10.0.0.100:82"), Ok(()));
    assert_eq!(run("-a -t 10.0.0.100:82 -r 10.0.0.11 -m"), Ok(()));
}
