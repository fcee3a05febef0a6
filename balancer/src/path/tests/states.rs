//! States, timers and what is bound to a destination over the life of a connection.

use super::*;
use TcpState::{Close, Established, FinWait, SynReceived, TimeWait};

const SERVER: &str = "10.0.0.11";

fn request(flags: TcpFlags) -> Segment {
    tcp(end(CLIENT, 4000), end(VIRTUAL, 80), flags)
}

fn reply(flags: TcpFlags) -> Segment {
    tcp(end(SERVER, 8080), end(CLIENT, 4000), flags)
}

fn counts(world: &World) -> (u32, u32) {
    let d = world.destination(&services()[0]);
    (d.active, d.inactive)
}

#[test]
fn a_connection_lives_and_ends() {
    let mut world = World::new(Forward::Masquerade);
    let mut step = |segment: Segment, state: (TcpState, u32), count: (u32, u32)| {
        world.send(segment).unwrap();
        assert_eq!((world.state(), counts(&world)), (state, count), "after {segment:?}");
    };
    step(request(SYN), (SynReceived, 60), (1, 0));
    step(reply(SYN_ACK), (SynReceived, 60), (1, 0));
    step(request(ACK), (Established, 900), (1, 0));
    step(reply(FIN), (FinWait, 120), (0, 1));
    step(request(FIN), (TimeWait, 120), (0, 1));
    step(reply(ACK), (TimeWait, 120), (0, 1));
    world.seconds(119);
    assert_eq!(world.balancer.connections(), 1);
    world.seconds(2);
    assert_eq!((world.balancer.connections(), counts(&world)), (0, (0, 0)));
    assert_eq!(world.send(request(ACK)), Err(Verdict::Local));
}

#[test]
fn direct_routing_sees_one_side() {
    let mut world = World::new(Forward::Direct);
    world.send(request(SYN)).unwrap();
    world.send(request(ACK)).unwrap();
    world.send(request(FIN)).unwrap();
    assert_eq!(world.state(), (FinWait, 120));
}

#[test]
fn udp_lasts_from_its_last_packet() {
    let mut world = World::new(Forward::Masquerade);
    let packet = udp(end(CLIENT, 4000), end(VIRTUAL, 80));
    world.send(packet).unwrap();
    world.seconds(299);
    world.send(packet.back(None)).unwrap_err();
    world.send(udp(end(SERVER, 8080), end(CLIENT, 4000))).unwrap();
    world.seconds(299);
    assert_eq!(world.balancer.connections(), 1);
    assert_eq!(world.destination(&services()[1]).inactive, 1, "UDP is never active");
    world.seconds(2);
    assert_eq!(world.balancer.connections(), 0);
}

#[test]
fn timeouts_can_be_set_and_count_from_the_next_packet() {
    let mut world = World::new(Forward::Masquerade);
    world.send(request(SYN)).unwrap();
    world.send(request(ACK)).unwrap();
    world.balancer.set_timeouts(Timeouts { tcp: 50, tcp_fin: 7, udp: 0 }).unwrap();
    assert_eq!(world.state().1, 900);
    world.send(request(ACK)).unwrap();
    assert_eq!(world.state(), (Established, 50));
    world.send(reply(FIN)).unwrap();
    assert_eq!(world.state(), (FinWait, 7));
    let refused = Timeouts { tcp: 1, tcp_fin: 1, udp: u32::MAX };
    assert_eq!(world.balancer.set_timeouts(refused), Err(Errno::Invalid));
    assert_eq!(world.balancer.timeouts(), Timeouts { tcp: 50, tcp_fin: 7, udp: 300 });
}

#[test]
fn a_client_may_use_its_port_again() {
    let mut world = World::new(Forward::Masquerade);
    for segment in [request(SYN), request(ACK), reply(FIN), request(FIN)] {
        world.send(segment).unwrap();
    }
    assert_eq!(world.state().0, TimeWait);
    world.send(request(SYN)).unwrap();
    assert_eq!((world.state(), counts(&world)), ((SynReceived, 60), (1, 0)));
    world.send(reply(RST)).unwrap();
    assert_eq!((world.state().0, counts(&world)), (Close, (0, 1)));
    world.send(request(SYN)).unwrap();
    assert_eq!(world.state().0, SynReceived);
    assert_eq!(world.destination(&services()[0]).stats.connections, 3);
    // In any other state a SYN belongs to the connection there is.
    world.send(request(ACK)).unwrap();
    world.send(request(SYN)).unwrap();
    assert_eq!(world.destination(&services()[0]).stats.connections, 3);
}

#[test]
fn connections_of_a_removed_destination_are_dropped_until_it_returns() {
    let mut world = World::new(Forward::Masquerade);
    let key = services()[0];
    world.send(request(SYN)).unwrap();
    let before = world.balancer.total();
    world.balancer.delete_destination(&key, &server(false)).unwrap();
    assert_eq!(world.drops(request(ACK)), Reason::DestinationGone);
    assert!(world.send(reply(SYN_ACK)).is_ok(), "what the server still says goes out");
    assert_eq!(world.balancer.total(), before, "and is not counted");
    assert_eq!(world.drops(tcp(end(CLIENT, 4001), end(VIRTUAL, 80), SYN)), Reason::NoDestination);
    world.balancer.add_destination(&key, server(false), DestinationConfig::new(Forward::Masquerade, 1)).unwrap();
    assert!(world.send(request(ACK)).is_ok());
    assert_eq!(counts(&world), (1, 0));
    // The timer of a connection whose packets are dropped runs on.
    world.balancer.delete_service(&key).unwrap();
    for _ in 0..31 {
        assert_eq!(world.drops(request(ACK)), Reason::DestinationGone);
        world.seconds(30);
    }
    assert_eq!(world.balancer.connections(), 0);
    assert_eq!(world.balancer.active_connections(), 0);
}

#[test]
fn a_removed_destination_is_remembered_for_a_while() {
    let mut world = World::new(Forward::Masquerade);
    let key = services()[0];
    let again = |world: &mut World| {
        world.balancer.add_destination(&key, server(false), DestinationConfig::new(Forward::Masquerade, 1)).unwrap();
        world.destination(&key).stats.connections
    };
    world.send(request(SYN)).unwrap();
    world.balancer.delete_destination(&key, &server(false)).unwrap();
    world.seconds(170);
    assert_eq!(again(&mut world), 1, "its connection ended after 60 s, and two minutes later is not yet");
    world.balancer.delete_destination(&key, &server(false)).unwrap();
    world.seconds(240);
    assert_eq!(again(&mut world), 0);
}

#[test]
fn a_timer_that_ran_out_counts_though_nobody_polled() {
    let mut world = World::new(Forward::Masquerade);
    world.send(request(SYN)).unwrap();
    world.now = world.now + Duration::from_secs(61);
    assert_eq!(world.drops(reply(SYN_ACK)), Reason::NotOurs);
    assert_eq!(world.balancer.connections(), 0);
    world.send(request(SYN)).unwrap();
    assert_eq!(world.destination(&services()[0]).stats.connections, 2);
}

#[test]
fn thresholds_close_and_open_a_destination() {
    let mut world = World::new(Forward::Masquerade);
    let config = DestinationConfig { upper_threshold: 4, ..DestinationConfig::new(Forward::Masquerade, 1) };
    world.balancer.edit_destination(&services()[1], &server(false), config).unwrap();
    for port in 1..=4 {
        world.send(udp(end(CLIENT, port), end(VIRTUAL, 80))).unwrap();
        world.seconds(1);
    }
    assert!(world.destination(&services()[1]).overloaded);
    assert_eq!(world.drops(udp(end(CLIENT, 5), end(VIRTUAL, 80))), Reason::NoDestination);
    world.seconds(297);
    assert_eq!(world.destination(&services()[1]).inactive, 3);
    assert_eq!(world.drops(udp(end(CLIENT, 5), end(VIRTUAL, 80))), Reason::NoDestination, "not yet below 3");
    world.seconds(1);
    assert!(world.send(udp(end(CLIENT, 5), end(VIRTUAL, 80))).is_ok());
}
