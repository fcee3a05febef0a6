//! Packets that were ready to go, and whose next hop does not answer: their source is told.

use core::net::IpAddr;

use super::{Moment, nat, tuple};
use crate::Balancer;
use crate::connection::{Direction, Tuple};
use crate::frame::transport::Transport;
use crate::frame::{self, Headers, Ip, Kind};
use crate::icmp::Problem;
use crate::packet::Packet;

/// An end of a packet that NAT has rewritten, and what it was.
type Rewritten = (nat::End, (IpAddr, u16));

impl Balancer {
    /// Tells the source of a packet that waited in vain. The packet is made again as it came in, since that is what its
    /// source knows; one whose connection is gone cannot be, and one that is an ICMP error is not told of.
    pub(crate) fn give_up(&mut self, packet: &mut Packet<'_>, moment: &mut Moment<'_>) {
        if !self.give_up_one(packet, moment)
            && let Some(mut inner) = self.unwrap(packet)
        {
            self.give_up_one(&mut inner, moment);
        }
    }

    /// Tells the source of a packet that is in no tunnel. Whether it is one of a connection.
    fn give_up_one(&mut self, packet: &mut Packet<'_>, moment: &mut Moment<'_>) -> bool {
        let Some((ip, transport)) = self.read(packet) else { return false };
        let now = tuple(&ip, &transport);
        let undone = match self.before(&now) {
            Some(ends) => ends
                .into_iter()
                .flatten()
                .try_for_each(|(end, (address, port))| nat::rewrite(packet, &ip, &transport, end, address, port)),
            // With direct routing nothing but the hops was changed, and a tunnel is off by now.
            None if self.table.find(&now).is_some() => Ok(()),
            None => return false,
        };
        if undone.and_then(|()| nat::set_hops(packet.head, &ip, ip.hops.saturating_add(1))).is_err() {
            return true;
        }
        if let Some((ip, _)) = self.read(packet) {
            self.complain(packet, &ip, Problem::HostUnreachable, moment);
        }
        true
    }

    fn read(&self, packet: &Packet<'_>) -> Option<(Ip, Transport)> {
        let mut headers = Headers::NONE;
        let len = packet.len.max(packet.head.len());
        let kind = frame::parse_into(&mut headers, packet.head, len, &self.config.mac);
        matches!(kind, Ok(Kind::Flow | Kind::First)).then_some((headers.ip, headers.transport))
    }

    /// Which ends NAT has rewritten of a packet that now has this tuple, and what they were. `None` if it was none.
    fn before(&self, now: &Tuple) -> Option<[Option<Rewritten>; 2]> {
        let answer = Tuple {
            protocol: now.protocol,
            source: now.destination,
            source_port: now.destination_port,
            destination: now.source,
            destination_port: now.source_port,
        };
        let (place, direction) = self.table.find(&answer)?;
        let local = if self.table.get(place).is_local() { self.table.local(place) } else { None };
        Some(match direction {
            // The server would answer: it was a request, to the service.
            Direction::Outbound => [
                Some((nat::End::Destination, self.table.service(place))),
                local.map(|_| (nat::End::Source, self.table.client(place))),
            ],
            // The client would: it was a reply, of the server.
            Direction::Inbound => {
                [Some((nat::End::Source, self.table.server(place))), local.map(|local| (nat::End::Destination, local))]
            }
        })
    }
}
