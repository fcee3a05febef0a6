//! Datagrams that come in IP fragments: only the first has the ports, and says where all of them go.
//!
//! Nothing is put together. What the first fragment was decided for is kept, and those that come later follow it. Those that come
//! before it are held, in memory that was taken at the start, and so are all of SCTP until it is known how long the datagram is:
//! its checksum depends on that, unless its ports stay as they are. Of both tables a source has a share, and who asks for more gives up
//! what is its own; what is full makes room by giving up what is oldest. So a flood of fragments that never become datagrams takes
//! nothing from others, unless it comes from many sources: then it shortens the time they have.

mod pool;
mod ranges;
mod table;

pub(crate) use pool::{Pool, ROOM};
pub(crate) use table::{Fate, Follow, Key, Noted, Table};
