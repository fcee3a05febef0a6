//! A backend that answers as it is told to, well or badly. It speaks the protocol's bytes itself, so that it can get them wrong.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use ringlet_driver::features::Features;

/// The requests of the protocol, by number.
pub const GET_FEATURES: u32 = 1;
pub const SET_FEATURES: u32 = 2;
pub const SET_OWNER: u32 = 3;
pub const SET_MEM_TABLE: u32 = 5;
pub const SET_VRING_NUM: u32 = 8;
pub const SET_VRING_ADDR: u32 = 9;
pub const SET_VRING_BASE: u32 = 10;
pub const GET_VRING_BASE: u32 = 11;
pub const SET_VRING_KICK: u32 = 12;
pub const SET_VRING_CALL: u32 = 13;
pub const GET_PROTOCOL_FEATURES: u32 = 15;
pub const SET_PROTOCOL_FEATURES: u32 = 16;
pub const SET_VRING_ENABLE: u32 = 18;
pub const NET_SET_MTU: u32 = 20;
pub const RESET_DEVICE: u32 = 34;

/// Extensions of the protocol.
pub const REPLY_ACK: u64 = 1 << 3;
pub const MTU: u64 = 1 << 4;
pub const BACKEND_REQ: u64 = 1 << 5;
pub const RESET: u64 = 1 << 13;
/// The bit among the features that says that there are extensions.
pub const EXTENSIONS: u64 = 1 << 30;

/// What it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It ends the connection instead of answering.
    HangUp,
    /// It says nothing any more.
    Silence,
    /// It says no, where it can.
    No,
    /// It answers another request.
    Another,
    /// It answers with half of a header and ends the connection.
    Half,
    /// It answers with the version of another protocol.
    Version,
}

/// How it behaves.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// What it offers.
    pub features: u64,
    /// The extensions of the protocol that it offers.
    pub extensions: u64,
    /// What it does wrong, at which occurrence of which request.
    pub trouble: Option<(u32, usize, Trouble)>,
}

impl Default for Manner {
    fn default() -> Self {
        let features = Features::VERSION_1
            | Features::MRG_RXBUF
            | Features::CSUM
            | Features::EVENT_IDX
            | Features::INDIRECT_DESC
            | Features::CTRL_VQ
            | Features::MQ
            | Features::ACCESS_PLATFORM;
        Self {
            features: features.bits() | EXTENSIONS | 1 << 26,
            extensions: REPLY_ACK | MTU | RESET | BACKEND_REQ | 1 << 60,
            trouble: None,
        }
    }
}

/// A request that it got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its number.
    pub code: u32,
    /// What came with it, in words of 32 bits.
    pub body: Vec<u32>,
}

/// A backend, on a thread of its own. It ends with its connection; dropping it does not wait for that.
pub struct Peer(JoinHandle<Vec<Request>>);

impl Peer {
    /// Begins to answer.
    pub fn new(socket: UnixStream, manner: Manner) -> Self {
        Self(std::thread::spawn(move || serve(socket, manner)))
    }

    /// What it was asked for, when the connection has ended.
    pub fn requests(self) -> Vec<Request> {
        self.0.join().unwrap()
    }
}

fn serve(mut socket: UnixStream, manner: Manner) -> Vec<Request> {
    let mut requests = Vec::<Request>::new();
    let mut header = [0; 12];
    // Descriptors that come along are closed by the kernel, since nobody asks for them.
    while socket.read_exact(&mut header).is_ok() {
        let [code, flags, length] = words(&header)[..] else { unreachable!() };
        assert_eq!(flags & 7, 1, "version 1, not an answer");
        let mut body = vec![0; length as usize];
        if socket.read_exact(&mut body).is_err() {
            break;
        }
        requests.push(Request { code, body: words(&body) });
        let nth = requests.iter().filter(|request| request.code == code).count();
        let trouble = manner.trouble.filter(|(at, which, _)| (*at, *which) == (code, nth)).map(|(.., trouble)| trouble);
        let mut answer = match code {
            GET_FEATURES => manner.features.to_ne_bytes(),
            GET_PROTOCOL_FEATURES => manner.extensions.to_ne_bytes(),
            GET_VRING_BASE => [body[0], body[1], body[2], body[3], 7, 0, 0, 0],
            _ if flags & 8 != 0 || trouble == Some(Trouble::Another) => [0; 8],
            _ if trouble.is_none() => continue,
            _ => [0; 8],
        };
        let (mut code, mut version) = (code, 1);
        match trouble {
            None => {}
            Some(Trouble::HangUp) => break,
            Some(Trouble::Silence) => {
                // Until the other side has had enough.
                let _ = socket.read(&mut header);
                break;
            }
            Some(Trouble::Half) => {
                let _ = socket.write_all(&[1; 6]);
                break;
            }
            Some(Trouble::No) => answer = 1_u64.to_ne_bytes(),
            Some(Trouble::Another) => code += 1,
            Some(Trouble::Version) => version = 2,
        }
        let answer = [&[code, version | 4, 8].map(u32::to_ne_bytes).concat()[..], &answer].concat();
        if socket.write_all(&answer).is_err() {
            break;
        }
    }
    requests
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect()
}
