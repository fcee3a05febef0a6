//! SYN cookies: nothing is kept of a SYN, and a connection is opened to its server when the client has answered.

use super::super::errors::families;
use super::super::neighbours;
use super::announce::{Tcp, header, made};
use super::*;
use proptest::prelude::*;
use std::vec;

/// A client, and the server that it is to reach.
struct Scene {
    world: World,
    client: End,
    service: End,
    server: End,
    key: ServiceKey,
}

fn scene(v6: bool, full_nat: bool, announce: Announce, threshold: u32) -> Scene {
    scene_in(World::new(Forward::Masquerade), v6, full_nat, announce, threshold)
}

fn scene_in(mut world: World, v6: bool, full_nat: bool, announce: Announce, threshold: u32) -> Scene {
    let local = ip(if v6 { "fd00::200" } else { "10.0.0.200" });
    let pool = LocalPool { first: local, last: local, ports: (5000, 5999) };
    let key = services()[if v6 { 2 } else { 0 }];
    let extras = Extras { pool: full_nat.then_some(pool), announce, syn_cookies: Some(threshold), ..Extras::default() };
    set(&mut world, &key, extras);
    let [v4, six] = families();
    let (client, service, server, _) = if v6 { six } else { v4 };
    // The server's Ethernet address is known.
    world.send(udp(client, service)).unwrap();
    let request = world.said.frames.pop().unwrap();
    let mut reply = if v6 { neighbours::advertisement(&request) } else { neighbours::arp_reply(&request) };
    assert_eq!(world.process(&mut reply, &mut Offload::default()), Err(Verdict::Local));
    world.seconds(301);
    world.send(udp(client, service)).unwrap();
    let request = world.said.frames.pop();
    if let Some(request) = request {
        let mut reply = if v6 { neighbours::advertisement(&request) } else { neighbours::arp_reply(&request) };
        let _ = world.process(&mut reply, &mut Offload::default());
    }
    made(&mut world);
    Scene { world, client, service, server, key }
}

impl Scene {
    fn client_says(&self, flags: TcpFlags, sequence: u32, acknowledgement: u32, payload: &[u8]) -> Tcp {
        let payload = payload.to_vec();
        Tcp { from: self.client, to: self.service, flags, sequence, acknowledgement, options: vec![], payload }
    }

    fn counters(&self) -> ExtraCounters {
        self.world.balancer.extras().find(|info| info.service == Some(self.key)).unwrap().counters
    }

    fn drops(&mut self, segment: &Tcp) -> Reason {
        match self.world.frame(segment.frame()) {
            Err(Verdict::Drop(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn tcp_connections(&self) -> usize {
        self.world.balancer.connection_list(self.world.now).filter(|c| c.protocol == Protocol::Tcp).count()
    }

    /// The client's SYN, answered by a cookie, which is returned.
    fn cookie(&mut self, first: u32) -> u32 {
        let syn = Tcp { options: vec![2, 4, 0x05, 0x78, 4, 2, 1, 1], ..self.client_says(SYN, first, 0, b"") };
        let before = self.tcp_connections();
        assert_eq!(self.drops(&syn), Reason::SynCookie);
        assert_eq!(self.tcp_connections(), before, "nothing is kept");
        let answer = made(&mut self.world).pop().unwrap();
        let size: u16 = if self.client.0.is_ipv6() { 1440 } else { 1460 };
        assert_eq!((answer.from, answer.to, answer.flags), (self.service, self.client, SYN_ACK));
        assert_eq!((answer.acknowledgement, &answer.options[..2]), (first.wrapping_add(1), &[2, 4][..]));
        assert_eq!(answer.options[2..], size.to_be_bytes());
        answer.sequence
    }
}

#[test]
fn a_connection_is_opened_when_the_client_has_answered() {
    let all = [Announce::Nothing, Announce::Toa, Announce::Proxy];
    for (v6, full_nat, announce) in [false, true]
        .into_iter()
        .flat_map(|v6| [false, true].map(|full| (v6, full)))
        .flat_map(|(v6, full)| all.map(|a| (v6, full, a)))
    {
        let mut s = scene(v6, full_nat, announce, 0);
        let (first, server_first) = (u32::MAX, 77_000);
        let cookie = s.cookie(first);
        assert_eq!(s.drops(&s.client_says(ACK, 0, cookie.wrapping_add(1), b"")), Reason::SynCookie);
        let asked = made(&mut s.world).pop().unwrap();
        assert_eq!(
            (asked.to, asked.flags, asked.sequence, &asked.options),
            (s.server, SYN, first, &vec![2, 4, 0x05, 0x78])
        );
        assert_eq!(asked.from == s.client, !full_nat);
        let seen = asked.from;
        let list: Vec<_> =
            s.world.balancer.connection_list(s.world.now).filter(|c| c.protocol == Protocol::Tcp).collect();
        assert_eq!((list.len(), list[0].words().1, list[0].local), (1, "SYN_RECV", full_nat.then_some(seen)));
        // What comes meanwhile has the server asked again, once a second.
        let early = s.client_says(ACK, 0, cookie.wrapping_add(1), b"early");
        assert_eq!((s.drops(&early), made(&mut s.world).len()), (Reason::Opening, 0));
        s.world.seconds(1);
        assert_eq!((s.drops(&early), made(&mut s.world)), (Reason::Opening, vec![asked.clone()]));
        // Nobody but the server says that it is there.
        let answer = |flags, sequence, acknowledgement, payload: &[u8]| Tcp {
            from: s.server,
            to: seen,
            flags,
            sequence,
            acknowledgement,
            options: vec![],
            payload: payload.to_vec(),
        };
        let answers = [answer(ACK, 5, 0, b""), answer(SYN_ACK, server_first, 7, b"")];
        let good = Tcp { options: vec![2, 4, 5, 0xb4], ..answer(SYN_ACK, server_first, 0, b"") };
        let data = answer(ACK, server_first + 1, 0, b"hello");
        for answer in &answers[1..] {
            assert_eq!(s.drops(answer), Reason::Opening);
        }
        let opened = Tcp::read(&s.world.frame(good.frame()).unwrap());
        assert_eq!((opened.from, opened.to, opened.flags), (s.service, s.client, ACK));
        assert_eq!((opened.sequence, opened.acknowledgement, opened.payload.len()), (cookie.wrapping_add(1), 0, 0));
        let told = made(&mut s.world).pop().unwrap();
        assert_eq!((told.from, told.to, told.sequence, told.acknowledgement), (seen, s.server, 0, server_first + 1));
        let inserted = match announce {
            Announce::Nothing => 0,
            Announce::Toa => {
                assert_eq!(told.options[0], 254);
                0
            }
            Announce::Proxy => {
                assert_eq!(told.payload, header(s.client, s.service));
                told.payload.len() as u32
            }
        };
        let list: Vec<_> =
            s.world.balancer.connection_list(s.world.now).filter(|c| c.protocol == Protocol::Tcp).collect();
        assert_eq!(list[0].words().1, "ESTABLISHED");
        // From now on each has the other's numbers as it knows them.
        let sent = Tcp::read(&s.world.frame(data.frame()).unwrap());
        assert_eq!((sent.sequence, sent.payload), (cookie.wrapping_add(1), b"hello".to_vec()));
        let sack =
            [&[1, 1, 5, 10][..], &cookie.wrapping_add(1).to_be_bytes(), &cookie.wrapping_add(6).to_be_bytes()].concat();
        let reply = Tcp { options: sack, ..s.client_says(ACK, 0, cookie.wrapping_add(6), b"GET") };
        let got = match s.world.frame(reply.frame()) {
            Ok(frame) => Tcp::read(&frame),
            Err(_) => made(&mut s.world).pop().unwrap(),
        };
        assert_eq!((got.sequence, got.acknowledgement, got.payload), (inserted, server_first + 6, b"GET".to_vec()));
        assert!(got.options.ends_with(&[(server_first + 1).to_be_bytes(), (server_first + 6).to_be_bytes()].concat()));
        // A server that has not heard the ACK is told again; a SYN of the client is late.
        made(&mut s.world);
        assert_eq!((s.drops(&good), made(&mut s.world).len()), (Reason::Opening, 1));
        // A client that has begun anew is told by the server, whose numbers it gets as it knows them, and ends it.
        let syn = Tcp::read(&s.world.frame(s.client_says(SYN, 5000, 0, b"").frame()).unwrap());
        assert_eq!((syn.from, syn.to, syn.flags, syn.sequence), (seen, s.server, SYN, 5000));
        let challenge = Tcp { flags: ACK, sequence: server_first + 6, acknowledgement: inserted + 3, ..data };
        let challenge = Tcp { payload: vec![], ..challenge };
        let told = Tcp::read(&s.world.frame(challenge.frame()).unwrap());
        assert_eq!((told.sequence, told.acknowledgement), (cookie.wrapping_add(6), 3));
        let reset = Tcp::read(&s.world.frame(s.client_says(RST, 3, 0, b"").frame()).unwrap());
        assert_eq!((reset.flags, reset.sequence), (RST, inserted + 3));
        let counters = s.counters();
        assert_eq!((counters.cookies_sent, counters.cookies_taken, counters.cookies_wrong), (1, 1, 0));
        s.world.seconds(1000);
        assert_eq!(s.world.balancer.connections(), 0);
    }
}

#[test]
fn what_is_no_cookie_or_too_old_is_the_local_stacks() {
    let mut s = scene(false, false, Announce::Nothing, 0);
    let ack =
        |s: &Scene, first: u32, cookie: u32| s.client_says(ACK, first.wrapping_add(1), cookie.wrapping_add(1), b"");
    assert_eq!(s.world.frame(ack(&s, 1000, 7).frame()), Err(Verdict::Local));
    assert_eq!(s.counters().cookies_wrong, 0, "none is out, and nobody looks");
    let cookie = s.cookie(1000);
    for (first, cookie) in [(1000, cookie ^ 1), (1001, cookie), (1000, cookie.wrapping_add(1 << 24))] {
        assert_eq!(s.world.frame(ack(&s, first, cookie).frame()), Err(Verdict::Local));
    }
    let other = Tcp { from: (s.client.0, 4001), ..ack(&s, 1000, cookie) };
    assert_eq!(s.world.frame(other.frame()), Err(Verdict::Local));
    assert_eq!(s.counters().cookies_wrong, 4);
    s.world.seconds(129);
    assert_eq!(s.world.frame(ack(&s, 1000, cookie).frame()), Err(Verdict::Local));
    assert_eq!(s.tcp_connections(), 0);
}

#[test]
fn below_the_threshold_connections_are_as_ever_and_a_flood_ends_there() {
    let mut s = scene(false, false, Announce::Nothing, 2);
    let syn = |s: &Scene, port| Tcp { from: (s.client.0, port), ..s.client_says(SYN, 1000, 0, b"") };
    let sent = Tcp::read(&s.world.frame(syn(&s, 4001).frame()).unwrap());
    assert_eq!(sent.to, s.server);
    s.world.frame(syn(&s, 4002).frame()).unwrap();
    for port in 4003..4100 {
        assert_eq!(s.drops(&syn(&s, port)), Reason::SynCookie);
    }
    assert_eq!(s.tcp_connections(), 2);
    // One of both comes about, and is plain then.
    let reply = Tcp { from: s.server, to: (s.client.0, 4001), flags: SYN_ACK, acknowledgement: 1001, ..sent.clone() };
    s.world.frame(reply.frame()).unwrap();
    assert_eq!(s.drops(&syn(&s, 4003)), Reason::SynCookie);
    let ack = Tcp { from: (s.client.0, 4001), ..s.client_says(ACK, 1001, 1001, b"") };
    s.world.frame(ack.frame()).unwrap();
    assert_eq!(s.world.balancer.table.half_open(), 1);
    assert!(s.world.frame(syn(&s, 4003).frame()).is_ok());
    assert_eq!(s.drops(&syn(&s, 4004)), Reason::SynCookie);
    let reply = Tcp { flags: ACK, payload: b"x".to_vec(), ..reply };
    assert_eq!(Tcp::read(&s.world.frame(reply.frame()).unwrap()).sequence, reply.sequence);
    // Those that do not come about are gone after a minute.
    s.world.seconds(61);
    assert_eq!((s.world.balancer.table.half_open(), s.tcp_connections()), (0, 1));
    assert!(s.world.frame(syn(&s, 4004).frame()).is_ok());
}

#[test]
fn an_ack_that_acknowledges_nothing_ends_no_flood() {
    for is_secure in [false, true] {
        let mut s = scene(false, false, Announce::Nothing, 2);
        s.world.balancer.set_sysctl("secure_tcp", if is_secure { 3 } else { 0 }).unwrap();
        let from = |s: &Scene, port, flags, sequence, acknowledgement| Tcp {
            from: (s.client.0, port),
            ..s.client_says(flags, sequence, acknowledgement, b"")
        };
        let reply = |s: &Scene, port, flags, sequence, acknowledgement| Tcp {
            from: s.server,
            to: (s.client.0, port),
            ..s.client_says(flags, sequence, acknowledgement, b"")
        };
        for port in [4001, 4002] {
            s.world.frame(from(&s, port, SYN, 1000, 0).frame()).unwrap();
            for flags in [ACK, FIN, TcpFlags::empty()] {
                assert_eq!(s.drops(&from(&s, port, flags, 1001, 1)), Reason::Opening, "before the server has answered");
            }
            s.world.frame(reply(&s, port, SYN_ACK, 77_000, 1001).frame()).unwrap();
            for acknowledged in [77_000, 77_002, 1] {
                assert_eq!(s.drops(&from(&s, port, ACK, 1001, acknowledged)), Reason::Opening, "a guess");
            }
            // To another SYN a server in SYN_RECV answers by an ACK, which goes to whom it may concern.
            s.world.frame(from(&s, port, SYN, 5000, 0).frame()).unwrap();
            s.world.frame(reply(&s, port, ACK, 77_001, 1001).frame()).unwrap();
            s.world.frame(from(&s, port, RST, 1001, 0).frame()).unwrap();
        }
        assert_eq!(s.world.balancer.table.half_open(), 2);
        assert_eq!(s.drops(&from(&s, 4003, SYN, 1000, 0)), Reason::SynCookie);
        // Who gets the answers comes in, what the server has said before included.
        s.world.frame(reply(&s, 4001, ACK, 77_001, 1001).frame()).unwrap();
        let early = Tcp { payload: b"220".to_vec(), ..reply(&s, 4001, ACK, 77_001, 1001) };
        s.world.frame(early.frame()).unwrap();
        assert_eq!(s.drops(&from(&s, 4001, ACK, 1001, 77_005)), Reason::Opening);
        s.world.frame(from(&s, 4001, ACK, 1001, 77_004).frame()).unwrap();
        assert_eq!(s.world.balancer.table.half_open(), 1);
        s.world.seconds(61);
        assert_eq!(s.world.balancer.table.half_open(), 0);
    }
}

#[test]
fn what_a_client_and_a_server_begin_anew_has_no_cookie() {
    let mut s = scene(false, false, Announce::Nothing, 0);
    let cookie = s.cookie(1000);
    s.drops(&s.client_says(ACK, 1001, cookie.wrapping_add(1), b""));
    let (server, client) = (s.server, s.client);
    let reply = |s: &Scene, flags, sequence, acknowledgement| Tcp {
        from: server,
        to: client,
        ..s.client_says(flags, sequence, acknowledgement, b"")
    };
    s.world.frame(reply(&s, SYN_ACK, 77_000, 1001).frame()).unwrap();
    assert_eq!(Tcp::read(&s.world.frame(s.client_says(SYN, 5000, 0, b"").frame()).unwrap()).sequence, 5000);
    let answer = reply(&s, SYN_ACK, 99_000, 5001);
    let got = Tcp::read(&s.world.frame(answer.frame()).unwrap());
    assert_eq!((got.flags, got.sequence, got.acknowledgement), (SYN_ACK, 99_000, 5001));
    let got = Tcp::read(&s.world.frame(s.client_says(ACK, 5001, 99_001, b"x").frame()).unwrap());
    assert_eq!((got.sequence, got.acknowledgement), (5001, 99_001));
    let got = Tcp::read(&s.world.frame(reply(&s, ACK, 99_001, 5002).frame()).unwrap());
    assert_eq!((got.sequence, got.acknowledgement), (99_001, 5002));
}

#[test]
fn where_what_lies_beside_connections_runs_short_cookies_begin_and_what_is_left_is_for_those_who_answer() {
    let mut world = World::with(|config| config.extras = 16);
    world.add_servers(Forward::Masquerade);
    let mut s = scene_in(world, false, true, Announce::Nothing, 14);
    let too_many = Extras { syn_cookies: Some(15), ..Extras::default() };
    assert_eq!(s.world.balancer.set_extras(Some(&s.key), too_many), Err(Errno::Invalid));
    let from = |s: &Scene, port, flags, acknowledgement| Tcp {
        from: (s.client.0, port),
        ..s.client_says(flags, if flags == SYN { 1000 } else { 1001 }, acknowledgement, b"")
    };
    // None of them is half open, and each keeps its place.
    for port in 5000..5014 {
        let sent = Tcp::read(&s.world.frame(from(&s, port, SYN, 0).frame()).unwrap());
        let reply = Tcp { from: s.server, to: sent.from, ..s.client_says(SYN_ACK, 77_000, 1001, b"") };
        s.world.frame(reply.frame()).unwrap();
        s.world.frame(from(&s, port, ACK, 77_001).frame()).unwrap();
    }
    assert_eq!(s.world.balancer.table.half_open(), 0);
    let answered = |s: &mut Scene, port| {
        assert_eq!(s.drops(&from(s, port, SYN, 0)), Reason::SynCookie);
        let cookie = made(&mut s.world).pop().unwrap().sequence;
        let reason = s.drops(&from(s, port, ACK, cookie.wrapping_add(1)));
        (reason, cookie, made(&mut s.world).pop().unwrap())
    };
    for port in [5014, 5015] {
        let (reason, _, asked) = answered(&mut s, port);
        assert_eq!((reason, asked.flags, asked.to), (Reason::SynCookie, SYN, s.server));
    }
    let (reason, cookie, told) = answered(&mut s, 5016);
    assert_eq!(reason, Reason::TableFull);
    assert_eq!((told.flags, told.sequence, told.to), (RST, cookie.wrapping_add(1), (s.client.0, 5016)));
    assert_eq!((s.counters().cookies_sent, s.counters().cookies_taken), (3, 2));
}

#[test]
fn a_server_is_asked_again_whatever_its_client_says() {
    for is_known in [true, false] {
        let mut s = match is_known {
            true => scene(false, false, Announce::Nothing, 0),
            false => {
                let mut world = World::new(Forward::Masquerade);
                let key = services()[0];
                set(&mut world, &key, Extras { syn_cookies: Some(0), ..Extras::default() });
                let [(client, service, server, _), _] = families();
                Scene { world, client, service, server, key }
            }
        };
        let cookie = s.cookie(1000);
        assert_eq!(s.drops(&s.client_says(ACK, 1001, cookie.wrapping_add(1), b"")), Reason::SynCookie);
        if is_known {
            assert_eq!(made(&mut s.world).len(), 1);
        } else {
            // It cannot be sent before somebody has told to whom.
            let request = s.world.said.frames.pop().unwrap();
            assert_eq!(request[12..14], [8, 6]);
            let mut reply = neighbours::arp_reply(&request);
            assert_eq!(s.world.process(&mut reply, &mut Offload::default()), Err(Verdict::Local));
        }
        for _ in 0..3 {
            s.world.seconds(1);
            let asked = made(&mut s.world);
            assert_eq!((asked.len(), asked[0].to, asked[0].flags, asked[0].sequence), (1, s.server, SYN, 1000));
        }
        let reply = Tcp { from: s.server, to: s.client, ..s.client_says(SYN_ACK, 77_000, 1001, b"") };
        s.world.frame(reply.frame()).unwrap();
        made(&mut s.world);
        s.world.seconds(10);
        assert_eq!(made(&mut s.world), vec![]);
        assert_eq!(s.world.balancer.openings.deadline(), None);
    }
}

#[test]
fn whose_ack_was_lost_comes_in_by_asking_for_the_window() {
    for payload in [&b""[..], b"x"] {
        let mut s = scene(false, false, Announce::Nothing, 0);
        let cookie = s.cookie(1000);
        let data = s.client_says(ACK, 1000, cookie.wrapping_add(1), b"more");
        assert_eq!(s.world.frame(data.frame()), Err(Verdict::Local), "no probe");
        let probe = s.client_says(ACK, 1000, cookie.wrapping_add(1), payload);
        assert_eq!(s.drops(&probe), Reason::SynCookie);
        let asked = made(&mut s.world).pop().unwrap();
        assert_eq!((asked.to, asked.flags, asked.sequence), (s.server, SYN, 1000));
        let reply = Tcp { from: s.server, to: asked.from, ..s.client_says(SYN_ACK, 77_000, 1001, b"") };
        let opened = Tcp::read(&s.world.frame(reply.frame()).unwrap());
        assert_eq!((opened.sequence, opened.acknowledgement), (cookie.wrapping_add(1), 1001));
    }
}

#[test]
fn a_server_that_refuses_is_a_reset_and_a_service_without_one_too() {
    let mut s = scene(false, true, Announce::Nothing, 0);
    let cookie = s.cookie(1000);
    s.drops(&s.client_says(ACK, 1001, cookie.wrapping_add(1), b""));
    let asked = made(&mut s.world).pop().unwrap();
    let refusal = Tcp { from: s.server, to: asked.from, flags: RST | ACK, sequence: 0, acknowledgement: 1001, ..asked };
    let refusal = Tcp { options: vec![], ..refusal };
    let told = Tcp::read(&s.world.frame(refusal.frame()).unwrap());
    assert_eq!((told.flags, told.sequence, told.acknowledgement), (RST | ACK, cookie.wrapping_add(1), 1001));

    s.world.balancer.delete_destination(&s.key, &server(false)).unwrap();
    s.world.seconds(61);
    let cookie = s.cookie(2000);
    assert_eq!(s.drops(&s.client_says(ACK, 2001, cookie.wrapping_add(1), b"")), Reason::NoDestination);
    let told = made(&mut s.world).pop().unwrap();
    assert_eq!((told.flags, told.sequence, told.to), (RST, cookie.wrapping_add(1), s.client));
}

#[test]
fn a_client_that_gives_up_while_the_server_is_asked_is_forgotten() {
    let mut s = scene(false, false, Announce::Nothing, 0);
    let cookie = s.cookie(1000);
    s.drops(&s.client_says(ACK, 1001, cookie.wrapping_add(1), b""));
    assert_eq!(s.tcp_connections(), 1);
    assert_eq!(s.drops(&s.client_says(RST, 1002, 0, b"")), Reason::Opening, "not by a guess");
    assert_eq!(s.tcp_connections(), 1);
    assert_eq!(s.drops(&s.client_says(RST, 1001, 0, b"")), Reason::Opening);
    assert_eq!(s.tcp_connections(), 0);
}

#[test]
fn limits_count_those_who_have_answered() {
    let mut s = scene(false, false, Announce::Nothing, 0);
    let limits = SourceLimits { connections: 1, ..SourceLimits::default() };
    set(&mut s.world, &s.key.clone(), Extras { syn_cookies: Some(0), limits, ..Extras::default() });
    let [one, two] = [1000, 2000].map(|first| (first, s.cookie(first)));
    assert_eq!(s.drops(&s.client_says(ACK, one.0 + 1, one.1.wrapping_add(1), b"")), Reason::SynCookie);
    let second = Tcp { from: (s.client.0, 4001), ..s.client_says(SYN, two.0, 0, b"") };
    assert_eq!(s.drops(&second), Reason::SourceLimit);
}

#[test]
fn it_goes_with_nat_and_tcp_only() {
    let extras = Extras { syn_cookies: Some(1), ..Extras::default() };
    let [tcp, udp, ..] = services();
    let mut direct = World::new(Forward::Direct);
    assert_eq!(direct.balancer.set_extras(Some(&tcp), extras), Err(Errno::NotSupported));
    let mut world = World::new(Forward::Masquerade);
    assert_eq!(world.balancer.set_extras(Some(&udp), extras), Err(Errno::NotSupported));
    assert_eq!(world.balancer.set_extras(None, extras), Err(Errno::Invalid));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// However connections come, answer, come about and end: half-open ones are counted right, and nothing is left in the end.
    #[test]
    fn the_books_are_right(threshold in 0u32..4, steps in prop::collection::vec((0u8..8, 0u16..6, 0u64..30_000), 1..150)) {
        let mut s = scene(false, true, Announce::Proxy, threshold);
        let mut cookies = [None; 6];
        for (what, n, milliseconds) in steps {
            let from = (s.client.0, 4000 + n);
            let first = 1000 * u32::from(n);
            let seen = s.world.balancer.connection_list(s.world.now).find(|c| c.client_port == 4000 + n && c.protocol == Protocol::Tcp).and_then(|c| c.local);
            match (what, seen) {
                (0 | 1, _) => {
                    let syn = Tcp { from, ..s.client_says(SYN, first, 0, b"") };
                    if s.world.frame(syn.frame()) == Err(Verdict::Drop(Reason::SynCookie)) {
                        cookies[usize::from(n)] = made(&mut s.world).pop().map(|answer| answer.sequence);
                    }
                }
                (2 | 3, _) => {
                    let number = cookies[usize::from(n)].unwrap_or(7);
                    let ack = Tcp { from, ..s.client_says(ACK, first + 1, number.wrapping_add(1), b"") };
                    let _ = s.world.frame(ack.frame());
                }
                (4, Some(seen)) => {
                    let reply = Tcp { from: s.server, to: seen, ..s.client_says(SYN_ACK, 9000, first + 1, b"") };
                    let _ = s.world.frame(reply.frame());
                }
                (5, Some(seen)) => {
                    let reply = Tcp { from: s.server, to: seen, ..s.client_says(RST | ACK, 0, first + 1, b"") };
                    let _ = s.world.frame(reply.frame());
                }
                (6, _) => {
                    let reset = Tcp { from, ..s.client_says(RST, first + 1, 0, b"") };
                    let _ = s.world.frame(reset.frame());
                }
                _ => s.world.pass(Duration::from_millis(milliseconds)),
            }
            let waiting = s.world.balancer.connection_list(s.world.now).filter(|c| c.words().1 == "SYN_RECV").count();
            prop_assert!(s.world.balancer.table.half_open() as usize <= waiting);
            prop_assert!(s.world.balancer.table.half_open() <= threshold);
        }
        s.world.seconds(1000);
        prop_assert_eq!((s.world.balancer.connections(), s.world.balancer.table.half_open()), (0, 0));
    }
}
