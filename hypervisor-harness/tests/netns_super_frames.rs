//! Super-frames through the network `tap`, with Linux's own sockets at the other end, in a network namespace of each test's.
//! Needs root.

mod common;

use std::io::Read;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use common::netns::{self, ip};
use etherparse::{PacketBuilder, PacketHeaders, TransportHeader};
use ringlet::backend::tap::Tap;
use ringlet::backend::{Backend, Received, Scatter, Sent};
use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;

const PATIENCE: Duration = Duration::from_secs(60);
const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 2];
const LINUX: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Linux's and the guest's address, of each version of IP.
const ADDRESSES: [[&str; 2]; 2] = [["192.0.2.1", "192.0.2.2"], ["fd01::1", "fd01::2"]];
/// Linux's socket option (include/uapi/linux/udp.h) for a send that is cut into datagrams of so many bytes.
const UDP_SEGMENT: libc::c_int = 103;

/// Shows bytes as a guest's memory.
fn with<T>(bytes: &mut [u8], use_it: impl FnOnce(&mut Scatter<'_>) -> T) -> T {
    let pieces = [libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }];
    // SAFETY: the piece is `bytes`, touched only through the scatter while it lives.
    use_it(&mut unsafe { Scatter::new(&pieces) })
}

/// A tap with Linux behind it, that says nothing of its own.
fn tap() -> Tap {
    let tap = Tap::open("ringlet0").expect("a tap");
    for command in [
        "link set lo up",
        "link set ringlet0 address 02:00:00:00:00:01",
        "address add 192.0.2.1/24 dev ringlet0",
        "address add fd01::1/64 dev ringlet0 nodad",
        "neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev ringlet0",
        "neighbour add fd01::2 lladdr 02:00:00:00:00:02 dev ringlet0",
        "link set ringlet0 up",
    ] {
        ip(command);
    }
    netns::ready("fd01::1".parse().expect("an address"));
    tap
}

/// The next frame to the guest from the port `from`, past what Linux says to all. `None` if nothing waits.
fn next(tap: &mut Tap, from: u16) -> Option<(NetHdr, Vec<u8>)> {
    let mut room = vec![0; 66_000];
    loop {
        let Received::Frame(length) = with(&mut room, |room| tap.receive(room)).expect("alive") else { return None };
        let frame = &room[12..length];
        let headers = PacketHeaders::from_ethernet_slice(frame).expect("a frame");
        let port = match headers.transport {
            Some(TransportHeader::Udp(udp)) => udp.source_port,
            Some(TransportHeader::Tcp(tcp)) => tcp.source_port,
            _ => 0,
        };
        if port == from {
            return Some((NetHdr::parse(room.first_chunk().expect("a header")), frame.to_vec()));
        }
    }
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

fn socket(own: &str) -> UdpSocket {
    let own: IpAddr = own.parse().expect("an address");
    let socket = UdpSocket::bind((own, 0)).expect("bound");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// Has what the socket sends cut into datagrams of `size` bytes.
fn segment(socket: &UdpSocket, size: libc::c_int) {
    let value = (&raw const size).cast();
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option reads one `int`, and `size` is one.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, UDP_SEGMENT, value, length) };
    assert_eq!(answer, 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
}

/// Whether this kernel knows USO at a tap (Linux 6.2). The machines that CI runs on must.
fn kernel_has_uso(tap: &Tap) -> bool {
    let has = tap.offloads().contains(Features::HOST_USO);
    if !has {
        assert!(std::env::var_os("CI").is_none(), "this kernel has no USO at a tap: Linux 6.2 or later is needed");
        eprintln!("skipped: this kernel has no USO at a tap (Linux 6.2 has)");
    }
    has
}

/// Whether the transport checksum of a whole frame is right.
fn checksum_is_right(frame: &[u8]) -> bool {
    let headers = PacketHeaders::from_ethernet_slice(frame).expect("a frame");
    let payload = headers.payload.slice();
    match (headers.net, headers.transport) {
        (Some(etherparse::NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Udp(udp))) => {
            udp.calc_checksum_ipv4(&ip, payload) == Ok(udp.checksum)
        }
        (Some(etherparse::NetHeaders::Ipv6(ip, _)), Some(TransportHeader::Udp(udp))) => {
            udp.calc_checksum_ipv6(&ip, payload) == Ok(udp.checksum)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_linux_cuts_comes_whole_to_a_guest_that_takes_it() {
    netns::inside(|| {
        let mut tap = tap();
        if !kernel_has_uso(&tap) {
            return;
        }
        let all = tap.offloads();
        let uso = Features::GUEST_USO4 | Features::GUEST_USO6;
        for [linux, guest] in ADDRESSES {
            let socket = socket(linux);
            let port = socket.local_addr().expect("bound").port();
            segment(&socket, 1200);
            let sent = payload(30_000);
            let send = || {
                let to: IpAddr = guest.parse().expect("an address");
                assert_eq!(socket.send_to(&sent, (to, 9)).expect("sent"), sent.len());
            };
            tap.negotiated(all).expect("negotiated");
            send();
            let (header, frame) = next(&mut tap, port).expect("a super-frame");
            assert_eq!((header.gso_type, header.gso_size), (NetHdr::GSO_UDP_L4, 1200));
            assert!(header.needs_csum() && frame.ends_with(&sent));
            assert_eq!(next(&mut tap, port), None);
            // One of the two bits alone cannot be had of the kernel, nor can anything without checksums.
            for (features, partial) in [
                (all - uso, true),
                (all - Features::GUEST_USO4, true),
                (all - Features::GUEST_USO6, true),
                (all - Features::GUEST_CSUM, false),
                (Features::empty(), false),
            ] {
                tap.negotiated(features).expect("negotiated");
                send();
                let mut got = Vec::new();
                while let Some((header, frame)) = next(&mut tap, port) {
                    assert_eq!((header.gso_type, header.needs_csum()), (NetHdr::GSO_NONE, partial), "{features:?}");
                    assert!(partial || checksum_is_right(&frame));
                    got.extend_from_slice(PacketHeaders::from_ethernet_slice(&frame).expect("read").payload.slice());
                }
                assert_eq!(got, sent, "{features:?}");
            }
        }
    });
}

/// A super-frame of UDP from the guest, with a partial checksum.
fn from_guest([linux, guest]: [&str; 2], port: u16, gso_type: u8, gso_size: u16, body: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(GUEST, LINUX);
    let mut frame = Vec::new();
    let (own, to): (IpAddr, IpAddr) = (guest.parse().expect("an address"), linux.parse().expect("an address"));
    let start = match (own, to) {
        (IpAddr::V4(own), IpAddr::V4(to)) => {
            builder.ipv4(own.octets(), to.octets(), 64).udp(7777, port).write(&mut frame, body).expect("written");
            34
        }
        (IpAddr::V6(own), IpAddr::V6(to)) => {
            builder.ipv6(own.octets(), to.octets(), 64).udp(7777, port).write(&mut frame, body).expect("written");
            54
        }
        _ => unreachable!("of one version"),
    };
    make_partial(&mut frame, start, 6);
    let header = NetHdr { gso_type, gso_size, hdr_len: start as u16 + 8, ..NetHdr::partial_checksum(start as u16, 6) };
    [&header.to_bytes()[..], &frame].concat()
}

/// Puts the sum of the pseudo-header where the checksum was.
fn make_partial(frame: &mut [u8], start: usize, offset: usize) {
    let (addresses, number) = if start == 34 { (26..34, frame[23]) } else { (22..54, frame[20]) };
    let words = frame[addresses].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum = words.sum::<u32>() + (frame.len() - start) as u32 + u32::from(number);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[start + offset..start + offset + 2].copy_from_slice(&(sum as u16).to_be_bytes());
}

#[test]
fn what_the_guest_has_cut_arrives_in_datagrams_and_what_is_fragmented_in_one() {
    netns::inside(|| {
        let mut tap = tap();
        tap.negotiated(tap.offloads()).expect("negotiated");
        let uso = kernel_has_uso(&tap);
        for addresses in ADDRESSES {
            let socket = socket(addresses[0]);
            let port = socket.local_addr().expect("bound").port();
            let sent = payload(20_100);
            let mut room = vec![0; 65_536];
            if uso {
                let mut frame = from_guest(addresses, port, NetHdr::GSO_UDP_L4, 1000, &sent);
                assert_eq!(with(&mut frame, |frame| tap.send(frame)).expect("alive"), Sent::Done);
                for piece in sent.chunks(1000) {
                    let length = socket.recv(&mut room).expect("a datagram");
                    assert_eq!(&room[..length], piece);
                }
            }
            let mut frame = from_guest(addresses, port, NetHdr::GSO_UDP, 1440, &sent);
            assert_eq!(with(&mut frame, |frame| tap.send(frame)).expect("alive"), Sent::Done);
            let length = socket.recv(&mut room).expect("a datagram");
            assert!(room[..length] == sent);
        }
        assert_eq!(tap.counters().from_guest.dropped, 0);
        assert_eq!(netns::checksum_errors(), 0);
    });
}

/// A TCP segment of the guest's.
#[allow(clippy::too_many_arguments, reason = "the fields of a header")]
fn tcp(port: u16, sequence: u32, acknowledgment: u32, flags: u8, gso_type: u8, gso_size: u16, body: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(GUEST, LINUX).ipv4([192, 0, 2, 2], [192, 0, 2, 1], 64);
    let mut frame = Vec::new();
    builder.tcp(7777, port, sequence, 60_000).ack(acknowledgment).write(&mut frame, body).expect("written");
    frame[34 + 13] = flags;
    make_partial(&mut frame, 34, 16);
    let header = NetHdr { gso_type, gso_size, hdr_len: 54, ..NetHdr::partial_checksum(34, 16) };
    [&header.to_bytes()[..], &frame].concat()
}

#[test]
fn a_connection_with_ecn_sends_super_frames() {
    netns::inside(|| {
        let mut tap = tap();
        tap.negotiated(tap.offloads()).expect("negotiated");
        let listener = TcpListener::bind("192.0.2.1:0").expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let send = |tap: &mut Tap, mut frame: Vec<u8>| {
            assert_eq!(with(&mut frame, |frame| tap.send(frame)).expect("alive"), Sent::Done);
        };
        send(&mut tap, tcp(port, 1000, 0, 0x02, 0, 0, &[]));
        let (_, answer) = next(&mut tap, port).expect("SYN, ACK");
        let theirs = match PacketHeaders::from_ethernet_slice(&answer).expect("a frame").transport {
            Some(TransportHeader::Tcp(tcp)) if tcp.syn && tcp.ack => tcp.sequence_number.wrapping_add(1),
            other => panic!("{other:?}"),
        };
        send(&mut tap, tcp(port, 1001, theirs, 0x10, 0, 0, &[]));
        let (mut stream, _) = listener.accept().expect("accepted");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let sent = payload(20_000);
        let gso_type = NetHdr::GSO_TCPV4 | NetHdr::GSO_ECN;
        send(&mut tap, tcp(port, 1001, theirs, 0x98, gso_type, 1400, &sent));
        let mut got = vec![0; sent.len()];
        stream.read_exact(&mut got).expect("all of it");
        assert!(got == sent);
        assert_eq!(tap.counters().from_guest.dropped, 0);
    });
}
