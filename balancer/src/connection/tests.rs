use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec::Vec;

fn connection(client: u16, v6: bool, forward: Forward) -> New {
    let address = |last: u16| -> IpAddr {
        if v6 { [0xfd00, 0, 0, 0, 0, 0, 0, last].into() } else { [10, 0, (last >> 8) as u8, last as u8].into() }
    };
    New {
        protocol: if client & 1 == 0 { Protocol::Tcp } else { Protocol::Udp },
        client: address(client),
        client_port: 1000 + client,
        virtual_address: address(60000),
        virtual_port: 80,
        address: address(50000 + client % 3),
        port: 8080,
        forward,
        destination: 7,
        template: false,
    }
}

fn inbound(new: &New) -> Tuple {
    Tuple {
        protocol: new.protocol,
        source: new.client,
        source_port: new.client_port,
        destination: new.virtual_address,
        destination_port: new.virtual_port,
    }
}

fn outbound(new: &New) -> Tuple {
    Tuple {
        protocol: new.protocol,
        source: new.address,
        source_port: new.port,
        destination: new.client,
        destination_port: new.client_port,
    }
}

/// Everything that is over by `now`.
fn expire_all(table: &mut Table, now: Instant) -> u32 {
    let (mut budget, mut count) = (usize::MAX, 0);
    while table.expire(now, &mut budget).is_some() {
        count += 1;
    }
    count
}

#[test]
fn both_directions_are_found() {
    for v6 in [false, true] {
        let mut table = Table::new(8, 8, [1, 2]);
        let nat = connection(2, v6, Forward::Masquerade);
        let direct = connection(3, v6, Forward::Direct);
        let a = table.insert(&nat, Instant::ZERO, 100).unwrap();
        let b = table.insert(&direct, Instant::ZERO, 100).unwrap();
        assert_eq!(table.find(&inbound(&nat)), Some((a, Direction::Inbound)));
        assert_eq!(table.find(&outbound(&nat)), Some((a, Direction::Outbound)));
        assert_eq!(table.find(&inbound(&direct)), Some((b, Direction::Inbound)));
        assert_eq!(table.find(&outbound(&direct)), None, "its replies go another way");
        assert_eq!((table.parts(a), table.parts(b)), (nat, direct));
        table.remove(a);
        assert_eq!((table.find(&inbound(&nat)), table.find(&outbound(&nat))), (None, None));
        assert_eq!(table.len(), 1);
    }
}

#[test]
fn a_full_table_refuses_and_takes_again_what_was_freed() {
    let mut table = Table::new(3, 1, [1, 2]);
    let insert = |table: &mut Table, n, v6| table.insert(&connection(n, v6, Forward::Masquerade), Instant::ZERO, 1);
    let first = insert(&mut table, 1, true).unwrap();
    assert_eq!(insert(&mut table, 2, true), Err(Full), "one IPv6 connection at a time");
    insert(&mut table, 3, false).unwrap();
    insert(&mut table, 4, false).unwrap();
    assert_eq!(insert(&mut table, 5, false), Err(Full));
    table.remove(first);
    assert_eq!(insert(&mut table, 6, true), Ok(first));
    assert_eq!(table.len(), 3);
}

#[test]
fn of_equal_replies_the_newest_is_found() {
    let mut table = Table::new(8, 0, [1, 2]);
    let one = connection(2, false, Forward::Masquerade);
    let two = New { virtual_port: 81, ..one };
    table.insert(&one, Instant::ZERO, 100).unwrap();
    let newest = table.insert(&two, Instant::ZERO, 100).unwrap();
    assert_eq!(table.find(&outbound(&one)), Some((newest, Direction::Outbound)));
}

#[test]
fn a_thousand_connections_end_when_they_should() {
    let mut table = Table::new(1000, 0, [3, 4]);
    let start = Instant::from_secs(1_000_000);
    // From a second to the longest timeout there can be.
    let timeouts: Vec<u32> = (0..1000u32).map(|n| ticks(1 + n * (i32::MAX as u32 / 250 / 1000))).collect();
    for (n, &timeout) in timeouts.iter().enumerate() {
        table.insert(&connection(n as u16, false, Forward::Masquerade), start, timeout).unwrap();
    }
    let mut left = 1000;
    for &timeout in &timeouts {
        let end = Instant(start.nanos() + (u64::from(timeout) << 24));
        assert_eq!(expire_all(&mut table, Instant(end.nanos() - (1 << 24))), 0);
        assert!(table.deadline().unwrap() <= end);
        assert_eq!(expire_all(&mut table, end), 1);
        left -= 1;
        assert_eq!(table.len(), left);
    }
    assert_eq!(table.deadline(), None);
}

#[test]
fn a_budget_bounds_the_work_and_nothing_is_forgotten() {
    let mut table = Table::new(100, 0, [3, 4]);
    for n in 0..100 {
        table.insert(&connection(n, false, Forward::Masquerade), Instant::ZERO, ticks(5)).unwrap();
    }
    let now = Instant::from_secs(6);
    let mut rounds = 0;
    while table.len() > 0 {
        let mut budget = 30;
        while table.expire(now, &mut budget).is_some() {}
        rounds += 1;
        assert!(table.len() == 0 || table.deadline().unwrap() <= now, "the rest is due at once");
    }
    assert_eq!(rounds, 7, "each is looked at twice: it comes down a level first");
}

#[test]
fn a_packet_prolongs_and_a_shorter_timeout_shortens() {
    let mut table = Table::new(4, 0, [3, 4]);
    let place = table.insert(&connection(0, false, Forward::Masquerade), Instant::ZERO, ticks(10)).unwrap();
    table.touch(place, TcpState::Established as u8, 0, Instant::from_secs(9), ticks(900));
    assert_eq!(expire_all(&mut table, Instant::from_secs(800)), 0);
    assert_eq!(table.remaining(place, Instant::from_secs(9)), 900);
    table.touch(place, TcpState::Close as u8, 0, Instant::from_secs(800), ticks(10));
    assert_eq!(expire_all(&mut table, Instant::from_secs(809)), 0);
    assert!(table.is_over(place, Instant::from_millis(810_100)));
    assert_eq!(expire_all(&mut table, Instant::from_millis(810_100)), 1);
}

/// Nodes on the way to the connections of a table, on the longest way.
fn longest_chain(table: &Table, connections: &[New]) -> usize {
    let length = |new: &New| {
        let mut node = table.first(table.hash(&inbound(new)));
        core::iter::from_fn(|| {
            node.get()?;
            node = Index::next(&table.entries, node);
            Some(())
        })
        .count()
    };
    connections.iter().map(length).max().unwrap()
}

/// Who can compute the hash, and choose ports and addresses, makes of a table with a key he knows a list. One with another key
/// is as it always is.
#[test]
fn who_does_not_know_the_key_cannot_fill_a_chain() {
    let (known, secret) = ([1, 2], [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);
    let attackers = Table::new(1, 0, known);
    let chosen: Vec<New> = (0..1_u32 << 20)
        .map(|nth| New {
            client: core::net::Ipv4Addr::from_bits(0x0a09_0000 | nth >> 8).into(),
            client_port: (nth & 0xff) as u16 + 1024,
            ..connection(2, false, Forward::Direct)
        })
        .filter(|new| attackers.hash(&inbound(new)) & 0x3ff == 0)
        .collect();
    assert!(chosen.len() > 900, "one of 1024 is to be found");
    let chain = |key| {
        let mut table = Table::new(chosen.len() as u32, 0, key);
        for new in &chosen {
            table.insert(new, Instant::ZERO, 100).unwrap();
        }
        longest_chain(&table, &chosen)
    };
    // As many buckets as nodes, of which a few are split and the others not: half of the attacker's are in one at the least.
    assert!(chain(known) > chosen.len() / 4, "{}", chain(known));
    assert!(chain(secret) <= 12, "{}", chain(secret));
}

#[test]
fn templates_that_are_of_no_use_lie_in_chains_of_their_own() {
    const CALLS: u8 = 200;
    let mut table = Table::new(256, 0, [1, 2]);
    table.reserve_call_ids(CALLS.into()).unwrap();
    let of_any_call =
        New { client_port: 0, virtual_port: u16::MAX, template: true, ..connection(2, false, Forward::Direct) };
    let places: Vec<u32> =
        (0..CALLS).map(|call| table.insert_template(&of_any_call, &[call], Instant::ZERO, 100).unwrap()).collect();
    for (call, &place) in (0..CALLS).zip(&places) {
        let find = |table: &Table| table.find_template(&inbound(&of_any_call), &[call]);
        assert_eq!(find(&table), Some(place));
        table.invalidate(place);
        assert_eq!(find(&table), None);
    }
    let chain = |hash| {
        let after = |&node: &Node| Some(Index::next(&table.entries, node));
        core::iter::successors(Some(table.first(hash)), after).take_while(|node| node.get().is_some()).count()
    };
    let longest = places.iter().map(|&place| chain(table.get(place).hashes[0])).max();
    assert!(longest < Some(12), "{longest:?}");
    assert_eq!(expire_all(&mut table, Instant::from_secs(60)), u32::from(CALLS));
    assert_eq!(table.len(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, bool, bool, u32),
    Touch(u16, u32),
    Remove(u16),
    Pass(u32, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let timeout = prop_oneof![1u32..200, 1u32..100_000, Just(ticks(8_589_934))];
    prop_oneof![
        4 => (0u16..400, any::<bool>(), any::<bool>(), timeout.clone()).prop_map(|(n, v, d, t)| Step::Insert(n, v, d, t)),
        2 => (0u16..400, timeout).prop_map(|(n, t)| Step::Touch(n, t)),
        1 => (0u16..400).prop_map(Step::Remove),
        2 => (prop_oneof![0u32..100, 0u32..100_000], 1usize..50).prop_map(|(t, b)| Step::Pass(t, b)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn it_does_what_a_map_with_a_list_of_ends_does(steps in proptest::collection::vec(step(), 1..1200)) {
        const LIMIT: usize = 300;
        let mut table = Table::new(LIMIT as u32, LIMIT as u32, [5, 6]);
        // By client: the connection, its place, the tick at which it ends.
        let mut model: BTreeMap<u16, (New, u32, u64)> = BTreeMap::new();
        let mut tick = 0u64;
        for step in steps {
            let now = Instant(tick << 24);
            match step {
                Step::Insert(client, v6, direct, timeout) => {
                    if model.contains_key(&client) {
                        continue;
                    }
                    let forward = if direct { Forward::Direct } else { Forward::Masquerade };
                    let new = connection(client, v6, forward);
                    match table.insert(&new, now, timeout) {
                        Ok(place) => drop(model.insert(client, (new, place, tick + u64::from(timeout)))),
                        Err(Full) => prop_assert_eq!(model.len(), LIMIT),
                    }
                }
                Step::Touch(client, timeout) => {
                    if let Some((_, place, end)) = model.get_mut(&client) {
                        *end = tick + u64::from(timeout);
                        table.touch(*place, TcpState::Established as u8, 0, now, timeout);
                    }
                }
                Step::Remove(client) => {
                    if let Some((_, place, _)) = model.remove(&client) {
                        table.remove(place);
                    }
                }
                Step::Pass(ticks, budget) => {
                    tick += u64::from(ticks);
                    let now = Instant(tick << 24);
                    loop {
                        let mut left = budget;
                        while let Some(over) = table.expire(now, &mut left) {
                            let Over::Ended(entry) = over else { continue };
                            let client = entry.client_port - 1000;
                            let (.., end) = model.remove(&client).unwrap();
                            prop_assert!(end <= tick, "before its time");
                        }
                        if left > 0 {
                            break;
                        }
                    }
                    prop_assert!(model.values().all(|&(.., end)| end > tick), "one outlived its timer");
                    if let Some(end) = model.values().map(|&(.., end)| end).min() {
                        prop_assert!(table.deadline().unwrap() <= Instant(end << 24));
                    }
                }
            }
            prop_assert_eq!(table.len() as usize, model.len());
            prop_assert_eq!(table.places_from(0).count(), model.len());
        }
        for (new, place, _) in model.values() {
            prop_assert_eq!(table.find(&inbound(new)), Some((*place, Direction::Inbound)));
            let reply = (new.forward == Forward::Masquerade).then_some((*place, Direction::Outbound));
            prop_assert_eq!(table.find(&outbound(new)), reply);
            prop_assert_eq!(table.parts(*place), *new);
        }
    }
}
