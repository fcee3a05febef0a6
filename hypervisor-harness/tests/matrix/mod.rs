//! The feature matrix: what of it there is, what each run moves, and what must be seen in it.

mod bench;
mod cases;
mod frames;
mod table;

use std::net::{IpAddr, SocketAddr};

use ringlet::virtio;
use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;

pub use self::bench::{Guest, Setup, offer};
use self::bench::{MTU, mac, v6};
pub use self::cases::{Case, Kind, cases};
use self::frames::{CWR, DATA, Form, Packet, SYN, Sent};
pub use self::table::table;

/// How the guest reaches its device: in the table, and in the device's options.
pub const TRANSPORTS: [(&str, virtio::Transport); 2] =
    [("MMIO", virtio::Transport::Mmio), ("PCI", virtio::Transport::Pci)];

/// One service that is balanced by NAT, one by direct routing, for each protocol and version of IP.
const RULES: &str = "-A -t 10.0.0.100:80 -s rr\n-a -t 10.0.0.100:80 -r 10.0.0.11:8080 -m\n\
                     -A -u 10.0.0.100:53 -s rr\n-a -u 10.0.0.100:53 -r 10.0.0.11:5353 -m\n\
                     -A -t [fd00::100]:80 -s rr\n-a -t [fd00::100]:80 -r [fd00::b]:8080 -m\n\
                     -A -u [fd00::100]:53 -s rr\n-a -u [fd00::100]:53 -r [fd00::b]:5353 -m\n\
                     -A -t 10.0.0.101:80 -s rr\n-a -t 10.0.0.101:80 -r 10.0.0.12:80 -g\n\
                     -A -u 10.0.0.101:53 -s rr\n-a -u 10.0.0.101:53 -r 10.0.0.12:53 -g\n";

/// What was seen of a run besides that everything was right.
#[derive(Debug, Default)]
pub struct Seen {
    pub features: Features,
    /// Forms in which the guest was given frames.
    given: Vec<Form>,
    /// Segmentation types of frames that went in, and of those that came out.
    given_types: Vec<(u8, bool)>,
    sent_types: Vec<u8>,
    /// Flags of frames that came out.
    sent_flags: u8,
    /// The longest frame that went in.
    longest: usize,
    /// Whether the guest's Ethernet address is the device's.
    own_mac: bool,
    /// Whether a packet longer than 1500 bytes came through.
    jumbo: bool,
    /// Frames looked at to the last byte.
    pub frames: usize,
    counters: virtio::Counters,
}

/// The five-tuples that frames go along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// From the client, by NAT to a server.
    Nat,
    /// From the server back to the client.
    Back,
    /// From the client, by direct routing to a server.
    Direct,
}

/// A packet before and after the balancer.
fn along(path: Path, over_v6: bool, tcp: bool, guest: [u8; 6], nth: u16) -> (Packet, Packet) {
    let pair = |v4: [u8; 4], last: u16| if over_v6 { IpAddr::V6(v6(last)) } else { IpAddr::from(v4) };
    let (service_port, server_port) = if tcp { (80, 8080) } else { (53, 5353) };
    let client: SocketAddr = match over_v6 {
        false => ([10, 9, 0, 5], 4000).into(),
        true => ("fd09::5".parse::<IpAddr>().unwrap(), 4000).into(),
    };
    let service = SocketAddr::new(pair([10, 0, 0, 100], 0x100), service_port);
    let server = SocketAddr::new(pair([10, 0, 0, 11], 0xb), server_port);
    let direct = SocketAddr::new(IpAddr::from([10, 0, 0, 101]), service_port);
    let transport = match tcp {
        // Never in sequence, so that nobody takes two for one.
        true => {
            let sequence = 0xffff_f000_u32.wrapping_add(u32::from(nth) << 18);
            frames::Transport::Tcp { sequence, flags: DATA, options: 0 }
        }
        false => frames::Transport::Udp { checksum: true },
    };
    let (from, to, from_mac) = match path {
        Path::Nat => (client, service, mac(1)),
        Path::Back => (server, client, mac(11)),
        Path::Direct => (client, direct, mac(1)),
    };
    let before = Packet {
        from_mac,
        to_mac: guest,
        from,
        to,
        hops: 64,
        identification: 0xfff0_u16.wrapping_add(nth.wrapping_mul(64)),
        dont_fragment: true,
        options: false,
        transport,
        payload: Vec::new(),
    };
    let (from, to, to_mac) = match path {
        Path::Nat => (client, server, mac(11)),
        Path::Back => (service, client, mac(1)),
        Path::Direct => (client, direct, mac(12)),
    };
    let after = Packet { from_mac: guest, to_mac, from, to, hops: 63, ..before.clone() };
    (before, after)
}

/// How much lies in one buffer of the guest's, at least.
const BUFFER: usize = 2048;

/// Payload that no two packets share.
fn payload(length: usize, nth: u16) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 251 + usize::from(nth) * 13) as u8).collect()
}

/// One packet that goes in, in some form.
struct Shot {
    form: Form,
    before: Packet,
    after: Packet,
}

/// Makes shots one after another.
struct Shots {
    guest: [u8; 6],
    nth: u16,
    list: Vec<Shot>,
}

impl Shots {
    /// Adds a packet, changed by `change` in the same way on both sides.
    fn add(
        &mut self,
        form: Form,
        path: Path,
        (over_v6, tcp): (bool, bool),
        length: usize,
        change: impl Fn(&mut Packet),
    ) {
        self.nth += 1;
        let (mut before, mut after) = along(path, over_v6, tcp, self.guest, self.nth);
        for packet in [&mut before, &mut after] {
            packet.payload = payload(length, self.nth);
            change(packet);
        }
        self.list.push(Shot { form, before, after });
    }
}

fn flags(bits: u8) -> impl Fn(&mut Packet) {
    move |packet| {
        if let frames::Transport::Tcp { flags, .. } = &mut packet.transport {
            *flags = bits;
        }
    }
}

/// What opens the connections: the first frame of each waits for a neighbour.
fn opening(shots: &mut Shots) {
    for over_v6 in [false, true] {
        shots.add(Form::Whole, Path::Nat, (over_v6, true), 0, flags(SYN));
        shots.add(Form::Whole, Path::Nat, (over_v6, false), 1, |_| ());
    }
    shots.add(Form::Whole, Path::Direct, (false, true), 0, flags(SYN));
    shots.add(Form::Whole, Path::Direct, (false, false), 1, |_| ());
}

/// Small frames, of every length that makes a difference, in every form that is not a super-frame.
fn ordinary(shots: &mut Shots) {
    for form in [Form::Whole, Form::Verified, Form::Partial] {
        for (over_v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            let most = 1500 - if over_v6 { 40 } else { 20 } - if tcp { 20 } else { 8 };
            for (length, path) in [
                (0, Path::Nat),
                (1, Path::Back),
                (18, Path::Nat),
                (19, Path::Back),
                (501, Path::Nat),
                (most - 1, Path::Back),
                (most, Path::Nat),
            ] {
                shots.add(form, path, (over_v6, tcp), length, |_| ());
            }
        }
        for tcp in [false, true] {
            shots.add(form, Path::Direct, (false, tcp), 333, |_| ());
            shots.add(form, Path::Nat, (false, tcp), 77, |packet| packet.options = true);
        }
        shots.add(form, Path::Nat, (true, true), 100, |packet| {
            if let frames::Transport::Tcp { options, .. } = &mut packet.transport {
                *options = 3;
            }
        });
    }
    shots.add(Form::Whole, Path::Nat, (false, false), 99, |packet| {
        packet.transport = frames::Transport::Udp { checksum: false }
    });
}

/// Super-frames of each kind: barely one, of odd length, and as long as they can be. And what stands for several frames.
fn super_frames(shots: &mut Shots) {
    for (over_v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        for (size, length, path) in [(1400, 1401, Path::Nat), (1399, 20_011, Path::Back), (1300, 64_999, Path::Nat)] {
            shots.add(Form::Super(size), path, (over_v6, tcp), length, |_| ());
        }
        shots.add(Form::Super(700), Path::Nat, (over_v6, tcp), 9_001, |packet| {
            packet.options = !packet.is_v6();
            if let frames::Transport::Tcp { options, flags, .. } = &mut packet.transport {
                // FIN and PSH, which the last segment has.
                (*options, *flags) = (3, 0x19);
            }
        });
    }
    for over_v6 in [false, true] {
        shots.add(Form::Super(1400), Path::Nat, (over_v6, true), 10_001, flags(DATA | CWR));
        // Fragments that fill the MTU: IPv6's have a header more.
        let size = if over_v6 { 1448 } else { 1480 };
        for (length, path) in [(1481, Path::Nat), (20_011, Path::Back), (64_999, Path::Nat)] {
            shots.add(Form::Datagram(size), path, (over_v6, false), length, |_| ());
        }
        shots.add(Form::Datagram(800), Path::Nat, (over_v6, false), 5_000, |packet| {
            (packet.dont_fragment, packet.options) = (false, !packet.is_v6());
        });
    }
    shots.add(Form::Super(1400), Path::Direct, (false, true), 30_001, |_| ());
    for over_v6 in [false, true] {
        shots.add(Form::Repeated(2), Path::Back, (over_v6, true), 0, flags(0x10));
    }
}

/// Boots a guest, moves all kinds of frames through it that were agreed on, and compares what comes out.
pub fn run(case: &Case) -> Seen {
    let guest = Guest::boot(&case.setup, RULES);
    let features = case.expected;
    assert_eq!(guest.offered(), case.offered, "{case}: what the device offers");
    assert_eq!((guest.agreed, guest.negotiated()), (features, [features; 2]), "{case}: what was agreed on");
    assert_eq!(guest.queue_size, u64::from(case.size), "{case}: the size of the queues");
    let own_mac = guest.mac == [0x52, 0x54, 0, 0x12, 0x34, 2];
    assert!(own_mac || guest.mac[0] & 3 == 2, "{case}: {:02x?}", guest.mac);
    let mut seen = Seen { features, own_mac, ..Seen::default() };
    let mut shots = Shots { guest: guest.mac, nth: 0, list: Vec::new() };
    opening(&mut shots);
    ordinary(&mut shots);
    // All of these at once: the order stays.
    let (first, rest): (Vec<Shot>, Vec<Shot>) = fitting(&mut shots, case)
        .into_iter()
        .partition(|shot| matches!(shot.before.payload.len(), 0 | 1) && shot.form == Form::Whole);
    for shot in &first {
        fire(&guest, case, std::slice::from_ref(shot), &mut seen);
    }
    // Never more than a queue holds, of which a frame may be lost.
    let together = usize::from(case.size / 2).clamp(1, 40);
    rest.chunks(together).for_each(|together| fire(&guest, case, together, &mut seen));
    super_frames(&mut shots);
    for shot in fitting(&mut shots, case) {
        fire(&guest, case, &[shot], &mut seen);
    }
    seen.jumbo = jumbo(&guest, case, &mut shots, &mut seen);
    seen.counters = guest.end();
    seen
}

/// The shots in a form that was agreed on and of a size that the queues have room for, there and back.
fn fitting(shots: &mut Shots, case: &Case) -> Vec<Shot> {
    let (list, features) = (std::mem::take(&mut shots.list), case.expected);
    let small = |shot: &Shot| {
        let buffers = (NetHdr::LEN + shot.before.headers() + shot.before.payload.len()).div_ceil(BUFFER);
        let sent = shot.form.expected(&shot.after, features, &[]).len();
        buffers.max(sent) <= usize::from(case.size)
    };
    list.into_iter().filter(|shot| shot.form.may_be_received(&shot.before, features) && small(shot)).collect()
}

/// Gives the guest some frames, and compares what comes out with what must.
fn fire(guest: &Guest, case: &Case, shots: &[Shot], seen: &mut Seen) {
    let features = case.expected;
    let frames: Vec<Sent> = shots.iter().map(|shot| shot.form.received(&shot.before, features)).collect();
    for (shot, (_, frame)) in shots.iter().zip(&frames) {
        seen.given.push(shot.form);
        seen.given_types.push((shot.form.gso_type(&shot.before), shot.before.is_v6()));
        seen.longest = seen.longest.max(frame.len());
    }
    guest.inject(frames);
    for shot in shots {
        let what = || {
            let Packet { from, to, transport, .. } = &shot.before;
            format!("{case}: {:?} {from} to {to}, {transport:?}, {} bytes", shot.form, shot.before.payload.len())
        };
        let count = shot.form.expected(&shot.after, features, &[]).len();
        let came = guest.take(count);
        let first = came.first().map_or(&[][..], |(_, frame)| frame);
        let expected = shot.form.expected(&shot.after, features, first);
        assert_eq!(came.len(), expected.len(), "{}: frames", what());
        for (nth, (came, expected)) in came.iter().zip(&expected).enumerate() {
            assert_eq!(came.0, expected.0, "{}: header of frame {nth}", what());
            let differs = came.1.iter().zip(&expected.1).position(|(a, b)| a != b);
            assert_eq!(
                (came.1.len(), differs),
                (expected.1.len(), None),
                "{}: frame {nth}\n{:02x?}\n{:02x?}",
                what(),
                &came.1[..came.1.len().min(80)],
                &expected.1[..expected.1.len().min(80)]
            );
            seen.sent_types.push(came.0.gso_type);
            seen.sent_flags |= came.0.flags;
            seen.frames += 1;
        }
    }
}

/// A packet longer than what a guest takes for granted goes through if the device has told its MTU. Else its sender is told.
fn jumbo(guest: &Guest, case: &Case, shots: &mut Shots, seen: &mut Seen) -> bool {
    shots.add(Form::Whole, Path::Nat, (false, false), usize::from(MTU) - 28, |_| ());
    let list = std::mem::take(&mut shots.list);
    if case.expected.contains(Features::MTU) {
        fire(guest, case, &list, seen);
        return true;
    }
    let before = guest.icmp_errors();
    // Only as long as the buffers are, which need not hold more than 1500 bytes.
    let shot = Packet { payload: payload(1600, 1), ..list[0].before.clone() };
    guest.inject([(NetHdr::default(), shot.bytes())]);
    guest.wait_for_icmp_error(before);
    false
}

/// What there is to be seen, in words and in a run.
type Evidence = (&'static str, fn(&Seen) -> bool);

/// What shows that a feature does what it is for, in words and in a run in which it was agreed on. Nothing for one that
/// nobody has thought of yet.
pub fn evidence(feature: Features) -> Option<Evidence> {
    fn given(seen: &Seen, gso_type: u8, v6: bool) -> bool {
        seen.given_types.contains(&(gso_type, v6))
    }
    fn either(seen: &Seen, gso_type: u8) -> bool {
        given(seen, gso_type, false) || given(seen, gso_type, true)
    }
    fn sent(seen: &Seen, gso_type: u8) -> bool {
        seen.sent_types.contains(&gso_type)
    }
    fn traffic(seen: &Seen) -> bool {
        seen.frames >= 30
    }
    Some(match feature {
        Features::CSUM => ("frames leave with a partial checksum", |seen| seen.sent_flags & NetHdr::NEEDS_CSUM != 0),
        Features::GUEST_CSUM => ("frames come with a partial checksum, and with one verified", |seen| {
            seen.given.contains(&Form::Partial) && seen.given.contains(&Form::Verified)
        }),
        Features::MTU => ("packets of 2000 bytes pass", |seen| seen.jumbo),
        Features::MAC => ("the guest has the device's address", |seen| seen.own_mac),
        Features::STATUS => ("the guest works with it", traffic),
        Features::GUEST_TSO4 => ("super-frames come", |seen| given(seen, NetHdr::GSO_TCPV4, false)),
        Features::GUEST_TSO6 => ("super-frames come", |seen| given(seen, NetHdr::GSO_TCPV6, true)),
        Features::GUEST_ECN => ("super-frames with CWR come", |seen| {
            given(seen, NetHdr::GSO_TCPV4_ECN, false) || given(seen, NetHdr::GSO_TCPV6_ECN, true)
        }),
        Features::GUEST_UFO => ("datagrams to be fragmented come", |seen| either(seen, NetHdr::GSO_UDP)),
        Features::GUEST_USO4 => ("super-frames come", |seen| given(seen, NetHdr::GSO_UDP_L4, false)),
        Features::GUEST_USO6 => ("super-frames come", |seen| given(seen, NetHdr::GSO_UDP_L4, true)),
        Features::HOST_TSO4 => ("super-frames leave whole", |seen| sent(seen, NetHdr::GSO_TCPV4)),
        Features::HOST_TSO6 => ("super-frames leave whole", |seen| sent(seen, NetHdr::GSO_TCPV6)),
        Features::HOST_ECN => ("super-frames with CWR leave whole", |seen| {
            sent(seen, NetHdr::GSO_TCPV4_ECN) || sent(seen, NetHdr::GSO_TCPV6_ECN)
        }),
        Features::HOST_UFO => ("datagrams to be fragmented leave whole", |seen| sent(seen, NetHdr::GSO_UDP)),
        Features::HOST_USO => ("super-frames leave whole", |seen| sent(seen, NetHdr::GSO_UDP_L4)),
        Features::MRG_RXBUF => ("frames of 64 KiB come in many buffers", |seen| seen.longest > 65_000),
        Features::GUEST_HDRLEN => ("`hdr_len` is exact, though the device's hint is wrong", |seen| {
            sent(seen, NetHdr::GSO_TCPV4) || sent(seen, NetHdr::GSO_TCPV6)
        }),
        Features::RSC_EXT => {
            ("super-frames come with counts, and an ACK that stands for three leaves thrice", |seen| {
                let counted = given(seen, NetHdr::GSO_TCPV4, false) || given(seen, NetHdr::GSO_TCPV6, true);
                counted && seen.given.contains(&Form::Repeated(2))
            })
        }
        Features::RING_RESET => {
            ("everything goes through (that queues are reset is shown by tests of their own)", traffic)
        }
        Features::EVENT_IDX
        | Features::INDIRECT_DESC
        | Features::RING_PACKED
        | Features::IN_ORDER
        | Features::NOTIFICATION_DATA
        | Features::NOTIF_CONFIG_DATA
        | Features::ACCESS_PLATFORM
        | Features::ORDER_PLATFORM => ("everything goes through", traffic),
        _ => return None,
    })
}
