//! The streams of a test over UDP: one socket, and its peers told apart.

use alloc::vec;
use alloc::vec::Vec;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::udp::{self, PacketBuffer, PacketMetadata, UdpMetadata};
use smoltcp::wire::IpEndpoint;

use super::datagram::{LONGEST_STAMP, Stamp, welcome};
use super::flow::{Flow, Pacer};
use super::message::Refusal;
use super::parameters::Parameters;
use super::tcp::Turn;

/// Datagrams that find room in the socket, each way: more than come in one burst.
const DATAGRAMS: usize = 1024;
/// The most that are sent in a turn for each stream, so that all have theirs.
const BURST: usize = 64;

/// The streams.
pub(crate) struct Streams {
    handle: SocketHandle,
    parameters: Parameters,
    streams: Vec<(IpEndpoint, Flow)>,
    pacer: Pacer,
    /// Which stream the last datagram was of: probably the next one is too.
    last: usize,
}

impl Streams {
    /// Waits for streams at `local`, with buffers of `room` bytes each way.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new(
        sockets: &mut SocketSet<'static>,
        local: IpEndpoint,
        parameters: Parameters,
        room: usize,
    ) -> Result<Self, Refusal> {
        let buffer = || -> Result<PacketBuffer<'static>, Refusal> {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(room).map_err(|_| Refusal::Memory)?;
            bytes.resize(room, 0);
            Ok(PacketBuffer::new(vec![PacketMetadata::EMPTY; DATAGRAMS], bytes))
        };
        let mut socket = udp::Socket::new(buffer()?, buffer()?);
        // Can only fail for an open socket or port 0; this is neither.
        let _ = socket.bind(local);
        let streams = Vec::with_capacity(parameters.streams_in_all());
        Ok(Self { handle: sockets.add(socket), parameters, streams, pacer: Pacer::new(0, 0), last: 0 })
    }

    /// Whether all streams are there.
    pub fn is_complete(&self) -> bool {
        self.streams.len() == self.parameters.streams_in_all()
    }

    /// What is counted.
    pub fn flows(&self) -> impl Iterator<Item = &Flow> + Clone {
        self.streams.iter().map(|(_, flow)| flow)
    }

    /// What was so far does not count.
    pub fn omit(&mut self) {
        self.streams.iter_mut().for_each(|(_, flow)| flow.omit());
    }

    /// Data may flow.
    pub fn start(&mut self, now: u64) {
        self.pacer = Pacer::new(self.parameters.rate, now);
    }

    /// Greets who asks to be a stream.
    pub fn gather(&mut self, sockets: &mut SocketSet<'static>, turn: &mut Turn) {
        let socket = sockets.get_mut::<udp::Socket<'_>>(self.handle);
        while socket.can_recv() && socket.can_send() {
            let Ok((datagram, metadata)) = socket.recv() else { break };
            turn.worked = true;
            let Some(answer) = welcome(datagram) else { continue };
            if !self.streams.iter().any(|(peer, _)| *peer == metadata.endpoint) {
                let nth = self.streams.len();
                if nth == self.parameters.streams_in_all() {
                    turn.denied += 1;
                    continue;
                }
                self.streams.push((metadata.endpoint, Flow::new(nth, self.parameters.sends(nth))));
            }
            // From the address it was sent to. There is room: it was asked for.
            let _ = socket.send_slice(&answer, reply(&metadata));
        }
    }

    /// Moves data. `mtu` is not needed: blocks are known to fit.
    pub fn run(&mut self, sockets: &mut SocketSet<'static>, now: u64, turn: &mut Turn) {
        let Self { handle, parameters, streams, pacer, last } = self;
        let socket = sockets.get_mut::<udp::Socket<'_>>(*handle);
        let seconds = now as f64 / 1e9;
        while socket.can_recv() {
            let Ok((datagram, metadata)) = socket.recv() else { break };
            turn.worked = true;
            let is_from = |nth: usize| streams.get(nth).is_some_and(|(peer, _)| *peer == metadata.endpoint);
            let found = if is_from(*last) { Some(*last) } else { (0..streams.len()).find(|nth| is_from(*nth)) };
            let Some(nth) = found else { continue };
            *last = nth;
            let flow = &mut streams[nth].1;
            if let (false, Some(stamp)) = (flow.sends, Stamp::parse(datagram, parameters.wide_counters)) {
                flow.moved(datagram.len());
                flow.arrived(&stamp, seconds);
                turn.received += datagram.len() as u64;
            }
        }
        let micros = now / 1000;
        for (peer, flow) in streams.iter_mut().filter(|(_, flow)| flow.sends) {
            for _ in 0..BURST {
                if pacer.allowance(now, flow.total()) < parameters.block {
                    turn.deadline = turn.deadline.min(pacer.next(now, flow.total(), parameters.block));
                    break;
                }
                let Ok(payload) = socket.send(parameters.block, *peer) else { break };
                let stamp = Stamp {
                    seconds: (micros / 1_000_000) as u32,
                    micros: (micros % 1_000_000) as u32,
                    number: flow.next_number(),
                };
                debug_assert!(payload.len() >= LONGEST_STAMP);
                stamp.emit(payload, parameters.wide_counters);
                flow.moved(payload.len());
                turn.sent += payload.len() as u64;
                turn.worked = true;
            }
        }
    }

    /// Ends it.
    pub fn remove(self, sockets: &mut SocketSet<'static>) {
        sockets.remove(self.handle);
    }
}

/// Where an answer goes, and where it comes from.
fn reply(metadata: &UdpMetadata) -> UdpMetadata {
    UdpMetadata { endpoint: metadata.endpoint, local_address: metadata.local_address, meta: Default::default() }
}
