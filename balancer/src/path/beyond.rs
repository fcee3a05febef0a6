//! Packets of connections that do what IPVS cannot: see [`Extras`](crate::Extras).

use core::net::IpAddr;

use super::{Decision, Moment, nat};
use crate::Balancer;
use crate::connection::{Extra, Tuple};
use crate::frame::transport::Transport;
use crate::frame::{ETHERNET, Ip};
use crate::packet::{Packet, Reason};
use crate::{Extras, LocalPool};

/// How many addresses and ports of a pool are looked at for a connection. Of a pool of which nine in ten are in use by
/// connections to the same server, one connection in 800 finds none.
const TRIES: usize = 64;

impl Balancer {
    /// What lies beside a new connection, by what its service does; `None` if that is nothing, and if the server is this machine,
    /// to which every way leads back.
    pub(super) fn extra(&mut self, tuple: &Tuple, destination: u32, port: u16) -> Result<Option<Extra>, Reason> {
        let to = &self.services.pool[destination as usize];
        let Some(service) =
            self.services.service(to.service).filter(|service| !to.local && service.extras.pool.is_some())
        else {
            return Ok(None);
        };
        self.extra_of(service.extras, tuple, destination, port).map(Some)
    }

    #[cold]
    fn extra_of(&mut self, extras: Extras, tuple: &Tuple, destination: u32, port: u16) -> Result<Extra, Reason> {
        let local = match &extras.pool {
            None => None,
            Some(pool) => Some(self.local(pool, tuple, destination, port).ok_or_else(|| {
                let service = self.services.pool[destination as usize].service;
                self.services.count_extra(Some(service), |counters| counters.exhausted += 1);
                Reason::PoolExhausted
            })?),
        };
        Ok(Extra { local })
    }

    /// An address and port of a pool from which no connection goes to this server, by what the table says: what is in its last
    /// state is not free yet. Every pair has its turn before one comes again.
    fn local(&mut self, pool: &LocalPool, tuple: &Tuple, destination: u32, port: u16) -> Option<(IpAddr, u16)> {
        let to = &mut self.services.pool[destination as usize];
        let [a, b] = self.config.seed;
        let secret = a.rotate_left(17) ^ b ^ u64::from(to.incarnation).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for _ in 0..TRIES {
            let pair = pool.pair(to.locals, secret);
            to.locals = to.locals.wrapping_add(1);
            let reply = Tuple {
                protocol: tuple.protocol,
                source: to.key.address,
                source_port: port,
                destination: pair.0,
                destination_port: pair.1,
            };
            if self.table.find(&reply).is_none() {
                return Some(pair);
            }
        }
        None
    }

    /// Rewrites a packet for the server of its connection.
    #[inline(never)]
    pub(super) fn request_beyond(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        place: u32,
    ) -> Result<(), Reason> {
        let (address, port) = self.table.server(place);
        nat::rewrite(packet, ip, transport, nat::End::Destination, address, port)?;
        if let Some((address, port)) = self.table.local(place) {
            nat::rewrite(packet, ip, transport, nat::End::Source, address, port)?;
        }
        Ok(())
    }

    /// From the destination to the client.
    #[inline(never)]
    pub(super) fn reply_beyond(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        place: u32,
        moment: &mut Moment<'_>,
    ) -> Decision {
        let (client, client_port) = self.table.client(place);
        self.may_pass(packet, ip, ip.payload - ETHERNET + transport.header, self.config.mtu, moment)?;
        let way = self.route(packet, ip, &client, moment)?;
        self.replied(ip, transport, place, moment.now);
        let (address, port) = self.table.service(place);
        nat::rewrite(packet, ip, transport, nat::End::Source, address, port)?;
        if self.table.get(place).is_local() {
            nat::rewrite(packet, ip, transport, nat::End::Destination, client, client_port)?;
        }
        self.transmit(packet, way, &client, moment)
    }
}
