//! The metrics, in the Prometheus text format 0.0.4: every line of a metric stands together, under its HELP and TYPE.

use alloc::string::String;
use core::fmt::{self, Display, Write};
use core::net::IpAddr;

use ringlet_balancer::{DestinationInfo, Forward, Protocol, Reason, ServiceInfo, ServiceKey};

use super::Cursor;
use crate::record::Mac;
use crate::services::View;
use crate::status::{Loss, VERSION};

/// Counter or gauge.
#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

use Kind::{Counter, Gauge};

/// Where the value of a metric comes from: one for the machine, one for each service, or one for each destination.
enum Source {
    Machine(fn(&View<'_>) -> u64),
    Service(fn(&ServiceInfo) -> u64),
    Destination(fn(&DestinationInfo) -> u64),
    /// Several lines with labels of their own.
    Labelled(fn(&str, &View<'_>, &mut String) -> fmt::Result),
}

use Source::{Destination, Labelled, Machine, Service};

/// Everything there is, in the order it is shown.
static METRICS: &[(&str, Kind, &str, Source)] = &[
    ("ringlet_info", Gauge, "What this machine is; always 1.", Labelled(info)),
    ("ringlet_uptime_seconds", Gauge, "Seconds since boot.", Machine(|v| v.gauges.now_ns / 1_000_000_000)),
    ("ringlet_memory_bytes", Gauge, "Memory of the machine.", Machine(|v| v.facts.memory)),
    ("ringlet_heap_used_bytes", Gauge, "Heap in use.", Machine(|v| v.gauges.heap.used)),
    ("ringlet_heap_bytes", Gauge, "Heap in all.", Machine(|v| v.gauges.heap.total)),
    ("ringlet_buffers_free", Gauge, "Packet buffers that nobody holds.", Machine(|v| v.gauges.buffers_free)),
    ("ringlet_buffers", Gauge, "Packet buffers in all.", Machine(|v| v.gauges.buffers)),
    ("ringlet_link_up", Gauge, "Whether the network link is up.", Machine(|v| v.gauges.link_up.into())),
    ("ringlet_receive_frames_total", Counter, "Frames received.", Machine(|v| v.gauges.counters.rx_frames)),
    ("ringlet_receive_bytes_total", Counter, "Bytes received.", Machine(|v| v.gauges.counters.rx_bytes)),
    ("ringlet_transmit_frames_total", Counter, "Frames sent.", Machine(|v| v.gauges.counters.tx_frames)),
    ("ringlet_transmit_bytes_total", Counter, "Bytes sent.", Machine(|v| v.gauges.counters.tx_bytes)),
    ("ringlet_bursts_total", Counter, "Bursts of frames received.", Machine(|v| v.gauges.counters.bursts)),
    ("ringlet_sleeps_total", Counter, "Times the loop went to sleep.", Machine(|v| v.gauges.counters.sleeps)),
    (
        "ringlet_wakeups_total",
        Counter,
        "Sleeps that an interrupt of the device ended.",
        Machine(|v| v.gauges.counters.wakeups),
    ),
    (
        "ringlet_device_queue_resets_total",
        Counter,
        "Times a single queue of the device was reset.",
        Machine(|v| v.gauges.counters.queue_resets),
    ),
    ("ringlet_device_resets_total", Counter, "Times the device was reset.", Machine(|v| v.gauges.counters.resets)),
    (
        "ringlet_software_offloads_total",
        Counter,
        "Frames whose checksum or segmentation was done in software.",
        Machine(|v| v.gauges.counters.software_offloads),
    ),
    (
        "ringlet_coalesced_frames_total",
        Counter,
        "Frames the device put together from several segments.",
        Machine(|v| v.gauges.counters.coalesced_frames),
    ),
    (
        "ringlet_coalesced_segments_total",
        Counter,
        "Segments the device put together.",
        Machine(|v| v.gauges.counters.coalesced_segments),
    ),
    (
        "ringlet_duplicate_acks_total",
        Counter,
        "Duplicate ACKs the device left out and told of.",
        Machine(|v| v.gauges.counters.duplicate_acks),
    ),
    ("ringlet_stack_receive_frames_total", Counter, "Frames the stack took.", Machine(|v| v.gauges.stack.received)),
    (
        "ringlet_stack_refused_frames_total",
        Counter,
        "Frames nobody here wants: broadcasts for others, fragments, wrong TCP checksums.",
        Machine(|v| v.gauges.stack.refused),
    ),
    (
        "ringlet_stack_crowded_total",
        Counter,
        "Connections not accepted at once because too many clients were served.",
        Machine(|v| v.gauges.stack.crowded),
    ),
    ("ringlet_dropped_frames_total", Counter, "Frames dropped, by reason.", Labelled(dropped)),
    ("ringlet_forwarded_frames_total", Counter, "Frames sent on.", Machine(|v| v.balancer.counters().forwarded)),
    (
        "ringlet_held_frames",
        Gauge,
        "IP fragments held for more of their datagram.",
        Machine(|v| v.balancer.counters().held),
    ),
    ("ringlet_icmp_sent_total", Counter, "ICMP errors sent.", Machine(|v| v.balancer.counters().icmp_sent)),
    (
        "ringlet_icmp_limited_total",
        Counter,
        "ICMP errors not sent because of the rate limit.",
        Machine(|v| v.balancer.counters().icmp_limited),
    ),
    (
        "ringlet_neighbour_requests_total",
        Counter,
        "Neighbours asked for.",
        Machine(|v| v.balancer.counters().neighbour_requests),
    ),
    ("ringlet_waiting_frames", Gauge, "Frames that wait for a neighbour.", Machine(|v| v.gauges.waiting)),
    (
        "ringlet_backlog_frames",
        Gauge,
        "Frames that wait for room in the transmit queue.",
        Machine(|v| v.gauges.backlog),
    ),
    ("ringlet_connections", Gauge, "Connections in the table.", Machine(|v| v.balancer.connections().into())),
    (
        "ringlet_connections_active",
        Gauge,
        "Connections in an active state.",
        Machine(|v| v.balancer.active_connections().into()),
    ),
    ("ringlet_connections_limit", Gauge, "Connections the table holds.", Machine(|v| v.balancer.capacity().into())),
    ("ringlet_connections_total", Counter, "Connections balanced.", Machine(|v| v.balancer.total().connections)),
    ("ringlet_http_requests_total", Counter, "HTTP requests.", Machine(|v| v.gauges.services.http_requests)),
    ("ringlet_control_messages_total", Counter, "Control messages.", Machine(|v| v.gauges.services.control_messages)),
    (
        "ringlet_control_malformed_total",
        Counter,
        "Control connections closed over nonsense.",
        Machine(|v| v.gauges.services.control_malformed),
    ),
    (
        "ringlet_service_timeouts_total",
        Counter,
        "HTTP and control clients that were too slow.",
        Machine(|v| v.gauges.services.timeouts),
    ),
    (
        "ringlet_iperf3_completed_total",
        Counter,
        "Tests of iperf3 that came to their end.",
        Machine(|v| v.gauges.services.iperf3_completed),
    ),
    (
        "ringlet_iperf3_failed_total",
        Counter,
        "Tests of iperf3 refused or broken off.",
        Machine(|v| v.gauges.services.iperf3_failed),
    ),
    (
        "ringlet_iperf3_denied_total",
        Counter,
        "Connections to iperf3 turned away.",
        Machine(|v| v.gauges.services.iperf3_denied),
    ),
    (
        "ringlet_iperf3_received_bytes_total",
        Counter,
        "Payload that tests of iperf3 received.",
        Machine(|v| v.gauges.services.iperf3_received),
    ),
    (
        "ringlet_iperf3_sent_bytes_total",
        Counter,
        "Payload that tests of iperf3 sent.",
        Machine(|v| v.gauges.services.iperf3_sent),
    ),
    ("ringlet_services", Gauge, "Services.", Machine(|v| v.balancer.services().count() as u64)),
    ("ringlet_service_destinations", Gauge, "Destinations of a service.", Service(|s| s.destinations as u64)),
    ("ringlet_service_connections_total", Counter, "Connections of a service.", Service(|s| s.stats.connections)),
    ("ringlet_service_in_packets_total", Counter, "Packets from clients.", Service(|s| s.stats.in_packets)),
    ("ringlet_service_out_packets_total", Counter, "Packets to clients.", Service(|s| s.stats.out_packets)),
    ("ringlet_service_in_bytes_total", Counter, "Bytes from clients.", Service(|s| s.stats.in_bytes)),
    ("ringlet_service_out_bytes_total", Counter, "Bytes to clients.", Service(|s| s.stats.out_bytes)),
    ("ringlet_destination_weight", Gauge, "Weight of a destination.", Destination(|d| d.config.weight.max(0) as u64)),
    ("ringlet_destination_active", Gauge, "Active connections.", Destination(|d| d.active.into())),
    ("ringlet_destination_inactive", Gauge, "Other connections.", Destination(|d| d.inactive.into())),
    (
        "ringlet_destination_connections_total",
        Counter,
        "Connections of a destination.",
        Destination(|d| d.stats.connections),
    ),
    ("ringlet_destination_in_packets_total", Counter, "Packets from clients.", Destination(|d| d.stats.in_packets)),
    ("ringlet_destination_out_packets_total", Counter, "Packets to clients.", Destination(|d| d.stats.out_packets)),
    ("ringlet_destination_in_bytes_total", Counter, "Bytes from clients.", Destination(|d| d.stats.in_bytes)),
    ("ringlet_destination_out_bytes_total", Counter, "Bytes to clients.", Destination(|d| d.stats.out_bytes)),
];

/// Appends the next part to `out`, about `piece` bytes of it. Returns whether that was all.
pub(crate) fn write(cursor: &mut Cursor, view: &View<'_>, out: &mut String, piece: usize) -> bool {
    while let Some((name, kind, help, source)) = METRICS.get(cursor.section) {
        if out.len() >= piece {
            return false;
        }
        if cursor.service == 0 && cursor.destination == 0 {
            let kind = match kind {
                Counter => "counter",
                Gauge => "gauge",
            };
            // A `String` takes all it is given, here and below.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
        match source {
            Machine(value) => {
                let _ = writeln!(out, "{name} {}", value(view));
            }
            Labelled(lines) => {
                let _ = lines(name, view, out);
            }
            Service(value) => {
                for service in view.balancer.services().skip(cursor.service) {
                    if out.len() >= piece {
                        return false;
                    }
                    let _ = writeln!(out, "{name}{{{}}} {}", Labels(&service.key, None), value(&service));
                    cursor.service += 1;
                }
            }
            Destination(value) => {
                for service in view.balancer.services().skip(cursor.service) {
                    let destinations = view.balancer.destinations(&service.key);
                    for destination in destinations.into_iter().flatten().skip(cursor.destination) {
                        if out.len() >= piece {
                            return false;
                        }
                        let labels = Labels(&service.key, Some(&destination));
                        let _ = writeln!(out, "{name}{{{labels}}} {}", value(&destination));
                        cursor.destination += 1;
                    }
                    cursor.service += 1;
                    cursor.destination = 0;
                }
            }
        }
        *cursor = Cursor { section: cursor.section + 1, service: 0, destination: 0 };
    }
    true
}

fn info(name: &str, view: &View<'_>, out: &mut String) -> fmt::Result {
    let facts = view.facts;
    writeln!(
        out,
        "{name}{{version=\"{}\",build_id=\"{}\",transport=\"{}\",mac=\"{}\",mtu=\"{}\",features=\"{}\"}} 1",
        Escaped(VERSION),
        Escaped(&facts.build_id),
        Escaped(facts.transport),
        Escaped(Mac(facts.mac)),
        facts.mtu,
        Escaped(facts.features),
    )
}

fn dropped(name: &str, view: &View<'_>, out: &mut String) -> fmt::Result {
    let balancer = view.balancer.counters();
    for &reason in Reason::ALL {
        writeln!(out, "{name}{{by=\"balancer\",reason=\"{}\"}} {}", reason.label(), balancer.dropped[reason as usize])?;
    }
    for &loss in Loss::ALL {
        let count = view.gauges.counters.lost[loss as usize];
        writeln!(out, "{name}{{by=\"loop\",reason=\"{}\"}} {count}", loss.label())?;
    }
    Ok(())
}

/// The labels that name a service, or one of its destinations.
struct Labels<'a>(&'a ServiceKey, Option<&'a DestinationInfo>);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ServiceKey::Address { protocol, address, port } => {
                write!(f, "protocol=\"{}\",address=\"{address}\",port=\"{port}\"", protocol_name(*protocol))?;
            }
            ServiceKey::Mark { mark, .. } => write!(f, "mark=\"{mark}\"")?,
        }
        if let Some(destination) = self.1 {
            let (address, port): (IpAddr, u16) = (destination.key.address, destination.key.port);
            let forward = forward_name(destination.config.forward);
            write!(f, ",destination=\"{address}\",destination_port=\"{port}\",forwarding=\"{forward}\"")?;
        }
        Ok(())
    }
}

/// The name of a protocol in metrics and records.
pub(crate) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        _ => "sctp",
    }
}

/// The name of a forwarding method in metrics and records.
pub(crate) fn forward_name(forward: Forward) -> &'static str {
    match forward {
        Forward::Masquerade => "masq",
        Forward::Local => "local",
        Forward::Tunnel => "tunnel",
        Forward::Direct => "direct",
        Forward::Bypass => "bypass",
    }
}

/// The value of a label: backslash, quote and line feed are escaped.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);

        impl Write for Escape<'_, '_> {
            fn write_str(&mut self, s: &str) -> fmt::Result {
                for piece in s.split_inclusive(['\\', '"', '\n']) {
                    match piece.strip_suffix(['\\', '"', '\n']) {
                        Some(rest) => {
                            self.0.write_str(rest)?;
                            self.0.write_str(match piece.as_bytes().last() {
                                Some(b'\n') => "\\n",
                                Some(b'"') => "\\\"",
                                _ => "\\\\",
                            })?;
                        }
                        None => self.0.write_str(piece)?,
                    }
                }
                Ok(())
            }
        }

        write!(Escape(f), "{}", self.0)
    }
}
