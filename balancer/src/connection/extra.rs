//! What a connection has of which IPVS knows nothing.

use core::net::IpAddr;

/// What lies beside a connection whose [`Entry::is_extra`](super::Entry::is_extra).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extra {
    /// Full NAT: the address and port of ours that stand for the client's at the server.
    pub local: Option<(IpAddr, u16)>,
}
