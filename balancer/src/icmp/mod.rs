//! ICMP and ICMPv6 errors: making them ([`Errors`]), and translating those about balanced connections ([`Quote`]).

mod make;
mod translate;

pub(crate) use make::{Errors, Problem};
pub(crate) use translate::{Quote, parse};
