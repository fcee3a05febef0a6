//! The balancer as host code, timed: lookups among few and among ten million connections, how they come and go, and what each
//! scheduler takes. `cargo bench -p ringlet-balancer`; the largest table takes 800 MiB of memory for a minute.
//!
//! Times differ from machine to machine and from run to run. `cargo xtask test instructions` counts instructions instead.

mod common;

use std::hint::black_box;
use std::time::{Duration, Instant as Clock};

use common::{BURST, Deaf, Kind, NOW, Setup, balancer, burst, frame, meet, play};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringlet_balancer::*;

/// Numbers of connections, and how they are called.
const SIZES: [(u32, &str); 4] = [(1_000, "1k"), (100_000, "100k"), (1_000_000, "1M"), (10_000_000, "10M")];
/// Longer than any connection lasts without a packet.
const FOREVER: Duration = Duration::from_secs(100_000);

/// Whether this is no measurement, but each case once to see whether it works.
fn is_trial() -> bool {
    std::env::args().any(|word| word == "--test")
}

/// Gives frames of flows to a balancer. Returns how long that took, without the making of the frames.
fn forward(balancer: &mut Balancer, flows: impl IntoIterator<Item = u32>, kind: Kind, now: Instant) -> Duration {
    let mut frames: Vec<_> = flows.into_iter().map(|flow| frame(flow, kind)).collect();
    let (_, time) = burst(&mut frames, |packets| {
        let began = Clock::now();
        balancer.process(black_box(packets), now, &mut Deaf);
        began.elapsed()
    });
    time
}

/// Packets of connections there are, in no order: each finds its own, is counted, translated and sent on.
fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("lookup");
    group.throughput(Throughput::Elements(1));
    let sizes = if is_trial() { &SIZES[..2] } else { &SIZES };
    for &(connections, name) in sizes {
        let mut filled = None;
        group.bench_function(name, |bencher| {
            let balancer = filled.get_or_insert_with(|| {
                let mut balancer = balancer(&Setup { connections: connections + 1, ..Setup::PLAIN });
                play(&mut balancer, 0..connections, Kind::Udp);
                assert!(balancer.connections() >= connections);
                balancer
            });
            let mut random = 1_u64;
            let mut next = || {
                // Knuth's MMIX generator, its high bits.
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((random >> 33) % u64::from(connections)) as u32
            };
            bencher.iter_custom(|packets| {
                let mut time = Duration::ZERO;
                let mut left = packets;
                while left > 0 {
                    let some = left.min(BURST as u64);
                    time += forward(balancer, (0..some).map(|_| next()), Kind::Udp, NOW);
                    left -= some;
                }
                time
            });
        });
    }
    group.finish();
}

/// How connections come, are refused where there is no room, and end.
fn life(c: &mut Criterion) {
    let mut group = c.benchmark_group("life");
    group.throughput(Throughput::Elements(1));
    let sizes = if is_trial() { &SIZES[..1] } else { &SIZES[..3] };
    for &(connections, name) in sizes {
        group.bench_function(BenchmarkId::new("create", name), |bencher| {
            let mut balancer = balancer(&Setup { connections, ..Setup::PLAIN });
            let mut now = NOW;
            bencher.iter_custom(|packets| churn(&mut balancer, &mut now, packets).0);
        });
        group.bench_function(BenchmarkId::new("expire", name), |bencher| {
            let mut balancer = balancer(&Setup { connections, ..Setup::PLAIN });
            let mut now = NOW;
            bencher.iter_custom(|packets| churn(&mut balancer, &mut now, packets).1);
        });
        group.bench_function(BenchmarkId::new("refuse", name), |bencher| {
            let mut balancer = balancer(&Setup { connections, ..Setup::PLAIN });
            play(&mut balancer, 0..connections, Kind::Udp);
            assert_eq!(balancer.connections(), connections);
            bencher.iter_custom(|packets| {
                (0..packets).step_by(BURST).fold(Duration::ZERO, |time, first| {
                    let flows = (first..packets.min(first + BURST as u64)).map(|n| connections + n as u32);
                    time + forward(&mut balancer, flows, Kind::Udp, NOW)
                })
            });
        });
    }
    group.finish();
}

/// Lets `packets` connections come, and go each time the table is full. Returns how long they took to come, and to go.
fn churn(balancer: &mut Balancer, now: &mut Instant, packets: u64) -> (Duration, Duration) {
    let (mut come, mut gone, mut done) = (Duration::ZERO, Duration::ZERO, 0);
    while done < packets {
        // One place is taken by the connection with which the neighbours were asked for.
        let some = (packets - done).min(u64::from(balancer.capacity() - 1));
        for first in (0..some).step_by(BURST) {
            let flows = (first..some.min(first + BURST as u64)).map(|n| n as u32);
            come += forward(balancer, flows, Kind::Udp, *now);
        }
        *now = *now + FOREVER;
        let began = Clock::now();
        while balancer.poll(*now, &mut Deaf) <= *now {}
        gone += began.elapsed();
        assert_eq!(balancer.connections(), 0);
        // The server has not been heard of for long.
        meet(balancer, *now);
        done += some;
    }
    (come, gone)
}

/// A packet that is a connection of its own, by each scheduler: put in, sent on and taken out, beside the choice itself.
fn schedulers(c: &mut Criterion) {
    let mut group = c.benchmark_group("scheduler");
    group.throughput(Throughput::Elements(1));
    for &scheduler in Scheduler::ALL {
        for servers in [3, 100, 1000] {
            group.bench_function(BenchmarkId::new(scheduler.name(), servers), |bencher| {
                let flags = ServiceFlags::ONE_PACKET;
                let mut balancer = balancer(&Setup { scheduler, servers, flags, connections: 1024, ..Setup::PLAIN });
                let mut flow = 0_u32;
                bencher.iter_custom(|packets| {
                    let (mut time, mut left) = (Duration::ZERO, packets);
                    while left > 0 {
                        let some = left.min(BURST as u64);
                        time += forward(&mut balancer, flow..flow + some as u32, Kind::Udp, NOW);
                        flow = (flow + some as u32) % (1 << 20);
                        left -= some;
                    }
                    time
                });
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = all;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    targets = lookup, life, schedulers
}
criterion_main!(all);
