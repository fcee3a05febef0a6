//! What servers send that belongs to no connection: they can be told (sysctl `nat_icmp_send`).

use super::{Decision, Moment, nat};
use crate::Balancer;
use crate::frame::transport::{TcpFlags, Transport};
use crate::frame::{ETHERNET, Fragment, Ip, is_group};
use crate::icmp::Problem;
use crate::packet::{Packet, Reason};

impl Balancer {
    /// Whether a packet of no connection comes from the port of a server under NAT, and can be told of: resets cannot
    /// (ip_vs_has_real_service).
    #[cold]
    pub(super) fn is_stray(&self, packet: &Packet<'_>, ip: &Ip, transport: &Transport) -> bool {
        ip.fragment == Fragment::Whole
            && !transport.flags.contains(TcpFlags::RST)
            && !is_group(packet.head)
            && self.services.has_server(transport.protocol, ip.source, transport.source_port)
    }

    /// Tells a server that what it sent is of no connection: to a router on the packet's way, which a hop was taken off for, or
    /// to us.
    #[cold]
    pub(super) fn refuse_stray(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        moment: &mut Moment<'_>,
    ) -> Decision {
        if !self.is_ours(ip.destination) {
            self.may_pass(packet, ip, ip.payload - ETHERNET + transport.header, self.config.mtu, moment)?;
            self.route(packet, ip, &ip.destination, moment)?;
            nat::decrement_hops(packet.head, ip)?;
        }
        self.complain(packet, ip, Problem::PortUnreachable, moment);
        Err(Reason::NotOurs)
    }
}
