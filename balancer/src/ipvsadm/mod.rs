//! The command language of ipvsadm, on a command line or line by line in a file of rules.
//!
//! [`parse`] makes a typed [`Command`] of words; [`load`] does so for every line of a file as `ipvsadm-save` writes it;
//! [`apply`] carries a command out on a [`Balancer`] directly, and [`request()`] makes the message that asks
//! one elsewhere for it. A command that is shown ([`core::fmt::Display`]) is a
//! line of such a file, and parses back to the same command.
//!
//! The syntax is that of ipvsadm 1.31, options and defaults included, with these differences. Names of hosts and ports
//! are not looked up: numbers only. An address in brackets may go without a port. Comments (`#`) are allowed in files.
//! `ipvsadm-save` forgets thresholds; here they are saved. `sysctl NAME=VALUE` sets a knob of
//! net.ipv4.vs, `mark add 7 -d 10.0.0.200` gives packets marks, `extra set -t 10.0.0.100:80 --full-nat 10.0.0.200` lets a
//! service do what IPVS cannot.
//!
//! ```
//! use ringlet_balancer::{ipvsadm, *};
//!
//! let mut balancer = Balancer::new(Config::new([2, 0, 0, 0, 0, 1], [1, 2]));
//! let rules = b"-A -t 10.0.0.100:80 -s wlc\n-a -t 10.0.0.100:80 -r 10.0.0.11:80 -m -w 1\n";
//! ipvsadm::load(
//!     rules,
//!     |_line, command| ipvsadm::apply(&command, &mut balancer).unwrap(),
//!     |line, error| panic!("line {line}: {error}"),
//! );
//! assert_eq!(balancer.services().count(), 1);
//! ```

mod apply;
mod command;
mod error;
mod extra;
mod load;
mod mark;
mod options;
mod parse;
mod request;
mod show;
#[cfg(test)]
mod tests;

pub use apply::apply;
pub use command::{Command, Listing, Name, ServiceEntry};
pub use error::{ParseError, Problem};
pub use load::{LINE_MAX, load};
pub use parse::{DEFAULT_PERSISTENCE, DEFAULT_SCHEDULER, TIMEOUT_MAX, parse};
pub use request::request;
pub use show::{destination_of, service_of};

#[cfg(doc)]
use crate::Balancer;
