//! What a server is told of its client: an option of TCP, or a header of the PROXY protocol at the start of the stream.

/// How a server hears of its client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Announce {
    /// It does not.
    #[default]
    Nothing = 0,
    /// By TCP option 254 in the client's first segments after its SYN, as LVS of Alibaba and DPVS write it: TOA.
    Toa = 1,
    /// By a header of the PROXY protocol, version 2, as the first bytes of the stream.
    Proxy = 2,
}

impl Announce {
    /// Every way.
    pub const ALL: [Announce; 3] = [Announce::Nothing, Announce::Toa, Announce::Proxy];

    /// The name of the way.
    pub const fn name(self) -> &'static str {
        match self {
            Announce::Nothing => "nothing",
            Announce::Toa => "toa",
            Announce::Proxy => "proxy",
        }
    }
}
