//! What the machine says of itself: records for programs (see [`record`](crate::record)) and a few lines for people.

use ringlet_balancer::{Balancer, DestinationInfo, ServiceInfo, ServiceKey, Stats};

use crate::console::Console;
use crate::record::{Mac, Record};
use crate::round_trip;
use crate::services::http::{forward_name, protocol_name};
use crate::status::{Facts, Gauges, VERSION};

/// The record `boot`.
pub(crate) fn boot(console: &Console<'_>, facts: &Facts) {
    if console.records() {
        let record = Record::new("boot")
            .string("build_id", &facts.build_id)
            .string("version", VERSION)
            .number("memory", facts.memory)
            .string("transport", facts.transport)
            .number("features", facts.features.bits())
            .number("queue_size", facts.queue_size.into())
            .string("mac", Mac(facts.mac))
            .strings("addresses", &facts.addresses);
        console.record(&record.finish());
    }
}

/// The record `ready`.
pub(crate) fn ready(console: &Console<'_>, now_ns: u64, balancer: &Balancer, rules_failed: u64) {
    if console.records() {
        let (services, destinations) = count(balancer);
        let record = Record::new("ready")
            .number("ns", now_ns)
            .number("services", services)
            .number("destinations", destinations)
            .number("rules_failed", rules_failed);
        console.record(&record.finish());
    }
}

/// The record `status`.
pub(crate) fn status(console: &Console<'_>, balancer: &Balancer, gauges: &Gauges) {
    if console.records() {
        let counters = &gauges.counters;
        let record = Record::new("status")
            .number("ns", gauges.now_ns)
            .number("rx_packets", counters.rx_frames)
            .number("tx_packets", counters.tx_frames)
            .number("rx_bytes", counters.rx_bytes)
            .number("tx_bytes", counters.tx_bytes)
            .number("connections", balancer.total().connections)
            .number("active", balancer.connections().into())
            .number("drops", balancer.counters().dropped.iter().sum::<u64>() + counters.lost_in_all());
        console.record(&record.finish());
    }
}

/// The record `roundtrip`.
pub(crate) fn round_trip(console: &Console<'_>, now_ns: u64, counters: round_trip::Counters) {
    if console.records() {
        let record = Record::new("roundtrip")
            .number("ns", now_ns)
            .number("returned", counters.returned)
            .number("injected", counters.injected)
            .number("wrong", counters.wrong);
        console.record(&record.finish());
    }
}

/// The records `configuration`, `service` and `destination`.
pub(crate) fn configuration(console: &Console<'_>, balancer: &Balancer) {
    if !console.records() {
        return;
    }
    let (services, destinations) = count(balancer);
    let record = Record::new("configuration").number("services", services).number("destinations", destinations);
    console.record(&record.finish());
    for info in balancer.services() {
        let ServiceKey::Address { protocol, address, port } = info.key else { continue };
        let protocol = protocol_name(protocol);
        console.record(&service(&info, protocol, address, port));
        for destination in balancer.destinations(&info.key).into_iter().flatten() {
            let record = Record::new("destination")
                .string("protocol", protocol)
                .string("service_address", address)
                .number("service_port", port.into());
            console.record(&with_destination(record, &destination));
        }
    }
}

fn service(info: &ServiceInfo, protocol: &str, address: core::net::IpAddr, port: u16) -> alloc::string::String {
    let record = Record::new("service")
        .string("protocol", protocol)
        .string("address", address)
        .number("port", port.into())
        .string("scheduler", info.config.scheduler.name())
        .number("destinations", info.destinations as u64);
    with_stats(record, &info.stats).finish()
}

fn with_destination(record: Record, info: &DestinationInfo) -> alloc::string::String {
    let record = record
        .string("address", info.key.address)
        .number("port", info.key.port.into())
        .string("forwarding", forward_name(info.config.forward))
        .number("weight", info.config.weight.max(0) as u64)
        .number("active", info.active.into())
        .number("inactive", info.inactive.into());
    with_stats(record, &info.stats).finish()
}

fn with_stats(record: Record, stats: &Stats) -> Record {
    record
        .number("connections", stats.connections)
        .number("in_packets", stats.in_packets)
        .number("out_packets", stats.out_packets)
        .number("in_bytes", stats.in_bytes)
        .number("out_bytes", stats.out_bytes)
}

/// How many services and destinations there are. Services by mark are not shown, and there are none.
pub(crate) fn count(balancer: &Balancer) -> (u64, u64) {
    balancer
        .services()
        .fold((0, 0), |(services, destinations), info| (services + 1, destinations + info.destinations as u64))
}
