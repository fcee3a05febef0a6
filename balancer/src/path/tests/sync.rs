//! Synchronization: two balancers, of which one tells the other of its connections.

use super::*;
use proptest::prelude::*;

const BACKUP_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 3];

/// A master and a backup with the same services and servers.
struct Pair {
    master: World,
    backup: World,
    /// Frames the master has sent, and not yet given to the backup.
    sent: Vec<Vec<u8>>,
}

fn daemon(role: DaemonRole, syncid: u32) -> Daemon {
    Daemon { syncid, ..Daemon::new(role) }
}

fn backup_world() -> World {
    World::with(|config| {
        config.addresses = ["10.0.0.3/24", "fd00::3/64"].iter().map(|a| a.parse().unwrap()).collect();
        config.mac = BACKUP_MAC;
    })
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self::unstarted();
        pair.master.balancer.start_daemon(daemon(DaemonRole::Master, 7)).unwrap();
        pair.backup.balancer.start_daemon(daemon(DaemonRole::Backup, 7)).unwrap();
        pair.seconds(5);
        pair
    }

    fn unstarted() -> Self {
        let mut pair = Pair { master: World::new(Forward::Masquerade), backup: backup_world(), sent: Vec::new() };
        pair.backup.add_servers(Forward::Masquerade);
        pair.seconds(1);
        pair
    }

    /// Lets time pass on both sides, and frames to groups go to and fro.
    fn seconds(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            for world in [&mut self.master, &mut self.backup] {
                world.pass(Duration::from_millis(100));
            }
            self.carry();
        }
    }

    fn carry(&mut self) {
        let groups = |said: &mut Said| -> Vec<_> {
            said.frames.drain(..).filter(|frame| frame[0] & 1 != 0 && frame[12..14] != [8, 6]).collect()
        };
        let (from_master, from_backup) = (groups(&mut self.master.said), groups(&mut self.backup.said));
        for frame in from_backup {
            let _ = self.master.process(&mut frame.clone(), &mut Offload::default());
        }
        for frame in from_master {
            let _ = self.backup.process(&mut frame.clone(), &mut Offload::default());
            self.sent.push(frame);
        }
    }

    /// A connection through the master that is established and was told.
    fn establish(&mut self, port: u16) -> Segment {
        let open = tcp(end(CLIENT, port), end(VIRTUAL, 80), SYN);
        let inside = self.master.send(open).unwrap();
        self.master.send(inside.back(Some(SYN_ACK))).unwrap();
        for _ in 0..3 {
            self.master.send(Segment { flags: Some(ACK), ..open }).unwrap();
        }
        inside
    }

    fn lists(&self) -> [Vec<ConnectionInfo>; 2] {
        [&self.master, &self.backup].map(|world| {
            let mut list: Vec<_> = world.balancer.connection_list(world.now).collect();
            list.sort_by_key(|info| (info.client, info.client_port));
            list
        })
    }
}

#[test]
fn a_connection_is_told_and_goes_on_at_the_backup() {
    let mut pair = Pair::new();
    let inside = pair.establish(1000);
    pair.seconds(3);
    let [mut ours, theirs] = pair.lists();
    assert_eq!(ours.len(), 1);
    ours[0].synced = true;
    assert!(theirs[0].expires >= ours[0].expires && theirs[0].expires <= ours[0].expires + 4);
    ours[0].expires = theirs[0].expires;
    assert_eq!(ours, theirs);
    let there = pair.backup.destination(&services()[0]);
    assert_eq!((there.active, there.inactive, there.stats.connections), (1, 0, 0), "it was not begun here");
    // The backup takes over: the client goes on, and so does the server.
    let mut frame = tcp(end(CLIENT, 1000), end(VIRTUAL, 80), ACK).frame(b"x");
    frame[..6].copy_from_slice(&BACKUP_MAC);
    assert_eq!(read(&pair.backup.frame(frame).unwrap()).to, inside.to);
    let mut frame = inside.back(Some(ACK)).frame(b"y");
    frame[..6].copy_from_slice(&BACKUP_MAC);
    assert_eq!(read(&pair.backup.frame(frame).unwrap()).from, end(VIRTUAL, 80));
    let count = pair.backup.balancer.sync_counters();
    assert_eq!((count.created_connections, count.refused_connections, count.malformed_messages), (1, 0, 0));
}

#[test]
fn another_state_follows_and_the_end_comes_by_itself() {
    let mut pair = Pair::new();
    pair.establish(1000);
    pair.seconds(3);
    pair.master.send(tcp(end(CLIENT, 1000), end(VIRTUAL, 80), FIN)).unwrap();
    pair.seconds(3);
    assert_eq!(pair.lists().map(|list| list[0].state), [State::Tcp(TcpState::CloseWait); 2]);
    let there = pair.backup.destination(&services()[0]);
    assert_eq!((there.active, there.inactive), (0, 1));
    pair.seconds(65);
    assert_eq!(pair.lists().map(|list| list.len()), [0, 0]);
    let there = pair.backup.destination(&services()[0]);
    assert_eq!((there.active, there.inactive), (0, 0));
}

#[test]
fn udp_and_ipv6_and_version_0() {
    let mut pair = Pair::new();
    for _ in 0..3 {
        pair.master.send(udp(end(CLIENT, 5), end(VIRTUAL, 80))).unwrap();
        pair.master.send(udp(end(CLIENT_V6, 6), end(VIRTUAL_V6, 80))).unwrap();
    }
    pair.seconds(3);
    assert_eq!(pair.lists()[1].len(), 2);
    pair.master.balancer.set_sysctl("sync_version", 0).unwrap();
    for _ in 0..3 {
        pair.master.send(udp(end(CLIENT, 7), end(VIRTUAL, 80))).unwrap();
        pair.master.send(udp(end(CLIENT_V6, 8), end(VIRTUAL_V6, 80))).unwrap();
    }
    pair.seconds(3);
    let ports: Vec<_> = pair.lists()[1].iter().map(|info| info.client_port).collect();
    assert_eq!(ports, [5, 7, 6], "version 0 has no IPv6");
}

#[test]
fn who_begins_gets_everything_whichever_begins_later() {
    for master_first in [true, false] {
        let mut pair = Pair::unstarted();
        (1000..1100).for_each(|port| _ = pair.establish(port));
        let start = |world: &mut World, role| world.balancer.start_daemon(daemon(role, 7)).unwrap();
        if master_first {
            start(&mut pair.master, DaemonRole::Master);
            pair.seconds(8);
            assert_eq!(pair.lists()[1].len(), 0);
            start(&mut pair.backup, DaemonRole::Backup);
        } else {
            start(&mut pair.backup, DaemonRole::Backup);
            pair.seconds(8);
            start(&mut pair.master, DaemonRole::Master);
        }
        pair.seconds(12);
        let [ours, theirs] = pair.lists();
        assert_eq!((ours.len(), theirs.len()), (100, 100), "master first: {master_first}");
        assert!(ours.iter().zip(&theirs).all(|(a, b)| a.state == b.state && a.expires.abs_diff(b.expires) <= 3));
        let (told, heard) = (*pair.master.balancer.sync_counters(), *pair.backup.balancer.sync_counters());
        assert_eq!((heard.created_connections, heard.lost_messages), (100, 0));
        assert!(told.resyncs >= 1 && told.resyncs <= 3 && told.unsent_connections == 0, "{told:?}");
    }
}

#[test]
fn templates_are_told_with_their_time_and_tell_where_a_client_goes() {
    let mut pair = Pair::new();
    let key = ServiceKey::tcp(ip(VIRTUAL), 81);
    let config = ServiceConfig {
        flags: ServiceFlags::PERSISTENT,
        timeout: 300,
        ..ServiceConfig::new(Family::V4, Scheduler::RoundRobin)
    };
    for world in [&mut pair.master, &mut pair.backup] {
        world.balancer.add_service(key, config).unwrap();
        for last in [12, 13] {
            let server = DestinationKey { address: IpAddr::from([10, 0, 0, last]), port: 81 };
            world.balancer.add_destination(&key, server, DestinationConfig::new(Forward::Direct, 1)).unwrap();
        }
    }
    pair.master.send(tcp(end(CLIENT, 1), end(VIRTUAL, 81), SYN)).unwrap();
    pair.seconds(3);
    let [ours, theirs] = pair.lists();
    assert_eq!((ours.len(), theirs.len()), (2, 1), "the connection is not established yet");
    assert!(theirs[0].template && theirs[0].expires >= 297);
    let (mut frame, to) = (tcp(end(CLIENT, 2), end(VIRTUAL, 81), SYN).frame(b""), theirs[0].destination);
    frame[..6].copy_from_slice(&BACKUP_MAC);
    pair.backup.frame(frame).unwrap();
    assert_eq!(pair.lists()[1].iter().find(|info| !info.template).unwrap().destination, to);
    let persistent = pair.backup.balancer.destinations(&key).unwrap().map(|d| d.persistent).sum::<u32>();
    assert_eq!(persistent, 1);
}

#[test]
fn without_a_destination_a_connection_goes_on_and_is_bound_when_it_is_told_again() {
    let mut pair = Pair::new();
    pair.backup.balancer.delete_destination(&services()[0], &server(false)).unwrap();
    let inside = pair.establish(1000);
    pair.seconds(3);
    let info = pair.lists()[1][0];
    assert_eq!((info.service, info.destination), (services()[0], inside.to.0));
    let mut frame = tcp(end(CLIENT, 1000), end(VIRTUAL, 80), ACK).frame(b"x");
    frame[..6].copy_from_slice(&BACKUP_MAC);
    let forwarded = pair.backup.frame(frame.clone()).unwrap();
    assert_eq!(read(&forwarded).to, inside.to);
    assert_eq!(pair.backup.balancer.total().in_packets, 0, "nobody is there to count for");
    // No destination was removed here: it stays.
    pair.backup.balancer.set_sysctl("expire_nodest_conn", 1).unwrap();
    assert!(pair.backup.frame(frame).is_ok());
    let config = DestinationConfig::new(Forward::Masquerade, 1);
    pair.backup.balancer.add_destination(&services()[0], server(false), config).unwrap();
    pair.master.send(tcp(end(CLIENT, 1000), end(VIRTUAL, 80), FIN)).unwrap();
    pair.seconds(3);
    let there = pair.backup.destination(&services()[0]);
    assert_eq!((there.active, there.inactive, pair.lists()[1].len()), (0, 1, 1));
}

#[test]
fn another_syncid_is_not_for_us_and_0_is_everybody() {
    for (syncid, expected) in [(7, 1), (8, 0), (0, 1)] {
        let mut pair = Pair::unstarted();
        pair.master.balancer.start_daemon(daemon(DaemonRole::Master, 7)).unwrap();
        pair.backup.balancer.start_daemon(daemon(DaemonRole::Backup, syncid)).unwrap();
        pair.establish(1000);
        pair.seconds(4);
        assert_eq!(pair.lists()[1].len(), expected, "syncid {syncid}");
    }
}

#[test]
fn daemons_start_and_stop_once() {
    let mut world = World::new(Forward::Masquerade);
    let b = &mut world.balancer;
    let backup = daemon(DaemonRole::Backup, 1);
    assert_eq!(b.stop_daemon(DaemonRole::Backup), Err(Errno::NoService));
    assert_eq!(
        b.start_daemon(Daemon { interface: ipvsadm::Name::new("eth1").unwrap(), ..backup }),
        Err(Errno::NoDevice)
    );
    assert_eq!(b.start_daemon(Daemon { group: Some(ip("10.0.0.1")), ..backup }), Err(Errno::Invalid));
    assert_eq!(b.start_daemon(backup), Ok(()));
    assert_eq!(b.start_daemon(backup), Err(Errno::Exists));
    assert_eq!(b.start_daemon(Daemon { role: DaemonRole::Master, group: Some(ip("ff02::81")), ..backup }), Ok(()));
    let shown: Vec<_> = b.daemons().map(wire::daemon::describe).collect();
    assert_eq!(
        shown,
        [
            "master sync daemon (mcast=eth0, syncid=1, maxlen=1452, group=ff02::81, port=8848, ttl=1)",
            "backup sync daemon (mcast=eth0, syncid=1, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)",
        ]
    );
    assert_eq!(b.groups().collect::<Vec<_>>(), [ip("224.0.0.81"), ip("ff02::81")]);
    assert_eq!((b.stop_daemon(DaemonRole::Master), b.stop_daemon(DaemonRole::Backup)), (Ok(()), Ok(())));
    world.seconds(3);
    assert_eq!((world.balancer.daemons().count(), world.balancer.groups().count()), (0, 0), "the groups are left");
}

#[test]
fn messages_are_lost_and_that_is_known() {
    let mut pair = Pair::new();
    pair.establish(1);
    pair.seconds(4);
    for port in 2..5 {
        pair.establish(port);
        // What the master says in these seconds does not come.
        pair.master.seconds(3);
        let lost = |frame: &Vec<u8>| frame[0] & 1 != 0;
        pair.master.said.frames.retain(|frame| !lost(frame));
        pair.backup.seconds(3);
    }
    pair.establish(9);
    pair.seconds(5);
    assert_eq!(pair.backup.balancer.sync_counters().lost_messages, 3);
}

#[test]
fn a_backup_that_is_nothing_else_balances_nothing() {
    let mut pair = Pair::new();
    pair.backup.balancer.set_sysctl("backup_only", 1).unwrap();
    let mut frame = tcp(end(CLIENT, 1000), end(VIRTUAL, 80), SYN).frame(b"");
    frame[..6].copy_from_slice(&BACKUP_MAC);
    assert_eq!(pair.backup.frame(frame.clone()), Err(Verdict::Local));
    pair.establish(1000);
    pair.seconds(3);
    assert_eq!(pair.lists()[1].len(), 1, "it listens all the same");
    pair.backup.balancer.stop_daemon(DaemonRole::Backup).unwrap();
    assert!(pair.backup.frame(frame).is_ok());
}

#[test]
fn one_packet_connections_are_not_told() {
    let mut pair = Pair::new();
    let key = ServiceKey::udp(ip(VIRTUAL), 53);
    let config =
        ServiceConfig { flags: ServiceFlags::ONE_PACKET, ..ServiceConfig::new(Family::V4, Scheduler::RoundRobin) };
    pair.master.balancer.add_service(key, config).unwrap();
    let config = DestinationConfig::new(Forward::Masquerade, 1);
    pair.master.balancer.add_destination(&key, server(false), config).unwrap();
    (0..10).for_each(|_| _ = pair.master.send(udp(end(CLIENT, 5), end(VIRTUAL, 53))).unwrap());
    pair.seconds(3);
    assert_eq!(pair.master.balancer.sync_counters().sent_connections, 0);
}

#[test]
fn every_frame_of_a_master_is_a_whole_one() {
    let mut pair = Pair::unstarted();
    for role in [DaemonRole::Master, DaemonRole::Backup] {
        let group = (role == DaemonRole::Backup).then(|| ip("ff02::81"));
        pair.master.balancer.start_daemon(Daemon { group, ..daemon(role, 1) }).unwrap();
    }
    (1000..1200).for_each(|port| _ = pair.establish(port));
    pair.seconds(3);
    let messages = pair.sent.iter().filter(|frame| frame.get(23) == Some(&17)).inspect(|frame| {
        verify(frame);
        assert!(frame.len() <= 1514);
        assert_eq!((&frame[..6], frame[22]), (&[1, 0, 0x5e, 0, 0, 0x51][..], 1));
    });
    assert!(messages.count() >= 5, "200 connections of 36 bytes");
    assert_eq!(pair.master.balancer.sync_counters().sent_connections, 200);
}

/// A message with this behind its header, to a backup.
fn message(body: &[u8], version: u8, count: u8) -> Vec<u8> {
    let header: &[u8] = if version == 0 { &[count, 7, 0, 0] } else { &[0, 7, 0, 0, count, 1, 0, 0] };
    let mut bytes = [header, body].concat();
    let size = bytes.len() as u16;
    bytes[2..4].copy_from_slice(&size.to_be_bytes());
    let mut frame = udp(end("10.0.0.4", 4000), end("224.0.0.81", 8848)).frame(&bytes);
    frame[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 0x51]);
    frame
}

/// A record of version 1 of a connection to 10.0.0.100:80, with such flags, state, client's port and destination.
fn told(flags: u32, state: u8, port: u16, server: u8, timeout: u32) -> Vec<u8> {
    let mut body = std::vec![0; 36];
    body[..4].copy_from_slice(&[0, 6, 0, 36]);
    body[4..8].copy_from_slice(&flags.to_be_bytes());
    body[9] = state;
    body[10..12].copy_from_slice(&port.to_be_bytes());
    body[12..16].copy_from_slice(&[0, 80, 31, 144]);
    body[20..24].copy_from_slice(&timeout.to_be_bytes());
    body[24..].copy_from_slice(&[10, 9, 0, 1, 10, 0, 0, 100, 10, 0, 0, server]);
    body
}

impl Pair {
    /// Tells the backup of one connection.
    fn tell(&mut self, record: &[u8]) -> SyncCounters {
        let result = self.backup.process(&mut message(record, 1, 1), &mut Offload::default());
        assert_eq!(result, Err(Verdict::Taken));
        *self.backup.balancer.sync_counters()
    }
}

fn to_backup(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&BACKUP_MAC);
    frame
}

#[test]
fn hearsay_makes_what_is_not_there_and_changes_nothing_that_is() {
    let mut pair = Pair::new();
    assert_eq!(pair.tell(&told(0x8000_0000, 1, 1000, 11, 900)).created_connections, 1);
    let open = tcp(end(CLIENT, 1000), end(VIRTUAL, 80), ACK);
    pair.backup.frame(to_backup(open.frame(b""))).unwrap();
    for server in [11, 12] {
        assert_eq!(pair.tell(&told(0x8000_0000, 6, 1000, server, 10)).ignored_connections, u64::from(server) - 10);
    }
    assert_eq!(pair.backup.state().0, TcpState::Established);
    // The one that has it may say so.
    assert_eq!(pair.tell(&told(0x0100, 6, 1000, 11, 10)).updated_connections, 1);
    assert_eq!(pair.backup.state().0, TcpState::Close);
}

#[test]
fn what_cannot_be_ends_nothing() {
    let mut pair = Pair::new();
    pair.tell(&told(0, 1, 1000, 11, 900));
    let count = pair.tell(&told(1, 1, 1000, 12, 900));
    assert_eq!((count.refused_connections, pair.lists()[1].len()), (1, 1));
    assert_eq!(pair.lists()[1][0].destination, ip("10.0.0.11"));
}

#[test]
fn flags_that_linux_does_not_look_at_are_not_looked_at() {
    let mut pair = Pair::new();
    assert_eq!(pair.tell(&told(0x6000, 1, 1000, 11, 900)).created_connections, 1);
    // A template in a state that there is not.
    let count = pair.tell(&told(0x1000, 2, 0, 11, 900));
    assert_eq!((count.created_connections, count.refused_connections), (2, 0));
}

#[test]
fn the_longest_time_is_long() {
    let mut pair = Pair::new();
    pair.tell(&told(0, 1, 1000, 11, u32::MAX));
    // What looks at it may be behind what has set it.
    pair.backup.now = Instant(pair.backup.now.nanos() - 40_000_000);
    pair.backup.frame(to_backup(tcp(end(CLIENT, 2), end(VIRTUAL, 80), SYN).frame(b""))).unwrap();
    assert!(pair.backup.frame(to_backup(tcp(end(CLIENT, 1000), end(VIRTUAL, 80), ACK).frame(b""))).is_ok());
    assert_eq!(pair.lists()[1].len(), 2);
}

#[test]
fn fragments_go_where_an_unbound_connection_does() {
    let mut pair = Pair::new();
    pair.backup.balancer.delete_destination(&services()[1], &server(false)).unwrap();
    let mut record = told(0, 0, 1000, 11, 300);
    record[1] = 17;
    pair.tell(&record);
    for (packet, at, to) in [
        (udp(end(CLIENT, 1000), end(VIRTUAL, 80)), 30, [10, 0, 0, 11]),
        (udp(end("10.0.0.11", 8080), end(CLIENT, 1000)), 26, [10, 0, 0, 100]),
    ] {
        for mut part in super::fragments::cut(&to_backup(packet.frame(&[7; 64])), &[24], 5) {
            pair.backup.process(&mut part, &mut Offload::default()).unwrap();
            assert_eq!(part[at..at + 4], to);
        }
    }
}

#[test]
fn a_backup_that_is_nothing_else_begins_nothing_by_fragments_or_errors() {
    let mut pair = Pair::new();
    pair.backup.balancer.set_sysctl("backup_only", 1).unwrap();
    pair.backup.balancer.set_sysctl("schedule_icmp", 1).unwrap();
    let frame = to_backup(udp(end(CLIENT, 1000), end(VIRTUAL, 80)).frame(&[7; 64]));
    for mut part in super::fragments::cut(&frame, &[24], 5) {
        assert_eq!(pair.backup.process(&mut part, &mut Offload::default()), Err(Verdict::Local));
    }
    assert_eq!(pair.backup.balancer.connections(), 0);
}

#[test]
fn messages_in_fragments_are_counted() {
    let mut pair = Pair::new();
    for mut part in super::fragments::cut(&message(&told(0, 1, 1, 11, 9), 1, 1), &[24], 5) {
        assert!(pair.backup.process(&mut part, &mut Offload::default()).is_err());
    }
    assert_eq!(pair.backup.balancer.sync_counters().malformed_messages, 1);
}

#[test]
fn a_short_queue_loses_nothing_when_everything_is_sent_and_it_is_sent_once() {
    let mut pair = Pair::unstarted();
    (1000..1250).for_each(|port| _ = pair.establish(port));
    pair.master.balancer.set_sysctl("sync_qlen_max", 2).unwrap();
    pair.master.balancer.start_daemon(daemon(DaemonRole::Master, 7)).unwrap();
    pair.seconds(8);
    pair.backup.balancer.start_daemon(daemon(DaemonRole::Backup, 7)).unwrap();
    pair.seconds(20);
    let told = pair.master.balancer.sync_counters();
    assert_eq!((told.unsent_connections, told.resyncs), (0, 2), "by itself, and once as it was asked");
    assert_eq!(pair.lists()[1].len(), 250);
}

#[test]
fn who_is_not_on_the_link_cannot_ask_for_everything() {
    for (from, resyncs) in [("10.0.0.4", 1), ("10.9.0.4", 0)] {
        let mut pair = Pair::unstarted();
        pair.master.balancer.start_daemon(daemon(DaemonRole::Master, 7)).unwrap();
        let mut bytes = std::vec![0, 7, 0, 32, 0, 1, 0, 0, b'R', b'L', b'S', b'Y', 1, 1, 0, 0];
        bytes.resize(32, 0);
        let mut frame = udp(end(from, 4000), end("224.0.0.81", 8848)).frame(&bytes);
        frame[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 0x51]);
        let _ = pair.master.process(&mut frame, &mut Offload::default());
        pair.seconds(2);
        assert_eq!(pair.master.balancer.sync_counters().resyncs, resyncs, "from {from}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn hostile_messages_leave_counts_that_are_true(
        messages in proptest::collection::vec(
            (proptest::collection::vec((0usize..72, any::<u8>()), 0..6), 0u8..4, 0u8..3, 0u8..4, any::<u16>(), any::<bool>()),
            1..30,
        ),
    ) {
        let mut pair = Pair::new();
        for (noise, count, kind, client, flags, v1) in messages {
            // A connection as it might be, with some bytes that are not.
            let mut body = std::vec![0; 36];
            let addresses = [10, 9, 0, client, 10, 0, 0, 100, 10, 0, 0, 11];
            let flags = flags & 0x1fff;
            if v1 {
                body[..4].copy_from_slice(&[0, [6, 17, 0][usize::from(kind)], 0, 36]);
                body[6..8].copy_from_slice(&flags.to_be_bytes());
                body[9] = kind;
                body[10..16].copy_from_slice(&[0, 9, 0, 80, 31, 144]);
                body[24..].copy_from_slice(&addresses);
            } else {
                body[1] = [6, 17, 0][usize::from(kind)];
                body[2..8].copy_from_slice(&[0, 9, 0, 80, 31, 144]);
                body[8..20].copy_from_slice(&addresses);
                body[20..22].copy_from_slice(&flags.to_be_bytes());
            }
            let mut body = body.repeat(usize::from(count));
            for (at, byte) in noise {
                if let Some(place) = body.get_mut(at) {
                    *place = byte;
                }
            }
            let result = pair.backup.process(&mut message(&body, v1.into(), count), &mut Offload::default());
            prop_assert_eq!(result, Err(Verdict::Taken));
            let connections: Vec<_> = pair.backup.balancer.connection_list(pair.backup.now).collect();
            let known = services().map(|key| pair.backup.destination(&key));
            let bound: u32 = known.iter().map(|d| d.active + d.inactive + d.persistent).sum();
            prop_assert!(bound as usize <= connections.len());
            prop_assert_eq!(connections.len() as u32, pair.backup.balancer.connections());
        }
        // Whatever was told ends by itself, and nothing is counted that is not there.
        for _ in 0..10 {
            let world = &mut pair.backup;
            world.now = world.now + Duration::from_secs(60 * 24 * 3600);
            while world.balancer.poll(world.now, &mut world.said) <= world.now {}
        }
        prop_assert_eq!(pair.backup.balancer.connections(), 0);
        let known = services().map(|key| pair.backup.destination(&key));
        prop_assert!(known.iter().all(|d| d.active + d.inactive + d.persistent == 0));
    }
}
