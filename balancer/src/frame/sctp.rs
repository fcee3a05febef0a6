//! The chunks of an SCTP packet (RFC 9260), as far as they tell of the state of an association.

/// Bytes of the common header, before the first chunk.
pub(crate) const HEADER: usize = 12;
/// Where the checksum lies in the common header.
pub(crate) const CHECKSUM: usize = 8;

/// The chunk that ends an association at once.
pub(crate) const ABORT: u8 = 6;

/// Other chunk types, RFC 9260 section 3.2.
mod chunk {
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const ERROR: u8 = 9;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// What a packet says about its association, as Linux's ip_vs_proto_sctp tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Event {
    /// DATA, SACK, HEARTBEAT and all that is not named here.
    Data = 0,
    Init = 1,
    InitAck = 2,
    CookieEcho = 3,
    CookieAck = 4,
    Shutdown = 5,
    ShutdownAck = 6,
    ShutdownComplete = 7,
    Error = 8,
    Abort = 9,
    /// There is no chunk: it says nothing.
    Nothing = 10,
}

impl Event {
    /// The event of what follows the common header.
    ///
    /// The first chunk decides, unless an ABORT follows a cookie: chunks of control that come before it may be bundled with
    /// that (RFC 9260 section 3.3.7).
    pub fn of(chunks: &[u8]) -> Self {
        let Some(&[kind, _, a, b]) = chunks.first_chunk::<4>() else { return Event::Nothing };
        match kind {
            chunk::INIT => Event::Init,
            chunk::INIT_ACK => Event::InitAck,
            chunk::COOKIE_ECHO | chunk::COOKIE_ACK => {
                let len = usize::from(u16::from_be_bytes([a, b]));
                let next = chunks.get(len.next_multiple_of(4)..).and_then(|rest| rest.first_chunk::<4>());
                match next {
                    Some([ABORT, ..]) if len >= 4 => Event::Abort,
                    _ if kind == chunk::COOKIE_ECHO => Event::CookieEcho,
                    _ => Event::CookieAck,
                }
            }
            chunk::SHUTDOWN => Event::Shutdown,
            chunk::SHUTDOWN_ACK => Event::ShutdownAck,
            chunk::SHUTDOWN_COMPLETE => Event::ShutdownComplete,
            chunk::ERROR => Event::Error,
            ABORT => Event::Abort,
            _ => Event::Data,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_chunk_decides_but_for_an_abort_behind_a_cookie() {
        assert_eq!(Event::of(&[1, 0, 0, 20, 0, 0]), Event::Init);
        assert_eq!(Event::of(&[0, 0, 0, 4, 6, 0, 0, 4]), Event::Data);
        for (kind, alone) in [(10, Event::CookieEcho), (11, Event::CookieAck)] {
            assert_eq!(Event::of(&[kind, 0, 0, 4]), alone);
            assert_eq!(Event::of(&[kind, 0, 0, 4, 6, 0, 0, 4]), Event::Abort);
            assert_eq!(Event::of(&[kind, 0, 0, 5, 1, 0, 0, 0, 6, 0, 0, 4]), Event::Abort, "padded to four bytes");
            assert_eq!(Event::of(&[kind, 0, 0, 4, 6, 0, 0]), alone, "no whole chunk");
            assert_eq!(Event::of(&[kind, 0, 0, 3, 6, 0, 0, 4]), alone, "no length of a chunk");
            assert_eq!(Event::of(&[kind, 0, 0xff, 0xff, 6, 0, 0, 4]), alone);
        }
        for unknown in [3, 4, 5, 12, 13, 15, 64, 130, 255] {
            assert_eq!(Event::of(&[unknown, 0, 0, 4]), Event::Data);
        }
        assert_eq!([Event::of(&[]), Event::of(&[1, 0, 0])], [Event::Nothing; 2]);
    }
}
