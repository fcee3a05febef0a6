//! ICMP and ICMPv6 errors: making them ([`Errors`]), and translating those about balanced connections ([`parse`]).

mod make;
mod translate;

use crate::frame::Ip;

pub(crate) use make::{Errors, LEAST_MTU_V6, Problem};
pub(crate) use translate::{HEADER, KEY_EXCHANGE, Quote, Quoted, error, parse, quoted};

/// Whether no error may be sent about an ICMP message of a type: it is an error itself, or a redirect (RFC 1122 section
/// 3.2.2, RFC 4443 section 2.4 e). All unknown types of ICMPv6 below 128 are errors; those of ICMP are not.
fn is_error(kind: u8, ip: &Ip) -> bool {
    if ip.is_v6() { kind < 128 || kind == 137 } else { matches!(kind, 3 | 4 | 5 | 11 | 12) }
}

#[cfg(test)]
mod tests;
