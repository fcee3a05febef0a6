//! Sources that have as many connections as they may have: see [`SourceLimits`](crate::SourceLimits).

use core::net::IpAddr;

use super::segment::Segment;
use super::{Moment, sequence};
use crate::Balancer;
use crate::connection::Full;
use crate::frame::transport::{TcpFlags, Transport};
use crate::frame::{ETHERNET, Ip};
use crate::icmp::Problem;
use crate::packet::{Packet, Reason};
use crate::service::Protocol;
use crate::time::Instant;

impl Balancer {
    /// Whether a packet may begin a connection of a service, as far as its source is concerned. If not, it is told, if that is
    /// wished for.
    #[cold]
    pub(super) fn limit(
        &mut self,
        service: u32,
        packet: &Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        moment: &mut Moment<'_>,
    ) -> Result<(), Reason> {
        match self.over_limit(service, ip.source, moment.now) {
            None => Ok(()),
            Some(reset) => {
                if reset {
                    self.reset(packet, ip, transport, moment);
                }
                Err(Reason::SourceLimit)
            }
        }
    }

    /// Whether a source is over a limit, which is counted then, and whether it is to be told.
    pub(super) fn over_limit(&mut self, service: u32, source: IpAddr, now: Instant) -> Option<bool> {
        let [all, own] = self.services.limits(service);
        for (place, limits) in [(None, all), (Some(service), own)] {
            if let Some((scope, limits)) = limits
                && !self.table.sources.admits(scope, source, &limits, now)
            {
                self.services.count_extra(place, |counters| counters.limited += 1);
                return Some(limits.reset);
            }
        }
        None
    }

    /// Puts a connection that is to begin on the accounts of its source.
    #[cold]
    pub(super) fn account(&mut self, service: u32, source: IpAddr, now: Instant) -> Result<[u32; 2], Full> {
        let limits = self.services.limits(service);
        if limits == [None, None] {
            return Ok([0; 2]);
        }
        // One that could not be given back would be his for ever.
        if !self.table.can_count() {
            return Err(Full);
        }
        let sources = &mut self.table.sources;
        Ok(limits.map(|limits| limits.map_or(0, |(scope, limits)| sources.take(scope, source, &limits, now))))
    }

    /// Refuses a packet of no connection: TCP by a reset (RFC 9293, section 3.10.7.1), all else by an ICMP error.
    #[cold]
    pub(super) fn reset(&mut self, packet: &Packet<'_>, ip: &Ip, transport: &Transport, moment: &mut Moment<'_>) {
        if transport.protocol != Protocol::Tcp {
            return self.complain(packet, ip, Problem::PortUnreachable, moment);
        }
        let Some(ethernet) = packet.head.first_chunk::<ETHERNET>() else { return };
        // Nobody's answer goes to a group, and not more of them go out than of errors.
        if ethernet[6] & 1 != 0 || !self.resets.take(moment.now) {
            return;
        }
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *ethernet;
        let has = |flag| transport.flags.contains(flag);
        let length = sequence::payload(ip, transport) + u32::from(has(TcpFlags::SYN)) + u32::from(has(TcpFlags::FIN));
        let (number, acknowledgement, flags) = if has(TcpFlags::ACK) {
            (sequence::acknowledgement(packet.head, ip), 0, TcpFlags::RST)
        } else {
            let end = sequence::sequence(packet.head, ip).wrapping_add(length);
            (0, end, TcpFlags::RST | TcpFlags::ACK)
        };
        let reset = Segment {
            macs: [[a, b, c, d, e, f], self.config.mac],
            from: (ip.destination, transport.destination_port),
            to: (ip.source, transport.source_port),
            sequence: number,
            acknowledgement,
            flags,
            window: 0,
            options: &[],
            payload: &[],
        };
        reset.send(&mut *moment.sink);
    }
}
