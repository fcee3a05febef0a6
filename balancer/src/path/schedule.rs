//! Packets of no connection: new ones are scheduled, the rest is the local stack's or nobody's.

use super::{Decision, Moment};
use crate::Balancer;
use crate::connection::{Full, New, Seen, TcpState};
use crate::frame::transport::{TcpFlags, Transport};
use crate::frame::{Fragment, Ip, is_group};
use crate::icmp::Problem;
use crate::packet::{Packet, Reason, Verdict};
use crate::scheduler::Request;
use crate::service::{Forward, Protocol, ServiceFlags, ServiceKey};

/// The source port of FTP data, which Linux never schedules.
const FTP_DATA: u16 = 20;
/// Timers looked at to make room in a full table.
const ROOM: usize = 64;

impl Balancer {
    /// A TCP or UDP packet of no connection.
    pub(super) fn unknown(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        moment: &mut Moment<'_>,
    ) -> Decision {
        let is_virtual = self.services.is_virtual(&ip.destination);
        if !is_virtual && !self.routes.is_own(ip.destination) {
            return Err(Reason::NotOurs);
        }
        if is_group(packet.head) {
            return Err(Reason::NotToUs);
        }
        if !self.is_source(ip.source) {
            return Err(Reason::BadSource);
        }
        if is_virtual && ip.fragment != Fragment::Whole {
            return Err(Reason::Fragment);
        }
        let begins = match transport.protocol {
            Protocol::Tcp if self.sysctls.sloppy_tcp != 0 => !transport.flags.contains(TcpFlags::RST),
            Protocol::Tcp => transport.flags & (TcpFlags::SYN | TcpFlags::RST) == TcpFlags::SYN,
            _ => true,
        };
        if !begins || transport.source_port == FTP_DATA {
            return Ok(Verdict::Local);
        }
        let key = ServiceKey::Address {
            protocol: transport.protocol,
            address: ip.destination,
            port: transport.destination_port,
        };
        let Some(service) = self.services.find(&key) else { return Ok(Verdict::Local) };
        if self.defense.drops_packet() {
            return Err(Reason::Defense);
        }
        let mut request = Request {
            client: ip.source,
            client_port: transport.source_port,
            destination: ip.destination,
            flags: ServiceFlags::empty(),
            now: moment.now,
            expirations: self.expirations(),
        };
        let Some(destination) = self.services.choose(service, &mut request) else {
            self.complain(packet, ip, Problem::PortUnreachable, moment);
            return Err(Reason::NoDestination);
        };
        let place = self.begin(ip, transport, destination, moment).map_err(|Full| Reason::TableFull)?;
        self.inbound(packet, ip, transport, place, moment)
    }

    /// Puts a connection into the table and binds it to its destination.
    fn begin(
        &mut self,
        ip: &Ip,
        transport: &Transport,
        destination: u32,
        moment: &mut Moment<'_>,
    ) -> Result<u32, Full> {
        let to = &self.services.pool[destination as usize];
        let new = New {
            protocol: transport.protocol,
            client: ip.source,
            client_port: transport.source_port,
            virtual_address: ip.destination,
            virtual_port: transport.destination_port,
            address: to.key.address,
            port: if to.key.port == 0 { transport.destination_port } else { to.key.port },
            forward: to.config.forward,
            destination,
        };
        let seen = if new.forward == Forward::Masquerade { Seen::Input } else { Seen::InputOnly };
        let (_, timeout) = self.timers.after(TcpState::None, seen, transport);
        let place = match self.table.insert(&new, moment.now, timeout) {
            Ok(place) => place,
            Err(Full) => {
                self.expire(moment.now, ROOM);
                self.table.insert(&new, moment.now, timeout)?
            }
        };
        self.services.pool[destination as usize].bind();
        self.count(destination, |stats| stats.connections += 1);
        Ok(place)
    }
}
