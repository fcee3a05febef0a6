//! IPsec (AH and ESP): packets whose ports, if there are any, nobody but their ends can see.
//!
//! As in Linux (ip_vs_proto_ah_esp.c) they go where the key exchange of the same two ends goes, which is UDP from port 500 to 500. They
//! begin no connection and change no state.

use super::Moment;
use crate::Balancer;
use crate::connection::{Direction, Tuple};
use crate::frame::{Fragment, Ip, is_group};
use crate::icmp::KEY_EXCHANGE;
use crate::packet::{Packet, Reason, Verdict};
use crate::service::Protocol;
use crate::service::table::NOBODY;

impl Balancer {
    /// A packet of AH or ESP: sent on if it belongs to a connection, `None` if not.
    #[cold]
    pub(super) fn secured(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        moment: &mut Moment<'_>,
    ) -> Result<Option<Verdict>, Reason> {
        let exchange = Tuple {
            protocol: Protocol::Udp,
            source: ip.source,
            source_port: KEY_EXCHANGE,
            destination: ip.destination,
            destination_port: KEY_EXCHANGE,
        };
        let found = self.table.find(&exchange).filter(|&(place, _)| !self.table.is_over(place, moment.now));
        let Some((place, direction)) = found else { return Ok(None) };
        let entry = self.table.get(place);
        let (is_one_way, state) = (entry.is_one_way(), entry.state());
        if self.is_passive() && direction == Direction::Inbound {
            return Ok(None);
        }
        if entry.is_extra() {
            // Its other end is told by ports.
            return Ok(None);
        }
        if is_group(packet.head) {
            return Err(Reason::NotToUs);
        }
        if packet.offload.partial.is_some() {
            return Err(Reason::Malformed);
        }
        let mut follow = self.follow_of(place, direction, ip);
        let (server, _) = self.table.server(place);
        let (service, _) = self.table.service(place);
        follow.ends = match direction {
            Direction::Inbound if is_one_way => follow.ends,
            Direction::Inbound => (ip.source, server),
            Direction::Outbound => (service, ip.destination),
        };
        let is_gone = direction == Direction::Inbound
            && match follow.destination {
                NOBODY => follow.is_tunnel,
                destination => !self.services.pool[destination as usize].available,
            };
        if !is_gone {
            let (seen, timeout) = (u8::from(direction == Direction::Inbound), self.timers.udp());
            self.table.touch(place, state, seen, moment.now, timeout);
            self.table.witness(place);
        }
        // Fragments, of which each has all there is to see, are one packet.
        let packets = u64::from(ip.fragment != Fragment::Later);
        let bytes = if packets == 1 { ip.len() } else { ip.end - ip.payload };
        self.follow(packet, ip, &follow, (packets, bytes as u64), moment).map(Some)
    }
}
