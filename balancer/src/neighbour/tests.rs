use super::ndp::tests::{advertisement, frame as ndp_frame};
use super::*;
use core::net::Ipv6Addr;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const US: Mac = [0x52, 0x54, 0, 0x12, 0x34, 2];
const ALPHA: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x0b];
const OTHER: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x99];

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Sent(Vec<u8>),
    Resolved(IpAddr),
    Unreachable(IpAddr),
}

#[derive(Default)]
struct Log(Vec<Event>);

impl Sink for Log {
    fn transmit(&mut self, frame: &[u8]) {
        self.0.push(Event::Sent(frame.to_vec()));
    }
    fn resolved(&mut self, hop: NextHop) {
        self.0.push(Event::Resolved(hop.0));
    }
    fn unreachable(&mut self, hop: NextHop) {
        self.0.push(Event::Unreachable(hop.0));
    }
}

struct Fixture {
    neighbours: Neighbours,
    routes: Routes,
    log: Log,
    counters: Counters,
    now: Instant,
}

impl Fixture {
    fn new(size: u16) -> Self {
        let config = Config {
            addresses: ["10.0.0.2/16", "fd00::2/64"].map(|a| a.parse().unwrap()).to_vec(),
            gateways: vec!["10.0.0.1".parse().unwrap()],
            neighbours: size,
            ..Config::new(US, [1, 2])
        };
        Fixture {
            neighbours: Neighbours::new(&config),
            routes: Routes::new(&config),
            log: Log::default(),
            counters: Counters::default(),
            now: Instant::from_secs(100),
        }
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Neighbours, Instant, &mut Outlet<'_>) -> T) -> T {
        let mut outlet = Outlet { routes: &self.routes, sink: &mut self.log, counters: &mut self.counters };
        act(&mut self.neighbours, self.now, &mut outlet)
    }

    fn resolve(&mut self, to: &str) -> Option<Mac> {
        let hop = NextHop(to.parse().unwrap());
        self.with(|n, now, outlet| n.resolve(&hop.0, now, outlet))
    }

    fn learn_arp(&mut self, frame: &[u8]) -> Result<(), Reason> {
        let ours = ["10.0.0.2", "10.0.0.100"].map(|a| a.parse::<IpAddr>().unwrap());
        self.with(|n, now, outlet| n.learn_arp(frame, now, |a| ours.contains(&a), outlet))
    }

    fn learn_ndp(&mut self, frame: &[u8]) -> Result<(), Reason> {
        let ours = ["fd00::2", "fd00::100"].map(|a| a.parse::<IpAddr>().unwrap());
        self.with(|n, now, outlet| n.learn_ndp(frame, now, |a| ours.contains(&a), outlet))
    }

    fn poll(&mut self) -> Option<Instant> {
        self.with(|n, now, outlet| n.poll(now, outlet))
    }

    fn wait(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        self.poll();
    }

    fn events(&mut self) -> Vec<Event> {
        core::mem::take(&mut self.log.0)
    }

    /// The Ethernet destinations of what was sent; nothing else must have happened.
    fn sent_to(&mut self) -> Vec<Mac> {
        let mac = |event| match event {
            Event::Sent(frame) => *frame.first_chunk::<6>().unwrap(),
            event => panic!("{event:?}"),
        };
        self.events().into_iter().map(mac).collect()
    }
}

fn arp(operation: u8, mac: Mac, sender: &str, target: &str) -> Vec<u8> {
    let mut frame = arp::request(mac, sender.parse().unwrap(), target.parse().unwrap(), None).to_vec();
    frame[21] = operation;
    frame
}

fn na(from: &str, flags: u8, mac: Option<Mac>) -> Vec<u8> {
    let from: Ipv6Addr = from.parse().unwrap();
    ndp_frame(from, "fd00::2".parse().unwrap(), 255, &advertisement(from, flags, mac))
}

fn ns(from: &str, target: &str, mac: Mac) -> Vec<u8> {
    super::ndp::solicitation(mac, from.parse().unwrap(), target.parse().unwrap(), None).to_vec()
}

const BROADCAST: Mac = [0xff; 6];

#[test]
fn what_is_not_known_is_asked_for_thrice_and_then_given_up() {
    let mut f = Fixture::new(8);
    let hop = NextHop("10.0.0.11".parse().unwrap());
    assert_eq!(f.resolve("10.0.0.11"), None);
    assert_eq!(f.resolve("10.0.0.11"), None, "once for all packets");
    let request = arp::request(US, "10.0.0.2".parse().unwrap(), "10.0.0.11".parse().unwrap(), None).to_vec();
    assert_eq!(f.events(), [Event::Sent(request)]);
    assert!(f.neighbours.is_pending(hop));
    let due = f.poll().unwrap();
    assert!(due >= f.now + RETRANSMIT && due <= f.now + RETRANSMIT + TICK);
    f.wait(500);
    assert_eq!(f.sent_to(), [] as [Mac; 0]);
    f.wait(600);
    assert_eq!(f.sent_to(), [BROADCAST]);
    f.wait(1100);
    assert_eq!(f.sent_to(), [BROADCAST]);
    f.wait(1100);
    assert_eq!(f.events(), [Event::Unreachable(hop.0)]);
    assert_eq!((f.neighbours.is_pending(hop), f.poll()), (false, None));
    assert_eq!(f.counters.neighbour_requests, 3);
    f.resolve("10.0.0.11");
    assert_eq!(f.sent_to(), [BROADCAST], "and asked for again when it is needed again");
}

#[test]
fn a_reply_is_used_and_after_a_while_confirmed_by_unicast_while_in_use() {
    let mut f = Fixture::new(8);
    f.resolve("10.0.0.11");
    f.events();
    f.learn_arp(&arp(2, ALPHA, "10.0.0.11", "10.0.0.2")).unwrap();
    assert_eq!(f.events(), [Event::Resolved("10.0.0.11".parse().unwrap())]);
    f.wait(29_999);
    assert_eq!(f.resolve("10.0.0.11"), Some(ALPHA));
    assert_eq!(f.sent_to(), [] as [Mac; 0]);
    f.wait(1);
    assert_eq!(f.resolve("10.0.0.11"), Some(ALPHA));
    assert_eq!(f.resolve("10.0.0.11"), Some(ALPHA));
    assert_eq!(f.sent_to(), [ALPHA]);
    f.learn_arp(&arp(2, ALPHA, "10.0.0.11", "10.0.0.2")).unwrap();
    f.wait(20_000);
    assert_eq!(f.resolve("10.0.0.11"), Some(ALPHA));
    assert_eq!(f.events(), []);
    assert_eq!(f.poll(), None);
}

#[test]
fn one_that_falls_silent_is_forgotten_after_three_probes() {
    let mut f = Fixture::new(8);
    f.resolve("10.0.0.11");
    f.learn_arp(&arp(2, ALPHA, "10.0.0.11", "10.0.0.2")).unwrap();
    f.wait(40_000);
    f.events();
    for _ in 0..3 {
        assert_eq!(f.resolve("10.0.0.11"), Some(ALPHA));
        assert_eq!(f.sent_to(), [ALPHA]);
        f.wait(1100);
    }
    assert_eq!(f.events(), [], "nothing waits for it");
    assert_eq!(f.resolve("10.0.0.11"), None);
    assert_eq!(f.sent_to(), [BROADCAST]);
}

#[test]
fn who_asks_for_us_is_known_but_confirmed_before_long() {
    let mut f = Fixture::new(8);
    f.learn_arp(&arp(1, ALPHA, "10.0.0.11", "10.0.0.100")).unwrap();
    assert_eq!(f.resolve("10.0.0.11"), Some(ALPHA));
    assert_eq!(f.sent_to(), [ALPHA]);
    f.learn_ndp(&ns("fd00::b", "fd00::100", ALPHA)).unwrap();
    assert_eq!(f.resolve("fd00::b"), Some(ALPHA));
    assert_eq!(f.sent_to(), [ALPHA]);
}

#[test]
fn nothing_is_learnt_from_what_is_not_for_us_or_cannot_be() {
    let mut f = Fixture::new(8);
    for (operation, mac, sender, target) in [
        (1, ALPHA, "10.0.0.11", "10.0.0.12"),   // for another
        (2, ALPHA, "10.0.0.11", "10.0.0.2"),    // not asked for
        (1, ALPHA, "10.0.0.11", "10.0.0.11"),   // an announcement of a stranger
        (1, ALPHA, "10.0.0.2", "10.0.0.100"),   // our address
        (1, US, "10.0.0.11", "10.0.0.2"),       // our Ethernet address
        (1, ALPHA, "11.0.0.11", "10.0.0.2"),    // not of this network
        (1, ALPHA, "0.0.0.0", "10.0.0.2"),      // a probe
        (1, ALPHA, "10.0.255.255", "10.0.0.2"), // a broadcast
    ] {
        f.learn_arp(&arp(operation, mac, sender, target)).unwrap();
    }
    f.learn_ndp(&na("fd00::b", 0x60, Some(ALPHA))).unwrap();
    f.learn_ndp(&ns("fd00::b", "fd00::c", ALPHA)).unwrap();
    f.learn_ndp(&ns("fd00::100", "fd00::2", ALPHA)).unwrap();
    f.learn_ndp(&ns("fd01::b", "fd00::2", ALPHA)).unwrap();
    assert!((0..8).all(|slot| f.neighbours.table.at(slot).is_none()));
    assert_eq!(f.events(), []);
}

#[test]
fn an_announcement_changes_who_is_known() {
    let mut f = Fixture::new(8);
    f.resolve("10.0.0.11");
    f.learn_arp(&arp(2, ALPHA, "10.0.0.11", "10.0.0.2")).unwrap();
    f.learn_arp(&arp(1, OTHER, "10.0.0.11", "10.0.0.11")).unwrap();
    f.events();
    assert_eq!(f.resolve("10.0.0.11"), Some(OTHER));
    assert_eq!(f.sent_to(), [OTHER], "and is confirmed with the next use");
}

#[test]
fn verify_rfc_4861_7_2_5() {
    let solicited = 0x40;
    let overriding = 0x20;
    let mut f = Fixture::new(8);
    assert_eq!(f.resolve("fd00::b"), None);
    assert_eq!(f.sent_to(), [[0x33, 0x33, 0xff, 0, 0, 0x0b]]);
    f.learn_ndp(&na("fd00::b", solicited, None)).unwrap();
    assert_eq!(f.resolve("fd00::b"), None, "no address in it");
    f.learn_ndp(&na("fd00::b", solicited, Some(ALPHA))).unwrap();
    assert_eq!(f.events(), [Event::Resolved("fd00::b".parse().unwrap())]);
    assert_eq!(f.resolve("fd00::b"), Some(ALPHA));
    f.learn_ndp(&na("fd00::b", solicited, Some(OTHER))).unwrap();
    assert_eq!(f.resolve("fd00::b"), Some(ALPHA), "not to override");
    assert_eq!(f.sent_to(), [ALPHA], "but in doubt now");
    f.learn_ndp(&na("fd00::b", solicited, None)).unwrap();
    f.learn_ndp(&na("fd00::b", overriding, Some(ALPHA))).unwrap();
    assert_eq!((f.resolve("fd00::b"), f.events().len()), (Some(ALPHA), 0), "confirmed, and nothing new");
    f.learn_ndp(&na("fd00::b", overriding, Some(OTHER))).unwrap();
    assert_eq!(f.resolve("fd00::b"), Some(OTHER));
    assert_eq!(f.sent_to(), [OTHER]);
}

#[test]
fn a_flood_of_made_up_neighbours_leaves_the_real_ones_and_is_limited() {
    let mut f = Fixture::new(4);
    f.resolve("10.0.0.11");
    f.learn_arp(&arp(2, ALPHA, "10.0.0.11", "10.0.0.2")).unwrap();
    f.events();
    for n in 0..3000u32 {
        f.now = Instant(f.now.nanos() + 1);
        assert_eq!(f.resolve(&std::format!("10.0.{}.{}", 1 + n / 250, n % 250)), None);
    }
    assert_eq!(f.resolve("10.0.0.11"), Some(ALPHA));
    let events = f.events();
    let sent = events.iter().filter(|event| matches!(event, Event::Sent(_))).count();
    assert_eq!((sent, f.counters.neighbour_requests), (999, 1000));
    let given_up = events.iter().filter(|event| matches!(event, Event::Unreachable(_))).count();
    assert_eq!(given_up, 2997, "all but the three that still wait");
    f.wait(50);
    assert_eq!(f.events().len(), 3, "what was not sent for the limit is sent a little later");
    // Neighbours that ask for us never push out what is in use.
    for n in 0..100 {
        f.learn_arp(&arp(1, OTHER, &std::format!("10.0.5.{n}"), "10.0.0.2")).unwrap();
    }
    assert_eq!(f.resolve("10.0.0.11"), Some(ALPHA));
}

proptest! {
    /// Whatever comes in and however time passes: each neighbour that packets wait for becomes known or is given up
    /// within a few seconds, and nothing else is said of any.
    #[test]
    fn every_wait_ends(steps in prop::collection::vec((0u8..7, 1u8..12, any::<bool>(), 0u64..1500), 1..120), size in 1u16..8) {
        let mut f = Fixture::new(size);
        let mut waiting = std::collections::BTreeSet::new();
        let settle = |f: &mut Fixture, waiting: &mut std::collections::BTreeSet<IpAddr>| {
            for event in f.events() {
                match event {
                    Event::Resolved(a) => {
                        assert!(waiting.remove(&a));
                    }
                    Event::Unreachable(a) => assert!(waiting.remove(&a)),
                    Event::Sent(_) => {}
                }
            }
        };
        for (act, n, second, ms) in steps {
            let (v4, v6) = (std::format!("10.0.0.{}", n + 10), std::format!("fd00::{}", n + 10));
            let mac = if second { OTHER } else { ALPHA };
            match act {
                0 | 1 => {
                    let to = if second { &v4 } else { &v6 };
                    let known = f.resolve(to);
                    settle(&mut f, &mut waiting);
                    let to: IpAddr = to.parse().unwrap();
                    if known.is_none() {
                        prop_assert!(f.neighbours.is_pending(NextHop(to)));
                        waiting.insert(to);
                    }
                }
                2 => f.learn_arp(&arp(2, mac, &v4, "10.0.0.2")).unwrap(),
                3 => f.learn_arp(&arp(1, mac, &v4, "10.0.0.2")).unwrap(),
                4 => f.learn_ndp(&na(&v6, n << 5, Some(mac))).unwrap(),
                5 => f.learn_ndp(&ns(&v6, "fd00::2", mac)).unwrap(),
                _ => f.wait(ms),
            }
            settle(&mut f, &mut waiting);
        }
        while let Some(due) = f.poll() {
            prop_assert!(due > f.now, "what is due is done");
            f.now = due;
        }
        settle(&mut f, &mut waiting);
        prop_assert!(waiting.is_empty());
    }

    #[test]
    fn hostile_frames_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let mut f = Fixture::new(2);
        let _ = f.learn_arp(&bytes);
        let _ = f.learn_ndp(&bytes);
    }
}
