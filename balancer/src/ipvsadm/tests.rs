//! The syntax as a whole.

use super::*;
use crate::{
    DestinationConfig, DestinationKey, Errno, Family, Forward, Protocol, ServiceFlags, ServiceKey, Timeouts, Tunnel,
};
use proptest::prelude::*;
use std::format;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::string::{String, ToString};
use std::vec::Vec;

fn words(line: &str) -> Result<Command, ParseError> {
    parse(&line.split_whitespace().collect::<Vec<_>>())
}

fn problem(line: &str) -> (String, Problem) {
    let error = words(line).expect_err(line);
    (error.word, error.problem)
}

fn web() -> ServiceKey {
    ServiceKey::tcp("10.0.0.100".parse().unwrap(), 80)
}

fn entry(key: ServiceKey) -> ServiceEntry {
    let netmask = if key.family() == Family::V4 { u32::MAX } else { 128 };
    let flags = ServiceFlags::empty();
    ServiceEntry { key, scheduler: DEFAULT_SCHEDULER, flags, timeout: 0, netmask, persistence_engine: None }
}

#[test]
fn what_ipvsadm_saves_is_shown_the_same() {
    // Written by ipvsadm 1.31 on Linux 6.1 (-S -n).
    for line in [
        "-A -t 10.0.0.100:0 -s wlc -p 360",
        "sysctl net.ipv4.vs.sloppy_tcp=1",
        "sysctl net.ipv4.vs.drop_entry",
        "sysctl",
        "-A -t 10.0.0.100:80 -s wlc",
        "-a -t 10.0.0.100:80 -r 10.0.0.11:80 -m -w 1",
        "-a -t 10.0.0.100:80 -r 10.0.0.12:80 -g -w 1",
        "-a -t 10.0.0.100:80 -r 10.0.0.14:8080 -m -w 70000",
        "-a -t 10.0.0.100:80 -r 10.0.0.16:80 -i -w 1 --tun-type ipip",
        "-a -t 10.0.0.100:80 -r 10.0.0.17:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum",
        "-a -t 10.0.0.100:80 -r 10.0.0.18:80 -i -w 1 --tun-type gre --tun-csum",
        "-a -t 10.0.0.100:80 -r 10.0.0.19:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum",
        "-A -u 10.0.0.100:53 -s wrr -p 600 -M 255.255.255.0",
        "-A -u 10.0.0.100:54 -s rr -o",
        "-A -u 10.0.0.100:5060 -s rr -p 360 --pe sip",
        "-A --sctp-service 10.0.0.100:5000 -s wlc --pe sip",
        "-A -t [fd00::100]:80 -s lc -p 60 -M 64",
        "-a -t [fd00::100]:80 -r [fd00::b]:80 -m -w 5",
        "-A -f 7 -s sh -b sh-fallback,sh-port",
        "-a -f 7 -r 10.0.0.11:0 -m -w 1",
        "-A -f 8 -6 -s mh -b mh-port",
        "-A -f 9 -s rr -b flag-1,flag-3",
    ] {
        assert_eq!(words(line).expect(line).to_string(), line);
    }
}

#[test]
fn what_is_not_said_has_ipvsadms_default() {
    assert_eq!(words("-A -t 10.0.0.100:80"), Ok(Command::AddService(entry(web()))));
    let persistent = ServiceEntry { flags: ServiceFlags::PERSISTENT, timeout: 360, ..entry(web()) };
    assert_eq!(words("-E -t 10.0.0.100:80 -p"), Ok(Command::EditService(persistent)));
    assert_eq!(words("-A -p -t 10.0.0.100:80"), Ok(Command::AddService(persistent)), "-p takes no option as value");
    let server = DestinationKey { address: "10.0.0.11".parse().unwrap(), port: 80 };
    let config = DestinationConfig::new(Forward::Direct, 1);
    let add = Command::AddServer { service: web(), server, config };
    assert_eq!(words("-a -t 10.0.0.100:80 -r 10.0.0.11"), Ok(add));
    assert_eq!(words("-a -t 10.0.0.100:80 -r 10.0.0.11:8080"), Ok(add), "only NAT changes ports");
    let Ok(Command::AddServer { server, .. }) = words("-a -t 10.0.0.100:80 -r 10.0.0.11 -m") else { panic!() };
    assert_eq!(server.port, 80);
    assert_eq!(parse(&[]), Ok(Command::List(Listing::default())));
}

#[test]
fn options_are_written_as_popt_reads_them() {
    let rr = words("-A -t 10.0.0.100:80 -s rr").unwrap();
    for same in [
        "-A --tcp-service=10.0.0.100:80 --scheduler=rr",
        "-At 10.0.0.100:80 -s=rr",
        "-At10.0.0.100:80 -srr",
        "--add-service --tcp-service 10.0.0.100:80 --scheduler rr",
        "-s rr -t 10.0.0.100:80 -A",
    ] {
        assert_eq!(words(same), Ok(rr), "{same}");
    }
    let list = words("-Ln").unwrap();
    assert_eq!(list, Command::List(Listing { numeric: true, ..Listing::default() }));
    for same in ["-ln", "-L -n", "--list --numeric", "-nl", "-Ln --sort"] {
        assert_eq!(words(same), Ok(list), "{same}");
    }
    let Ok(Command::List(connections)) = words("-Lnc --persistent-conn") else { panic!() };
    assert!(connections.connections && connections.persistent);
    assert_eq!(words("--set 900 120 0"), Ok(Command::SetTimeouts(Timeouts { tcp: 900, tcp_fin: 120, udp: 0 })));
    assert_eq!(
        words("-a -t [fd00::100] -r fd00::1 -m").map(|c| c.to_string()),
        Ok(String::from("-a -t [fd00::100]:0 -r [fd00::1]:0 -m -w 1"))
    );
    assert_eq!(
        (words("-S -n"), words("-R"), words("-h")),
        (Ok(Command::Save), Ok(Command::Restore), Ok(Command::Help))
    );
    assert_eq!((words("-L --help"), words("-A -v")), (Ok(Command::Help), Ok(Command::Version)));
    assert_eq!(words("-Z"), Ok(Command::Zero(None)));
}

#[test]
fn every_refusal_names_the_word() {
    use Problem::*;
    for (line, word, problem_) in [
        ("-n", "-n", NoCommand),
        ("foo", "foo", NoCommand),
        ("-A -D -t 10.0.0.1:80", "-D", SecondCommand),
        ("--bogus", "--bogus", UnknownOption),
        ("-k", "-k", UnknownOption),
        ("-Lé", "-Lé", UnknownOption),
        ("-A -t", "-t", MissingValue("ADDRESS:PORT")),
        ("-C=1", "-C=1", UnexpectedValue),
        ("--clear=1", "--clear=1", UnexpectedValue),
        ("-C foo", "foo", Stray),
        ("-", "-", NoCommand),
        ("-C -", "-", Stray),
        ("-A -t 10.0.0.1:80 -u 10.0.0.1:81", "-u", Repeated("service")),
        ("-A -t 10.0.0.1:80 -s rr -s wlc", "-s", Repeated("--scheduler")),
        ("-a -t 10.0.0.1:80 -r 10.0.0.2 -mg", "-mg", Repeated("forwarding method")),
        ("-C -t 10.0.0.1:80", "-t", NotWith("--clear")),
        ("-D -t 10.0.0.1:80 -s rr", "-s", NotWith("--delete-service")),
        ("-A", "-A", Needs("a service: -t, -u or -f")),
        ("-a -t 10.0.0.1:80", "-a", Needs("a server: -r ADDRESS:PORT")),
        ("-A -t 10.0.0.1:http", "10.0.0.1:http", ServiceAddress),
        ("-A -t 10.0.0.1:99999", "10.0.0.1:99999", ServiceAddress),
        ("-A -t 10.0.0.1:+80", "10.0.0.1:+80", ServiceAddress),
        ("-A -t www.example:80", "www.example:80", ServiceAddress),
        ("-A -t [10.0.0.1]:80", "[10.0.0.1]:80", ServiceAddress),
        ("-A -t [fd00::1:80", "[fd00::1:80", ServiceAddress),
        ("-A -t [fd00::1]80", "[fd00::1]80", ServiceAddress),
        ("-a -t 10.0.0.1:80 -r x", "x", ServerAddress),
        ("-A -f 0", "0", Mark),
        ("-A -f 4294967296", "4294967296", Mark),
        ("-A -6 -t 10.0.0.1:80", "-6", FamilyOfAddress),
        ("-A -t 10.0.0.1", "10.0.0.1", ZeroPort),
        ("-A -t 10.0.0.1:80 -o", "-o", OnePacket),
        ("-A -t 10.0.0.1:80 -s averyveryverylongname", "averyveryverylongname", Name),
        ("-A -t 10.0.0.1:80 -s rr -b sh-port", "sh-port", OtherSchedulersFlag),
        ("-A -t 10.0.0.1:80 -s rr -b flag-4", "flag-4", SchedulerFlag),
        ("-A -t 10.0.0.1:80 -p 0", "0", Timeout(1)),
        ("--set 10 99999999 0", "99999999", Timeout(0)),
        ("--set 1 2", "--set", ThreeTimeouts),
        ("-A -t 10.0.0.1:80 -M 24", "24", Netmask),
        ("-A -t [fd00::1]:80 -M 129", "129", NetmaskV6),
        ("-a -t 10.0.0.1:80 -r 10.0.0.2 -w -1", "-1", Number("weight")),
        ("-a -t 10.0.0.1:80 -r 10.0.0.2 -x 2147483648", "2147483648", Number("upper threshold")),
        ("-a -t 10.0.0.1:80 -r fd00::2 -m", "fd00::2", OtherFamily),
        ("-a -t 10.0.0.1:80 -r 10.0.0.2 -m --tun-type gue", "--tun-type", TunnelWithout),
        ("-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-type vxlan", "vxlan", TunnelType),
        ("-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-type gue --tun-port 0", "0", TunnelPort),
        ("-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-type gue", "gue", Needs("--tun-port PORT")),
        ("-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-csum", "--tun-csum", TunnelOption("ipip")),
        ("-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-type gre --tun-remcsum", "--tun-remcsum", TunnelOption("gre")),
        ("--start-daemon foo", "foo", Daemon),
        ("--start-daemon master --syncid 256", "256", DaemonNumber(0, 255)),
        ("--start-daemon master --mcast-ttl 0", "0", DaemonNumber(1, 255)),
        ("--start-daemon master --mcast-group 10.0.0.1", "10.0.0.1", Group),
        ("--stop-daemon", "--stop-daemon", MissingValue("master or backup")),
        ("sysctl sync_threshold=3 50 7", "7", Stray),
        ("-L --stats --rate", "--rate", ListConflict("--stats")),
        ("-L --sort --nosort", "--nosort", ListConflict("--sort")),
    ] {
        assert_eq!(problem(line), (word.to_string(), problem_), "{line}");
        let shown = words(line).unwrap_err().to_string();
        assert!(shown.starts_with(&format!("`{word}`: ")) || word.is_empty(), "{shown}");
    }
    let long = "x".repeat(5000);
    let error = parse(&["-A", "-t", &long]).unwrap_err();
    assert!(error.word.chars().count() == 65 && error.to_string().len() < 300);
    assert_eq!(parse(&["-A", "-t", "\x1b[31m"]).unwrap_err().word, "\\u{1b}[31m", "no terminal is painted red");
}

#[test]
fn commands_are_applied_as_by_wire() {
    let mut balancer = crate::Balancer::new(crate::Config::new([2, 0, 0, 0, 0, 1], [1, 2]));
    let mut run = |line: &str| apply(&words(line).expect(line), &mut balancer);
    assert_eq!(run("-A -t 10.0.0.100:80 -s wlc"), Ok(()));
    assert_eq!(run("-A -t 10.0.0.100:80 -s nosuch"), Err(Errno::Exists), "before the scheduler is looked for");
    assert_eq!(run("-A -t 10.0.0.100:81 -s nosuch"), Err(Errno::NotFound));
    assert_eq!(run("-A --sctp-service 10.0.0.100:80"), Ok(()), "another protocol, another service");
    assert_eq!(run("-D --sctp-service 10.0.0.100:80"), Ok(()));
    assert_eq!(run("-a -t 10.0.0.100:80 -r 10.0.0.11:80 -m"), Ok(()));
    assert_eq!(run("-a -t 10.0.0.100:80 -r 10.0.0.11:80 -m"), Err(Errno::Exists));
    assert_eq!(run("-e -t 10.0.0.100:80 -r 10.0.0.11:80 -m -w 3"), Ok(()));
    assert_eq!(run("-a -t 10.0.0.99:80 -r 10.0.0.11:80 -m"), Err(Errno::NoService));
    assert_eq!(run("-E -t 10.0.0.99:80"), Err(Errno::NoService));
    assert_eq!(run("-E -t 10.0.0.100:80 -s rr"), Ok(()));
    assert_eq!(run("-Z"), Ok(()));
    assert_eq!(run("--set 800 0 0"), Ok(()));
    assert_eq!(run("--start-daemon master"), Err(Errno::Invalid), "it has no address to speak from");
    assert_eq!(run("--stop-daemon master"), Err(Errno::NoService));
    assert_eq!(run("sysctl sync_threshold=60 100"), Ok(()));
    assert_eq!(run("sysctl sync_threshold = 100"), Err(Errno::Invalid));
    assert_eq!(run("-L"), Err(Errno::Invalid));
    let info = balancer.services().next().unwrap();
    assert_eq!(service_of(&info).to_string(), "-A -t 10.0.0.100:80 -s rr");
    let server = balancer.destinations(&web()).unwrap().next().unwrap();
    let saved = destination_of(&web(), &server.key, &server.config).to_string();
    assert_eq!(saved, "-a -t 10.0.0.100:80 -r 10.0.0.11:80 -m -w 3");
    let mut run = |line: &str| apply(&words(line).expect(line), &mut balancer);
    assert_eq!(run("-d -t 10.0.0.100:80 -r 10.0.0.11"), Ok(()));
    assert_eq!(run("-D -t 10.0.0.100:80"), Ok(()));
    assert_eq!(run("-C"), Ok(()));
}

fn address(family: Family) -> BoxedStrategy<IpAddr> {
    match family {
        Family::V4 => any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()).boxed(),
        Family::V6 => any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()).boxed(),
    }
}

fn key() -> impl Strategy<Value = ServiceKey> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    family.prop_flat_map(|family| {
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
        prop_oneof![
            3 => (protocol, address(family), any::<u16>())
                .prop_map(|(protocol, address, port)| ServiceKey::Address { protocol, address, port }),
            1 => (1..=u32::MAX).prop_map(move |mark| ServiceKey::Mark { family, mark }),
        ]
    })
}

fn entries() -> impl Strategy<Value = ServiceEntry> {
    let scheduler = prop_oneof![Just("sh"), Just("mh"), Just("wlc"), Just("fifteen-letters")];
    let flags = (0u32..64).prop_map(|bits| ServiceFlags::from_bits_retain(bits) - ServiceFlags::HASHED);
    (key(), scheduler, flags, 1..=TIMEOUT_MAX, any::<u32>(), any::<bool>()).prop_map(
        |(key, scheduler, mut flags, timeout, mask, engine)| {
            if let ServiceKey::Address { protocol, port, .. } = key {
                flags.set(ServiceFlags::PERSISTENT, flags.contains(ServiceFlags::PERSISTENT) || port == 0);
                flags.set(
                    ServiceFlags::ONE_PACKET,
                    flags.contains(ServiceFlags::ONE_PACKET) && protocol == Protocol::Udp,
                );
            }
            ServiceEntry {
                key,
                scheduler: Name::new(scheduler).unwrap(),
                flags,
                timeout: if flags.contains(ServiceFlags::PERSISTENT) { timeout } else { 0 },
                netmask: if key.family() == Family::V4 { mask } else { mask % 128 + 1 },
                persistence_engine: engine.then(|| Name::new("sip").unwrap()),
            }
        },
    )
}

fn servers() -> impl Strategy<Value = Command> {
    let forward = prop_oneof![Just(Forward::Masquerade), Just(Forward::Direct), Just(Forward::Tunnel)];
    let tunnel = (0u8..3, 1..=u16::MAX, 0u16..3);
    (key(), forward, any::<u16>(), 0..=i32::MAX, 0..=i32::MAX as u32, 0..=i32::MAX as u32, tunnel)
        .prop_flat_map(|parts| (address(parts.0.family()), Just(parts)))
        .prop_map(
            |(address, (service, forward, port, weight, upper_threshold, lower_threshold, (kind, tun, flags)))| {
                let port = match (forward, service) {
                    (Forward::Masquerade, _) => port,
                    (_, ServiceKey::Address { port, .. }) => port,
                    _ => 0,
                };
                let tunnel = match (forward, kind) {
                    (Forward::Tunnel, 1) => Tunnel { kind, port: tun, flags },
                    (Forward::Tunnel, 2) => Tunnel { kind, port: 0, flags: flags & 1 },
                    _ => Tunnel::default(),
                };
                let config = DestinationConfig { forward, weight, upper_threshold, lower_threshold, tunnel };
                Command::AddServer { service, server: DestinationKey { address, port }, config }
            },
        )
}

proptest! {
    #[test]
    fn what_is_saved_parses_back(entry in entries(), server in servers()) {
        for command in [Command::AddService(entry), Command::EditService(entry), server] {
            let line = command.to_string();
            prop_assert_eq!(words(&line), Ok(command), "{}", line);
        }
        prop_assert_eq!(ServiceEntry::read(&entry.wire()), Ok(entry));
    }

    #[test]
    fn any_words_are_read(line in "(-{0,2}[A-Za-z0-9:.=\\[\\]-]{0,12} ){0,8}") {
        if let Ok(command) = words(&line) {
            let shown = command.to_string();
            prop_assert_eq!(words(&shown).map(|c| c.to_string()), Ok(shown));
        }
    }
}
