//! Datagrams that come in IP fragments: only the first has the ports, and says where all of them go.
//!
//! Nothing is put together. What the first fragment was decided for is kept, and those that come later follow it. Those that come
//! before it are held, in memory that was taken at the start, and so are all of SCTP until it is known how long the datagram is:
//! its checksum depends on that. What is full makes room by giving up what is oldest: a flood of fragments that never become
//! datagrams shortens the time others have, and takes nothing else.

mod pool;
mod ranges;
mod table;

pub(crate) use pool::{Pool, ROOM};
pub(crate) use table::{Fate, Follow, Key, Noted, Table};
