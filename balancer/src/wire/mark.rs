//! The attribute of a rule that gives packets a mark: Ringlet's own, for Linux leaves that to nftables.

use super::attribute::{Attribute, Violation, Writer};
use super::ipvs::mark as kind;
use super::service::{address, address_bytes, family, family_number};
use crate::{Cidr, Errno, MarkRule, Protocol};

/// Writes a rule.
pub fn write(rule: &MarkRule, w: &mut Writer<'_>) {
    w.u32(kind::MARK, rule.mark)
        .u16(kind::AF, family_number(rule.family()))
        .u16(kind::PROTOCOL, rule.protocol.map_or(0, |protocol| protocol.number().into()))
        .put(kind::SOURCE_ADDR, &address_bytes(&rule.source.address))
        .u8(kind::SOURCE_PREFIX, rule.source.prefix)
        .put(kind::DEST_ADDR, &address_bytes(&rule.destination.address))
        .u8(kind::DEST_PREFIX, rule.destination.prefix)
        .be16(kind::SOURCE_PORT_FIRST, rule.source_ports.0)
        .be16(kind::SOURCE_PORT_LAST, rule.source_ports.1)
        .be16(kind::DEST_PORT_FIRST, rule.destination_ports.0)
        .be16(kind::DEST_PORT_LAST, rule.destination_ports.1);
}

/// The rule in a nest. What is missing, but for mark and family, means every packet.
///
/// # Errors
/// [`Errno::Invalid`] if something is torn or makes no sense; [`Errno::AddressFamily`], [`Errno::Protocol`].
pub fn read(nest: &Attribute<'_>) -> Result<MarkRule, Errno> {
    let invalid = |_: Violation| Errno::Invalid;
    let (mut mark, mut number, mut protocol) = (None, None, 0);
    let (mut addresses, mut prefixes, mut ports) = ([None; 2], [None; 2], [None; 4]);
    for attribute in nest.nested().map_err(invalid)? {
        match attribute.kind {
            kind::MARK => mark = Some(attribute.u32().map_err(invalid)?),
            kind::AF => number = Some(attribute.u16().map_err(invalid)?),
            kind::PROTOCOL => protocol = attribute.u16().map_err(invalid)?,
            kind::SOURCE_ADDR => addresses[0] = Some(attribute.binary().map_err(invalid)?),
            kind::DEST_ADDR => addresses[1] = Some(attribute.binary().map_err(invalid)?),
            kind::SOURCE_PREFIX => prefixes[0] = Some(attribute.u8().map_err(invalid)?),
            kind::DEST_PREFIX => prefixes[1] = Some(attribute.u8().map_err(invalid)?),
            kind::SOURCE_PORT_FIRST..=kind::DEST_PORT_LAST => {
                let place = usize::from(attribute.kind - kind::SOURCE_PORT_FIRST);
                ports[place] = Some(attribute.be16().map_err(invalid)?);
            }
            _ => {}
        }
    }
    let family = family(number.ok_or(Errno::Invalid)?)?;
    let all = MarkRule::new(family, mark.ok_or(Errno::Invalid)?);
    let cidr = |which: usize, all: Cidr| {
        let found = addresses[which].map_or(all.address, |bytes| address(family, bytes));
        Cidr::new(found, prefixes[which].unwrap_or(all.prefix)).ok_or(Errno::Invalid)
    };
    let range = |first: usize| (ports[first].unwrap_or(0), ports[first + 1].unwrap_or(u16::MAX));
    Ok(MarkRule {
        protocol: if protocol == 0 { None } else { Some(Protocol::from_number(protocol)?) },
        source: cidr(0, all.source)?,
        destination: cidr(1, all.destination)?,
        source_ports: range(0),
        destination_ports: range(2),
        ..all
    })
}

#[cfg(test)]
mod tests {
    use super::super::attribute::Attributes;
    use super::*;
    use crate::Family;
    use std::vec;

    #[test]
    fn a_rule_comes_back() {
        for (source, destination) in [("10.9.0.0/16", "10.0.0.200/32"), ("::/0", "fd00::200/128")] {
            let rule = MarkRule {
                mark: 7,
                protocol: Some(Protocol::Udp),
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
                source_ports: (1024, 65535),
                destination_ports: (53, 53),
            };
            let mut bytes = vec![];
            Writer::new(&mut bytes).nest(66, |w| write(&rule, w));
            assert_eq!(read(&Attributes::new(&bytes).next().unwrap()), Ok(rule));
        }
    }

    #[test]
    fn what_is_missing_means_everything_and_what_is_wrong_is_refused() {
        let read_of = |inside: &dyn Fn(&mut Writer<'_>)| {
            let mut bytes = vec![];
            Writer::new(&mut bytes).nest(66, inside);
            read(&Attributes::new(&bytes).next().unwrap())
        };
        let start = |w: &mut Writer<'_>| _ = w.u32(kind::MARK, 7).u16(kind::AF, 10);
        assert_eq!(read_of(&start), Ok(MarkRule::new(Family::V6, 7)));
        assert_eq!(read_of(&|w| _ = w.u32(kind::MARK, 7)), Err(Errno::Invalid));
        assert_eq!(read_of(&|w| _ = w.u32(kind::MARK, 7).u16(kind::AF, 1)), Err(Errno::AddressFamily));
        let with = |kind, value: u8| {
            read_of(&move |w: &mut Writer<'_>| {
                start(w);
                w.u8(kind, value);
            })
        };
        assert_eq!(with(kind::DEST_PREFIX, 129), Err(Errno::Invalid));
        assert_eq!(with(kind::DEST_PORT_FIRST, 1), Err(Errno::Invalid), "torn");
    }
}
