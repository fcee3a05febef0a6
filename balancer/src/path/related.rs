//! ICMP errors about balanced connections: they belong to the other side.

use super::{Moment, direct, nat};
use crate::Balancer;
use crate::connection::{Direction, Tuple};
use crate::frame::{Ip, is_group};
use crate::icmp;
use crate::packet::{Packet, Reason, Verdict};

impl Balancer {
    /// An ICMP message: sent on if it is an error about a connection of ours, `None` if it is anything else.
    pub(super) fn related(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        moment: &mut Moment<'_>,
    ) -> Result<Option<Verdict>, Reason> {
        let Some(quote) = icmp::parse(packet.head, ip)? else { return Ok(None) };
        // What an answer to the quoted packet would look like.
        let answer = Tuple {
            protocol: quote.protocol,
            source: quote.destination,
            source_port: quote.destination_port,
            destination: quote.source,
            destination_port: quote.source_port,
        };
        let Some((place, direction)) = self.table.find(&answer) else { return Ok(None) };
        // An error goes to the source of what it quotes; one that does not is not answered for.
        if ip.destination != quote.source || self.table.is_over(place, moment.now) || is_group(packet.head) {
            return Ok(None);
        }
        if packet.offload.partial.is_some() {
            return Err(Reason::Malformed);
        }
        let entry = self.table.get(place);
        let (is_one_way, is_tunnel, destination) = (entry.is_one_way(), entry.is_tunnel(), entry.destination);
        if !is_one_way {
            // It is rewritten, and must not come out better than it came in. What is damaged is not counted either.
            quote.check(packet.head)?;
        }
        if self.services.pool[destination as usize].available {
            let bytes = ip.len() as u64;
            self.count(destination, |stats| match direction {
                Direction::Inbound => {
                    (stats.in_packets, stats.in_bytes) = (stats.in_packets + 1, stats.in_bytes + bytes)
                }
                Direction::Outbound => {
                    (stats.out_packets, stats.out_bytes) = (stats.out_packets + 1, stats.out_bytes + bytes);
                }
            });
        }
        if is_tunnel && direction == Direction::Inbound {
            return self.tunnel(packet, ip, ip.len(), place, moment).map(Some);
        }
        self.may_pass(packet, ip, ip.len(), self.config.mtu, moment)?;
        let (server, server_port) = self.table.server(place);
        let to = if direction == Direction::Inbound { server } else { ip.destination };
        let way = self.route(packet, ip, &to, moment)?;
        match direction {
            // About a reply, to the virtual address: the server made it.
            Direction::Inbound if is_one_way => direct(way)?,
            Direction::Inbound => quote.for_server(packet.head, server, server_port)?,
            // About a request, to the client, as the server or a router on the way saw it.
            Direction::Outbound => {
                let (address, port) = self.table.service(place);
                quote.for_client(packet.head, address, port)?;
            }
        }
        nat::decrement_hops(packet.head, ip)?;
        self.transmit(packet, way, &to, moment).map(Some)
    }
}
