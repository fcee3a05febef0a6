//! The control service: carries out requests of the "IPVS" generic-netlink family, as the kernel does.
//!
//! A stream of bytes goes into a [`Session`] and another comes out; what moves them (a TCP socket of the guest) is the
//! caller's. On the stream each message stands behind its length, 32 bits in network order: see [`Framer`]. A session
//! never holds more than one request of [`MAX_FRAME`] bytes and [`OUTPUT_LIMIT`] bytes of replies (and one message
//! more): a list of thousands of destinations is made piece by piece, as the peer takes it, by a [`Dump`].
//!
//! ```
//! # use ringlet_balancer::{control::Session, *};
//! # let mut balancer = Balancer::new(Config::new([2, 0, 0, 0, 0, 1], [1, 2]));
//! # let received: &[u8] = &[];
//! let mut session = Session::new();
//! let taken = session.receive(received)?; // fewer than given if a request waits: offer the rest again
//! session.run(&mut balancer)?;            // an error here or above: close the connection
//! let write_this = session.output();
//! # let written = write_this.len();
//! session.sent(written);                  // and run again, until both output and input are empty
//! # Ok::<(), control::FrameError>(())
//! ```

mod dump;
mod frame;
mod serve;
mod session;
#[cfg(test)]
mod tests;

pub use dump::Dump;
pub use frame::{FrameError, Framer, MAX_FRAME};
pub use serve::serve;
pub use session::{OUTPUT_LIMIT, Session};
