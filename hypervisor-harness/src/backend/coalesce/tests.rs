//! What was put together and is cut again is what came.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use ringlet_driver::offload::{self, Finish, Segmenter, finish_checksum};

use super::*;

/// A network that has frames.
#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Vec<u8>>,
    offloads: Features,
    negotiated: Features,
}

impl Backend for Queue {
    fn name(&self) -> &'static str {
        "queue"
    }

    fn offloads(&self) -> Features {
        self.offloads
    }

    fn negotiated(&mut self, features: Features) -> io::Result<()> {
        self.negotiated = features;
        Ok(())
    }

    fn send(&mut self, _: &Scatter<'_>) -> io::Result<Sent> {
        Ok(Sent::Done)
    }

    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<Received> {
        let Some(frame) = self.frames.pop_front() else { return Ok(Received::Empty) };
        if frame.len() > room.len() {
            let length = frame.len();
            self.frames.push_front(frame);
            return Ok(Received::TooSmall(length));
        }
        Ok(Received::Frame(room.write(0, &frame)))
    }

    fn discard(&mut self) {
        self.frames.pop_front();
    }

    fn turn(&mut self, _: Instant) -> Option<Instant> {
        None
    }

    fn wait_on(&self, _: &mut Vec<RawFd>) {}

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

fn with<T>(bytes: &mut [u8], use_it: impl FnOnce(&mut Scatter<'_>) -> T) -> T {
    let pieces = [libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }];
    // SAFETY: the piece is `bytes`, touched only through the scatter while it lives.
    use_it(&mut unsafe { Scatter::new(&pieces) })
}

const TCP: Features = Features::GUEST_CSUM.union(Features::GUEST_TSO4).union(Features::GUEST_TSO6);
const ALL: Features = TCP.union(Features::GUEST_ECN).union(Features::RSC_EXT);

/// Gives `frames` to a guest with these features, who has room for `room` bytes at first and for everything when asked again.
fn coalesce(frames: &[Vec<u8>], features: Features, room: usize) -> (Vec<Vec<u8>>, Merged) {
    let mut network = Coalesce::new(Queue { frames: frames.iter().cloned().collect(), ..Queue::default() }, true);
    network.negotiated(features).expect("negotiated");
    let (mut out, mut bytes, mut room) = (Vec::new(), vec![0; 70_000], room);
    loop {
        match with(&mut bytes[..room], |room| network.receive(room)).expect("alive") {
            Received::Frame(length) => out.push(bytes[..length].to_vec()),
            Received::Empty => break,
            Received::TooSmall(length) => {
                assert!(length > room, "{length}");
                room = bytes.len();
            }
        }
    }
    assert!(network.pending.is_empty() && network.ready.is_empty() && network.turn(Instant::now()).is_none());
    (out, network.merged())
}

/// What a segment is made of.
#[derive(Debug, Clone)]
struct Piece {
    v6: bool,
    vlan: bool,
    /// The last bytes of the addresses, and of the ports.
    flow: u8,
    identification: u16,
    dont_fragment: bool,
    hops: u8,
    service: u8,
    sequence: u32,
    acknowledgment: u32,
    flags: u8,
    window: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
    partial: bool,
    wrong: bool,
    padding: usize,
}

impl Default for Piece {
    fn default() -> Self {
        Self {
            v6: false,
            vlan: false,
            flow: 1,
            identification: 7,
            dont_fragment: true,
            hops: 64,
            service: 0,
            sequence: 1000,
            acknowledgment: 5,
            flags: 0x10,
            window: 500,
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            payload: Vec::new(),
            partial: false,
            wrong: false,
            padding: 0,
        }
    }
}

impl Piece {
    fn frame(&self) -> Vec<u8> {
        let transport = 20 + self.options.len() + self.payload.len();
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        if self.vlan {
            frame.extend([0x81, 0, 0, 5]);
        }
        if self.v6 {
            frame.extend([0x86, 0xdd, 0x60 | self.service >> 4, self.service << 4, 0, 0]);
            frame.extend((transport as u16).to_be_bytes());
            frame.extend([6, self.hops]);
            frame.extend([0xfd; 15]);
            frame.push(self.flow);
            frame.extend([0xfe; 16]);
        } else {
            let start = frame.len() + 2;
            frame.extend([0x08, 0x00, 0x45, self.service]);
            frame.extend((20 + transport as u16).to_be_bytes());
            frame.extend(self.identification.to_be_bytes());
            frame.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.hops, 6, 0, 0]);
            frame.extend([10, 0, 0, self.flow, 10, 0, 0, 100]);
            let sum = finish_checksum(&frame[..], start as u16, 10);
            frame[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let start = frame.len();
        frame.extend([0x10, self.flow, 0, 80]);
        frame.extend(self.sequence.to_be_bytes());
        frame.extend(self.acknowledgment.to_be_bytes());
        frame.extend([(5 + self.options.len() as u8 / 4) << 4, self.flags]);
        frame.extend(self.window.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(&self.options);
        frame.extend(&self.payload);
        let headers = Headers::parse(&frame).expect("headers");
        let pseudo = segment::pseudo_header(&frame, &headers);
        frame[start + 16..start + 18].copy_from_slice(&pseudo.to_be_bytes());
        let mut header = NetHdr::partial_checksum(start as u16, 16);
        if !self.partial {
            let sum = finish_checksum(&frame[..], start as u16, 16);
            frame[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
            header = NetHdr::default();
        }
        if self.wrong {
            frame[start + 17] ^= 1;
        }
        frame.resize(frame.len() + self.padding, 0);
        [&header.to_bytes()[..], &frame].concat()
    }
}

/// A frame without virtio header, its checksum finished, and with a number of IPv4's that means nothing taken out.
fn plain(frame: &[u8]) -> Vec<u8> {
    let header = NetHdr::parse(frame.first_chunk().expect("a header"));
    let mut frame = frame[NetHdr::LEN..].to_vec();
    if header.needs_csum() && !header.is_gso() {
        let end = Headers::parse(&frame).map_or(frame.len(), |headers| headers.packet_end(&frame));
        let sum = finish_checksum(&frame[..end], header.csum_start, header.csum_offset);
        let at = usize::from(header.csum_start + header.csum_offset);
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    if let Some(headers) = Headers::parse(&frame)
        && headers.network == Network::V4
        && frame[headers.network_start + 6] & 0x40 != 0
    {
        let at = headers.network_start;
        frame[at + 4..at + 6].fill(0);
        frame[at + 10..at + 12].fill(0);
    }
    frame
}

/// What a guest that takes everything makes of what it was given: the frames that came, by flow.
fn cut(frames: &[Vec<u8>], features: Features) -> BTreeMap<Option<Vec<u8>>, Vec<Vec<u8>>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    for frame in frames {
        let header = NetHdr::parse(frame.first_chunk().expect("a header"));
        let mut bytes = frame[NetHdr::LEN..].to_vec();
        assert_eq!(
            header.flags & NetHdr::RSC_INFO != 0,
            features.contains(Features::RSC_EXT) && (header.is_gso() || header.csum_offset > 0 && !header.needs_csum())
        );
        let key = flow_of(&bytes);
        let flow = flows.entry(key).or_default();
        if !header.is_gso() {
            let copies = if header.flags & NetHdr::RSC_INFO != 0 { 1 + header.csum_offset } else { 1 };
            (0..copies).for_each(|_| flow.push(plain(frame)));
            continue;
        }
        let needed = match header.gso_type & !NetHdr::GSO_ECN {
            NetHdr::GSO_TCPV4 => Features::GUEST_TSO4,
            NetHdr::GSO_TCPV6 => Features::GUEST_TSO6,
            other => panic!("{other:#x}"),
        };
        assert!(features.contains(needed) && header.needs_csum() && bytes.len() <= ringlet_driver::wire::MAX_GSO_FRAME);
        let headers = Headers::parse(&bytes).expect("headers");
        let ecn = header.gso_type & NetHdr::GSO_ECN != 0;
        assert_eq!(ecn, headers.has_cwr(&bytes), "who cuts it has to know that CWR is the first one's alone");
        assert!(!ecn || features.contains(Features::GUEST_ECN));
        assert_eq!(usize::from(header.hdr_len), headers.length);
        // As the driver reads it.
        let length = bytes.len();
        let usual = match header.flags & NetHdr::RSC_INFO != 0 {
            true => {
                let coalesced = offload::coalesced(&header, &mut bytes, length).expect("sound");
                assert_eq!((coalesced.segments, coalesced.duplicate_acks), (header.csum_start, 0));
                coalesced.header
            }
            false => header,
        };
        offload::check(&usual, &bytes, length).expect("sound");
        let mut segmenter = Segmenter::new(&usual, &bytes, &bytes[..], Finish::Complete).expect("to be cut");
        let count = segmenter.count();
        assert!(count > 1 && (header.flags & NetHdr::RSC_INFO == 0 || usize::from(header.csum_start) == count));
        while let Some(length) = segmenter.next_len() {
            let mut into = vec![0; length];
            segmenter.write_next(&bytes[..], &mut into[..]).expect("a segment");
            flow.push(plain(&[&NetHdr::default().to_bytes()[..], &into].concat()));
        }
    }
    flows
}

fn flow_of(frame: &[u8]) -> Option<Vec<u8>> {
    let headers = Headers::parse(frame)?;
    let at = headers.transport_start;
    let addresses = if headers.network == Network::V4 { at - 8 } else { at - 32 };
    Some(frame[addresses..at + 4].to_vec())
}

/// A stream of segments in which something is unusual now and then.
fn stream() -> impl Strategy<Value = Vec<Piece>> {
    let change = prop_oneof![
        20 => Just(None),
        1 => (0_u8..18).prop_map(Some),
    ];
    let step = (0_u8..3, prop_oneof![6 => Just(100_usize), 1 => 0_usize..120], change, any::<u8>());
    let shape = (any::<[bool; 3]>(), any::<[bool; 3]>(), any::<bool>(), prop::bool::weighted(0.2));
    (shape, prop::collection::vec(step, 1..120)).prop_map(|((v6, fixed, partial, vlan), steps)| {
        let mut flows: Vec<_> = (0..3_u8)
            .map(|flow| Piece { flow, v6: v6[usize::from(flow)], partial, vlan, ..Piece::default() })
            .collect();
        let mut out = Vec::new();
        for (flow, length, change, value) in steps {
            let state = &mut flows[usize::from(flow)];
            if state.options.is_empty() && change != Some(14) {
                state.options = Piece::default().options;
            }
            let mut piece = state.clone();
            piece.payload = (0..length).map(|at| value.wrapping_add(at as u8)).collect();
            match change {
                None => {}
                Some(0) => piece.flags |= 0x08,
                Some(1) => piece.flags |= 0x80,
                Some(2) => state.flags ^= 0x40,
                Some(3) => piece.flags |= [0x01, 0x02, 0x04, 0x20][usize::from(value % 4)],
                Some(4) => piece.wrong = true,
                Some(5) => state.window += 1,
                Some(6) => state.acknowledgment += 1,
                Some(7) => state.options[7] = value,
                Some(8) => state.hops -= 1,
                Some(9) => state.service = value,
                Some(10) => state.sequence = state.sequence.wrapping_add(u32::from(value)),
                Some(11) => state.identification = state.identification.wrapping_add(u16::from(value)),
                Some(12) => state.partial = !state.partial,
                Some(13) => piece.padding = usize::from(value % 8),
                Some(14) => state.options.clear(),
                Some(15) => state.dont_fragment = !state.dont_fragment,
                Some(16) => piece.vlan = !piece.vlan,
                Some(_) => piece.payload.resize(1400, value),
            }
            state.sequence = state.sequence.wrapping_add(piece.payload.len() as u32);
            if !(fixed[usize::from(flow)] && state.dont_fragment) {
                state.identification = state.identification.wrapping_add(1);
            }
            out.push(piece);
        }
        out
    })
}

proptest! {
    #[test]
    fn what_was_put_together_and_is_cut_again_is_what_came(
        pieces in stream(),
        features in (0_u32..16).prop_map(|chosen| {
            let bits = [Features::GUEST_TSO4, Features::GUEST_TSO6, Features::GUEST_ECN, Features::RSC_EXT];
            (0..4).filter(|bit| chosen >> bit & 1 == 1).fold(Features::GUEST_CSUM, |all, bit| all | bits[bit])
        }),
        room in prop_oneof![Just(70_000_usize), Just(1600)],
    ) {
        let frames: Vec<_> = pieces.iter().map(Piece::frame).collect();
        let (out, merged) = coalesce(&frames, features, room);
        prop_assert_eq!(cut(&out, features), cut_nothing(&frames));
        let lost = merged.segments - merged.frames + merged.acknowledgments;
        prop_assert_eq!(frames.len() as u64, out.len() as u64 + lost);
        if !features.intersects(Features::GUEST_TSO4 | Features::GUEST_TSO6) {
            prop_assert_eq!(&out, &frames);
        }
    }

    #[test]
    fn anything_passes(
        noise in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..150), 0..20),
        pieces in stream(),
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..80, any::<u8>()), 0..20),
    ) {
        let mut frames: Vec<_> = pieces.iter().map(Piece::frame).chain(noise).collect();
        let count = frames.len();
        for (which, at, value) in spoilt {
            let frame = &mut frames[which.index(count)];
            if let Some(byte) = frame.get_mut(at) { *byte = value; }
        }
        let bytes: usize = frames.iter().map(Vec::len).sum();
        let (out, _) = coalesce(&frames, ALL, 70_000);
        prop_assert!(out.len() <= count && out.iter().map(Vec::len).sum::<usize>() <= bytes);
    }
}

/// The frames by flow, as they came.
fn cut_nothing(frames: &[Vec<u8>]) -> BTreeMap<Option<Vec<u8>>, Vec<Vec<u8>>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    for frame in frames {
        flows.entry(flow_of(&frame[NetHdr::LEN..])).or_default().push(plain(frame));
    }
    flows
}

/// `count` segments of `size` bytes that follow each other.
fn run(count: usize, size: usize, base: &Piece) -> Vec<Piece> {
    let piece = |nth: usize| Piece {
        sequence: base.sequence.wrapping_add((nth * size) as u32),
        identification: base.identification.wrapping_add(nth as u16),
        payload: vec![nth as u8; size],
        ..base.clone()
    };
    (0..count).map(piece).collect()
}

fn frames(pieces: &[Piece]) -> Vec<Vec<u8>> {
    pieces.iter().map(Piece::frame).collect()
}

#[test]
fn a_burst_becomes_frames_of_64_kib() {
    for v6 in [false, true] {
        let base = Piece { v6, sequence: u32::MAX - 70_000, identification: u16::MAX - 20, ..Piece::default() };
        let all = frames(&run(100, 1448, &base));
        let (out, merged) = coalesce(&all, TCP, 1600);
        let most = (65_535 - if v6 { 72 } else { 52 }) / 1448;
        let header = NetHdr::parse(out[0].first_chunk().expect("a header"));
        let kind = if v6 { NetHdr::GSO_TCPV6 } else { NetHdr::GSO_TCPV4 };
        assert_eq!((header.gso_type, header.gso_size, header.flags), (kind, 1448, NetHdr::NEEDS_CSUM));
        assert_eq!(out[0].len() - NetHdr::LEN, usize::from(header.hdr_len) + most * 1448);
        assert_eq!((out.len(), merged.segments, merged.frames), (100_usize.div_ceil(most), 100, 3));
        assert_eq!(cut(&out, TCP), cut_nothing(&all));
        let (out, _) = coalesce(&all, ALL, 70_000);
        let header = NetHdr::parse(out[0].first_chunk().expect("a header"));
        assert_eq!(header.flags, NetHdr::NEEDS_CSUM | NetHdr::RSC_INFO);
        assert_eq!((usize::from(header.csum_start), header.csum_offset), (most, 0));
    }
}

#[test]
fn what_ends_a_frame() {
    let merged = |change: &dyn Fn(&mut Vec<Piece>), features| {
        let mut pieces = run(4, 100, &Piece::default());
        change(&mut pieces);
        let (out, merged) = coalesce(&frames(&pieces), features, 70_000);
        assert_eq!(cut(&out, features), cut_nothing(&frames(&pieces)));
        (out.len(), merged.segments)
    };
    assert_eq!(merged(&|_| {}, TCP), (1, 4));
    assert_eq!(merged(&|pieces| pieces[1].flags = 0x18, TCP), (2, 4), "PSH is the last");
    assert_eq!(merged(&|pieces| pieces[0].flags = 0x18, TCP), (2, 3), "and alone when it is first");
    assert_eq!(merged(&|pieces| pieces[1].flags = 0x11, TCP), (3, 2), "FIN goes alone");
    assert_eq!(merged(&|pieces| pieces[1].flags = 0x50, TCP), (3, 2), "ECE of one, not of its neighbours");
    assert_eq!(merged(&|pieces| pieces[0].flags = 0x90, TCP), (2, 3), "no CWR without GUEST_ECN");
    assert_eq!(merged(&|pieces| pieces[0].flags = 0x90, ALL), (1, 4), "CWR is first");
    assert_eq!(merged(&|pieces| pieces[2].flags = 0x90, ALL), (2, 4), "so that it begins another one");
    assert_eq!(merged(&|pieces| pieces[1].window = 501, TCP), (3, 2));
    assert_eq!(merged(&|pieces| pieces[1].hops = 63, TCP), (3, 2));
    assert_eq!(merged(&|pieces| pieces[1].service = 1, TCP), (3, 2));
    assert_eq!(merged(&|pieces| pieces[1].options[7] = 9, TCP), (3, 2), "another time stamp");
    assert_eq!(merged(&|pieces| pieces[1].wrong = true, TCP), (3, 2), "a wrong checksum");
    assert_eq!(merged(&|pieces| pieces[1].partial = true, TCP), (1, 4), "one that is to be finished will be right");
    assert_eq!(merged(&|pieces| pieces[1].identification = 99, TCP), (3, 2));
    assert_eq!(merged(&|pieces| pieces.iter_mut().for_each(|piece| piece.identification = 0), TCP), (1, 4));
    let fragmentable = |pieces: &mut Vec<Piece>| {
        pieces.iter_mut().for_each(|piece| (piece.identification, piece.dont_fragment) = (0, false));
    };
    assert_eq!(merged(&fragmentable, TCP), (4, 0), "a number that matters cannot be made again");
    assert_eq!(merged(&|pieces| drop(pieces.remove(1)), TCP), (2, 2), "a gap");
    assert_eq!(merged(&|pieces| pieces.swap(0, 1), TCP), (3, 2), "out of order");
    assert_eq!(merged(&|pieces| pieces[3].payload.truncate(9), TCP), (1, 4), "a shorter one is the last");
    assert_eq!(merged(&|pieces| pieces[3].payload.push(9), TCP), (2, 3), "a longer one begins another frame");
    assert_eq!(merged(&|_| {}, Features::GUEST_CSUM | Features::GUEST_TSO6), (4, 0));
    assert_eq!(merged(&|_| {}, TCP - Features::GUEST_CSUM), (4, 0));
}

#[test]
fn repeated_acknowledgments_are_counted_if_the_guest_counts() {
    for (padding, partial, v6) in
        [(0, false, false), (6, false, false), (0, true, false), (0, false, true), (0, true, true)]
    {
        let pieces: Vec<_> = (0..5)
            .map(|nth| Piece { identification: 50 + nth, padding, partial, v6, ..Piece::default() })
            .chain([Piece { window: 9, padding, partial, v6, ..Piece::default() }])
            .collect();
        let all = frames(&pieces);
        let (out, merged) = coalesce(&all, TCP, 70_000);
        assert_eq!((out, merged), (all.clone(), Merged::default()));
        let (out, merged) = coalesce(&all, ALL, 70_000);
        assert_eq!((out.len(), merged.acknowledgments), (2, 4), "{padding} {partial}");
        let header = NetHdr::parse(out[0].first_chunk().expect("a header"));
        let expected = NetHdr { flags: 6, csum_start: 1, csum_offset: 4, ..NetHdr::default() };
        assert_eq!(header, expected);
        assert_eq!(out[1], all[5], "another window is news");
        assert_eq!(cut(&out, ALL), cut_nothing(&all));
    }
    // Selective acknowledgments differ from each other, and are news too.
    let sack = |nth: u8| Piece { options: vec![1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, nth], ..Piece::default() };
    let all: Vec<_> = (0..4).map(|nth| sack(nth).frame()).collect();
    assert_eq!(coalesce(&all, ALL, 70_000).0, all);
}

#[test]
fn super_frames_of_the_network_are_counted_too() {
    let piece = Piece { payload: vec![5; 5000], ..Piece::default() };
    let partial = Piece { partial: true, ..piece };
    let mut frame = partial.frame();
    let header =
        NetHdr { gso_type: NetHdr::GSO_TCPV4, gso_size: 1000, hdr_len: 66, ..NetHdr::partial_checksum(34, 16) };
    frame[..NetHdr::LEN].copy_from_slice(&header.to_bytes());
    let small = run(2, 100, &Piece { sequence: 6000, identification: 12, ..Piece::default() });
    let all: Vec<_> = [frame.clone()].into_iter().chain(frames(&small)).chain([frame.clone()]).collect();
    let (out, _) = coalesce(&all, TCP, 70_000);
    assert_eq!((out.len(), &out[0], &out[2]), (3, &frame, &frame), "in order, untouched");
    let (out, _) = coalesce(&all, ALL, 70_000);
    for (at, segments) in [(0, 5), (1, 2), (2, 5)] {
        let header = NetHdr::parse(out[at].first_chunk().expect("a header"));
        assert_eq!((header.flags, header.csum_start, header.csum_offset), (5, segments, 0), "{at}");
    }
}

#[test]
fn super_frames_of_udp_are_counted_without_tso() {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0, 0x0b, 0xd4, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0; 8]);
    frame.extend([7; 3000]);
    for (gso_type, gso_size, segments) in [(NetHdr::GSO_UDP_L4, 1000, 3), (NetHdr::GSO_UDP, 1000, 4)] {
        let header = NetHdr { gso_type, gso_size, hdr_len: 42, ..NetHdr::partial_checksum(34, 6) };
        let bytes = [&header.to_bytes()[..], &frame].concat();
        let features = Features::GUEST_CSUM | Features::GUEST_USO4 | Features::GUEST_UFO;
        assert_eq!(coalesce(std::slice::from_ref(&bytes), features, 70_000).0, std::slice::from_ref(&bytes));
        let (out, _) = coalesce(std::slice::from_ref(&bytes), features | Features::RSC_EXT, 70_000);
        let found = NetHdr::parse(out[0].first_chunk().expect("a header"));
        let flags = NetHdr::NEEDS_CSUM | NetHdr::RSC_INFO;
        assert_eq!(found, NetHdr { flags, csum_start: segments, csum_offset: 0, ..header });
        assert_eq!(out[0][NetHdr::LEN..], frame);
    }
}

#[test]
fn nothing_waits_longer_than_a_burst() {
    let mut network = Coalesce::new(Queue::default(), true);
    network.negotiated(TCP).expect("negotiated");
    // One segment of a flow, and then so many frames of others that the network never falls silent.
    network.inner.frames.push_back(run(1, 100, &Piece::default())[0].frame());
    let mut arp = vec![0; NetHdr::LEN + 60];
    arp[NetHdr::LEN + 12..NetHdr::LEN + 14].copy_from_slice(&[8, 6]);
    let mut room = vec![0; 2000];
    for nth in 0..=PATIENCE {
        network.inner.frames.push_back(arp.clone());
        let Received::Frame(length) = with(&mut room, |room| network.receive(room)).expect("alive") else { panic!() };
        if length != arp.len() {
            assert!(nth <= PATIENCE);
            return;
        }
        assert!(network.turn(Instant::now()).is_some(), "the device must not sleep");
    }
    panic!("the segment was never given to the guest");
}

#[test]
fn a_driver_is_given_nothing_that_its_predecessor_ordered() {
    let mut network = Coalesce::new(Queue::default(), true);
    network.negotiated(TCP).expect("negotiated");
    network.inner.frames.extend(frames(&run(3, 100, &Piece::default())));
    assert!(matches!(with(&mut [0; 300], |room| network.receive(room)).expect("alive"), Received::TooSmall(378)));
    network.negotiated(Features::empty()).expect("negotiated");
    assert_eq!(with(&mut [0; 2000], |room| network.receive(room)).expect("alive"), Received::Empty);
    assert_eq!(network.inner.negotiated, Features::empty());
}

#[test]
fn what_does_not_fit_is_thrown_away_and_nothing_else() {
    let receive = |network: &mut Coalesce<Queue>, room: usize| {
        let mut bytes = vec![0; room];
        let received = with(&mut bytes, |room| network.receive(room)).expect("alive");
        bytes.truncate(if let Received::Frame(length) = received { length } else { 0 });
        (received, bytes)
    };
    // Three segments, put together, then two of another connection: what is too large is the first of the two frames.
    let mut network = Coalesce::new(Queue::default(), true);
    network.negotiated(TCP).expect("negotiated");
    let other = Piece { flow: 9, ..Piece::default() };
    network.inner.frames.extend(frames(&run(3, 100, &Piece::default())));
    network.inner.frames.extend(frames(&run(2, 100, &other)));
    assert_eq!(receive(&mut network, 300).0, Received::TooSmall(378));
    network.discard();
    let (received, bytes) = receive(&mut network, 300);
    assert_eq!(received, Received::Frame(278));
    assert_eq!(bytes[46..48], [0x10, 9]);
    assert_eq!(receive(&mut network, 300).0, Received::Empty);
    // A segment that is too large by itself, while others are in hand: they come, and it does not.
    network.inner.frames.extend(frames(&run(2, 100, &Piece::default())));
    network.inner.frames.extend(frames(&run(1, 1000, &other)));
    assert_eq!(receive(&mut network, 300).0, Received::TooSmall(1078));
    network.discard();
    assert_eq!(receive(&mut network, 300).0, Received::Frame(278));
    assert_eq!(receive(&mut network, 300).0, Received::Empty);
}

#[test]
fn switched_off_it_is_not_there() {
    let offloads = Features::CSUM | Features::GUEST_CSUM | Features::GUEST_TSO4;
    let inner = || Queue { offloads, frames: frames(&run(3, 100, &Piece::default())).into(), ..Queue::default() };
    assert_eq!(Coalesce::new(inner(), true).offloads(), offloads | ALL);
    let mut network = Coalesce::new(inner(), false);
    assert_eq!(network.offloads(), offloads);
    network.negotiated(ALL).expect("negotiated");
    for frame in frames(&run(3, 100, &Piece::default())) {
        let mut room = vec![0; 2000];
        assert_eq!(with(&mut room, |room| network.receive(room)).expect("alive"), Received::Frame(frame.len()));
        assert_eq!(room[..frame.len()], frame);
    }
}
