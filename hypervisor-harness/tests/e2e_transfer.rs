//! Much data through the image, both ways, with every offload and with none: not a byte is lost or changed.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::ringlet::Ringlet;
use common::{TRANSPORTS, emulated};
use ringlet::backend::lan::http::{Hash, pattern};

/// Both kinds of rings, as the driver is told to take them, and whether it is the packed one.
const RINGS: [(&str, bool); 2] = [("-ring_packed", false), ("+ring_packed", true)];

const GIB: u64 = 1 << 30;
const VIP: &str = "10.0.0.100:80";

/// Every feature that changes what a frame looks like, switched off.
const PLAIN: &str =
    "-csum,-guest_csum,-host_tso4,-host_tso6,-guest_tso4,-guest_tso6,-mrg_rxbuf,-indirect_desc,-event_idx";

fn connect(ringlet: &Ringlet) -> TcpStream {
    let stream = TcpStream::connect(ringlet.host(VIP)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Reads the answer's head, byte by byte.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
        assert!(head.len() < 4096);
    }
    String::from_utf8(head).unwrap()
}

fn hash_of_pattern(length: u64) -> u64 {
    let (mut hash, mut room) = (Hash::default(), vec![0; 1 << 20]);
    let mut done = 0;
    while done < length {
        let piece = (length - done).min(room.len() as u64) as usize;
        pattern(done, &mut room[..piece]);
        hash.update(&room[..piece]);
        done += piece as u64;
    }
    hash.finish()
}

fn download(ringlet: &Ringlet, length: u64) -> u64 {
    let mut stream = connect(ringlet);
    write!(stream, "GET /bytes/{length} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let head = head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let (mut hash, mut room) = (Hash::default(), vec![0; 1 << 20]);
    loop {
        match stream.read(&mut room).unwrap() {
            0 => break,
            count => hash.update(&room[..count]),
        }
    }
    assert_eq!(hash.length(), length);
    hash.finish()
}

fn upload(ringlet: &Ringlet, length: u64) -> u64 {
    let mut stream = connect(ringlet);
    write!(stream, "PUT /sink HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n").unwrap();
    let mut room = vec![0; 1 << 20];
    let mut done = 0;
    while done < length {
        let piece = (length - done).min(room.len() as u64) as usize;
        pattern(done, &mut room[..piece]);
        stream.write_all(&room[..piece]).unwrap();
        done += piece as u64;
    }
    let head = head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (count, hash) = answer.trim().split_once(' ').unwrap_or_else(|| panic!("not the sink's answer: {answer}"));
    assert_eq!(count, length.to_string());
    u64::from_str_radix(hash, 16).unwrap()
}

fn transfer(flags: &[&str], expect: impl Fn(&str) -> bool) {
    transfer_and(flags, expect, |_| {});
}

/// The same, and then looks at the metrics.
fn transfer_and(flags: &[&str], expect: impl Fn(&str) -> bool, look: impl FnOnce(&str)) {
    let publish = ["--publish", "0:10.0.0.100:80", "--publish", "0:10.0.0.2:9100", "--publish", "0:10.0.0.2:9101"];
    let ringlet = Ringlet::start(&[&publish[..], flags].concat());
    let boot = ringlet.seen.iter().find(|record| record["type"] == "boot").expect("it has booted");
    assert!(expect(&boot["feature_names"].to_string()), "{boot}");
    // QEMU's user networking, by translation, is a hundred times slower.
    let length = if emulated() { GIB / 128 } else { GIB };
    let expected = hash_of_pattern(length);
    for (way, result) in [("to the client", download as fn(&Ringlet, u64) -> u64), ("to the server", upload)] {
        let began = Instant::now();
        assert_eq!(result(&ringlet, length), expected, "{way}, with {flags:?}");
        let seconds = began.elapsed().as_secs_f64();
        println!("{length} bytes {way}: {:.2} Gbit/s, with {flags:?}", 8.0 * length as f64 / seconds / 1e9);
    }
    look(&common::http::get(ringlet.host("10.0.0.2:9100"), "/metrics").expect("metrics"));
    assert_eq!(ringlet.interrupt(), 0);
}

#[test]
fn a_gibibyte_each_way_while_queues_are_reset() {
    needs_kvm!();
    for (transport, features) in [("mmio", "+ring_packed"), ("pci", "+ring_packed"), ("mmio", "-ring_packed,-in_order")]
    {
        let flags = ["--transport", transport, "--features", features, "--append", "reset_queues=5"];
        let agreed = |agreed: &str| {
            agreed.contains("ring_reset") && agreed.contains("ring_packed") == (features == "+ring_packed")
        };
        transfer_and(&flags, agreed, |metrics| {
            let counted = |name: &str| -> u64 {
                let line = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("it is counted");
                line.trim().parse().expect("a number")
            };
            assert!(counted("ringlet_device_queue_resets_total ") > 20, "{flags:?}: {metrics}");
            assert_eq!(counted("ringlet_device_resets_total "), 0, "{flags:?}");
        });
    }
}

#[test]
fn a_gibibyte_each_way_with_every_offload() {
    needs_kvm!();
    for transport in TRANSPORTS {
        for (ring, packed) in RINGS {
            transfer(&["--transport", transport, "--features", ring], |features| {
                let offloads = features.contains("\"csum\"") && features.contains("guest_tso4");
                offloads && features.contains("ring_packed") == packed
            });
        }
    }
}

#[test]
fn a_gibibyte_each_way_with_none() {
    for (transport, (ring, packed)) in TRANSPORTS.into_iter().zip(RINGS) {
        transfer(&["--transport", transport, "--features", &format!("{PLAIN},{ring}")], |features| {
            !features.contains("csum")
                && !features.contains("mrg_rxbuf")
                && (emulated() || features.contains("ring_packed") == packed)
        });
    }
}

#[test]
fn a_gibibyte_each_way_without_the_transmit_offloads() {
    needs_kvm!();
    // What comes in large must be cut and summed by the guest.
    transfer(&["--features", "-csum,-host_tso4,-host_tso6"], |features| {
        !features.contains("host_tso4") && features.contains("guest_tso4")
    });
}
