//! The attribute of a connection: Ringlet's own, for Linux lists connections in /proc/net/ip_vs_conn.

use super::attribute::{Attribute, Violation, Writer};
use super::ipvs::connection as kind;
use super::service::{address, address_bytes, family, family_number};
use crate::{ConnectionInfo, Errno, Family, Forward, Protocol, ServiceKey, State};

/// IP_VS_CONN_F_TEMPLATE.
const TEMPLATE: u32 = 0x1000;
/// IP_VS_CONN_F_SYNC.
const SYNCED: u32 = 0x0020;

/// The protocol of a number: also 0, which the templates of marks have.
fn protocol_of(number: u16) -> Result<Protocol, Errno> {
    if number == 0 { Ok(Protocol::Ip) } else { Protocol::from_number(number) }
}

/// Writes a connection.
pub(crate) fn write(info: &ConnectionInfo, w: &mut Writer<'_>) {
    w.u16(kind::AF, family_number(Family::of(&info.client)))
        .u16(kind::PROTOCOL, info.protocol.number().into())
        .put(kind::CLIENT_ADDR, &address_bytes(&info.client))
        .be16(kind::CLIENT_PORT, info.client_port)
        .put(kind::VIRTUAL_ADDR, &address_bytes(&info.virtual_address))
        .be16(kind::VIRTUAL_PORT, info.virtual_port)
        .put(kind::DEST_ADDR, &address_bytes(&info.destination))
        .be16(kind::DEST_PORT, info.destination_port)
        .u32(kind::FWD_METHOD, info.forward as u32)
        .u16(kind::STATE, if info.template { info.assured.into() } else { info.state.number().into() })
        .u32(kind::EXPIRES, info.expires)
        .u32(kind::FLAGS, if info.template { TEMPLATE } else { 0 } | if info.synced { SYNCED } else { 0 });
    match info.service {
        ServiceKey::Mark { mark, .. } => _ = w.u32(kind::FWMARK, mark),
        ServiceKey::Address { port, .. } if port != info.virtual_port => _ = w.be16(kind::SERVICE_PORT, port),
        ServiceKey::Address { .. } => {}
    }
    let family = Family::of(&info.destination);
    if family != Family::of(&info.client) {
        w.u16(kind::DEST_AF, family_number(family));
    }
    if let Some((address, port)) = &info.local {
        w.put(kind::LOCAL_ADDR, &address_bytes(address)).be16(kind::LOCAL_PORT, *port);
    }
}

/// The connection in a nest.
///
/// # Errors
/// [`Errno::Invalid`] if something is missing or torn; [`Errno::AddressFamily`], [`Errno::Protocol`].
pub fn read(nest: &Attribute<'_>) -> Result<ConnectionInfo, Errno> {
    let invalid = |_: Violation| Errno::Invalid;
    // By attribute types: 3, 5, 7 and 4, 6, 8.
    let (mut addresses, mut ports) = ([None; 3], [None; 3]);
    let (mut number, mut protocol, mut forward, mut state, mut expires) = (None, None, None, None, None);
    let mut local = (None, 0);
    let (mut flags, mut mark, mut service_port, mut destination_family) = (0, None, None, None);
    for attribute in nest.nested().map_err(invalid)? {
        let place = usize::from(attribute.kind.saturating_sub(kind::CLIENT_ADDR) / 2);
        match attribute.kind {
            kind::AF => number = Some(attribute.u16().map_err(invalid)?),
            kind::PROTOCOL => protocol = Some(attribute.u16().map_err(invalid)?),
            kind::CLIENT_ADDR | kind::VIRTUAL_ADDR | kind::DEST_ADDR => {
                addresses[place] = Some(attribute.binary().map_err(invalid)?);
            }
            kind::CLIENT_PORT | kind::VIRTUAL_PORT | kind::DEST_PORT => {
                ports[place] = Some(attribute.be16().map_err(invalid)?);
            }
            kind::FWD_METHOD => forward = Some(attribute.u32().map_err(invalid)?),
            kind::STATE => state = Some(attribute.u16().map_err(invalid)?),
            kind::FLAGS => flags = attribute.u32().map_err(invalid)?,
            kind::EXPIRES => expires = Some(attribute.u32().map_err(invalid)?),
            kind::FWMARK => mark = Some(attribute.u32().map_err(invalid)?),
            kind::SERVICE_PORT => service_port = Some(attribute.be16().map_err(invalid)?),
            kind::LOCAL_ADDR => local.0 = Some(attribute.binary().map_err(invalid)?),
            kind::LOCAL_PORT => local.1 = attribute.be16().map_err(invalid)?,
            kind::DEST_AF => destination_family = Some(family(attribute.u16().map_err(invalid)?)?),
            _ => {}
        }
    }
    let (
        [Some(client), Some(virtual_address), Some(destination)],
        [Some(client_port), Some(virtual_port), Some(destination_port)],
    ) = (addresses, ports)
    else {
        return Err(Errno::Invalid);
    };
    let family = family(number.ok_or(Errno::Invalid)?)?;
    let protocol = protocol_of(protocol.ok_or(Errno::Invalid)?)?;
    let virtual_address = address(family, virtual_address);
    let template = flags & TEMPLATE != 0;
    let state = state.ok_or(Errno::Invalid)?;
    Ok(ConnectionInfo {
        protocol,
        client: address(family, client),
        client_port,
        virtual_address,
        virtual_port,
        destination: address(destination_family.unwrap_or(family), destination),
        destination_port,
        service: match mark {
            Some(mark) => ServiceKey::Mark { family, mark },
            None => {
                ServiceKey::Address { protocol, address: virtual_address, port: service_port.unwrap_or(virtual_port) }
            }
        },
        local: local.0.map(|bytes| (address(family, bytes), local.1)),
        forward: Forward::from_flags(forward.ok_or(Errno::Invalid)?)?,
        state: State::from_number(
            protocol,
            if template { 0 } else { u8::try_from(state).map_err(|_| Errno::Invalid)? },
        ),
        template,
        assured: template && state != 0,
        synced: flags & SYNCED != 0,
        expires: expires.ok_or(Errno::Invalid)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::attribute::Attributes;
    use super::*;
    use crate::{SctpState, TcpState};
    use std::vec;

    #[test]
    fn a_connection_comes_back() {
        for (client, service, server) in [("10.9.0.1", "10.0.0.100", "10.0.0.11"), ("fd09::1", "fd00::100", "fd00::b")]
        {
            let info = ConnectionInfo {
                protocol: Protocol::Udp,
                client: client.parse().unwrap(),
                client_port: 40000,
                virtual_address: service.parse().unwrap(),
                virtual_port: 80,
                destination: server.parse().unwrap(),
                destination_port: 8080,
                service: ServiceKey::udp(service.parse().unwrap(), 80),
                forward: Forward::Direct,
                local: None,
                state: State::Only,
                template: false,
                assured: false,
                synced: false,
                expires: 899,
            };
            let mark = ServiceKey::Mark { family: Family::of(&info.client), mark: 7 };
            let template = ConnectionInfo {
                protocol: Protocol::Ip,
                service: mark,
                state: State::Only,
                template: true,
                assured: true,
                synced: true,
                ..info
            };
            let tcp = ConnectionInfo {
                protocol: Protocol::Tcp,
                service: ServiceKey::tcp(info.virtual_address, 80),
                state: State::Tcp(TcpState::CloseWait),
                ..info
            };
            let sctp = ConnectionInfo {
                protocol: Protocol::Sctp,
                service: ServiceKey::sctp(info.virtual_address, 80),
                state: State::Sctp(SctpState::CookieReplied),
                ..info
            };
            let any_port = ConnectionInfo { service: ServiceKey::udp(info.virtual_address, 0), ..info };
            let across = ["10.0.0.12", "fd00::c"].map(|server| ConnectionInfo {
                destination: server.parse().unwrap(),
                forward: Forward::Tunnel,
                ..info
            });
            let full = ConnectionInfo { local: Some((info.virtual_address, 5000)), ..info };
            let mut bytes = vec![];
            for info in [
                full,
                template,
                ConnectionInfo { service: mark, ..info },
                any_port,
                across[0],
                across[1],
                tcp,
                sctp,
                info,
            ] {
                bytes.clear();
                Writer::new(&mut bytes).nest(64, |w| write(&info, w));
                assert_eq!(read(&Attributes::new(&bytes).next().unwrap()), Ok(info));
            }
            // Nothing but the flags can be left out: cut the list after each attribute but the last two.
            let mut end = 4;
            for attribute in Attributes::new(&bytes[4..]).take_while(|attribute| attribute.kind != kind::FLAGS) {
                let cut = Attribute { kind: 64, payload: &bytes[4..end] };
                assert!(read(&cut).is_err(), "{}", attribute.kind);
                end += (4 + attribute.payload.len()).next_multiple_of(4);
            }
        }
    }
}
