//! ICMP errors about balanced connections: they belong to the other side.

use super::{Decision, Moment, direct, nat};
use crate::Balancer;
use crate::connection::{Direction, Tuple};
use crate::frame::{Ip, is_group};
use crate::icmp::{self, Quote};
use crate::packet::{Packet, Reason, Verdict};
use crate::service::table::{FTP_DATA, NOBODY};

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
        // An error goes to the source of what it quotes; one that does not is not answered for.
        if ip.destination != quote.source || is_group(packet.head) {
            return Ok(None);
        }
        let found = self.table.find(&answer).filter(|&(place, _)| !self.table.is_over(place, moment.now));
        if self.is_passive() && !matches!(found, Some((_, Direction::Outbound))) {
            return Ok(None);
        }
        if let Some(found) = found {
            return self.relay_error(packet, ip, &quote, found, moment).map(Some);
        }
        // Nothing begins with IPsec.
        if self.sysctls.schedule_icmp == 0 || quote.is_secured {
            return Ok(None);
        }
        let Some((place, is_one_packet)) = self.begin_by_error(ip, &answer, moment)? else { return Ok(None) };
        let verdict = self.relay_error(packet, ip, &quote, (place, Direction::Inbound), moment);
        if is_one_packet {
            self.end(place);
        }
        verdict.map(Some)
    }

    /// Begins the connection of which an error is, as the client's next packet would (sysctl `schedule_icmp`; Linux:
    /// ip_vs_try_to_schedule). Its place, and whether it lasts no longer than this; `None` if there is no service for it. The error
    /// has no mark: rules are about ports.
    #[cold]
    fn begin_by_error(
        &mut self,
        ip: &Ip,
        tuple: &Tuple,
        moment: &mut Moment<'_>,
    ) -> Result<Option<(u32, bool)>, Reason> {
        if tuple.source_port == FTP_DATA || !self.is_source(ip.source) || !self.is_source(tuple.source) {
            return Ok(None);
        }
        let Some(service) = self.services.lookup(tuple) else { return Ok(None) };
        if self.defense.drops_packet() {
            return Err(Reason::Defense);
        }
        if self.table.sources.is_reserved() && self.over_limit(service, tuple.source, moment.now).is_some() {
            return Err(Reason::SourceLimit);
        }
        // Schedulers that look at the destination see that of the packet quoted, which is the client.
        match self.schedule(service, tuple, tuple.source, &[], moment) {
            Ok(chosen) => {
                let place = self.begin(tuple, None, &chosen, moment)?;
                Ok(Some((place, self.services.is_one_packet(service, tuple.protocol))))
            }
            Err(Reason::NoDestination) if self.services.is_ftp_data(service, tuple) => Ok(None),
            Err(reason) => Err(reason),
        }
    }

    /// Sends an error about a packet of a connection on.
    fn relay_error(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        quote: &Quote,
        (place, direction): (u32, Direction),
        moment: &mut Moment<'_>,
    ) -> Decision {
        if packet.offload.partial.is_some() {
            return Err(Reason::Malformed);
        }
        let entry = self.table.get(place);
        let is_extra = entry.is_extra();
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
        if direction == Direction::Inbound && !self.services.pool[destination as usize].usual {
            if destination == NOBODY && self.table.get(place).is_bypass() {
                return self.pass(packet, ip, ip.len(), moment);
            }
            if self.services.pool[destination as usize].local {
                if !is_one_way {
                    let (server, server_port) = self.table.server(place);
                    quote.for_server(packet.head, server, server_port)?;
                }
                return Ok(Verdict::Local);
            }
        }
        if is_tunnel && direction == Direction::Inbound {
            if destination == NOBODY {
                // By what tunnel is not known.
                return Err(Reason::DestinationGone);
            }
            return self.tunnel(packet, ip, ip.len(), place, moment);
        }
        self.may_pass(packet, ip, ip.len(), self.config.mtu, moment)?;
        let (server, server_port) = self.table.server(place);
        let local = if self.table.get(place).is_local() { self.table.local(place) } else { None };
        let (client, client_port) = self.table.client(place);
        let to = if direction == Direction::Inbound { server } else { client };
        let way = self.route(packet, ip, &to, moment)?;
        match direction {
            // About a reply, to the virtual address: the server made it.
            Direction::Inbound if is_one_way => direct(way)?,
            Direction::Inbound => {
                quote.for_server(packet.head, server, server_port)?;
                // Full NAT: the server has sent its reply to another address, and hears of it from there.
                if let Some((address, port)) = local {
                    quote.for_client(packet.head, address, port)?;
                }
            }
            // About a request, to the client, as the server or a router on the way saw it.
            Direction::Outbound => {
                let (address, port) = self.table.service(place);
                quote.for_client(packet.head, address, port)?;
                if local.is_some() {
                    quote.for_server(packet.head, client, client_port)?;
                }
            }
        }
        if let Some(splice) = is_extra.then(|| self.table.splice(place)).flatten() {
            // The number that is quoted is the one its sender knows.
            match direction {
                Direction::Inbound => quote.renumber(packet.head, |number| number.wrapping_sub(splice.offset)),
                Direction::Outbound => quote.renumber(packet.head, |number| splice.for_client(number)),
            }
        }
        nat::decrement_hops(packet.head, ip)?;
        self.transmit(packet, way, &to, moment)
    }
}
