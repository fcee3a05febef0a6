//! Errors of others about balanced connections: found by the packet they quote, and rewritten as that was.

use core::net::IpAddr;

use crate::Reason;
use crate::service::Protocol;

/// The packet that an ICMP error quotes, and where the parts of both lie in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quote {
    /// Source of the error itself.
    pub from: IpAddr,
    /// Destination of the error itself: where the quoted packet came from, if nobody lies.
    pub to: IpAddr,
    /// Transport protocol of the quoted packet: TCP or UDP.
    pub protocol: Protocol,
    /// Source address of the quoted packet.
    pub source: IpAddr,
    /// Source port of the quoted packet, in host order.
    pub source_port: u16,
    /// Destination address of the quoted packet.
    pub destination: IpAddr,
    /// Destination port of the quoted packet, in host order.
    pub destination_port: u16,
}

/// Looks into an ICMP or ICMPv6 message: `frame` is an Ethernet frame, of which at least the headers are here.
///
/// `Ok(None)` if it is no error that is translated (an echo, or an error about something that is neither TCP nor UDP):
/// the local stack may have it. As in Linux, types 3, 4 and 11 are, and every error of ICMPv6.
///
/// # Errors
/// [`Reason::Malformed`] if it is cut short.
pub(crate) fn parse(frame: &[u8]) -> Result<Option<Quote>, Reason> {
    let _ = frame;
    Ok(None)
}

impl Quote {
    /// Rewrites an error about a reply that we had sent on to a client, for the server: the error goes to the server,
    /// and what it quotes comes from there. TTL and Ethernet addresses are left to the caller.
    ///
    /// # Errors
    /// [`Reason::BadChecksum`] if the checksum of the error is wrong, [`Reason::Malformed`] if `frame` is not the whole
    /// frame or `server` is of the other family; nothing is changed then.
    pub fn to_server(&self, frame: &mut [u8], server: IpAddr, port: u16) -> Result<(), Reason> {
        let _ = (frame, server, port);
        Ok(())
    }

    /// Rewrites an error about a request that we had sent on to a server, for the client: the error comes from the
    /// virtual address, and what it quotes went there. TTL and Ethernet addresses are left to the caller.
    ///
    /// # Errors
    /// As [`Quote::to_server`].
    pub fn to_client(&self, frame: &mut [u8], address: IpAddr, port: u16) -> Result<(), Reason> {
        let _ = (frame, address, port);
        Ok(())
    }
}
