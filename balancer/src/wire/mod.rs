//! The wire forms in which IPVS is controlled: netlink, generic netlink, and the "IPVS" family of Linux.
//!
//! Plain data for both sides: the guest's [`control`](crate::control) reads requests and writes replies, a client writes
//! requests and reads replies. Constants are those of include/uapi/linux/{netlink,genetlink,ip_vs}.h. Everything is in
//! the byte order of x86-64, little endian, except ports and IPv4 addresses and masks, which are in network order.
//!
//! Readers are total: any bytes give a value or an error. They are as strict as the policies of Linux
//! (net/netfilter/ipvs/ip_vs_ctl.c): an attribute that is too short is refused, one that is not known is skipped, the
//! last of several of a kind counts, and what follows a torn attribute is ignored.
//!
//! | module | what |
//! |--------|------|
//! | [`attribute`] | type-length-value lists, their reader and their writer |
//! | [`message`] | the headers of netlink and generic netlink, errors, the end of a dump |
//! | [`ipvs`] | the commands and attribute types of the family |
//! | [`service`] | the service attribute |
//! | [`destination`] | the destination attribute |
//! | [`daemon`] | the attribute of a synchronization daemon |
//! | [`connection`] | the connection attribute, which Linux does not have |
//! | [`mark`] | the attribute of a rule that gives marks, which Linux does not have |
//! | [`extra`] | the attribute of what a service does that IPVS cannot |
//! | [`sysctl`] | the attribute of a knob, which Linux does not have |
//! | [`statistics`] | counters and rates, in 32 and 64 bits |

pub mod attribute;
pub mod connection;
pub mod daemon;
pub mod destination;
pub mod extra;
pub mod ipvs;
pub mod mark;
pub mod message;
pub mod service;
pub mod statistics;
pub mod sysctl;

pub use attribute::{Attribute, Attributes, Violation, Writer};
pub use destination::Destination;
pub use ipvs::{FAMILY, FAMILY_ID, VERSION};
pub use message::{Generic, Header, Message};
pub use service::Service;
pub use sysctl::Sysctl;
